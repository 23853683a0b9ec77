"""Two desks without a network, for each test anew."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.kit.casework import Offices


@pytest.fixture
def offices(tmp_path: Path) -> Iterator[Offices]:
    made = Offices.found(tmp_path)
    yield made
    made.close()
