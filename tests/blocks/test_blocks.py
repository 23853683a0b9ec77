"""Block files: what is appended, corrected, forgotten and compacted is there, in every version, on disk, in memory."""

from __future__ import annotations

import copy
import errno
import multiprocessing
import os
import shutil
import stat
from pathlib import Path

import numpy as np
import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nodes.blocks import (
    BlockFiles,
    BlocksCorrupted,
    BlocksFull,
    BlocksLocked,
    BlocksRefusal,
    BlocksUnavailable,
    NoRoom,
    ResidentGallery,
    RunConflict,
    UnknownRow,
    UnknownVersion,
    VersionReader,
)
from nodes.blocks.manifest import Run
from pets.errors import InputError, ParameterError, TemplateError
from pets.params import norm_bound
from tests.kit.blocks import BLOCK, CIPHER, DIM, MODEL, Model, check, new_files, rows, story, take

STEPS = st.lists(
    st.tuples(st.sampled_from(["append", "append", "correct", "forget", "retire", "compact"]), st.integers(0, 10**6)),
    max_size=14,
)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=STEPS)
def test_any_story_leaves_every_version_whole(tmp_path: Path, steps: list[tuple[str, int]]) -> None:
    folder = tmp_path / "gallery"
    shutil.rmtree(folder, ignore_errors=True)
    files, model = new_files(folder), Model()
    gallery = ResidentGallery(files, spare=1000)
    for what, seed in steps:
        take(files, model, what, seed)
        check(files, model, gallery)
    check(BlockFiles(folder, CIPHER), model)


def test_an_append_leaves_earlier_blocks_alone(tmp_path: Path) -> None:
    files = new_files(tmp_path / "g")
    files.append(rows(3 * BLOCK + 3))
    before = {path.name: path.stat().st_ino for path in (tmp_path / "g").glob("block-*")}
    hashes = [block.hash for block in files.manifest().blocks]
    files.append(rows(BLOCK))
    after = {path.name: path.stat().st_ino for path in (tmp_path / "g").glob("block-*")}
    full = sorted(before)[:3]
    assert [after[name] for name in full] == [before[name] for name in full]
    assert [block.hash for block in files.manifest().blocks][:3] == hashes[:3]


def test_a_change_is_met_whatever_number_and_time_the_manifest_s_file_has(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """File systems give a number again, and two changes may fall into one tick of their clock."""
    files = new_files(tmp_path / "g")
    files.append(rows(BLOCK))
    gallery = ResidentGallery(files, spare=10)
    real, frozen = os.stat, os.stat(tmp_path / "g" / "manifest")
    monkeypatch.setattr(
        os, "stat", lambda path, **more: frozen if Path(path).name == "manifest" else real(path, **more)
    )
    with gallery.snapshot() as lent:
        assert lent.live()[0]
        files.forget([0])
        assert not lent.live()[0]


def test_forgotten_bytes_leave_the_disk_and_the_version_keeps_its_root(tmp_path: Path) -> None:
    files = new_files(tmp_path / "g")
    files.append(rows(2 * BLOCK))
    first = files.manifest().current
    files.forget([3])
    reader = VersionReader(files, first.number)
    block = next(reader.blocks())
    assert not block.rows[3].any()
    assert block.erased.tolist() == [place == 3 for place in range(BLOCK)]
    again = reader.recompute()
    assert (again.root, again.missing.tolist()) == (first.root, [3])
    assert len(list((tmp_path / "g").glob("block-*"))) == 2  # the file with the row in it is gone


def test_a_replaced_row_is_found_by_earlier_versions_until_they_are_given_up(tmp_path: Path) -> None:
    files = new_files(tmp_path / "g")
    files.append(rows(5))
    old = files.manifest().current.number
    gallery = ResidentGallery(files)
    with gallery.snapshot() as waiting:
        new = files.correct(2, rows(1, seed=9)[0])
        assert waiting.live()[2]
        with gallery.snapshot() as fresh:
            assert (fresh.live()[2], fresh.live()[new]) == (False, True)
        with gallery.snapshot(old) as earlier:
            assert earlier.live()[2]
            assert (earlier.rows[2] == rows(5)[2]).all()
        files.forget([new])  # the person, not only the last picture
        assert not waiting.live()[2]
    assert not next(VersionReader(files, old).blocks()).rows[2].any()


def test_forgotten_rows_are_dead_at_once_and_leave_memory_with_the_last_reader(tmp_path: Path) -> None:
    files = new_files(tmp_path / "g")
    files.append(rows(12))
    gallery = ResidentGallery(files)
    first, second = gallery.snapshot(), gallery.snapshot()
    view = first.rows
    BlockFiles(tmp_path / "g", CIPHER).forget([4])  # as another process would
    assert not second.live()[4]
    assert (view == rows(12)).all()  # a search that is under way is not disturbed
    first.close()
    assert (view[4] == rows(12)[4]).all()
    second.close()
    assert not view[4].any()
    with pytest.raises(ValueError, match="read-only"):
        view[0] = 1


def test_compaction_waits_for_readers_who_still_learn_of_the_forgotten(tmp_path: Path) -> None:
    files = new_files(tmp_path / "g")
    files.append(rows(20))
    gallery = ResidentGallery(files)
    with gallery.snapshot() as held:
        files.forget([1, 9])
        files.compact()
        files.append(rows(4, seed=1))
        files.forget([19])
        assert (held.rows == rows(20)).all()
        assert np.flatnonzero(~held.live()).tolist() == [1, 9, 19]
        with gallery.snapshot() as other:  # of the epoch in memory
            assert other.version.rows == 20
    with gallery.snapshot() as moved:
        assert moved.rows.shape == (22, DIM)
        assert moved.numbers([0, 1, 17, 18]).tolist() == [0, 2, 19, 20]
        assert not moved.live()[17]
    with pytest.raises(UnknownVersion, match="other side of a compaction"):
        gallery.snapshot(held.version.number)


def test_retired_versions_are_refused_and_their_leaves_go(tmp_path: Path) -> None:
    files = new_files(tmp_path / "g")
    model = story(files)
    check(files, model)
    files.retire(model.version)
    model.retire(model.version)
    check(files, model)
    with pytest.raises(UnknownVersion, match="version 1 is not kept"):
        VersionReader(files, 1)
    assert not any(what.leaves for what in files.manifest().dropped)


def test_readers_are_served_while_another_thread_changes_everything(tmp_path: Path) -> None:
    files = new_files(tmp_path / "g")
    files.append(rows(40))
    gallery = ResidentGallery(files, spare=10000)
    context = multiprocessing.get_context("spawn")
    writer = context.Process(target=_change_everything, args=(tmp_path / "g",))
    writer.start()
    seen = refused = 0
    while writer.is_alive() or not seen:
        try:
            with gallery.snapshot() as snapshot:
                before, live = snapshot.rows.copy(), snapshot.live()
                assert len(live) == len(before) == snapshot.version.rows
                assert (snapshot.rows == before).all()
                assert before[live].any(axis=1).all()  # no live row was erased
        except BlocksUnavailable:  # a reader whose processor is taken away meanwhile falls behind, and says so
            refused += 1
            continue
        again = VersionReader(files, snapshot.version.number)
        assert again.recompute().root == snapshot.version.root
        seen += 1
    writer.join()
    assert refused <= max(3, seen)
    assert writer.exitcode == 0
    with gallery.snapshot() as snapshot:
        assert snapshot.version.number == files.manifest().current.number


def _change_everything(folder: Path) -> None:
    files = BlockFiles(folder, CIPHER)
    for seed in range(24):
        (first, *_) = files.append(rows(5, seed))
        files.correct(first, rows(1, seed)[0])
        files.forget([first + 1])
        if seed % 8 == 7:
            files.compact()


def test_files_are_private_and_hold_no_row_in_the_clear(tmp_path: Path) -> None:
    files = new_files(tmp_path / "g")
    files.append(rows(BLOCK))
    for path in (tmp_path / "g").iterdir():
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert rows(BLOCK)[0].tobytes() not in path.read_bytes()
    assert stat.S_IMODE((tmp_path / "g").stat().st_mode) == 0o700
    ResidentGallery(files, unsafe_plaintext_map=tmp_path / "plain")
    assert rows(BLOCK)[0].tobytes() in (tmp_path / "plain").read_bytes()  # the control
    assert stat.S_IMODE((tmp_path / "plain").stat().st_mode) == 0o600


def test_plaintext_map_is_believed_only_while_it_is_whole(tmp_path: Path) -> None:
    files, model = new_files(tmp_path / "g"), Model()
    plain = tmp_path / "plain"
    for what, seed in [("append", 20), ("forget", 5), ("append", 13), ("compact", 0), ("append", 4)]:
        take(files, model, what, seed)
        read: list[int] = []
        check(files, model, ResidentGallery(files, unsafe_plaintext_map=plain, progress=read.append))
        assert read
        read.clear()
        check(files, model, ResidentGallery(files, unsafe_plaintext_map=plain, progress=read.append))
        assert not read  # not read again
    gallery = ResidentGallery(files, unsafe_plaintext_map=plain)
    files.forget([6])
    assert gallery.refresh()
    model.forget({6})
    check(files, model, ResidentGallery(files, unsafe_plaintext_map=plain))
    (tmp_path / "plain.holds").unlink()  # as a crash in the middle leaves it
    plain.write_bytes(b"\1" * 100)
    check(files, model, ResidentGallery(files, unsafe_plaintext_map=plain))


@pytest.mark.parametrize("what", ["another", "older", "changed", "short", "missing", "manifest"])
def test_exchanged_and_damaged_files_are_named(tmp_path: Path, what: str) -> None:
    files = new_files(tmp_path / "g")
    files.append(rows(2 * BLOCK))
    ResidentGallery(files)  # the control
    one, two = sorted((tmp_path / "g").glob("block-*"))
    old = one.read_bytes()
    if what == "another":
        one.write_bytes(two.read_bytes())
    elif what == "older":
        files.forget([0])
        one = one.with_name("block-00000000.1")
        one.write_bytes(old)
    elif what == "changed":
        one.write_bytes(old[:-20] + bytes([old[-20] ^ 1]) + old[-19:])
    elif what == "short":
        one.write_bytes(old[:-1])
    elif what == "missing":
        one.unlink()
    else:
        one = tmp_path / "g" / "manifest"
        one.write_bytes(old)
    with pytest.raises(BlocksCorrupted, match=one.name):
        ResidentGallery(files)


def test_another_key_opens_nothing(tmp_path: Path) -> None:
    new_files(tmp_path / "g")
    with pytest.raises(BlocksCorrupted, match="another key"):
        BlockFiles(tmp_path / "g", AESGCM(b"x" * 32))


def test_refused_rows_are_named_with_value_and_limit(tmp_path: Path) -> None:
    files = new_files(tmp_path / "g")
    before = files.manifest()
    templates = rows(2000)
    templates[1500] = 127
    with pytest.raises(TemplateError, match=rf"row 1510 has squared norm {127**2 * DIM}, .* {norm_bound(DIM)}"):
        files.append(templates, run=Run(MODEL, 9000, 2010))
    templates[1500] = 0
    with pytest.raises(TemplateError, match="row 1500 has squared norm 0"):
        files.append(templates)
    for bad in (rows(3, dim=32), rows(3).astype(np.float32), rows(3)[0]):
        with pytest.raises(TemplateError, match=f"{DIM}"):
            files.append(bad)
    assert files.manifest() == before


def test_refused_numbers_and_versions(tmp_path: Path) -> None:
    files = new_files(tmp_path / "g")
    files.append(rows(3))
    files.forget([1])
    with pytest.raises(UnknownRow, match="no row 3; rows have numbers from 0 to 2"):
        files.forget([3])
    for row in (1, 3, -1):
        with pytest.raises(UnknownRow, match=f"row {row}"):
            files.correct(row, rows(1)[0])
    assert files.forget([1]) == 0
    with pytest.raises(UnknownVersion, match="9"):
        files.retire(9)
    with pytest.raises(BlocksRefusal, match="already"):
        new_files(tmp_path / "g")
    with pytest.raises(ParameterError, match="9"):
        BlockFiles.create(tmp_path / "h", CIPHER, dim=9, model=MODEL)
    gallery = ResidentGallery(new_files(tmp_path / "i"), spare=2)
    BlockFiles(tmp_path / "i", CIPHER).append(rows(3))
    with pytest.raises(NoRoom, match="3 rows, there is room for") as caught:
        gallery.refresh()
    assert isinstance(caught.value, InputError)


def test_runs_are_kept_with_their_rows(tmp_path: Path) -> None:
    files = new_files(tmp_path / "g")
    files.append(rows(4), run=Run(MODEL, 9, 4))
    with pytest.raises(RunConflict, match="4 of 9 rows; it was to go on at 0 of 9"):
        files.append(rows(4), run=Run(MODEL, 9, 4))
    files.append(rows(5), run=Run(MODEL, 9, 9))
    run = files.manifest().run(MODEL)
    assert run is not None
    assert (run.done, run.first) == (9, 0)


def test_a_copy_is_one_moment_and_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = new_files(tmp_path / "g")
    model = story(files)
    before = copy.deepcopy(model)
    files.copy_to(tmp_path / "copy")
    take(files, model, "append", 9)
    take(files, model, "forget", 77)
    take(files, model, "compact", 0)
    check(BlockFiles(tmp_path / "copy", CIPHER), copy.deepcopy(before))
    take(BlockFiles(tmp_path / "copy", CIPHER), before, "append", 4)  # it goes its own way
    check(BlockFiles(tmp_path / "copy", CIPHER), before)
    check(files, model)
    with pytest.raises(BlocksRefusal, match="never overwrites"):
        files.copy_to(tmp_path / "copy")

    def elsewhere(*_: object) -> None:
        raise OSError(errno.EXDEV, "Invalid cross-device link")

    monkeypatch.setattr("nodes.blocks.files.os.link", elsewhere)
    files.copy_to(tmp_path / "other")
    check(BlockFiles(tmp_path / "other", CIPHER), model)


def test_rekeyed_gallery_opens_under_the_new_key_only(tmp_path: Path) -> None:
    files, new = new_files(tmp_path / "g"), AESGCM(b"n" * 32)
    model = story(files)
    files.rekey(new)
    check(files, copy.deepcopy(model))
    again = BlockFiles(tmp_path / "g", new)
    take(again, model, "append", 4)
    check(again, model)
    with pytest.raises(BlocksCorrupted, match="another key"):
        BlockFiles(tmp_path / "g", CIPHER)


def test_one_writer_at_a_time(tmp_path: Path) -> None:
    new_files(tmp_path / "g")
    one, two = (BlockFiles(tmp_path / "g", CIPHER, lock_seconds=0.1) for _ in range(2))
    with one._changing():
        ResidentGallery(two).snapshot().live()  # readers do not wait
        with pytest.raises(BlocksLocked, match=r"0\.1 s"):
            two.append(rows(1))
    two.append(rows(1))  # the control


def test_full_disk_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files, model = new_files(tmp_path / "g"), Model()
    take(files, model, "append", 20)

    def full(*_: object) -> int:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("nodes.blocks.files.os.write", full)
        with pytest.raises(BlocksFull, match="no space left"):
            files.append(rows(9))
    take(files, model, "append", 13)
    check(files, model)
