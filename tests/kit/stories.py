"""The evidence of a query, and the means to retell it falsely, signed by whoever would lie."""

from __future__ import annotations

import hashlib
import os
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import msgspec
import pytest

from nodes.evidence.export import sign_bundle
from nodes.identity.identity import NodeIdentity
from nodes.logs.checkpoints import Checkpoint, Disclosure, checkpoint_message
from nodes.logs.entries import LogHeader, TranscriptEntry, encode_entry, encrypt_entry
from nodes.verify import Report, verify_bundles
from nodes.verify.case import announce_digest, announce_statement
from nodes.verify.format import (
    WHOLE,
    Bundle,
    Direction,
    Record,
    TranscriptProof,
    content_digest,
    decode_bundle,
    encode_frame,
    frame_digest,
    preparation_inside,
    signature_in,
)
from nodes.verify.trust import Party
from pets.merkle import MerkleTree, hash_leaf
from pets.prf import labelled_hash
from protocol.messages import DerivedId, Prepare, Search, Signature
from tests.kit.evidence import ES, EU, FR, World

Files = dict[str, bytes]


@dataclass
class Said:
    """One message, wherever it is shown. `message`: None for what is kept as a hash: `content` and `size` stand."""

    session: str
    sender: str
    receiver: str
    kind: str
    message: Any  # None, or of the class that `kind` names
    content: bytes
    size: int


@dataclass(frozen=True)
class Placed:
    """A message as it went over its link."""

    number: int
    content: bytes
    size: int


@dataclass
class Story:
    """All bundles of a search as one story that can be retold: who said what, and each party's order and clock.

    `preparation`: that of the preparation inside them. `tell` signs again what must be signed: phases by their senders,
    logs and bundles by their owners. What the liars could not sign themselves in reality is for the test to know.
    """

    world: World
    originals: dict[str, Bundle]
    timelines: dict[str, list[tuple[Said, Direction, int]]]  # owner -> (message, direction, time)
    preparation: Story | None = None

    @classmethod
    def read(cls, world: World, files: dict[str, bytes]) -> Story:
        originals = {name: decode_bundle(data)[1] for name, data in files.items()}
        inside = {name: bundle.preparation for name, bundle in originals.items() if bundle.preparation is not None}
        known: dict[tuple[str, str, str, int], Said] = {}
        timelines: dict[str, list[tuple[Said, Direction, int]]] = {}
        for name, bundle in originals.items():
            timelines[name] = []
            for r in bundle.records:
                ends = (name, r.peer) if r.direction == "sent" else (r.peer, name)
                said = known.setdefault(
                    (r.session, *ends, r.sequence), Said(r.session, *ends, r.kind, r.message, r.content, r.size)
                )
                timelines[name].append((said, r.direction, r.time))
        return cls(world, originals, timelines, cls.read(world, inside) if inside else None)

    @property
    def made(self) -> Story:
        """The story of the preparation."""
        assert self.preparation is not None
        return self.preparation

    @property
    def query(self) -> bytes:
        return next(iter(self.originals.values())).query

    def find(
        self, kind: str, sender: str | None = None, receiver: str | None = None, session: str | None = None
    ) -> list[Said]:
        """Messages of a kind, each once."""
        found: dict[int, Said] = {}
        for timeline in self.timelines.values():
            for said, _, _ in timeline:
                if (
                    said.kind == kind
                    and sender in (None, said.sender)
                    and receiver in (None, said.receiver)
                    and session in (None, said.session)
                ):
                    found.setdefault(id(said), said)
        return list(found.values())

    def drop(self, said: Said, *owners: str) -> None:
        """As if it had never been said (or only in some bundles)."""
        for owner in owners or self.timelines:
            self.timelines[owner] = [entry for entry in self.timelines[owner] if entry[0] is not said]

    def repeat(self, said: Said, *owners: str, **changes: Any) -> Said:
        """Say it once more, right after, perhaps differently."""
        again = replace(said, **changes)
        if said.message is None and "content" not in changes:
            again.content = os.urandom(32)
        for owner in owners or self.timelines:
            for index, (other, direction, at) in enumerate(self.timelines[owner]):
                if other is said:
                    self.timelines[owner].insert(index + 1, (again, direction, at))
                    break
        return again

    def differ(self, said: Said, owner: str, **changes: Any) -> Said:
        """One party shows it otherwise than the rest."""
        other = replace(said, **changes)
        if "message" in changes:
            other.message = msgspec.structs.replace(said.message, **changes["message"])
        elif said.message is None and "content" not in changes:
            other.content = os.urandom(32)
        timeline = self.timelines[owner]
        self.timelines[owner] = [(other if entry[0] is said else entry[0], *entry[1:]) for entry in timeline]
        return other

    def move(self, said: Said, before: Said, *owners: str) -> None:
        """Put a message before another one in the order of each party that shows both."""
        for owner in owners or self.timelines:
            timeline = self.timelines[owner]
            if not {id(said), id(before)} <= {id(entry[0]) for entry in timeline}:
                continue
            entry = next(entry for entry in timeline if entry[0] is said)
            timeline.remove(entry)
            index = next(i for i, other in enumerate(timeline) if other[0] is before)
            timeline.insert(index, (said, entry[1], timeline[index][2]))

    def announce(self, sign: bool = True, **changes: Any) -> None:
        """Change the announcement for everybody; the requester signs it again."""
        found = [*self.find("Search"), *self.find("Prepare")]
        message = msgspec.structs.replace(found[0].message, **changes)
        assert isinstance(message, (Search, Prepare))
        if sign:
            key = self.world.identities[message.requester].signing
            message = msgspec.structs.replace(message, signature=key.sign(announce_statement(message), "protocol"))
        for said in found:
            said.message = message

    def rebind(self) -> None:
        """After a change to what the preparation's parties announced or answered: the search names it as it is now."""
        self.announce(preparation=self._answered(self.made, "Prepare", "JoinedPreparation"))
        self._answered(self, "Search", "Joined")

    @staticmethod
    def _answered(story: Story, announced: str, answer: str) -> bytes:
        """Let everybody answer the announcement as it is now, and derive the identity that follows. Returns it."""
        digest = announce_digest(story.find(announced)[0].message)
        joined = story.find(answer)
        for said in joined:
            said.message = msgspec.structs.replace(said.message, announce=digest)
        answers = {said.sender: msgspec.msgpack.encode(said.message) for said in joined}
        identity = labelled_hash("identity", digest, *(item for pair in sorted(answers.items()) for item in pair))
        for said in story.find("DerivedId"):
            said.message = DerivedId(identity)
        return identity

    def tell(self) -> dict[str, bytes]:
        """Bundles of this story: numbers, hash chains and phase signatures follow the order of each sender."""
        before = {} if self.preparation is None else self.preparation.told()
        return {owner: self.seal(owner, records, before.get(owner)) for owner, records in self.told().items()}

    def told(self) -> dict[str, list[Record]]:
        """The records of each party, without those of the preparation."""
        placed: dict[int, Placed] = {}
        numbers: dict[tuple[str, str, str], int] = defaultdict(int)
        heads: dict[tuple[str, str, str], bytes] = defaultdict(lambda: bytes(32))
        for timeline in self.timelines.values():
            for said, direction, _ in timeline:
                if direction == "sent":
                    link = (said.session, said.sender, said.receiver)
                    if isinstance(said.message, Signature):
                        said.message = _sign(self.world, self.query, link, said.message, heads[link])
                    placed[id(said)] = done = self._encode(said, numbers[link])
                    numbers[link] += 1
                    frame = frame_digest(self.query, *link, done.number, done.content)
                    heads[link] = hashlib.sha256(heads[link] + frame).digest()
        return {owner: self._records(owner, placed) for owner in self.timelines}

    def _records(self, owner: str, placed: dict[int, Placed]) -> list[Record]:
        numbers: dict[tuple[str, str, str], int] = defaultdict(int)
        records = []
        for said, direction, at in self.timelines[owner]:
            link = (said.session, said.sender, said.receiver)
            done = placed.get(id(said)) or self._encode(said, numbers[link])  # shown by the receiver only
            numbers[link] = done.number + 1
            peer = said.receiver if direction == "sent" else said.sender
            records.append(
                Record(said.session, direction, peer, done.number, said.kind, done.content, done.size, at, said.message)
            )
        return records

    def seal(
        self, owner: str, records: Sequence[Record], before: Sequence[Record] | None = None, **changes: Any
    ) -> bytes:
        """A bundle with these records, the log written anew, signed by its owner.

        `before`: records of the preparation, None for those it had.
        """
        original, identity = self.originals[owner], self.world.identities[owner]
        inside = None if self.preparation is None else self.preparation.originals.get(owner)
        if inside is not None:
            inside = msgspec.structs.replace(inside, records=tuple(inside.records if before is None else before))
        bundle = msgspec.structs.replace(original, records=tuple(records))
        header = msgspec.structs.replace(original.log.header, nonce=bytes(32))
        return sign_bundle(
            msgspec.structs.replace(_relogged(identity, header, bundle, inside), **changes), identity.signing
        )

    def _encode(self, said: Said, number: int) -> Placed:
        if said.message is None:
            return Placed(number, said.content, said.size)
        frame = encode_frame(self.query, said.session, said.sender, said.receiver, number, said.message)
        return Placed(number, content_digest(said.message), len(frame))


def _sign(world: World, query: bytes, link: tuple[str, str, str], message: Signature, head: bytes) -> Signature:
    if message.head == head:
        return message
    session, sender, receiver = link
    statement = labelled_hash("phase", query, session, message.phase, sender, receiver, head)
    return Signature(message.phase, head, world.identities[sender].signing.sign(statement, "protocol"))


def relogged(world: World, name: str, bundle: Bundle, filler: Sequence[bytes] = ()) -> Bundle:
    """A bundle and its preparation in a log under the same header that holds nothing else but, first, `filler`."""
    inside = preparation_inside(bundle)
    return _relogged(world.identities[name], bundle.log.header, bundle, None if inside is None else inside[1], filler)


def _relogged(
    identity: NodeIdentity, header: LogHeader, bundle: Bundle, inside: Bundle | None, filler: Sequence[bytes] = ()
) -> Bundle:
    """What an owner who rewrites its log can show: one log of both, with a fresh checkpoint."""
    parts = [(part.query, part.records) for part in (inside, bundle) if part is not None]
    end = max([bundle.exported, *(record.time for _, records in parts for record in records)])
    *first, log = logs_of(identity, header, parts, end, filler)
    if inside is None:
        return msgspec.structs.replace(bundle, log=log, preparation=None)
    signed = sign_bundle(msgspec.structs.replace(inside, log=first[0]), identity.signing)
    return msgspec.structs.replace(bundle, log=log, preparation=signed)


def logs_of(
    identity: NodeIdentity,
    header: LogHeader,
    conversations: Sequence[tuple[bytes, Sequence[Record]]],
    end: int,
    filler: Sequence[bytes] = (),
) -> list[TranscriptProof]:
    """A log under `header`: leaves of something else, then the records of these conversations; a proof of each."""
    tree = MerkleTree()
    for other in filler:
        tree.append(hash_leaf(other))
    latest, parts = 0, []
    for query, records in conversations:
        part: list[tuple[int, int, bytes, bytes]] = []
        for record in records:
            latest = max(latest, record.time)
            data, secret = _logged(header, query, tree.size, latest, record)
            part.append((tree.size, latest, data, secret))
            tree.append(hash_leaf(data))
        parts.append(part)
    checkpoint = signed_checkpoint(identity, header.log, tree, end)
    return [
        TranscriptProof(
            header,
            checkpoint,
            tuple(Disclosure(*one, tree.size, tuple(tree.inclusion_proof(one[0]))) for one in part),
            (),
        )
        for part in parts
    ]


@lru_cache(maxsize=1 << 16)
def _logged(header: LogHeader, query: bytes, index: int, created: int, record: Record) -> tuple[bytes, bytes]:
    """A record as an entry of a log, and the entry's secret."""
    ends = (header.owner, record.peer) if record.direction == "sent" else (record.peer, header.owner)
    entry = TranscriptEntry(
        query, "whole" if record.session == WHOLE else "session", record.direction, record.peer, record.kind,
        record.sequence, frame_digest(query, record.session, *ends, record.sequence, record.content),
        signature_in(record.message), record.time,
    )  # fmt: skip
    secret = os.urandom(32)
    return encrypt_entry(encode_entry(entry, "transcript"), secret, header, index, created), secret


def signed_checkpoint(identity: NodeIdentity, log: bytes, tree: MerkleTree, at: int) -> Checkpoint:
    message = checkpoint_message(log, tree.size, tree.root(), at)
    return Checkpoint(log, tree.size, tree.root(), at, identity.signing.sign(message, "log"))


@pytest.fixture(scope="module")
def files(world: World) -> Files:
    """All bundles of one query, each with its preparation: ES releases two candidates after a climb."""
    return world.bundles(world.query((ES,)), (FR, EU, ES))


@pytest.fixture(scope="module")
def joint(world: World) -> Files:
    """All bundles of one joint query: besides, DE finds nothing."""
    return world.bundles(world.query())


@pytest.fixture
def story(world: World, files: Files) -> Story:
    return Story.read(world, files)


def verified(world: World, files: Files, trust: dict[str, Party] | None = None) -> Report:
    return verify_bundles(list(files.values()), world.trust if trust is None else trust)


def first(story: Story, kind: str, sender: str, receiver: str, session: str = ES, number: int = 0) -> Said:
    return story.find(kind, sender, receiver, session)[number]
