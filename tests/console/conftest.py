"""One console for all tests that leave nothing behind."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests.kit.browser import People, Running, chromium, needs_chromium, running
from tests.kit.console import House
from tests.kit.console import house as house_at


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    with house_at(tmp_path_factory.mktemp("console")) as made:
        yield made


@pytest.fixture(scope="module")
def nodes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    needs_chromium()
    with running(tmp_path_factory.mktemp("case")) as made:
        yield made


@pytest.fixture(scope="module")  # while it is open, asyncio.run() fails in this process: not for longer than its tests
def browser() -> Iterator[Any]:
    with chromium() as made:
        yield made


@pytest.fixture(scope="module")
def people(browser: Any, nodes: Running) -> People:
    return People(browser, nodes)
