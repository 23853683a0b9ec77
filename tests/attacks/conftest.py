"""Fixtures of these tests: the evidence of a query."""

from __future__ import annotations

from tests.kit.evidence import query, world

__all__ = ["query", "world"]
