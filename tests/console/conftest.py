"""One console for all tests that leave nothing behind."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.kit.console import House
from tests.kit.console import house as house_at


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    with house_at(tmp_path_factory.mktemp("console")) as made:
        yield made
