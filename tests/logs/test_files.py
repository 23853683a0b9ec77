"""A log's files: opened again, cut short by a crash, in use, private, or no log at all."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from nodes.logs.checkpoints import check_checkpoint_consistent
from nodes.logs.errors import EntryRefused, LogTampered, LogUnusable
from nodes.logs.frames import FrameFile
from nodes.logs.log import TamperEvidentLog
from pets.errors import LineupError
from tests.kit.logs import DAY, START, TRUST, frame, frames, message, opened, slots, write_frames


def test_a_reopened_log_goes_on_where_it_was(ten: Path) -> None:
    with opened(ten) as log:
        older = log.last_checkpoint
        assert list(log.append([message(10), message(11)], START + DAY)) == [10, 11]
        newer = log.checkpoint(START + DAY)
        check_checkpoint_consistent(older, newer, log.consistency_proof(older.size, newer.size))
    with opened(ten) as log:
        assert log.last_checkpoint == newer
        assert log.read(11) == message(11)


@given(st.data())
@settings(deadline=None, max_examples=60)
def test_a_last_append_cut_short_anywhere_is_dropped_and_the_rest_stays(
    tmp_path_factory: pytest.TempPathFactory, source: st.DataObject
) -> None:
    folder = tmp_path_factory.mktemp("crash") / "log"
    with TamperEvidentLog.create(folder, "transcript", "RELAY", TRUST, START) as made:
        made.append([message(0), message(1)], START)
        made.checkpoint(START)
        made.append([message(2)], START)
        whole = (folder / "entries").stat().st_size
        made.append([message(3), message(4)], START)
    raw = (folder / "entries").read_bytes()
    length = source.draw(st.integers(whole, len(raw) - 1))
    rest = source.draw(st.sampled_from([b"", bytes(len(raw) - length), b"\xff" * (len(raw) - length)]))
    assume(raw[:length] + rest != raw)  # the byte that is cut off may be the one that comes in its place
    (folder / "entries").write_bytes(raw[:length] + rest)
    with opened(folder) as log:
        kept = log.size
        assert 3 <= kept <= 4
        assert [log.read(n) for n in range(kept)] == [message(n) for n in range(kept)]
        log.append([message(50)], START)
    with opened(folder) as log:
        assert log.read(kept) == message(50)
        assert len(slots(folder)) == kept + 1


def test_a_crash_between_key_and_entry_leaves_neither(ten: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(self: FrameFile, payloads: list[bytes]) -> None:
        raise OSError("disk full")

    log = opened(ten)
    monkeypatch.setattr(FrameFile, "append", fail)
    with pytest.raises(OSError, match="disk full"):
        log.append([message(10)], START + DAY)
    with pytest.raises(LogUnusable, match="open it again"):
        log.append([message(10)], START + DAY)
    monkeypatch.undo()
    assert len(slots(ten)) == 11
    with opened(ten) as log:
        assert log.size == 10
        assert len(slots(ten)) == 10


def test_keys_are_flushed_before_entries_and_both_before_append_returns(
    ten: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with opened(ten) as log:
        flushed = []
        monkeypatch.setattr(os, "fsync", lambda handle: flushed.append(Path(f"/proc/self/fd/{handle}").resolve().name))
        log.append([message(10)], START + DAY)
        assert flushed == ["keys", "entries"]
        log.checkpoint(START + DAY)
        assert flushed == ["keys", "entries", "checkpoints"]


def test_a_checkpoint_cut_short_is_dropped(ten: Path) -> None:
    raw = (ten / "checkpoints").read_bytes()
    for length in (len(raw) - 1, len(raw) - 3000, len(raw) - len(frame(frames(ten / "checkpoints")[-1])) + 3):
        (ten / "checkpoints").write_bytes(raw[:length])
        with opened(ten) as log:
            assert log.last_checkpoint.size == 4


def test_a_broken_entry_that_no_crash_explains_is_refused(ten: Path) -> None:
    raw = bytearray((ten / "entries").read_bytes())
    raw[-700] ^= 1  # in entry 7: beyond the checkpoint, before the last append
    (ten / "entries").write_bytes(raw)
    with pytest.raises(LogTampered, match=r"^entries 7 to 8:"):
        opened(ten)


def test_bytes_after_the_last_entry_that_no_crash_explains_are_refused(ten: Path) -> None:
    with (ten / "entries").open("ab") as file:
        file.write(b"more")
    with pytest.raises(LogTampered, match="no append was under way"):
        opened(ten)


def test_a_second_writer_is_refused(log: TamperEvidentLog, tmp_path: Path) -> None:
    with pytest.raises(LogUnusable, match="in use"):
        opened(tmp_path / "log")
    log.close()
    with opened(tmp_path / "log"):
        pass


def test_keys_may_lie_elsewhere_and_must_be_this_logs(tmp_path: Path) -> None:
    for name in ("a", "b"):
        keys = tmp_path / f"{name}.keys"
        with TamperEvidentLog.create(tmp_path / name, "transcript", "RELAY", TRUST, START, keys) as made:
            made.append([message(0)], START)
        assert not (tmp_path / name / "keys").exists()
    with opened(tmp_path / "a", keys=tmp_path / "a.keys") as log:
        assert log.read(0) == message(0)
    with pytest.raises(LogUnusable, match="does not hold the keys of this log"):
        opened(tmp_path / "a", keys=tmp_path / "b.keys")
    with pytest.raises(LogUnusable, match="cannot be read"):
        opened(tmp_path / "a")
    with opened(tmp_path / "a", keys=tmp_path / "a.keys"):
        pass


def test_files_are_for_their_owner_only(ten: Path) -> None:
    assert ten.stat().st_mode & 0o777 == 0o700
    assert {path.stat().st_mode & 0o777 for path in ten.iterdir()} == {0o600}


def test_a_folder_that_is_no_log_is_refused(tmp_path: Path, ten: Path) -> None:
    with pytest.raises(LogUnusable, match="not a log"):
        opened(tmp_path)
    with pytest.raises(LogUnusable, match="header"):
        TamperEvidentLog.create(tmp_path / "x", "gossip", "RELAY", TRUST, START)  # type: ignore[arg-type]
    with pytest.raises(LogUnusable, match="header"):
        TamperEvidentLog.create(tmp_path / "x", "transcript", "no name", TRUST, START)
    assert not (tmp_path / "x").exists()
    with pytest.raises(FileExistsError):
        TamperEvidentLog.create(ten, "transcript", "RELAY", TRUST, START)
    write_frames(ten / "entries", [b"\x95", *frames(ten / "entries")[1:]])
    with pytest.raises(LogUnusable, match="header"):
        opened(ten)


def test_asking_for_what_is_not_there_is_refused(log: TamperEvidentLog) -> None:
    for ask in (lambda: log.read(0), lambda: log.read(-1), lambda: log.checkpoint_number(1)):
        with pytest.raises(LogUnusable):
            ask()
    assert log.append([], START) == range(0)
    with pytest.raises(EntryRefused):
        log.append([message(0, bytes(5000))], START)
    assert issubclass(LogTampered, LineupError)
