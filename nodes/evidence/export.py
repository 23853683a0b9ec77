"""Evidence bundles: one party's records of one conversation, exported for a supervisor (R 55, 58; DESIGN, 2.8).

A search is exported with the preparation that it used, in one file; a preparation also alone, by its own number.

What goes in is what the node kept (`nodes.evidence.recorder`), one disclosed entry of its transcript log for each
record, and the proofs that tie them to signed checkpoints. No key of the node leaves it, except the per-entry secrets
of the entries shown. The format: `nodes.verify.format`, published as threat_model/evidence-format.md.

`EvidenceError` (a pets.errors.InputError): nothing can be exported, and why.
"""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import msgspec

from nodes.evidence import followed_up, links
from nodes.evidence.recorder import Record, read_records
from nodes.evidence.witnesses import WITNESSED, Witnesses
from nodes.identity.identity import NodeIdentity, load_identity
from nodes.logs.checkpoints import Checkpoint
from nodes.logs.entries import Kind, TranscriptEntry
from nodes.logs.errors import EntryErased, LogTampered, LogUnusable
from nodes.logs.log import TamperEvidentLog
from nodes.logs.of_node import log_keys, open_log
from nodes.logs.reader import LogReader
from nodes.verify.format import (
    CONTEXT,
    FORMAT,
    VERSION,
    Bundle,
    Extension,
    Owner,
    SignedBundle,
    Stated,
    TranscriptProof,
    Witnessed,
    encode_bundle,
    frame_digest,
)
from pets.errors import MALFORMED, InputError
from pets.signatures import SigningKey
from protocol.messages import Search

COPY_ATTEMPTS = 5
RECENT = 16  # checkpoints of its own log that a bundle extends unasked: those that others were shown last


class EvidenceError(InputError):
    """Nothing can be exported."""


def export_bundle(folder: Path, conversation_hex: str, since: Sequence[Bundle] = ()) -> bytes:
    """The bundle of one search or preparation from a node's folder, whether or not the node is running.

    `since`: bundles that show a checkpoint of this node's transcript log, its own or others'; the new one then proves
    that the log only grew since. Raises `EvidenceError`, `IdentityError`, `WitnessDamaged`, `LinkDamaged`, and as a
    damaged log does.
    """
    try:
        conversation = bytes.fromhex(conversation_hex)
    except ValueError:
        raise EvidenceError(f"a query is 32 hexadecimal digits, got {conversation_hex!r:.80}") from None
    if not folder.is_dir():
        raise EvidenceError(f"{folder} is not a node's folder: it does not exist")
    if len(conversation) != 16 or not (folder / "evidence" / conversation.hex()).is_file():
        raise EvidenceError(f"{folder} keeps nothing of query {conversation_hex}")
    identity = load_identity(folder)
    records = _records(folder, conversation)
    with open_for_reading(identity, folder, "transcript") as log:
        made = _preparation_of(folder, records)
        preparation = None if made is None else _bundle(identity, log, folder, made, _records(folder, made))
        bundle = _bundle(identity, log, folder, conversation, records, since)
    inside = None if preparation is None else sign_bundle(preparation, identity.signing)
    return sign_bundle(msgspec.structs.replace(bundle, preparation=inside), identity.signing)


def _records(folder: Path, conversation: bytes) -> list[Record]:
    path = folder / "evidence" / conversation.hex()
    try:
        return read_records(path)
    except MALFORMED as error:
        raise EvidenceError(f"{path} is damaged: {error}") from None


def _preparation_of(folder: Path, records: Sequence[Record]) -> bytes | None:
    """The conversation of the preparation that a search names, None where this node keeps none of it."""
    named = [record.message.preparation for record in records if isinstance(record.message, Search)]
    made = links.conversation_of(folder, named[0]) if named else None
    return made if made is not None and (folder / "evidence" / made.hex()).is_file() else None


def _bundle(
    identity: NodeIdentity,
    log: LogReader,
    folder: Path,
    conversation: bytes,
    records: Sequence[Record],
    since: Sequence[Bundle] = (),
) -> Bundle:
    proof = _prove(log, conversation, records, since)
    config = identity.config
    return Bundle(
        conversation,
        Owner(config.name, config.role.value, identity.signing.verify_key.to_bytes()),
        max(int(time.time() * 1000), proof.checkpoint.time),
        tuple(records),
        proof,
        _witnessed(folder, records),
        _stated(log, folder, conversation),
    )


def sign_bundle(bundle: Bundle, key: SigningKey) -> bytes:
    """A bundle as a file."""
    unsigned = SignedBundle(FORMAT, VERSION, encode_bundle(bundle), b"")
    signature = key.sign(unsigned.statement, CONTEXT)
    return msgspec.msgpack.encode(msgspec.structs.replace(unsigned, signature=signature))


@contextmanager
def open_for_reading(identity: NodeIdentity, folder: Path, kind: Kind) -> Iterator[LogReader]:
    """A log of the node. While the node runs and holds the log, a copy is read, next to it, and removed."""
    place = identity.config.paths.logs / kind
    if not place.is_dir():
        raise EvidenceError(f"{folder} has no {kind} log")
    try:
        log = open_log(identity, folder, kind)
    except LogUnusable as error:
        if "in use" not in str(error):
            raise
    else:
        with log:
            if log.size > log.last_checkpoint.size:
                log.checkpoint(int(time.time() * 1000))  # what a crash left without one
            yield log
        return
    with (
        tempfile.TemporaryDirectory(prefix=".evidence-", dir=place.parent) as temporary,
        _copy(place, Path(temporary), identity, folder) as copy,
    ):
        yield copy


def _copy(place: Path, temporary: Path, identity: NodeIdentity, folder: Path) -> LogReader:
    """A copy that a writer did not disturb. Checkpoints first and keys last: then each part covers the one before."""
    for attempt in range(COPY_ATTEMPTS):
        target = temporary / str(attempt)
        target.mkdir(mode=0o700)
        for name in ("lock", "checkpoints", "holds", "entries", "keys"):
            shutil.copyfile(place / name, target / name)
        try:
            return TamperEvidentLog.open(target, log_keys(identity, folder), int(time.time() * 1000))
        except LogTampered:
            if attempt == COPY_ATTEMPTS - 1:
                raise
    raise AssertionError("the last attempt returns or raises")


def _witnessed(folder: Path, records: Sequence[Record]) -> tuple[Witnessed, ...]:
    """Checkpoints of the transcript logs of the parties, and of every log that showed two histories."""
    witnesses = Witnesses(folder / WITNESSED)
    wanted = {(record.peer, "transcript") for record in records} | set(witnesses.accused)
    return tuple(shown for shown in witnesses.all() if (shown.header.owner, shown.header.kind) in wanted)


def _stated(log: LogReader, folder: Path, query: bytes) -> tuple[Stated, ...]:
    """The follow-up of a query, each statement with its entry under the newest checkpoint."""
    path = folder / followed_up.FOLDER / query.hex()
    try:
        kept = followed_up.read(path)
    except MALFORMED as error:
        raise EvidenceError(f"{path} is damaged: {error}") from None
    end = _checkpoints(log)[-1].size
    try:
        return tuple(
            Stated(one.direction, one.peer, one.time, one.statement, log.disclose(one.index, end))
            for one in kept
            if one.index < end  # later ones came while this was read
        )
    except EntryErased:
        raise EvidenceError(f"entries of the follow-up of {query.hex()} were erased") from None


def _prove(log: LogReader, query: bytes, records: Sequence[Record], since: Sequence[Bundle]) -> TranscriptProof:
    checkpoints = _checkpoints(log)
    newest = checkpoints[-1]
    indices = _entries(log, query, records, newest.size, checkpoints)
    before = [checkpoint for checkpoint in checkpoints if checkpoint.size <= (indices[0] if indices else 0)][-1]
    older: dict[tuple[int, bytes], Checkpoint] = {}
    for checkpoint in (before, *checkpoints[-RECENT:-1], *_shown(log, since)):
        if checkpoint.size > newest.size:
            raise EvidenceError(f"the checkpoint covers {checkpoint.size} entries; this log has {newest.size}")
        older[checkpoint.size, checkpoint.root] = checkpoint
    extensions = [
        Extension(checkpoint, tuple(log.consistency_proof(checkpoint.size, newest.size)))
        for checkpoint in older.values()
    ]
    disclosed = tuple(log.disclose(index, newest.size) for index in indices)
    return TranscriptProof(log.header, newest, disclosed, tuple(extensions))


def _shown(log: LogReader, since: Sequence[Bundle]) -> Iterator[Checkpoint]:
    """The checkpoints of this log in bundles of whomever."""
    for bundle in since:
        shown = (bundle.log.checkpoint, *(witnessed.checkpoint for witnessed in bundle.witnessed))
        found = [checkpoint for checkpoint in shown if checkpoint.log == log.header.log]
        if not found:
            raise EvidenceError(f"the bundle of {bundle.owner.name} shows no checkpoint of this node's log")
        yield from found


def _checkpoints(log: LogReader) -> list[Checkpoint]:
    checkpoints: list[Checkpoint] = []
    while True:
        try:
            checkpoints.append(log.checkpoint_number(len(checkpoints)))
        except LogUnusable:
            return checkpoints


def _entries(
    log: LogReader, query: bytes, records: Sequence[Record], end: int, checkpoints: Sequence[Checkpoint]
) -> list[int]:
    """Where the records stand in the log: looked for from the last checkpoint before them, then from the start."""
    first = min((record.time for record in records), default=0)
    starts = [checkpoint.size for checkpoint in checkpoints if checkpoint.time < first]
    for start in dict.fromkeys((starts[-1] if starts else 0, 0)):
        indices: list[int] = []
        for index in range(start, end):
            if len(indices) == len(records):
                return indices
            try:
                entry = log.read(index)
            except EntryErased:
                continue
            if isinstance(entry, TranscriptEntry) and _same(entry, query, log.header.owner, records[len(indices)]):
                indices.append(index)
        if len(indices) == len(records):
            return indices
    missing = records[len(indices)]
    raise EvidenceError(
        f"message {missing.sequence} ({missing.kind}) {missing.direction}, {missing.peer}, is under no checkpoint of "
        "the transcript log: the query is still running, its entries were erased, or the evidence was changed"
    )


def _same(entry: TranscriptEntry, query: bytes, owner: str, record: Record) -> bool:
    ends = (owner, record.peer) if record.direction == "sent" else (record.peer, owner)
    frame = frame_digest(query, record.session, *ends, record.sequence, record.content)
    return (entry.query, entry.direction, entry.frame) == (query, record.direction, frame)
