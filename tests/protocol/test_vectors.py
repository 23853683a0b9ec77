"""Known answers: the generator's numbers, which nothing of this project made, are ours too."""

from __future__ import annotations

import ast
import hashlib
import json
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from pets import mask_encryption, ntt, sampling, sketch
from pets.gallery_commitment import block_hash, commit_rows, leaf_hashes
from pets.keys import expand_secret, reduced_key, sample_key_share
from pets.params import PRESETS, Parameters
from pets.planes import pack_bits
from pets.prf import Keystream, derive_key, labelled_hash
from pets.product import public_product, public_sums
from pets.rounding import round_shares
from protocol import messages, wire
from protocol.blocks import HolderKeys
from protocol.compare import threshold_offset
from protocol.difference import pack_difference, unpack_difference
from protocol.gallery import gallery_root
from tests.vectors import generate

PARAMETERS = pytest.mark.parametrize("params", PRESETS.values(), ids=PRESETS)


def stored(name: str) -> Any:
    return json.loads((generate.FOLDER / name).read_text())


def assert_described(values: npt.NDArray[Any], expected: dict[str, Any]) -> None:
    assert list(values.shape) == expected["shape"]
    assert values.reshape(-1)[:8].tolist() == expected["first"]
    little = np.ascontiguousarray(values).astype(values.dtype.newbyteorder("<"))
    assert hashlib.sha256(little.tobytes()).hexdigest() == expected["sha256"]


@pytest.mark.parametrize("name", generate.FILES)
def test_vectors_are_what_their_generator_makes(name: str) -> None:
    assert (generate.FOLDER / name).read_text() == generate.rendered(name)


def test_generator_uses_nothing_of_this_project() -> None:
    tree = ast.walk(ast.parse((generate.FOLDER / "generate.py").read_text()))
    imports = [node for node in tree if isinstance(node, ast.Import | ast.ImportFrom)]
    names = {node.module if isinstance(node, ast.ImportFrom) else node.names[0].name for node in imports}
    assert "hashlib" in names
    assert not {str(name).split(".")[0] for name in names} & {"pets", "protocol", "nodes", "numpy"}


def test_presets_are_those_of_the_generator() -> None:
    assert {name: (p.n, p.primes) for name, p in PRESETS.items()} == generate.PRESETS
    assert {p.t for p in PRESETS.values()} == {generate.T}


@PARAMETERS
def test_transform(params: Parameters) -> None:
    expected = stored("ring.json")[params.preset]
    assert list(ntt.psi(params)) == expected["psi"]
    polynomial = np.zeros((1, params.n), np.int32)
    for exponent, value in expected["sparse"].items():
        polynomial[0, int(exponent)] = value
    assert_described(ntt.forward(polynomial, params)[0], expected["forward"])


@PARAMETERS
def test_common_polynomial(params: Parameters) -> None:
    expected = stored("sampling.json")[params.preset]["common_polynomial"]
    assert_described(sampling.common_polynomial(params, generate.QUERY_ID), expected)


def test_sampling_from_a_seed() -> None:
    expected = stored("sampling.json")
    assert Keystream(generate.SEED).read(64).hex() == expected["keystream"]
    assert sampling.GAUSSIAN_TABLE.tolist() == expected["gaussian_table"]
    assert_described(sampling.ternary(Keystream(generate.SEED), 1, 4096), expected["ternary"])
    assert_described(sampling.gaussian(Keystream(generate.SEED), 1, 4096), expected["gaussian"])
    assert_described(sampling.gaussian(Keystream(generate.SEED), 1, 4096, threads=2), expected["gaussian"])


def test_a_byte_of_255_is_rejected_by_the_ternary_sampler() -> None:
    class Bytes(Keystream):
        def bytes_array(self, *shape: int) -> npt.NDArray[np.uint8]:
            return np.tile(np.array([255, 0, 1, 2, 254], np.uint8), 13 * 4096)[: shape[0] * shape[1]].reshape(shape)

    with pytest.raises(OverflowError):  # one in five is rejected; 1/64 are spare
        sampling.ternary(Bytes(bytes(32)), 1, 4096)

    class Few(Bytes):
        def bytes_array(self, *shape: int) -> npt.NDArray[np.uint8]:
            raw = np.full(shape, 2, np.uint8)
            raw[0, 10:20] = 255
            return raw

    assert (sampling.ternary(Few(bytes(32)), 1, 4096) == 1).all()


KEY_PRESET = PRESETS["n4096_q60_t20"]


def test_key_share_and_encryptions_of_zero_from_a_seed() -> None:
    params, expected = KEY_PRESET, stored("keys.json")
    common = sampling.common_polynomial(params, generate.QUERY_ID)
    share = sample_key_share(params, common, generate.SEED, generate.QUERY_ID)
    own = expand_secret(params, generate.OTHER_SEED, generate.QUERY_ID)
    assert_described(share.secret, expected["secret"])
    assert_described(share.public, expected["public"])
    assert_described(own, expected["holders_part"])
    assert np.array_equal(expand_secret(params, generate.SEED, generate.QUERY_ID), share.secret)
    key = reduced_key(params, generate.QUERY_ID, share.public, own)
    assert_described(key.public, expected["reduced"])
    assert np.array_equal(key.common, common)
    for threads in (1, 2):
        drawn = HolderKeys(own, key, generate.SEED).zeros("rerandomise 0 2 0", 2, threads)
        assert_described(drawn, expected["zeros"])


def test_encrypted_mask_from_a_seed() -> None:
    params, expected = KEY_PRESET, stored("mask.json")
    mask = mask_encryption.draw_mask(generate.SEED, generate.QUERY_ID, 16, params)
    assert mask.tolist() == expected["mask"]
    for name, described in expected["public"].items():
        assert_described(mask_encryption.expand_public(generate.QUERY_ID, 2, PRESETS[name]), described)
    parts = [expand_secret(params, seed, generate.QUERY_ID) for seed in (generate.OTHER_SEED, generate.SEED)]
    public = mask_encryption.expand_public(generate.QUERY_ID, 2, params)
    for threads in (1, 2):
        firsts = mask_encryption.encrypt_mask(
            mask[:2], public, parts, generate.SEED, generate.QUERY_ID, params, threads
        )
        assert_described(firsts, expected["first_components"])


def test_products_and_what_is_published_of_them() -> None:
    params, expected = KEY_PRESET, stored("product.json")
    rows, vector = (
        np.array(part, kind) for part, kind in zip(generate.product_rows(), (np.int8, np.int32), strict=True)
    )
    products = public_product(rows, vector[None], params.t)[0]
    assert products.tolist() == expected["products"]
    offset = threshold_offset(expected["theta"], params)
    published = public_sums(np.array(expected["masked"], np.uint32), products, offset, params)
    assert published.tolist() == expected["published"]
    message = pack_difference(vector, params, generate.QUERY_ID)
    assert message.data.hex() == expected["difference"]
    assert np.array_equal(unpack_difference(message, len(vector), params), vector)


def test_roots_of_galleries() -> None:
    expected = stored("tree.json")
    rows = np.array(generate.product_rows()[0][: generate.TREE_ROWS], np.int8)
    salts = np.stack([np.frombuffer(hashlib.sha256(bytes([k])).digest(), np.uint8) for k in range(len(rows))])
    leaves = leaf_hashes(rows, salts)
    size = generate.TREE_BLOCK
    blocks = [block_hash(leaves[first : first + size]) for first in range(0, len(rows), size)]
    assert [leaf.tobytes().hex() for leaf in leaves] == expected["leaves"]
    assert [block.hex() for block in blocks] == expected["blocks"]
    assert commit_rows(rows, salts, size).hex() == expected["root_of_salted_rows"]
    for threads in (1, 2):
        assert gallery_root(rows, generate.SEED, size, threads).hex() == expected["root_of_salted_blocks"]
    assert gallery_root(rows[:0], generate.SEED, size).hex() == expected["root_of_nothing"]


@PARAMETERS
def test_rounding_of_shares(params: Parameters) -> None:
    expected = stored("rounding.json")[params.preset]
    values = generate.rounding_values(params.preset)
    residues = np.array([[[v % p for v in values] for p in params.primes]], np.uint32)
    rounded = round_shares(residues, params)[0]
    assert rounded[:16].tolist() == expected["rounded"]
    assert [str(v) for v in values[:16]] == expected["values"]
    assert_described(rounded, expected["all"])


def test_hashes_and_derived_keys() -> None:
    expected = stored("hashing.json")
    cases: dict[str, tuple[str | int | bytes, ...]] = {
        "nothing": (),
        "text": ("announce",),
        "number": (24,),
        "negative": (-1,),
        "bytes": (b"\x00\xff",),
        "mixed": ("masks", generate.QUERY_ID, "ES", "compare", 0, 3),
        "non-ascii": ("Straßburg",),
    }
    assert {name: labelled_hash(*items).hex() for name, items in cases.items()} == expected["labelled_hash"]
    derived = derive_key(generate.SEED, "masks", generate.QUERY_ID, "ES", "compare", 0, 3)
    assert derived.hex() == expected["derive_key"]


def test_lists_of_labels_that_look_alike_hash_differently() -> None:
    lists = [(), ("",), ("a", "b"), ("ab",), ("a", b"b"), ("1",), (1,), (b"1",), (11,), (1, 1), ("s", "1")]
    assert len({labelled_hash(*labels) for labels in lists}) == len(lists)  # type: ignore[arg-type]


DIGEST = bytes(range(32))
PARTIES = ("FR", "EU", ("ES", "DE"))
WORDS = memoryview(bytes(300))
# name: message, sequence, session, sender, receiver
FRAMES: dict[str, tuple[Any, int, str, str, str]] = {
    "prepare": (
        messages.Prepare(*PARTIES, DIGEST, "n4096_q60_t20", 512, bytes(32), DIGEST[::-1]), 0, "*", "FR", "EU"
    ),
    "joined_preparation": (
        messages.JoinedPreparation(DIGEST, DIGEST, 64, DIGEST, DIGEST[::-1]), 0, "*", "ES", "EU"
    ),
    "joined_preparation_router": (messages.JoinedPreparation(DIGEST, DIGEST), 0, "*", "EU", "EU"),
    "key_seed": (messages.KeySeed(DIGEST), 1, "*", "FR", "EU"),
    "public_part": (messages.PublicPart(bytes(300)), 2, "*", "EU", "ES"),
    "mask_part": (messages.MaskPart(WORDS), 300, "ES", "FR", "ES"),
    "mask_digest": (messages.MaskDigest(DIGEST, DIGEST[::-1]), 3, "ES", "ES", "EU"),
    "form_block": (messages.FormBlock(DIGEST, bytes(300)), 4, "ES", "ES", "EU"),
    "form_bit": (messages.FormBit(True), 5, "ES", "ES", "EU"),
    "prepared_blocks": (messages.PreparedBlocks(WORDS), 6, "ES", "ES", "EU"),
    "pair_secret": (messages.PairSecret(DIGEST), 2, "ES", "ES", "EU"),
    "search": (
        messages.Search(*PARTIES, DIGEST, "0.55", 10, "0.02", "n4096_q60_t20", 512, bytes(32), DIGEST),
        0, "*", "FR", "EU",
    ),
    "joined_holder": (messages.Joined(DIGEST, DIGEST[::-1], 64, DIGEST), 0, "*", "ES", "EU"),
    "joined_router": (messages.Joined(DIGEST, DIGEST, None, None), 0, "*", "EU", "ES"),
    "derived_id": (messages.DerivedId(DIGEST), 1, "*", "ES", "EU"),
    "difference": (messages.Difference(DIGEST, bytes(20)), 7, "ES", "FR", "ES"),
    "difference_digest": (messages.DifferenceDigest(DIGEST), 8, "ES", "FR", "EU"),
    "masked_scores": (messages.MaskedScores(WORDS), 9, "ES", "ES", "EU"),
    "live_rows": (messages.LiveRows(memoryview(bytes(8))), 10, "ES", "ES", "EU"),
    "admission_scores": (messages.AdmissionScores(DIGEST, bytes(192)), 11, "ES", "ES", "EU"),
    "admission_gates": (messages.AdmissionGates(memoryview(bytes(8))), 12, "ES", "ES", "EU"),
    "admission_count": (messages.AdmissionCount(memoryview(bytes(16))), 13, "ES", "ES", "EU"),
    "admission_input": (messages.AdmissionInput(memoryview(bytes(256))), 14, "ES", "ES", "EU"),
    "admission_bit": (messages.AdmissionBit(True), 4, "ES", "ES", "EU"),
    "echo": (messages.Echo(DIGEST), 15, "ES", "FR", "EU"),
    "input_share": (messages.InputShare(WORDS), 3, "ES", "ES", "EU"),
    "gates": (messages.Gates(memoryview(bytes(8))), 70000, "ES", "ES", "EU"),
    "count_share": (messages.CountShare(memoryview(bytes(16))), 10, "ES", "ES", "EU"),
    "cap_bit": (messages.CapBit(False), 11, "ES", "ES", "EU"),
    "power_sums": (messages.PowerSums(bytes(range(48))), 5, "ES", "FR", "ES"),
    "rung": (messages.Rung("climb"), 6, "ES", "ES", "EU"),
    "confirmation_block": (messages.ConfirmationBlock(DIGEST, bytes(300)), 7, "ES", "ES", "EU"),
    "confirmation_answer": (messages.ConfirmationAnswer(bytes(240)), 8, "ES", "FR", "ES"),
    "release": (messages.Release((b"row-1".ljust(64, b"\0") + b"\1", bytes(65)), DIGEST), 8, "ES", "ES", "FR"),
    "signature": (messages.Signature("release", DIGEST, bytes(64)), 9, "ES", "ES", "EU"),
    "abort": (messages.Abort("confirmation"), 9, "ES", "ES", "EU"),
}  # fmt: skip


def test_every_type_of_message_has_a_frame() -> None:
    assert {type(message) for message, *_ in FRAMES.values()} == set(messages.ALLOWED)


@pytest.mark.parametrize("name", FRAMES)
def test_frames_on_the_wire(name: str) -> None:
    message, sequence, session, sender, receiver = FRAMES[name]
    envelope = wire.Envelope(wire.VERSION, bytes(range(16)), session, sender, receiver, sequence, message)
    expected = stored("wire.json")[name]
    assert wire.encode(envelope).hex() == expected
    assert wire.decode(bytes.fromhex(expected)) == envelope


def test_every_stored_frame_is_checked() -> None:
    assert set(FRAMES) == set(stored("wire.json"))


@pytest.mark.parametrize("name", stored("sketch.json"))
def test_power_sums_of_sets(name: str) -> None:
    vector = stored("sketch.json")[name]
    rows, cap = vector["rows"], vector["cap"]
    bits = np.zeros(max(rows) + 1, np.uint8)
    bits[rows] = 1
    sums = sketch.power_sums(pack_bits(bits), cap)
    assert sums.tolist() == vector["sums"]
    assert sketch.decode(np.array(vector["sums"], np.uint32), max(rows) + 1, cap) == tuple(rows)
