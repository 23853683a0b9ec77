"""The wire format: one envelope around one message, MessagePack, versioned, closed, size-limited."""

from __future__ import annotations

import hashlib
import math
from typing import Annotated, Any

import msgspec
import numpy as np
import numpy.typing as npt

from pets.errors import MALFORMED
from pets.params import PRESETS, SHARE_BITS, Parameters
from pets.prf import labelled_hash
from pets.residues import check_residues
from protocol.errors import FrameTooLarge, MalformedFrame, UnknownVersion, WrongSize
from protocol.messages import (
    AdmissionCount,
    AdmissionGates,
    AdmissionScores,
    AnyMessage,
    ConfirmationBlock,
    CountShare,
    FormBlock,
    Gates,
    InputShare,
    LiveRows,
    MaskedScores,
    MaskPart,
    Message,
    Name,
    Prepare,
    PreparedBlocks,
    PublicPart,
    Release,
    Search,
    Signature,
)

VERSION = 5
CHUNK_ROWS = 262144  # rows of gallery that are compared at a time; bounds memory at every party
MASK_PART = 64  # first components in one MaskPart

_N = max(params.n for params in PRESETS.values())
_HEADER = 256
_PLANE = CHUNK_ROWS // 8
# Largest body of each type in bytes, over all presets. Types not named here carry at most 4 KiB.
LIMITS: dict[type[Message], int] = {
    InputShare: SHARE_BITS * _PLANE,
    Gates: SHARE_BITS * _PLANE,
    CountShare: 4 * CHUNK_ROWS,
    ConfirmationBlock: 8 * _N,
    Release: 128 * 99,
    Signature: 16384,
    Prepare: 16384,
    Search: 16384,
    PublicPart: 8 * _N,
    MaskPart: MASK_PART * 8 * _N,
    FormBlock: SHARE_BITS * 8 * 128,
    PreparedBlocks: 8 * CHUNK_ROWS,
    MaskedScores: SHARE_BITS * _PLANE,
    LiveRows: _PLANE,
    AdmissionScores: 8192,
    AdmissionGates: 8192,
    AdmissionCount: 4 * 64 * (36 * 16 + 1),
}
SMALL_LIMIT = 4096
FRAME_LIMIT = max(LIMITS.values()) + _HEADER


class Envelope(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """Address and position of a message. `session`: the holder it is about, "*" for the whole."""

    version: int
    query: Annotated[bytes, msgspec.Meta(min_length=16, max_length=16)]
    session: Annotated[str, msgspec.Meta(max_length=16)]
    sender: Name
    receiver: Name
    sequence: Annotated[int, msgspec.Meta(ge=0, lt=2**32)]
    message: AnyMessage


class _VersionOnly(msgspec.Struct, array_like=True):
    """The first field of an envelope of any version."""

    version: int


_LITTLE_ENDIAN: dict[Any, np.dtype[Any]] = {
    np.uint8: np.dtype("u1"),
    np.uint32: np.dtype("<u4"),
    np.uint64: np.dtype("<u8"),
}

_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(Envelope)
_version_decoder = msgspec.msgpack.Decoder(_VersionOnly)


def encode(envelope: Envelope) -> bytes:
    """An envelope as bytes."""
    return _encoder.encode(envelope)


def decode(frame: bytes) -> Envelope:
    """Bytes as an envelope.

    Raises `FrameTooLarge`, `UnknownVersion`, or `MalformedFrame` for anything that is not exactly one envelope.
    """
    if len(frame) > FRAME_LIMIT:
        raise FrameTooLarge(f"a frame of {len(frame)} bytes, the limit is {FRAME_LIMIT}")
    try:
        version = _version_decoder.decode(frame).version
        if version != VERSION:
            raise UnknownVersion(f"wire version {version}; this software speaks {VERSION}")
        envelope = _decoder.decode(frame)
    except MALFORMED as error:
        raise MalformedFrame(f"not an envelope: {error}") from None
    kind = type(envelope.message)
    limit = LIMITS.get(kind, SMALL_LIMIT) + _HEADER
    if len(frame) > limit:
        raise FrameTooLarge(f"a {kind.__name__} frame of {len(frame)} bytes, the limit is {limit}")
    return envelope


def content_digest(frame: bytes, envelope: Envelope) -> bytes:
    """SHA-256 of the message in a frame, 32 bytes: the same for everybody to whom the message is sent.

    Raises `MalformedFrame` unless the address before it is encoded as `encode` would.
    """
    address = _encoder.encode(msgspec.structs.astuple(envelope)[:-1])  # an array of 6, the envelope one of 7
    start = len(address)
    if frame[0] != address[0] + 1 or frame[1:start] != address[1:]:
        raise MalformedFrame("the address is not in its shortest form")
    return hashlib.sha256(memoryview(frame)[start:]).digest()


def frame_digest(envelope: Envelope, content: bytes) -> bytes:
    """What hash chains hold of a frame, 32 bytes: its place and the `content_digest` of its message."""
    return labelled_hash(
        "frame",
        envelope.version,
        envelope.query,
        envelope.session,
        envelope.sender,
        envelope.receiver,
        envelope.sequence,
        content,
    )


def as_bytes(values: npt.NDArray[Any]) -> memoryview:
    """The bytes of an array that nobody changes any more, little-endian: a view wherever it lies in one piece."""
    return np.ascontiguousarray(values, _LITTLE_ENDIAN[values.dtype.type]).data.cast("B")


def array(data: bytes | memoryview, shape: tuple[int, ...], dtype: Any, what: str) -> npt.NDArray[Any]:
    """Raw bytes as a read-only array. Raises `WrongSize` unless the length fits exactly."""
    kind = _LITTLE_ENDIAN[dtype]
    expected = kind.itemsize * math.prod(shape)
    if len(data) != expected:
        raise WrongSize(f"{what}: got {len(data)} bytes, expected {expected} for shape {shape}")
    return np.frombuffer(data, kind).reshape(shape)


def residue_array(
    data: bytes | memoryview, shape: tuple[int, ...], params: Parameters, what: str
) -> npt.NDArray[np.uint32]:
    """Raw bytes as residues, uint32 (…, 2, n). Raises `WrongSize`, or `ResidueOutOfRange`: one not below its prime."""
    residues = array(data, (*shape, 2, params.n), np.uint32, what)
    check_residues(residues, params, what)
    return residues
