"""What was agreed before anything was encrypted: announcement, warrant, parameters, thresholds, IDs."""

from __future__ import annotations

from decimal import Decimal, InvalidOperation
from itertools import islice

from nodes.verify import table
from nodes.verify.case import Case, announce_digest, announce_statement
from nodes.verify.format import WHOLE
from nodes.verify.report import Broken, Findings, Held, Open
from nodes.verify.rules_identity import PROTOCOL_CONTEXT
from pets.signatures import SignatureError
from protocol.messages import DerivedId, Signature


def announcement(case: Case) -> Findings:
    """One announcement, the same at every party, signed by the requester."""
    announce = case.announce
    for view in case.views:
        shown = view.announcements()
        if not shown:
            yield Broken(view.name, "it shows no announcement")
        for item, message in shown:
            if message != announce:
                yield Broken(view.place(item.record), "another announcement than the other parties were shown")
            elif view.ends(item.record)[0] != message.requester:
                yield Broken(view.place(item.record), f"{message.requester} is the requester, and did not send it")
            else:
                yield Held()
    if announce is None:
        return
    parties = (announce.requester, announce.router, *announce.holders)
    if len(set(parties)) != len(parties):
        yield Broken(_of(case), f"a party is named twice: {', '.join(parties)}")
    key = case.key_of(announce.requester)
    if key is None:
        yield Open(f"{case.label}the announcement's signature: the key of {announce.requester} is not known")
        return
    try:
        key.verify(announce.signature, announce_statement(announce), PROTOCOL_CONTEXT)
    except SignatureError as error:
        yield Broken(_of(case), f"{announce.requester} did not sign it: {error}")
    else:
        yield Held()


def warrant(case: Case) -> Findings:
    """A warrant of the requesting state, for a lawful purpose, of at most 24 hours, valid when the announcement was
    sent and received."""
    announce = case.search
    if announce is None or announce.warrant is None or not announce.signature:
        yield Broken(_of(case), "there is no signed warrant")
        return
    held = announce.warrant
    if held.state != announce.requester:
        yield Broken(_of(case), f"{announce.requester} asks with a warrant of {held.state}")
    if others := sorted(set(announce.holders) - set(held.holders)):
        yield Broken(_of(case), f"the warrant does not name {', '.join(others)}")
    if held.purpose not in table.PURPOSES:
        yield Broken(_of(case), f"purpose {held.purpose} is none of {', '.join(table.PURPOSES)}")
    lifetime = held.expires - held.issued
    if not 0 < lifetime <= table.WARRANT_SECONDS:
        yield Broken(_of(case), f"the warrant lasts {lifetime} s, allowed are 1 to {table.WARRANT_SECONDS}")
    for view in case.views:
        for item, _ in view.announcements():
            now = item.record.time / 1000
            if now < held.issued - table.SKEW_SECONDS:
                yield Broken(view.place(item.record), f"{held.issued - now:.0f} s before the warrant was issued")
            elif now > held.expires + table.SKEW_SECONDS:
                yield Broken(view.place(item.record), f"{now - held.expires:.0f} s after the warrant expired")
            else:
                yield Held()


def parameters(case: Case) -> Findings:
    """The announced preset is in the verifier's own security table."""
    announce, preset = case.announce, case.preset
    if announce is None:
        yield Open("there is no announcement")
        return
    if preset is None:
        yield Broken(_of(case), f"parameters {announce.preset!r} are not in the security table")
        return
    if (why := table.weakness(preset)) is not None:
        yield Broken(_of(case), why)
    if announce.dim % 8:
        yield Broken(_of(case), f"d = {announce.dim} is no multiple of 8")
    yield Held(f"{announce.preset}: n = {preset.n}, log2 Q = {preset.log2_q}, t = {preset.t}")


def thresholds(case: Case) -> Findings:
    """Threshold, step and cap are within their limits; theta and the rungs recomputed in exact decimals."""
    announce = case.search
    if announce is None:
        yield Open("there is no announcement")
        return
    try:
        threshold, step = Decimal(announce.threshold), Decimal(announce.ladder)
    except InvalidOperation:
        yield Broken(_of(case), "threshold or step is no decimal number")
        return
    faults = []
    if not table.LOWEST_THRESHOLD <= threshold < 1:
        faults.append(f"threshold {threshold}, allowed are {table.LOWEST_THRESHOLD} to below 1")
    if not 0 <= step < 1:
        faults.append(f"step {step} of the ladder must be at least 0 and below 1")
    if max(_decimals(threshold), _decimals(step)) > table.MAX_DECIMALS:
        faults.append(f"more than {table.MAX_DECIMALS} decimals")
    if not 1 <= announce.cap <= table.MAX_CAP:
        faults.append(f"cap {announce.cap}, allowed are 1 to {table.MAX_CAP}")
    preset, theta = case.preset, table.theta(threshold, announce.dim)
    if preset is not None and 2 * (table.norm_bound(announce.dim) + theta) >= preset.t:
        faults.append(f"theta {theta} is so high that a strongly negative score wraps into a hit")
    if faults:
        for fault in faults:
            yield Broken(_of(case), fault)
        return
    rungs = table.rungs(threshold, step)
    shown = ", ".join(f"{rung:f} (theta {table.theta(rung, announce.dim)})" for rung in rungs)
    yield Held(f"{case.label}cap {announce.cap}, rungs {shown}")


def derived_ids(case: Case) -> Findings:
    """The ID of a preparation or search is the hash of this announcement and of every party's answer to it.

    Router and holders told the requester this one, and each other before anything else in their ring. What is said
    later is bound to it: see `rules_preparation` and `rules_search.confirmation`.
    """
    if case.announce is None:
        yield Open("there is no announcement")
        return
    digest = announce_digest(case.announce)
    for view in case.views:
        for item, joined in view.answers():
            sender = view.ends(item.record)[0]
            holder = case.roles.get(sender) == "holder"
            if item.record.session != WHOLE:
                yield Broken(view.place(item.record), "an answer to no announcement")
            elif joined.announce != digest:
                yield Broken(view.place(item.record), "it answers another announcement")
            elif joined != case.joined.get(sender):
                yield Broken(view.place(item.record), f"{sender} told another party something else")
            elif holder != (joined.blocks is not None and joined.gallery is not None):
                yield Broken(view.place(item.record), "a holder states blocks and gallery, and nobody else does")
            else:
                yield Held()
    if case.derived_id is None:
        yield Open(f"{case.label}its ID: a party's answer is in no bundle given")
        return
    for view in case.views:
        for item, derived in view.messages(DerivedId):
            if derived.identity == case.derived_id:
                yield Held()
            else:
                yield Broken(view.place(item.record), "another identity than announcement and answers give")
    yield from _signed_first(case)


def _signed_first(case: Case) -> Findings:
    """In a ring, router and holder send nothing before the other signed the ID to them."""
    for holder, view, ring in case.seats():
        if view.owner == ring[1]:
            continue
        other = ring[2] if view.owner == holder else holder
        received = view.messages(Signature, holder, "received", other)
        signed = [item.position for item, message in received if message.phase == "id"]
        for peer in ring:
            sent = (
                i for i in view.link(holder, "sent", peer) if i.record.kind not in ("DerivedId", "Signature", "Abort")
            )
            for item in islice(sent, 1):
                if signed and signed[0] < item.position:
                    yield Held()
                else:
                    yield Broken(view.place(item.record), f"before {other} had signed the ID")


def _decimals(value: Decimal) -> int:
    exponent = value.as_tuple().exponent
    return -exponent if isinstance(exponent, int) else table.MAX_DECIMALS + 1


def _of(case: Case) -> str:
    return f"{case.label}announcement"
