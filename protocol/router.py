"""The router: the central system between nodes. It holds one key share and computes on shares it cannot read."""

from __future__ import annotations

import secrets
from functools import partial

from pets.key_source import KeySource, NativeKeys
from protocol.admission import key_owner_admits, refuse_unless
from protocol.compute import ROUTER, Ring
from protocol.confirmation import key_owner_confirms
from protocol.errors import Disagreement
from protocol.filter import CONFIRM, key_owner_filters
from protocol.keyring import QueryKey, gather_nonces, join_ring, router_key
from protocol.machine import Machine
from protocol.messages import Announce, Joined, ProbeDigest
from protocol.session import Session, State
from protocol.steps import Phase, Step, end_phase, receive
from protocol.terms import Terms, announce_digest


class Router(Machine):
    """Third party of every ring of one query. `holders`: those the query is addressed to."""

    role = "router"

    def __init__(
        self,
        name: str,
        requester: str,
        holders: tuple[str, ...],
        query: bytes,
        threads: int = 1,
        keys: KeySource | None = None,
    ) -> None:
        super().__init__(name, query, threads)
        self.keys = keys or NativeKeys()
        self.requester = requester
        self.holders = holders
        self.terms: Terms | None = None
        self._key: QueryKey | None = None
        self._joined: dict[str, Joined] = {}
        self._query = self.open("", (requester, *holders))
        for holder in holders:
            self.open(holder, (holder, requester))

    def start(self) -> None:
        """Wait for the announcement."""
        self.begin(self._query, self._set_up(), self._join_rings)

    def _set_up(self) -> Step[QueryKey]:
        announce = yield from receive(self.requester, Announce)
        expected = (self.requester, self.name, self.holders)
        if (announce.requester, announce.router, announce.holders) != expected:
            raise Disagreement(f"the announcement names other parties than {expected}")
        self.check_admitted(announce)
        self.terms = Terms.announced(announce)
        own = Joined(announce_digest(announce), secrets.token_bytes(32), None, None)
        identity, self._joined = yield from gather_nonces(announce, own, self.name, self.holders)
        key = yield from router_key(announce, self.terms.params, identity, self.keys)
        self._key = key  # from now on `wipe` erases it, whatever happens
        yield from end_phase("set-up", (self.requester, *self.holders))
        return key

    def _join_rings(self, _: QueryKey) -> None:
        self._end(self._query, State.FINISHED, None)
        sessions = [self.sessions[holder] for holder in self.holders]
        self.begin_all([(session, self._serve(session.name), partial(self._finish, session)) for session in sessions])

    def _serve(self, holder: str) -> Step[None]:
        assert self._key is not None
        assert self.terms is not None
        key, terms = self._key, self.terms
        names = (holder, self.requester, self.name)
        ring: Ring = yield from join_ring(ROUTER, names, key.joint.query_id, self.threads)
        yield from receive(self.requester, ProbeDigest)
        yield Phase("admit")
        admitted = yield from key_owner_admits(ring, key, terms.dim)
        yield from end_phase("admission", (holder, self.requester))
        refuse_unless(admitted)
        _, verdict = yield from key_owner_filters(ring, terms, key, self._joined[holder].blocks or 0)
        if verdict == CONFIRM:
            yield Phase("confirm")
            yield from key_owner_confirms(ring, key, terms.cap)

    def _finish(self, session: Session, _: None) -> None:
        self._end(session, State.FINISHED, None)

    def role_of(self, peer: str) -> str:
        """As `Machine.role_of`."""
        return "requester" if peer == self.requester else "holder"

    def wipe(self, session: Session) -> None:
        """Erase the key share once no holder needs it any more."""
        if self._key is not None and all(self.sessions[holder].state.over for holder in self.holders):
            self._key.share.erase()
