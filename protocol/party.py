"""A party of a preparation or of a search that uses one: what every role has in common."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from pets.errors import LineupError
from protocol.errors import Disagreement
from protocol.machine import Machine
from protocol.roles import Parties, Role
from protocol.session import WHOLE, Event, Session, State
from protocol.steps import Keyring, Step

Hook = Callable[[bytes], None]


@dataclass(frozen=True)
class Context:
    """All that a machine is told from outside, once.

    `conversation`: the 16 bytes that address its frames. `keyring`: signs and checks; None where nobody does (one
    process). `recorder`: told of each frame before it leaves or is acted on. `admitted`: digest of the announcement
    that a policy has admitted; None admits any. Hooks refuse by raising. `spend` (at the requester before u is made)
    and `accept` (at router and holder before they accept a search) are called with the preparation's id. `keep` is
    given the machine while it has secrets that an audit needs: the requester's before u is made, the holder's at each
    new one. `answer` (at a holder) is called once u is there, before anything that depends on it leaves. `release` is
    told of the references that are about to be released, and gives those of them whose accuracy is contested.
    """

    name: str
    conversation: bytes
    parties: Parties
    threads: int = 1
    keyring: Keyring | None = None
    recorder: Callable[[Event], None] | None = None
    admitted: bytes | None = None
    spend: Hook | None = None
    accept: Hook | None = None
    keep: Callable[[Any], None] | None = None
    answer: Callable[[], None] | None = None
    release: Callable[[tuple[str, ...]], frozenset[str]] | None = None


class Party(Machine):
    """One machine of one conversation. Sessions: `WHOLE`, and one for each holder's ring that it sits in."""

    role: Role

    def __init__(self, context: Context) -> None:
        super().__init__(
            context.name,
            context.conversation,
            context.threads,
            keyring=context.keyring,
            recorder=context.recorder,
            admitted=context.admitted,
        )
        self.context = context
        self.parties = parties = context.parties
        self.role = parties.role_of(context.name)
        self.whole = self.open(WHOLE, parties.others(context.name))
        holders = (context.name,) if self.role is Role.HOLDER else parties.holders
        for holder in holders:
            self.open(holder, tuple(name for name in parties.ring(holder) if name != context.name))

    @property
    def ring_sessions(self) -> list[Session]:
        """The sessions of rings, one for each holder."""
        return [session for session in self.sessions.values() if not session.whole]

    @property
    def done(self) -> bool:
        """Whether every session is over."""
        return all(session.state.over for session in self.sessions.values())

    def check_parties(self, stated: Parties) -> None:
        """Raise `Disagreement` for an announcement of other parties than this machine was made for."""
        if stated != self.parties:
            raise Disagreement(f"the announcement names other parties than {self.name} was asked with")

    def begin_rings(self, task: Callable[[str], Step[Any]], finish: Callable[[str, Any], None]) -> None:
        """End the session of the whole and begin that of every ring."""
        self._end(self.whole, State.FINISHED, None)
        self.begin_all(
            [(session, task(session.name), partial(self._ring_done, session, finish)) for session in self.ring_sessions]
        )

    def _ring_done(self, session: Session, finish: Callable[[str, Any], None], result: Any) -> None:
        finish(session.name, result)
        self._end(session, State.FINISHED, None)

    def stop_all(self, error: LineupError) -> None:
        """Stop every session that is not over, and tell the peers."""
        for session in self.sessions.values():
            self.abort(session, error)

    def wipe(self, session: Session) -> None:
        """With its last ring the whole is over too. Roles add what they erase."""
        if not session.whole and not self.whole.state.over and all(ring.state.over for ring in self.ring_sessions):
            self._end(self.whole, State.ABORTED, session.failure)

    def role_of(self, peer: str) -> Role:
        """As `Machine.role_of`."""
        return self.parties.role_of(peer)
