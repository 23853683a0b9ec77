"""`lineup enroll` says what of a folder it passed over, and which photos had several faces."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from tests.kit.commands import as_json

pytest.importorskip("insightface", reason="needs the extra faces")
from nodes.cli.demo_photos import demo_photos

pytestmark = pytest.mark.slow


def test_what_was_passed_over_or_chosen_is_named(run: Any, folder: Path, tmp_path: Path) -> None:
    photos = demo_photos()
    (tmp_path / "photos").mkdir()
    shutil.copy(photos.six_faces, tmp_path / "photos" / "six.jpg")
    (tmp_path / "photos" / "a.heic").write_text("x")
    arguments = ("enroll", "--dir", folder, tmp_path / "photos", "--largest", "--provider", "cpu")
    told = as_json(run(*arguments, "--json"))
    assert told["skipped"] == [str(tmp_path / "photos" / "a.heic")]
    assert list(told["several"].values()) == [6]
    assert told["added"] == 1
    status, _, error = run(*arguments)  # the photo is known already
    assert status == 0
    assert "skipped 1 file that is no photo: a.heic" in error


@pytest.mark.parametrize("command", ["query", "case"])
def test_a_search_names_the_photo_that_had_several_faces(command: str, run: Any, folder: Path, tmp_path: Path) -> None:
    """Before the node is asked, which here does not run."""
    fr, photo = tmp_path / "fr", demo_photos().six_faces
    args = ("--name", "FR", "--role", "requester", "--address", "https://127.0.0.1:8", "--authority", tmp_path / "ca")
    run("node", "init", "--dir", fr, *args)
    why = ("--holders", "ES", "--case", "C-1", "--offence", "robbery", "--max-penalty-years", "5")
    if command == "query":
        ask: tuple[object, ...] = ("query", "--dir", fr, photo, *why, "--officer", "A", "--approver", "B")
    else:
        person = ("case", "person", "add", "--dir", fr, "ana", "--name", "Ana", "--roles", "officer")
        assert run(*person, "--new-key", tmp_path / "ana.key")[0] == 0
        ask = ("case", "open", "--dir", fr, "--key", tmp_path / "ana.key", photo, *why)
    assert "6 faces found, 1 is needed" in run(*ask)[2]  # control: without a word nothing is chosen
    assert f"{photo.name}: 6 faces, the largest was taken\n" in run(*ask, "--largest")[2]
