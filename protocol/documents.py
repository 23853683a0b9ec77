"""Documents of the follow-up: a statement and its payload, sealed to the receiver, of a length that tells little."""

from __future__ import annotations

import msgspec

from pets.errors import MALFORMED
from pets.prf import encode_labels
from pets.sealing import SealingKey, SealingPublicKey, open_sealed, seal
from protocol.follow_up import FollowUpError, Statement, check_payload, decode_statement
from protocol.shown import kind_only
from protocol.steps import Keyring

DOCUMENT_LIMIT = 16 << 20  # bytes of a sealed document
PADDING = 16384  # lengths of documents are multiples of it, so that they tell little of what is inside
_INFO = b"follow-up"
_LENGTH_BYTES = 4


class Document(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """A statement and what its hashes stand for."""

    statement: bytes
    payload: bytes

    __repr__ = kind_only


def seal_document(statement: Statement, payload: bytes, public: SealingPublicKey, size: int = 0) -> bytes:
    """A document for `statement.receiver`: length, document, zeros up to a multiple of 16 KiB and at least `size`."""
    bare = msgspec.msgpack.encode(Document(statement.encode(), payload))
    framed = len(bare).to_bytes(_LENGTH_BYTES, "big") + bare
    length = max(size, -(-len(framed) // PADDING) * PADDING)
    if length > DOCUMENT_LIMIT:
        raise FollowUpError(f"a document of {length} bytes, the limit is {DOCUMENT_LIMIT}")
    padded = framed.ljust(length, b"\0")
    return seal(public, padded, _INFO, _route(statement.sender, statement.receiver))


def open_document(
    data: bytes, key: SealingKey, sender: str, receiver: str, keyring: Keyring
) -> tuple[Statement, bytes]:
    """Open and check a document. Raises `FollowUpError`, and a `CryptoError` where seal or signature do not hold."""
    plain = open_sealed(key, data, _INFO, _route(sender, receiver))
    end = _LENGTH_BYTES + int.from_bytes(plain[:_LENGTH_BYTES], "big")
    if end > len(plain) or any(plain[end:]):
        raise FollowUpError("a document that is not padded with zeros")
    try:
        document = msgspec.msgpack.decode(plain[_LENGTH_BYTES:end], type=Document)
    except MALFORMED as error:
        raise FollowUpError(f"not a document of the follow-up: {error}") from None
    statement = decode_statement(document.statement)
    if (statement.sender, statement.receiver) != (sender, receiver):
        raise FollowUpError(f"a statement from {statement.sender} to {statement.receiver}, sent by {sender}")
    keyring.check(sender, statement.digest, statement.signature)
    check_payload(statement, document.payload)
    return statement, document.payload


def _route(sender: str, receiver: str) -> bytes:
    return encode_labels("follow-up", sender, receiver)
