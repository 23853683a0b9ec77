"""Mutations of well-formed input: of bytes, of text, and of the structure inside MessagePack or JSON.

Structured ones reach what random bytes never do: a right envelope with one field of a wrong type, size or depth.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from typing import Any

import msgspec

Mutation = Callable[[random.Random, list[bytes]], bytes]

NUMBERS = (0, 1, -1, 127, 128, 255, 2**16, 2**31 - 1, 2**31, 2**32, 2**48, 2**63 - 1, 2**64 - 1, -(2**63))
TEXTS = ("", "A", "a" * 17, "A" * 300, "é", "\0", "\n", "0.55", "-1", "1e9", "NaN", "9" * 24, "0." + "0" * 22, "../..")
BYTES = (b"", b"\0", bytes(16), bytes(31), bytes(32), bytes(33), b"\xff" * 64, bytes(300))
NESTED = (b"[" * 3000, b'{"a":' * 3000, b"\x91" * 3000)
INTERESTING = (0, 1, 0x7F, 0x80, 0x90, 0xC0, 0xC1, 0xC4, 0xC6, 0xD9, 0xDB, 0xDC, 0xDD, 0xDF, 0xFE, 0xFF)


def of_bytes(rng: random.Random, seeds: list[bytes]) -> bytes:
    """One to four of: flip, overwrite, insert, delete, repeat, cut off, splice with another seed. Or mere noise."""
    if rng.random() < 0.02:
        return rng.randbytes(rng.randrange(200))
    data = bytearray(rng.choice(seeds))
    for _ in range(rng.randint(1, 4)):
        at = rng.randrange(len(data) + 1)
        length = rng.choice((1, 1, 1, 2, 4, 8, 32, 200))
        kind = rng.randrange(7)
        if kind == 0 and data:
            data[at - 1] ^= 1 << rng.randrange(8)
        elif kind == 1 and data:
            data[at - 1] = rng.choice(INTERESTING)
        elif kind == 2:
            data[at:at] = rng.choice(NESTED) if rng.random() < 0.1 else rng.randbytes(length)
        elif kind == 3:
            del data[at : at + length]
        elif kind == 4:
            data[at:at] = data[at : at + length]
        elif kind == 5:
            del data[at:]
        else:
            other = rng.choice(seeds)
            data[at:] = other[rng.randrange(len(other) + 1) :]
    return bytes(data)


def _value(rng: random.Random, binary: bool) -> Any:
    kind = rng.randrange(8)
    if kind == 0:
        return rng.choice(NUMBERS)
    if kind == 1:
        return rng.choice(TEXTS)
    if kind == 2:
        return rng.choice(BYTES) if binary else rng.choice(("AA==", "A", "????", "A" * 400))
    if kind == 3:
        return rng.choice((None, True, False, 0.5, -0.0, 1e308))
    if kind == 4:
        return [rng.choice((*NUMBERS, *TEXTS)) for _ in range(rng.choice((0, 1, 3, 70)))]
    if kind == 5:
        return {rng.choice(TEXTS): rng.choice(NUMBERS)}
    deep: Any = rng.choice(NUMBERS)
    for _ in range(rng.choice((1, 5, 100))):
        deep = [deep]
    return deep


def _places(value: Any) -> list[tuple[Any, Any]]:
    """(container, key) of every value inside."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    found = []
    for key, inner in items:
        found.append((value, key))
        found += _places(inner)
    return found


def _change(rng: random.Random, root: Any, binary: bool) -> Any:
    """Replace, drop, double, reorder or exchange something inside a tree of lists and maps."""
    for _ in range(rng.choice((1, 1, 2, 3))):
        places = _places(root)
        if not places:
            return _value(rng, binary)
        container, key = rng.choice(places)
        kind = rng.randrange(7)
        if kind <= 1:
            container[key] = _value(rng, binary)
        elif kind == 2 and isinstance(container[key], int):
            container[key] += rng.choice((-1, 1, 2**8, -(2**8)))
        elif kind == 3:
            container.pop(key)
        elif kind == 4 and isinstance(container, list):
            container.insert(key, container[key])
        elif kind == 5 and isinstance(container, dict):
            container[rng.choice(TEXTS)] = container.pop(key)
        elif kind == 6:
            other, place = rng.choice(places)
            container[key], other[place] = _copy(other[place]), _copy(container[key])
        elif isinstance(container[key], (bytes, str)):
            text = container[key]
            cut = rng.randrange(len(text) + 1)
            container[key] = rng.choice((text[:cut], text + text[:cut]))
    return root


def _copy(value: Any) -> Any:
    return msgspec.msgpack.decode(msgspec.msgpack.encode(value))


def of_msgpack(rng: random.Random, seeds: list[bytes]) -> bytes:
    """Three times of four inside the structure, else of the bytes."""
    if rng.random() < 0.25:
        return of_bytes(rng, seeds)
    try:
        return msgspec.msgpack.encode(_change(rng, msgspec.msgpack.decode(rng.choice(seeds)), True))
    except (OverflowError, KeyError, IndexError, RecursionError, msgspec.MsgspecError):
        return of_bytes(rng, seeds)  # an exchange of a value with its own inside, or a number no format holds


def of_json(rng: random.Random, seeds: list[bytes]) -> bytes:
    """As `of_msgpack`, for JSON."""
    if rng.random() < 0.25:
        return of_bytes(rng, seeds)
    try:
        return json.dumps(_change(rng, json.loads(rng.choice(seeds)), False)).encode()
    except (KeyError, IndexError, RecursionError, OverflowError, msgspec.MsgspecError):
        return of_bytes(rng, seeds)


def of_lines(rng: random.Random, seeds: list[bytes]) -> bytes:
    """Text in lines, as TOML or PEM: lines dropped, doubled, exchanged; what follows an equals sign replaced."""
    if rng.random() < 0.25:
        return of_bytes(rng, seeds)
    lines = rng.choice(seeds).decode().splitlines()
    for _ in range(rng.randint(1, 3)):
        at, other = rng.randrange(len(lines)), rng.randrange(len(lines))
        kind = rng.randrange(5)
        if kind == 0 and len(lines) > 1:
            del lines[at]
        elif kind == 1:
            lines.insert(at, lines[other])
        elif kind == 2:
            lines[at], lines[other] = lines[other], lines[at]
        else:
            name, equals, _ = lines[at].partition("=")
            value = rng.choice(
                (json.dumps(_value(rng, False)), rng.choice(TEXTS), "[" * 3000, "inf", "1979-05-27", "0x10")
            )
            lines[at] = f"{name}= {value}" if equals else value
    return "\n".join(lines).encode("utf-8", "surrogateescape")
