"""Fixtures of these tests: a query, its folders, and what an audit leaves."""

from __future__ import annotations

from tests.kit.audits import kept, probe, sent
from tests.kit.evidence import query, world

__all__ = ["kept", "probe", "query", "sent", "world"]
