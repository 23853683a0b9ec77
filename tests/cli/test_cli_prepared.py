"""`lineup prepare` and `lineup match --prepared` as their users meet them."""

from __future__ import annotations

import json
import stat
from pathlib import Path

import numpy as np
import pytest

from pets.synthetic import synthetic_templates
from pets.templates import quantise_rows
from tests.kit.commands import run as run

DIM = 64


@pytest.fixture
def files(tmp_path: Path) -> Path:
    templates = synthetic_templates(300, DIM, 7)
    np.save(tmp_path / "gallery.npy", templates)
    np.save(tmp_path / "rows.npy", quantise_rows(templates))
    np.save(tmp_path / "other.npy", synthetic_templates(300, DIM, 8))
    np.save(tmp_path / "short.npy", synthetic_templates(300, DIM - 8, 8))
    np.save(tmp_path / "probe.npy", templates[17])
    np.save(tmp_path / "short-probe.npy", synthetic_templates(1, DIM - 8, 8)[0])
    return tmp_path


def prepare(run, files: Path, gallery: str = "gallery.npy", out: str = "one.prep") -> tuple[int, str, str]:
    return run("prepare", "--gallery", files / gallery, "-o", files / out)


def match(run, files: Path, *prepared: str, gallery: str = "gallery.npy", probe: str = "probe.npy", **more: str):
    chosen = [item for name in prepared for item in ("--prepared", files / name)]
    options = [item for key, value in more.items() for item in (f"--{key}", value)]
    paths = ["--gallery", files / gallery, "--probe", files / probe, "--json", files / "result.json"]
    return run("match", *paths, "--threshold", "0.8", *chosen, *options)


def released(files: Path) -> list[int]:
    report = json.loads((files / "result.json").read_text())
    return [entry["row"] for entry in report["probes"][0]["released"]]


def test_a_preparation_finds_what_a_search_without_one_finds(run, files: Path) -> None:
    status, out, err = prepare(run, files)
    assert (status, err) == (0, "")
    assert "300 rows" in out
    assert stat.S_IMODE((files / "one.prep").stat().st_mode) == 0o600
    status, _, err = match(run, files, "one.prep")
    assert status == 0, err
    assert released(files) == [17]
    report = json.loads((files / "result.json").read_text())
    assert report["timing_s"]["offline"] is None
    assert report["timing_s"]["online"] > 0
    assert report["bytes"]["offline_total"] == 0
    assert report["bytes"]["total"] == report["bytes"]["online_total"] > 0


def test_a_second_use_ends_with_status_1_and_one_line_and_nothing_secret_is_left(run, files: Path) -> None:
    prepare(run, files)
    before = (files / "one.prep").read_bytes()
    assert match(run, files, "one.prep")[0] == 0
    after = (files / "one.prep").read_bytes()
    assert len(after) < 100 < len(before)
    assert match(run, files)[0] == 0  # without one
    status, out, err = match(run, files, "one.prep")
    assert status == 1
    assert not out
    assert err.count("\n") == 1
    assert "was used on 20" in err
    assert not (files / "result.json").exists()


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"gallery": "other.npy"}, "another gallery"),
        ({"gallery": "short.npy", "probe": "short-probe.npy"}, "d = 64"),
        ({"preset": "n8192_q60_t20"}, "n4096_q60_t20"),
        ({"probe": "gallery.npy"}, "1 preparations for 300 probes"),
        ({"probe": "rows.npy"}, "float32"),
    ],
)
def test_what_does_not_fit_is_refused_and_does_not_spend_it(run, files: Path, changes: dict, word: str) -> None:
    prepare(run, files)
    status, _, err = match(run, files, "one.prep", **changes)
    assert status == 1
    assert word in err
    assert err.count("\n") == 1
    assert match(run, files, "one.prep")[0] == 0


def test_quantised_rows_are_the_same_gallery(run, files: Path) -> None:
    prepare(run, files, "rows.npy")
    assert match(run, files, "one.prep")[0] == 0  # of gallery.npy
    assert released(files) == [17]
    assert match(run, files, gallery="rows.npy")[0] == 0
    assert released(files) == [17]


def test_each_of_several_probes_takes_a_preparation(run, files: Path) -> None:
    np.save(files / "probes.npy", np.load(files / "gallery.npy")[[3, 5]])
    prepare(run, files)
    prepare(run, files, out="two.prep")
    assert match(run, files, "one.prep", "two.prep", probe="probes.npy")[0] == 0
    report = json.loads((files / "result.json").read_text())
    assert [[entry["row"] for entry in probe["released"]] for probe in report["probes"]] == [[3], [5]]


def test_one_file_given_twice_is_refused(run, files: Path) -> None:
    np.save(files / "probes.npy", np.load(files / "gallery.npy")[[3, 5]])
    prepare(run, files)
    status, _, err = match(run, files, "one.prep", "one.prep", probe="probes.npy")
    assert status == 1
    assert "used by another search" in err
    assert match(run, files, "one.prep")[0] == 0


@pytest.mark.parametrize("damage", ["cut", "flip", "empty", "other", "mode", "missing"])
def test_a_damaged_file_is_refused(run, files: Path, damage: str) -> None:
    prepare(run, files)
    path = files / "one.prep"
    content = path.read_bytes()
    if damage == "cut":
        path.write_bytes(content[: len(content) // 2])
    elif damage == "flip":
        path.write_bytes(b"\x91" + content[1:])
    elif damage == "empty":
        path.write_bytes(b"")
    elif damage == "other":
        path.write_bytes(b"something else" * 100)
    elif damage == "mode":
        path.chmod(0o644)
    else:
        path.unlink()
    status, _, err = match(run, files, "one.prep")
    assert status == 1
    assert "one.prep" in err
    assert "Traceback" not in err


def test_an_erasure_that_was_cut_off_is_a_use(run, files: Path) -> None:
    """A crash between claim and use costs the preparation, never a second answer."""
    prepare(run, files)
    path = files / "one.prep"
    content = path.read_bytes()
    assert match(run, files, "one.prep")[0] == 0
    tombstone = path.read_bytes()
    path.write_bytes(tombstone.ljust(512, b"\0") + content[512:])
    status, _, err = match(run, files, "one.prep")
    assert status == 1
    assert "was used on 20" in err


def test_a_file_is_never_overwritten(run, files: Path) -> None:
    prepare(run, files)
    before = (files / "one.prep").read_bytes()
    status, _, err = prepare(run, files)
    assert status == 1
    assert "exists already" in err
    assert (files / "one.prep").read_bytes() == before


def test_a_preparation_needs_the_encrypted_engine(run, files: Path) -> None:
    prepare(run, files)
    status, _, err = match(run, files, "one.prep", engine="plain")
    assert status == 2
    assert "encrypted engine" in err
