"""The requester: the national node that asks."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from functools import partial

import numpy as np
import numpy.typing as npt

from pets.errors import TemplateError
from pets.key_source import KeySource, NativeKeys, seed_digest
from pets.keys import Residues, encrypt_constants
from pets.params import norm_bound
from protocol.admission import key_owner_admits, refuse_unless
from protocol.compute import REQUESTER, Ring
from protocol.confirmation import key_owner_confirms
from protocol.errors import FalseRefusal, OutOfTurn
from protocol.filter import CONFIRM, key_owner_filters
from protocol.keyring import QueryKey, gather_nonces, join_ring, requester_key
from protocol.machine import Machine
from protocol.messages import Joined, ProbePart, Release, Warrant
from protocol.outcome import Answer, status_of
from protocol.probe import component_digests, probe_parts, send_probe
from protocol.release import unpack_release
from protocol.session import Session, State
from protocol.steps import Notary, Phase, Send, Step, end_phase, receive
from protocol.terms import Terms
from protocol.warrant import sign_announcement


class Requester(Machine):
    """Asks several holders with one encryption of the probe.

    Offline: announces, splits the key, makes encryptions of zero, joins a ring for each holder; then `ready`.
    Online: `submit` takes the probe; `answers` fills as holders finish.
    """

    role = "requester"

    def __init__(
        self,
        name: str,
        router: str,
        holders: Sequence[str],
        terms: Terms,
        query: bytes | None = None,
        threads: int = 1,
        warrant: Warrant | None = None,
        notary: Notary | None = None,
        keys: KeySource | None = None,
    ) -> None:
        super().__init__(name, query or secrets.token_bytes(16), threads)
        self.router = router
        self.terms = terms
        self.answers: dict[str, Answer] = {}
        self.false_refusal: FalseRefusal | None = None  # the first; `submit` has checked the probe
        self._checked = False
        self.keys = keys or NativeKeys()
        self.notary = notary
        self.announce = terms.announce(name, router, tuple(holders), seed_digest(self.keys), warrant)
        if notary is not None:
            self.announce = sign_announcement(self.announce, notary)
        self._rings: dict[str, Ring] = {}
        self._key: QueryKey | None = None
        self._zeros: tuple[Residues, list[bytes]] | None = None  # and the hashes of their second components
        self._joined: dict[str, Joined] = {}
        self._query = self.open("", (router, *holders))
        for holder in holders:
            self.open(holder, (holder, router))

    def start(self) -> None:
        """Begin the offline part."""
        self.begin(self._query, self._set_up(), self._join_rings)

    @property
    def ready(self) -> bool:
        """The offline part is done for every holder that has not failed."""
        return self._key is not None and all(
            session.state.over or session.name in self._rings for session in self._holder_sessions
        )

    @property
    def _holder_sessions(self) -> list[Session]:
        return [session for session in self.sessions.values() if session.name]

    def submit(self, template: npt.NDArray[np.int8]) -> None:
        """Encrypt a quantised template, int8 (d,), and start searching. Only once: a retry is a new query.

        Raises `TemplateError` for a template that admission would refuse, `OutOfTurn` before `ready` or a second time.
        """
        if template.shape != (self.terms.dim,) or template.dtype != np.int8:
            raise TemplateError(f"a probe must be int8 ({self.terms.dim},), got {template.dtype} {template.shape}")
        squared = int(np.dot(template.astype(np.int64), template.astype(np.int64)))
        if squared > norm_bound(self.terms.dim) or int(template.min()) < -127:
            raise TemplateError(f"squared norm {squared} of the probe, the limit is {norm_bound(self.terms.dim)}")
        self._checked = True
        self._submit(template)

    def _submit(self, template: npt.NDArray[np.int8]) -> None:
        if not self.ready or self._zeros is None:
            raise OutOfTurn("the offline part is not done, or the probe was submitted already")
        (zeros, second), self._zeros = self._zeros, None
        ciphertexts = encrypt_constants(template, zeros, self.terms.params)
        parts, digest = probe_parts(ciphertexts, second, self.threads)
        self.begin_all(
            [
                (session, self._search(session.name, parts, digest), partial(self._finish, session))
                for session in self._holder_sessions
            ]
        )

    def _set_up(self) -> Step[tuple[QueryKey, tuple[Residues, list[bytes]]]]:
        for name in (self.router, *self.announce.holders):
            yield Send(name, self.announce)
        identity, self._joined = yield from gather_nonces(
            self.announce, None, self.name, (self.router, *self.announce.holders)
        )
        key = yield from requester_key(self.announce, self.terms.params, identity, self.keys)
        self._key = key  # from now on `wipe` erases it, whatever happens
        yield from end_phase("set-up", (self.router, *self.announce.holders))
        zeros = self.keys.make_zeros(key.joint, "probe", self.terms.dim, self.threads).take(self.terms.dim)
        return key, (zeros, component_digests(zeros, 1, self.threads))

    def _join_rings(self, result: tuple[QueryKey, tuple[Residues, list[bytes]]]) -> None:
        key, self._zeros = result
        self._end(self._query, State.FINISHED, None)
        identity = key.joint.query_id
        tasks = []
        for session in self._holder_sessions:
            names = (session.name, self.name, self.router)
            task = join_ring(REQUESTER, names, identity, self.threads)
            tasks.append((session, task, partial(self._rings.__setitem__, session.name)))
        self.begin_all(tasks)

    def _search(self, holder: str, parts: Sequence[ProbePart], digest: bytes) -> Step[Answer]:
        assert self._key is not None
        ring, terms, key = self._rings[holder], self.terms, self._key
        blocks = self._joined[holder].blocks or 0
        yield Phase("admit")
        yield from send_probe(holder, self.router, parts, digest)
        del parts  # 33 MB that nothing needs any more
        admitted = yield from key_owner_admits(ring, key, terms.dim)
        yield from end_phase("admission", (holder, self.router))
        refuse_unless(admitted)
        rung, verdict = yield from key_owner_filters(ring, terms, key, blocks)
        references: tuple[str, ...] = ()
        if verdict == CONFIRM:
            yield Phase("confirm")
            yield from key_owner_confirms(ring, key, terms.cap)
            release = yield from receive(holder, Release)
            yield from end_phase("release", (holder,))
            references = unpack_release(release, terms.cap)
        return Answer(status_of(verdict, len(references)), terms.rungs[rung], references)

    def _finish(self, session: Session, answer: Answer) -> None:
        self.answers[session.name] = answer
        self._end(session, State.FINISHED, None)

    def _stop_all_after(self, refused: Session) -> None:
        """Somebody lied about a probe that is good: stop every ring before more is asked of it that way."""
        if self._checked and self.false_refusal is None:
            self.false_refusal = FalseRefusal(refused.name, self.router)
            for session in self._holder_sessions:
                self.abort(session, self.false_refusal)

    def role_of(self, peer: str) -> str:
        """As `Machine.role_of`."""
        return "router" if peer == self.router else "holder"

    def wipe(self, session: Session) -> None:
        """Erase the key share once no holder needs it any more."""
        if session.state is State.REFUSED:
            self.answers[session.name] = Answer("probe_refused", self.terms.threshold)
            self._stop_all_after(session)
        self._rings.pop(session.name, None)
        if self._key is not None and all(s.state.over for s in self._holder_sessions):
            self._key.share.erase()
