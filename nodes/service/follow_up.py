"""The follow-up inside a running node: launches what was approved, delivers what was decided, takes what others state.

Persons act on the casework's database, in whatever process (`nodes.casework.desk`). This part of the node does what
follows: every statement goes into the transcript log and the evidence first, and only then to its receiver.
"""

from __future__ import annotations

import asyncio
import logging
import time
from typing import TYPE_CHECKING, NamedTuple

import msgspec
from sqlalchemy import select
from sqlalchemy.orm import Session

from nodes.casework import candidates, cases, core_data, deletion, inbox
from nodes.casework.contents import Draft, Found, Told
from nodes.casework.desk import CaseDesk
from nodes.casework.errors import CaseworkError, StatementRefused
from nodes.casework.office import Payload
from nodes.casework.tables import PersonRow, StatementRow
from nodes.config.schema import Role
from nodes.service.operator_api import SearchReport, SearchRequest
from nodes.transport.send_queue import PeerRefused, PeerUnreachable
from pets.errors import CryptoError, InputError, LineupError
from protocol.documents import DOCUMENT_LIMIT, open_document, seal_document
from protocol.errors import QueryRefused
from protocol.follow_up import (
    CandidatesShown,
    CandidatesWanted,
    Deleted,
    Recalled,
    Statement,
    decode_statement,
)
from protocol.messages import ABORT_CODES

if TYPE_CHECKING:
    from nodes.service.node import Node

log = logging.getLogger("lineup.follow_up")

PATH = "/v1/follow-up"
BODY_LIMIT = DOCUMENT_LIMIT + 4096
PAUSE_SECONDS = 0.5  # between looks at the database
FIRST_RETRY_SECONDS = 5
LAST_RETRY_SECONDS = 3600
ALARM_EVERY_SECONDS = 600
SHOWN_TIMES = 5  # a requester asks again only if the answer was lost; each time grows the log
STAFF_GONE = (
    "this node had staff, and its casework knows nobody: `lineup store restore` brings a backup back; until there is "
    "staff again nobody can approve a search"
)
PATIENT_TRIES = 60  # about two days: 11 tries until they are an hour apart
_MENDED = frozenset({"state", "clock"})  # a peer that is not known yet, a clock that is wrong: somebody mends it
_FINAL = frozenset(ABORT_CODES) - _MENDED - {"capacity", "timeout", "internal"}


class _Waiting(NamedTuple):
    """A statement that is to be delivered. `not_before`: seconds since 1970."""

    number: int
    statement: Statement
    payload: bytes
    not_before: int
    tries: int


class FollowUp:
    """One node's follow-up. Every method but `answer` and the two loops runs in a thread of its caller's choice."""

    def __init__(self, node: Node) -> None:
        self._node = node
        gallery = node.store if node.config.role is Role.HOLDER else None
        self.desk = CaseDesk.of_node(node.identity, node.peers, node.archive.folder, gallery)
        self._searches: set[asyncio.Task[None]] = set()
        self._alarmed = 0.0
        with self.desk.office.vault.writing() as session:
            cases.give_up_running(session)
        self.alarms = self._look_for_staff()  # for the operator, until the next look

    @property
    def idle(self) -> bool:
        """No approved search is under way."""
        return not self._searches

    def close(self) -> None:
        """Close the database."""
        self.desk.office.vault.close()

    def must_be_approved(self) -> bool:
        """Whether a search needs a second person's signature here: once there was staff, or the policy says so."""
        return self._had_staff() or self.desk.office.settings.require_approval

    def _had_staff(self) -> bool:
        ledger = self._node.archive.ledger
        if not ledger.staffed and self._has_staff():
            ledger.note_staff()
            return True
        return ledger.staffed

    def _look_for_staff(self) -> list[str]:
        gone = self._node.archive.ledger.staffed and not self._has_staff()
        return [STAFF_GONE] if gone else []

    def _has_staff(self) -> bool:
        with self.desk.office.vault.reading() as session:
            return session.scalar(select(PersonRow.id).limit(1)) is not None

    def disclosed(self, query: bytes, peer: str, references: tuple[str, ...]) -> None:
        """At the holder, before a release leaves: note who is given what."""
        with self.desk.office.vault.writing() as session:
            candidates.note_disclosed(self.desk.office, session, query, peer, references)

    # What others state

    async def answer(self, peer: str, body: bytes) -> bytes:
        """Take a document from an authenticated peer; gives the document that answers it.

        Raises `QueryRefused` with a closed code, `CryptoError`, `InputError`.
        """
        return await asyncio.to_thread(self._answer, peer, body)

    def _answer(self, peer: str, body: bytes) -> bytes:
        office, node = self.desk.office, self._node
        statement, payload = open_document(body, node.identity.sealing, peer, node.name, office.keyring)
        public = node.peers[peer].sealing_key
        try:
            with office.vault.writing() as session:
                if isinstance(statement.content, CandidatesWanted):
                    reply, shown, size = self._show(session, statement)
                else:
                    inbox.receive(office, session, statement, payload)
                    reply, shown, size = inbox.acknowledge(office, session, statement), b"", 0
        except StatementRefused as error:
            log.warning("statement refused", extra={"peer": peer, "code": error.code})
            raise QueryRefused(error.code, str(error)) from error
        except CaseworkError as error:
            raise QueryRefused("disagreement", str(error)) from error
        self.log_statements()
        return seal_document(reply, shown, public, size)

    def _show(self, session: Session, statement: Statement) -> tuple[Statement, bytes, int]:
        if self.desk.office.role is not Role.HOLDER:
            raise StatementRefused("only a holder shows candidates", "state")
        inbox.check_sender(self.desk.office, statement)  # before it enters this node's evidence of the query
        if not self._node.archive.keeps(statement.query):
            raise StatementRefused("candidates of a query that this node does not know", "state")
        inbox.check_receipts(self.desk.office, session, statement)
        if inbox.kept(session, statement.digest) is None:
            same = (
                StatementRow.attempt == statement.query,
                StatementRow.kind == statement.kind,
                StatementRow.peer == statement.sender,  # nobody uses up another's tries
            )
            if len(session.scalars(select(StatementRow.id).where(*same)).all()) >= SHOWN_TIMES:
                raise StatementRefused("candidates were asked for too often", "replay")
            self.desk.office.keep(session, statement, "received", "received")
        return candidates.show(self.desk.office, session, statement)

    # What follows from decisions

    async def run_for_ever(self) -> None:
        """Look at the database again and again."""
        while True:
            try:
                await self.round()
            except Exception as error:  # tried again: a decision must not be lost
                log.error("follow-up failed", extra={"error": type(error).__name__})
            await asyncio.sleep(PAUSE_SECONDS)

    async def round(self) -> None:
        """Launch, log and deliver what waits."""
        if self._node.config.role is Role.REQUESTER:
            await asyncio.to_thread(self._had_staff)  # soon after there is any it is signed into the log
            if not self._node.draining:
                await self._launch()
        await asyncio.to_thread(self.log_statements)
        await self._deliver()
        if time.monotonic() > self._alarmed + ALARM_EVERY_SECONDS:
            self._alarmed = time.monotonic()
            await asyncio.to_thread(self._alarm)

    def log_statements(self) -> None:
        """Put what is new into the transcript log and the evidence."""
        office = self.desk.office
        with self._node.archive.writing:  # one at a time: each statement once
            with office.vault.reading() as session:
                rows = session.scalars(
                    select(StatementRow).where(StatementRow.logged.is_(False)).order_by(StatementRow.id)
                ).all()
                waiting = [(row.id, row.content, row.direction, row.peer) for row in rows]
            for number, content, direction, peer in waiting:
                self._node.archive.keep_statement(decode_statement(content), direction, peer)  # type: ignore[arg-type]
                with office.vault.writing() as session:
                    row = session.get(StatementRow, number)
                    assert row is not None
                    row.logged = True

    async def _launch(self) -> None:
        office = self.desk.office

        def take() -> cases.Launch | None:
            with office.vault.writing() as session:
                return cases.take_approved(office, session)

        while (launch := await asyncio.to_thread(take)) is not None:
            task = asyncio.create_task(self._search(launch))
            self._searches.add(task)
            task.add_done_callback(self._searches.discard)

    async def _search(self, launch: cases.Launch) -> None:
        from nodes.service.requester import Approved, RequesterNode

        office, node = self.desk.office, self._node
        assert isinstance(node, RequesterNode)

        def begins(attempt: bytes) -> None:
            with office.vault.writing() as session:
                cases.note_attempt(office, session, launch.query, attempt, launch.approved)

        report: SearchReport | None = None
        try:
            approved = Approved(launch.number, launch.justification, begins)
            report = await node.search(_request(launch.draft, launch.justification.officer,
                                                launch.justification.approver), approved)  # fmt: skip
        except LineupError as error:
            log.error("search failed", extra={"error": type(error).__name__})
        finally:
            await asyncio.to_thread(self._note_report, launch, report)

    def _note_report(self, launch: cases.Launch, report: SearchReport | None) -> None:
        office = self.desk.office
        with office.vault.writing() as session:
            if report is None:
                cases.row_of(session, launch.query).state = "failed"
                return
            told = {
                holder: Told(answer.status, len(answer.references), answer.threshold_used, answer.reason)
                for holder, answer in report.answers.items()
            }
            found = {
                holder: Found(bytes.fromhex(report.answered_in[holder]), frozenset(answer.references), launch.draft.cap)
                for holder, answer in report.answers.items()
                if answer.status in ("candidates", "no hit") and holder in report.answered_in
            }
            candidates.note_found(office, session, launch.query, told, found)

    async def _deliver(self) -> None:
        """Hand statements over, each peer's in order: what cannot be delivered holds back what follows it.

        But not receipts, nor recalls of other candidates: a peer that waits for a receipt takes nothing else before.
        """
        office, now = self.desk.office, int(time.time())

        def waiting() -> dict[str, list[_Waiting]]:
            by_peer: dict[str, list[_Waiting]] = {}
            with office.vault.reading() as session:
                rows = select(StatementRow).where(StatementRow.state == "queued", StatementRow.logged.is_(True))
                for row in session.scalars(rows.order_by(StatementRow.id)):
                    payload = office.vault.unseal(row, Payload).data if row.sealed else b""
                    entry = _Waiting(row.id, decode_statement(row.content), payload, row.not_before, row.tries)
                    by_peer.setdefault(row.peer, []).append(entry)
            return by_peer

        async def hand_over(queue: list[_Waiting]) -> None:
            held_back = set()
            for one in queue:
                lane = _lane(one.statement)
                if lane in held_back:
                    continue
                try:
                    handed = one.not_before <= now and await self._hand_over(one)
                except PeerUnreachable:
                    await asyncio.to_thread(self._later, one.number)
                    return
                if not handed:
                    held_back.add(lane)

        await asyncio.gather(*(hand_over(queue) for queue in (await asyncio.to_thread(waiting)).values()))

    async def _hand_over(self, one: _Waiting) -> bool:
        """Deliver one statement; whether what depends on it may follow. Raises `PeerUnreachable`."""
        node, number, statement = self._node, one.number, one.statement
        peer = statement.receiver
        try:
            if peer not in node.peers:
                raise PeerRefused(peer, "state")
            body = await asyncio.to_thread(seal_document, statement, one.payload, node.peers[peer].sealing_key)
            answer = await node.transport.tell(peer, PATH, body)
            await asyncio.to_thread(self._take_answer, number, statement, answer)
        except PeerRefused as error:
            if _takes_it_later(statement, error.code, one.tries):
                log.info("statement put off by its receiver", extra={"peer": peer, "code": error.code})
                await asyncio.to_thread(self._later, number)
                return False
            log.warning("statement refused by its receiver", extra={"peer": peer, "code": error.code})
            await asyncio.to_thread(self._give_up, number, statement)
        except (CryptoError, InputError, CaseworkError) as error:  # the peer's answer does not hold
            log.error("answer refused", extra={"peer": peer, "error": type(error).__name__})
            again = isinstance(error, StatementRefused) and _takes_it_later(statement, error.code, one.tries)
            if again or _never_given_up(statement):
                await asyncio.to_thread(self._later, number)
                return False
            await asyncio.to_thread(self._give_up, number, statement)
        return True

    def _take_answer(self, number: int, statement: Statement, answer: bytes) -> None:
        office, node = self.desk.office, self._node
        reply, payload = open_document(answer, node.identity.sealing, statement.receiver, node.name, office.keyring)
        content = reply.content
        with office.vault.writing() as session:
            if isinstance(statement.content, CandidatesWanted):
                if not isinstance(content, CandidatesShown) or content.wanted != statement.digest:
                    raise StatementRefused("no answer to what was asked")
                inbox.check_sender(office, reply)
                candidates.take_shown(office, session, reply, payload)
            else:
                inbox.take_acknowledgement(office, session, statement, reply)
            _settle(session, number, "done")

    def _later(self, number: int) -> None:
        with self.desk.office.vault.writing() as session:
            row = session.get(StatementRow, number)
            if row is not None:
                wait = min(FIRST_RETRY_SECONDS << min(row.tries, 10), LAST_RETRY_SECONDS)
                row.tries, row.not_before = row.tries + 1, int(time.time()) + wait

    def _give_up(self, number: int, statement: Statement) -> None:
        with self.desk.office.vault.writing() as session:
            _settle(session, number, "failed")
            if isinstance(statement.content, CandidatesWanted):
                candidates.give_up_waiting(self.desk.office, session, statement.query, statement.receiver)

    def _alarm(self) -> None:
        """Say which clocks run out: counts only. And whether nobody is there any more who could decide."""
        office, self.alarms = self.desk.office, self._look_for_staff()
        with office.vault.reading() as session:
            views = core_data.deadlines(office, session, office.now())
            recalls = [view for view in deletion.recalls(session) if not view.answered]
        if owed := sum(view.due is not None and view.due < office.now() for view in recalls):
            told = f"recalls without a receipt after 48 hours: {owed}; {deletion.LIFTED}"
            log.error(told, extra={"node": office.name})
        late = office.now() - core_data.ALARM_SECONDS
        if lost := sum(view.due is None and view.made < late for view in recalls):
            told = f"recalls that their receiver has not taken in: {lost}; see `lineup case recalls`"
            log.error(told, extra={"node": office.name})
        if late := sum(view.overdue for view in views):
            log.error(f"core data overdue: {late}", extra={"node": office.name})
        if soon := sum(view.alarm and not view.overdue for view in views):
            log.warning(f"core data due within twelve hours: {soon}", extra={"node": office.name})


def _settle(session: Session, number: int, state: str) -> None:
    row = session.get(StatementRow, number)
    if row is not None:
        row.state, row.sealed = state, None


def _never_given_up(statement: Statement) -> bool:
    """A recall is made until it is acknowledged: a receiver does not get rid of it by how it answers."""
    return isinstance(statement.content, Recalled)


def _takes_it_later(statement: Statement, code: str, tries: int) -> bool:
    """Whether to try again what a peer has refused with this code, after so many tries."""
    if _never_given_up(statement):
        return True
    patient = isinstance(statement.content, Deleted) or tries < PATIENT_TRIES
    return code not in _FINAL and (code not in _MENDED or patient)


def _lane(statement: Statement) -> bytes:
    """Statements of one lane are delivered in the order in which they were made."""
    content = statement.content
    if isinstance(content, Deleted):
        return statement.digest
    return content.candidate if isinstance(content, Recalled) else b""


def _request(draft: Draft, officer: str, approver: str) -> SearchRequest:
    fields = msgspec.structs.asdict(draft)
    shared = {name: fields[name] for name in SearchRequest.__struct_fields__ if name in fields}
    return SearchRequest(officer=officer, approver=approver, **shared)
