"""With `LINEUP_TEST_PRESET` set, only the files whose tests depend on the ring are collected (see tests/kit/ring.py).

Fixtures that several files share stand in helper modules, beside what they are made of. A file imports those it asks
for, and those that they need in turn, by name: `from tests.kit.stores import store as store`.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.kit.postgres import PostgresServer, find_binaries, why_not

TESTS = Path(__file__).parent


def depends_on_ring(path: Path) -> bool:
    """Whether a file imports `tests.kit.ring`, itself or through other files of these folders."""
    imported = set(re.findall(r"^from tests\.([\w.]+) import", path.read_text(), re.MULTILINE))
    helpers = (TESTS.joinpath(*name.split(".")).with_suffix(".py") for name in imported)
    return "kit.ring" in imported or any(helper.exists() and depends_on_ring(helper) for helper in helpers)


def pytest_ignore_collect(collection_path: Path) -> bool | None:
    """Leave out what would only run again what has run already."""
    if "LINEUP_TEST_PRESET" not in os.environ or collection_path.suffix != ".py":
        return None
    return None if depends_on_ring(collection_path) else True


@pytest.fixture(scope="session")
def postgres() -> Iterator[PostgresServer]:
    """One server for the whole run."""
    reason = why_not()
    if reason:
        pytest.skip(reason)
    binaries = find_binaries()
    assert binaries is not None
    with PostgresServer(binaries) as server:
        yield server
