"""At a node with staff, nobody enrols, deletes, marks or looks up anybody without being named for it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nodes.config.names import Role
from nodes.identity.identity import init_node
from nodes.private_files import write_private
from tests.kit.casework import Offices
from tests.kit.commands import as_json
from tests.kit.commands import run as run
from tests.kit.galleries import unit_rows


def gallery_file(folder: Path) -> Path:
    rows = unit_rows(np.random.default_rng(3), 2, 128).astype(np.float32)
    path = folder / "two.npy"
    np.save(path, rows / np.linalg.norm(rows, axis=1, keepdims=True))
    return path


@pytest.fixture
def lineup(offices: Offices, tmp_path: Path, run: Any) -> Any:
    def call(*args: object, who: str | None = "lena", why: str = "case 7/2026") -> tuple[int, str, str]:
        named = () if who is None else ("--key", offices.spanish.key_file(who, tmp_path))
        result: tuple[int, str, str] = run(*args, "--dir", tmp_path / "ES", *named, "--reason", why)
        return result

    return call


def test_whoever_enrols_looks_up_contests_and_deletes_is_named(lineup: Any, tmp_path: Path) -> None:
    done = as_json(lineup("enroll", gallery_file(tmp_path), "--json"))
    one = done["references"][0]
    assert lineup("gallery", "show", one, who="dora", why="objection")[0] == 0
    assert lineup("contest", one, who="dora", why="objection")[0] == 0
    assert lineup("gallery", "list")[0] == 0
    assert lineup("forget", one, who="dora", why="court 9")[0] == 0
    log = as_json(lineup("gallery", "log", "--json", who="dora", why="monthly check"))
    assert [(entry["act"], entry["person"], entry["reason"]) for entry in log] == [
        ("enrol", "lena", "case 7/2026"), ("consult", "dora", "objection"), ("contest", "dora", "objection"),
        ("consult", "lena", "case 7/2026"), ("forget", "dora", "court 9"),
    ]  # fmt: skip
    assert [len(entry["references"]) for entry in log] == [2, 1, 1, 2, 1]
    told = lineup("gallery", "log", who="dora", why="monthly check")[1]
    assert f"dora: forget {one}, court 9" in told


@pytest.mark.parametrize(
    ("who", "why", "said"),
    [(None, "x", "has staff: --key FILE"), ("lena", " ", "--reason why"), ("rita", "x", "needs the role")],
)
def test_nobody_works_unnamed_without_a_reason_or_role(
    lineup: Any, offices: Offices, tmp_path: Path, who: str | None, why: str, said: str
) -> None:
    kept = offices.enrol()
    for args in (("forget", kept), ("contest", kept), ("gallery", "list"), ("enroll", gallery_file(tmp_path))):
        status, _, told = lineup(*args, who=who, why=why)
        assert (status, said in told) == (1, True), told
    assert offices.es.office.gallery is not None
    assert offices.es.office.gallery.count() == 1


def test_a_strangers_key_and_a_closed_account_do_nothing(
    lineup: Any, offices: Offices, run: Any, tmp_path: Path
) -> None:
    kept = offices.enrol()
    write_private(tmp_path / "stranger.key", b"11" * 32)
    args = ("forget", kept, "--dir", tmp_path / "ES", "--key", tmp_path / "stranger.key", "--reason", "x")
    assert "nobody's key" in run(*args)[2]
    offices.es.close_account(None, offices.spanish.lena)
    assert lineup("forget", kept)[0] == 1
    assert lineup("forget", kept, who="dora")[0] == 0  # control: who may, does


def test_who_may_not_monitor_does_not_read_the_log(lineup: Any) -> None:
    assert lineup("gallery", "log", who="lena")[0] == 1
    assert lineup("gallery", "log", who="dora")[0] == 0


def test_control_whoever_opens_the_store_themselves_is_not_named(offices: Offices) -> None:
    """What has the storage key can write without a name: the log is for those who work through the commands."""
    gallery = offices.es.office.gallery
    assert gallery is not None
    offices.enrol()
    assert [(entry.act, entry.person) for entry in gallery.handled()] == [("enrol", None)]


def test_without_staff_the_account_of_the_machine_is_named(tmp_path: Path, run: Any) -> None:
    init_node(tmp_path / "es", name="ES", role=Role.HOLDER, address="https://127.0.0.1:9443",
              authority=tmp_path / "authority", states=("FR",))  # fmt: skip
    assert run("enroll", "--dir", tmp_path / "es", gallery_file(tmp_path))[0] == 0
    (entry,) = as_json(run("gallery", "log", "--dir", tmp_path / "es", "--json"))
    assert entry["person"].startswith("account ")
