"""What went over each link: closed schemas, order, sizes, both ends alike, nothing said twice."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from itertools import combinations

from nodes.verify import grammar
from nodes.verify.case import Case, Item, View, announce_digest
from nodes.verify.format import HARMLESS, WHOLE, Record, content_digest, encode_frame, envelope_bytes
from nodes.verify.report import Broken, Findings, Held, Open
from protocol import messages
from protocol.messages import ALLOWED, JoinedPreparation, Prepare

KINDS = {kind.__name__: kind for kind in ALLOWED}
_HARMLESS = frozenset(kind.__name__ for kind in HARMLESS)


def closed_schema(case: Case) -> Findings:
    """Types are known; harmless messages are shown in full and encode to the recorded hash; no others are shown."""
    for view in case.views:
        for record in view.bundle.records:
            wrong = _schema_fault(view, record)
            yield Held() if wrong is None else Broken(view.place(record), wrong)


def _schema_fault(view: View, record: Record) -> str | None:
    message = record.message
    if record.kind not in KINDS:
        return "a type of message that the protocol does not have"
    if (message is not None) != (record.kind in _HARMLESS):
        return "shown in full though it may not be kept" if message is not None else "not shown though it is harmless"
    if message is None:
        return None
    if type(message).__name__ != record.kind:
        return f"it is recorded as {record.kind} and shown as {type(message).__name__}"
    if content_digest(message) != record.content:
        return "the message shown does not have the recorded hash"
    size = len(encode_frame(view.bundle.query, record.session, *view.ends(record), record.sequence, message))
    return None if size == record.size else f"recorded with {record.size} bytes, it has {size}"


def allowed_order(case: Case) -> Findings:
    """Each link carries only what is allowed, numbered without a gap, in the order of the protocol."""
    if case.announce is None:
        yield Open("without an announcement nobody has a role")
        return
    for view in case.views:
        for (session, direction, peer), items in view.links.items():
            sender, receiver = (view.owner, peer) if direction == "sent" else (peer, view.owner)
            fault = _order_fault(case, session, sender, receiver, items)
            if fault is None:
                yield Held()
            else:
                yield Broken(view.place(fault[0].record), fault[1])


def _order_fault(case: Case, session: str, sender: str, receiver: str, items: list[Item]) -> tuple[Item, str] | None:
    roles = case.roles.get(sender, ""), case.roles.get(receiver, "")
    whole = session == WHOLE
    if session not in (WHOLE, *case.holders) or (not whole and "holder" in roles and session not in (sender, receiver)):
        return items[0], f"{sender} and {receiver} have no part in such a session"
    for expected, item in enumerate(items):
        record = item.record
        if roles not in ALLOWED.get(KINDS.get(record.kind, messages.Message), frozenset()):
            return item, f"a {roles[0] or 'stranger'} may not send this to a {roles[1] or 'stranger'}"
        # A received Abort is taken at once, before what still waits to be worked on.
        if record.sequence != expected and not (record.kind == "Abort" and record.sequence > expected):
            return item, f"message {expected} was due"
    try:
        grammar.follow(case.kind, items, *roles, not whole, case.shape(session))
    except grammar.Unexpected as error:
        return error.item, f"out of order: {error}"
    return None


def sizes(case: Case) -> Findings:
    """Every message is as long as rows, d and cap dictate: so it holds at most cap candidates, and no more sums."""
    yield from map(Open, case.unseen)
    for view in case.views:
        for (session, _, _), items in view.links.items():
            shape = case.shape(session)
            if shape is None:
                yield Open(f"{view.label}session {session}: parameters or the holder's number of blocks are not known")
                continue
            seen: dict[str, int] = {}
            for item in items:
                record = item.record
                index = seen[record.kind] = seen.get(record.kind, -1) + 1
                message = shape.message_bytes(record.kind, index)
                if message is None:
                    continue
                expected = message + envelope_bytes(case.query, session, *view.ends(record), record.sequence)
                if expected == record.size:
                    yield Held()
                else:
                    yield Broken(view.place(record), f"{record.size} bytes, cap {shape.cap}, d {shape.dim} and "
                                 f"{shape.blocks} block(s) make it {expected}")  # fmt: skip


def both_ends(case: Case) -> Findings:
    """What one party sent is what the other received, message by message."""
    pairs = set()
    for left, right in combinations(case.views, 2):
        if left.owner == right.owner:
            continue
        pairs.add(frozenset((left.owner, right.owner)))
        for sender, receiver in ((left, right), (right, left)):
            for session in (WHOLE, *case.holders):
                yield from _compare(case, session, sender, receiver)
    for one, other in combinations(sorted(case.roles), 2):
        if frozenset((one, other)) not in pairs:
            yield Open(f"{case.label}{one} and {other}: both bundles are needed")


def _compare(case: Case, session: str, sender: View, receiver: View) -> Findings:
    sent = {item.record.sequence: item.record for item in sender.link(session, "sent", receiver.owner)}
    received = receiver.link(session, "received", sender.owner)
    if not sent and not received:
        return
    for item in received:
        record = item.record
        theirs = sent.get(record.sequence)
        if theirs is None:
            yield Broken(receiver.place(record), f"{sender.owner} does not show that it sent this")
            return
        if (theirs.content, theirs.kind, theirs.size) != (record.content, record.kind, record.size):
            yield Broken(receiver.place(record), f"{sender.owner} shows another message in this place: "
                         f"{_content(theirs)}; received was {_content(record)}")  # fmt: skip
            return
    said = {sequence for sequence, record in sent.items() if record.kind != "Abort"}  # who is done heeds none
    missing = said - {item.record.sequence for item in received}
    if missing and not case.stopped(session, receiver.owner):
        place = sender.place(sent[min(missing)])
        if case.announce is not None and {view.owner for view in case.views} >= _parties(case, session):
            yield Broken(place, f"{receiver.owner} does not show that it received this, though nobody stopped")
        else:
            yield Open(f"{place}: {receiver.owner} does not show it; it may have been stopped by a party not given")
    else:
        yield Held()


def _content(record: Record) -> str:
    return f"{record.kind}, {record.size} bytes, hash {record.content.hex()[:16]}"


# What a holder sends to requester and router alike, and what these two must send it alike.
_ALIKE = (
    "FormBlock", "PreparedBlocks", "AdmissionScores", "MaskedScores", "PowerSums", "ConfirmationAnswer"
)  # fmt: skip


def same_content(case: Case) -> Findings:
    """What must be the same for two has the same content: what a holder publishes, power sums, confirmation answers.

    Mask, key and u, which all holders get, are the business of `rules_preparation`, the confirmation block is that of
    `rules_search.confirmation`. Contents are part of the frames that their sender signed, so a difference in what one
    party sent is proof against it. Of two different sums or answers the bundles do not tell which is the wrong one.
    """
    yield from alike(case, _ALIKE)
    yield from map(Open, case.unseen)


def alike(case: Case, kinds: Sequence[str], of_all: bool = False) -> Findings:
    """The n-th message of a kind has one content on all links of a session; `of_all`: of the whole conversation.

    In a conversation as a whole, what holders are told; what the requester tells the router is another thing.
    """
    found: dict[tuple[str, str, int], tuple[bytes, str]] = {}
    for view in case.views:
        for (session, _, _), items in view.links.items():
            numbers: Counter[str] = Counter()
            for record in (item.record for item in items if item.record.kind in kinds):
                if session == WHOLE and case.roles.get(view.ends(record)[1]) != "holder":
                    continue
                place = (record.kind, "" if of_all else session, numbers[record.kind])
                numbers[record.kind] += 1
                content, where = found.setdefault(place, (record.content, view.place(record)))
                if content == record.content:
                    yield Held()
                else:
                    yield Broken(view.place(record), f"another content than in {where}, hash {content.hex()[:16]}; it "
                                 f"must be the same, and has {record.content.hex()[:16]}")  # fmt: skip


def _parties(case: Case, session: str) -> set[str]:
    assert case.announce is not None
    asked = set(case.holders) if session == WHOLE else {session}
    return {case.announce.requester, case.announce.router, *asked}


def answered_once(cases: Sequence[Case]) -> Findings:
    """Nobody said two different things in one place, and nothing that must be fresh served two conversations."""
    for case in cases:
        # Two parties that differ are the business of `both_ends`; here one party contradicts itself.
        places: dict[tuple[str, str, str, str, int], bytes] = {}
        for view in case.views:
            for record in view.bundle.records:
                place = (view.owner, record.session, *view.ends(record), record.sequence)
                if places.setdefault(place, record.content) == record.content:
                    yield Held()
                else:
                    yield Broken(view.place(record), f"{view.owner} shows two different messages in this place")
    for what, values in _fresh(cases).items():
        owners: dict[bytes, Case] = {}
        for value, case in values:
            if owners.setdefault(value, case) is not case:
                yield Broken(case.name, f"{what} of {owners[value].name} again")
            else:
                yield Held()


def _fresh(cases: Sequence[Case]) -> dict[str, list[tuple[bytes, Case]]]:
    """What may serve one conversation only. A seed used twice is every stream of it used twice."""
    fresh: dict[str, list[tuple[bytes, Case]]] = {"announcement": [], "nonce": [], "seed": []}
    for case in cases:
        if case.announce is None:
            continue
        fresh["announcement"].append((announce_digest(case.announce), case))
        fresh["nonce"] += [(case.announce.nonce, case), *((joined.nonce, case) for joined in case.joined.values())]
        if isinstance(case.announce, Prepare):
            fresh["seed"].append((case.announce.seed_digest, case))
        for joined in case.joined.values():
            if isinstance(joined, JoinedPreparation) and joined.seed is not None:
                fresh["seed"].append((joined.seed, case))
    return fresh
