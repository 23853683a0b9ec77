"""Preparations: how one was made, and that a search used it as it was made, in time, and alone."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

from nodes.verify import table
from nodes.verify.case import Case, View
from nodes.verify.format import WHOLE
from nodes.verify.report import Broken, Findings, Held, Open
from nodes.verify.rules_links import alike
from nodes.verify.rules_opening import opened_before
from pets.prf import labelled_hash
from protocol.messages import DifferenceDigest, Echo, FormBit, MaskDigest, Prepare, Search, Signature

_GATES = ("Gates", "AdmissionGates", "InputShare", "AdmissionInput")
_PUBLISHED = ("FormBlock", "AdmissionScores", "MaskedScores")  # by a holder, to requester and router alike


def echoed(case: Case, holder: str, digest: bytes) -> bytes:
    """What requester and router tell each other of something that a holder sent to both."""
    assert case.derived_id is not None
    return labelled_hash("echo", case.derived_id, holder, digest)


def one_key(case: Case) -> Findings:
    """Every holder was told one public part of the key, by requester and router alike, and one seed of the other."""
    yield from alike(case, ("KeySeed",), of_all=True)
    if case.announce is None:
        yield Open("there is no announcement")
        return
    told: dict[bytes, str] = {}
    for view in case.views:
        for item in view.find("PublicPart"):
            told.setdefault(item.record.content, view.place(item.record))
        if case.roles.get(view.owner) != "holder":
            continue
        begun = view.find("PairSecret", view.owner, "sent")
        mouths = {
            item.record.peer
            for item in view.find("PublicPart", WHOLE, "received")
            if not begun or item.position < begun[0].position
        }
        due = {case.announce.requester, case.announce.router}
        if begun and mouths != due:
            missing = ", ".join(sorted(due - mouths))
            yield Broken(view.place(begun[0].record), f"before {missing} told it the public part of the key")
        elif begun:
            yield Held()
    first, *others = [*told.values(), ""]
    if any(others):
        yield Broken(others[0], f"another public part of the key than in {first}")
    elif first:
        yield Held()
    else:
        yield Open(f"{case.label}the public part of the key is in no bundle given")


def one_mask(case: Case) -> Findings:
    """The router was told one hash of the mask, and of the seed, by the requester and by every holder, in time."""
    yield from alike(case, ("MaskPart",), of_all=True)
    yield from _same_digest(case, MaskDigest, WHOLE, ("Gates", "FormBit", "Echo"))


def one_probe(case: Case) -> Findings:
    """The router was told one hash of u by the requester and by every holder, before its first gate."""
    yield from alike(case, ("Difference",), of_all=True)
    yield from _same_digest(case, DifferenceDigest, None, ("Gates", "AdmissionGates", "Echo"))


def _same_digest(
    case: Case, kind: type[MaskDigest] | type[DifferenceDigest], place: str | None, later: Sequence[str]
) -> Findings:
    """`place`: the session in which the requester tells it, None for the holder's. `later`: what the router sends."""
    announce = case.announce
    if announce is None:
        yield Open("there is no announcement")
        return
    stated: tuple[object, str] | None = None
    for view in case.views:
        for item, message in view.messages(kind):
            stated = stated or (message, view.place(item.record))
            if message == stated[0]:
                yield Held()
            else:
                yield Broken(view.place(item.record), f"another hash than in {stated[1]}")
    if not case.views_of(announce.router):
        yield Open(f"{case.label}whether the router compared all hashes: needs the bundle of {announce.router}")
    for view in case.views_of(announce.router):
        for holder in case.holders:
            sent = [item for what in later for item in view.find(what, holder, "sent")]
            if not sent:
                continue
            first = min(sent, key=lambda item: item.position)
            for name, session in ((announce.requester, holder if place is None else place), (holder, holder)):
                told = view.find(kind.__name__, session, "received", name)
                if told and told[0].position < first.position:
                    yield Held()
                else:
                    yield Broken(view.place(first.record), f"before {name} told the router its hash")


def form(case: Case) -> Findings:
    """All parties opened the form bit, it said yes, and it came before any row was scored."""
    yield from opened_before(case, FormBit, ("PreparedBlocks",), "the form check", "mask")


def compared(case: Case) -> Findings:
    """Requester and router told each other the hash of what a holder sent to both, before the next gate they sent.

    Only c1 of gallery blocks is compared when all are prepared: `versions` holds a search to it.
    """
    if case.announce is None:
        yield Open("there is no announcement")
        return
    owners = (case.announce.requester, case.announce.router)
    if not any(case.views_of(name) for name in owners):
        yield Open(f"{case.label}what {' and '.join(owners)} compared: needs the bundle of one of them")
    for holder, view, _ in case.seats():
        if view.owner not in owners:
            continue
        peer = owners[1 - owners.index(view.owner)]
        sent = list(view.messages(Echo, holder, "sent", peer))
        received = list(view.messages(Echo, holder, "received", peer))
        for (_, mine), (item, theirs) in zip(sent, received, strict=False):
            if mine == theirs:
                yield Held()
            else:
                yield Broken(view.place(item.record), f"{holder} did not send the same to {view.owner} and {peer}")
        yield from _gates_wait(view, holder, peer)


def _gates_wait(view: View, holder: str, peer: str) -> Findings:
    said = [
        *(item for kind in _PUBLISHED for item in view.find(kind, holder, "received", holder)),
        *(item for kind in _GATES for item in view.find(kind, holder, "sent")),
        *view.find("Echo", holder, "received", peer),
    ]
    unequalled = False
    for item in sorted(said, key=lambda item: item.position):
        if item.record.kind in _PUBLISHED:
            unequalled = True
        elif item.record.kind == "Echo":
            unequalled = False
        elif unequalled:
            yield Broken(view.place(item.record), f"before it was compared what {holder} had sent to both")
            return
    yield Held()


# What a search makes of a preparation.


def named(case: Case) -> Findings:
    """Every party shows the preparation that the search names; it was made for this pair, these holders, dimension,
    parameters and model, and before the search was announced."""
    search, prepared = case.search, case.prepared
    if search is None:
        yield Open("there is no announcement")
        return
    for view in case.views:
        if not _accepted(case, view) or (prepared is not None and prepared.views_of(view.owner)):
            yield Held()
        else:
            yield Broken(view.name, f"it does not show preparation {search.preparation.hex()[:16]}, which it used")
    if prepared is None or not isinstance(prepared.announce, Prepare):
        return
    for fault in _faults(search, prepared.announce):
        yield Broken(f"{case.label}announcement", fault)
    for view in case.views:
        for made in prepared.views_of(view.owner):
            yield from _before(case, view, made)


def _accepted(case: Case, view: View) -> bool:
    """Whether a party used the preparation, as far as it says: the requester, and who answered the announcement."""
    return case.roles.get(view.owner) == "requester" or bool(view.find("Joined", WHOLE, "sent"))


def _faults(search: Search, made: Prepare) -> list[str]:
    faults = []
    if (search.requester, search.router) != (made.requester, made.router):
        faults.append(f"{search.requester} and {search.router} use a preparation of {made.requester} and {made.router}")
    if others := sorted(set(search.holders) - set(made.holders)):
        faults.append(f"nothing was prepared at {', '.join(others)}")
    if (search.dim, search.preset) != (made.dim, made.preset):
        faults.append(f"d {search.dim}, {search.preset}; prepared was d {made.dim}, {made.preset}")
    if table.NO_MODEL not in (search.model, made.model) and search.model != made.model:
        faults.append("prepared for another model")
    return faults


def _before(case: Case, view: View, made: View) -> Findings:
    """A party's part of the preparation was signed, and logged, before it had to do with the search."""
    for holder in case.holders:
        if view.owner not in case.ring(holder):
            continue
        signed = [item for item, message in made.messages(Signature, holder, "received") if message.phase == "prepared"]
        if len(signed) < 2:
            yield Broken(made.name, f"session {holder} was never signed as prepared by both others")
        elif _logged(made, signed[-1].position) >= _logged(view, 0):
            yield Broken(made.place(signed[-1].record), "logged after the search had begun")
        else:
            yield Held()


def _logged(view: View, position: int) -> int:
    """Which entry of its owner's log a record is, as the bundle says (`rules_log.inclusion`); -1 where none is."""
    entries = view.bundle.log.entries
    return entries[position].index if position < len(entries) else -1


def versions(case: Case) -> Findings:
    """Each holder accepts with the gallery and the blocks that it prepared: what requester and router compared then."""
    search, prepared = case.search, case.prepared
    if search is None or prepared is None or prepared.derived_id is None:
        yield Open("the preparation is not shown")
        return
    for holder in case.holders:
        joined, before = case.joined.get(holder), prepared.joined.get(holder)
        if joined is None or before is None or joined.gallery is None:
            yield Open(f"{case.label}what {holder} accepted with is in no bundle given")
            continue
        where = f"{case.label}answer of {holder}"
        if joined.blocks != before.blocks:
            yield Broken(where, f"{joined.blocks} block(s), prepared were {before.blocks}")
        echoes = _last_echoes(prepared, holder)
        if not echoes:
            yield Open(f"{prepared.label}what was prepared of {holder}: needs the bundle of {search.requester} or "
                       f"{search.router}")  # fmt: skip
        for place, digest in echoes:
            if digest == echoed(prepared, holder, joined.gallery):
                yield Held()
            else:
                yield Broken(where, f"another gallery or version than was prepared: {place} says another hash")


def _last_echoes(prepared: Case, holder: str) -> list[tuple[str, bytes]]:
    """The hashes that requester and router compared at the end of a ring: the second on each of their links."""
    assert prepared.announce is not None
    found = []
    for view in prepared.views:
        for peer in (prepared.announce.requester, prepared.announce.router):
            for said in (view.messages(Echo, holder, "sent", peer), view.messages(Echo, holder, "received", peer)):
                found += [(view.place(item.record), echo.digest) for item, echo in list(said)[1:2]]
    return found


def in_time(case: Case) -> Findings:
    """A search begins while its preparation is fresh: at most a week old at any party that shows both."""
    prepared = case.prepared
    if case.search is None or prepared is None:
        yield Open("the preparation is not shown")
        return
    for view in case.views:
        for item, _ in view.announcements()[:1]:
            for made in prepared.views_of(view.owner):
                age = item.record.time - min((record.time for record in made.bundle.records), default=item.record.time)
                if age > 1000 * (table.PREPARATION_SECONDS + table.SKEW_SECONDS):
                    limit = table.PREPARATION_SECONDS // 3600
                    yield Broken(view.place(item.record), f"the preparation was {age / 3.6e6:.1f} hours old, the limit "
                                 f"is {limit}")  # fmt: skip
                else:
                    yield Held()


def used_once(cases: Sequence[Case]) -> Findings:
    """A preparation serves one search: no party takes part in two with it, and one u leaves the requester."""
    uses: dict[tuple[bytes, str], list[Case]] = defaultdict(list)
    for case in cases:
        if case.search is not None:
            for name in sorted(_users(case, case.search)):
                uses[case.search.preparation, name].append(case)
    for (preparation, name), searches in uses.items():
        if len(searches) > 1:
            numbers = ", ".join(case.query.hex()[:8] for case in searches)
            yield Broken(f"preparation {preparation.hex()[:16]}", f"{name} used it in {len(searches)} searches, "
                         f"{numbers}")  # fmt: skip
        else:
            yield Held()


def _users(case: Case, search: Search) -> set[str]:
    """Who used the preparation: the requester once u leaves, the others once they accept.

    By what each shows itself, or signed for others to show: nobody is accused by another's word.
    """
    users = set()
    for view in case.views:
        if view.find("Difference", direction="sent") or view.find("Joined", WHOLE, "sent"):
            users.add(view.owner)
        for item, message in view.messages(Signature):
            sender = view.ends(item.record)[0]
            if message.phase == ("admission" if sender == search.requester else "set-up"):
                users.add(sender)
    return users
