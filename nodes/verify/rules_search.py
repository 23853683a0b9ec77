"""What was opened and released, and after what: admission, openings, rungs, confirmation, release."""

from __future__ import annotations

from collections import Counter

from nodes.verify.case import Case, Item, View
from nodes.verify.format import Direction
from nodes.verify.report import Broken, Finding, Findings, Held, Open
from nodes.verify.rules_opening import component, opened, opened_before, unsigned
from nodes.verify.rules_preparation import echoed
from pets.prf import labelled_hash
from protocol.messages import AdmissionBit, CapBit, ConfirmationBlock, Echo, Rung, Signature

# What may only happen to a probe that was admitted.
_AFTER_ADMISSION = ("CapBit", "PowerSums", "Rung", "ConfirmationBlock", "ConfirmationAnswer", "Release")


def admission(case: Case) -> Findings:
    """All parties opened the same admission bit, it said yes, and it came before anything about hits."""
    yield from opened_before(case, AdmissionBit, _AFTER_ADMISSION, "admission", "probe", signed="admission")


def admitted(case: Case, holder: str) -> bool | None:
    """The admission bit, put together from all bundles; None where they do not show all three components."""
    return opened(case, AdmissionBit, holder)


def openings(case: Case) -> Findings:
    """Requester and router each open once, on the rung that ends in confirmation, and on no other."""
    if case.announce is None:
        yield Open("there is no announcement")
        return
    yield from map(Open, case.unseen)
    for holder, view, ring in case.seats():
        others = ring[1:] if view.owner == holder else (holder,)
        for peer in others:
            opened, over, rung = 0, False, 0
            said = [*view.find("PowerSums", holder, peer=peer), *view.find("Rung", holder, peer=peer)]
            for record in (item.record for item in sorted(said, key=lambda item: item.position)):
                if record.kind == "PowerSums":
                    opened += 1
                    if over:
                        yield Broken(view.place(record), "hits were opened after the last verdict")
                    elif opened > 1:
                        yield Broken(view.place(record), f"opening number {opened} in rung {rung}")
                elif isinstance(record.message, Rung):
                    verdict = record.message.verdict
                    if verdict == "confirm" and not opened:
                        yield Broken(view.place(record), f"a verdict on rung {rung}, of which nothing was opened")
                    elif verdict != "confirm" and opened:
                        yield Broken(view.place(record), f"{verdict!r} on rung {rung}, of which hits were opened")
                    else:
                        yield Held()
                    over, opened, rung = over or verdict != "climb", 0, rung + 1


def rungs(case: Case) -> Findings:
    """Verdicts follow from the bit that all opened on each rung, and climb to the last agreed rung and no further;
    requester and router are told the same."""
    if case.announce is None or case.terms is None:
        yield Open("the agreed rungs cannot be read")
        return
    yield from map(Open, case.unseen)
    agreed = len(case.terms.rungs)
    components: dict[tuple[str, int, int], bool] = {}
    yield from _cap_bits(case, components)
    for holder in case.holders:
        told: dict[int, str] = {}
        for view in case.views:
            for peer in case.roles:
                for rung, (item, message) in enumerate(_verdicts(view, holder, peer)):
                    opened = [components.get((holder, rung, which)) for which in range(3)]
                    few = None if None in opened else opened.count(True) % 2 == 1
                    fault = _verdict_fault(message.verdict, rung, agreed, told, few)
                    yield Held() if fault is None else Broken(view.place(item.record), fault)
    yield from _sums_against_the_bit(case, components)


def _cap_bits(case: Case, components: dict[tuple[str, int, int], bool]) -> Findings:
    """Collect what was opened by (holder, rung, component); all who show a component must show the same."""
    for holder, view, ring in case.seats():
        rungs: Counter[tuple[str, str]] = Counter()
        for item, bit in view.messages(CapBit, holder):
            link = (item.record.direction, item.record.peer)
            which, rung = component(ring.index(view.owner), ring, item), rungs[link]
            rungs[link] += 1
            if which is not None and components.setdefault((holder, rung, which), bit.component) != bit.component:
                where = view.place(item.record)
                yield Broken(where, f"another component of the cap bit on rung {rung} than the others show")


def _sums_against_the_bit(case: Case, components: dict[tuple[str, int, int], bool]) -> Findings:
    """Sums may leave only where all opened that there are no more hits than the cap, also if nobody says a verdict."""
    for holder, view, ring in case.seats():
        for peer in ring[1:] if view.owner == holder else (holder,):
            rung = -1
            said = [*view.find("CapBit", holder, peer=peer), *view.find("PowerSums", holder, peer=peer)]
            sender = "sent" if view.owner != holder else "received"
            for record in (item.record for item in sorted(said, key=lambda item: item.position)):
                if record.direction != sender:
                    continue
                if record.kind == "CapBit":
                    rung += 1
                    continue
                opened = [components.get((holder, rung, which)) for which in range(3)]
                if None not in opened and opened.count(True) % 2 == 0:
                    why = f"hits were opened on rung {rung}, though all opened that there are more than the cap"
                    yield Broken(view.place(record), why)


def _verdicts(view: View, holder: str, peer: str) -> list[tuple[Item, Rung]]:
    direction: Direction = "sent" if view.owner == holder else "received"
    return list(view.messages(Rung, holder, direction, peer))


def _verdict_fault(verdict: str, rung: int, agreed: int, told: dict[int, str], few: bool | None) -> str | None:
    """`few`: what all three opened; None where the bundles do not show it."""
    if rung >= agreed:
        return f"a verdict on rung {rung}; only {agreed} rungs (0 to {agreed - 1}) were agreed"
    if verdict == "climb" and rung == agreed - 1:
        return f"it climbs beyond the last of {agreed} rungs"
    if verdict == "exhausted" and rung != agreed - 1:
        return f"it gives up on rung {rung} of {agreed}"
    if told.setdefault(rung, verdict) != verdict:
        return f"{verdict!r} on rung {rung}, another party was told {told[rung]!r}"
    if few is not None and few != (verdict == "confirm"):
        return (
            f"{verdict!r} on rung {rung}, though all opened that there are {'no ' if few else ''}more hits than the cap"
        )
    return None


def confirmation(case: Case) -> Findings:
    """One block, the same to both, signed before any answer; requester and router answer it once each."""
    if case.announce is None:
        yield Open("there is no announcement")
        return
    yield from map(Open, case.unseen)
    for holder in case.holders:
        blocks = {message for view in case.views for _, message in view.messages(ConfirmationBlock, holder)}
        if len(blocks) > 1:
            yield Broken(f"{case.label}session {holder}", f"{holder} sent two different confirmation blocks")
        about = _confirmation_echo(case, holder)
        if about is None or case.derived_id is None:
            continue
        for block in blocks:
            expected = echoed(case, holder, labelled_hash("confirmation-block", block.commitment, block.data))
            for view in case.views:
                for peer in case.ring(holder)[1:]:
                    for direction in ("sent", "received"):
                        said = list(view.messages(Echo, holder, direction, peer))[about : about + 1]
                        for item, echo in said:
                            if echo.digest != expected:
                                yield Broken(view.place(item.record), "not the hash of the confirmation block")
                            else:
                                yield Held()
    for holder, view, ring in case.seats():
        yield from _confirmed(case, view, holder, ring)


def _confirmation_echo(case: Case, holder: str) -> int | None:
    """Which of the hashes between requester and router is that of the confirmation block, from 0."""
    shape = case.shape(holder)
    return None if shape is None else max(1, len(shape.chunks))


def _confirmed(case: Case, view: View, holder: str, ring: tuple[str, str, str]) -> Findings:
    for peer in ring:
        blocks = view.find("ConfirmationBlock", holder, peer=peer)
        answers = view.find("ConfirmationAnswer", holder, peer=peer)
        for item in (*blocks[1:], *answers[1:]):
            yield Broken(view.place(item.record), "a second one; one is allowed in a query")
        for item in blocks[:1]:
            if _last_verdict(view, holder, peer, item.position) != "confirm":
                yield Broken(view.place(item.record), "no verdict 'confirm' came before it")
        for item in answers[:1]:
            yield _answered(case, view, holder, item)


def _answered(case: Case, view: View, holder: str, answer: Item) -> Finding:
    signed = [
        other.position
        for other, message in view.messages(Signature, holder)
        if message.phase == "confirmation block" and other.position < answer.position
    ]
    if len(signed) < (2 if view.owner == holder else 1):
        return Broken(view.place(answer.record), "an answer to a confirmation block that was not signed before")
    about = _confirmation_echo(case, holder)
    due = 2 * (1 if about is None else about + 1)
    if view.owner != holder and len(_before(view, "Echo", holder, answer)) < due:
        return Broken(view.place(answer.record), "before requester and router compared the confirmation block")
    return Held()


def releases(case: Case) -> Findings:
    """A release comes after the verdict 'confirm' and behind the signed answers of requester and router."""
    if case.announce is None:
        yield Open("there is no announcement")
        return
    yield from map(Open, case.unseen)
    requester, router = case.announce.requester, case.announce.router
    for holder, view, ring in case.seats():
        items = view.find("Release", holder)
        for item in items[1:]:
            yield Broken(view.place(item.record), "a second release")
        for item in items[:1]:
            answers = {other.record.peer for other in _before(view, "ConfirmationAnswer", holder, item)}
            needed = {requester, router} if view.owner == holder else {holder}
            if _last_verdict(view, holder, item.record.peer, item.position) != "confirm":
                yield Broken(view.place(item.record), "no verdict 'confirm' came before it")
            elif missing := needed - answers:
                yield Broken(view.place(item.record), f"without the confirmation of {', '.join(sorted(missing))}"
                             if view.owner == holder else "before this party had confirmed anything")  # fmt: skip
            elif view.owner == holder and (who := unsigned(view, holder, "confirmation", ring, item.position, False)):
                yield Broken(view.place(item.record), f"before {who} had signed its confirmation")
            else:
                yield Held()
    for holder in case.holders:
        released = any(view.find("Release", holder) for view in case.views)
        for view in case.views_of(router) if released else ():
            if not view.find("ConfirmationAnswer", holder, "sent"):
                yield Broken(view.name, f"session {holder} ended with a release that {router} did not confirm")
        if not (released or _ended_without(case, holder)) and (case.views_of(holder) or case.views_of(requester)):
            yield Open(f"{case.label}session {holder}: neither a release nor another end is shown")


def _ended_without(case: Case, holder: str) -> bool:
    """Whether a session ended before anything could be released: refused, given up or stopped."""
    verdicts = {told.verdict for view in case.views for _, told in view.messages(Rung, holder)}
    return "exhausted" in verdicts or case.stopped(holder) or admitted(case, holder) is False


def _before(view: View, kind: str, session: str, item: Item) -> list[Item]:
    return [other for other in view.find(kind, session) if other.position < item.position]


def _last_verdict(view: View, holder: str, peer: str, position: int) -> str | None:
    """The holder's last word to, or from, `peer` before a position."""
    said = [message.verdict for item, message in _verdicts(view, holder, peer) if item.position < position]
    return said[-1] if said else None
