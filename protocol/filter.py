"""The filter: score every block, share, compare with the threshold, open the hits if they are few enough, else climb.

The gallery is worked in chunks, so memory is bounded by the chunk; only the rounded shares (4 bytes a row) stay until
the sketch decodes, because a higher rung compares the same shares again. The first chunk is scored beside the
admission, each other one beside the comparison of the chunk before it.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from pets import residues
from pets.keys import ZeroPool
from pets.params import Parameters
from pets.scoring import EncodedGallery, ScoringProbe
from protocol.cap import at_most_cap, count_share
from protocol.compare import Shares, fold_threshold, hit_bits
from protocol.compute import HOLDER, REQUESTER, ROUTER, Ring, other
from protocol.decryption import flat_shares, key_coefficients, own_coefficients
from protocol.errors import Disagreement
from protocol.keyring import QueryKey
from protocol.messages import FilterBlock, Rung
from protocol.opening import RunningSums, open_hits, send_sums
from protocol.steps import Phase, Score, Scored, Send, Step, end_phase, receive
from protocol.terms import Terms
from protocol.wire import CHUNK_ROWS, as_bytes, residue_array

CONFIRM, CLIMB, EXHAUSTED = "confirm", "climb", "exhausted"

Residues = npt.NDArray[np.uint32]


def chunks(blocks: int, params: Parameters) -> list[tuple[int, int]]:
    """(first block, number of blocks) of each chunk."""
    size = CHUNK_ROWS // params.n
    return [(first, min(size, blocks - first)) for first in range(0, blocks, size)]


def chunk_scores(gallery: EncodedGallery, prepared: ScoringProbe) -> list[Score]:
    """The scoring of each chunk."""
    return [Score(gallery, prepared, first, count) for first, count in chunks(gallery.blocks, prepared.params)]


def rerandomise(scored: Residues, zeros: ZeroPool, params: Parameters, threads: int) -> Residues:
    """Add a fresh encryption of zero to each block. Not optional: c1 alone is a linear function of the gallery."""
    return residues.add(scored, zeros.take(len(scored)), params, threads)


def verdict_on(few: bool, rung: int, terms: Terms) -> str:
    """What follows from the bit that all three opened."""
    return CONFIRM if few else EXHAUSTED if rung == len(terms.rungs) - 1 else CLIMB


def holder_filters(
    ring: Ring, terms: Terms, rows: int, wants: Sequence[Score], zeros: ZeroPool
) -> Step[tuple[int, tuple[int, ...] | None]]:
    """The holder's part, for `rows` rows in the chunks `wants`, the first of which is being scored already.

    Returns the rung that ended it and the rows that hit, None if there were too many.
    """
    params = terms.params
    kept: list[Shares] = []
    for rung in range(len(terms.rungs)):
        running, counted = RunningSums(ring, terms.cap), 0
        for index in range(len(wants)):
            if rung == 0:
                yield Phase("score")
                scored = yield Scored()
                yield from wants[index + 1 : index + 2]
                blinded = rerandomise(scored, zeros, params, ring.threads)
                message = FilterBlock(as_bytes(blinded[:, 1]))
                yield Send(ring.names[REQUESTER], message)
                yield Send(ring.names[ROUTER], message)
                yield Phase("share")
                coefficients = own_coefficients(blinded[:, 0], params, ring.threads)
                kept.append(flat_shares(coefficients, params, ring.threads))
            yield Phase("compare")
            folded = fold_threshold(kept[index], terms.theta(rung), params)
            hits = yield from hit_bits(ring, folded, rung, index)
            yield Phase("open")
            counted += yield from count_share(ring, hits, rung, index)
            running.add(hits)
        few = yield from at_most_cap(ring, counted, terms.cap, rung)
        hit_rows = (yield from open_hits(ring, running, rows, terms.cap)) if few else None
        verdict = verdict_on(few, rung, terms)
        for index in (REQUESTER, ROUTER):
            yield Send(ring.names[index], Rung(verdict))
        yield from end_phase(f"rung {rung}", (ring.names[REQUESTER], ring.names[ROUTER]))
        if verdict != CLIMB:
            return rung, hit_rows
    raise AssertionError("the last rung always ends the filter")


def key_owner_filters(ring: Ring, terms: Terms, key: QueryKey, blocks: int) -> Step[tuple[int, str]]:
    """The part of requester and router. Returns the rung that ended it and the holder's last verdict."""
    params = terms.params
    kept: list[Shares] = []
    for rung in range(len(terms.rungs)):
        running, counted = RunningSums(ring, terms.cap), 0
        for index, (_, count) in enumerate(chunks(blocks, params)):
            if rung == 0:
                message = yield from receive(ring.names[HOLDER], FilterBlock)
                yield Phase("share")
                c1 = residue_array(message.data, (count,), params, "filter block")
                kept.append(flat_shares(key_coefficients(c1, key.share, ring.threads), params, ring.threads))
            yield Phase("compare")
            hits = yield from hit_bits(ring, kept[index], rung, index)
            yield Phase("open")
            counted += yield from count_share(ring, hits, rung, index)
            running.add(hits)
        few = yield from at_most_cap(ring, counted, terms.cap, rung)
        if few:
            yield from send_sums(ring, running)
        answer = yield from receive(ring.names[HOLDER], Rung)
        yield from end_phase(f"rung {rung}", (ring.names[HOLDER], ring.names[other(ring.index)]))
        due = verdict_on(few, rung, terms)
        if answer.verdict != due:
            raise Disagreement(f"{ring.names[HOLDER]} says {answer.verdict} on rung {rung}, where {due} is due")
        if answer.verdict != CLIMB:
            return rung, answer.verdict
    raise AssertionError("the last rung always ends the filter")
