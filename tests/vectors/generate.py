"""Makes the known-answer vectors beside it. Nothing of this project: integers, hashlib, hmac and single AES blocks.

    python tests/vectors/generate.py

Written from protocol/DESIGN.md and the docstrings, so that two implementations meet in the numbers. Arrays are given
by their shape, their first values and the SHA-256 of their little-endian bytes. `tests/protocol/test_vectors.py` makes
the vectors again, compares them with the files, and the project's own results with both.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import struct
from decimal import Decimal, getcontext
from functools import lru_cache
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

FOLDER = Path(__file__).parent
PRESETS = {
    "n4096_q60_t20": (4096, (1073692673, 1073668097)),
    "n8192_q60_t20": (8192, (1073692673, 1073643521)),
}
T = 1048573
SHARE_BITS = 24
SEED = bytes(range(32))
QUERY_ID = bytes(range(32, 64))  # of a search, or of a preparation
OTHER_SEED = bytes(range(64, 96))
Lists = list[Any]


def described(values: Lists, kind: str) -> dict[str, Any]:
    """Shape, first values and digest of nested lists. `kind`: struct code of one value."""
    shape, flat = [], values
    while isinstance(flat, list):
        shape.append(len(flat))
        flat = flat[0]
    flat = values
    for _ in shape[1:]:
        flat = [item for part in flat for item in part]
    raw = struct.pack(f"<{len(flat)}{kind}", *flat)
    return {"shape": shape, "first": flat[:8], "sha256": hashlib.sha256(raw).hexdigest()}


# --- hashing and streams ---


def labels(*items: str | int | bytes) -> bytes:
    out = b""
    for item in items:
        kind, raw = {
            str: (b"s", str(item).encode()),
            int: (b"i", str(item).encode()),
            bytes: (b"b", item if isinstance(item, bytes) else b""),
        }[type(item)]
        out += kind + struct.pack(">Q", len(raw)) + raw
    return out


def labelled_hash(*items: str | int | bytes) -> bytes:
    return hashlib.sha256(labels("blind-lineup/v1", *items)).digest()


def derive_key(secret: bytes, *items: str | int | bytes) -> bytes:
    """HKDF-SHA256 without salt, one block (RFC 5869)."""
    key = hmac.new(bytes(32), secret, hashlib.sha256).digest()
    return hmac.new(key, labels("blind-lineup/v1", *items) + b"\x01", hashlib.sha256).digest()


class Stream:
    """AES-256 in counter mode, made of single blocks."""

    def __init__(self, key: bytes) -> None:
        self.block = Cipher(algorithms.AES(key), modes.ECB()).encryptor()
        self.counter = 0
        self.rest = b""

    def read(self, count: int) -> bytes:
        missing = max(0, -(-(count - len(self.rest)) // 16))
        counters = b"".join((self.counter + i).to_bytes(16, "big") for i in range(missing))
        self.counter += missing
        self.rest += self.block.update(counters)
        out, self.rest = self.rest[:count], self.rest[count:]
        return out


def parameter_bytes(preset: str) -> bytes:
    n, (p0, p1) = PRESETS[preset]
    return f"{preset}|n={n}|p={p0},{p1}|t={T}|K={SHARE_BITS}".encode()


# --- sampling ---


def erf(x: Decimal) -> Decimal:
    """2/√π · e^(-x²) · Σ 2^k·x^(2k+1) / (1·3·5…(2k+1))."""
    term, total, k = x, x, 0
    while term > Decimal(10) ** -(getcontext().prec + 2):
        k += 1
        term *= 2 * x * x / (2 * k + 1)
        total += term
    return 2 / pi().sqrt() * (-x * x).exp() * total


def pi() -> Decimal:
    """Machin: 16·arctan(1/5) - 4·arctan(1/239)."""

    def arctan(inverse: int) -> Decimal:
        power, total, k = Decimal(1) / inverse, Decimal(0), 0
        while power > Decimal(10) ** -(getcontext().prec + 2):
            total += (-1) ** k * power / (2 * k + 1)
            power /= inverse * inverse
            k += 1
        return total

    return 16 * arctan(5) - 4 * arctan(239)


@lru_cache(maxsize=1)
def gaussian_table() -> list[int]:
    """floor(2^63·P(|x| <= k)) of a rounded Gaussian of deviation 3.2, as long as some 63-bit number is not below it."""
    getcontext().prec = 60
    table: list[int] = []
    while True:
        entry = int(2**63 * erf((Decimal(len(table)) + Decimal("0.5")) / (Decimal("3.2") * Decimal(2).sqrt())))
        if entry > 2**63 - 5:  # beyond this, entries differ by less than what one sample in 2^61 could show
            return table
        table.append(entry)


def ternary(stream: Stream, n: int) -> list[int]:
    return [byte % 3 - 1 for byte in stream.read(n + n // 64) if byte < 255][:n]


def gaussian(stream: Stream, n: int) -> list[int]:
    words, table = struct.unpack(f"<{n}Q", stream.read(8 * n)), gaussian_table()
    return [sum(word >> 1 >= entry for entry in table) * (1 - 2 * (word & 1)) for word in words]


def common_polynomial(preset: str, query_id: bytes) -> Lists:
    n, primes = PRESETS[preset]
    out = []
    for index, p in enumerate(primes):
        head = labels("blind-lineup/common-polynomial/v1", parameter_bytes(preset), query_id, index)
        raw = hashlib.shake_128(head).digest(16 * n)
        words = [word % 2**30 for word in struct.unpack(f"<{4 * n}I", raw)]
        out.append([word for word in words if word < p][:n])
    return out


# --- ring ---


@lru_cache(maxsize=8)
def root(n: int, p: int) -> int:
    """The smallest primitive 2n-th root of unity."""
    candidate = next(r for g in range(2, p) if pow(r := pow(g, (p - 1) // (2 * n), p), n, p) == p - 1)
    return min(pow(candidate, k, p) for k in range(1, 2 * n, 2))


def reversed_bits(k: int, n: int) -> int:
    return int(f"{k:0{n.bit_length() - 1}b}"[::-1], 2)


def transform_sparse(polynomial: dict[int, int], n: int, p: int) -> list[int]:
    """Σ c_i·x^i at x = ψ^(2·bitrev(k)+1) for every k: evaluation, no butterfly."""
    powers = [1] * (2 * n)
    for i in range(1, 2 * n):
        powers[i] = powers[i - 1] * root(n, p) % p
    return [
        sum(c * powers[i * (2 * reversed_bits(k, n) + 1) % (2 * n)] for i, c in polynomial.items()) % p
        for k in range(n)
    ]


def transform(polynomial: list[int], n: int, p: int) -> list[int]:
    """The same for all coefficients, by the recursive transform of f(X) = even(X²) + X·odd(X²) at ψ·ω^j."""
    psi = root(n, p)
    twisted = [c * pow(psi, i, p) % p for i, c in enumerate(polynomial)]

    def recurse(values: list[int], omega: int) -> list[int]:
        if len(values) == 1:
            return values
        even, odd = recurse(values[0::2], omega * omega % p), recurse(values[1::2], omega * omega % p)
        half, out, power = len(values) // 2, [0] * len(values), 1
        for j in range(half):
            product = power * odd[j] % p
            out[j], out[j + half] = (even[j] + product) % p, (even[j] - product) % p
            power = power * omega % p
        return out

    natural = recurse(twisted, psi * psi % p)  # at ψ^(2j+1)
    return [natural[reversed_bits(k, n)] for k in range(n)]


def transforms(polynomial: list[int], preset: str) -> Lists:
    n, primes = PRESETS[preset]
    return [transform(polynomial, n, p) for p in primes]


def pointwise(preset: str, function: Any, *elements: Lists) -> Lists:
    primes = PRESETS[preset][1]
    return [
        [function(*values) % p for values in zip(*rows, strict=True)]
        for p, *rows in zip(primes, *elements, strict=True)
    ]


SPARSE = {0: 3, 1: -1, 5: 127, 2047: -128, 4095: 100000}


def ring_vectors() -> dict[str, Any]:
    out: dict[str, Any] = {}
    for preset, (n, primes) in PRESETS.items():
        evaluated = [transform_sparse(SPARSE, n, p) for p in primes]
        dense = [SPARSE.get(i, 0) for i in range(n)]
        assert transforms(dense, preset) == evaluated  # the two ways agree
        out[preset] = {
            "psi": [root(n, p) for p in primes],
            "sparse": {str(i): c for i, c in SPARSE.items()},
            "forward": described(evaluated, "I"),
        }
    return out


def sampling_vectors() -> dict[str, Any]:
    out: dict[str, Any] = {
        "seed": SEED.hex(),
        "query_id": QUERY_ID.hex(),
        "keystream": Stream(SEED).read(64).hex(),
        "gaussian_table": gaussian_table(),
        "ternary": described([ternary(Stream(SEED), 4096)], "b"),
        "gaussian": described([gaussian(Stream(SEED), 4096)], "b"),
    }
    for preset in PRESETS:
        out[preset] = {"common_polynomial": described(common_polynomial(preset, QUERY_ID), "I")}
    return out


def key_share(preset: str, seed: bytes) -> tuple[Lists, Lists]:
    """s, and b = -a·s + e, in NTT form."""
    n = PRESETS[preset][0]
    stream = Stream(derive_key(seed, "key-share", parameter_bytes(preset), QUERY_ID))
    secret = transforms(ternary(stream, n), preset)
    error = transforms(gaussian(stream, n), preset)
    return secret, pointwise(preset, lambda a, s, e: e - a * s, common_polynomial(preset, QUERY_ID), secret, error)


def key_vectors() -> dict[str, Any]:
    """Both parts of a key, and two encryptions of zero, from seeds: an audit rests on this order of drawing."""
    preset = "n4096_q60_t20"
    n = PRESETS[preset][0]
    common = common_polynomial(preset, QUERY_ID)
    secret, public = key_share(preset, SEED)
    own, _ = key_share(preset, OTHER_SEED)
    reduced = pointwise(preset, lambda b, a, s: b - a * s, public, common, own)
    stream = Stream(derive_key(SEED, "zero-pool", "rerandomise 0 2 0", parameter_bytes(preset), QUERY_ID))
    blinding = [transforms(ternary(stream, n), preset) for _ in range(2)]
    errors = [transforms(gaussian(stream, n), preset) for _ in range(4)]
    zeros = [
        [
            pointwise(preset, lambda b, u, e: b * u + e, element, blinding[k], errors[2 * k + component])
            for component, element in enumerate((reduced, common))
        ]
        for k in range(2)
    ]
    return {
        "secret": described(secret, "I"),
        "public": described(public, "I"),
        "holders_part": described(own, "I"),
        "reduced": described(reduced, "I"),
        "zeros": described(zeros, "I"),
    }


# --- the encrypted mask, the product and the tree of a preparation ---


def drawn_mask(count: int) -> list[int]:
    """r: the top 20 bits of words of a stream, those that are below t."""
    stream = Stream(derive_key(SEED, "mask", QUERY_ID))
    words = struct.unpack(f"<{count + 64}Q", stream.read(8 * (count + 64)))
    return [word >> 44 for word in words if word >> 44 < T][:count]


@lru_cache(maxsize=4)
def public_polynomials(preset: str, count: int) -> tuple[Lists, ...]:
    """a_j for j < count: for each prime the first n of n + 64 numbers of a stream that are below it."""
    n, primes = PRESETS[preset]
    stream = Stream(labelled_hash("mask-polynomials", parameter_bytes(preset), QUERY_ID))
    out = []
    for _ in range(count):
        rows = []
        for p in primes:
            words = struct.unpack(f"<{n + 64}I", stream.read(4 * (n + 64)))
            rows.append([word % 2**30 for word in words if word % 2**30 < p][:n])
        out.append(rows)
    return tuple(out)


def mask_vectors() -> dict[str, Any]:
    """r, and the first components of two of its numbers: -a_j·(s1 + s2) + e_j + round(Q·r_j/t)."""
    preset = "n4096_q60_t20"
    n, (p0, p1) = PRESETS[preset]
    own, secret = key_share(preset, OTHER_SEED)[0], key_share(preset, SEED)[0]
    stream = Stream(derive_key(SEED, "mask-errors", QUERY_ID))
    firsts = []
    for j, value in enumerate(drawn_mask(16)[:2]):
        constant = (2 * p0 * p1 * value + T) // (2 * T)
        error = transforms(gaussian(stream, n), preset)
        firsts.append(
            pointwise(
                preset,
                lambda a, s1, s2, e, c=constant: e + c - a * (s1 + s2),
                public_polynomials(preset, 2)[j],
                own,
                secret,
                error,
            )
        )
    return {
        "mask": drawn_mask(16),
        "public": {name: described(list(public_polynomials(name, 2)), "I") for name in PRESETS},
        "first_components": described(firsts, "I"),
    }


def product_rows() -> tuple[Lists, list[int]]:
    """40 rows of 24 numbers from -127 to 127, and a vector below t; the ends of both among them."""
    raw = hashlib.shake_128(b"product").digest(40 * 24)
    rows = [[byte % 255 - 127 for byte in raw[24 * k : 24 * k + 24]] for k in range(40)]
    rows[0], rows[1] = [127] * 24, [-127] * 24
    words = struct.unpack("<24Q", hashlib.shake_128(b"vector").digest(192))
    return rows, [0, T - 1, 1, *(word % T for word in words[3:])]


def product_vectors() -> dict[str, Any]:
    """D·u modulo t, what the holder publishes of it, and u on the wire: 20 bits each, lowest first."""
    rows, vector = product_rows()
    products = [sum(x * y for x, y in zip(row, vector, strict=True)) % T for row in rows]
    masked = [word % 2**24 for word in struct.unpack("<40I", hashlib.shake_128(b"masked").digest(160))]
    theta = 1234
    offset = ((2 * theta - 1) * 2**SHARE_BITS + T) // (2 * T)
    shares = [(2 * v * 2**SHARE_BITS + T) // (2 * T) for v in products]
    packed = sum(value << 20 * place for place, value in enumerate(vector)).to_bytes(24 * 20 // 8, "little")
    return {
        "products": products,
        "masked": masked,
        "theta": theta,
        "published": [(m + v - offset) % 2**SHARE_BITS for m, v in zip(masked, shares, strict=True)],
        "difference": packed.hex(),
    }


def tree_root(leaves: list[bytes]) -> bytes:
    """RFC 9162, 2.1.1, over hashes that each stand for an entry."""

    def node(hashes: list[bytes]) -> bytes:
        if len(hashes) == 1:
            return hashes[0]
        half = 1 << (len(hashes) - 1).bit_length() - 1
        return hashlib.sha256(b"\x01" + node(hashes[:half]) + node(hashes[half:])).digest()

    entries = [hashlib.sha256(b"\x00" + leaf).digest() for leaf in leaves]
    return node(entries) if entries else hashlib.sha256(b"").digest()


TREE_ROWS, TREE_BLOCK = 11, 4


def tree_vectors() -> dict[str, Any]:
    """Roots of the first rows of `product_rows` in blocks of four: salted row by row, and block by block."""
    rows = [struct.pack("24b", *row) for row in product_rows()[0][:TREE_ROWS]]
    salts = [hashlib.sha256(bytes([k])).digest() for k in range(TREE_ROWS)]
    blocks = [range(first, min(first + TREE_BLOCK, TREE_ROWS)) for first in range(0, TREE_ROWS, TREE_BLOCK)]
    leaves = [hashlib.sha256(b"\x00" + salt + row).digest() for salt, row in zip(salts, rows, strict=True)]
    head = b"blind-lineup/v1/gallery block"
    by_row = [hashlib.sha256(head + b"".join(leaves[k] for k in block)).digest() for block in blocks]
    by_block = [
        hashlib.sha256(derive_key(SEED, "block-salt", index) + b"".join(rows[k] for k in block)).digest()
        for index, block in enumerate(blocks)
    ]
    return {
        "leaves": [leaf.hex() for leaf in leaves],
        "blocks": [block.hex() for block in by_row],
        "root_of_salted_rows": tree_root(by_row).hex(),
        "root_of_salted_blocks": tree_root(by_block).hex(),
        "root_of_nothing": tree_root([]).hex(),
    }


# --- rounding ---


def rounding_values(preset: str) -> list[int]:
    """The v that are rounded: edges, and random ones that do not lie within 2^-7 of a half."""
    p0, p1 = PRESETS[preset][1]
    q = p0 * p1
    values = [0, 1, q - 1, q // 2, q // 2 + 1, q // T, q - q // T, q >> 25, q >> 24, q - (q >> 25) // 2]
    raw = hashlib.shake_128(preset.encode()).digest(8000)
    drawn = [word % q for word in struct.unpack("<1000Q", raw)]
    # the project computes v/Q modulo 1 in 64 bits, and may round either way next to a half
    return values + [v for v in drawn if not 126 <= (v << (SHARE_BITS + 8)) // q % 256 <= 129]


def rounding_vectors() -> dict[str, Any]:
    """round(v·2^24/Q) mod 2^24."""
    out: dict[str, Any] = {}
    for preset, (_, (p0, p1)) in PRESETS.items():
        q, values = p0 * p1, rounding_values(preset)
        rounded = [((2 * v << SHARE_BITS) + q) // (2 * q) % 2**SHARE_BITS for v in values]
        out[preset] = {"values": [str(v) for v in values[:16]], "rounded": rounded[:16], "all": described(rounded, "I")}
    return out


# --- hashing ---


def hash_vectors() -> dict[str, Any]:
    cases: dict[str, tuple[str | int | bytes, ...]] = {
        "nothing": (),
        "text": ("announce",),
        "number": (24,),
        "negative": (-1,),
        "bytes": (b"\x00\xff",),
        "mixed": ("masks", QUERY_ID, "ES", "compare", 0, 3),
        "non-ascii": ("Straßburg",),
    }
    return {
        "labelled_hash": {name: labelled_hash(*items).hex() for name, items in cases.items()},
        "derive_key": derive_key(SEED, "masks", QUERY_ID, "ES", "compare", 0, 3).hex(),
    }


# --- wire: a small MessagePack of its own ---


def pack(value: Any) -> bytes:
    if value is None:
        return b"\xc0"
    if isinstance(value, bool):
        return b"\xc3" if value else b"\xc2"
    if isinstance(value, int):
        for limit, head, code in ((2**7, b"", "B"), (2**8, b"\xcc", "B"), (2**16, b"\xcd", "H"), (2**32, b"\xce", "I")):
            if 0 <= value < limit:
                return head + struct.pack(f">{code}", value)
    if isinstance(value, str):
        raw = value.encode()
        return (bytes([0xA0 + len(raw)]) if len(raw) < 32 else b"\xd9" + bytes([len(raw)])) + raw
    if isinstance(value, bytes):
        head = b"\xc4" + bytes([len(value)]) if len(value) < 256 else b"\xc5" + struct.pack(">H", len(value))
        return head + value
    if isinstance(value, (list, tuple)):
        head = bytes([0x90 + len(value)]) if len(value) < 16 else b"\xdc" + struct.pack(">H", len(value))
        return head + b"".join(pack(item) for item in value)
    raise TypeError(value)


def frame(sequence: int, tag: int, *fields: Any, session: str = "ES", sender: str = "ES", receiver: str = "EU") -> str:
    return pack([5, bytes(range(16)), session, sender, receiver, sequence, [tag, *fields]]).hex()


def wire_vectors() -> dict[str, str]:
    digest = bytes(range(32))
    parties = ["FR", "EU", ["ES", "DE"]]
    terms = [*parties, digest, "0.55", 10, "0.02", "n4096_q60_t20", 512, bytes(32), digest, None, b""]
    prepare = [*parties, digest, "n4096_q60_t20", 512, bytes(32), digest[::-1], b""]
    return {
        "prepare": frame(0, 24, *prepare, session="*", sender="FR"),
        "joined_preparation": frame(0, 25, digest, digest, 64, digest, digest[::-1], session="*"),
        "joined_preparation_router": frame(0, 25, digest, digest, None, None, None, session="*", sender="EU"),
        "key_seed": frame(1, 26, digest, session="*", sender="FR"),
        "public_part": frame(2, 27, bytes(300), session="*", sender="EU", receiver="ES"),
        "mask_part": frame(300, 28, bytes(300), sender="FR", receiver="ES"),
        "mask_digest": frame(3, 29, digest, digest[::-1]),
        "form_block": frame(4, 30, digest, bytes(300)),
        "form_bit": frame(5, 32, True),
        "prepared_blocks": frame(6, 33, bytes(300)),
        "pair_secret": frame(2, 6, digest),
        "search": frame(0, 34, *terms, session="*", sender="FR"),
        "joined_holder": frame(0, 2, digest, digest[::-1], 64, digest, session="*"),
        "joined_router": frame(0, 2, digest, digest, None, None, session="*", sender="EU", receiver="ES"),
        "derived_id": frame(1, 43, digest, session="*"),
        "difference": frame(7, 35, digest, bytes(20), sender="FR", receiver="ES"),
        "difference_digest": frame(8, 36, digest, sender="FR"),
        "masked_scores": frame(9, 37, bytes(300)),
        "live_rows": frame(10, 42, bytes(8)),
        "admission_scores": frame(11, 38, digest, bytes(192)),
        "admission_gates": frame(12, 39, bytes(8)),
        "admission_count": frame(13, 40, bytes(16)),
        "admission_input": frame(14, 41, bytes(256)),
        "admission_bit": frame(4, 12, True),
        "echo": frame(15, 31, digest, sender="FR"),
        "input_share": frame(3, 10, bytes(300)),
        "gates": frame(70000, 11, bytes(8)),
        "count_share": frame(10, 22, bytes(16)),
        "cap_bit": frame(11, 23, False),
        "power_sums": frame(5, 14, bytes(range(48)), sender="FR", receiver="ES"),
        "rung": frame(6, 15, "climb"),
        "confirmation_block": frame(7, 16, digest, bytes(300)),
        "confirmation_answer": frame(8, 18, bytes(240), sender="FR", receiver="ES"),
        "release": frame(8, 19, [b"row-1".ljust(64, b"\0") + b"\1", bytes(65)], SEED, receiver="FR"),
        "signature": frame(9, 21, "release", digest, bytes(64)),
        "abort": frame(9, 20, "confirmation", ""),
    }


# --- sketch ---


def field_multiply(a: int, b: int) -> int:
    product = 0
    while b:
        if b & 1:
            product ^= a
        a, b = a << 1, b >> 1
        if a >> 32:
            a ^= 1 << 32 | 1 << 7 | 1 << 6 | 1 << 2 | 1
    return product


def field_power(base: int, exponent: int) -> int:
    out = 1
    while exponent:
        if exponent & 1:
            out = field_multiply(out, base)
        base, exponent = field_multiply(base, base), exponent >> 1
    return out


def sketch_vectors() -> dict[str, Any]:
    out = {}
    sets = {"one row": ([0], 1), "three rows": ([1, 4095, 4096], 3), "ten rows": ([7 * 3**k for k in range(10)], 10)}
    for name, (rows, cap) in sets.items():
        sums = [0] * (cap + 2)
        for row in rows:
            for k in range(cap + 2):
                sums[k] ^= field_power(2, row * (2 * k + 1))
        out[name] = {"rows": rows, "cap": cap, "sums": sums}
    return out


FILES = {
    "ring.json": ring_vectors,
    "sampling.json": sampling_vectors,
    "keys.json": key_vectors,
    "mask.json": mask_vectors,
    "product.json": product_vectors,
    "tree.json": tree_vectors,
    "rounding.json": rounding_vectors,
    "hashing.json": hash_vectors,
    "wire.json": wire_vectors,
    "sketch.json": sketch_vectors,
}


def rendered(name: str) -> str:
    """A file's text, made anew."""
    return json.dumps(FILES[name](), indent=1, ensure_ascii=False) + "\n"


def main() -> None:
    """Write all files."""
    for name in FILES:
        (FOLDER / name).write_text(rendered(name))
        print(name)


if __name__ == "__main__":
    main()
