"""The Merkle tree of Certificate Transparency, exactly as in RFC 9162 section 2.1, with SHA-256.

::

    MTH({})       = SHA-256()                                          (2.1.1)
    MTH({d[0]})   = SHA-256(0x00 || d[0])
    MTH(D_n)      = SHA-256(0x01 || MTH(D[0:k]) || MTH(D[k:n]))        k: the largest power of two below n

A tree keeps the hashes of all its complete subtrees, so that appending costs at most log2(n) hashes and any root or
proof for any earlier size costs O(log² n) of them. Hashes are 32 bytes.

The two verifying functions follow the steps of sections 2.1.3.2 and 2.1.4.2 one by one; they raise `ProofRefused` and
return nothing. (A published Python library skips the length check at the end of 2.1.4.2 and accepts forged proofs.)

::

    MerkleError                     (a pets.errors.CryptoError)
    ├── NoSuchProof                 asked of a tree: an index or size that it does not have
    └── ProofRefused                what was to be verified does not hold
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from pets.errors import CryptoError

HASH_BYTES = 32
EMPTY_ROOT = hashlib.sha256().digest()

_LEAF_PREFIX = b"\x00"
_NODE_PREFIX = b"\x01"


class MerkleError(CryptoError):
    """Base of what goes wrong with a Merkle tree."""


class NoSuchProof(MerkleError):
    """The tree was asked for an index or a size that it does not have."""


class ProofRefused(MerkleError):
    """A proof does not show what it claims to show."""


def hash_leaf(data: bytes) -> bytes:
    """SHA-256(0x00 || data)."""
    return hashlib.sha256(_LEAF_PREFIX + data).digest()


def hash_node(left: bytes, right: bytes) -> bytes:
    """SHA-256(0x01 || left || right)."""
    return hashlib.sha256(_NODE_PREFIX + left + right).digest()


class MerkleTree:
    """An append-only tree. `_levels[k]` holds, end to end, the hashes of the complete subtrees of 2^k leaves."""

    def __init__(self) -> None:
        self._levels: list[bytearray] = [bytearray()]

    @property
    def size(self) -> int:
        """The number of leaves."""
        return len(self._levels[0]) // HASH_BYTES

    def append(self, leaf_hash: bytes) -> int:
        """Add a leaf by its `hash_leaf` and return its index. Raises `MerkleError` if that is not 32 bytes."""
        if len(leaf_hash) != HASH_BYTES:
            raise MerkleError(f"a leaf hash has {HASH_BYTES} bytes, got {len(leaf_hash)}")
        index = position = self.size
        node, level = leaf_hash, 0
        while True:
            if level == len(self._levels):
                self._levels.append(bytearray())
            hashes = self._levels[level]
            hashes += node
            if position % 2 == 0:
                return index
            node = hash_node(bytes(hashes[-2 * HASH_BYTES : -HASH_BYTES]), node)
            level, position = level + 1, position // 2

    def leaf(self, index: int) -> bytes:
        """The hash of leaf `index`. Raises `NoSuchProof`."""
        if not 0 <= index < self.size:
            raise NoSuchProof(f"leaf {index} of a tree of {self.size}")
        return self._node(0, index)

    def root(self, size: int | None = None) -> bytes:
        """MTH of the first `size` leaves (2.1.1), of all without it. Raises `NoSuchProof`."""
        return self._subtree(0, self._known(size))

    def inclusion_proof(self, index: int, size: int | None = None) -> list[bytes]:
        """PATH(index, D_size) of 2.1.3.1, from the leaf upwards. Raises `NoSuchProof`."""
        size = self._known(size)
        if not 0 <= index < size:
            raise NoSuchProof(f"leaf {index} of a tree of {size}")
        return self._path(index, 0, size)

    def consistency_proof(self, first: int, second: int | None = None) -> list[bytes]:
        """PROOF(first, D_second) of 2.1.4.1. Empty where nothing needs proving: first = 0 or first = second.

        Raises `NoSuchProof`.
        """
        second = self._known(second)
        if not 0 <= first <= second:
            raise NoSuchProof(f"from {first} to {second} leaves")
        return self._subproof(first, 0, second, whole=True) if first else []

    def _known(self, size: int | None) -> int:
        if size is None:
            return self.size
        if not 0 <= size <= self.size:
            raise NoSuchProof(f"{size} leaves of a tree of {self.size}")
        return size

    def _node(self, level: int, position: int) -> bytes:
        return bytes(self._levels[level][HASH_BYTES * position : HASH_BYTES * (position + 1)])

    def _subtree(self, start: int, end: int) -> bytes:
        """MTH(D[start:end]), where `start` is a multiple of the least power of two that is not below end - start."""
        width = end - start
        if width == 0:
            return EMPTY_ROOT
        if width & (width - 1) == 0:
            level = width.bit_length() - 1
            return self._node(level, start >> level)
        middle = start + _split(width)
        return hash_node(self._subtree(start, middle), self._subtree(middle, end))

    def _path(self, index: int, start: int, end: int) -> list[bytes]:
        if end - start == 1:
            return []
        middle = start + _split(end - start)
        if index < middle:
            return [*self._path(index, start, middle), self._subtree(middle, end)]
        return [*self._path(index, middle, end), self._subtree(start, middle)]

    def _subproof(self, first: int, start: int, end: int, whole: bool) -> list[bytes]:
        """SUBPROOF(first - start, D[start:end], whole) of 2.1.4.1. `whole`: the old tree's root is this subtree."""
        if first == end:
            return [] if whole else [self._subtree(start, end)]
        middle = start + _split(end - start)
        if first <= middle:
            return [*self._subproof(first, start, middle, whole), self._subtree(middle, end)]
        return [*self._subproof(first, middle, end, whole=False), self._subtree(start, middle)]


def verify_inclusion(leaf_hash: bytes, index: int, size: int, proof: Sequence[bytes], root: bytes) -> None:
    """Verify that leaf `index` of the tree of `size` leaves under `root` has `leaf_hash` (RFC 9162, 2.1.3.2).

    Raises `ProofRefused`.
    """
    _check_hashes(leaf_hash, root, *proof)
    if not 0 <= index < size:  # step 1
        raise ProofRefused(f"leaf {index} cannot be in a tree of {size}")
    fn, sn = index, size - 1  # step 2
    r = leaf_hash  # step 3
    for p in proof:  # step 4
        if sn == 0:
            raise ProofRefused("the inclusion proof is too long")
        if fn & 1 or fn == sn:
            r = hash_node(p, r)
            if not fn & 1:
                fn, sn = _shift_until_odd(fn, sn)
        else:
            r = hash_node(r, p)
        fn, sn = fn >> 1, sn >> 1
    if sn != 0:  # step 5
        raise ProofRefused("the inclusion proof is too short")
    if r != root:
        raise ProofRefused(f"leaf {index} is not in the tree of {size} with this root")


def verify_consistency(first: int, second: int, proof: Sequence[bytes], first_root: bytes, second_root: bytes) -> None:
    """Verify that the tree of `second` leaves only appended to the tree of `first` leaves (RFC 9162, 2.1.4.2).

    The RFC defines proofs for 0 < first < second. For first = second the roots must be equal and for first = 0 the
    first root must be that of the empty tree (which every tree extends); both with an empty proof.
    Raises `ProofRefused`.
    """
    _check_hashes(first_root, second_root, *proof)
    if not 0 <= first <= second:
        raise ProofRefused(f"a tree of {second} leaves cannot extend one of {first}")
    if first in (0, second):
        _verify_without_proof(first, second, proof, first_root, second_root)
        return
    if not proof:  # step 1
        raise ProofRefused("the consistency proof is empty")
    path = list(proof)
    if first & (first - 1) == 0:  # step 2
        path.insert(0, first_root)
    fn, sn = first - 1, second - 1  # step 3
    while fn & 1:  # step 4
        fn, sn = fn >> 1, sn >> 1
    fr = sr = path[0]  # step 5
    for c in path[1:]:  # step 6
        if sn == 0:
            raise ProofRefused("the consistency proof is too long")
        if fn & 1 or fn == sn:
            fr, sr = hash_node(c, fr), hash_node(c, sr)
            if not fn & 1:
                fn, sn = _shift_until_odd(fn, sn)
        else:
            sr = hash_node(sr, c)
        fn, sn = fn >> 1, sn >> 1
    if sn != 0:  # step 7
        raise ProofRefused("the consistency proof is too short")
    if fr != first_root:
        raise ProofRefused(f"the proof does not lead to the root of {first} leaves")
    if sr != second_root:
        raise ProofRefused(f"the proof does not lead to the root of {second} leaves")


def _verify_without_proof(
    first: int, second: int, proof: Sequence[bytes], first_root: bytes, second_root: bytes
) -> None:
    if proof:
        raise ProofRefused(f"from {first} to {second} leaves there is nothing to prove, yet the proof is not empty")
    for size, root in ((first, first_root), (second, second_root)):
        if size == 0 and root != EMPTY_ROOT:
            raise ProofRefused("an empty tree with another root than that of the empty tree")
    if first == second and first_root != second_root:
        raise ProofRefused(f"two roots for the same {first} leaves")


def _split(width: int) -> int:
    """The largest power of two below `width`, which is at least 2."""
    return 1 << ((width - 1).bit_length() - 1)


def _shift_until_odd(fn: int, sn: int) -> tuple[int, int]:
    while fn and not fn & 1:
        fn, sn = fn >> 1, sn >> 1
    return fn, sn


def _check_hashes(*hashes: bytes) -> None:
    """Fixed lengths, because hash_node(p, r) with a longer p could otherwise be read as another pair."""
    for value in hashes:
        if len(value) != HASH_BYTES:
            raise ProofRefused(f"a hash has {HASH_BYTES} bytes, got {len(value)}")
