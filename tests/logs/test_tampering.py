"""A log that somebody changed on the disk is found and the entry named; each attack with its control."""

from __future__ import annotations

from pathlib import Path

import pytest

from nodes.logs.errors import LogTampered
from nodes.logs.log import TamperEvidentLog
from tests.kit.logs import START, TRUST, cut_keys, frames, message, opened, rewrite, write_frames


@pytest.mark.parametrize("index", range(7))
def test_a_flipped_bit_below_the_checkpoint_is_found_and_the_entry_named(ten: Path, index: int) -> None:
    payloads = frames(ten / "entries")
    changed = bytearray(payloads[index + 1])
    changed[100] ^= 1
    write_frames(ten / "entries", [*payloads[: index + 1], bytes(changed), *payloads[index + 2 :]])
    with pytest.raises(LogTampered) as found:
        opened(ten)
    assert (found.value.first, found.value.last) == (index, index)


def test_damage_below_the_checkpoint_is_not_taken_for_a_crash(ten: Path) -> None:
    raw = bytearray((ten / "entries").read_bytes())
    raw[raw.index(frames(ten / "entries")[3]) + 5] ^= 1
    (ten / "entries").write_bytes(raw)
    with pytest.raises(LogTampered, match="broken") as found:
        opened(ten)
    assert found.value.first == 2


@pytest.mark.parametrize(("index", "named"), [(0, (0, 3)), (3, (0, 3)), (4, (4, 6)), (6, (4, 6))])
def test_a_rewritten_entry_below_the_checkpoint_is_found(ten: Path, index: int, named: tuple[int, int]) -> None:
    rewrite(ten, index, message(99))
    with pytest.raises(LogTampered, match="checkpoint was signed over") as found:
        opened(ten)
    assert (found.value.first, found.value.last) == named


def test_control_a_rewritten_entry_above_the_checkpoint_is_not_found(ten: Path) -> None:
    rewrite(ten, 8, message(99))
    with opened(ten) as log:
        assert log.read(8) == message(99)


def test_control_without_checkpoints_rewriting_is_not_found(tmp_path: Path) -> None:
    folder = tmp_path / "log"
    with TamperEvidentLog.create(folder, "transcript", "RELAY", TRUST, START) as made:
        made.append([message(n) for n in range(5)], START)
    rewrite(folder, 2, message(99))
    with opened(folder) as log:
        assert log.read(2) == message(99)


def test_a_checkpoint_after_every_entry_names_the_rewritten_entry(tmp_path: Path) -> None:
    folder = tmp_path / "log"
    with TamperEvidentLog.create(folder, "transcript", "RELAY", TRUST, START) as made:
        for n in range(5):
            made.append([message(n)], START)
            made.checkpoint(START)
    rewrite(folder, 2, message(99))
    with pytest.raises(LogTampered, match=r"^entry 2:"):
        opened(folder)


@pytest.mark.parametrize("kept", [0, 3, 6])
def test_truncation_below_the_checkpoint_is_found(ten: Path, kept: int) -> None:
    write_frames(ten / "entries", frames(ten / "entries")[: kept + 1])
    cut_keys(ten, kept)
    with pytest.raises(LogTampered, match="missing") as found:
        opened(ten)
    assert found.value.first == kept


def test_truncation_above_the_checkpoint_is_found_if_the_keys_are_left(ten: Path) -> None:
    write_frames(ten / "entries", frames(ten / "entries")[:9])
    with pytest.raises(LogTampered, match=r"^entry 8:"):
        opened(ten)


def test_control_truncation_above_the_checkpoint_with_the_keys_is_not_found(ten: Path) -> None:
    write_frames(ten / "entries", frames(ten / "entries")[:9])
    cut_keys(ten, 8)
    with opened(ten) as log:
        assert log.size == 8


def test_an_exchanged_removed_or_inserted_entry_is_found(ten: Path) -> None:
    payloads = frames(ten / "entries")
    for changed in (
        [*payloads[:2], payloads[3], payloads[2], *payloads[4:]],
        [*payloads[:2], *payloads[3:]],
        [*payloads[:2], payloads[1], *payloads[2:]],
    ):
        write_frames(ten / "entries", changed)
        with pytest.raises(LogTampered, match=r"^entry 1:"):
            opened(ten)


def test_an_entry_changed_under_an_open_log_is_found_when_read(ten: Path) -> None:
    with opened(ten) as log:
        rewrite(ten, 3, message(99))
        with pytest.raises(LogTampered, match=r"^entry 3:"):
            log.read(3)
        assert log.read(2) == message(2)
