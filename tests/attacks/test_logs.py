"""What two parties' logs give away together, and what one log's hashes let somebody guess."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence

import numpy as np
import numpy.typing as npt
import pytest

from nodes.verify.format import HARMLESS, Record, content_digest, decode_bundle, preparation_inside
from pets import ntt, residues
from pets.keys import expand_secret
from pets.params import SHARE_BITS
from pets.planes import from_planes
from pets.prf import Keystream, derive_key
from pets.rounding import round_shares
from protocol.compare import threshold_offset
from protocol.messages import AnyMessage, KeySeed, MaskedScores, PairSecret, PreparedBlocks, Release, Search
from protocol.release import Released, pack_release
from protocol.terms import Terms
from protocol.wire import residue_array
from tests.kit.evidence import ES, EU, FR, World
from tests.kit.galleries import scores

PAIRS = list(itertools.combinations((ES, FR, EU), 2))
BYTES = (KeySeed, PairSecret, PreparedBlocks, MaskedScores)  # what would do to rebuild every score


def records(world: World, query: bytes, owners: Iterable[str]) -> list[tuple[str, Record]]:
    """(owner, record) of the evidence of a search and its preparation that some parties kept."""
    kept = []
    for owner, data in world.bundles(query, owners).items():
        bundle = decode_bundle(data)[1]
        inside = preparation_inside(bundle)
        assert inside is not None
        kept += [(owner, record) for part in (inside[1], bundle) for record in part.records]
    return kept


def said(kept: Sequence[tuple[str, Record]], kind: type[AnyMessage], sender: str, *receivers: str) -> AnyMessage | None:
    """A message of a kind, if the logs still have it."""
    for owner, record in kept:
        ends = (owner, record.peer) if record.direction == "sent" else (record.peer, owner)
        if isinstance(record.message, kind) and ends[0] == sender and (not receivers or ends[1] in receivers):
            return record.message
    return None


def rebuilt_scores(kept: Sequence[tuple[str, Record]]) -> npt.NDArray[np.int64] | None:
    """Every score of the first chunk; None where the logs lack the bytes.

    e + z is 16 times the score less the threshold, and z = round(c1·s2) - m, m being two streams of the pair secrets.
    """
    search = said(kept, Search, FR)
    seed, first, second = said(kept, KeySeed, FR, EU), said(kept, PairSecret, ES, EU), said(kept, PairSecret, FR, ES)
    blocks, published = said(kept, PreparedBlocks, ES), said(kept, MaskedScores, ES)
    assert isinstance(search, Search)
    if not (
        isinstance(seed, KeySeed)
        and isinstance(first, PairSecret)
        and isinstance(second, PairSecret)
        and isinstance(blocks, PreparedBlocks)
        and isinstance(published, MaskedScores)
    ):
        return None
    terms = Terms.announced(search)
    params, count = terms.params, len(blocks.data) // (8 * terms.params.n)
    c1 = residue_array(blocks.data, (count,), params, "blocks")
    secret = expand_secret(params, seed.seed, search.preparation)
    addend = round_shares(ntt.inverse(residues.multiply(c1, secret, params), params), params).reshape(-1)
    streams = [
        Keystream(derive_key(pair.secret, "masks", search.preparation, ES, "mask", 0, count, 0)).words(
            SHARE_BITS, len(addend) // 64
        )
        for pair in (first, second)
    ]
    mask = from_planes(streams[0] ^ streams[1])
    e = from_planes(np.frombuffer(published.data, "<u8").reshape(SHARE_BITS, -1))
    total = e.astype(np.int64) + addend - mask + threshold_offset(terms.theta(0), params)
    shifted = total % 2**SHARE_BITS
    signed = shifted - (shifted >= 2 ** (SHARE_BITS - 1)) * 2**SHARE_BITS
    rounded: npt.NDArray[np.int64] = np.rint(signed * params.t / 2**SHARE_BITS).astype(np.int64)
    return rounded


@pytest.mark.parametrize("owners", PAIRS, ids="-".join)
def test_two_logs_together_hold_no_byte_from_which_a_score_can_be_rebuilt(
    world: World, query: bytes, owners: tuple[str, str]
) -> None:
    kept = records(world, query, owners)
    assert rebuilt_scores(kept) is None
    assert {type(record.message) for _, record in kept if record.message is not None} <= set(HARMLESS)
    assert {record.kind for _, record in kept} >= {"Gates", *(kind.__name__ for kind in BYTES)}


@pytest.mark.parametrize("owners", PAIRS, ids="-".join)
def test_control_two_logs_that_keep_the_bytes_rebuild_every_score(
    world: World, monkeypatch: pytest.MonkeyPatch, owners: tuple[str, str]
) -> None:
    monkeypatch.setattr("nodes.evidence.recorder.HARMLESS", (*HARMLESS, *BYTES))
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
        if content_digest(Release(pack_release([Released(one) for one in guess], 10).slots, salt)) == record.content:
            found.append(guess)
    return found


def known_salt(monkeypatch: pytest.MonkeyPatch) -> None:
    original = pack_release

    def packed(released: Sequence[Released], cap: int) -> Release:
        return Release(original(released, cap).slots, bytes(32))

    monkeypatch.setattr("protocol.searching.pack_release", packed)


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
