"""The product with a public vector, against plain integers."""

from __future__ import annotations

import hashlib
import platform
import re
import tempfile
from functools import cache
from pathlib import Path

import numpy as np
import pytest

from pets.errors import CryptoError, GalleryError, ParameterError
from pets.params import SHARE_BITS
from pets.product import product_share, public_product, public_sums
from pets.product_kernel import multiply_rows
from tests.kit.ring import RING
from tests.kit.targets import TARGETS, lacking, run_compiled_for

SHAPES = [(1, 8), (3, 16), (5, 8), (64, 64), (70, 8), (129, 24), (333, 72), (257, 512), (131, 1024)]


def expected(rows: np.ndarray, us: np.ndarray) -> np.ndarray:
    return (us.astype(np.int64) @ rows.astype(np.int64).T) % RING.t


def random_rows(rng: np.random.Generator, count: int, dim: int) -> np.ndarray:
    return rng.integers(-128, 128, (count, dim)).astype(np.int8)


@pytest.mark.parametrize(("count", "dim"), SHAPES)
@pytest.mark.parametrize("vectors", [1, 2, 16])
def test_products_equal_integer_arithmetic(count: int, dim: int, vectors: int) -> None:
    rng = np.random.default_rng(count + dim + vectors)
    rows = random_rows(rng, count, dim)
    us = rng.integers(0, RING.t, (vectors, dim)).astype(np.int32)
    got = public_product(rows, us, RING.t, threads=2)
    assert got.dtype == np.uint32
    assert np.array_equal(got, expected(rows, us))


@pytest.mark.parametrize("dim", [8, 64, 1000, 1024])
@pytest.mark.parametrize("value", [-128, -1, 0, 127])
def test_the_largest_sums_hold(dim: int, value: int) -> None:
    rows = np.full((9, dim), value, np.int8)
    # All limbs at their largest, all but the top one, and the largest that is allowed.
    us = np.repeat(np.array([[2**14 - 1], [RING.t - 1], [2**19], [0]], np.int32), dim, axis=1)
    assert np.array_equal(public_product(rows, us, RING.t), expected(rows, us))


def test_every_number_of_last_rows_and_threads_gives_the_same() -> None:
    rng = np.random.default_rng(3)
    rows, us = random_rows(rng, 200, 40), rng.integers(0, RING.t, (2, 40)).astype(np.int32)
    want = expected(rows, us)
    for count in range(201):
        for threads in (1, 2, 3):
            assert np.array_equal(public_product(rows[:count], us, RING.t, threads), want[:, :count])


def test_a_mapped_file_and_a_slice_are_rows_too(tmp_path: Path) -> None:
    rng = np.random.default_rng(4)
    rows, us = random_rows(rng, 300, 128), rng.integers(0, RING.t, (1, 128)).astype(np.int32)
    np.save(tmp_path / "rows.npy", rows)
    mapped = np.load(tmp_path / "rows.npy", mmap_mode="r")
    assert np.array_equal(public_product(mapped, us, RING.t), expected(rows, us))
    assert np.array_equal(public_product(rows[37:290], us, RING.t), expected(rows[37:290], us))


def test_read_only_rows_compile_nothing_anew() -> None:
    rows, us = np.ones((64, 64), np.int8), np.ones((1, 64), np.int32)
    public_product(rows, us, RING.t)
    compiled = len(multiply_rows.signatures)  # type: ignore[attr-defined]
    rows.flags.writeable = False
    assert (public_product(rows, us, RING.t) == 64).all()
    assert len(multiply_rows.signatures) == compiled  # type: ignore[attr-defined]


def test_products_are_additive_in_the_rows() -> None:
    rng = np.random.default_rng(5)
    a, b = (rng.integers(-64, 64, (100, 48)).astype(np.int8) for _ in range(2))
    us = rng.integers(0, RING.t, (3, 48)).astype(np.int32)
    total = (public_product(a, us, RING.t) + public_product(b, us, RING.t)) % RING.t
    assert np.array_equal(total, public_product(a + b, us, RING.t))


def test_shares_of_all_values_are_rounded_exactly() -> None:
    values = np.arange(RING.t, dtype=np.uint32)
    exact = (values.astype(np.uint64) * np.uint64(2 << SHARE_BITS) + np.uint64(RING.t)) // np.uint64(2 * RING.t)
    assert np.array_equal(product_share(values, RING, threads=2), exact % 2**SHARE_BITS)


@pytest.mark.parametrize("offset", [0, 1, 12345678, 2**24 - 1, -7])
def test_what_is_published_is_the_sum_modulo_2_to_the_24(offset: int) -> None:
    rng = np.random.default_rng(6)
    values = rng.integers(0, RING.t, 40000).astype(np.uint32)
    masked = rng.integers(0, 2**SHARE_BITS, 40000).astype(np.uint32)
    want = (masked.astype(np.int64) + product_share(values, RING).astype(np.int64) - offset) % 2**SHARE_BITS
    assert np.array_equal(public_sums(masked, values, offset, RING, threads=2), want)


COMPILE = """
from numba import types
from pets.product_kernel import multiply_rows
rows, limbs = types.Array(types.int8, 2, "C"), types.Array(types.uint8, 3, "C")
signature = (rows, limbs, types.int64, types.int64, types.uint64, types.Array(types.uint32, 2, "C"))
multiply_rows.compile(signature)
"""
MULTIPLY = """
import hashlib
import numpy as np
from pets.params import preset
from pets.product import public_product, public_sums
ring = preset({preset!r})
digest = hashlib.sha256()
for count, dim in {shapes}:
    rng = np.random.default_rng(count)
    rows, us = rng.integers(-128, 128, (count, dim)).astype(np.int8), rng.integers(0, ring.t, (2, dim)).astype(np.int32)
    products = public_product(rows, us, ring.t)
    digest.update(products.tobytes() + public_sums(products[0], products[1], 77, ring).tobytes())
print(digest.hexdigest())
"""
PRINT = """
from pets.product_kernel import multiply_rows
print(*multiply_rows.inspect_asm().values())
"""


@cache
def compiled_for(target: str) -> str:
    """What a process prints: the digest of its products, if this processor can run them, and its instructions."""
    program = COMPILE if lacking(target) else MULTIPLY.format(preset=RING.preset, shapes=SHAPES)
    with tempfile.TemporaryDirectory() as folder:
        return run_compiled_for(target, program + PRINT, Path(folder))


@pytest.mark.parametrize("target", TARGETS)
def test_compiled_for_another_processor_products_are_the_same(target: str) -> None:
    if lacking(target):
        pytest.skip(f"this processor lacks {lacking(target)}")
    digest = hashlib.sha256()
    for count, dim in SHAPES:
        rng = np.random.default_rng(count)
        rows, us = random_rows(rng, count, dim), rng.integers(0, RING.t, (2, dim)).astype(np.int32)
        products = expected(rows, us).astype(np.uint32)
        digest.update(products.tobytes() + public_sums(products[0], products[1], 77, RING).tobytes())
    assert compiled_for(target).startswith(f"{digest.hexdigest()}\n")


@pytest.mark.skipif(platform.machine() not in ("x86_64", "AMD64"), reason="instructions of x86-64")
@pytest.mark.parametrize(
    ("target", "instruction"),
    [
        ("generic", r"pmullw\t.*xmm|pmaddwd\t.*xmm"),
        ("avx2", r"vpmaddubsw\t.*ymm"),
        ("avx512", r"vpmaddubsw\t.*zmm"),
        ("avx-vnni", r"vpdpbusd\t.*ymm"),
        ("avx512-vnni", r"vpdpbusd\t.*zmm"),
    ],
)
def test_the_product_uses_what_the_processor_has(target: str, instruction: str) -> None:
    """Compiled, not run, where it is a processor that this one is not."""
    assert re.search(instruction, compiled_for(target))


def test_rows_vectors_and_moduli_that_do_not_fit_are_refused() -> None:
    rows, us = np.zeros((4, 16), np.int8), np.zeros((1, 16), np.int32)
    for bad_rows in (rows.astype(np.int16), rows[0], rows[:, :8], rows.T, None):
        with pytest.raises((GalleryError, ParameterError)):
            public_product(bad_rows, us, RING.t)  # type: ignore[arg-type]
    with pytest.raises(ParameterError, match="got 12"):
        public_product(np.zeros((4, 12), np.int8), us, RING.t)
    with pytest.raises(ParameterError, match="524288"):
        public_product(rows, us, 2**19)
    for bad_us in (us.astype(np.int64), us[:, :8], us[0]):
        with pytest.raises(CryptoError):
            public_product(rows, bad_us, RING.t)
    for value in (-1, RING.t):
        us[0, 3] = value
        with pytest.raises(CryptoError, match=rf"\[0, 3\] is {value}"):
            public_product(rows, us, RING.t)
    with pytest.raises(CryptoError):
        public_sums(np.zeros(3, np.uint32), np.zeros(4, np.uint32), 0, RING)
