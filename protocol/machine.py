"""State machines without input or output.

A `Session` runs one sub-protocol (`protocol.steps`) at a time for one holder (or, named `WHOLE`, for the query as
a whole). A `Machine` is one party in one query: its sessions, and the frames that wait to be sent. It touches no
socket, no file and no clock but a stop-watch; `handle` takes a frame that arrived, `outgoing` holds what must leave,
`wanted` what must be scored.
"""

from __future__ import annotations

import hashlib
import time
from collections import defaultdict, deque
from collections.abc import Callable, Sequence
from typing import Any, Literal, TypeVar

import numpy as np
import numpy.typing as npt

from pets.errors import CryptoError, LineupError
from pets.prf import labelled_hash
from protocol import wire
from protocol.announcing import announce_digest
from protocol.errors import (
    BadFrame,
    ConfirmationFailed,
    Disagreement,
    DuplicateMessage,
    MissingMessage,
    OutOfTurn,
    PeerAborted,
    PreparationSpent,
    ProbeRefused,
    ProtocolError,
    QueryRefused,
    UnexpectedMessage,
    UnknownVersion,
    WrongAddress,
    WrongSize,
)
from protocol.messages import ALLOWED, Abort, AnyMessage, Message, Prepare, Search, Signature
from protocol.roles import Role
from protocol.session import Arrived, Event, Session, State
from protocol.steps import HasKeyring, Keyring, Phase, Receive, ReceiveAny, Scored, Send, Sign, Step, Verify, Work

# Messages of one sender that may wait, and their bytes: a correct peer is at most a whole encrypted mask ahead, which
# is 64 MiB at d = 1024 and n = 8192.
INBOX_LIMIT = 64
INBOX_BYTES = 80 * 2**20

T = TypeVar("T")


class Machine:
    """One party in one query. Subclasses are the roles."""

    role: Role

    def __init__(
        self,
        name: str,
        query: bytes,
        threads: int,
        *,
        keyring: Keyring | None = None,
        recorder: Callable[[Event], None] | None = None,
        admitted: bytes | None = None,
    ) -> None:
        """Arguments as in `protocol.party.Context`; `query`: the 16 bytes that address its frames."""
        self.name = name
        self.query = query
        self.threads = threads
        self.sessions: dict[str, Session] = {}
        self.outgoing: deque[tuple[str, bytes]] = deque()
        self.wanted: deque[tuple[Session, Any]] = deque()
        self.moves = 0  # how often a session went on or ended: not at a message that nobody waits for
        self.seconds: dict[str, float] = defaultdict(float)
        self._keyring, self._recorder, self._admitted = keyring, recorder, admitted

    def open(self, session: str, peers: tuple[str, ...]) -> Session:
        """Accept messages for a session from now on; they wait until `begin`."""
        self.sessions[session] = Session(session, peers)
        return self.sessions[session]

    def begin(self, session: Session, task: Step[T], finish: Callable[[T], None]) -> None:
        """Run a task in a session up to its first wait; `finish` gets its result when it ends.

        A session that is over stays over.
        """
        if session.state.over:
            return
        session.task, session.finish, session.state = task, finish, State.RUNNING
        self._guard(session, lambda: self._advance(session, None))

    def begin_all(self, tasks: Sequence[tuple[Session, Step[T], Callable[[T], None]]]) -> None:
        """Begin several sessions. An error stops its own session only; the first one is raised when all have begun."""
        errors = []
        for session, task, finish in tasks:
            try:
                self.begin(session, task, finish)
            except LineupError as error:
                errors.append(error)
        if errors:
            raise errors[0]

    def check_admitted(self, announce: Prepare | Search) -> None:
        """Raise `Disagreement` unless this is the very announcement that was admitted."""
        if self._admitted is not None and announce_digest(announce) != self._admitted:
            raise Disagreement(f"{announce.requester} announces something else than what was admitted")

    def start(self) -> None:
        """Begin the offline part: the requester speaks first, the others wait for its announcement."""
        raise NotImplementedError

    def handle(self, frame: bytes, link: str) -> None:
        """Take one frame that arrived from `link` (the authenticated peer).

        Raises a `LineupError` when the frame or its content stops a session; peers have then been told.
        """
        try:
            envelope = wire.decode(frame)
            session = self._addressed(envelope, link)
            arrived = self._arrived(envelope, frame)
            if session.state is State.FINISHED and not isinstance(envelope.message, Abort):
                self._check_turn(session, envelope)
        except ProtocolError as error:
            # Nothing in a broken frame can be trusted to say which session it belongs to, and a session that has
            # finished cannot be stopped any more: whatever else this link takes part in is stopped.
            for victim in list(self.sessions.values()):
                if link in victim.peers and not victim.state.over:
                    self._stop(victim, error)
            raise
        if isinstance(envelope.message, Abort):
            # A router that answered and is done still learns how the query ended: it holds no answer that could be
            # undone. What the others have finished stays finished.
            late = self.role is Role.ROUTER and not session.whole and session.state is State.FINISHED
            if not session.state.over or late:
                self._record(session, "received", arrived)
                frozen = envelope.message.code == "confirmation"
                reason = PeerAborted(link, envelope.message.code, self._party(envelope.message.by) or link)
                self._end(session, State.FROZEN if frozen else State.ABORTED, reason)
                if session.whole:
                    self._spread(session)
            return
        self._guard(session, lambda: self._accept(session, arrived))

    def supply(self, session: Session, want: Work, scored: npt.NDArray[np.uint32]) -> None:
        """Hand over the result of a `Work`. It is ignored if the session is over."""
        if session.scoring is not want:
            return
        self.moves += 1
        if isinstance(session.waiting, Scored):
            session.waiting = session.scoring = None
            self._guard(session, lambda: self._advance(session, scored))
        else:
            session.scored = scored

    def abort(self, session: Session, error: LineupError) -> None:
        """Stop a session from outside (a peer died, a time-out) and tell the peers."""
        if not session.state.over:
            self._stop(session, error)

    def stop_recording(self) -> None:
        """Tell the recorder nothing more: for a caller that stops the sessions because the recorder failed."""
        self._recorder = None

    def role_of(self, peer: str) -> Role:
        """The role of another party of this query."""
        raise NotImplementedError

    def wipe(self, session: Session) -> None:
        """Erase what a session that is over need not keep. Roles override it."""

    def _addressed(self, envelope: wire.Envelope, link: str) -> Session:
        if envelope.query != self.query or envelope.receiver != self.name or envelope.sender != link:
            raise WrongAddress(
                f"{envelope.sender} → {envelope.receiver} came from {link} to {self.name}, or is of another query"
            )
        session = self.sessions.get(envelope.session)
        if session is None or link not in session.peers:
            raise WrongAddress(f"{link} has no part in session {envelope.session!r} of {self.name}")
        return session

    @staticmethod
    def _check_turn(session: Session, envelope: wire.Envelope) -> None:
        sender, expected = envelope.sender, session.received[envelope.sender]
        if envelope.sequence < expected:
            raise DuplicateMessage(f"message {envelope.sequence} of {sender} came again, expected {expected}")
        if session.state.over:
            raise OutOfTurn(f"session {session.name!r} is {session.state.value}")
        if envelope.sequence > expected:
            raise MissingMessage(f"message {envelope.sequence} of {sender} came before {expected}")

    def _accept(self, session: Session, arrived: Arrived) -> None:
        envelope, _, size = arrived
        self._check_turn(session, envelope)
        sender = envelope.sender
        session.received[sender] += 1
        if (self.role_of(sender), self.role) not in ALLOWED[type(envelope.message)]:
            raise UnexpectedMessage(f"{sender} may not send a {type(envelope.message).__name__} to {self.name}")
        inbox = session.inbox[sender]
        if len(inbox) >= INBOX_LIMIT or sum(waiting.size for waiting in inbox) + size > INBOX_BYTES:
            raise OutOfTurn(
                f"{sender} is {len(inbox)} messages ahead, the limit is {INBOX_LIMIT} or {INBOX_BYTES} bytes"
            )
        inbox.append(arrived)
        waiting = session.waiting
        if isinstance(waiting, ReceiveAny) and sender in waiting.senders:
            self._advance(session, (sender, self._next_message(session, Receive(sender, Message))))
        elif isinstance(waiting, Receive) and waiting.sender == sender:
            self._advance(session, self._next_message(session, waiting))

    def _next_message(self, session: Session, wanted: Receive) -> Any:
        arrived = session.inbox[wanted.sender].popleft()
        message = arrived.envelope.message
        if not isinstance(message, wanted.kind):
            raise UnexpectedMessage(
                f"{wanted.sender} sent {type(message).__name__} where {wanted.kind.__name__} was due"
            )
        session.waiting = None
        if isinstance(message, Signature):
            # It covers what came before it, so it joins the chain only after it was checked.
            session.unchecked = arrived
        else:
            self._record(session, "received", arrived)
        return message

    def _record(self, session: Session, direction: Literal["sent", "received"], arrived: Arrived) -> None:
        """Extend the hash chain of a direction and tell the recorder."""
        if self._keyring is None and self._recorder is None:
            return
        envelope, content, size = arrived
        peer = envelope.receiver if direction == "sent" else envelope.sender
        link, digest = (direction, peer), wire.frame_digest(envelope, content)
        session.chains[link] = hashlib.sha256(session.chains[link] + digest).digest()
        if self._recorder is not None:
            message = envelope.message
            self._recorder(Event(session.name, direction, peer, envelope.sequence, message, content, digest, size))

    def _arrived(self, envelope: wire.Envelope, frame: bytes) -> Arrived:
        """With a hash of zeros where nobody signs or records, because hashing a mask takes its time."""
        silent = self._keyring is None and self._recorder is None
        return Arrived(envelope, bytes(32) if silent else wire.content_digest(frame, envelope), len(frame))

    def _sign(self, session: Session, effect: Sign) -> None:
        assert self._keyring is not None
        head = session.chains["sent", effect.to]
        statement = phase_statement(self.query, session.name, effect.phase, self.name, effect.to, head)
        self._send(session, effect.to, Signature(effect.phase, head, self._keyring.sign(statement)))

    def _verify(self, session: Session, effect: Verify) -> None:
        assert self._keyring is not None
        assert session.unchecked is not None
        message, head = effect.message, session.chains["received", effect.sender]
        if message.phase != effect.phase or message.head != head:
            raise Disagreement(f"{effect.sender} signed another conversation than {self.name} had with it")
        statement = phase_statement(self.query, session.name, effect.phase, effect.sender, self.name, head)
        self._keyring.check(effect.sender, statement, message.signature)
        self._record(session, "received", session.unchecked)

    def _advance(self, session: Session, value: object) -> None:
        assert session.task is not None
        self.moves += 1
        started = time.perf_counter()
        try:
            while True:
                effect = session.task.send(value)
                value = None
                if isinstance(effect, Send):
                    self._send(session, effect.to, effect.message)
                elif isinstance(effect, Receive):
                    session.waiting = effect
                    if not session.inbox[effect.sender]:
                        break
                    value = self._next_message(session, effect)
                elif isinstance(effect, ReceiveAny):
                    session.waiting = effect
                    ready = [sender for sender in effect.senders if session.inbox[sender]]
                    if not ready:
                        break
                    value = ready[0], self._next_message(session, Receive(ready[0], Message))
                elif isinstance(effect, Phase):
                    now = time.perf_counter()
                    self.seconds[session.phase] += now - started
                    session.phase, started = effect.name, now
                elif isinstance(effect, HasKeyring):
                    value = self._keyring is not None
                elif isinstance(effect, Sign):
                    self._sign(session, effect)
                elif isinstance(effect, Verify):
                    self._verify(session, effect)
                elif isinstance(effect, Scored):
                    if session.scored is None:
                        session.waiting = effect
                        break
                    value, session.scoring, session.scored = session.scored, None, None
                else:
                    assert session.scoring is None
                    session.scoring = effect
                    self.wanted.append((session, effect))
        except StopIteration as end:
            session.task = None
            session.state = State.IDLE
            self.seconds[session.phase] += time.perf_counter() - started
            assert session.finish is not None
            session.finish(end.value)
        else:
            self.seconds[session.phase] += time.perf_counter() - started

    def _send(self, session: Session, to: str, message: AnyMessage) -> None:
        envelope = wire.Envelope(wire.VERSION, self.query, session.name, self.name, to, session.sent[to], message)
        frame = wire.encode(envelope)
        self._record(session, "sent", self._arrived(envelope, frame))
        session.sent[to] += 1
        self.outgoing.append((to, frame))

    def _guard(self, session: Session, action: Callable[[], None]) -> None:
        try:
            action()
        except ProbeRefused as error:
            # Everybody opened the same bit: nobody needs to be told.
            self._end(session, State.REFUSED, error)
        except LineupError as error:
            self._stop(session, error)
            raise

    def _stop(self, session: Session, error: LineupError) -> None:
        if session.state.over:
            return
        self._end(session, State.FROZEN if isinstance(error, ConfirmationFailed) else State.ABORTED, error)
        for peer in session.peers:
            self._send(session, peer, Abort(abort_code(error), self._party(getattr(error, "by", ""))))
        if session.whole:
            self._spread(session)

    def _party(self, name: str) -> str:
        """The name if it is of a party of this query, else nothing."""
        known = name == self.name or any(name in session.peers for session in self.sessions.values())
        return name if known else ""

    def _spread(self, query: Session) -> None:
        """The query as a whole has stopped: so do its sessions."""
        for session in list(self.sessions.values()):
            if session is not query and not session.state.over:
                self._stop(session, query.failure or PeerAborted(self.name, "peer"))

    def _end(self, session: Session, state: State, error: LineupError | None) -> None:
        self.moves += 1
        session.state, session.failure = state, error
        session.waiting = session.scoring = session.scored = None
        session.inbox.clear()
        if session.task is not None:
            session.task.close()
            session.task = None
        self.wipe(session)


def phase_statement(query: bytes, session: str, phase: str, sender: str, receiver: str, head: bytes) -> bytes:
    """What a phase signature is over: the head of the hash chain of all frames from sender to receiver."""
    return labelled_hash("phase", query, session, phase, sender, receiver, head)


def abort_code(error: LineupError) -> str:
    """Which of the closed list of codes tells peers of an error."""
    if isinstance(error, QueryRefused):
        return error.code
    for kind, code in (
        (ConfirmationFailed, "confirmation"),
        (UnknownVersion, "version"),
        (BadFrame, "bad-frame"),
        (OutOfTurn, "out-of-turn"),
        (WrongSize, "wrong-size"),
        (CryptoError, "crypto"),
        (PeerAborted, "peer"),
        (PreparationSpent, "replay"),
    ):
        if isinstance(error, kind):
            return code
    return "disagreement"
