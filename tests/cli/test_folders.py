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
