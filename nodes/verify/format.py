"""Evidence bundles: one party's records of one conversation, published as threat_model/evidence-format.md, version 5.

A conversation is a preparation or a search. The bundle of a search carries that of its preparation inside.

::

    file     = MessagePack map {format, version, content, signature}
    content  = MessagePack map, the fields of `Bundle`, in exactly the bytes that encoding them again gives
    signature: the owner's, over labelled_hash("evidence", version, content), context "evidence"

Messages that say nothing about faces or keys (`HARMLESS`) are in the records in full; of all others only place, type,
size and hash: two parties' copies of the comparison together would rebuild every score.

`EvidenceRefused` (a pets.errors.InputError): bytes that are no bundle of this version.
"""

from __future__ import annotations

import hashlib
from typing import Annotated, Any, Final, Literal

import msgspec

from nodes.logs.checkpoints import Checkpoint, Disclosure, Proof
from nodes.logs.entries import LogHeader, Milliseconds
from pets.errors import MALFORMED, InputError
from pets.prf import labelled_hash
from protocol.follow_up import Statement
from protocol.messages import (
    Abort,
    AdmissionBit,
    AnyMessage,
    CapBit,
    ConfirmationBlock,
    DerivedId,
    DifferenceDigest,
    Digest,
    Echo,
    FormBit,
    Joined,
    JoinedPreparation,
    MaskDigest,
    Message,
    Name,
    Prepare,
    Rung,
    Search,
    Signature,
)

FORMAT: Final = "blind-lineup/evidence"
VERSION = 6
WIRE_VERSION = 5
CONTEXT = "evidence"
BUNDLE_LIMIT = 1 << 28

WHOLE = "*"  # the session of a conversation as a whole; all others are named after a holder

# Announcements and the answers to them, hashes of secrets of 32 random bytes or more, bits that all open, verdicts,
# signatures. c1 of a confirmation block is an RLWE sample without its key, which two parties are told anyway.
HARMLESS: tuple[type[Message], ...] = (
    Prepare,
    JoinedPreparation,
    MaskDigest,
    FormBit,
    Search,
    Joined,
    DerivedId,
    DifferenceDigest,
    Echo,
    AdmissionBit,
    CapBit,
    Rung,
    ConfirmationBlock,
    Signature,
    Abort,
)

Role = Literal["requester", "holder", "router"]  # its own copy: it does not import `protocol.roles`
Direction = Literal["sent", "received"]


class EvidenceRefused(InputError):
    """Bytes that are no evidence bundle of this version."""


class Record(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """One frame that the owner sent or consumed, in the order in which it did.

    `content`: SHA-256 of the message, the same whoever it is sent to. `size`: bytes of the frame. `time`: milliseconds
    since 1970, UTC. `message`: only harmless types. `session`: the holder it is about, or `WHOLE`.
    """

    session: Annotated[str, msgspec.Meta(max_length=16)]
    direction: Direction
    peer: Name
    sequence: Annotated[int, msgspec.Meta(ge=0, lt=2**32)]
    kind: Annotated[str, msgspec.Meta(max_length=32)]
    content: Digest
    size: Annotated[int, msgspec.Meta(ge=0, lt=2**32)]
    time: Milliseconds
    message: AnyMessage | None


class Owner(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Whose bundle it is. `verify_key`: as `pets.signatures.VerifyKey.to_bytes`."""

    name: Name
    role: Role
    verify_key: Annotated[bytes, msgspec.Meta(min_length=1984, max_length=1984)]


class Extension(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """That the log of `checkpoint` extends that of the earlier checkpoint `older` (RFC 9162, 2.1.4)."""

    older: Checkpoint
    proof: Proof


class Witnessed(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A checkpoint of another node's log that the owner was given. `header`: says whose log it is, and which.

    Two of one node's log stand for a contradiction: nobody proved to the owner that the one extends the other.
    """

    header: LogHeader
    checkpoint: Checkpoint


class TranscriptProof(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The owner's transcript log: one disclosed entry for each record, in the same order, under `checkpoint`."""

    header: LogHeader
    checkpoint: Checkpoint
    entries: Annotated[tuple[Disclosure, ...], msgspec.Meta(max_length=1 << 20)]
    extensions: Annotated[tuple[Extension, ...], msgspec.Meta(max_length=1024)]


class Stated(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A statement of the follow-up (`protocol.follow_up`) that the owner made or was given, and its log entry."""

    direction: Direction
    peer: Name
    time: Milliseconds
    statement: Statement
    entry: Disclosure


class Bundle(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What one party shows of one conversation, which `query` addresses. `exported`: milliseconds since 1970, UTC.

    `preparation`: of a search, the file of the same party's bundle of the preparation that the search used.
    """

    query: Annotated[bytes, msgspec.Meta(min_length=16, max_length=16)]
    owner: Owner
    exported: Milliseconds
    records: Annotated[tuple[Record, ...], msgspec.Meta(max_length=1 << 20)]
    log: TranscriptProof
    witnessed: Annotated[tuple[Witnessed, ...], msgspec.Meta(max_length=4096)]
    follow_up: Annotated[tuple[Stated, ...], msgspec.Meta(max_length=4096)] = ()
    preparation: Annotated[bytes, msgspec.Meta(max_length=BUNDLE_LIMIT)] | None = None


class SignedBundle(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The file."""

    format: Literal["blind-lineup/evidence"]
    version: int
    content: bytes
    signature: Annotated[bytes, msgspec.Meta(max_length=8192)]

    @property
    def statement(self) -> bytes:
        """What the owner signs."""
        return labelled_hash("evidence", self.version, self.content)


class _Envelope(msgspec.Struct, frozen=True, array_like=True):
    """The wire's envelope (protocol/DESIGN.md, 6a), written down a second time: the verifier trusts its own copy."""

    version: int
    query: bytes
    session: str
    sender: str
    receiver: str
    sequence: int
    message: AnyMessage


def encode_frame(query: bytes, session: str, sender: str, receiver: str, sequence: int, message: AnyMessage) -> bytes:
    """A message as it goes over the wire, byte for byte."""
    return msgspec.msgpack.encode(_Envelope(WIRE_VERSION, query, session, sender, receiver, sequence, message))


def envelope_bytes(query: bytes, session: str, sender: str, receiver: str, sequence: int) -> int:
    """Bytes of a frame beside its message."""
    empty: Any = msgspec.Raw(b"")
    return len(encode_frame(query, session, sender, receiver, sequence, empty))


def content_digest(message: AnyMessage) -> bytes:
    """SHA-256 of a message as it goes over the wire."""
    return hashlib.sha256(msgspec.msgpack.encode(message)).digest()


def frame_digest(query: bytes, session: str, sender: str, receiver: str, sequence: int, content: bytes) -> bytes:
    """What hash chains and logs hold of a frame: its place and its content. So what signs one signs the content."""
    return labelled_hash("frame", WIRE_VERSION, query, session, sender, receiver, sequence, content)


def signature_in(message: object) -> bytes | None:
    """The signature that a message carries, which its log entry repeats."""
    return (message.signature or None) if isinstance(message, (Signature, Prepare, Search)) else None


def encode_bundle(bundle: Bundle) -> bytes:
    """The content that is signed."""
    return msgspec.msgpack.encode(bundle)


def decode_bundle(data: bytes) -> tuple[SignedBundle, Bundle]:
    """A bundle file; its signature is `verify_bundles`' business. Raises `EvidenceRefused`."""
    signed, bundle = _decode(data)
    inside = preparation_inside(bundle)
    if inside is not None and inside[1].preparation is not None:
        raise EvidenceRefused("not an evidence bundle: a preparation inside a preparation")
    return signed, bundle


def preparation_inside(bundle: Bundle) -> tuple[SignedBundle, Bundle] | None:
    """The bundle of the preparation that a search used; None where there is none. Raises `EvidenceRefused`."""
    return None if bundle.preparation is None else _decode(bundle.preparation)


def _decode(data: bytes) -> tuple[SignedBundle, Bundle]:
    if len(data) > BUNDLE_LIMIT:
        raise EvidenceRefused(f"a bundle of {len(data)} bytes, the limit is {BUNDLE_LIMIT}")
    try:
        signed = msgspec.msgpack.decode(data, type=SignedBundle)
        if signed.version != VERSION:
            raise EvidenceRefused(f"evidence format version {signed.version}; this verifier reads {VERSION}")
        bundle = msgspec.msgpack.decode(signed.content, type=Bundle)
    except (*MALFORMED, ValueError) as error:
        raise EvidenceRefused(f"not an evidence bundle: {error}") from None
    if encode_bundle(bundle) != signed.content or msgspec.msgpack.encode(signed) != data:
        raise EvidenceRefused("not the canonical form of an evidence bundle")
    return signed, bundle
