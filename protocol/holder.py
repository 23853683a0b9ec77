"""The holder: a national node that is asked, with its gallery at home."""

from __future__ import annotations

import secrets
from collections.abc import Callable

from pets.errors import GalleryError
from pets.key_source import KeySource, NativeKeys
from pets.keys import JointKey, ZeroPool
from pets.scoring import prepare_probe
from protocol.admission import holder_admits, identity_gallery, refuse_unless
from protocol.compute import HOLDER, Ring
from protocol.confirmation import SealedConfirmation, holder_confirms
from protocol.errors import Disagreement
from protocol.filter import CONFIRM, EXHAUSTED, chunk_scores, holder_filters
from protocol.gallery import Gallery
from protocol.keyring import gather_nonces, holder_key, join_ring
from protocol.machine import Machine
from protocol.messages import Announce, Joined
from protocol.outcome import HolderResult, status_of
from protocol.probe import receive_probe
from protocol.release import pack_release
from protocol.session import Session, State
from protocol.steps import Phase, Send, Step, end_phase, receive
from protocol.terms import SYNTHETIC_MODEL, Terms, announce_digest


class Holder(Machine):
    """Answers one query from its gallery. `others`: the other holders of a joint query."""

    role = "holder"

    def __init__(
        self,
        name: str,
        requester: str,
        router: str,
        gallery: Gallery,
        query: bytes,
        others: tuple[str, ...] = (),
        threads: int = 1,
        keys: KeySource | None = None,
    ) -> None:
        super().__init__(name, query, threads)
        self.requester = requester
        self.router = router
        self.others = others
        self.gallery = gallery
        self.terms: Terms | None = None
        self.result: HolderResult | None = None
        self.sealed: SealedConfirmation | None = None  # what opens the confirmation's commitment in an audit
        self.keeper: Callable[[Holder], None] | None = None  # told when set-up is done, then at each secret to keep
        self.answering: Callable[[], None] | None = None  # may refuse: called before anything that depends on the probe
        self.releasing: Callable[[tuple[str, ...]], None] | None = None  # may refuse: told what is about to be released
        self.keys = keys or NativeKeys()
        self.salt = secrets.token_bytes(32)
        self.pair_secret = b""  # what masks this holder's inputs, shared with the requester; an audit takes it off
        self._query = self.open("", (requester, router, *others))
        self._session = self.open(name, (requester, router))

    def start(self) -> None:
        """Wait for the announcement."""
        self.begin(self._query, self._set_up(), self._answer)

    def _set_up(self) -> Step[tuple[JointKey, ZeroPool]]:
        announce = yield from receive(self.requester, Announce)
        terms = self._agree(announce)
        gallery = self.gallery
        own = Joined(
            announce_digest(announce),
            secrets.token_bytes(32),
            gallery.encoded.blocks,
            gallery.commitment(self.salt, self.keys.seed or b""),
        )
        identity, _ = yield from gather_nonces(announce, own, self.name, (self.router, *self.others))
        key = yield from holder_key(announce, terms.params, identity)
        yield from end_phase("set-up", (self.requester, self.router, *self.others))
        zeros = self.keys.make_zeros(key, "rerandomise", gallery.encoded.blocks + 1, self.threads)
        identity_gallery(terms.dim, terms.params)
        return key, zeros

    def _agree(self, announce: Announce) -> Terms:
        """Check an announcement against what this holder is and has. Raises `Disagreement` or `ParameterError`."""
        stated = (announce.requester, announce.router, frozenset(announce.holders))
        if stated != (self.requester, self.router, frozenset((self.name, *self.others))):
            raise Disagreement(f"the announcement names other parties than {self.name} was asked with")
        self.check_admitted(announce)
        self.terms = terms = Terms.announced(announce)
        gallery = self.gallery
        if gallery.encoded.rows != len(gallery.templates):
            raise GalleryError(
                f"the gallery of {self.name} has {len(gallery.templates)} templates, {gallery.encoded.rows} of them in "
                "NTT form: it was made for the plaintext twin"
            )
        if terms.dim != gallery.encoded.dim or terms.params != gallery.encoded.params:
            raise Disagreement(
                f"the query asks for d = {terms.dim} and {terms.params.preset}; the gallery of {self.name} has "
                f"d = {gallery.encoded.dim} and {gallery.encoded.params.preset}"
            )
        if SYNTHETIC_MODEL not in (terms.model, gallery.model) and terms.model != gallery.model:
            raise Disagreement(
                f"the probe's model {terms.model.hex()[:16]}… is not the gallery's {gallery.model.hex()[:16]}…"
            )
        return terms

    def _answer(self, result: tuple[JointKey, ZeroPool]) -> None:
        key, zeros = result
        self._tell_keeper()
        self._end(self._query, State.FINISHED, None)
        self.begin(self._session, self._search(key, zeros), self._finish)

    def _search(self, key: JointKey, zeros: ZeroPool) -> Step[HolderResult]:
        assert self.terms is not None
        terms, params, gallery = self.terms, self.terms.params, self.gallery
        names = (self.name, self.requester, self.router)
        ring: Ring = yield from join_ring(HOLDER, names, key.query_id, self.threads)
        self.pair_secret = ring.following_secret
        self._tell_keeper()
        ciphertexts = yield from receive_probe(self.requester, terms.dim, params)
        if self.answering is not None:
            self.answering()
        yield Phase("admit")
        prepared = prepare_probe(ciphertexts, params, self.threads)
        wants = chunk_scores(gallery.encoded, prepared)
        seed = self.keys.seed or secrets.token_bytes(32)
        admitted = yield from holder_admits(ring, params, terms.dim, ciphertexts, prepared, seed, wants[:1])
        yield from end_phase("admission", (self.requester, self.router))
        refuse_unless(admitted)
        del ciphertexts
        rung, rows = yield from holder_filters(ring, terms, gallery.encoded.rows, wants, zeros)
        if rows is None:
            return HolderResult(status_of(EXHAUSTED, 0), terms.rungs[rung])
        yield Phase("confirm")
        hits = yield from holder_confirms(
            ring,
            params,
            gallery.templates,
            rows,
            terms.theta(rung),
            terms.cap,
            prepared,
            zeros,
            self.keys.seed,
            self._keep,
        )
        references = tuple(dict.fromkeys(gallery.reference(hit.row) for hit in hits))  # a subject may have many rows
        if self.releasing is not None:
            self.releasing(references)
        yield Send(self.requester, pack_release(references, terms.cap))
        yield from end_phase("release", (self.requester,))
        return HolderResult(status_of(CONFIRM, len(hits)), terms.rungs[rung], hits)

    def _keep(self, sealed: SealedConfirmation) -> None:
        self.sealed = sealed
        self._tell_keeper()

    def _tell_keeper(self) -> None:
        if self.keeper is not None:
            self.keeper(self)

    def _finish(self, result: HolderResult) -> None:
        self.result = result
        self._end(self._session, State.FINISHED, None)

    def role_of(self, peer: str) -> str:
        """As `Machine.role_of`."""
        return {self.requester: "requester", self.router: "router"}.get(peer, "holder")

    def wipe(self, session: Session) -> None:
        """Note a refusal. Scores of a failed query are gone with its generator."""
        if session.state is State.REFUSED:
            assert self.terms is not None
            self.result = HolderResult("probe_refused", self.terms.threshold)
