"""Photos and ANSI/NIST-ITL files at the front end: enrolled with their quality, asked with, and exported."""

from __future__ import annotations

from datetime import date
from pathlib import Path
from typing import Any

import pytest

from nodes.config.storage import holder_store
from nodes.operator.probe import prepare_probe
from tests.kit.commands import as_json
from tests.kit.commands import folder as folder
from tests.kit.commands import run as run

pytest.importorskip("nistitl")

from nodes.casework.exchange.type10 import FaceRecord, write_face
from nodes.cli.demo_photos import demo_photos


@pytest.fixture
def type10(tmp_path: Path) -> Path:
    face = FaceRecord(demo_photos().obama.read_bytes(), date(2012, 12, 6), "US", "")
    (tmp_path / "face.an2").write_bytes(write_face(face, "US", "ES", date(2026, 11, 28)))
    return tmp_path / "face.an2"


def test_a_type10_file_is_the_same_probe_as_its_photo(type10: Path) -> None:
    ours, theirs = (prepare_probe(path, None, "cpu", False) for path in (type10, demo_photos().obama))
    assert ours == theirs
    assert min(ours.quality.values()) >= 50


def test_photos_and_type10_files_are_enrolled_with_their_quality(type10: Path, tmp_path: Path, run: Any) -> None:
    args = ("--name", "ES", "--role", "holder", "--address", "https://127.0.0.1:9", "--authority", tmp_path / "ca")
    assert run("node", "init", "--dir", tmp_path / "es", *args)[0] == 0
    done = as_json(run("enroll", "--dir", tmp_path / "es", type10, demo_photos().biden, "--json"))
    assert done["added"] == 2
    assert f"{type10}#1" in done["photos"]
    again = as_json(run("enroll", "--dir", tmp_path / "es", type10, demo_photos().obama, "--json"))
    assert (again["added"], again["already_enrolled"]) == (0, 2)  # the same bytes
    with holder_store(tmp_path / "es") as store:
        assert all((store.subject(one).quality or 0) >= 50 for one in done["references"])


def test_a_file_that_is_none_is_named(tmp_path: Path, run: Any) -> None:
    (tmp_path / "odd.an2").write_bytes(b"1.001:")
    args = ("--name", "ES", "--role", "holder", "--address", "https://127.0.0.1:9", "--authority", tmp_path / "ca")
    assert run("node", "init", "--dir", tmp_path / "es", *args)[0] == 0
    _, out, _ = run("enroll", "--dir", tmp_path / "es", tmp_path / "odd.an2", "--json")
    assert "not an ANSI/NIST-ITL file" in out
