"""What two parties' logs give away together, and what one log's hashes let somebody guess."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence

import numpy as np
import numpy.typing as npt
import pytest

from nodes.verify.format import HARMLESS, Record, content_digest, decode_bundle
from pets import ntt, residues
from pets.keys import expand_secret
from pets.params import SHARE_BITS
from pets.planes import from_planes
from pets.rounding import round_shares
from protocol.announcing import identity_of
from protocol.compare import threshold_offset
from protocol.compute import HOLDER, REQUESTER, ROUTER, Ring
from protocol.messages import (
    AnyMessage,
    JoinedPreparation,
    KeySeed,
    MaskedScores,
    PairSecret,
    Prepare,
    PreparedBlocks,
    Release,
    Search,
)
from protocol.release import pack_release
from protocol.terms import Terms
from protocol.wire import residue_array
from tests.kit.evidence import ES, EU, FR, World
from tests.kit.galleries import scores
from tests.kit.ring import RING

pytestmark = pytest.mark.ring

SEATS = {ES: HOLDER, FR: REQUESTER, EU: ROUTER}
PAIRS = list(itertools.combinations(SEATS, 2))


def records(world: World, query: bytes, owners: Iterable[str]) -> list[tuple[str, Record]]:
    """(owner, record) of the evidence that some parties kept of a search, and of the preparation that it used."""
    found = []
    for owner, data in world.bundles(query, owners).items():
        bundle = decode_bundle(data)[1]
        assert bundle.preparation is not None
        found += [(owner, record) for record in (*decode_bundle(bundle.preparation)[1].records, *bundle.records)]
    return found


def said(kept: Sequence[tuple[str, Record]], kind: type[AnyMessage]) -> dict[tuple[str, str], AnyMessage]:
    """(sender, receiver) -> its first message of a kind, as far as the logs still have it."""
    found: dict[tuple[str, str], AnyMessage] = {}
    for owner, record in kept:
        if isinstance(record.message, kind):
            link = (owner, record.peer) if record.direction == "sent" else (record.peer, owner)
            found.setdefault(link, record.message)
    return found


def rebuilt_scores(kept: Sequence[tuple[str, Record]]) -> npt.NDArray[np.int64] | None:
    """Every score of the first chunk; None where the logs lack the bytes.

    16·(s - theta) = e + z' - m: e is what the holder publishes, z' follows from c1 and s2, and m from two pair secrets.
    """
    pairs, blocks, published = said(kept, PairSecret), said(kept, PreparedBlocks), said(kept, MaskedScores)
    seeds = said(kept, KeySeed)
    if (ES, EU) not in pairs or (FR, ES) not in pairs or (FR, EU) not in seeds or not blocks or not published:
        return None
    announce = next(iter(said(kept, Prepare).values()))
    joined = {sender: message for (sender, _), message in said(kept, JoinedPreparation).items()}
    identity = identity_of(announce, joined)  # type: ignore[arg-type]
    secret = expand_secret(RING, seeds[FR, EU].seed, identity)  # type: ignore[union-attr]
    c1 = residue_array(next(iter(blocks.values())).data, (1,), RING, "c1")  # type: ignore[union-attr]
    z = round_shares(ntt.inverse(residues.multiply(c1, secret, RING), RING), RING)[0].astype(np.int64)
    k_0, k_1 = pairs[ES, EU].secret, pairs[FR, ES].secret  # type: ignore[union-attr]
    masks = Ring(HOLDER, (ES, FR, EU), identity, k_0, k_1).masks("mask", 0, 1, 0)
    words = RING.n // 64
    m = from_planes(masks.own.words(SHARE_BITS, words) ^ masks.following.words(SHARE_BITS, words)).astype(np.int64)
    planes = np.frombuffer(next(iter(published.values())).data, "<u8").reshape(SHARE_BITS, -1)  # type: ignore[union-attr]
    terms = Terms.announced(next(iter(said(kept, Search).values())))  # type: ignore[arg-type]
    total = from_planes(planes.astype(np.uint64)).astype(np.int64) + z - m + threshold_offset(terms.theta(0), RING)
    total %= 2**SHARE_BITS
    signed = total - (total >= 2 ** (SHARE_BITS - 1)) * 2**SHARE_BITS
    rounded: npt.NDArray[np.int64] = np.rint(signed * RING.t / 2**SHARE_BITS).astype(np.int64)
    return rounded


@pytest.mark.parametrize("owners", PAIRS, ids="-".join)
def test_two_logs_together_hold_no_byte_from_which_a_score_can_be_rebuilt(
    world: World, query: bytes, owners: tuple[str, str]
) -> None:
    kept = records(world, query, owners)
    assert rebuilt_scores(kept) is None
    assert {type(record.message) for _, record in kept if record.message is not None} <= set(HARMLESS)
    assert {record.kind for _, record in kept} >= {"PairSecret", "PreparedBlocks", "MaskedScores", "Gates"}


@pytest.mark.parametrize("owners", PAIRS, ids="-".join)
def test_control_two_logs_that_keep_the_bytes_rebuild_every_score(
    world: World, monkeypatch: pytest.MonkeyPatch, owners: tuple[str, str]
) -> None:
    monkeypatch.setattr(
        "nodes.evidence.recorder.HARMLESS", (*HARMLESS, PairSecret, KeySeed, PreparedBlocks, MaskedScores)
    )
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
