"""One preparation that waits: what is known of it, and its arrays as small as they go."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from protocol.preparation import Array, HolderPreparation, Preparation
from protocol.roles import Seat
from protocol.terms import SYNTHETIC_MODEL

SHARE_BYTES = 3  # of e' + m, modulo 2^24, which a search wants as uint32


@dataclass(frozen=True)
class Waiting:
    """What an operator may know of a preparation that waits. `made`, `expires`: seconds since 1970.

    `holders`: whose rings are finished. `bytes`: in memory, or of its file where it is `on_disk`.
    """

    conversation: bytes
    preparation_id: bytes
    requester: str
    holders: tuple[str, ...]
    made: float
    expires: float
    bytes: int
    on_disk: bool


class Resting:
    """A preparation while nothing is done with it. Takes ownership of its arrays.

    The holder's e' + m is packed to 3 bytes a row. Its mask in the form that the scoring kernel reads is dropped: 33 MB
    that are made again from 16.8 MB when a search needs them.
    """

    def __init__(self, preparation: Preparation) -> None:
        self._preparation = preparation
        self._packed: list[npt.NDArray[np.uint8]] = []
        if isinstance(preparation, HolderPreparation):
            preparation.__dict__.pop("_probe", None)
        for ring in preparation.rings.values():
            for chunk in ring.chunks:
                chunk.z, chunk.pairs = _own(chunk.z), _own(chunk.pairs)
                if chunk.masked is not None:
                    self._packed.append(_pack(chunk.masked))
                    chunk.masked.fill(0)
                    chunk.masked = None

    @property
    def bytes(self) -> int:
        """Of all arrays."""
        made = self._preparation
        arrays: list[Array | None] = [*self._packed]
        if isinstance(made, HolderPreparation):
            arrays += [made.public, made.mask]
        for ring in made.rings.values():
            arrays += [ring.admission, ring.known]
            for chunk in ring.chunks:
                arrays += [chunk.z, chunk.pairs]
        return sum(array.nbytes for array in arrays if array is not None)

    def wake(self) -> Preparation:
        """The preparation as a search wants it; the caller owns it from now on."""
        packed = iter(self._packed)
        for ring in self._preparation.rings.values():
            for chunk in ring.chunks:
                if ring.seat is Seat.HOLDER:
                    chunk.masked = _unpack(next(packed))
        self._packed = []
        return self._preparation

    def erase(self) -> None:
        """Overwrite what is secret."""
        for packed in self._packed:
            packed.fill(0)
        self._packed = []
        self._preparation.erase()


@dataclass
class Entry:
    """`preparation`: None while it lies on disk. `roots`: of the galleries it was made for. `reserved`: by `find`."""

    waiting: Waiting
    preset: str
    dim: int
    model: bytes
    roots: frozenset[bytes] = field(repr=False)
    preparation: Resting | None
    reserved: bool = False

    @classmethod
    def of(
        cls, conversation: bytes, preparation: Preparation, made: float, expires: float, on_disk: int | None
    ) -> Entry:
        """`on_disk`: bytes of its file, None to keep it in memory, which the entry owns then."""
        rings = preparation.rings
        roots = frozenset(ring.root for ring in rings.values())
        resting = None if on_disk is not None else Resting(preparation)
        size = on_disk if resting is None else resting.bytes
        assert size is not None
        waiting = Waiting(
            conversation,
            preparation.preparation_id,
            preparation.requester,
            tuple(sorted(rings)),
            made,
            expires,
            size,
            resting is None,
        )
        return cls(waiting, preparation.preset, preparation.dim, preparation.model, roots, resting)

    def serves(self, holders: frozenset[str], dim: int, preset: str, model: bytes) -> bool:
        """Whether a search of these holders can use it (`protocol.searching.check_terms`)."""
        fits = (self.dim, self.preset) == (dim, preset) and holders <= set(self.waiting.holders)
        return fits and (SYNTHETIC_MODEL in (model, self.model) or model == self.model)


def _own(array: Array) -> Array:
    """The array, copied out of a larger one that it would keep alive."""
    base = array.base
    return array.copy() if isinstance(base, np.ndarray) and base.nbytes > array.nbytes else array


def _pack(masked: npt.NDArray[np.uint32]) -> npt.NDArray[np.uint8]:
    as_bytes = np.ascontiguousarray(masked, "<u4").view(np.uint8).reshape(-1, 4)
    return as_bytes[:, :SHARE_BYTES].copy()


def _unpack(packed: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint32]:
    wide = np.zeros((len(packed), 4), np.uint8)
    wide[:, :SHARE_BYTES] = packed
    packed.fill(0)
    masked: npt.NDArray[np.uint32] = wide.reshape(-1).view("<u4").astype(np.uint32, copy=False)
    return masked
