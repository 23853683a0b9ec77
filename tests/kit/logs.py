"""Logs for tests, and what whoever can write the disk may do to one: the formats, written down a second time."""

from __future__ import annotations

import os
import struct
import zlib
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import msgspec
import pytest

from nodes.logs.entries import (
    ArticleForty,
    Entry,
    TranscriptEntry,
    decode_header,
    encode_entry,
    encrypt_entry,
    retention_end,
)
from nodes.logs.holds import HoldOrder, LiftOrder, Order
from nodes.logs.log import LogKeys, TamperEvidentLog
from pets.signatures import SigningKey

DAY = 86_400_000
START = 1_767_225_600_000  # 2026-01-01
LATER = retention_end(START) + DAY
OWNER, SUPERVISOR, STRANGER = (SigningKey.from_bytes(bytes([n]) * 64) for n in (1, 2, 3))


def signer(key: SigningKey) -> Callable[[bytes], bytes]:
    return partial(key.sign, context="log")


def verifier(key: SigningKey) -> Callable[[bytes, bytes], None]:
    return partial(key.verify_key.verify, context="log")


TRUST = LogKeys(signer(OWNER), verifier(OWNER), verifier(SUPERVISOR))


@pytest.fixture(autouse=True)
def no_waiting_for_disks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fsync", lambda handle: None)


def message(n: int, signature: bytes | None = None) -> TranscriptEntry:
    return TranscriptEntry(bytes(16), "probe", "sent", "ROUTER", "ProbePart", n, bytes(32), signature, START + n)


def article(n: int = 0, replied: tuple[str, ...] = ("DE", "HU")) -> ArticleForty:
    reply = START + n + 5 if replied else None
    return ArticleForty("FR", START + n, reply, ("DE", "HU", "IT"), replied)


def opened(folder: Path, now: int = START + DAY, **options: object) -> TamperEvidentLog:
    return TamperEvidentLog.open(folder, TRUST, now, **options)  # type: ignore[arg-type]


@pytest.fixture
def log(tmp_path: Path) -> Iterator[TamperEvidentLog]:
    with TamperEvidentLog.create(tmp_path / "log", "transcript", "RELAY", TRUST, START) as made:
        yield made


@pytest.fixture
def ten(tmp_path: Path) -> Path:
    """A closed log: entries 0-3, checkpoint, 4-6, checkpoint, 7-9 in appends of one."""
    folder = tmp_path / "ten"
    with TamperEvidentLog.create(folder, "transcript", "RELAY", TRUST, START) as made:
        made.append([message(n) for n in range(4)], START + 1)
        made.checkpoint(START + 2)
        made.append([message(n) for n in range(4, 7)], START + 3)
        made.checkpoint(START + 4)
        for n in range(7, 10):
            made.append([message(n)], START + n)
    return folder


# Whoever can write the disk: the formats, written down a second time.


def frames(path: Path) -> list[bytes]:
    raw, found = path.read_bytes(), []
    while raw:
        (length,) = struct.unpack(">I", raw[:4])
        found.append(raw[8 : 8 + length])
        raw = raw[8 + length :]
    return found


def frame(payload: bytes) -> bytes:
    length = struct.pack(">I", len(payload))
    return length + struct.pack(">I", zlib.crc32(length + payload)) + payload


def write_frames(path: Path, payloads: list[bytes]) -> None:
    path.write_bytes(b"".join(map(frame, payloads)))


def slots(folder: Path) -> list[tuple[int, int, int, bytes]]:
    raw = (folder / "keys").read_bytes()
    return [struct.unpack(">QQQ32s", raw[at : at + 56]) for at in range(64, len(raw), 64)]


def cut_keys(folder: Path, count: int) -> None:
    raw = (folder / "keys").read_bytes()
    (folder / "keys").write_bytes(raw[: 64 + 64 * count])


def rewrite(folder: Path, index: int, entry: Entry) -> None:
    """Replace an entry under its own key: everything but the signed roots fits afterwards."""
    payloads = frames(folder / "entries")
    header = decode_header(payloads[0])
    _, _, created, secret = next(slot for slot in slots(folder) if slot[0] == index)
    payloads[index + 1] = encrypt_entry(encode_entry(entry, header.kind), secret, header, index, created)
    write_frames(folder / "entries", payloads)


def order(
    log: TamperEvidentLog,
    number: int,
    span: tuple[int, int | None] | None,
    key: SigningKey = SUPERVISOR,
    time: int = START + DAY,
) -> Order:
    """A signed hold over `span`, or the lifting of one."""
    log_id = log.header.log
    made: Order = LiftOrder(log_id, number, time) if span is None else HoldOrder(log_id, number, *span, time)
    return msgspec.structs.replace(made, signature=signer(key)(made.signed()))
