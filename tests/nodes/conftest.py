"""Fixtures of these tests: four nodes on disk, and the evidence of a query."""

from __future__ import annotations

import pytest

from tests.kit.evidence import query, world
from tests.kit.federation import Federation, found

__all__ = ["federation", "query", "world"]


@pytest.fixture(scope="module")
def federation(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Federation:
    """Four nodes for a file's tests. What the file calls FEDERATION is passed on to `found`."""
    return found(tmp_path_factory.mktemp("federation"), **getattr(request.module, "FEDERATION", {}))
