"""Known answers: the generator's numbers, which nothing of this project made, are ours too."""

from __future__ import annotations

import ast
import hashlib
import json
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from pets import ntt, sampling, sketch
from pets.keys import JointKey, ZeroPool, commit_public, sample_key_share
from pets.params import PRESETS, Parameters
from pets.planes import pack_bits
from pets.prf import Keystream, derive_key, labelled_hash
from pets.rounding import round_shares
from protocol import messages, wire
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


def test_key_share_and_encryptions_of_zero_from_a_seed() -> None:
    params, expected = PRESETS["n4096_q60_t20"], stored("keys.json")
    common = sampling.common_polynomial(params, generate.QUERY_ID)
    share = sample_key_share(params, common, generate.SEED, generate.QUERY_ID)
    assert_described(share.secret, expected["secret"])
    assert_described(share.public, expected["public"])
    assert commit_public(share.public, generate.QUERY_ID, "ROUTER").hex() == expected["commitment_of_router"]
    joint = JointKey.combine(params, generate.QUERY_ID, (share.public, share.public))
    assert np.array_equal(joint.common, common)
    for threads in (1, 2):
        pool = ZeroPool.make(joint, generate.SEED, "probe", 2, threads)
        assert_described(pool.take(2), expected["zeros"])


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
FRAMES: dict[str, tuple[Any, int, str, str, str]] = {
    "joined_holder": (messages.Joined(DIGEST, DIGEST[::-1], 64, DIGEST), 0, "", "ES", "EU"),
    "joined_router": (messages.Joined(DIGEST, DIGEST, None, None), 0, "", "EU", "ES"),
    "key_commitment": (messages.KeyCommitment(DIGEST, DIGEST), 1, "", "EU", "FR"),
    "pair_secret": (messages.PairSecret(DIGEST), 2, "ES", "ES", "EU"),
    "probe_digest": (messages.ProbeDigest(DIGEST), 300, "ES", "FR", "EU"),
    "input_share": (messages.InputShare(memoryview(bytes(300))), 3, "ES", "ES", "EU"),
    "gates": (messages.Gates(memoryview(bytes(8))), 70000, "ES", "ES", "EU"),
    "admission_bit": (messages.AdmissionBit(True), 4, "ES", "ES", "EU"),
    "power_sums": (messages.PowerSums(bytes(range(48))), 5, "ES", "FR", "ES"),
    "rung": (messages.Rung("climb"), 6, "ES", "ES", "EU"),
    "confirmation_digest": (messages.ConfirmationDigest(DIGEST), 7, "ES", "FR", "EU"),
    "release": (messages.Release((b"row-1".ljust(64, b"\0"), bytes(64)), DIGEST), 8, "ES", "ES", "FR"),
    "abort": (messages.Abort("confirmation"), 9, "ES", "ES", "EU"),
    "count_share": (messages.CountShare(memoryview(bytes(16))), 10, "ES", "ES", "EU"),
    "cap_bit": (messages.CapBit(False), 11, "ES", "ES", "EU"),
}


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
