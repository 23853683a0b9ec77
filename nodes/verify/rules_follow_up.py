"""The follow-up: who approved, who reviewed, under which conditions and how fast core data went, what was deleted."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from nodes.logs.checkpoints import check_disclosure
from nodes.logs.entries import TranscriptEntry
from nodes.verify.case import Case, View
from nodes.verify.format import Stated
from nodes.verify.report import Broken, Findings, Held, Open
from pets.errors import LineupError
from pets.signatures import SignatureError
from protocol.approval import ApprovalRefused, check_approval
from protocol.follow_up import (
    DECISIONS,
    SAID_BY,
    UNIDENTIFIED_FIELDS,
    Acknowledged,
    ClockPaused,
    ClockResumed,
    Confirmed,
    CoreDataRefused,
    CoreDataReleased,
    CoreDataRequested,
    Deleted,
    Launched,
    Recalled,
    Statement,
    digest_to_sign,
)

# Written down a second time: a node whose copy was changed must not change its judge.
CORE_DATA_MS = 48 * 3600 * 1000
RECALL_MS = 48 * 3600 * 1000
SKEW_MS = 600_000
PHASE = "follow-up"
UNSURE = "when the recall arrived is one side's word, or not shown"
PROTOCOL_CONTEXT = "protocol"


@dataclass(frozen=True)
class _TrustedKeys:
    """The keys that the supervisor trusts, for `check_approval`."""

    case: Case

    def check(self, peer: str, message: bytes, signature: bytes) -> None:
        """Raise `SignatureError` unless it is the peer's."""
        key = self.case.key_of(peer)
        if key is None:
            raise SignatureError(f"no key of {peer} is known")
        key.verify(signature, message, PROTOCOL_CONTEXT)


def _place(view: View, statement: Statement) -> str:
    ends = f"{statement.sender} → {statement.receiver}"
    return f"{view.label}follow-up, {ends}, {statement.kind}, in the bundle of {view.owner}"


def _all(case: Case) -> Iterator[tuple[View, Stated]]:
    return ((view, stated) for view in case.views for stated in view.bundle.follow_up)


def _of(case: Case, kind: type[Any]) -> list[tuple[View, Stated]]:
    """Statements of a kind, each once, as the first bundle that has it shows it."""
    found: dict[bytes, tuple[View, Stated]] = {}
    for view, stated in _all(case):
        if isinstance(stated.statement.content, kind):
            found.setdefault(stated.statement.digest, (view, stated))
    return list(found.values())


def statements_logged(case: Case) -> Findings:
    """Every statement is an entry of its owner's transcript log, under its signed checkpoint, and no entry is two."""
    for view in case.views:
        log, seen = view.bundle.log, {entry.index for entry in view.bundle.log.entries}
        for stated in view.bundle.follow_up:
            where = _place(view, stated.statement)
            try:
                entry = check_disclosure(stated.entry, log.header, log.checkpoint)
            except LineupError as error:
                yield Broken(where, str(error))
                continue
            fault = _log_fault(view, stated, entry)
            if stated.entry.index in seen:
                fault = f"entry {stated.entry.index} stands for something else already"
            seen.add(stated.entry.index)
            yield Held() if fault is None else Broken(where, fault)


def _log_fault(view: View, stated: Stated, entry: object) -> str | None:
    statement = stated.statement
    if not isinstance(entry, TranscriptEntry):
        return "logged in another log"
    said = (statement.query, PHASE, stated.direction, stated.peer, statement.kind, statement.frame, statement.signature)
    logged = (entry.query, entry.phase, entry.direction, entry.peer, entry.message, entry.frame, entry.signature)
    return None if said == logged and entry.time == stated.time else "the log holds another statement"


def statements_signed(case: Case) -> Findings:
    """Each statement is about this query, signed by its node, allowed to that role, and shown by both ends."""
    shown = {(view.owner, stated.direction, stated.statement.digest) for view, stated in _all(case)}  # who shows what
    owners = {view.owner for view in case.views}
    for view, stated in _all(case):
        statement, where = stated.statement, _place(view, stated.statement)
        ends = (view.owner, stated.peer) if stated.direction == "sent" else (stated.peer, view.owner)
        fault = None
        if statement.query != case.query or (statement.sender, statement.receiver) != ends:
            fault = "about another query, or between others"
        elif not _allowed(case, statement):
            fault = f"{statement.sender} may not state this to {statement.receiver}"
        elif (key := case.key_of(statement.sender)) is None:
            yield Open(f"signatures of {statement.sender}: neither a trust list nor its bundle was given")
        else:
            try:
                key.verify(statement.signature, statement.digest, PROTOCOL_CONTEXT)
            except SignatureError as error:
                fault = f"its signature does not hold: {error}"
        if fault is not None:
            yield Broken(where, fault)
            continue
        yield Held()
        other = stated.peer
        if other == view.owner or other not in owners:
            continue
        if stated.direction == "received" and (other, "sent", statement.digest) not in shown:
            yield Broken(where, f"{other} does not show that it said this")
        elif stated.direction == "sent" and (other, "received", statement.digest) not in shown:
            yield Open(f"{where}: {other} does not show that it arrived")


def _allowed(case: Case, statement: Statement) -> bool:
    kind, sender = type(statement.content), case.roles.get(statement.sender)
    if kind is Launched:
        return sender == "requester" and statement.receiver == statement.sender
    receiver = {"requester": "holder", "holder": "requester"}.get(sender or "")
    said_by = "requester" if kind is Acknowledged else SAID_BY.get(kind)  # kept where a recall was taken in
    return said_by == sender and case.roles.get(statement.receiver) == receiver


def _persons(case: Case, statement: Statement) -> set[bytes]:
    """Fingerprints of who approved. Raises `ApprovalRefused`."""
    content: Any = statement.content
    digest = digest_to_sign(content, statement.sender, statement.query)
    return {
        check_approval(approval, DECISIONS[type(content)], statement.sender, digest, _TrustedKeys(case),
                       statement.time / 1000)
        for approval in content.approvals
    }  # fmt: skip


def launches(case: Case) -> Findings:
    """A second person approved exactly this search, before it began."""
    announce = case.search
    found = _of(case, Launched)
    if announce is None or announce.warrant is None or not case.views_of(announce.requester):
        yield Open("approval of the launch: needs the requester's bundle")
        return
    (view, *_) = case.views_of(announce.requester)
    if not found:
        if any(True for _ in _all(case)):
            yield Broken(view.name, "a follow-up of a search that nobody is shown to have approved")
        else:
            yield Open(f"{view.name}: no approval by a second person is shown")
        return
    for place, stated in found:
        statement, content = stated.statement, stated.statement.content
        assert isinstance(content, Launched)
        where = _place(place, statement)
        try:
            people = _persons(case, statement)
        except ApprovalRefused as error:
            yield Broken(where, str(error))
            continue
        warrant = announce.warrant
        approved = (content.request_number, content.justification, content.threshold, content.cap, content.ladder,
                    content.purpose)  # fmt: skip
        launched = (warrant.request_number, warrant.justification, announce.threshold, announce.cap, announce.ladder,
                    warrant.purpose)  # fmt: skip
        first = min((record.time for record in view.bundle.records), default=statement.time)
        if content.opened_by in people:
            yield Broken(where, "whoever opened the search approved it")
        elif approved != launched or not set(announce.holders) <= set(content.holders):
            yield Broken(where, "another search was approved than was announced")
        elif _said(case, statement) > first + SKEW_MS:
            yield Broken(where, "approved after the search began")
        else:
            yield Held()


def reviews(case: Case) -> Findings:
    """Each confirmed match is signed by two reviewers, neither of whom opened the search (AIA 14(5))."""
    openers = {
        stated.statement.content.opened_by
        for _, stated in _of(case, Launched)
        if isinstance(stated.statement.content, Launched)
    }
    for view, stated in _of(case, Confirmed):
        statement, content = stated.statement, stated.statement.content
        assert isinstance(content, Confirmed)
        where = _place(view, statement)
        try:
            people = _persons(case, statement)
        except ApprovalRefused as error:
            yield Broken(where, str(error))
            continue
        if len(people) < 2 and not content.law:
            yield Broken(where, "confirmed by one person, and no law is cited that lets one do")
        elif people & openers:
            yield Broken(where, "whoever opened the search reviewed its candidate")
        else:
            yield Held("" if len(people) > 1 else f"confirmed by one person under: {content.law}")


def core_data_conditions(case: Case) -> Findings:
    """Core data are asked for after a confirmed match, and released once, by a person, as far as asked for (R 47)."""
    confirmed = {stated.statement.digest: stated.statement for _, stated in _of(case, Confirmed)}
    requests = {stated.statement.digest: stated.statement for _, stated in _of(case, CoreDataRequested)}
    for view, stated in _of(case, CoreDataRequested):
        statement, content = stated.statement, stated.statement.content
        assert isinstance(content, CoreDataRequested)
        before = confirmed.get(content.confirmed)
        fault = _person_fault(case, statement)
        if before is None or not isinstance(before.content, Confirmed):
            fault = "no confirmed match is shown"
        elif before.content.candidate != content.candidate or before.sender != statement.sender:
            fault = "the confirmed match is another candidate's"
        elif before.time > statement.time:
            fault = "asked for before the match was confirmed"
        yield Held() if fault is None else Broken(_place(view, statement), fault)
    answered: set[bytes] = set()
    for view, stated in (*_of(case, CoreDataReleased), *_of(case, CoreDataRefused)):
        statement, answer = stated.statement, stated.statement.content
        assert isinstance(answer, (CoreDataReleased, CoreDataRefused))
        request = requests.get(answer.request)
        fault = _person_fault(case, statement)
        if request is None or request.receiver != statement.sender:
            fault = "nobody is shown to have asked for it"
        elif answer.request in answered:
            fault = "answered twice"
        elif isinstance(answer, CoreDataReleased):
            fault = fault or _field_fault(request, answer)
        answered.add(answer.request)
        yield Held() if fault is None else Broken(_place(view, statement), fault)


def _person_fault(case: Case, statement: Statement) -> str | None:
    try:
        _persons(case, statement)
    except ApprovalRefused as error:
        return str(error)
    return None


def _field_fault(request: Statement, answer: CoreDataReleased) -> str | None:
    assert isinstance(request.content, CoreDataRequested)
    if set(answer.fields) - set(request.content.fields):
        return "fields that nobody asked for"
    if answer.kind == "unidentified" and set(answer.fields) - set(UNIDENTIFIED_FIELDS):
        return "an unidentified person with more than the four fields of R 47(5)"
    return None


def _said(case: Case, statement: Statement) -> int:
    """When it was stated: not before its sender's own log has it, for a statement alone can be dated back."""
    logged = (one.time for view, one in _all(case)
              if view.owner == statement.sender and one.statement.digest == statement.digest)  # fmt: skip
    return max((statement.time, *logged))


def _seen(case: Case, statement: Statement) -> int:
    """The latest time at which any log has it: when it arrived, where its receiver shows that."""
    logged = (one.time for _, one in _all(case) if one.statement.digest == statement.digest)
    return max((statement.time, *logged))


def core_data_clock(case: Case) -> Findings:
    """Answers within 48 hours after the request arrived, pauses for judicial authorisation apart (R 47(1)-(2)).

    An answer that is missing or late breaks the rule only by the bundle of whoever had to give it.
    """
    for view, stated in _of(case, CoreDataRequested):
        request = stated.statement
        arrived = max(
            (other.time for _, other in _all(case) if other.statement.digest == request.digest
             and other.direction == "received"),
            default=request.time,
        )  # fmt: skip
        due, answer = arrived + CORE_DATA_MS + _paused_ms(case, request, _said), _answer(case, request)
        where = _place(view, request)
        if answer is not None:
            late = _said(case, answer) - due
            seen_late = _seen(case, answer) - arrived - CORE_DATA_MS - _paused_ms(case, request, _seen)
            why = getattr(answer.content, "late", "")
            told = f"; it says why: {why}" if why else ""
            if late > SKEW_MS and case.views_of(request.receiver):
                yield Broken(where, f"answered {late / 3.6e6:.1f} hours late{told}")
            elif late > SKEW_MS:  # whoever asked may have left out that the clock stood
                yield Open(f"{where}: answered {late / 3.6e6:.1f} hours late{told}, unless {_unseen(request)}")
            elif seen_late > SKEW_MS:
                yield Open(f"{where}: dated in time, and arrived {seen_late / 3.6e6:.1f} hours late: held up, or dated "
                           "back")  # fmt: skip
            else:
                yield Held()
        elif max((one.bundle.exported for one in case.views_of(request.receiver)), default=-math.inf) > due:
            yield Broken(where, "no answer is shown, and the 48 hours are over")
        elif max(one.bundle.exported for one in case.views) > due:
            yield Open(f"{where}: no answer is shown, and the 48 hours are over, unless {_unseen(request)}")
        else:
            yield Open(f"{where}: not answered yet, and the 48 hours are not over")


def _unseen(request: Statement) -> str:
    return f"{request.receiver}, whose bundle is not there or older, shows otherwise"


def _paused_ms(case: Case, request: Statement, when: Callable[[Case, Statement], int]) -> int:
    """How long the clock stood, by `when` it was stopped and ran on; a pause without an end is still on."""
    events = [
        (when(case, stated.statement), type(stated.statement.content))
        for kind in (ClockPaused, ClockResumed)
        for _, stated in _of(case, kind)
        if stated.statement.content.request == request.digest  # type: ignore[union-attr]
    ]
    total, since = 0, None
    for time, kind in sorted(events, key=lambda event: event[0]):
        if kind is ClockPaused:
            since = time if since is None else since
        elif since is not None:
            total, since = total + time - since, None
    end = max(view.bundle.exported for view in case.views)
    return total + (end - since if since is not None else 0)


def _answer(case: Case, request: Statement) -> Statement | None:
    for _, stated in (*_of(case, CoreDataReleased), *_of(case, CoreDataRefused)):
        if stated.statement.content.request == request.digest:  # type: ignore[union-attr]
            return stated.statement
    return None


def recalls_answered(case: Case) -> Findings:
    """What was recalled for deletion or correction was deleted within 48 hours after that arrived, with a receipt.

    R 64(1)(m). When it arrived is the receiver's word, which it signs to the holder, and what the holder's log says.
    That there is no receipt breaks the rule only by the receiver's own bundle, exported after the 48 hours. That a
    recall is not acknowledged either is told by its holder's, and held against nobody: it may not have arrived.
    """
    for view, stated in _of(case, Recalled):
        recall, content = stated.statement, stated.statement.content
        assert isinstance(content, Recalled)
        if content.kind not in ("delete", "correct"):
            continue
        receipts = [
            (_said(case, other.statement), _seen(case, other.statement))
            for _, other in _of(case, Deleted)
            if isinstance(other.statement.content, Deleted)
            and other.statement.content.candidate == content.candidate
            and other.statement.sender == recall.receiver
        ]
        where, (first, last) = _place(view, recall), _arrival(case, recall)
        early, late = first + RECALL_MS, math.inf if last is None else last + RECALL_MS
        if not receipts:
            now = max(one.bundle.exported for one in case.views)
            shown = max((one.bundle.exported for one in case.views_of(recall.receiver)), default=-math.inf)
            if shown > late:
                yield Broken(where, "no deletion receipt, and the 48 hours are over")
            elif now > late:  # whoever shows their own bundle alone may have left it out
                yield Open(f"{where}: no deletion receipt is shown, nor what {recall.receiver} has after the 48 hours")
            elif last is None and any(one.bundle.exported > early for one in case.views_of(recall.sender)):
                hours = (now - recall.time) / 3.6e6
                yield Open(f"{where}: {hours:.0f} hours ago, and {recall.receiver} is not shown to have acknowledged "
                           "or answered it: it did not arrive, or is not heeded")  # fmt: skip
            elif now > early:
                yield Open(f"{where}: no deletion receipt in 48 hours, and {UNSURE}")
            else:
                yield Open(f"{where}: no deletion receipt yet, and the 48 hours are not over")
            continue
        said, seen = min(receipts)
        if said > late + SKEW_MS:
            yield Broken(where, "deleted more than 48 hours later")
        elif said > early + SKEW_MS:
            yield Open(f"{where}: deleted more than 48 hours after it was made, and {UNSURE}")
        elif seen > late + SKEW_MS:
            yield Open(f"{where}: the receipt is dated in time, and arrived later: held up, or dated back")
        else:
            yield Held()


def _arrival(case: Case, recall: Statement) -> tuple[int, int | None]:
    """When a recall arrived: at the earliest, and at the latest, which nothing shows where it is None.

    Its receiver signs an acknowledgement, and the holder's log has when that came back. The receiver's own log alone
    may have it late.
    """
    acknowledged = [
        stated for _, stated in _all(case)
        if isinstance(stated.statement.content, Acknowledged) and stated.statement.content.statement == recall.digest
        and stated.statement.sender == recall.receiver
    ]  # fmt: skip
    words = [stated.statement.time for stated in acknowledged]
    logged = [stated.time for stated in acknowledged if stated.direction == "received"]
    if words:
        return min(words + logged) if logged else recall.time, max(min(words), min(logged, default=0))
    own = [one.time for _, one in _all(case) if one.direction == "received" and one.statement.digest == recall.digest]
    return recall.time, min(own, default=None)
