"""Fixtures of these tests: a node with a pool in memory, and one with a pool on disk."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.kit.pools import PoolAtNode


@pytest.fixture
def node(tmp_path: Path) -> Iterator[PoolAtNode]:
    made = PoolAtNode(tmp_path)
    yield made
    made.stop()


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[PoolAtNode]:
    made = PoolAtNode(tmp_path, on_disk=True)
    yield made
    made.stop()
