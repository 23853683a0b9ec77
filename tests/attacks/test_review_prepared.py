"""Findings of a review of prepared queries, each with its control."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable
from contextlib import closing
from pathlib import Path

import msgspec
import numpy as np
import numpy.typing as npt
import pytest

import protocol.form
import protocol.searching
from nodes.cli.prepared import (
    PreparationFileError,
    _tombstone_start,
    check_no_copies,
    open_preparation,
    write_preparation,
)
from pets.bits import Bits
from pets.params import SHARE_BITS
from pets.planes import from_planes
from pets.replicated import Masks
from protocol.compute import REQUESTER as REQUESTER_SEAT
from protocol.compute import Ring, other
from protocol.errors import Disagreement
from protocol.local import LocalPreparation
from protocol.messages import AdmissionBit, Echo, Gates, Joined, MaskedScores
from protocol.steps import Send, Step, receive
from tests.attacks.test_prepared import MALFORMED, copied, gallery, pair, scene, spoiled, trio
from tests.kit.parties import HOLDER, REQUESTER, ROUTER, Attack, Delivery, forge
from tests.kit.trio import Trio

# --- one answer to an announcement, the same to all ---

FIRST, SECOND = f"{HOLDER}-0", f"{HOLDER}-1"


def two_nonces(sender: str, receiver: str) -> Attack:
    """A party that answers `receiver` with another nonce than everybody else: two parties derive two query ids."""

    def attack(d: Delivery) -> Iterable[bytes] | None:
        return [forge(d.frame, nonce=bytes(32))] if d.of(Joined, sender, receiver) else None

    return attack


@pytest.mark.parametrize(
    ("sender", "receiver"), [(ROUTER, HOLDER), (ROUTER, REQUESTER), (HOLDER, ROUTER), (HOLDER, REQUESTER)]
)
def test_a_party_with_two_nonces_stops_the_search_before_anything_is_opened(sender: str, receiver: str) -> None:
    search = trio(attack=two_nonces(sender, receiver)).search(scene()[0])
    search.assert_stopped(Disagreement)
    assert not search.sent(AdmissionBit)


def test_a_holder_with_two_nonces_cannot_spoil_the_ring_of_another() -> None:
    search = pair(attack=two_nonces(FIRST, SECOND)).accept()
    before = len(search.deliveries)
    search.search(scene()[0])
    assert search.searching is not None
    assert isinstance(search.searching.holders[SECOND].sessions[SECOND].failure, Disagreement)
    assert not any(d.of(Gates, SECOND) for d in search.deliveries[before:])
    assert SECOND not in search.searching.requester.answers


def test_control_without_the_query_id_random_bits_are_opened_as_if_they_were_answers(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Some 1 search in 60 then ends as `too_many_candidates` with no error at all, though row 17 alone hits."""

    def same(ring: Ring, digest: bytes) -> Step[None]:
        peer = ring.names[other(ring.index)]
        yield Send(peer, Echo(digest))
        assert (yield from receive(peer, Echo)).digest == digest

    monkeypatch.setattr(protocol.searching, "check_same_query", lambda *_: None)
    for module in (protocol.form, protocol.filtering, protocol.searching):
        monkeypatch.setattr(module, "same_from_holder", same)
    for sender, receiver in ((ROUTER, HOLDER), (HOLDER, ROUTER)):
        search = trio(attack=two_nonces(sender, receiver)).search(scene()[0])
        assert search.sent(AdmissionBit)
        assert search.searching is not None
        answer = search.searching.requester.answers.get(HOLDER)
        assert answer is None or answer.status != "released"


# --- the end of seeds ---


def test_the_machines_that_prepared_keep_no_seed_from_which_the_mask_could_be_drawn_again() -> None:
    """Whoever reads u later at the holder has the probe from r: its seed must have one owner, which erases it."""
    search = trio().prepare()
    assert search.made is not None
    assert search.preparing is not None
    assert search.made.requester.seed != bytes(32)
    assert search.made.holders[HOLDER].seed != bytes(32), "control: the preparation itself has them"
    asking, answering = search.preparing.requester, search.preparing.holders[HOLDER]
    assert not any((asking._seed, asking._holder_seed, asking._router_seed, answering._seed, answering._received))
    search.search(scene()[0])
    assert search.outcome().hits


# --- files of preparations that somebody else wrote ---


def forged_file(folder: Path, change: Callable[[LocalPreparation], None]) -> Path:
    """A file of a sound preparation that was changed."""
    made = trio().prepare().made
    assert made is not None
    change(made)
    write_preparation(folder / "made", made, gallery())
    return folder / "made"


def another_seat(made: LocalPreparation) -> None:
    made.requester.rings[HOLDER].seat, made.requester.rings[HOLDER].known = 2, None


def negative_attempt(made: LocalPreparation) -> None:
    ring = made.router.rings[HOLDER]
    ring.versions = tuple(msgspec.structs.replace(version, attempt=-1) for version in ring.versions)


def no_rings(made: LocalPreparation) -> None:
    made.holders[HOLDER].rings.clear()


@pytest.mark.parametrize("change", [another_seat, negative_attempt, no_rings])
def test_a_forged_file_is_refused_where_it_is_read(change: Callable[[LocalPreparation], None], tmp_path: Path) -> None:
    with pytest.raises(PreparationFileError):
        open_preparation(forged_file(tmp_path, change))


def test_a_tombstone_that_was_cut_off_or_says_nonsense_is_still_one(tmp_path: Path) -> None:
    path = forged_file(tmp_path, lambda _: None)
    for rest in (b"", b"\0", b"\x7f\xf8" + bytes(6), b"\x7f\xf0" + bytes(6)):
        path.write_bytes(_tombstone_start() + rest)
        with pytest.raises(PreparationFileError, match="was used"):
            open_preparation(path)


def test_a_copy_of_a_preparation_in_the_same_command_is_refused(tmp_path: Path) -> None:
    path = forged_file(tmp_path, lambda _: None)
    copy = tmp_path / "copy"
    shutil.copy(path, copy)
    with closing(open_preparation(path)) as first, closing(open_preparation(copy)) as second:
        check_no_copies([first])
        with pytest.raises(PreparationFileError, match="is a copy of"):
            check_no_copies([first, second])


# --- limits ---


def published(search: Trio) -> npt.NDArray[np.int64]:
    """e of the rows, as the requester got it."""
    data = search.sent(MaskedScores, HOLDER, REQUESTER)[0].message.data  # type: ignore[union-attr]
    planes = np.frombuffer(data, "<u8").astype(np.uint64).reshape(SHARE_BITS, -1)
    return from_planes(planes).astype(np.int64)[:200]


def test_limit_with_holder_and_router_restored_a_requester_reads_score_differences_of_every_row() -> None:
    """m is used twice then: e - e' is D·(q - q'), with no lie in any message. A router reads the same."""
    probe, stranger, rows = scene()
    first = trio().prepare()
    assert first.made is not None
    again = trio()
    again.made = copied(first.made)
    gap = (published(first.search(probe)) - published(again.search(stranger))) % 2**SHARE_BITS
    gap[gap >= 2 ** (SHARE_BITS - 1)] -= 2**SHARE_BITS
    due = rows.astype(np.int64) @ (probe.astype(np.int64) - stranger)
    assert np.abs(gap / 16 - due).max() < 0.5


def test_limit_a_requester_that_turns_one_gate_of_the_form_check_gets_any_mask_accepted(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As in admission: the committed seed of the mask makes it provable afterwards, nothing does so online."""
    spoiled(monkeypatch, *MALFORMED["X^5 in one"])
    original, rounds = protocol.compute.and_local, [0, 0]

    def turned(masks: Masks, x: Bits, y: Bits, threads: int = 1) -> Bits:
        z = original(masks, x, y, threads)
        if masks.party == REQUESTER_SEAT:
            rounds[0] += 1
            z.parts[0, 0, 0] ^= np.uint64(rounds[0] == rounds[1])
        return z

    with monkeypatch.context() as patch:
        patch.setattr(protocol.compute, "and_local", turned)
        assert trio().prepare().made is None, "control: honest in its gates, it is refused"
        rounds[:] = 0, rounds[0]  # the last gate before the bit is opened
        assert trio().prepare().made is not None
