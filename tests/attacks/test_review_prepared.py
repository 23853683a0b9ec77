"""Findings of a review of prepared queries, each with its control."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable
from contextlib import closing
from pathlib import Path

import msgspec
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
from protocol.compute import Ring, other
from protocol.errors import Disagreement
from protocol.local import LocalPreparation
from protocol.messages import AdmissionBit, Echo, Gates, Joined
from protocol.steps import Send, Step, receive
from tests.attacks.test_prepared import gallery, pair, scene, trio
from tests.kit.parties import HOLDER, REQUESTER, ROUTER, Attack, Delivery, forge

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
