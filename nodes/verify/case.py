"""The bundles of one conversation, a preparation or a search, made ready for the rules to read."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from functools import cached_property
from typing import Literal, TypeVar

import msgspec

from nodes.verify import table
from nodes.verify.format import WHOLE, Bundle, Direction, Record, SignedBundle, frame_digest
from nodes.verify.trust import Trust
from pets.prf import labelled_hash
from pets.signatures import VerifyKey
from protocol.messages import Joined, JoinedPreparation, Message, Prepare, Search

M = TypeVar("M", bound=Message)
Announcement = Prepare | Search
Kind = Literal["preparation", "search"]


@dataclass(frozen=True)
class Item:
    """A record and its position in the owner's order."""

    position: int
    record: Record


@dataclass(frozen=True, eq=False)
class View:
    """One bundle. `label`: how findings name the conversation; empty where it goes without saying.

    `inside`: whether it came in the bundle of a search.
    """

    signed: SignedBundle
    bundle: Bundle
    label: str = ""
    inside: bool = False

    @property
    def owner(self) -> str:
        """Whose records these are."""
        return self.bundle.owner.name

    @cached_property
    def key(self) -> VerifyKey:
        """The key that the bundle itself states."""
        return VerifyKey.from_bytes(self.bundle.owner.verify_key)

    @property
    def name(self) -> str:
        """The bundle, in a finding."""
        return f"{self.label}bundle of {self.owner}"

    @cached_property
    def links(self) -> dict[tuple[str, Direction, str], list[Item]]:
        """(session, direction, peer) -> what was said, in order."""
        links: dict[tuple[str, Direction, str], list[Item]] = defaultdict(list)
        for position, record in enumerate(self.bundle.records):
            links[record.session, record.direction, record.peer].append(Item(position, record))
        return dict(links)

    def link(self, session: str, direction: Direction, peer: str) -> list[Item]:
        """What was said on one link of one session."""
        return self.links.get((session, direction, peer), [])

    @cached_property
    def _kinds(self) -> dict[tuple[str, str | None], list[Item]]:
        """(kind, session), and (kind, None) for all sessions -> records, in order. A bundle may have a million."""
        kinds: dict[tuple[str, str | None], list[Item]] = defaultdict(list)
        for position, record in enumerate(self.bundle.records):
            item = Item(position, record)
            kinds[record.kind, record.session].append(item)
            kinds[record.kind, None].append(item)
        return dict(kinds)

    def find(
        self, kind: str, session: str | None = None, direction: Direction | None = None, peer: str | None = None
    ) -> list[Item]:
        """Records of a kind, in order."""
        return [
            item
            for item in self._kinds.get((kind, session), ())
            if direction in (None, item.record.direction) and peer in (None, item.record.peer)
        ]

    def messages(
        self,
        kind: type[M],
        session: str | None = None,
        direction: Direction | None = None,
        peer: str | None = None,
    ) -> Iterator[tuple[Item, M]]:
        """Records of a kind that is kept in full, with their messages."""
        for item in self.find(kind.__name__, session, direction, peer):
            if isinstance(item.record.message, kind):
                yield item, item.record.message

    def began(self, session: str) -> bool:
        """Whether its owner shows more of a session than that somebody stopped it."""
        return any(
            link[0] == session and any(item.record.kind != "Abort" for item in items)
            for link, items in self.links.items()
        )

    def announcements(self) -> list[tuple[Item, Announcement]]:
        """Records that announce a preparation or a search."""
        return [*self.messages(Prepare), *self.messages(Search)]

    def answers(self) -> list[tuple[Item, Joined | JoinedPreparation]]:
        """Records that answer an announcement."""
        return [*self.messages(JoinedPreparation), *self.messages(Joined)]

    def frame(self, record: Record) -> bytes:
        """The hash of a record's frame, from its place and content."""
        return frame_digest(self.bundle.query, record.session, *self.ends(record), record.sequence, record.content)

    def place(self, record: Record) -> str:
        """A record, in a finding: session, sender → receiver, number, type, and who says so."""
        sender, receiver = self.ends(record)
        about = "the whole" if record.session == WHOLE else f"session {record.session}"
        return (
            f"{self.label}{about}, {sender} → {receiver}, message {record.sequence} ({record.kind}), "
            f"in the bundle of {self.owner}"
        )

    def ends(self, record: Record) -> tuple[str, str]:
        """(sender, receiver)."""
        return (self.owner, record.peer) if record.direction == "sent" else (record.peer, self.owner)


@dataclass(frozen=True)
class Terms:
    """What the announcement of a search states, read by the verifier."""

    threshold: Decimal
    step: Decimal
    preset: table.Preset

    @property
    def rungs(self) -> tuple[Decimal, ...]:
        """Thresholds that the query may visit."""
        return table.rungs(self.threshold, self.step)


class Case:
    """All bundles of one conversation. `trust`: None where the supervisor gave no list.

    `prepared`: of a search, the preparation that it names, None where no bundle shows it.
    """

    def __init__(self, query: bytes, views: Sequence[View], trust: Trust | None) -> None:
        self.query = query
        self.views = tuple(views)
        self.trust = trust
        self.prepared: Case | None = None

    @cached_property
    def announce(self) -> Announcement | None:
        """The announcement: the requester's own record of it if there is one, else the first."""
        found = [
            (item.record.direction != "sent", message) for view in self.views for item, message in view.announcements()
        ]
        return min(found, key=lambda pair: pair[0])[1] if found else None

    @property
    def kind(self) -> Kind:
        """What was announced; where nothing was, what the bundles were given as."""
        if self.announce is None:
            return "preparation" if all(view.inside for view in self.views) else "search"
        return "search" if isinstance(self.announce, Search) else "preparation"

    @property
    def search(self) -> Search | None:
        """The announcement, if it is of a search."""
        return self.announce if isinstance(self.announce, Search) else None

    @property
    def name(self) -> str:
        """The conversation, in a finding about several."""
        return f"{'query' if self.kind == 'search' else 'preparation'} {self.query.hex()[:8]}"

    @property
    def label(self) -> str:
        """How findings name it."""
        return self.views[0].label

    @cached_property
    def roles(self) -> dict[str, str]:
        """Name -> role, as announced."""
        announce = self.announce
        if announce is None:
            return {}
        return dict.fromkeys(announce.holders, "holder") | {announce.router: "router", announce.requester: "requester"}

    @property
    def holders(self) -> tuple[str, ...]:
        """Those who were asked; each has a session of its name."""
        return self.announce.holders if self.announce else ()

    def ring(self, holder: str) -> tuple[str, str, str]:
        """Who takes part in the session of a holder, in the order of the ring: holder, requester, router."""
        assert self.announce is not None
        return holder, self.announce.requester, self.announce.router

    def seats(self) -> Iterator[tuple[str, View, tuple[str, str, str]]]:
        """(holder, bundle, ring) for every session that a bundle's owner had a part in."""
        for holder in self.holders:
            ring = self.ring(holder)
            for view in self.views:
                if view.owner in ring:
                    yield holder, view, ring

    @property
    def preset(self) -> table.Preset | None:
        """The announced parameters, None for unknown ones."""
        return table.PRESETS.get(self.announce.preset) if self.announce else None

    @cached_property
    def terms(self) -> Terms | None:
        """Threshold, step and preset, None where they cannot be read."""
        search, preset = self.search, self.preset
        if search is None or preset is None:
            return None
        try:
            return Terms(Decimal(search.threshold), Decimal(search.ladder), preset)
        except InvalidOperation:
            return None

    @cached_property
    def joined(self) -> dict[str, Joined | JoinedPreparation]:
        """Each party's answer to the announcement, as the first bundle that has it shows it."""
        joined: dict[str, Joined | JoinedPreparation] = {}
        for view in self.views:
            for item, message in view.answers():
                if item.record.session == WHOLE:
                    joined.setdefault(view.ends(item.record)[0], message)
        return joined

    @cached_property
    def derived_id(self) -> bytes | None:
        """Hash of the announcement and of every party's answer, 32 bytes; None where an answer is missing."""
        announce = self.announce
        if announce is None or not {announce.router, *announce.holders} <= set(self.joined):
            return None
        names = sorted({announce.router, *announce.holders})
        answers = [item for name in names for item in (name, msgspec.msgpack.encode(self.joined[name]))]
        return labelled_hash("identity", announce_digest(announce), *answers)

    @cached_property
    def unseen(self) -> tuple[str, ...]:
        """Sessions of which the bundles given do not show both links of the holder, and what it would take."""
        if self.announce is None:
            return ()
        given, others = {view.owner for view in self.views}, {self.announce.requester, self.announce.router}
        return tuple(
            f"{self.label}session {holder}: needs the bundle of {holder}, or those of both others"
            for holder in self.holders
            if holder not in given and not others <= given
        )

    def shape(self, session: str) -> table.Shape | None:
        """What the sizes of a session depend on."""
        announce, preset, joined = self.announce, self.preset, self.joined.get(session)
        blocks = 0 if session == WHOLE else None if joined is None else joined.blocks
        if announce is None or preset is None or blocks is None:
            return None
        cap = announce.cap if isinstance(announce, Search) else 0
        return table.Shape(preset.n, announce.dim, cap, blocks)

    def stopped(self, session: str, party: str = "") -> bool:
        """Whether anyone aborted this session, or the whole: then messages may have stayed on their way.

        `party`: who did not get them. Where it shows that it began a ring it had all of the whole before, whatever
        anybody says of an abort. With its last ring the whole is over at a party, which says nothing of it.
        """
        rings = (party,) if party in self.holders else self.holders
        if session == WHOLE and any(view.began(ring) for view in self.views_of(party) for ring in rings):
            return False
        if any(view.find("Abort", place) for view in self.views for place in (WHOLE, session)):
            return True
        return (
            session == WHOLE
            and len(rings) > 0
            and all(any(view.find("Abort", ring) for view in self.views) for ring in rings)
        )

    def views_of(self, name: str) -> list[View]:
        """The bundles of one party."""
        return [view for view in self.views if view.owner == name]

    def key_of(self, name: str) -> VerifyKey | None:
        """The key that counts: of the trust list; without one, the key that the party's own bundle states."""
        if self.trust is not None:
            return self.trust[name].verify_key if name in self.trust else None
        views = self.views_of(name)
        return views[0].key if views else None


def announce_digest(announce: Announcement) -> bytes:
    """Hash of every field of an announcement."""
    return labelled_hash("announce", msgspec.msgpack.encode(announce))


def announce_statement(announce: Announcement) -> bytes:
    """What the requester signs: everything but the signature."""
    label = "announcement" if isinstance(announce, Search) else "prepare"
    return labelled_hash(label, msgspec.msgpack.encode(msgspec.structs.replace(announce, signature=b"")))
