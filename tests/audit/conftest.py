"""Fixtures of these tests: a query, its folders, and what an audit leaves."""

from __future__ import annotations

from tests.kit.audits import ciphertexts, kept, probe
from tests.kit.evidence import query, world

__all__ = ["ciphertexts", "kept", "probe", "query", "world"]
