"""Fixtures of these tests: an empty database, and a store in it."""

from __future__ import annotations

from tests.kit.stores import sqlite_url, store, url

__all__ = ["sqlite_url", "store", "url"]
