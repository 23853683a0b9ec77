"""Rows in shards do what one array does, also while workers die. Ray is played by `FakeCalls`, in this process."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nodes.blocks import BlockFiles
from nodes.cluster.errors import ClusterError, ClusterUnavailable
from nodes.cluster.rows import ClusterRows, Part
from nodes.cluster.shard import Range, Shard, split
from nodes.config.schema import Role, load_config
from nodes.config.storage import storage_key
from nodes.identity.identity import init_node
from pets.params import N4096
from pets.scoring import prepare_probe
from pets.synthetic import synthetic_templates
from pets.templates import quantise
from protocol.steps import Product, ScoreRows
from protocol.work import perform

DIM = 16
ROWS = 3 * N4096.n + 100


class WorkerLost(Exception):
    pass


@dataclass
class FakeCalls:
    """Runs at `get`. `dies` says whether a worker dies at the k-th answer that is waited for."""

    dies: Callable[[int], bool] = lambda _: False
    lost: tuple[type[Exception], ...] = (WorkerLost,)
    asked: Any = field(default_factory=itertools.count)

    def put(self, value: Any) -> Any:
        return value

    def get(self, reference: Callable[[], Any], _: float) -> Any:
        if self.dies(next(self.asked)):
            raise WorkerLost
        return reference()


class FakeActor:
    def __init__(self, make: Callable[[], Shard]) -> None:
        self._shard = make()

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._shard, name)
        return type("Method", (), {"remote": staticmethod(lambda *given: lambda: method(*given))})


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A holder's folder, with its storage key."""
    root = tmp_path_factory.mktemp("cluster")
    address = "https://127.0.0.1:8443"
    init_node(root / "es", name="ES", role=Role.HOLDER, address=address, authority=root / "ca", states=["FR"])
    return root / "es"


@pytest.fixture(scope="module")
def templates() -> Any:
    return quantise(synthetic_templates(ROWS, DIM, seed=5))


@pytest.fixture(scope="module")
def gallery(node: Path, templates: Any) -> Path:
    cipher = storage_key(load_config(node)).blocks
    BlockFiles.create(node / "gallery", cipher, dim=DIM, model=bytes(32)).append(templates)
    return node / "gallery"


def held(node: Path, gallery: Path, shards: int, copies: int = 1, **calls: Any) -> ClusterRows:
    parts = [
        Part(part, tuple(FakeActor(lambda p=part: Shard(str(node), str(gallery), 1, p, 1)) for _ in range(copies)))
        for part in split(ROWS, N4096.n, shards)
    ]
    return ClusterRows(parts, DIM, N4096.n, FakeCalls(**calls), patience=2)


def works(rows: Any, first: int, count: int) -> tuple[list[ScoreRows], list[Product]]:
    rng = np.random.default_rng(3)
    masks = [rng.integers(0, 2**29, (DIM, 2, 2, N4096.n), np.uint32) for _ in range(2)]
    values = [rng.integers(0, N4096.t, DIM, np.int32) for _ in range(3)]
    return (
        [ScoreRows(rows, prepare_probe(mask, N4096), first, count) for mask in masks],
        [Product(rows, one, N4096, first, count) for one in values],
    )


@pytest.mark.parametrize("shards", [1, 2, 3, 9])
@pytest.mark.parametrize("blocks", [(0, 4), (1, 2), (3, 1)])
def test_shards_give_what_one_array_gives(
    node: Path, gallery: Path, templates: Any, shards: int, blocks: tuple[int, int]
) -> None:
    spread = held(node, gallery, shards)
    for here, there in zip(works(templates, *blocks), works(spread, *blocks), strict=True):
        np.testing.assert_array_equal(perform(here, 1), perform(there, 1))


def test_single_rows_are_fetched_in_the_order_asked_for(node: Path, gallery: Path, templates: Any) -> None:
    spread = held(node, gallery, 3)
    wanted = [ROWS - 1, 0, 5000, 4095, 4096]
    np.testing.assert_array_equal(spread[wanted], templates[wanted])
    assert spread[:0].shape == (0, DIM)
    assert (len(spread), spread.shape, spread.dtype) == (ROWS, (ROWS, DIM), np.int8)
    with pytest.raises(IndexError, match=f"row {ROWS} of {ROWS}"):
        spread[[ROWS]]


@pytest.mark.parametrize("copies", [1, 2])
def test_a_worker_that_dies_in_the_middle_costs_time_and_no_answer(
    node: Path, gallery: Path, templates: Any, copies: int
) -> None:
    spread = held(node, gallery, 3, copies, dies=lambda k: k % 3 == 1)
    for here, there in zip(works(templates, 0, 4), works(spread, 0, 4), strict=True):
        np.testing.assert_array_equal(perform(here, 1), perform(there, 1))


def test_a_shard_that_never_answers_is_named(node: Path, gallery: Path) -> None:
    spread = held(node, gallery, 2, dies=lambda _: True)
    with pytest.raises(ClusterUnavailable, match=r"rows 0 to .*: no answer in 2 s"):
        perform(works(spread, 0, 1)[1], 1)


def test_what_is_forgotten_is_zero_in_every_copy(node: Path, gallery: Path) -> None:
    spread = held(node, gallery, 3, copies=2)
    spread.forget([5, ROWS - 1])
    for part in spread.parts:
        for copy in part.copies:
            one = ClusterRows([Part(Range(0, part.range.rows), (copy,))], DIM, N4096.n, FakeCalls())
            if part.range.first == 0:
                assert not one[[5]].any()
                assert one[[4]].any()


def test_a_range_that_the_version_does_not_have_is_refused(node: Path, gallery: Path) -> None:
    with pytest.raises(ClusterError, match=f"rows 0 to {ROWS + 1} of version 1, which has {ROWS}"):
        Shard(str(node), str(gallery), 1, Range(0, ROWS + 1), 1)


@pytest.mark.parametrize(("rows", "shards"), [(1, 1), (4096, 4), (4097, 2), (10 * 4096 + 5, 3), (40960, 7)])
def test_ranges_cover_all_rows_in_whole_blocks(rows: int, shards: int) -> None:
    parts = split(rows, 4096, shards)
    assert len(parts) <= shards
    assert [part.first for part in parts] == [sum(p.rows for p in parts[:k]) for k in range(len(parts))]
    assert sum(part.rows for part in parts) == rows
    assert all(part.first % 4096 == 0 and part.rows for part in parts)
