"""The Merkle tree against the RFC's recursive definitions, Certificate Transparency's known answers, and forgeries."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from functools import cache

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pets.errors import CryptoError
from pets.merkle import (
    EMPTY_ROOT,
    MerkleError,
    MerkleTree,
    NoSuchProof,
    ProofRefused,
    hash_leaf,
    hash_node,
    verify_consistency,
    verify_inclusion,
)

LIMIT = 70

# The reference leaves and values of the original Certificate Transparency tests (RFC 6962 and 9162 hash alike).
CT_LEAVES = [
    bytes.fromhex(text)
    for text in ["", "00", "10", "2021", "3031", "40414243", "5051525354555657", "606162636465666768696a6b6c6d6e6f"]
]
CT_ROOTS = [
    "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
    "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
    "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
    "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
    "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
    "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
    "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
    "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
]
CT_INCLUSION = {
    (0, 8): [
        "96a296d224f285c67bee93c30f8a309157f0daa35dc5b87e410b78630a09cfc7",
        "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e",
        "6b47aaf29ee3c2af9af889bc1fb9254dabd31177f16232dd6aab035ca39bf6e4",
    ],
    (5, 8): [
        "bc1a0643b12e4d2d7c77918f44e0f4f79a838b6cf9ec5b5c283e1f4d88599e6b",
        "ca854ea128ed050b41b35ffc1b87b8eb2bde461e9e3b5596ece6b9d5975a0ae0",
        "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    ],
}
CT_CONSISTENCY = {
    (2, 5): [
        "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e",
        "bc1a0643b12e4d2d7c77918f44e0f4f79a838b6cf9ec5b5c283e1f4d88599e6b",
    ],
    (6, 8): [
        "0ebc5d3437fbe2db158b9f126a1d118e308181031d0a949f8dededebc558ef6a",
        "ca854ea128ed050b41b35ffc1b87b8eb2bde461e9e3b5596ece6b9d5975a0ae0",
        "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    ],
}


def tree_of(leaves: list[bytes]) -> MerkleTree:
    tree = MerkleTree()
    for leaf in leaves:
        tree.append(hash_leaf(leaf))
    return tree


# The definitions of RFC 9162, section 2.1, over the leaves D[n] = n as two bytes.


def data(n: int) -> bytes:
    return n.to_bytes(2, "big")


def below(n: int) -> int:
    k = 1
    while 2 * k < n:
        k *= 2
    return k


@cache
def mth(start: int, end: int) -> bytes:
    n = end - start
    if n == 0:
        return hashlib.sha256(b"").digest()
    if n == 1:
        return hashlib.sha256(b"\x00" + data(start)).digest()
    k = below(n)
    return hashlib.sha256(b"\x01" + mth(start, start + k) + mth(start + k, end)).digest()


def path(m: int, start: int, end: int) -> list[bytes]:
    n = end - start
    if n == 1:
        return []
    k = below(n)
    if m < k:
        return [*path(m, start, start + k), mth(start + k, end)]
    return [*path(m - k, start + k, end), mth(start, start + k)]


def subproof(m: int, start: int, end: int, b: bool) -> list[bytes]:
    n = end - start
    if m == n:
        return [] if b else [mth(start, end)]
    k = below(n)
    if m <= k:
        return [*subproof(m, start, start + k, b), mth(start + k, end)]
    return [*subproof(m - k, start + k, end, False), mth(start, start + k)]


TREE = tree_of([data(n) for n in range(LIMIT)])


def test_the_ct_reference_roots_come_out() -> None:
    assert [tree_of(CT_LEAVES[:n]).root().hex() for n in range(9)] == CT_ROOTS
    tree = tree_of(CT_LEAVES)
    assert [tree.root(n).hex() for n in range(9)] == CT_ROOTS
    assert EMPTY_ROOT.hex() == CT_ROOTS[0]


@pytest.mark.parametrize(("index", "size"), CT_INCLUSION)
def test_the_ct_reference_inclusion_proofs_come_out_and_hold(index: int, size: int) -> None:
    tree = tree_of(CT_LEAVES)
    proof = tree.inclusion_proof(index, size)
    assert [value.hex() for value in proof] == CT_INCLUSION[index, size]
    verify_inclusion(hash_leaf(CT_LEAVES[index]), index, size, proof, bytes.fromhex(CT_ROOTS[size]))


@pytest.mark.parametrize(("first", "second"), CT_CONSISTENCY)
def test_the_ct_reference_consistency_proofs_come_out_and_hold(first: int, second: int) -> None:
    proof = tree_of(CT_LEAVES).consistency_proof(first, second)
    assert [value.hex() for value in proof] == CT_CONSISTENCY[first, second]
    verify_consistency(first, second, proof, bytes.fromhex(CT_ROOTS[first]), bytes.fromhex(CT_ROOTS[second]))


def test_every_root_and_inclusion_proof_up_to_70_is_the_definitions() -> None:
    for n in range(LIMIT + 1):
        assert TREE.root(n) == mth(0, n)
        for i in range(n):
            assert TREE.inclusion_proof(i, n) == path(i, 0, n)
            verify_inclusion(TREE.leaf(i), i, n, TREE.inclusion_proof(i, n), mth(0, n))


def test_every_consistency_proof_up_to_70_is_the_definitions() -> None:
    for n in range(1, LIMIT + 1):
        for m in range(1, n + 1):
            proof = TREE.consistency_proof(m, n)
            assert proof == subproof(m, 0, n, True)
            verify_consistency(m, n, proof, mth(0, m), mth(0, n))


def test_a_tree_that_grows_keeps_its_earlier_roots() -> None:
    tree = MerkleTree()
    for n in range(300):
        assert tree.root() == mth(0, n)
        assert tree.append(hash_leaf(data(n))) == n
    assert [tree.root(n) for n in range(301)] == [mth(0, n) for n in range(301)]
    assert tree.size == 300


def test_appending_costs_at_most_one_hash_a_level(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = 0

    def counting(left: bytes, right: bytes) -> bytes:
        nonlocal calls
        calls += 1
        return hash_node(left, right)

    tree = tree_of([data(n) for n in range(1023)])
    monkeypatch.setattr("pets.merkle.hash_node", counting)
    tree.append(hash_leaf(data(1023)))
    assert calls == 10
    tree.root()
    assert calls == 10


sizes = st.integers(1, LIMIT)


@st.composite
def inclusions(draw: st.DrawFn) -> tuple[int, int]:
    size = draw(sizes)
    return draw(st.integers(0, size - 1)), size


@st.composite
def consistencies(draw: st.DrawFn) -> tuple[int, int]:
    second = draw(st.integers(2, LIMIT))
    return draw(st.integers(1, second - 1)), second


def mutations(draw: Callable[[st.SearchStrategy[int]], int], proof: list[bytes]) -> list[bytes]:
    """The proof with one bit flipped, one node dropped, added or doubled, or two nodes exchanged."""
    kind = draw(st.integers(0, 4)) if proof else 3
    at = draw(st.integers(0, max(len(proof) - 1, 0)))
    if kind == 0:
        bit = draw(st.integers(0, 255))
        return [*proof[:at], flip(proof[at], bit), *proof[at + 1 :]]
    if kind == 1:
        return [*proof[:at], *proof[at + 1 :]]
    if kind == 2:
        return [*proof[: at + 1], *proof[at:]]
    if kind == 3:
        return [*proof[:at], bytes(32), *proof[at:]]
    return [*proof[at:], *proof[:at]] if at else [*proof, *proof]


def flip(value: bytes, bit: int) -> bytes:
    return (int.from_bytes(value, "big") ^ (1 << bit)).to_bytes(len(value), "big")


@given(inclusions(), st.data())
@settings(deadline=None, max_examples=100)
def test_a_mutated_inclusion_proof_is_refused(case: tuple[int, int], source: st.DataObject) -> None:
    index, size = case
    proof = mutations(source.draw, TREE.inclusion_proof(index, size))
    if proof != TREE.inclusion_proof(index, size):
        with pytest.raises(ProofRefused):
            verify_inclusion(TREE.leaf(index), index, size, proof, TREE.root(size))


@given(inclusions(), st.integers(-1, LIMIT + 2), st.integers(0, 255))
@settings(deadline=None, max_examples=100)
def test_an_inclusion_proof_does_not_serve_another_index_leaf_or_root(
    case: tuple[int, int], other: int, bit: int
) -> None:
    index, size = case
    proof = TREE.inclusion_proof(index, size)
    if other != index:
        with pytest.raises(ProofRefused):
            verify_inclusion(TREE.leaf(index), other, size, proof, TREE.root(size))
    with pytest.raises(ProofRefused):
        verify_inclusion(flip(TREE.leaf(index), bit), index, size, proof, TREE.root(size))
    with pytest.raises(ProofRefused):
        verify_inclusion(TREE.leaf(index), index, size, proof, flip(TREE.root(size), bit))


@given(consistencies(), st.data())
@settings(deadline=None, max_examples=100)
def test_a_mutated_consistency_proof_is_refused(case: tuple[int, int], source: st.DataObject) -> None:
    first, second = case
    proof = mutations(source.draw, TREE.consistency_proof(first, second))
    if proof != TREE.consistency_proof(first, second):
        with pytest.raises(ProofRefused):
            verify_consistency(first, second, proof, TREE.root(first), TREE.root(second))


@given(consistencies(), sizes, sizes, st.integers(0, 255))
@settings(deadline=None, max_examples=100)
def test_a_consistency_proof_does_not_serve_other_trees(
    case: tuple[int, int], other: int, third: int, bit: int
) -> None:
    first, second = case
    proof = TREE.consistency_proof(first, second)
    roots = TREE.root(first), TREE.root(second)
    with pytest.raises(ProofRefused):
        verify_consistency(first, second, proof, flip(roots[0], bit), roots[1])
    with pytest.raises(ProofRefused):
        verify_consistency(first, second, proof, roots[0], flip(roots[1], bit))
    if other != first:
        with pytest.raises(ProofRefused):
            verify_consistency(first, second, proof, TREE.root(other), roots[1])
    if third != second:
        with pytest.raises(ProofRefused):
            verify_consistency(first, second, proof, roots[0], TREE.root(third))


@given(consistencies(), st.data())
@settings(deadline=None, max_examples=100)
def test_no_proof_joins_a_tree_in_which_an_old_leaf_changed(case: tuple[int, int], source: st.DataObject) -> None:
    first, second = case
    changed = source.draw(st.integers(0, first - 1))
    forged = tree_of([b"another" if n == changed else data(n) for n in range(second)])
    with pytest.raises(ProofRefused):
        verify_consistency(first, second, forged.consistency_proof(first, second), TREE.root(first), forged.root())
    with pytest.raises(ProofRefused):
        verify_consistency(first, second, TREE.consistency_proof(first, second), TREE.root(first), forged.root())


def careless_consistency(first: int, second: int, proof: list[bytes], first_root: bytes, second_root: bytes) -> None:
    """Step 7 of 2.1.4.2 without "and that sn is 0", as a published library has it."""
    nodes = [first_root, *proof] if first & (first - 1) == 0 else list(proof)
    fn, sn = first - 1, second - 1
    while fn & 1:
        fn, sn = fn >> 1, sn >> 1
    fr = sr = nodes[0]
    for c in nodes[1:]:
        if fn & 1 or fn == sn:
            fr, sr = hash_node(c, fr), hash_node(c, sr)
            while fn and not fn & 1:
                fn, sn = fn >> 1, sn >> 1
        else:
            sr = hash_node(sr, c)
        fn, sn = fn >> 1, sn >> 1
    if (fr, sr) != (first_root, second_root):
        raise ProofRefused("control")


def test_a_log_cannot_claim_more_leaves_than_it_has() -> None:
    anything = bytes(range(32))
    forged_root = hash_node(TREE.root(4), anything)
    careless_consistency(4, 1000, [anything], TREE.root(4), forged_root)  # the control: accepted
    with pytest.raises(ProofRefused, match="too short"):
        verify_consistency(4, 1000, [anything], TREE.root(4), forged_root)
    with pytest.raises(ProofRefused, match="too short"):
        verify_inclusion(TREE.root(4), 0, 1000, [anything], forged_root)


def test_a_proof_that_goes_past_the_root_is_refused() -> None:
    root, more = TREE.root(4), bytes(range(32))
    longer = [*TREE.consistency_proof(3, 4), more]
    careless_consistency(3, 4, longer, hash_node(more, TREE.root(3)), hash_node(more, root))  # the control
    with pytest.raises(ProofRefused, match="too long"):
        verify_consistency(3, 4, longer, hash_node(more, TREE.root(3)), hash_node(more, root))
    with pytest.raises(ProofRefused, match="too long"):
        verify_inclusion(TREE.leaf(0), 0, 1, [more], hash_node(more, TREE.leaf(0)))


def test_one_size_has_one_root_and_no_proof() -> None:
    verify_consistency(5, 5, [], TREE.root(5), TREE.root(5))
    for proof, second in (([], TREE.root(6)), ([TREE.root(5)], TREE.root(5)), ([TREE.root(5)], TREE.root(6))):
        with pytest.raises(ProofRefused):
            verify_consistency(5, 5, proof, TREE.root(5), second)


def test_the_empty_tree_is_extended_by_every_tree_and_has_one_root() -> None:
    verify_consistency(0, 7, [], EMPTY_ROOT, TREE.root(7))
    verify_consistency(0, 0, [], EMPTY_ROOT, EMPTY_ROOT)
    assert TREE.consistency_proof(0, 7) == []
    for first, second, proof, roots in (
        (0, 7, [], (TREE.root(1), TREE.root(7))),
        (0, 7, [TREE.root(7)], (EMPTY_ROOT, TREE.root(7))),
        (0, 0, [], (TREE.root(1), TREE.root(1))),
        (7, 0, [], (TREE.root(7), EMPTY_ROOT)),
        (-1, 7, [], (EMPTY_ROOT, TREE.root(7))),
        (7, 6, [], (TREE.root(7), TREE.root(6))),
        (3, 7, [], (TREE.root(3), TREE.root(7))),
    ):
        with pytest.raises(ProofRefused):
            verify_consistency(first, second, proof, *roots)


def test_hashes_of_another_length_are_refused() -> None:
    proof = TREE.inclusion_proof(2, 8)
    joined = [proof[0] + b"\x00", *proof[1:]]
    with pytest.raises(ProofRefused, match="33"):
        verify_inclusion(TREE.leaf(2), 2, 8, joined, TREE.root(8))
    with pytest.raises(ProofRefused, match="31"):
        verify_consistency(2, 8, TREE.consistency_proof(2, 8), TREE.root(2)[:31], TREE.root(8))
    with pytest.raises(MerkleError, match="5"):
        MerkleTree().append(b"short")


def test_what_a_tree_does_not_have_is_refused() -> None:
    tree = tree_of([b"a", b"b"])
    for ask in (
        lambda: tree.leaf(2),
        lambda: tree.leaf(-1),
        lambda: tree.root(3),
        lambda: tree.root(-1),
        lambda: tree.inclusion_proof(2),
        lambda: tree.inclusion_proof(1, 1),
        lambda: tree.consistency_proof(2, 1),
        lambda: tree.consistency_proof(-1, 1),
        lambda: tree.consistency_proof(1, 3),
    ):
        with pytest.raises(NoSuchProof):
            ask()
    assert issubclass(MerkleError, CryptoError)
