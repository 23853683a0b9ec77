"""Confirmation of a prepared query: a second, authenticated evaluation of just the hits (DESIGN, section 6).

The block of `protocol.confirmation` is scored with the encrypted mask, slot by slot (`pets.combining`), and the holder
adds its product with u to its own addend. Requester and router can both compute the rest, z': each sends it, and the
holder compares the two.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt

from pets import ntt, residues
from pets.combining import combine_rows
from pets.params import Parameters
from pets.prf import labelled_hash
from pets.product import product_share
from pets.rounding import round_shares
from pets.scoring import ScoringProbe
from protocol.blocks import HolderKeys
from protocol.compute import Ring, other
from protocol.confirmation import SLOT, Hit, SealedConfirmation, build_block, check_answers
from protocol.errors import ConfirmationFailed
from protocol.form import SHARE_MASK, same_from_holder
from protocol.messages import ConfirmationAnswer, ConfirmationBlock
from protocol.roles import Seat
from protocol.steps import Send, Step, check_phase, receive, sign_phase
from protocol.wire import array, residue_array


@dataclass(frozen=True)
class Mask:
    """What a holder has of the mask in a search: `probe` encrypts r, `values` are u = q - r modulo t, int32 (d,)."""

    probe: ScoringProbe
    values: npt.NDArray[np.int32] = field(repr=False)


def holder_confirms(
    ring: Ring,
    keys: HolderKeys,
    templates: npt.NDArray[np.int8],
    rows: tuple[int, ...],
    theta: int,
    cap: int,
    mask: Mask,
    keep: Callable[[SealedConfirmation], None],
) -> Step[tuple[Hit, ...]]:
    """The holder's part. Returns the hits by falling score. Raises `ConfirmationFailed`: nothing may be released.

    `keep` is told what opens the commitment before the block leaves, and the answers before they are judged.
    """
    params = keys.params
    block, factors = build_block(templates, rows, cap)
    scored = combine_rows(block[::SLOT].astype(np.int8), _in_slots(factors, params), mask.probe, ring.threads)
    blinded = residues.add(scored[None], keys.zeros("confirm", 1, ring.threads), params)
    c1 = np.ascontiguousarray(blinded[:, 1]).tobytes()
    own = round_shares(keys.own_addend(blinded, ring.threads), params)[0, : SLOT * cap]
    product = (block.astype(np.int64) @ mask.values.astype(np.int64) % params.t).astype(np.uint32)
    shares = own + product_share(product, params) & SHARE_MASK
    sealed = SealedConfirmation(secrets.token_bytes(32), rows, factors, block, shares, keys.seed)
    keep(sealed)
    key_owners = (ring.names[Seat.REQUESTER], ring.names[Seat.ROUTER])
    for name in key_owners:
        yield Send(name, ConfirmationBlock(sealed.commitment(c1), c1))
    # Signed before any answer arrives, so that an audit can hold the holder to what it committed to.
    yield from sign_phase("confirmation block", key_owners)
    answers = []
    for name in key_owners:
        answer = yield from receive(name, ConfirmationAnswer)
        answers.append(answer.data)
    keep(replace(sealed, answers=tuple(answers)))
    yield from check_phase("confirmation", key_owners)
    first, second = (array(answer, shares.shape, np.uint32, "confirmation answer") for answer in answers)
    if not np.array_equal(first, second):
        raise ConfirmationFailed("requester and router answered the confirmation block differently")
    scores = check_answers(shares + first & SHARE_MASK, factors, len(rows), theta, params)
    hits = [Hit(row, score) for row, score in zip(rows, scores, strict=True)]
    return tuple(sorted(hits, key=lambda hit: (-hit.score, hit.row)))


def _in_slots(factors: npt.NDArray[np.int32], params: Parameters) -> npt.NDArray[np.int32]:
    """Each slot's factors at its coefficients, int32 (cap, n)."""
    out = np.zeros((len(factors), params.n), np.int32)
    for slot, six in enumerate(factors):
        out[slot, SLOT * slot : SLOT * (slot + 1)] = six
    return out


def key_owner_confirms(ring: Ring, params: Parameters, secret: npt.NDArray[np.uint32], cap: int) -> Step[None]:
    """The part of requester and router: compare what the holder sent to both, then answer, once. `secret`: s2."""
    message = yield from receive(ring.names[Seat.HOLDER], ConfirmationBlock)
    c1 = residue_array(message.data, (1,), params, "confirmation block")
    yield from check_phase("confirmation block", (ring.names[Seat.HOLDER],))
    yield from same_from_holder(ring, labelled_hash("confirmation-block", message.commitment, message.data))
    addend = ntt.inverse(residues.multiply(c1, secret, params), params)
    answer = round_shares(addend, params)[0, : SLOT * cap]
    yield Send(ring.names[Seat.HOLDER], ConfirmationAnswer(answer.astype("<u4").tobytes()))
    peer = ring.names[other(ring.seat)]
    yield from sign_phase("confirmation", (ring.names[Seat.HOLDER], peer))
    yield from check_phase("confirmation", (peer,))
