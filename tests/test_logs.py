"""Logs: schemas, erasure and holds, crashes; and the attacks on them, each with its control."""

from __future__ import annotations

import itertools
import os
import shutil
import struct
import zlib
from collections.abc import Callable, Iterator
from datetime import datetime
from functools import partial
from pathlib import Path

import msgspec
import pytest
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from hypothesis import given, settings
from hypothesis import strategies as st

from nodes.checkpoints import (
    Checkpoint,
    check_checkpoint,
    check_checkpoint_consistent,
    check_disclosure,
)
from nodes.log_entries import (
    ArticleForty,
    Entry,
    TranscriptEntry,
    decode_entry,
    decode_header,
    decrypt_record,
    encode_entry,
    encrypt_entry,
    retention_end,
)
from nodes.log_errors import (
    BadCheckpoint,
    DisclosureRefused,
    EntryErased,
    EntryRefused,
    InconsistentCheckpoints,
    LogTampered,
    LogUnusable,
    OrderRefused,
    SplitView,
)
from nodes.log_frames import FrameFile
from nodes.log_holds import HoldOrder, LiftOrder, Order
from nodes.log_keys import KeySlots
from nodes.logs import LogKeys, TamperEvidentLog
from pets.errors import LineupError
from pets.merkle import MerkleTree, hash_leaf, verify_consistency, verify_inclusion
from pets.prf import derive_key, encode_labels
from pets.signatures import SigningKey

DAY = 86_400_000
START = 1_767_225_600_000  # 2026-01-01
LATER = retention_end(START) + DAY
OWNER, SUPERVISOR, STRANGER = (SigningKey.from_bytes(bytes([n]) * 64) for n in (1, 2, 3))


def signer(key: SigningKey) -> Callable[[bytes], bytes]:
    return partial(key.sign, context="log")


def verifier(key: SigningKey) -> Callable[[bytes, bytes], None]:
    return partial(key.verify_key.verify, context="log")


TRUST = LogKeys(signer(OWNER), verifier(OWNER), verifier(SUPERVISOR))


@pytest.fixture(autouse=True)
def _no_waiting_for_disks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fsync", lambda handle: None)


def message(n: int, signature: bytes | None = None) -> TranscriptEntry:
    return TranscriptEntry(bytes(16), "probe", "sent", "ROUTER", "ProbePart", n, bytes(32), signature, START + n)


def article(n: int = 0, replied: tuple[str, ...] = ("DE", "HU")) -> ArticleForty:
    reply = START + n + 5 if replied else None
    return ArticleForty("FR", START + n, reply, ("DE", "HU", "IT"), replied)


def opened(folder: Path, now: int = START + DAY, **options: object) -> TamperEvidentLog:
    return TamperEvidentLog.open(folder, TRUST, now, **options)  # type: ignore[arg-type]


@pytest.fixture
def log(tmp_path: Path) -> Iterator[TamperEvidentLog]:
    with TamperEvidentLog.create(tmp_path / "log", "transcript", "RELAY", TRUST, START) as made:
        yield made


@pytest.fixture
def ten(tmp_path: Path) -> Path:
    """A closed log: entries 0-3, checkpoint, 4-6, checkpoint, 7-9 in appends of one."""
    folder = tmp_path / "ten"
    with TamperEvidentLog.create(folder, "transcript", "RELAY", TRUST, START) as made:
        made.append([message(n) for n in range(4)], START + 1)
        made.checkpoint(START + 2)
        made.append([message(n) for n in range(4, 7)], START + 3)
        made.checkpoint(START + 4)
        for n in range(7, 10):
            made.append([message(n)], START + n)
    return folder


# Whoever can write the disk: the formats, written down a second time.


def frames(path: Path) -> list[bytes]:
    raw, found = path.read_bytes(), []
    while raw:
        (length,) = struct.unpack(">I", raw[:4])
        found.append(raw[8 : 8 + length])
        raw = raw[8 + length :]
    return found


def frame(payload: bytes) -> bytes:
    length = struct.pack(">I", len(payload))
    return length + struct.pack(">I", zlib.crc32(length + payload)) + payload


def write_frames(path: Path, payloads: list[bytes]) -> None:
    path.write_bytes(b"".join(map(frame, payloads)))


def slots(folder: Path) -> list[tuple[int, int, int, bytes]]:
    raw = (folder / "keys").read_bytes()
    return [struct.unpack(">QQQ32s", raw[at : at + 56]) for at in range(64, len(raw), 64)]


def cut_keys(folder: Path, count: int) -> None:
    raw = (folder / "keys").read_bytes()
    (folder / "keys").write_bytes(raw[: 64 + 64 * count])


def rewrite(folder: Path, index: int, entry: Entry) -> None:
    """Replace an entry under its own key: everything but the signed roots fits afterwards."""
    payloads = frames(folder / "entries")
    header = decode_header(payloads[0])
    _, _, created, secret = next(slot for slot in slots(folder) if slot[0] == index)
    payloads[index + 1] = encrypt_entry(encode_entry(entry, header.kind), secret, header, index, created)
    write_frames(folder / "entries", payloads)


# Schemas.


def test_the_article_40_log_has_exactly_requirement_9s_fields() -> None:
    assert ArticleForty.__struct_fields__ == ("requester", "request_time", "reply_time", "asked", "replied")


def test_the_transcript_log_has_exactly_its_fields() -> None:
    fields = ("query", "phase", "direction", "peer", "message", "sequence", "frame", "signature", "time")
    assert TranscriptEntry.__struct_fields__ == fields


def test_entries_of_both_schemas_come_back() -> None:
    for entry in (article(), article(3, ()), ArticleForty("FR", 0, None, (), ())):
        assert decode_entry(encode_entry(entry, "article-40"), "article-40") == entry
    for message_entry in (message(1), message(2, b"signature")):
        assert decode_entry(encode_entry(message_entry, "transcript"), "transcript") == message_entry


@pytest.mark.parametrize(
    "values",
    [
        ["FR", START, START + 1, ["DE"], ["DE"], "extra"],
        ["FR", START, START + 1, ["DE"]],
        ["FR", str(START), START + 1, ["DE"], ["DE"]],
        ["FR", -1, START + 1, ["DE"], ["DE"]],
        ["FR", float(START), START + 1, ["DE"], ["DE"]],
        ["fr", START, START + 1, ["DE"], ["DE"]],
        ["A person's name", START, START + 1, ["DE"], ["DE"]],
        ["FR", START, START + 1, ["DE", "DE"], ["DE"]],
        ["FR", START, START + 1, ["HU", "DE"], ["DE"]],
        ["FR", START, START + 1, ["DE"], ["HU"]],
        ["FR", START, None, ["DE"], ["DE"]],
        ["FR", START, START + 1, ["DE"], []],
        ["FR", START, START - 1, ["DE"], ["DE"]],
        {"requester": "FR"},
    ],
)
def test_what_does_not_fit_the_article_40_schema_is_refused(values: object) -> None:
    with pytest.raises(EntryRefused):
        decode_entry(msgspec.msgpack.encode(values), "article-40")


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("query", b"short"),
        ("phase", "Free text about a person"),
        ("direction", "lost"),
        ("peer", ""),
        ("message", "no message"),
        ("sequence", 2**32),
        ("sequence", True),
        ("frame", bytes(31)),
        ("signature", b""),
        ("signature", bytes(4097)),
        ("time", 2**47),
        ("time", 1.5),
        ("phase", object()),
    ],
)
def test_what_does_not_fit_the_transcript_schema_is_refused(log: TamperEvidentLog, field: str, value: object) -> None:
    with pytest.raises(EntryRefused):
        log.append([message(0), msgspec.structs.replace(message(1), **{field: value})], START)
    assert log.size == 0


def test_bytes_that_are_not_canonical_are_refused() -> None:
    data = encode_entry(message(5), "transcript")
    longer = data.replace(b"\xa9ProbePart\x05", b"\xa9ProbePart\xcc\x05")  # 5 in two bytes instead of one
    assert msgspec.msgpack.decode(longer, type=TranscriptEntry) == message(5)  # the control: msgspec takes it
    with pytest.raises(EntryRefused, match="canonical"):
        decode_entry(longer, "transcript")


def test_an_entry_of_the_other_schema_is_refused(log: TamperEvidentLog) -> None:
    with pytest.raises(EntryRefused, match="ArticleForty"):
        log.append([article()], START)


def test_an_entry_that_is_built_wrongly_is_refused(tmp_path: Path) -> None:
    with TamperEvidentLog.create(tmp_path / "log", "article-40", "RELAY", TRUST, START) as made:
        listed = ArticleForty("FR", START, START, ["DE"], ["DE"])  # type: ignore[arg-type]
        with pytest.raises(EntryRefused):
            made.append([listed], START)
    with pytest.raises(ValueError, match="not asked"):
        article(0, ("XX",))


# The tree, proofs and disclosures.


def test_the_root_is_rfc_9162s_over_the_records(ten: Path) -> None:
    tree = MerkleTree()
    for record in frames(ten / "entries")[1:]:
        tree.append(hash_leaf(record))
    with opened(ten) as log:
        assert (log.size, log.root) == (10, tree.root())
        assert [log.read(n) for n in range(10)] == [message(n) for n in range(10)]


def test_a_reopened_log_goes_on_where_it_was(ten: Path) -> None:
    with opened(ten) as log:
        older = log.last_checkpoint
        assert list(log.append([message(10), message(11)], START + DAY)) == [10, 11]
        newer = log.checkpoint(START + DAY)
        check_checkpoint_consistent(older, newer, log.consistency_proof(older.size, newer.size))
    with opened(ten) as log:
        assert log.last_checkpoint == newer
        assert log.read(11) == message(11)


def test_a_disclosed_entry_holds_and_nothing_else_does(ten: Path) -> None:
    with opened(ten) as log:
        checkpoint = log.checkpoint(START + DAY)
        disclosure, header = log.disclose(4, 10), log.header
        other = log.disclose(5, 10)
        earlier = log.checkpoint_number(1)
    assert check_disclosure(disclosure, header, checkpoint) == message(4)
    for field, value in (
        ("index", 5),
        ("created", disclosure.created + 1),
        ("record", other.record),
        ("record", disclosure.record[:-1]),
        ("secret", other.secret),
        ("size", 9),
        ("path", other.path),
        ("path", disclosure.path[:-1]),
    ):
        with pytest.raises(DisclosureRefused):
            check_disclosure(msgspec.structs.replace(disclosure, **{field: value}), header, checkpoint)
    with pytest.raises(DisclosureRefused, match="checkpoint of 4"):
        check_disclosure(disclosure, header, earlier)
    with pytest.raises(BadCheckpoint):
        check_disclosure(disclosure, msgspec.structs.replace(header, owner="OTHER"), checkpoint)


def test_records_do_not_tell_how_many_databases_replied(tmp_path: Path) -> None:
    with TamperEvidentLog.create(tmp_path / "log", "article-40", "RELAY", TRUST, START) as made:
        made.append([article(0, ()), article(1), ArticleForty("FR", 0, None, (), ())], START)
    assert {len(record) for record in frames(tmp_path / "log" / "entries")[1:]} == {32 + 256 + 16}


# Erasure and holds.


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


def order(
    log: TamperEvidentLog,
    number: int,
    span: tuple[int, int | None] | None,
    key: SigningKey = SUPERVISOR,
    time: int = START + DAY,
) -> Order:
    """A signed hold over `span`, or the lifting of one."""
    log_id = log.header.log
    made: Order = LiftOrder(log_id, number, time) if span is None else HoldOrder(log_id, number, *span, time)
    return msgspec.structs.replace(made, signature=signer(key)(made.signed()))


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


# Attacks: each with its control.


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


def test_a_folder_rolled_back_is_found_by_what_others_were_given(ten: Path, tmp_path: Path) -> None:
    shutil.copytree(ten, tmp_path / "old")
    with opened(ten) as log:
        log.append([message(10)], START + DAY)
        given = log.checkpoint(START + DAY)
    with opened(ten, witnessed=[given]):
        pass
    with opened(tmp_path / "old"):
        pass  # the control: without a witness
    with pytest.raises(LogTampered, match="missing"):
        opened(tmp_path / "old", witnessed=[given])


def test_a_log_rewritten_and_signed_anew_by_its_owner_is_found_by_what_others_were_given(ten: Path) -> None:
    with opened(ten) as log:
        given = log.checkpoint(START + DAY)
    rewrite(ten, 5, message(99))
    write_frames(ten / "checkpoints", frames(ten / "checkpoints")[:2])
    with opened(ten) as log:
        log.checkpoint(START + DAY)
    with opened(ten):
        pass  # the control: the owner's own folder fits together
    with pytest.raises(LogTampered) as found:
        opened(ten, witnessed=[given])
    assert found.value.first <= 5 <= found.value.last


def test_a_checkpoint_signed_by_another_or_for_another_log_is_refused(ten: Path, log: TamperEvidentLog) -> None:
    payloads = frames(ten / "checkpoints")
    last = msgspec.msgpack.decode(payloads[-1], type=Checkpoint)
    forged = msgspec.structs.replace(last, signature=signer(STRANGER)(last.signed()))
    for wrong in (forged, msgspec.structs.replace(last, size=6), log.last_checkpoint):
        write_frames(ten / "checkpoints", [*payloads[:-1], msgspec.msgpack.encode(wrong)])
        with pytest.raises(BadCheckpoint):
            opened(ten)
    write_frames(ten / "checkpoints", [payloads[0], payloads[2], payloads[1]])
    with pytest.raises(BadCheckpoint, match="goes back"):
        opened(ten)
    write_frames(ten / "checkpoints", [])
    with pytest.raises(BadCheckpoint, match="damaged"):
        opened(ten)


def test_a_witness_cannot_make_up_a_checkpoint(ten: Path, log: TamperEvidentLog) -> None:
    with opened(ten) as other:
        real = other.last_checkpoint
    made_up = msgspec.structs.replace(real, root=bytes(32))
    forged = msgspec.structs.replace(made_up, signature=signer(STRANGER)(made_up.signed()))
    for wrong in (made_up, forged, log.last_checkpoint):
        with pytest.raises(BadCheckpoint):
            opened(ten, witnessed=[wrong])
    with pytest.raises(BadCheckpoint, match="a checkpoint of log"):
        check_checkpoint(log.last_checkpoint, real.log, TRUST.verify)


def test_a_broken_checkpoint_before_good_ones_is_not_taken_for_a_crash(ten: Path) -> None:
    raw = bytearray((ten / "checkpoints").read_bytes())
    raw[len(frame(frames(ten / "checkpoints")[0])) + 20] ^= 1
    (ten / "checkpoints").write_bytes(raw)
    with pytest.raises(BadCheckpoint, match="damaged after the first 1"):
        opened(ten)


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


def test_a_log_that_shows_two_peers_two_histories_of_one_size_is_found(ten: Path, tmp_path: Path) -> None:
    fork = tmp_path / "fork"
    shutil.copytree(ten, fork)
    with opened(ten) as log, opened(fork) as other:
        identity = log.header.log
        for each, n in ((log, 10), (other, 99)):
            each.append([message(n)], START + DAY)
        before = log.last_checkpoint
        shown = [source.checkpoint(START + DAY) for source in (log, other)]
        # The control: each peer alone sees a log that holds together.
        for source, checkpoint in zip((log, other), shown, strict=True):
            proof = source.consistency_proof(before.size, checkpoint.size)
            check_checkpoint_consistent(before, checkpoint, proof)
        with pytest.raises(SplitView) as found:
            check_checkpoint_consistent(*shown, ())
    for checkpoint in (found.value.older, found.value.newer):  # proof for anyone who knows the log's key
        check_checkpoint(checkpoint, identity, TRUST.verify)
    assert found.value.older.size == found.value.newer.size
    assert found.value.older.root != found.value.newer.root


def test_a_split_view_of_two_sizes_is_found_because_no_proof_exists(ten: Path, tmp_path: Path) -> None:
    fork = tmp_path / "fork"
    shutil.copytree(ten, fork)
    with opened(ten) as log, opened(fork) as other:
        log.append([message(10)], START + DAY)
        other.append([message(99), message(100)], START + DAY)
        older, newer = log.checkpoint(START + DAY), other.checkpoint(START + DAY)
        for source in (log, other):
            proof = source.consistency_proof(older.size, min(newer.size, source.size))
            with pytest.raises(InconsistentCheckpoints):
                check_checkpoint_consistent(older, newer, proof)


def test_an_honest_log_proves_every_pair(ten: Path) -> None:
    with opened(ten) as log:
        seen = [log.checkpoint_number(n) for n in range(3)]
        seen.append(log.checkpoint(START + DAY))
        seen.append(log.checkpoint(START + 2 * DAY))
        for older, newer in itertools.combinations(seen, 2):
            check_checkpoint_consistent(older, newer, log.consistency_proof(older.size, newer.size))


def test_a_peer_cannot_make_up_a_split(ten: Path) -> None:
    with opened(ten) as log:
        made_up = msgspec.structs.replace(log.checkpoint(START + DAY), root=bytes(32))
        with pytest.raises(BadCheckpoint):
            check_checkpoint(made_up, log.header.log, TRUST.verify)


def test_checkpoints_that_do_not_fit_are_refused(ten: Path, log: TamperEvidentLog) -> None:
    with opened(ten) as other:
        older, newer = other.checkpoint_number(1), other.checkpoint_number(2)
        proof = other.consistency_proof(4, 7)
    check_checkpoint_consistent(older, newer, proof)
    with pytest.raises(InconsistentCheckpoints):
        check_checkpoint_consistent(newer, msgspec.structs.replace(older, time=newer.time), proof)
    with pytest.raises(InconsistentCheckpoints):
        check_checkpoint_consistent(older, newer, proof[:-1])
    with pytest.raises(BadCheckpoint, match="two logs"):
        check_checkpoint_consistent(log.last_checkpoint, newer, [])
    with pytest.raises(BadCheckpoint, match="before"):
        check_checkpoint_consistent(msgspec.structs.replace(older, time=newer.time + 1), newer, proof)


# GCM does not commit to its key. Blocks as in NIST SP 800-38D, section 6: bit 0 is the leftmost.


def times(x: int, y: int) -> int:
    product = 0
    for i in range(128):
        if x >> (127 - i) & 1:
            product ^= y
        y = y >> 1 ^ (0xE1 << 120 if y & 1 else 0)
    return product


def inverse(x: int) -> int:
    result = 1 << 127
    for _ in range(127):
        x = times(x, x)
        result = times(result, x)
    return result


def block(key: bytes, counter: int) -> int:
    encryptor = Cipher(algorithms.AES(key), modes.ECB()).encryptor()
    return int.from_bytes(encryptor.update(counter.to_bytes(16, "big")), "big")


def tag_without_last_block(key: bytes, aad: bytes, blocks: list[bytes]) -> tuple[int, int]:
    """(the tag if the last block of text were zero, what that block is multiplied with)."""
    h, total = block(key, 0), 0
    padded = aad + bytes(-len(aad) % 16)
    parts = [padded[at : at + 16] for at in range(0, len(padded), 16)]
    parts += [*blocks, bytes(16), struct.pack(">QQ", 8 * len(aad), 128 * (len(blocks) + 1))]
    for part in parts:
        total = times(total ^ int.from_bytes(part, "big"), h)
    return total ^ block(key, 1), times(h, h)


def test_an_entry_cannot_be_made_to_open_under_two_secrets(log: TamperEvidentLog) -> None:
    secrets = bytes(32), bytes([1]) * 32
    keys = [derive_key(secret, "log-entry", log.header.log, 0) for secret in secrets]
    aad = encode_labels("blind-lineup/log-entry/v1", log.header.log, 0, START)
    blocks = [bytes([n]) * 16 for n in range(15)]
    (one, p), (other, q) = (tag_without_last_block(key, aad, blocks) for key in keys)
    last = times(one ^ other, inverse(p ^ q))
    sealed = b"".join(blocks) + last.to_bytes(16, "big") + (one ^ times(last, p)).to_bytes(16, "big")
    texts = {AESGCM(key).decrypt(bytes(12), sealed, aad) for key in keys}
    assert len(texts) == 2  # the control: GCM alone takes both
    with pytest.raises(InvalidTag):
        AESGCM(keys[0]).decrypt(bytes(12), sealed, aad + b"x")
    record = derive_key(secrets[0], "log-commitment", log.header.log, 0) + sealed
    with pytest.raises(DisclosureRefused, match="another secret"):
        decrypt_record(record, secrets[1], log.header, 0, START)


# Crashes and files.


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


def test_an_entry_changed_under_an_open_log_is_found_when_read(ten: Path) -> None:
    with opened(ten) as log:
        rewrite(ten, 3, message(99))
        with pytest.raises(LogTampered, match=r"^entry 3:"):
            log.read(3)
        assert log.read(2) == message(2)


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


def test_time_never_goes_backwards(ten: Path) -> None:
    with opened(ten, START + DAY) as log:
        assert log.checkpoint(START).time == START + DAY
    with opened(ten, START) as log:
        assert log.checkpoint(START).time == START + DAY


def test_a_checkpoint_that_the_owners_key_does_not_verify_is_not_written(tmp_path: Path) -> None:
    wrong = LogKeys(signer(STRANGER), verifier(OWNER), verifier(SUPERVISOR))
    with pytest.raises(BadCheckpoint):
        TamperEvidentLog.create(tmp_path / "log", "transcript", "RELAY", wrong, START)


def test_asking_for_what_is_not_there_is_refused(log: TamperEvidentLog) -> None:
    for ask in (lambda: log.read(0), lambda: log.read(-1), lambda: log.checkpoint_number(1)):
        with pytest.raises(LogUnusable):
            ask()
    assert log.append([], START) == range(0)
    with pytest.raises(EntryRefused):
        log.append([message(0, bytes(5000))], START)
    assert issubclass(LogTampered, LineupError)
