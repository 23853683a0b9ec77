"""Checkpoints: what a log says about itself, signed, and how two of them are compared.

A log that shows each of two peers another history has to sign two roots that do not fit together. Peers therefore
exchange the checkpoints that they were given and ask the log for proofs between them (RFC 9162, sections 2.1.4, 11.3):
`nodes.service.gossip`.

A `Signer` takes a message and returns a signature; a `Verifier` takes both and raises if the signature does not hold.
Both know their key and their context label, e.g. ``lambda s, m: key.verify(s, m, "checkpoint")``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Annotated

import msgspec

from nodes.logs.entries import Entry, LogHeader, Milliseconds, decrypt_record
from nodes.logs.errors import DisclosureRefused, LogError
from pets.errors import MALFORMED, CryptoError
from pets.merkle import ProofRefused, hash_leaf, verify_consistency, verify_inclusion
from pets.prf import encode_labels
from protocol.messages import Digest
from protocol.shown import kind_only

Signer = Callable[[bytes], bytes]
Verifier = Callable[[bytes, bytes], None]

Index = Annotated[int, msgspec.Meta(ge=0, lt=2**48)]
Proof = Annotated[tuple[Digest, ...], msgspec.Meta(max_length=64)]


class CheckpointError(LogError):
    """Base of what goes wrong with checkpoints."""


class BadCheckpoint(CheckpointError):
    """A checkpoint that is not one of this log."""


class InconsistentCheckpoints(CheckpointError):
    """Nothing shows that the log with the `newer` checkpoint extends the one with the `older`."""

    def __init__(self, older: Checkpoint, newer: Checkpoint, reason: str) -> None:
        self.older, self.newer, self.reason = older, newer, reason
        super().__init__(f"checkpoints of {older.size} and {newer.size} entries: {reason}")


class SplitView(InconsistentCheckpoints):
    """The log signed two roots for one size. Both checkpoints together prove it to anyone."""


class Checkpoint(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """At `time` the log `log` had `size` entries and the Merkle root `root`."""

    log: Digest
    size: Index
    root: Digest
    time: Milliseconds
    signature: Annotated[bytes, msgspec.Meta(min_length=1, max_length=4096)]

    def signed(self) -> bytes:
        """The bytes under the signature."""
        return checkpoint_message(self.log, self.size, self.root, self.time)


class Disclosure(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """One entry with all that a third party needs to check it against a checkpoint, and nothing about other entries.

    Holds the entry's secret: whoever keeps a disclosure keeps the entry, also after the log erased it.
    """

    index: Index
    created: Milliseconds
    record: Annotated[bytes, msgspec.Meta(max_length=16384)]
    secret: Digest
    size: Index
    path: Proof

    __repr__ = kind_only


def decode_checkpoint(data: bytes) -> Checkpoint:
    """A checkpoint from its MessagePack bytes, its signature not yet checked. Raises `BadCheckpoint`."""
    try:
        return msgspec.msgpack.decode(data, type=Checkpoint)
    except MALFORMED as error:
        raise BadCheckpoint(f"not a checkpoint: {error}") from None


def checkpoint_message(log: bytes, size: int, root: bytes, time: int) -> bytes:
    """What a log signs."""
    return encode_labels("blind-lineup/checkpoint/v1", log, size, root, time)


def check_checkpoint(checkpoint: Checkpoint, log: bytes, verify: Verifier) -> None:
    """Raise `BadCheckpoint` unless this is a checkpoint of `log` that its owner signed."""
    if checkpoint.log != log:
        raise BadCheckpoint(f"a checkpoint of log {checkpoint.log.hex()[:16]}, expected {log.hex()[:16]}")
    try:
        verify(checkpoint.signature, checkpoint.signed())
    except CryptoError as error:
        raise BadCheckpoint(f"the checkpoint of {checkpoint.size} entries: {error}") from None


def check_checkpoint_consistent(older: Checkpoint, newer: Checkpoint, proof: Sequence[bytes]) -> None:
    """Verify that the log of `newer` extends the log of `older`. Signatures are `check_checkpoint`'s business.

    Raises `BadCheckpoint` (two logs, or time runs backwards), `SplitView` (two roots for one size),
    `InconsistentCheckpoints` (fewer entries than before, or a proof that does not hold).
    """
    if older.log != newer.log:
        raise BadCheckpoint(f"checkpoints of two logs, {older.log.hex()[:16]} and {newer.log.hex()[:16]}")
    if older.size == newer.size and older.root != newer.root:
        raise SplitView(older, newer, "two roots for one size")
    if older.time > newer.time:
        raise BadCheckpoint(f"the newer checkpoint is from {newer.time}, before {older.time}")
    try:
        verify_consistency(older.size, newer.size, proof, older.root, newer.root)
    except ProofRefused as error:
        raise InconsistentCheckpoints(older, newer, str(error)) from None


def check_disclosure(disclosure: Disclosure, header: LogHeader, checkpoint: Checkpoint) -> Entry:
    """The disclosed entry, once it is shown to be the one under `checkpoint` (whose signature was checked before).

    Raises `BadCheckpoint` if the checkpoint is of another log, `DisclosureRefused` and `EntryRefused`.
    """
    if checkpoint.log != header.log:
        raise BadCheckpoint("the checkpoint is of another log than the header")
    if disclosure.size != checkpoint.size:
        raise DisclosureRefused(f"a proof for {disclosure.size} entries, a checkpoint of {checkpoint.size}")
    leaf = hash_leaf(disclosure.record)
    try:
        verify_inclusion(leaf, disclosure.index, checkpoint.size, disclosure.path, checkpoint.root)
    except ProofRefused as error:
        raise DisclosureRefused(str(error)) from None
    return decrypt_record(disclosure.record, disclosure.secret, header, disclosure.index, disclosure.created)
