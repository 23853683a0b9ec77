"""What was agreed before anything was encrypted: announcement, warrant, parameters, thresholds, keys."""

from __future__ import annotations

from decimal import Decimal, InvalidOperation

from nodes.verify import table
from nodes.verify.case import Case, announce_digest, announce_statement
from nodes.verify.report import Broken, Findings, Held, Open
from nodes.verify.rules_identity import PROTOCOL_CONTEXT
from pets.prf import labelled_hash
from pets.signatures import SignatureError
from protocol.messages import Announce, Joined, KeyCommitment, KeyPair, PublicShare


def announcement(case: Case) -> Findings:
    """One announcement, the same at every party, signed by the requester."""
    announce = case.announce
    for view in case.views:
        if not any(True for _ in view.messages(Announce)):
            yield Broken(view.name, "it shows no announcement")
        for item, message in view.messages(Announce):
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
        yield Open(f"{case.views[0].label}the announcement's signature: the key of {announce.requester} is not known")
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
    announce = case.announce
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
        for item, _ in view.messages(Announce):
            now = item.record.time / 1000
            if now < held.issued - table.SKEW_SECONDS:
                yield Broken(view.place(item.record), f"{held.issued - now:.0f} s before the warrant was issued")
            elif now > held.expires + table.SKEW_SECONDS:
                yield Broken(view.place(item.record), f"{now - held.expires:.0f} s after the warrant expired")
            else:
                yield Held()


def parameters(case: Case) -> Findings:
    """The announced preset is in the verifier's own security table, and the keys have its size."""
    announce = case.announce
    if announce is None:
        yield Open("there is no announcement")
        return
    preset = table.PRESETS.get(announce.preset)
    if preset is None:
        yield Broken(_of(case), f"parameters {announce.preset!r} are not in the security table")
        return
    if (why := table.weakness(preset)) is not None:
        yield Broken(_of(case), why)
    if announce.dim % 8:
        yield Broken(_of(case), f"d = {announce.dim} is no multiple of 8")
    yield Held(f"{announce.preset}: n = {preset.n}, log2 Q = {preset.log2_q}, t = {preset.t}")
    if announce.seed_digest is None:
        yield Open(f"{case.views[0].label}no seed was announced: no audit can recompute the ciphertexts")
    for view in case.views:
        for item, share in view.messages(PublicShare):
            if len(share.data) != 8 * preset.n:
                yield Broken(view.place(item.record), f"a key of {len(share.data)} bytes, expected {8 * preset.n}")
        for item, pair in view.messages(KeyPair):
            if {len(pair.requester), len(pair.router)} != {8 * preset.n}:
                yield Broken(view.place(item.record), f"keys of another size than {8 * preset.n} bytes")


def thresholds(case: Case) -> Findings:
    """Threshold, step and cap are within their limits; theta and the rungs recomputed in exact decimals."""
    announce = case.announce
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
    preset = table.PRESETS.get(announce.preset)
    theta = table.theta(threshold, announce.dim)
    if preset is not None and 2 * (table.norm_bound(announce.dim) + theta) >= preset.t:
        faults.append(f"theta {theta} is so high that a strongly negative score wraps into a hit")
    if faults:
        for fault in faults:
            yield Broken(_of(case), fault)
        return
    rungs = table.rungs(threshold, step)
    shown = ", ".join(f"{rung:f} (theta {table.theta(rung, announce.dim)})" for rung in rungs)
    yield Held(f"{case.views[0].label}cap {announce.cap}, rungs {shown}")


def query_identity(case: Case) -> Findings:
    """The query id is the hash of this announcement and of every party's nonce, and all derived the same."""
    if case.announce is None:
        yield Open("there is no announcement")
        return
    digest = announce_digest(case.announce)
    for view in case.views:
        for item, joined in view.messages(Joined):
            sender = view.ends(item.record)[0]
            holder = case.roles.get(sender) == "holder"
            if joined.announce != digest:
                yield Broken(view.place(item.record), "it answers another announcement")
            elif joined != case.joined.get(sender):
                yield Broken(view.place(item.record), f"{sender} told another party something else")
            elif holder != (joined.blocks is not None and joined.gallery is not None):
                yield Broken(view.place(item.record), "a holder states blocks and gallery, and nobody else does")
            else:
                yield Held()
    if case.query_id is None:
        yield Open(f"{case.views[0].label}the query id: a party's nonce is in no bundle given")
        return
    for view in case.views:
        stated = [(item, message.query_id) for item, message in view.messages(KeyCommitment)]
        stated += [(item, message.query_id) for item, message in view.messages(KeyPair)]
        for item, query_id in stated:
            if query_id != case.query_id:
                yield Broken(view.place(item.record), "another query id than the nonces give")
            else:
                yield Held()


def key_commitment(case: Case) -> Findings:
    """The router committed to its share before it saw the requester's; all holders were told the same two shares."""
    announce = case.announce
    if announce is None:
        yield Open("there is no announcement")
        return
    shares: dict[str, set[bytes]] = {announce.requester: set(), announce.router: set()}
    for view in case.views:
        for item, share in view.messages(PublicShare):
            shares.setdefault(view.ends(item.record)[0], set()).add(share.data)
        for _, pair in view.messages(KeyPair):
            shares[announce.requester].add(pair.requester)
            shares[announce.router].add(pair.router)
        yield from _commit_first(case, view.owner)
    for name, values in shares.items():
        if len(values) > 1:
            yield Broken(_of(case), f"two different public key shares of {name} were shown")
        elif values:
            yield Held()
    commitments = [found for view in case.views for found in ((view, *pair) for pair in view.messages(KeyCommitment))]
    if not commitments:
        yield Open(f"{case.views[0].label}the commitment: only requester and router have it")
    elif case.query_id is not None and len(shares[announce.router]) == 1:
        (opened,) = shares[announce.router]
        expected = labelled_hash("public-share", case.query_id, announce.router, opened)
        for view, item, commitment in commitments:
            if commitment.digest == expected:
                yield Held()
            else:
                yield Broken(view.place(item.record), f"{announce.router} opened another share than it committed to")


def _commit_first(case: Case, owner: str) -> Findings:
    """Order at one party: commitment, the requester's share, the router's share."""
    assert case.announce is not None
    for view in case.views_of(owner):
        order = [item for kind in ("KeyCommitment", "PublicShare") for item in view.find(kind)]
        senders = [(item.record.kind, view.ends(item.record)[0]) for item in sorted(order, key=lambda i: i.position)]
        due = [
            ("KeyCommitment", case.announce.router),
            ("PublicShare", case.announce.requester),
            ("PublicShare", case.announce.router),
        ]
        if senders != due[: len(senders)]:
            late = max(order, key=lambda item: item.position)
            yield Broken(view.place(late.record), "the order must be commitment, requester's share, router's share")


def _decimals(value: Decimal) -> int:
    exponent = value.as_tuple().exponent
    return -exponent if isinstance(exponent, int) else table.MAX_DECIMALS + 1


def _of(case: Case) -> str:
    return f"{case.views[0].label}announcement"
