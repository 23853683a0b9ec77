"""A .npy file of any type becomes rows, a step at a time; bad rows are named; a killed enrolment goes on."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from benchmarks.machine import peak_bytes, reset_peak, resident_bytes
from nodes.blocks import BlockFiles, ResidentGallery, RunConflict, enrol_npy
from pets.errors import GalleryError, TemplateError
from pets.params import norm_bound
from pets.templates import quantise_rows
from tests.kit.blocks import CIPHER, DIM, MODEL, Killed, dying, new_files, rows

STEP = 10


def unit(count: int, dtype: type = np.float32) -> np.ndarray:
    wide = np.random.default_rng(count).standard_normal((count, DIM))
    return (wide / np.linalg.norm(wide, axis=1, keepdims=True)).astype(dtype)


def save(folder: Path, array: np.ndarray) -> Path:
    path = folder / "rows.npy"
    np.save(path, array)
    return path


def held(files: BlockFiles) -> np.ndarray:
    with ResidentGallery(files).snapshot() as snapshot:
        return snapshot.rows.copy()


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_floats_are_quantised_as_everywhere(tmp_path: Path, dtype: type) -> None:
    files = new_files(tmp_path / "g")
    array = unit(37, dtype)
    told: list[tuple[int, int]] = []
    result = enrol_npy(
        files, save(tmp_path, array), step_rows=STEP, progress=lambda done, total: told.append((done, total))
    )
    assert (result.first, result.added, result.skipped) == (0, 37, 0)
    assert result.rate > 0
    assert told == [(10, 37), (20, 37), (30, 37), (37, 37)]
    assert (held(files) == quantise_rows(array)).all()


def test_int8_as_it_is_behind_what_is_there(tmp_path: Path) -> None:
    files = new_files(tmp_path / "g")
    files.append(rows(5))
    result = enrol_npy(files, save(tmp_path, rows(33, seed=1)), step_rows=STEP)
    assert (result.first, result.added) == (5, 33)
    assert (held(files) == np.concatenate([rows(5), rows(33, seed=1)])).all()
    assert enrol_npy(files, save(tmp_path, np.empty((0, DIM), np.int8))).added == 0


def test_killed_anywhere_it_goes_on_and_nothing_is_there_twice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = save(tmp_path, rows(37))
    for number, steps in enumerate(range(0, 70, 3)):
        files = new_files(tmp_path / f"g{number}")
        with pytest.raises(Killed), dying(monkeypatch, steps):
            enrol_npy(files, path, step_rows=STEP)
        before = files.manifest().current.rows
        result = enrol_npy(BlockFiles(files.folder, CIPHER), path, step_rows=STEP)
        assert (result.skipped, result.added) == (before, 37 - before)
        assert before == 37 or before % STEP == 0
        assert (held(files) == rows(37)).all()
    assert before >= STEP
    again = enrol_npy(files, path, step_rows=STEP)
    assert (again.first, again.added, again.skipped) == (0, 0, 37)


def test_another_file_that_begins_alike_is_not_continued(tmp_path: Path) -> None:
    files = new_files(tmp_path / "g")
    array = rows(200)
    enrol_npy(files, save(tmp_path, array), step_rows=100)
    changed = array.copy()
    changed[150] = -changed[150]
    with pytest.raises(RunConflict, match="200 of 200 rows are enrolled, but is another"):
        enrol_npy(files, save(tmp_path, changed), step_rows=100)
    assert enrol_npy(files, save(tmp_path, array), step_rows=150).added == 0
    assert files.manifest().current.rows == 200
    files = new_files(tmp_path / "h")
    with pytest.raises(ZeroDivisionError):
        enrol_npy(files, save(tmp_path, array), step_rows=100, progress=lambda done, total: done // 0)
    with pytest.raises(RunConflict, match="steps of other than 150"):
        enrol_npy(files, save(tmp_path, array), step_rows=150)
    assert enrol_npy(files, save(tmp_path, array), step_rows=100).skipped == 100


def test_bad_rows_are_named_with_value_and_limit(tmp_path: Path) -> None:
    files = new_files(tmp_path / "g")
    array = rows(37)
    array[25] = 127
    with pytest.raises(TemplateError, match=rf"row 25 has squared norm {127**2 * DIM}, .* {norm_bound(DIM)}"):
        enrol_npy(files, save(tmp_path, array), step_rows=STEP)
    assert files.manifest().current.rows == 20  # the steps before
    for bad, what in (
        (np.nan, "row 31 of .* has nan at entry 3, every entry must be finite"),
        (2.0, "row 31 of .* norm"),
    ):
        floats = unit(37)
        floats[31, 3] = bad
        with pytest.raises(TemplateError, match=what):
            enrol_npy(files, save(tmp_path, floats), step_rows=STEP)


@pytest.mark.parametrize(
    ("array", "what"),
    [
        (np.zeros((3, DIM), np.int16), "int8, float32 or float64, got <i2"),
        (np.zeros((3, DIM), ">f4"), "got >f4"),
        (np.zeros(DIM, np.int8), rf"\(rows, {DIM}\), got \({DIM},\)"),
        (np.zeros((3, DIM + 8), np.int8), rf"\(3, {DIM + 8}\)"),
        (np.asfortranarray(rows(3)), "in column order"),
    ],
)
def test_refused_arrays(tmp_path: Path, array: np.ndarray, what: str) -> None:
    with pytest.raises(TemplateError, match=what):
        enrol_npy(new_files(tmp_path / "g"), save(tmp_path, array))


def test_refused_files(tmp_path: Path) -> None:
    files = new_files(tmp_path / "g")
    path = save(tmp_path, rows(9))
    content = path.read_bytes()
    for bad in (content[:-1], content + b"x", content[:30], b"", b"photo"):
        path.write_bytes(bad)
        with pytest.raises(GalleryError, match=r"rows\.npy"):
            enrol_npy(files, path)
    with pytest.raises(GalleryError, match="No such file"):
        enrol_npy(files, tmp_path / "none.npy")
    np.save(path, np.array([{}]), allow_pickle=True)
    with pytest.raises(TemplateError, match=r"got \|O"):
        enrol_npy(files, path)


MANY, WIDE, CHUNK = 100_000, 512, 4096


def peak_of_enrolment(folder: Path) -> int:
    """Bytes that enrolling takes beyond what a process has that has enrolled before."""
    np.lib.format.open_memmap(folder / "rows.npy", "w+", np.int8, (MANY, WIDE))[:] = rows(1, dim=WIDE)
    peaks = []
    for number in range(2):  # the first touches what is kept
        files = BlockFiles.create(folder / f"g{number}", CIPHER, dim=WIDE, model=MODEL)
        reset_peak()
        before = resident_bytes()
        enrol_npy(files, folder / "rows.npy", step_rows=CHUNK)
        peaks.append(peak_bytes() - before)
    return peaks[1]


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="memory peaks are read from Linux")
def test_memory_is_bounded_by_the_step(tmp_path: Path) -> None:
    """In a process of its own: what other tests left behind would count."""
    name = f"{__name__}.peak_of_enrolment".rpartition(".")
    script = f"import pathlib, {name[0]} as here; print(here.peak_of_enrolment(pathlib.Path({str(tmp_path)!r})))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert int(done.stdout) < 12 * CHUNK * WIDE < MANY * WIDE / 2
