"""What every test may ask for, and how a run is divided (CONTRIBUTING.md).

`ring` marks what depends on the ring's dimension: `make test` runs it a second time, on the larger ring
(`tests/kit/ring.py`). `slow` marks what `make test-fast` leaves out. Fixtures of one folder stand in its `conftest.py`.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator
from pathlib import Path

import pytest

from pets.params import Parameters
from tests.kit.command_tree import share_command_tree
from tests.kit.postgres import PostgresServer, find_binaries, why_not
from tests.kit.preloaded import share_preloaded
from tests.kit.ring import RING
from tests.kit.statements import share_compiled_statements

share_compiled_statements()
share_command_tree()


RING_MARK = "pytest.mark.ring"  # as it is written wherever it is given (`tests/project/test_markers.py`)
WAITING = ("cli", "cluster", "console", "nodes")  # folders whose tests often wait: for processes, browsers, silence


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """What has no test for the larger ring is not loaded: else each worker loads all there is for a fifth of it."""
    tested = collection_path.name.startswith("test_") and collection_path.suffix == ".py"
    if tested and config.option.markexpr == "ring" and RING_MARK not in collection_path.read_text():
        return True
    return None  # as pytest decides


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Files that often wait run among those that compute: with a worker more than processors, none is idle.

    For the larger ring a test that is given its ring is not run once more: it had each in the first run.
    """
    if config.option.markexpr == "ring":
        given = [item for item in items if any(isinstance(value, Parameters) for value in values_of(item))]
        config.hook.pytest_deselected(items=given)
        items[:] = [item for item in items if item not in given]
    files: dict[Path, list[pytest.Item]] = {}
    for item in items:
        files.setdefault(item.path, []).append(item)
    place: dict[Path, float] = {}
    for waiting in (True, False):
        alike = [path for path in files if (path.parent.name in WAITING) is waiting]
        place |= {path: number / len(alike) for number, path in enumerate(alike)}
    items[:] = [item for path in sorted(files, key=lambda path: place[path]) for item in files[path]]


def values_of(item: pytest.Item) -> list[object]:
    """What a test's parameters are."""
    return list(item.callspec.params.values()) if hasattr(item, "callspec") else []


def pytest_sessionstart(session: pytest.Session) -> None:
    """Before workers start, compile what a query runs: else each worker would, at the same time. So with loading."""
    if getattr(session.config.option, "numprocesses", None):
        from protocol.engine import warm_up

        warm_up(RING)
        if session.config.option.markexpr != "ring":  # those run no command
            share_preloaded()


@pytest.hookimpl(tryfirst=True)
def pytest_collection(session: pytest.Session) -> None:
    """Importing makes a million objects that stay, and looking for garbage among them takes its time."""
    if not getattr(session.config.option, "numprocesses", None):  # who only has workers collects nothing
        gc.disable()


def pytest_collection_finish() -> None:
    """What stays to the end of the run need not be looked through again and again during it."""
    gc.collect()
    gc.freeze()
    gc.enable()


@pytest.fixture(scope="session")
def postgres() -> Iterator[PostgresServer]:
    """One server for the whole run; with several workers, one for each."""
    reason = why_not()
    if reason:
        pytest.skip(reason)
    binaries = find_binaries()
    assert binaries is not None
    with PostgresServer(binaries) as server:
        yield server
