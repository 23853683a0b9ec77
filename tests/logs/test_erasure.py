"""Entries of a log are erased at three years, unless a supervisor's order holds them; proofs stay valid."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path

import msgspec
import pytest

from nodes.logs.checkpoints import check_disclosure
from nodes.logs.entries import retention_end
from nodes.logs.errors import EntryErased, LogTampered, LogUnusable, OrderRefused
from nodes.logs.holds import HoldOrder
from nodes.logs.keys import KeySlots
from nodes.logs.log import TamperEvidentLog
from pets.merkle import hash_leaf, verify_consistency, verify_inclusion
from tests.kit.logs import DAY, LATER, OWNER, START, STRANGER, frames, message, opened, order, slots


def test_entries_are_erased_at_three_years_and_proofs_stay_valid(ten: Path) -> None:
    secrets = {index: secret for index, _, _, secret in slots(ten)}
    with opened(ten) as log:
        checkpoint, root = log.checkpoint(START + DAY), log.root
        before, records = log.disclose(9, 10), frames(ten / "entries")[1:]
        log.append([message(10)], START + 2 * DAY)
        due = retention_end(START + 3)
        assert log.erase_due(retention_end(START + 1) - 1) == ()
        assert log.erase_due(due) == tuple(range(7))
        assert log.erase_due(due) == ()
        for index in range(7):
            with pytest.raises(EntryErased):
                log.read(index)
            with pytest.raises(EntryErased):
                log.disclose(index, 10)
        assert [log.read(n) for n in range(7, 11)] == [message(n) for n in range(7, 11)]
        assert check_disclosure(before, log.header, checkpoint) == message(9)
        assert log.last_checkpoint.root == root
    on_disk = b"".join(path.read_bytes() for path in ten.iterdir())
    assert not any(secrets[index] in on_disk for index in range(7))
    assert all(secrets[index] in on_disk for index in range(7, 10))  # the control
    with opened(ten, due) as log:
        newer = log.checkpoint(due)
        verify_consistency(10, 11, log.consistency_proof(10, 11), checkpoint.root, newer.root)
        verify_inclusion(hash_leaf(records[0]), 0, 11, log.inclusion_proof(0, 11), newer.root)
        assert log.append([message(11)], due) == range(11, 12)
        assert log.erase_due(LATER) == (7, 8, 9)
        assert log.read(11) == message(11)
    assert frames(ten / "entries")[1:11] == records


def test_a_slot_is_overwritten_in_place_before_the_file_is_rewritten(
    ten: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    secrets = {index: secret for index, _, _, secret in slots(ten)}
    monkeypatch.setattr(KeySlots, "_compact", lambda self: None)
    with opened(ten) as log:
        log.erase_due(retention_end(START + 1))
    raw = (ten / "keys").read_bytes()
    assert not any(secrets[index] in raw for index in range(4))
    assert raw[64 : 64 + 4 * 64] == bytes(4 * 64)
    monkeypatch.undo()
    with opened(ten, LATER) as log, pytest.raises(EntryErased):  # a crash before the rewriting changes nothing
        log.read(3)


@pytest.mark.parametrize(
    ("created", "end"),
    [("2026-01-01", "2029-01-01"), ("2024-02-29", "2027-03-01"), ("2025-02-28", "2028-02-28")],
)
def test_three_years_are_calendar_years(created: str, end: str) -> None:
    def milliseconds(day: str) -> int:
        return int(datetime.fromisoformat(f"{day}T00:00:00+00:00").timestamp()) * 1000

    assert retention_end(milliseconds(created) + 17) == milliseconds(end) + 17


def test_a_hold_stops_erasure_until_it_is_lifted_also_after_reopening(ten: Path) -> None:
    with opened(ten) as log:
        log.obey(order(log, 0, (2, 4)))
        log.obey(order(log, 1, (9, None)))
        assert log.erase_due(LATER) == (0, 1, 5, 6, 7, 8)
    with opened(ten, LATER) as log:
        assert log.erase_due(LATER) == ()
        log.obey(order(log, 0, None))
        assert log.erase_due(LATER) == (2, 3, 4)
        log.obey(order(log, 1, None))
        assert log.erase_due(LATER) == (9,)


def test_an_order_that_is_forged_replayed_or_for_another_log_is_refused(ten: Path, log: TamperEvidentLog) -> None:
    with opened(ten) as held:
        first = order(held, 0, (0, 5))
        held.obey(first)
        for wrong in (
            first,
            order(held, 1, (0, 5), STRANGER),
            order(held, 1, (0, 5), OWNER),
            order(log, 1, (0, 5)),
            order(held, 2, (0, 5)),
            order(held, 1, (5, 4)),
            order(held, 1, None),
            order(held, 0, None, STRANGER),
            msgspec.structs.replace(first, number=1),
            HoldOrder(held.header.log, 1, -1, None, START),
        ):
            with pytest.raises(OrderRefused):
                held.obey(wrong)
        held.obey(order(held, 0, None))
        with pytest.raises(OrderRefused, match="expected 1"):
            held.obey(first)  # lifted: it does not come back
    with opened(ten) as held:
        assert len(held.erase_due(LATER)) == 10


def test_a_hold_that_comes_after_erasure_accuses_nobody(ten: Path) -> None:
    with opened(ten, LATER) as log:
        assert len(log.erase_due(LATER)) == 10
        log.obey(order(log, 0, (0, 9), time=LATER))
    with opened(ten, LATER):
        pass


def test_an_order_cut_short_is_dropped_and_a_broken_one_is_not(ten: Path) -> None:
    with opened(ten) as log:
        log.obey(order(log, 0, (0, 0)))
        log.obey(order(log, 1, (1, 1)))
    raw = (ten / "holds").read_bytes()
    (ten / "holds").write_bytes(b"\x00\x00\xff" + raw[3:])
    with pytest.raises(LogUnusable, match="holds"):
        opened(ten)
    (ten / "holds").write_bytes(raw[:-1])
    with opened(ten) as log:
        log.obey(order(log, 1, (2, 2)))
        assert len(log.erase_due(LATER)) == 8
        assert log.read(2) == message(2)


def destroy_key(folder: Path, index: int) -> None:
    raw = bytearray((folder / "keys").read_bytes())
    raw[64 + 64 * index : 128 + 64 * index] = bytes(64)
    (folder / "keys").write_bytes(raw)


def test_a_key_destroyed_before_three_years_is_found(ten: Path) -> None:
    destroy_key(ten, 5)
    with pytest.raises(LogTampered, match=r"^entry 5: its key is gone before"):
        opened(ten, retention_end(START + 2) - 1)  # the checkpoint of START + 2 does not have it yet
    with opened(ten, retention_end(START + 2)):
        pass  # the control: at that age it may be gone


def test_a_key_destroyed_in_spite_of_a_hold_is_found(ten: Path) -> None:
    with opened(ten) as log:
        log.obey(order(log, 0, (5, 5)))
    destroy_key(ten, 4)
    destroy_key(ten, 5)
    with pytest.raises(LogTampered, match=r"^entry 5: .* held"):
        opened(ten, LATER)
    (ten / "holds").write_bytes(b"")
    with opened(ten, LATER):
        pass  # the control: without the order
