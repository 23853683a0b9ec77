"""Fixtures of these tests: logs of a node."""

from __future__ import annotations

from tests.kit.logs import log, no_waiting_for_disks, ten

__all__ = ["log", "no_waiting_for_disks", "ten"]
