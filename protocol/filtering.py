"""The filter of a prepared query: publish masked scores, compare, open the hits if they are few enough, else climb.

e + z is 16 times the score less the threshold, within 2: e is published by the holder and uniform to whoever reads it,
z was prepared as shared bits. Requester and router compare the hash of e before the first gate. A hit is a row
that is live, too (`protocol.live`). A higher rung takes a public constant off e: no new message, only the tree again,
under fresh streams.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial

import numpy as np
import numpy.typing as npt

from pets.bits import Bits, Planes
from pets.circuits import Circuit
from pets.params import SHARE_BITS, Parameters
from pets.planes import to_planes
from pets.prf import labelled_hash
from pets.product import public_sums
from pets.public_circuits import subtract_constant
from pets.public_sum import sign_of_public_sum
from protocol.cap import cap_bit, count_share
from protocol.compare import threshold_offset
from protocol.compute import Ring, evaluate, open_bit, other, own_bits
from protocol.errors import Disagreement
from protocol.form import same_from_holder
from protocol.live import Live, holder_shares_live, key_owner_shares_live
from protocol.messages import AdmissionScores, CapBit, MaskedScores, Rung
from protocol.opening import RunningSums, open_hits, send_sums
from protocol.preparation import Chunk, PreparedRing
from protocol.roles import Seat
from protocol.steps import Phase, Product, Scored, Send, Step, check_phase, end_phase, receive, sign_phase
from protocol.terms import Terms
from protocol.verdict import CLIMB, verdict_on
from protocol.wire import array, as_bytes


@dataclass
class Filter:
    """One party's filter of one ring, and what came of the chunks so far, at the first rung.

    `public`: e, uint64 (24, words) each. `live`: the shared bits of `protocol.live`.
    """

    ring: Ring
    terms: Terms
    prepared: PreparedRing
    public: list[Planes] = field(default_factory=list)
    live: list[Bits] = field(default_factory=list, repr=False)

    def hits(self, rung: int, index: int) -> Step[Bits]:
        """One shared bit a row of a chunk: whether it is live and its score reaches a rung's threshold. Five rounds."""
        yield Phase("compare")
        chunk, params = self.prepared.chunks[index], self.terms.params
        rise = threshold_offset(self.terms.theta(rung), params) - threshold_offset(self.terms.theta(0), params)
        public = subtract_constant(self.public[index], rise) if rise else self.public[index]
        z, pairs = (own_bits(self.ring, parts) for parts in (chunk.z, chunk.pairs))
        masks = self.ring.masks("compare", rung, index)
        negative = sign_of_public_sum(public, z, pairs, self.ring.threads)
        return (yield from evaluate(self.ring, masks, _live_and_not(negative, self.live[index])))


def _live_and_not(negative: Circuit[Bits], live: Bits) -> Circuit[Bits]:
    below = yield from negative
    return (yield ~below, live)


def product_of(rows: npt.NDArray[np.int8], values: npt.NDArray[np.int32], params: Parameters, chunk: Chunk) -> Product:
    """D·u of a chunk's rows."""
    return Product(rows, values, params, chunk.first, chunk.count)


def holder_publishes(filtering: Filter, live: Live, work: Sequence[Product], index: int) -> Step[None]:
    """The holder sends e of a chunk to both; its product is being computed, that of the next one is begun."""
    ring, terms, chunk = filtering.ring, filtering.terms, filtering.prepared.chunks[index]
    yield Phase("score")
    product = yield Scored()
    yield from work[index + 1 : index + 2]
    yield Phase("share")
    assert chunk.masked is not None
    padded = np.zeros(len(chunk.masked), np.uint32)
    padded[: len(product)] = product
    offset = threshold_offset(terms.theta(0), terms.params)
    values = public_sums(chunk.masked, padded, offset, terms.params, ring.threads)
    filtering.public.append(to_planes(values, SHARE_BITS, ring.threads))
    message = MaskedScores(as_bytes(filtering.public[index]))
    for seat in (Seat.REQUESTER, Seat.ROUTER):
        yield Send(ring.names[seat], message)
    # Only now: a row that was cleared while the product read it, or before, is not found.
    first, lanes = chunk.first * terms.params.n, len(chunk.masked)
    filtering.live.append((yield from holder_shares_live(ring, live, first, lanes, index)))


def key_owner_reads(filtering: Filter, index: int, *earlier: AdmissionScores) -> Step[None]:
    """Requester and router receive e of a chunk and compare its hash, with that of what came `earlier`."""
    ring = filtering.ring
    message = yield from receive(ring.names[Seat.HOLDER], MaskedScores)
    yield Phase("share")
    shape = filtering.prepared.chunks[index].z.shape[1:]
    filtering.public.append(array(message.data, shape, np.uint64, "masked scores"))
    filtering.live.append((yield from key_owner_shares_live(ring, 64 * shape[1], index)))
    yield from same_from_holder(ring, scores_digest(*earlier, message))


def scores_digest(*messages: AdmissionScores | MaskedScores) -> bytes:
    """Hash of what a holder published."""
    seeds = [message.seed for message in messages if isinstance(message, AdmissionScores)]
    return labelled_hash("masked-scores", *seeds, *(hashlib.sha256(message.data).digest() for message in messages))


@dataclass
class Ahead:
    """What of the first rung was computed beside the admission. `few`: the cap bit, shared, if one chunk is all."""

    running: RunningSums
    counted: int = 0
    chunks: int = 0
    few: Bits | None = field(default=None, repr=False)


def first_chunk(filtering: Filter) -> Step[Ahead]:
    """Compare and count the first chunk, and with a single one the count too. Nothing is opened."""
    ring, terms = filtering.ring, filtering.terms
    ahead = Ahead(RunningSums(ring, terms.cap))
    if filtering.prepared.chunks:
        hits = yield from filtering.hits(0, 0)
        yield Phase("open")
        ahead.running.add(hits)
        ahead.counted = yield from count_share(ring, hits, 0, 0)
        ahead.chunks = 1
    if len(filtering.prepared.chunks) == ahead.chunks:
        ahead.few = yield from cap_bit(ring, ahead.counted, terms.cap, 0)
    return ahead


def _rung(filtering: Filter, rung: int, ahead: Ahead, publish: Callable[[int], Step[None]]) -> Step[tuple[Ahead, bool]]:
    """One rung up to its cap bit, opened. `publish`: how e of a chunk comes to be known, at the first rung."""
    ring, terms = filtering.ring, filtering.terms
    if rung:
        ahead = Ahead(RunningSums(ring, terms.cap))
    for index in range(ahead.chunks, len(filtering.prepared.chunks)):
        if rung == 0:
            yield from publish(index)
        hits = yield from filtering.hits(rung, index)
        yield Phase("open")
        ahead.counted += yield from count_share(ring, hits, rung, index)
        ahead.running.add(hits)
    few = ahead.few
    if few is None:
        few = yield from cap_bit(ring, ahead.counted, terms.cap, rung)
    return ahead, (yield from open_bit(ring, few, CapBit))


def holder_filters(
    filtering: Filter, live: Live, work: Sequence[Product], ahead: Ahead
) -> Step[tuple[int, tuple[int, ...] | None]]:
    """The holder's part, after the admission.

    Returns the rung that ended it and the rows that hit, None if there were too many.
    """
    ring, terms = filtering.ring, filtering.terms
    for rung in range(len(terms.rungs)):
        ahead, few = yield from _rung(filtering, rung, ahead, partial(holder_publishes, filtering, live, work))
        hit_rows = (yield from open_hits(ring, ahead.running, len(live.now), terms.cap)) if few else None
        verdict = verdict_on(few, rung, terms)
        for seat in (Seat.REQUESTER, Seat.ROUTER):
            yield Send(ring.names[seat], Rung(verdict))
        yield from end_phase(f"rung {rung}", (ring.names[Seat.REQUESTER], ring.names[Seat.ROUTER]))
        if verdict != CLIMB:
            return rung, hit_rows
    raise AssertionError("the last rung always ends the filter")


def key_owner_filters(filtering: Filter, ahead: Ahead) -> Step[tuple[int, str]]:
    """The part of requester and router. Returns the rung that ended it and the holder's last verdict."""
    ring, terms = filtering.ring, filtering.terms
    for rung in range(len(terms.rungs)):
        ahead, few = yield from _rung(filtering, rung, ahead, partial(key_owner_reads, filtering))
        if few:
            yield from send_sums(ring, ahead.running)
        # Signed with the sums, which are the last that is said on a rung: the holder need not wait for it later.
        peers = (ring.names[Seat.HOLDER], ring.names[other(ring.seat)])
        yield from sign_phase(f"rung {rung}", peers)
        answer = yield from receive(ring.names[Seat.HOLDER], Rung)
        yield from check_phase(f"rung {rung}", peers)
        due = verdict_on(few, rung, terms)
        if answer.verdict != due:
            raise Disagreement(f"{ring.names[Seat.HOLDER]} says {answer.verdict} on rung {rung}, where {due} is due")
        if answer.verdict != CLIMB:
            return rung, answer.verdict
    raise AssertionError("the last rung always ends the filter")
