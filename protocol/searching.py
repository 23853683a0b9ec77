"""Searching with a preparation: the machines of requester, router and holder (protocol/DESIGN.md, section 6).

A preparation serves one search. Router and holders mark it as used when they accept the announcement, the requester
before u leaves it: two u for one mask would give the holder the difference of two probes.
"""

from __future__ import annotations

import secrets

import numpy as np
import numpy.typing as npt

from pets.bits import Planes
from pets.errors import LineupError, TemplateError
from pets.keys import expand_secret
from pets.mask_encryption import draw_mask
from pets.params import norm_bound
from pets.prf import derive_key
from pets.scoring import ScoringProbe
from protocol.admitting import KINDS, admission_scores, admits, read_admission
from protocol.announcing import (
    announce_digest,
    answer,
    compare_ids,
    derive_id,
    end_set_up,
    gather,
    parties_of,
    sign_set_up,
)
from protocol.blocks import HolderKeys
from protocol.compute import Ring, open_bit
from protocol.confirmation_block import SealedConfirmation
from protocol.confirming import Mask, holder_confirms, key_owner_confirms
from protocol.difference import difference, difference_digest, pack_difference, unpack_difference
from protocol.errors import Disagreement, FalseRefusal, OutOfTurn, PreparationSpent, ProbeRefused
from protocol.filtering import (
    Ahead,
    Filter,
    first_chunk,
    holder_filters,
    holder_publishes,
    key_owner_filters,
    key_owner_reads,
    product_of,
    scores_digest,
)
from protocol.form import same_from_holder
from protocol.gallery import Gallery
from protocol.live import Live, Liveness
from protocol.messages import (
    AdmissionBit,
    AdmissionScores,
    Difference,
    DifferenceDigest,
    Joined,
    Release,
    Search,
    Warrant,
)
from protocol.outcome import Answer, HolderResult, status_of
from protocol.party import Context, Party
from protocol.preparation import HolderPreparation, Preparation, PreparedRing, RequesterPreparation, RouterPreparation
from protocol.preparing import check_gallery, holder_keys
from protocol.release import Released, pack_release, unpack_release
from protocol.roles import Role, Seat
from protocol.session import Session, State
from protocol.steps import Phase, Send, Step, beside, end_phase, receive
from protocol.terms import SYNTHETIC_MODEL, Terms
from protocol.verdict import CONFIRM, EXHAUSTED
from protocol.warrant import sign_announcement


def check_terms(preparation: Preparation, terms: Terms, holders: tuple[str, ...]) -> None:
    """Raise unless a search under these terms can use a preparation, which is not spent by this.

    `PreparationSpent` where it was used, `Disagreement` where it was made for something else.
    """
    if preparation.spent:
        raise PreparationSpent(
            f"preparation {preparation.preparation_id.hex()[:16]} was used already; it serves one search"
        )
    made, asked = (preparation.preset, preparation.dim), (terms.params.preset, terms.dim)
    if made != asked:
        raise Disagreement(
            f"the preparation is for {made[0]} and d = {made[1]}, the search asks for {asked[0]} and d = {asked[1]}"
        )
    if SYNTHETIC_MODEL not in (preparation.model, terms.model) and preparation.model != terms.model:
        raise Disagreement("the preparation is for another model than the search")
    missing = [name for name in holders if name not in preparation.rings]
    if missing:
        raise Disagreement(f"the preparation has no ring of {', '.join(missing)}")


class _Searching(Party):
    """What requester, router and holder have in common: one preparation, and the rings that come from it."""

    preparation: Preparation
    terms: Terms | None
    _claimed = False

    def _check(self, announce: Search) -> Terms:
        """Check an announcement against what was prepared. Raises `Disagreement` or `ParameterError`."""
        self.check_parties(parties_of(announce))
        self.check_admitted(announce)
        if announce.preparation != self.preparation.preparation_id:
            raise Disagreement(f"{announce.requester} names another preparation than {self.name} has")
        if (announce.requester, announce.router) != (self.preparation.requester, self.preparation.router):
            raise Disagreement("a preparation serves the requester and the router it was made for, and nobody else")
        terms = Terms.announced(announce)
        mine = (self.name,) if self.role is Role.HOLDER else self.parties.holders
        check_terms(self.preparation, terms, mine)
        return terms

    def _use(self) -> None:
        """Mark the preparation as used, here and wherever the hook does it. Raises `PreparationSpent`."""
        hook = self.context.spend if self.role is Role.REQUESTER else self.context.accept
        self.preparation.claim()
        self._claimed = True
        if hook is not None:
            hook(self.preparation.preparation_id)

    def _ring(self, seat: Seat, holder: str, query_id: bytes) -> tuple[Ring, PreparedRing]:
        """The seat in a ring of this search: secrets of the preparation, streams of this query."""
        prepared = self.preparation.rings[holder]
        names = self.parties.ring(holder)
        return Ring(seat, names, query_id, prepared.own, prepared.following, self.threads), prepared

    def _check_stated(self, joined: dict[str, Joined]) -> None:
        """Every holder must accept with the gallery, and the list of what it sent, that was prepared."""
        for holder in self.parties.holders:
            ring = self.preparation.rings.get(holder)
            if ring is not None and (joined[holder].blocks, joined[holder].gallery) != (ring.blocks, ring.agreed()):
                raise Disagreement(f"{holder} accepts with another gallery or version than {self.name} prepared")

    def _key_owner_admits(self, filtering: Filter, probe: npt.NDArray[np.int8] | None) -> Step[tuple[bool, Ahead]]:
        """The part of requester and router, the comparison of the first chunk beside it."""
        ring, prepared = filtering.ring, filtering.prepared
        message = yield from receive(ring.names[Seat.HOLDER], AdmissionScores)
        public = read_admission(prepared, message, probe)
        if prepared.chunks:
            yield from key_owner_reads(filtering, 0, message)
        else:
            yield from same_from_holder(ring, scores_digest(message))
        return (yield from self._admit(filtering, public, message.seed))

    def _admit(self, filtering: Filter, public: Planes, seed: bytes) -> Step[tuple[bool, Ahead]]:
        """Admission, and beside it what of the filter needs no answer; the bit is opened to all and signed."""
        ring, prepared = filtering.ring, filtering.prepared
        yield Phase("admit")
        admission = admits(ring, prepared, public, seed, filtering.terms.dim)
        admitted, ahead = yield from beside(admission, first_chunk(filtering), KINDS)
        yield Phase("admit")
        bit = yield from open_bit(ring, admitted, AdmissionBit, "admission")
        return bit, ahead

    def wipe(self, session: Session) -> None:
        """Erase what was prepared once no holder needs it any more. What was not used stays as it was."""
        super().wipe(session)
        if self.done and self._claimed:
            self.preparation.erase()
        if self.done:
            self._forget()

    def _forget(self) -> None:
        """Erase what this machine made of it."""


class SearchingRequester(_Searching):
    """Asks several holders with one preparation.

    Announces and waits; then `ready`. `submit` takes the probe; `answers` fills as holders finish.
    """

    def __init__(
        self, context: Context, terms: Terms, preparation: RequesterPreparation, warrant: Warrant | None = None
    ) -> None:
        super().__init__(context)
        check_terms(preparation, terms, context.parties.holders)
        self.preparation: RequesterPreparation = preparation
        self.terms: Terms = terms
        self.answers: dict[str, Answer] = {}
        parties = self.parties
        self.announce = terms.announce(self.name, parties.router, parties.holders, preparation.preparation_id, warrant)
        if context.keyring is not None:
            self.announce = sign_announcement(self.announce, context.keyring)
        self._query_id: bytes | None = None
        self._secret: npt.NDArray[np.uint32] | None = None  # s2
        self._probe: npt.NDArray[np.int8] | None = None
        self._difference: Difference | None = None

    def start(self) -> None:
        """Announce."""
        self.begin(self.whole, self._set_up(), self._await_probe)

    @property
    def ready(self) -> bool:
        """Everybody has accepted, and there was no probe yet."""
        return self._query_id is not None and self._probe is None and not self.whole.state.over

    def submit(self, template: npt.NDArray[np.int8]) -> None:
        """Search for a quantised template, int8 (d,). Only once: a retry needs another preparation.

        Raises `TemplateError` for a template that admission would refuse, `OutOfTurn` before `ready` or a second time,
        and what the `spend` hook raises: nothing has left then, and the search is over.
        """
        if template.shape != (self.terms.dim,) or template.dtype != np.int8:
            raise TemplateError(f"a probe must be int8 ({self.terms.dim},), got {template.dtype} {template.shape}")
        squared = int(np.dot(template.astype(np.int64), template.astype(np.int64)))
        if squared > norm_bound(self.terms.dim) or int(template.min()) < -127:
            raise TemplateError(f"squared norm {squared} of the probe, the limit is {norm_bound(self.terms.dim)}")
        self._submit(template)

    def _submit(self, template: npt.NDArray[np.int8]) -> None:
        if not self.ready:
            raise OutOfTurn("the holders have not accepted, or the probe was submitted already")
        self._probe = template.copy()
        try:
            self._use()
        except LineupError as error:
            self.stop_all(error)
            raise
        if self.context.keep is not None:
            self.context.keep(self)
        params = self.terms.params
        mask = draw_mask(self.preparation.seed, self.preparation.preparation_id, self.terms.dim, params)
        self.preparation.seed = bytes(32)
        assert self._query_id is not None
        self._difference = pack_difference(difference(template, mask, params), params, self._query_id)
        mask.fill(0)
        self.begin_rings(self._search, self.answers.__setitem__)

    def _set_up(self) -> Step[bytes]:
        parties = self.parties
        for other in parties.others(self.name):
            yield Send(other, self.announce)
        joined: dict[str, Joined] = yield from gather(self.announce, self.name, None, Joined)
        self._check_stated(joined)
        query_id = derive_id(self.announce, joined)
        yield from end_set_up(query_id, self.name, parties)
        return query_id

    def _await_probe(self, query_id: bytes) -> None:
        """The probe may come now."""
        params, prepared = self.terms.params, self.preparation
        self._secret = expand_secret(params, prepared.router_seed, prepared.preparation_id)
        self._query_id = query_id

    def _search(self, holder: str) -> Step[Answer]:
        assert self._query_id is not None
        assert self._difference is not None
        assert self._secret is not None
        terms, router = self.terms, self.parties.router
        ring, prepared = self._ring(Seat.REQUESTER, holder, self._query_id)
        yield Send(holder, self._difference)
        yield Send(router, difference_digest(self._difference))
        filtering = Filter(ring, terms, prepared)
        admitted, ahead = yield from self._key_owner_admits(filtering, self._probe)
        if not admitted:
            raise FalseRefusal(holder, router)
        rung, verdict = yield from key_owner_filters(filtering, ahead)
        hits: tuple[Released, ...] = ()
        if verdict == CONFIRM:
            yield Phase("confirm")
            yield from key_owner_confirms(ring, terms.params, self._secret, terms.cap)
            release = yield from receive(holder, Release)
            yield from end_phase("release", (holder,))
            hits = unpack_release(release, terms.cap)
        return Answer(status_of(verdict, len(hits)), terms.rungs[rung], hits)

    def wipe(self, session: Session) -> None:
        """One false refusal stops every ring; what was prepared goes when the last ring is over."""
        if isinstance(session.failure, FalseRefusal) and session.state is State.ABORTED:
            self.stop_all(session.failure)
        super().wipe(session)

    def _forget(self) -> None:
        self._difference = None
        if self._secret is not None:
            self._secret.fill(0)


class SearchingRouter(_Searching):
    """Third party of every ring of one search."""

    def __init__(self, context: Context, preparation: RouterPreparation) -> None:
        super().__init__(context)
        self.preparation: RouterPreparation = preparation
        self.terms: Terms | None = None
        self._secret: npt.NDArray[np.uint32] | None = None  # s2
        self._digest: bytes | None = None
        self._query_id = b""

    def start(self) -> None:
        """Wait for the announcement."""
        self.begin(self.whole, self._set_up(), lambda _: self.begin_rings(self._serve, lambda *_: None))

    def _set_up(self) -> Step[None]:
        announce: Search = yield from receive(self.parties.requester, Search)
        self.terms = terms = self._check(announce)
        self._use()
        own = Joined(announce_digest(announce), secrets.token_bytes(32), None, None)
        yield from answer(announce, self.name, own)
        yield from sign_set_up(self.name, self.parties)
        joined = yield from gather(announce, self.name, own, Joined)
        self._check_stated(joined)
        self._query_id = derive_id(announce, joined)
        prepared = self.preparation
        self._secret = expand_secret(terms.params, prepared.router_seed, prepared.preparation_id)
        yield from end_set_up(self._query_id, self.name, self.parties)

    def _serve(self, holder: str) -> Step[None]:
        assert self.terms is not None
        assert self._secret is not None
        ring, prepared = self._ring(Seat.ROUTER, holder, self._query_id)
        yield from compare_ids(self._query_id, holder)
        for name in (self.parties.requester, holder):
            self._same(holder, (yield from receive(name, DifferenceDigest)).digest)
        filtering = Filter(ring, self.terms, prepared)
        admitted, ahead = yield from self._key_owner_admits(filtering, None)
        refuse_unless(admitted)
        _, verdict = yield from key_owner_filters(filtering, ahead)
        if verdict == CONFIRM:
            yield Phase("confirm")
            yield from key_owner_confirms(ring, self.terms.params, self._secret, self.terms.cap)

    def _same(self, holder: str, digest: bytes) -> None:
        """All rings must have got the same u: every holder searches for the same face."""
        if self._digest is None:
            self._digest = digest
        if digest != self._digest:
            raise Disagreement(f"the u of {holder}'s ring differs from that of the search")

    def _forget(self) -> None:
        if self._secret is not None:
            self._secret.fill(0)


class SearchingHolder(_Searching):
    """Answers one search from its gallery, with what was prepared.

    `live`: bool (rows,), who may be found; None: all. Clear a row in place and it is not found from then on, unless its
    hit is being released already. Raises `GalleryError` for bits that do not fit the gallery.
    """

    def __init__(
        self, context: Context, gallery: Gallery, preparation: HolderPreparation, live: Liveness | None = None
    ) -> None:
        super().__init__(context)
        self.gallery = gallery
        self.live = Live.of(len(gallery.templates), live)
        self.preparation: HolderPreparation = preparation
        self.terms: Terms | None = None
        self.result: HolderResult | None = None
        self.sealed: SealedConfirmation | None = None  # what opens the confirmation's commitment in an audit
        self._keys: HolderKeys | None = None
        self._probe: ScoringProbe | None = None
        self._query_id = b""

    def start(self) -> None:
        """Wait for the announcement."""
        self.begin(self.whole, self._set_up(), lambda _: self.begin_rings(self._search, self._finish))

    def _set_up(self) -> Step[None]:
        announce: Search = yield from receive(self.parties.requester, Search)
        self.terms = terms = self._check(announce)
        prepared, ring = self.preparation, self.preparation.rings[self.name]
        check_gallery(self.name, self.gallery, terms.params, terms.dim, terms.model)
        if self.gallery.root != ring.root:
            raise Disagreement(f"the preparation of {self.name} is for another gallery than it has now")
        self._use()
        own = Joined(announce_digest(announce), secrets.token_bytes(32), ring.blocks, ring.agreed())
        yield from answer(announce, self.name, own)
        yield from sign_set_up(self.name, self.parties)
        joined = yield from gather(announce, self.name, own, Joined)
        self._query_id = derive_id(announce, joined)
        yield from end_set_up(self._query_id, self.name, self.parties)
        params, preparation_id = terms.params, prepared.preparation_id
        self._keys = holder_keys(params, preparation_id, prepared.holder_seed, prepared.public, prepared.seed)
        self._probe = prepared.scoring_probe(self.threads)
        if self.context.keep is not None:
            self.context.keep(self)

    def _search(self, holder: str) -> Step[HolderResult]:
        assert self.terms is not None
        assert self._keys is not None
        assert self._probe is not None
        terms, params, rows = self.terms, self.terms.params, self.gallery.templates
        parties = self.parties
        ring, prepared = self._ring(Seat.HOLDER, holder, self._query_id)
        yield from compare_ids(self._query_id, parties.router)
        message = yield from receive(parties.requester, Difference)
        check_same_query(message, self._query_id, parties.requester)
        if self.context.answer is not None:
            self.context.answer()
        yield Send(parties.router, difference_digest(message))
        values = unpack_difference(message, terms.dim, params)
        filtering = Filter(ring, terms, prepared)
        work = [product_of(rows, values, params, chunk) for chunk in prepared.chunks]
        yield from work[:1]
        seed = derive_key(self._keys.seed, "admission-coins", self._query_id)
        public, scores = admission_scores(prepared, values, params, seed)
        for name in (parties.requester, parties.router):
            yield Send(name, scores)
        if work:
            yield from holder_publishes(filtering, self.live, work, 0)
        admitted, ahead = yield from self._admit(filtering, public, scores.seed)
        refuse_unless(admitted)
        rung, hit_rows = yield from holder_filters(filtering, self.live, work, ahead)
        if hit_rows is None:
            return HolderResult(status_of(EXHAUSTED, 0), terms.rungs[rung])
        yield Phase("confirm")
        standing, mask = self.live.standing(hit_rows), Mask(self._probe, values)
        found = yield from holder_confirms(
            ring, self._keys, rows, standing, terms.theta(rung), terms.cap, mask, self._keep
        )
        self.live.check_opened(hit_rows)
        references = tuple(dict.fromkeys(self.gallery.reference(hit.row) for hit in found))  # once a subject
        marked = self.context.release(references) if self.context.release is not None else frozenset()
        released = [Released(reference, reference in marked) for reference in references]
        yield Send(parties.requester, pack_release(released, terms.cap))
        yield from end_phase("release", (parties.requester,))
        return HolderResult(status_of(CONFIRM, len(found)), terms.rungs[rung], found)

    def _keep(self, sealed: SealedConfirmation) -> None:
        self.sealed = sealed
        if self.context.keep is not None:
            self.context.keep(self)

    def _finish(self, _: str, result: HolderResult) -> None:
        self.result = result

    def wipe(self, session: Session) -> None:
        """Note a refusal, and erase."""
        if session.state is State.REFUSED and self.terms is not None:
            self.result = HolderResult("probe_refused", self.terms.threshold)
        super().wipe(session)

    def _forget(self) -> None:
        if self._keys is not None:
            self._keys.secret.fill(0)
        self._probe = self._keys = None


def check_same_query(message: Difference, query_id: bytes, requester: str) -> None:
    """Raise `Disagreement` unless requester and holder derived the same query id; what the router derived is in `Echo`.

    Who answers two parties with two nonces would set their streams apart: every bit is random then, and one search in
    a few ends as if there were too many hits.
    """
    if message.query_id != query_id:
        raise Disagreement(f"{requester} derived another query id: somebody answered it with another nonce")


def refuse_unless(admitted: bool) -> None:
    """Raise `ProbeRefused` where the bit says no. Called after the phase was signed: a refusal is signed too."""
    if not admitted:
        raise ProbeRefused("admission refused the probe: it is not a quantised unit vector")
