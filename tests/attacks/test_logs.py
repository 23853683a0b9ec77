"""What two parties' logs give away together, and what one log's hashes let somebody guess."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence

import numpy as np
import numpy.typing as npt
import pytest

from nodes.verify.format import HARMLESS, Record, content_digest, decode_bundle
from pets.params import SHARE_BITS
from pets.planes import from_planes
from pets.prf import Keystream, derive_key
from protocol.compare import threshold_offset
from protocol.compute import HOLDER, REQUESTER, ROUTER
from protocol.messages import AnyMessage, InputShare, PairSecret, Release
from protocol.release import pack_release
from protocol.terms import Terms, query_id
from tests.kit.evidence import ES, EU, FR, World
from tests.kit.galleries import scores

SEATS = {ES: HOLDER, FR: REQUESTER, EU: ROUTER}
PAIRS = list(itertools.combinations(SEATS, 2))


def records(world: World, query: bytes, owners: Iterable[str]) -> list[tuple[str, Record]]:
    """(owner, record) of the evidence that some parties kept."""
    files = world.bundles(query, owners)
    return [(owner, record) for owner, data in files.items() for record in decode_bundle(data)[1].records]


def said(kept: Sequence[tuple[str, Record]], kind: type[AnyMessage]) -> dict[str, list[AnyMessage]]:
    """Sender -> its messages of a kind, as far as the logs still have them, in order."""
    found: dict[tuple[str, int], AnyMessage] = {}
    for owner, record in kept:
        if isinstance(record.message, kind):
            found[owner if record.direction == "sent" else record.peer, record.sequence] = record.message
    return {name: [found[key] for key in sorted(found) if key[0] == name] for name in {key[0] for key in found}}


def identity(kept: Sequence[tuple[str, Record]]) -> bytes:
    """The query id, which everybody's evidence shows."""
    announce = next(record.message for _, record in kept if record.kind == "Announce")
    joined = {
        owner if record.direction == "sent" else record.peer: record.message
        for owner, record in kept
        if record.kind == "Joined"
    }
    return query_id(announce, joined)  # type: ignore[arg-type]


def rebuilt_scores(kept: Sequence[tuple[str, Record]]) -> npt.NDArray[np.int64] | None:
    """Every score of the first chunk at the first rung; None where the logs lack the bytes.

    Party i's input v travels as v ^ F(k_{i+1}); k_j is what party j sends to its predecessor. Three inputs add up.
    """
    secrets, inputs = said(kept, PairSecret), said(kept, InputShare)
    total: npt.NDArray[np.int64] | None = None
    for name, seat in SEATS.items():
        following = next(other for other, place in SEATS.items() if place == (seat + 1) % 3)
        if following not in secrets or len(inputs.get(name, [])) < 2:
            return None
        pair, masked = secrets[following][0], inputs[name][1]  # the first input is admission's
        assert isinstance(pair, PairSecret)
        assert isinstance(masked, InputShare)
        mask = Keystream(derive_key(pair.secret, "masks", identity(kept), ES, "compare", 0, 0))
        planes = np.frombuffer(masked.data, "<u8").reshape(SHARE_BITS, -1)
        value = from_planes(planes ^ mask.words(*planes.shape)).astype(np.int64)
        total = value if total is None else total + value
    assert total is not None
    announce = next(record.message for _, record in kept if record.kind == "Announce")
    terms = Terms.announced(announce)  # type: ignore[arg-type]
    shifted = (total + threshold_offset(terms.theta(0), terms.params)) % 2**SHARE_BITS
    signed = shifted - (shifted >= 2 ** (SHARE_BITS - 1)) * 2**SHARE_BITS
    rounded: npt.NDArray[np.int64] = np.rint(signed * terms.params.t / 2**SHARE_BITS).astype(np.int64)
    return rounded


@pytest.mark.parametrize("owners", PAIRS, ids="-".join)
def test_two_logs_together_hold_no_byte_from_which_a_score_can_be_rebuilt(
    world: World, query: bytes, owners: tuple[str, str]
) -> None:
    kept = records(world, query, owners)
    assert rebuilt_scores(kept) is None
    assert {type(record.message) for _, record in kept if record.message is not None} <= set(HARMLESS)
    assert {record.kind for _, record in kept} >= {"PairSecret", "InputShare", "Gates"}


@pytest.mark.parametrize("owners", PAIRS, ids="-".join)
def test_control_two_logs_that_keep_the_bytes_rebuild_every_score(
    world: World, monkeypatch: pytest.MonkeyPatch, owners: tuple[str, str]
) -> None:
    monkeypatch.setattr("nodes.evidence.recorder.HARMLESS", (*HARMLESS, PairSecret, InputShare))
    query = world.query((ES,))
    rebuilt = rebuilt_scores(records(world, query, owners))
    assert rebuilt is not None
    templates = world.galleries[ES].templates
    assert np.array_equal(rebuilt[: len(templates)], scores(templates, world.probe))


# --- guessing what a hash stands for ---


def released_guess(world: World, query: bytes, owner: str, salt: bytes) -> list[tuple[str, ...]]:
    """Which reference numbers the hash of the release frame fits: none, or one or two of a list at hand."""
    record = next(r for _, r in records(world, query, [owner]) if r.kind == "Release")
    references = world.galleries[ES].references
    assert references is not None
    likely = [references[row] for row in (*range(90, 112), *range(190, 210))]
    guesses = [(), *((one,) for one in references), *itertools.permutations(likely, 2)]
    found = []
    for guess in guesses:
        if content_digest(Release(pack_release(guess, 10).slots, salt)) == record.content:
            found.append(guess)
    return found


def known_salt(monkeypatch: pytest.MonkeyPatch) -> None:
    original = pack_release

    def packed(references: Sequence[str], cap: int) -> Release:
        return Release(original(references, cap).slots, bytes(32))

    monkeypatch.setattr("protocol.holder.pack_release", packed)


@pytest.mark.parametrize("owner", [FR, ES])
def test_who_was_released_cannot_be_guessed_from_the_hash_of_the_release(
    world: World, query: bytes, owner: str
) -> None:
    assert released_guess(world, query, owner, bytes(32)) == []


@pytest.mark.parametrize("owner", [FR, ES])
def test_control_without_a_salt_whoever_has_the_references_finds_who_hit(
    world: World, monkeypatch: pytest.MonkeyPatch, owner: str
) -> None:
    known_salt(monkeypatch)
    found = released_guess(world, world.query((ES,)), owner, bytes(32))
    references = world.galleries[ES].references
    assert references is not None
    assert [set(guess) for guess in found] == [{references[200], references[201]}]
