"""What each party keeps of a preparation until a search uses it (protocol/DESIGN.md, sections 5 and 7).

Everything here is secret to its party. `pack` and `unpack` turn it into bytes and back, so that it can be sealed to
disk; `claim` lets it be used once; `erase` ends its life.
"""

from __future__ import annotations

import math
from typing import Annotated, Any, ClassVar, TypeVar, get_origin

import msgspec
import numpy as np

from pets.errors import MALFORMED, InputError, ParameterError
from pets.mask_encryption import expand_public
from pets.params import SHARE_BITS, Parameters, check_dim, preset
from pets.prf import labelled_hash
from pets.scoring import ScoringProbe, prepare_probe
from protocol.errors import PreparationSpent
from protocol.messages import Digest, Name
from protocol.roles import Parties, Seat
from protocol.shown import kind_only
from protocol.wire import CHUNK_ROWS

Array = np.ndarray[Any, Any]

_DTYPES: dict[str, Any] = {"u4": np.dtype("<u4"), "u8": np.dtype("<u8")}
PAIRS = (SHARE_BITS - 1) // 2  # products of neighbouring planes (`pets.circuits.adjacent_products`)


class PreparationError(InputError):
    """Bytes that are no preparation of this version."""


def check_array(array: Array, size: int, shape: tuple[int, ...]) -> None:
    """Raise `PreparationError` unless an array has this shape and items of `size` bytes."""
    if array.shape != shape or array.dtype.itemsize != size:
        raise PreparationError(f"an array is {array.dtype} {array.shape}, it must be {shape} of {size} bytes each")


class Chunk(msgspec.Struct, forbid_unknown_fields=True, eq=False):
    """Blocks first … first + count of one ring: this party's two components of z and of its neighbour products.

    `z`: uint64 (2, 24, words). `pairs`: uint64 (2, 11, words). `masked`: e' + m, uint32 (rows,), the holder's alone.
    """

    first: int
    count: int
    z: Array
    pairs: Array
    masked: Array | None = None

    __repr__ = kind_only


class Version(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """Which preparation of a block it is: the attempt, and the hash of the c1 that the holder sent of it."""

    attempt: Annotated[int, msgspec.Meta(ge=0, lt=2**32)]
    digest: Digest


class PreparedRing(msgspec.Struct, forbid_unknown_fields=True, eq=False):
    """One party's part of one holder's ring. `own`, `following`: its pair secrets k_i and k_{i+1}.

    `root`: the gallery's Merkle root, `versions`: one a block. `admission`: components of z of the unit rows,
    uint64 (2, 24, words). `known`: of the same rows, the holder's e' + m, the requester's z' - m, uint32 (lanes,).
    """

    seat: Seat
    holder: Name
    own: Digest
    following: Digest
    blocks: int
    root: Digest
    versions: tuple[Version, ...]
    admission: Array
    known: Array | None
    chunks: list[Chunk]

    __repr__ = kind_only

    def agreed(self) -> bytes:
        """Hash of what the three parties of the ring must hold alike, 32 bytes: gallery root, blocks and versions."""
        listed = b"".join(version.attempt.to_bytes(8, "big") + version.digest for version in self.versions)
        return labelled_hash("versions", self.root, self.blocks, listed)

    def check(self, params: Parameters, dim: int) -> None:
        """Raise `PreparationError` unless every array has the shape that blocks, ring and dimension dictate."""
        words = -(-dim // 64)
        shapes: list[tuple[Array, int, tuple[int, ...]]] = [(self.admission, 8, (2, SHARE_BITS, words))]
        if self.known is not None:
            shapes.append((self.known, 4, (words * 64,)))
        holders = self.seat is Seat.HOLDER
        router = self.seat is Seat.ROUTER
        if (self.known is None) != router or any((c.masked is not None) != holders for c in self.chunks):
            raise PreparationError(f"seat {self.seat} must keep its own part of every number, and no other's")
        done = 0
        for chunk in self.chunks:
            rows = chunk.count * params.n
            shapes += [(chunk.z, 8, (2, SHARE_BITS, rows // 64)), (chunk.pairs, 8, (2, PAIRS, rows // 64))]
            if chunk.masked is not None:
                shapes.append((chunk.masked, 4, (rows,)))
            if chunk.first != done or not 0 < rows <= CHUNK_ROWS:
                raise PreparationError(f"blocks {chunk.first} to {chunk.first + chunk.count} are out of order")
            done += chunk.count
        if done != self.blocks or len(self.versions) != self.blocks:
            raise PreparationError(f"{done} blocks are prepared of {self.blocks}, in seat {self.seat}")
        for array, size, shape in shapes:
            check_array(array, size, shape)

    def erase(self) -> None:
        """Overwrite every array and forget the secrets."""
        self.own = self.following = bytes(32)
        for array in (self.admission, self.known):
            if array is not None:
                array.fill(0)
        for chunk in self.chunks:
            for array in (chunk.z, chunk.pairs, chunk.masked):
                if array is not None:
                    array.fill(0)
        self.chunks.clear()


class Preparation(msgspec.Struct, forbid_unknown_fields=True, kw_only=True, eq=False):
    """What all parties keep. `preparation_id`: the preparation's id, 32 bytes. `spent`: it was claimed."""

    SEAT: ClassVar[Seat]  # of its role in every ring

    preparation_id: Digest
    requester: Name
    router: Name
    holders: tuple[Name, ...]
    preset: str
    dim: int
    model: Digest
    rings: dict[str, PreparedRing]
    spent: bool = False

    __repr__ = kind_only

    @property
    def parties(self) -> Parties:
        """All parties."""
        return Parties(self.requester, self.router, self.holders)

    @property
    def params(self) -> Parameters:
        """Lattice parameters."""
        return preset(self.preset)

    def claim(self) -> None:
        """Use it, which can be done once. Raises `PreparationSpent` the second time."""
        if self.spent:
            raise PreparationSpent(
                f"preparation {self.preparation_id.hex()[:16]} was used already; it serves one search"
            )
        self.spent = True

    def erase(self) -> None:
        """Overwrite what is secret. (Copies that Python or numpy made elsewhere are out of reach.)"""
        self.spent = True
        for ring in self.rings.values():
            ring.erase()
        self.rings.clear()

    def check(self) -> None:
        """Raise `PreparationError` unless all parts fit each other, `ParameterError` for parties or a ring unknown."""
        check_dim(self.dim)
        Parties(self.requester, self.router, self.holders)
        for name, ring in self.rings.items():
            if name != ring.holder or name not in self.holders:
                raise PreparationError(f"a ring of {name} that is none of {', '.join(self.holders)}")
            if ring.seat != self.SEAT:
                raise PreparationError(f"seat {ring.seat} in a preparation of seat {self.SEAT}")
            ring.check(self.params, self.dim)


class RequesterPreparation(Preparation, tag="requester"):
    """`seed`: of mask and errors. `holder_seed`, `router_seed`: of s1 and s2."""

    SEAT = Seat.REQUESTER

    seed: Digest
    holder_seed: Digest
    router_seed: Digest

    def erase(self) -> None:
        """As `Preparation.erase`."""
        super().erase()
        self.seed = self.holder_seed = self.router_seed = bytes(32)


class RouterPreparation(Preparation, tag="router"):
    """`router_seed`: of s2."""

    SEAT = Seat.ROUTER

    router_seed: Digest

    def erase(self) -> None:
        """As `Preparation.erase`."""
        super().erase()
        self.router_seed = bytes(32)


class HolderPreparation(Preparation, tag="holder", dict=True):
    """`seed`: the holder's own, of everything it draws. `holder_seed`: of s1. `public`: b2, uint32 (2, n).

    `mask`: first components of the encrypted mask, uint32 (d, 2, n).
    """

    SEAT = Seat.HOLDER

    seed: Digest
    holder_seed: Digest
    public: Array
    mask: Array

    def check(self) -> None:
        """As `Preparation.check`."""
        super().check()
        n = self.params.n
        check_array(self.public, 4, (2, n))
        check_array(self.mask, 4, (self.dim, 2, n))

    def scoring_probe(self, threads: int = 1) -> ScoringProbe:
        """The encrypted mask as the scoring kernel reads it. Made once, and not packed."""
        kept: ScoringProbe | None = self.__dict__.get("_probe")
        if kept is None:
            second = expand_public(self.preparation_id, self.dim, self.params, threads)
            kept = prepare_probe(np.stack([self.mask, second], axis=1), self.params, threads)
            self.__dict__["_probe"] = kept
        return kept

    def erase(self) -> None:
        """As `Preparation.erase`."""
        super().erase()
        self.seed = self.holder_seed = bytes(32)
        self.__dict__.clear()
        self.public.fill(0)
        self.mask = np.empty((0, 2, self.mask.shape[2]), np.uint32)


P = TypeVar("P", RequesterPreparation, RouterPreparation, HolderPreparation)


class _Array(msgspec.Struct, array_like=True, forbid_unknown_fields=True):
    kind: str
    shape: tuple[Annotated[int, msgspec.Meta(ge=0, lt=2**32)], ...]
    data: bytes

    __repr__ = kind_only


def pack(preparation: Preparation) -> bytes:
    """All of it as bytes."""
    return msgspec.msgpack.encode(preparation, enc_hook=_encode)


def unpack(data: bytes, kind: type[P]) -> P:
    """The inverse of `pack`. Raises `PreparationError` for anything else, and for another role's."""
    try:
        preparation = msgspec.msgpack.decode(data, type=kind, dec_hook=_decode)
        preparation.check()
    except (*MALFORMED, ValueError, TypeError, ParameterError) as error:
        raise PreparationError(f"not a preparation of this version: {error}") from None
    return preparation


def _encode(value: Any) -> _Array:
    if not isinstance(value, np.ndarray):
        raise TypeError(f"cannot pack {type(value).__name__}")
    kind = f"u{value.dtype.itemsize}"
    return _Array(kind, value.shape, np.ascontiguousarray(value, _DTYPES[kind]).tobytes())


def _decode(kind: Any, value: Any) -> Any:
    if get_origin(kind) is not np.ndarray:
        raise TypeError(f"cannot unpack {kind}")
    array = msgspec.convert(value, _Array)
    if array.kind not in _DTYPES or len(array.data) != _DTYPES[array.kind].itemsize * math.prod(array.shape):
        raise ValueError(f"{len(array.data)} bytes of {array.kind} do not fill {array.shape}")
    return np.frombuffer(array.data, _DTYPES[array.kind]).reshape(array.shape).copy()
