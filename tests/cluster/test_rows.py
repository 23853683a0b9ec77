"""Rows in shards do what one array does, also while workers die. Ray is played by `FakeCalls`, in this process."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nodes.blocks import BlockFiles
from nodes.cluster.errors import ClusterError, ClusterUnavailable
from nodes.cluster.rows import ClusterRows
from nodes.cluster.shard import Range, Shard, split
from nodes.cluster.shards import Shards
from nodes.config.values import ConfigError
from pets.params import N4096
from pets.scoring import prepare_probe
from pets.synthetic import synthetic_templates
from pets.templates import quantise
from protocol.errors import QueryRefused
from protocol.steps import Product, ScoreRows
from protocol.work import perform
from tests.kit.cluster import ADDRESS, FakeCalls, cipher, config, holder

DIM = 16
ROWS = 3 * N4096.n + 100


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return holder(tmp_path_factory.mktemp("cluster"))


@pytest.fixture(scope="module")
def templates() -> Any:
    return quantise(synthetic_templates(ROWS, DIM, seed=5))


@pytest.fixture(scope="module")
def gallery(node: Path, templates: Any) -> Path:
    BlockFiles.create(node / "gallery", cipher(node), dim=DIM, model=bytes(32)).append(templates)
    return node / "gallery"


def opened(node: Path, gallery: Path, calls: FakeCalls, **values: Any) -> Shards:
    shards = Shards(calls, config(**values), node, gallery, 0, DIM, N4096.n, 0)
    shards.reach(ROWS)
    return shards


def held(node: Path, gallery: Path, shards: int, copies: int = 1, **calls: Any) -> ClusterRows:
    return ClusterRows(opened(node, gallery, FakeCalls(**calls), shards=shards, copies=copies), ROWS)


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


@pytest.mark.parametrize("rows", [1, N4096.n, N4096.n + 7, 2 * N4096.n + 1])
def test_an_earlier_version_ends_where_it_ended(node: Path, gallery: Path, templates: Any, rows: int) -> None:
    """Rows that came since would change the last block, which an audit computes again."""
    spread, blocks = ClusterRows(opened(node, gallery, FakeCalls()), rows), -(-rows // N4096.n)
    for here, there in zip(works(templates[:rows], 0, blocks), works(spread, 0, blocks), strict=True):
        np.testing.assert_array_equal(perform(here, 1), perform(there, 1))


def test_single_rows_are_fetched_in_the_order_asked_for(node: Path, gallery: Path, templates: Any) -> None:
    spread = held(node, gallery, 3)
    wanted = [ROWS - 1, 0, 5000, 4095, 4096]
    np.testing.assert_array_equal(spread[wanted], templates[wanted])
    np.testing.assert_array_equal(spread[4000:9000], templates[4000:9000])
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


def test_a_shard_that_never_answers_is_named_and_others_are_made_in_its_place(
    node: Path, gallery: Path, templates: Any
) -> None:
    calls = FakeCalls()
    shards = opened(node, gallery, calls, shards=2, patience_seconds=1)
    spread, made = ClusterRows(shards, ROWS), set(calls.shards)
    calls.deaf = True
    with pytest.raises(ClusterUnavailable, match=r"rows 0 to .*: no answer in time, \d+ tries \(gone\)"):
        perform(works(spread, 0, 1)[1], 1)
    assert not shards.well
    with pytest.raises(QueryRefused, match="the gallery cannot be used") as refused:
        spread[[5]]
    assert refused.value.code == "internal"
    calls.deaf = False
    shards.reach(ROWS)
    assert shards.well
    assert made - set(calls.shards), "what did not answer was ended"
    np.testing.assert_array_equal(spread[:], templates)


def test_a_cluster_that_is_lost_is_named_and_all_is_there_when_it_is_back(
    node: Path, gallery: Path, templates: Any
) -> None:
    calls = FakeCalls()
    shards = opened(node, gallery, calls, patience_seconds=1)
    spread = ClusterRows(shards, ROWS)
    calls.vanish()
    with pytest.raises(ClusterUnavailable, match=f"no cluster at {ADDRESS}"):
        perform(works(spread, 0, 1)[1], 1)
    with pytest.raises(ClusterError, match=f"no cluster at {ADDRESS}"):
        shards.reach(ROWS)
    calls.is_down = False
    for here, there in zip(works(templates, 0, 4), works(spread, 0, 4), strict=True):
        np.testing.assert_array_equal(perform(here, 1), perform(there, 1))


def test_too_few_processors_are_said_at_once(node: Path, gallery: Path) -> None:
    with pytest.raises(ClusterError, match="has 5 processors, and 6 are needed"):
        opened(node, gallery, FakeCalls(hosts={"A": 5}), shards=3, copies=2)
    opened(node, gallery, FakeCalls(hosts={"A": 6}), shards=3, copies=2)  # the control


def test_what_is_forgotten_is_zero_in_every_copy(node: Path, gallery: Path) -> None:
    shards = opened(node, gallery, FakeCalls(), copies=2)
    assert shards.forget(np.array([5, ROWS - 1]))
    for copy in (0, 1):
        spread = ClusterRows(shards, ROWS, copy=copy)
        assert not spread[5:6].any()
        assert not spread[ROWS - 1 :].any()
        assert spread[[4]].any()
        with pytest.raises(QueryRefused, match="forgotten during the search"):
            spread[[4, 5]]


def test_a_copy_that_does_not_hear_what_to_forget_is_told_again(node: Path, gallery: Path) -> None:
    calls = FakeCalls()
    shards = opened(node, gallery, calls)
    calls.deaf = True
    assert not shards.forget(np.array([5]))
    calls.deaf = False
    assert shards.forget(np.array([5]))


def test_more_rows_than_the_files_have_are_refused_and_a_folder_that_is_not_there(
    node: Path, gallery: Path, tmp_path: Path
) -> None:
    shard = Shard(str(node), str(gallery), 0, Range(0, 2 * ROWS), DIM, 1)
    with pytest.raises(ClusterError, match=f"{ROWS + 1} rows from 0 on are asked for, .* finds {ROWS} in"):
        shard.hold(ROWS + 1)
    elsewhere = Shard(str(node), str(tmp_path / "not copied"), 0, Range(0, ROWS), DIM, 1)  # which can be mended
    with pytest.raises(Exception, match="not copied"):
        elsewhere.hold(1)


def test_where_one_part_fails_the_answers_of_the_others_are_not_kept(node: Path, gallery: Path) -> None:
    calls = FakeCalls()
    shards = opened(node, gallery, calls, shards=3)

    def refused(shard: Any) -> Any:
        return calls.ask(shard, "hold", 2 * ROWS)

    pieces = [(part, refused if place == 0 else lambda shard: calls.ask(shard, "hold", 1))
              for place, part in enumerate(shards.parts)]  # fmt: skip
    with pytest.raises(ClusterError, match="are asked for"):
        shards.each(pieces)
    assert calls.dropped == len(shards.parts) - 1 > 0


def test_a_wrong_setting_is_told_from_machine_to_machine() -> None:
    error = ConfigError("cluster.shards", 0, "must be from 1 to 4096")
    again = pickle.loads(pickle.dumps(error))
    assert (str(again), again.field) == (str(error), "cluster.shards")


@pytest.mark.parametrize(("rows", "shards"), [(1, 1), (4096, 4), (4097, 2), (10 * 4096 + 5, 3), (40960, 7)])
def test_ranges_cover_all_rows_in_whole_blocks(rows: int, shards: int) -> None:
    parts = split(rows, 4096, shards, spare=5000)
    assert len(parts) <= shards
    assert [part.first for part in parts] == [sum(p.room for p in parts[:k]) for k in range(len(parts))]
    assert sum(part.of(rows) for part in parts) == rows
    assert all(part.first % 4096 == part.room % 4096 == 0 and part.of(rows) for part in parts)
    assert parts[-1].stop >= rows + 5000
    assert [part.of(0) for part in parts] == [0] * len(parts)
