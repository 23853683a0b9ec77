"""Bits that all three parties of a ring open: who sends which component, and what may not come before."""

from __future__ import annotations

from collections.abc import Sequence

from nodes.verify.case import Case, Item, View
from nodes.verify.report import Broken, Findings, Held, Open
from protocol.messages import AdmissionBit, FormBit, Signature

Ring = tuple[str, str, str]


def component(index: int, ring: Ring, item: Item) -> int | None:
    """Which component of a bit a message carries: party i holds i and i+1, and is sent i+2."""
    if item.record.direction == "received":
        return (index + 2) % 3
    if item.record.peer == ring[(index - 1) % 3]:
        return (index + 1) % 3
    return index if item.record.peer == ring[(index + 1) % 3] else None


def opened(case: Case, kind: type[AdmissionBit] | type[FormBit], holder: str) -> bool | None:
    """A bit, put together from all bundles; None where they do not show all three components."""
    bits: dict[int, bool] = {}
    for name, view, ring in case.seats():
        for item, bit in view.messages(kind, holder) if name == holder else ():
            if (which := component(ring.index(view.owner), ring, item)) is not None:
                bits[which] = bit.component
    return bits[0] ^ bits[1] ^ bits[2] if len(bits) == 3 else None


def opened_before(
    case: Case,
    kind: type[AdmissionBit] | type[FormBit],
    later: Sequence[str],
    name: str,
    subject: str,
    signed: str | None = None,
) -> Findings:
    """In each ring all opened the same bit, and it said yes, before any message of the kinds `later`.

    `name`: of the check that the bit is of, `subject`: what it refuses. `signed`: the phase that ends with it.
    """
    if case.announce is None:
        yield Open("there is no announcement")
        return
    yield from map(Open, case.unseen)
    components: dict[tuple[str, int], bool] = {}
    for holder, view, ring in case.seats():
        after = [item for what in later for item in view.find(what, holder)]
        first = min(after, key=lambda item: item.position) if after else None
        index = ring.index(view.owner)
        known: dict[int, bool] = {}
        for item, bit in view.messages(kind, holder):
            which = component(index, ring, item)
            if which is None:
                continue
            if components.setdefault((holder, which), bit.component) != bit.component:
                yield Broken(view.place(item.record), f"another component of the {name} bit than the others show")
            if first is None or item.position < first.position:
                known[which] = bit.component
        if first is None:
            yield Held()
        elif len(view.find(kind.__name__, holder)) < 4 or len(known) < 3:
            yield Broken(view.place(first.record), f"before {name} was opened: four components go over the links")
        elif not known[0] ^ known[1] ^ known[2]:
            yield Broken(view.place(first.record), f"though {name} refused the {subject}")
        elif signed is not None and (missing := unsigned(view, holder, signed, ring, first.position)):
            yield Broken(view.place(first.record), f"before the {name} phase was signed by {missing}")
        else:
            yield Held()


def unsigned(view: View, holder: str, phase: str, ring: Ring, position: int, sent_too: bool = True) -> str | None:
    """A party whose signature of a phase is missing before a position; None if all are there."""
    signed = {
        (item.record.direction, item.record.peer)
        for item, message in view.messages(Signature, holder)
        if message.phase == phase and item.position < position
    }
    for peer in ring:
        if peer == view.owner:
            continue
        if ("received", peer) not in signed:
            return peer
        if sent_too and ("sent", peer) not in signed:
            return view.owner
    return None
