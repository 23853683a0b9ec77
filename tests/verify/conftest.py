"""Fixtures of these tests: the evidence of one query, and stories told of it."""

from __future__ import annotations

from tests.kit.evidence import world
from tests.kit.stories import files, joint, story

__all__ = ["files", "joint", "story", "world"]
