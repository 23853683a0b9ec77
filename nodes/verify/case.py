"""The bundles of one query, made ready for the rules to read."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from functools import cached_property
from typing import TypeVar

import msgspec

from nodes.verify import table
from nodes.verify.format import Bundle, Direction, Record, SignedBundle, frame_digest
from nodes.verify.trust import Trust
from pets.prf import labelled_hash
from pets.signatures import VerifyKey
from protocol.messages import Announce, Joined, Message

M = TypeVar("M", bound=Message)


@dataclass(frozen=True)
class Item:
    """A record and its position in the owner's order."""

    position: int
    record: Record


@dataclass(frozen=True, eq=False)
class View:
    """One bundle. `label`: how findings name the query; empty where only one was given."""

    signed: SignedBundle
    bundle: Bundle
    label: str = ""

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

    def frame(self, record: Record) -> bytes:
        """The hash of a record's frame, from its place and content."""
        return frame_digest(self.bundle.query, record.session, *self.ends(record), record.sequence, record.content)

    def place(self, record: Record) -> str:
        """A record, in a finding: session, sender → receiver, number, type, and who says so."""
        sender, receiver = self.ends(record)
        about = f"session {record.session}" if record.session else "the query"
        return (
            f"{self.label}{about}, {sender} → {receiver}, message {record.sequence} ({record.kind}), "
            f"in the bundle of {self.owner}"
        )

    def ends(self, record: Record) -> tuple[str, str]:
        """(sender, receiver)."""
        return (self.owner, record.peer) if record.direction == "sent" else (record.peer, self.owner)


@dataclass(frozen=True)
class Terms:
    """What an announcement states, read by the verifier."""

    threshold: Decimal
    step: Decimal
    preset: table.Preset

    @property
    def rungs(self) -> tuple[Decimal, ...]:
        """Thresholds that the query may visit."""
        return table.rungs(self.threshold, self.step)


class Case:
    """All bundles of one query. `trust`: None where the supervisor gave no list."""

    def __init__(self, query: bytes, views: Sequence[View], trust: Trust | None) -> None:
        self.query = query
        self.views = tuple(views)
        self.trust = trust

    @cached_property
    def announce(self) -> Announce | None:
        """The announcement: the requester's own record of it if there is one, else the first."""
        found = [
            (item.record.direction != "sent", message)
            for view in self.views
            for item, message in view.messages(Announce)
        ]
        return min(found, key=lambda pair: pair[0])[1] if found else None

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

    @cached_property
    def terms(self) -> Terms | None:
        """Threshold, step and preset, None where they cannot be read."""
        announce = self.announce
        if announce is None or announce.preset not in table.PRESETS:
            return None
        try:
            return Terms(Decimal(announce.threshold), Decimal(announce.ladder), table.PRESETS[announce.preset])
        except InvalidOperation:
            return None

    @cached_property
    def joined(self) -> dict[str, Joined]:
        """Each party's answer to the announcement, as the first bundle that has it shows it."""
        joined: dict[str, Joined] = {}
        for view in self.views:
            for item, message in view.messages(Joined, session=""):
                joined.setdefault(view.ends(item.record)[0], message)
        return joined

    @cached_property
    def query_id(self) -> bytes | None:
        """Hash of the announcement and of every party's nonce, None where a nonce is missing."""
        announce = self.announce
        if announce is None or not {announce.router, *announce.holders} <= set(self.joined):
            return None
        names = sorted({announce.router, *announce.holders})
        nonces = [item for name in names for item in (name, self.joined[name].nonce)]
        return labelled_hash("query-id", announce_digest(announce), *nonces)

    @cached_property
    def unseen(self) -> tuple[str, ...]:
        """Sessions of which the bundles given do not show both links of the holder, and what it would take."""
        if self.announce is None:
            return ()
        given, others = {view.owner for view in self.views}, {self.announce.requester, self.announce.router}
        return tuple(
            f"{self.views[0].label}session {holder}: needs the bundle of {holder}, or those of both others"
            for holder in self.holders
            if holder not in given and not others <= given
        )

    def shape(self, holder: str) -> table.Shape | None:
        """What the sizes of a session depend on."""
        joined, announce, terms = self.joined.get(holder), self.announce, self.terms
        if joined is None or joined.blocks is None or announce is None or terms is None:
            return None
        return table.Shape(terms.preset.n, announce.dim, announce.cap, joined.blocks)

    def stopped(self, session: str) -> bool:
        """Whether anyone aborted this session, or the query as a whole: then messages may have stayed on their way."""
        return any(view.find("Abort", place) for view in self.views for place in ("", session))

    def views_of(self, name: str) -> list[View]:
        """The bundles of one party."""
        return [view for view in self.views if view.owner == name]

    def key_of(self, name: str) -> VerifyKey | None:
        """The key that counts: of the trust list; without one, the key that the party's own bundle states."""
        if self.trust is not None:
            return self.trust[name].verify_key if name in self.trust else None
        views = self.views_of(name)
        return views[0].key if views else None


def announce_digest(announce: Announce) -> bytes:
    """Hash of every field of an announcement."""
    return labelled_hash("announce", msgspec.msgpack.encode(announce))


def announce_statement(announce: Announce) -> bytes:
    """What the requester signs: everything but the signature."""
    return labelled_hash("announcement", msgspec.msgpack.encode(msgspec.structs.replace(announce, signature=b"")))
