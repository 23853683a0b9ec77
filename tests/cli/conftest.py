"""Fixtures of these tests: the command line, and a holder's folder."""

from __future__ import annotations

from tests.kit.commands import folder, run

__all__ = ["folder", "run"]
