"""The gate before connecting: a node serves only once a record of its impact assessment is lodged (R 50(4), LED 27).

The record says who assessed, when, and the SHA-256 of the document; the node signs it. The document stays where it is.

::

    ImpactError (a pets.errors.InputError)
    └── NotAssessed     no record, or one that does not hold: the node does not connect
"""

from __future__ import annotations

import hashlib
from datetime import date
from pathlib import Path
from typing import Annotated, Literal

import msgspec

from nodes.identity.identity import NodeIdentity
from nodes.private_files import replace_private
from pets.errors import MALFORMED, InputError
from pets.prf import labelled_hash
from pets.signatures import SignatureError

FILE = "impact.json"
CONTEXT = "impact"
DOCUMENT_LIMIT = 256 << 20


class ImpactError(InputError):
    """An impact assessment that cannot be lodged."""


class NotAssessed(ImpactError):
    """No impact assessment is lodged that holds for this node."""


class ImpactRecord(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Who assessed what, and when. `review`: the last day it holds, None if it does not say.

    `sha256`: of the document, hexadecimal. `signature`: the node's, over everything else.
    """

    node: str
    by: Annotated[str, msgspec.Meta(min_length=1, max_length=200)]
    on: date
    document: Annotated[str, msgspec.Meta(min_length=1, max_length=255)]
    sha256: Annotated[str, msgspec.Meta(pattern="^[0-9a-f]{64}\\Z")]
    review: date | None = None
    version: Literal[1] = 1
    signature: bytes = b""

    @property
    def statement(self) -> bytes:
        """What the node signs."""
        return labelled_hash("impact", msgspec.json.encode(msgspec.structs.replace(self, signature=b"")))


def lodge(
    identity: NodeIdentity, folder: Path, document: Path, by: str, on: date, today: date, review: date | None = None
) -> ImpactRecord:
    """Lodge the record of a document, in place of one before. Raises `ImpactError`."""
    if not by.strip():
        raise ImpactError("name who made the assessment")
    if on > today:
        raise ImpactError(f"the assessment is dated {on}, after today ({today})")
    if review is not None and review < today:
        raise ImpactError(f"the last day for its review, {review}, has passed")
    try:
        size = document.stat().st_size
        content = document.read_bytes() if size <= DOCUMENT_LIMIT else b""
    except OSError as error:
        raise ImpactError(f"{document} cannot be read: {error.strerror}") from None
    if not len(content) > 0:
        raise ImpactError(f"{document} has {size} bytes: an assessment has 1 to {DOCUMENT_LIMIT}")
    record = ImpactRecord(
        identity.config.name, by.strip(), on, document.name, hashlib.sha256(content).hexdigest(), review
    )
    signed = msgspec.structs.replace(record, signature=identity.signing.sign(record.statement, CONTEXT))
    replace_private(folder / FILE, msgspec.json.format(msgspec.json.encode(signed)) + b"\n")
    return signed


def check(identity: NodeIdentity, folder: Path, today: date) -> ImpactRecord:
    """The record of this node. Raises `NotAssessed` if there is none, it is another node's, changed, or over."""
    name = identity.config.name
    how = (
        f"`lineup node impact template --dir {folder} -o FILE` writes one to be completed, and "
        f"`lineup node impact lodge --dir {folder} FILE --by NAME` lodges it"
    )
    try:
        record = msgspec.json.decode((folder / FILE).read_bytes(), type=ImpactRecord)
        identity.signing.verify_key.verify(record.signature, record.statement, CONTEXT)
    except FileNotFoundError:
        raise NotAssessed(f"{name} does not connect: no impact assessment is lodged (R 50(4)); {how}") from None
    except (OSError, *MALFORMED, SignatureError) as error:
        raise NotAssessed(f"{name} does not connect: {folder / FILE} does not hold ({type(error).__name__})") from None
    if record.node != name:
        raise NotAssessed(f"{name} does not connect: the impact assessment is that of {record.node}; {how}")
    if record.review is not None and record.review < today:
        raise NotAssessed(
            f"{name} does not connect: its impact assessment was to be reviewed by {record.review}; {how}"
        )
    return record
