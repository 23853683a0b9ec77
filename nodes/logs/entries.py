"""What a log contains: three closed schemas, and how one entry is encrypted so that it can be erased later.

- `ArticleForty`: the router's log of Article 40(1) of Regulation (EU) 2024/982, with its five fields and no other.
- `TranscriptEntry`: a message that passed, as hash and signature; never its content.
- `GalleryEntry`: what the node's database held (`nodes.evidence.ledger`): counts and a digest, of nobody in particular.

Entries are canonical: MessagePack arrays, and only the bytes that encoding gives are accepted back. Times are integers,
milliseconds since 1970 in UTC. One entry is encrypted under its own 32-byte secret::

    key        = derive_key(secret, "log-entry", log, index)
    commitment = derive_key(secret, "log-commitment", log, index)
    record     = commitment || AES-256-GCM(key, nonce 0, length || entry || zeros; aad: log, index, created)

The key is used once, so the nonce may be constant. The commitment is needed because a GCM ciphertext can be built to
open under two keys to two texts: whoever chose the secret could later show another one, and a log that stands for
either of two entries proves nothing. Zeros fill up to a multiple of 256 bytes, since lengths outlive erasure.

The Merkle leaf is the hash of the record. Once the secret is destroyed the record says nothing, and proofs stay valid.
"""

from __future__ import annotations

import datetime
from functools import cached_property
from typing import Annotated, Literal

import msgspec
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from nodes.logs.errors import DisclosureRefused, EntryRefused, LogUnusable
from pets.errors import MALFORMED
from pets.prf import derive_key, encode_labels, labelled_hash
from protocol.messages import Digest, Name

Milliseconds = Annotated[int, msgspec.Meta(ge=0, lt=2**47)]
Names = Annotated[tuple[Name, ...], msgspec.Meta(max_length=64)]
Kind = Literal["article-40", "transcript", "gallery"]
Reason = Literal["first", "change", "restored", "accepted-loss", "staff"]

RETENTION_YEARS = 3  # Article 40(3), and Article 33(3) for the states' own
PADDING = 256
COMMITMENT_BYTES = 32
RECORD_LIMIT = 16384  # the schemas' own limits keep every record well below

_NONCE = bytes(12)
_LENGTH_BYTES = 4


class Entry(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """Base of all schemas."""


class ArticleForty(Entry, frozen=True):
    """Article 40(1): who asked, when, when the answer went out, which databases were asked, which replied.

    Both lists sorted and without repetition. `replied` is part of `asked`; `reply_time` is None if nobody replied.
    """

    requester: Name
    request_time: Milliseconds
    reply_time: Milliseconds | None
    asked: Names
    replied: Names

    def __post_init__(self) -> None:
        for names in (self.asked, self.replied):
            if list(names) != sorted(set(names)):
                raise ValueError("databases must be sorted and named once")
        if not set(self.replied) <= set(self.asked):
            raise ValueError("a database replied that was not asked")
        if (self.reply_time is None) != (not self.replied):
            raise ValueError("there must be a reply time exactly if a database replied")
        if self.reply_time is not None and self.reply_time < self.request_time:
            raise ValueError("a reply before the request")


class TranscriptEntry(Entry, frozen=True):
    """A message that this node sent or received: its place, the SHA-256 of its frame, its sender's signature if any."""

    query: Annotated[bytes, msgspec.Meta(min_length=16, max_length=32)]
    phase: Annotated[str, msgspec.Meta(pattern="^[a-z][a-z-]{0,23}$")]
    direction: Literal["sent", "received"]
    peer: Name
    message: Annotated[str, msgspec.Meta(pattern="^[A-Z][A-Za-z]{0,31}$")]
    sequence: Annotated[int, msgspec.Meta(ge=0, lt=2**32)]
    frame: Digest
    signature: Annotated[bytes, msgspec.Meta(min_length=1, max_length=4096)] | None
    time: Milliseconds


class GalleryEntry(Entry, frozen=True):
    """What the node's database held: its id, the number of changes, of subjects, and their digest.

    `reason`: why it was written down; `staff`: the node has staff from then on. `signature`: of
    the node, over an order to accept a loss; else None.
    """

    database_id: Annotated[bytes, msgspec.Meta(min_length=16, max_length=16)]
    generation: Annotated[int, msgspec.Meta(ge=0, lt=2**62)]
    rows: Annotated[int, msgspec.Meta(ge=0, lt=2**62)]
    digest: Digest
    reason: Reason
    signature: Annotated[bytes, msgspec.Meta(min_length=1, max_length=8192)] | None
    time: Milliseconds


SCHEMAS: dict[Kind, type[Entry]] = {
    "article-40": ArticleForty,
    "transcript": TranscriptEntry,
    "gallery": GalleryEntry,
}


class LogHeader(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True, dict=True):
    """What a log is: format version, schema, owner, and a nonce that tells two logs of one owner apart."""

    version: Literal[1]
    kind: Kind
    owner: Name
    nonce: Digest

    @cached_property
    def log(self) -> bytes:
        """The log's ID, 32 bytes. Every entry has it in three places."""
        return labelled_hash("log", self.version, self.kind, self.owner, self.nonce)


def decode_header(data: bytes) -> LogHeader:
    """A header from its MessagePack bytes. Raises `LogUnusable`."""
    try:
        return msgspec.msgpack.decode(data, type=LogHeader)
    except MALFORMED as error:
        raise LogUnusable(f"not the header of a log: {error}") from None


def encode_entry(entry: Entry, kind: Kind) -> bytes:
    """An entry as canonical bytes. Raises `EntryRefused` unless it fits the schema of `kind` exactly."""
    if type(entry) is not SCHEMAS[kind]:
        raise EntryRefused(f"{type(entry).__name__} does not belong in a log of kind {kind}")
    try:
        data = msgspec.msgpack.encode(entry)
    except (TypeError, OverflowError, ValueError) as error:
        raise EntryRefused(f"cannot be written down: {error}") from None
    if decode_entry(data, kind) != entry:  # msgspec checks types only when it decodes
        raise EntryRefused(f"{type(entry).__name__} is not the same once it is written and read again")
    return data


def decode_entry(data: bytes, kind: Kind) -> Entry:
    """The inverse of `encode_entry`. Raises `EntryRefused` for anything that `encode_entry` would not have made."""
    try:
        entry = msgspec.msgpack.decode(data, type=SCHEMAS[kind])
    except MALFORMED as error:
        raise EntryRefused(f"not an entry of kind {kind}: {error}") from None
    if msgspec.msgpack.encode(entry) != data:
        raise EntryRefused(f"not the canonical form of an entry of kind {kind}")
    return entry


def encrypt_entry(data: bytes, secret: bytes, header: LogHeader, index: int, created: int) -> bytes:
    """The record of entry `index`. `data`: from `encode_entry`; `secret`: 32 fresh random bytes."""
    text = len(data).to_bytes(_LENGTH_BYTES, "big") + data
    text += bytes(-len(text) % PADDING)
    key = derive_key(secret, "log-entry", header.log, index)
    sealed = AESGCM(key).encrypt(_NONCE, text, _aad(header, index, created))
    return derive_key(secret, "log-commitment", header.log, index) + sealed


def decrypt_record(record: bytes, secret: bytes, header: LogHeader, index: int, created: int) -> Entry:
    """The entry in a record. Raises `DisclosureRefused` if `secret` or `created` are not those it was made with."""
    if record[:COMMITMENT_BYTES] != derive_key(secret, "log-commitment", header.log, index):
        raise DisclosureRefused(f"entry {index} was made with another secret")
    key = derive_key(secret, "log-entry", header.log, index)
    try:
        text = AESGCM(key).decrypt(_NONCE, record[COMMITMENT_BYTES:], _aad(header, index, created))
    except (InvalidTag, ValueError):
        raise DisclosureRefused(f"entry {index} does not decrypt") from None
    end = _LENGTH_BYTES + int.from_bytes(text[:_LENGTH_BYTES], "big")
    if len(text) % PADDING or end > len(text) or any(text[end:]):
        raise DisclosureRefused(f"entry {index} is not padded with zeros")
    return decode_entry(text[_LENGTH_BYTES:end], header.kind)


def retention_end(created: int) -> int:
    """Three calendar years after `created`; from a 29 February to 1 March. Milliseconds in and out."""
    seconds, rest = divmod(created, 1000)
    day = datetime.datetime.fromtimestamp(seconds, datetime.timezone.utc)
    try:
        end = day.replace(year=day.year + RETENTION_YEARS)
    except ValueError:  # 29 February
        end = day.replace(year=day.year + RETENTION_YEARS, month=3, day=1)
    return int(end.timestamp()) * 1000 + rest


def _aad(header: LogHeader, index: int, created: int) -> bytes:
    return encode_labels("blind-lineup/log-entry/v1", header.log, index, created)
