"""Signed checkpoints: what others were given, two histories of one log, and what does not fit."""

from __future__ import annotations

import itertools
import shutil
from pathlib import Path

import msgspec
import pytest

from nodes.logs.checkpoints import (
    BadCheckpoint,
    Checkpoint,
    InconsistentCheckpoints,
    SplitView,
    check_checkpoint,
    check_checkpoint_consistent,
)
from nodes.logs.errors import LogTampered
from nodes.logs.log import LogKeys, TamperEvidentLog
from tests.kit.logs import (
    DAY,
    OWNER,
    START,
    STRANGER,
    SUPERVISOR,
    TRUST,
    frame,
    frames,
    message,
    opened,
    rewrite,
    signer,
    verifier,
    write_frames,
)


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


def test_time_never_goes_backwards(ten: Path) -> None:
    with opened(ten, START + DAY) as log:
        assert log.checkpoint(START).time == START + DAY
    with opened(ten, START) as log:
        assert log.checkpoint(START).time == START + DAY


def test_a_checkpoint_that_the_owners_key_does_not_verify_is_not_written(tmp_path: Path) -> None:
    wrong = LogKeys(signer(STRANGER), verifier(OWNER), verifier(SUPERVISOR))
    with pytest.raises(BadCheckpoint):
        TamperEvidentLog.create(tmp_path / "log", "transcript", "RELAY", wrong, START)
