"""Every decoder of bytes from outside, with well-formed inputs to start from."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from PIL import Image

from benchmarks import fuzz_mutate as mutate
from benchmarks.fuzz_evidence import Target, evidence, file_decoder
from nodes.config.schema import Role, load_config
from nodes.identity.identity import Peer, init_node, load_identity
from nodes.identity.tls import check_certificate
from nodes.service.operator_api import HolderAnswer, SearchReport, SearchRequest
from nodes.store.keys import StorageKey
from nodes.transport.units import UnitReader, pack_units
from nodes.verify.trust import load_trust
from pets import sketch
from pets.errors import MALFORMED, LineupError
from pets.params import N4096
from pets.photos import read_photo
from pets.sealing import SealingKey, SealingPublicKey, open_sealed, seal
from pets.signatures import SigningKey, VerifyKey
from pets.templates import ModelSpec, Templates, load_templates, read_model_spec, save_templates
from protocol import wire
from protocol.announcing import Plan, parties_of
from protocol.approval import Approval, Assertion, Certificate, PersonKey
from protocol.confirmation_block import check_answers
from protocol.difference import unpack_difference
from protocol.follow_up import CandidatesWanted, CoreDataRequested, Deleted, Statement, decode_statement
from protocol.messages import Difference, Message, Prepare, Release, Search
from protocol.preparation import (
    HolderPreparation,
    Preparation,
    RequesterPreparation,
    RouterPreparation,
    pack,
    unpack,
)
from protocol.release import EMPTY_SLOT, Released, pack_release, unpack_release
from protocol.terms import Terms
from tests.kit.galleries import unit_rows
from tests.kit.trio import Trio, hold

CAP = 10


def read_units(body: bytes) -> None:
    """A body that arrives in two pieces."""
    reader = UnitReader()
    reader.feed(body[: len(body) // 3])
    reader.feed(body[len(body) // 3 :])
    reader.end()


def searched(rows: Templates) -> Trio:
    """A preparation and a search that releases its hit."""
    return Trio(hold(rows), threshold="0.5", cap=CAP).search(rows[0])


def frames() -> list[bytes]:
    """One frame of each type of message of a preparation and a search, arrays cut to 64 bytes."""
    rng = np.random.default_rng(0)
    rows = unit_rows(rng, 3, 8)
    found: dict[type[Message], bytes] = {}
    for delivery in searched(rows).deliveries:
        envelope = wire.decode(delivery.frame)
        data = getattr(envelope.message, "data", b"")
        message = msgspec.structs.replace(envelope.message, data=bytes(data[:64])) if data else envelope.message
        found.setdefault(type(message), wire.encode(msgspec.structs.replace(envelope, message=message)))
    return list(found.values())


def statements() -> list[bytes]:
    """A few of the follow-up, with an approval inside."""
    key = PersonKey("ed25519", bytes(32))
    approval = Approval(Certificate("FR", key, ("officer",), 1, 2, bytes(64)), Assertion(bytes(64)))
    contents = (
        CandidatesWanted(10),
        Deleted(bytes(32), "recalled"),
        CoreDataRequested(bytes(32), bytes(32), ("gender",), "robbery", bytes(32), (approval,), bytes(32)),
    )
    return [Statement(1, bytes(16), "FR", "ES", 1, content, bytes(64)).encode() for content in contents]


def announced(data: bytes) -> object:
    """A frame, and what follows of the plan or terms inside."""
    message = wire.decode(data).message
    if isinstance(message, Prepare):
        return Plan.announced(message), parties_of(message)
    if isinstance(message, Search):
        return Terms.announced(message).rungs, parties_of(message)
    return unpack_release(message, CAP) if isinstance(message, Release) else message


def residues(data: bytes) -> object:
    return wire.residue_array(data, (), N4096, "fuzzed")


def mask(data: bytes) -> object:
    return wire.residue_array(data, (2,), N4096, "fuzzed mask")


def difference(data: bytes) -> object:
    return unpack_difference(Difference(bytes(32), data), 8, N4096)


def power_sums(data: bytes) -> object:
    sums = np.frombuffer(data[: 4 * (CAP + 2)].ljust(4 * (CAP + 2), b"\0"), "<u4").astype(np.uint32)
    return sketch.decode(sums, 1000, CAP)


def answers(data: bytes) -> object:
    sums = np.frombuffer(data[: 24 * CAP].ljust(24 * CAP, b"\0"), "<u4") & np.uint32(2**24 - 1)
    factors = np.ones((CAP, 6), np.int32)
    return check_answers(sums, factors, 2, 1, N4096)


def targets(folder: Path) -> Iterator[Target]:
    """All of them. `folder`: for files, best in memory."""
    yield from _protocol()
    yield from evidence(folder)
    yield from _nodes(folder)
    yield from _faces(folder)


def _protocol() -> Iterator[Target]:
    every = frames()
    yield Target("wire.decode", 300, every, mutate.of_msgpack, wire.decode)
    terms = [frame for frame in every if isinstance(wire.decode(frame).message, (Prepare, Search, Release))]
    yield Target("Plan.announced, Terms.announced, unpack_release", 60, terms, mutate.of_msgpack, announced)
    packed = [
        b"".join(pack_release([Released(f"ES-{k}", k % 2 == 1) for k in range(n)], CAP).slots) for n in (0, 2, CAP)
    ]

    def release(data: bytes) -> object:
        size = len(EMPTY_SLOT)
        data = data[: size * CAP].ljust(size * CAP, b"\0")
        cut = tuple(data[at : at + size] for at in range(0, len(data), size))
        return unpack_release(msgspec.structs.replace(pack_release([], CAP), slots=cut), CAP)

    yield Target("unpack_release", 40, packed, mutate.of_bytes, release)
    yield Target("wire.residue_array", 5, [bytes(8 * N4096.n), b"\xff" * 64], mutate.of_bytes, residues)
    yield Target("wire.residue_array of a mask", 3, [bytes(16 * N4096.n)], mutate.of_bytes, mask)
    yield Target("unpack_difference", 40, [bytes(20), b"\xff" * 20], mutate.of_bytes, difference)
    yield from _preparations()
    rng = np.random.default_rng(1)
    sums = [sketch.power_sums(rng.integers(0, 2**10, 1, np.uint64), CAP).tobytes() for _ in range(20)]
    yield Target("sketch.decode", 20, sums, mutate.of_bytes, power_sums)
    two_slots = np.array([160] * 12 + [0] * (6 * CAP - 12), "<u4").tobytes()  # a score of 10 with factors of 1
    yield Target("check_answers", 30, [two_slots], mutate.of_bytes, answers)
    yield Target("units.UnitReader", 100, [pack_units(every[:5]), pack_units([b""] * 64)], mutate.of_bytes,
                 read_units)  # fmt: skip
    yield Target("follow_up.decode_statement", 60, statements(), mutate.of_msgpack, decode_statement)
    key = SealingKey.generate()
    sealed = [seal(key.public, bytes(32), b"fuzz")]
    yield Target("sealing.open_sealed", 3, sealed, mutate.of_bytes, lambda data: open_sealed(key, data, b"fuzz"))

    def to_public(data: bytes) -> object:
        return seal(SealingPublicKey(data), b"x", b"fuzz")

    yield Target("sealing.SealingPublicKey", 2, [key.public.data], mutate.of_bytes, to_public)


def _preparations() -> Iterator[Target]:
    """What a party keeps of a preparation, as it comes back from disk."""
    made = Trio(hold(unit_rows(np.random.default_rng(0), 3, 8))).prepare().made
    assert made is not None
    kinds: dict[type[Preparation], Preparation] = {
        RequesterPreparation: made.requester,
        RouterPreparation: made.router,
        HolderPreparation: next(iter(made.holders.values())),
    }
    for kind, part in kinds.items():
        yield Target(f"unpack {kind.__name__}", 2, [pack(part)], mutate.of_bytes, _unpacked(kind))


def _unpacked(kind: type[Any]) -> Callable[[bytes], object]:
    return lambda data: unpack(data, kind)


def _nodes(folder: Path) -> Iterator[Target]:
    home = folder / "nodes" / "FR"
    init_node(home, name="FR", role=Role.HOLDER, address="https://127.0.0.1:8443", authority=folder / "nodes" / "ca")
    published = (folder / "nodes" / "ca" / "peers" / "FR.json").read_bytes()
    (folder / "peer").mkdir()
    peer = folder / "peer" / "FR.json"
    yield Target("Peer.read", 10, [published], mutate.of_json, file_decoder(peer, Peer.read))
    yield Target("load_trust", 10, [published], mutate.of_json, file_decoder(peer, load_trust))
    (folder / "config").mkdir()
    config = file_decoder(folder / "config" / "node.toml", lambda path: load_config(path.parent))
    yield Target("load_config", 3, [(home / "node.toml").read_bytes()], mutate.of_lines, config)
    pem = (home / "signing.key").read_bytes()
    public = load_identity(home).signing.verify_key.to_pem().encode()
    text = (LineupError, UnicodeDecodeError)  # files are read as text by the caller
    yield Target("SigningKey.from_pem", 10, [pem], mutate.of_lines, lambda d: SigningKey.from_pem(d.decode()), text)
    yield Target("VerifyKey.from_pem", 10, [public], mutate.of_lines, lambda d: VerifyKey.from_pem(d.decode()), text)
    storage = file_decoder(folder / "storage.key", StorageKey.from_file)
    yield Target("StorageKey.from_file", 10, [(home / "storage.key").read_bytes()], mutate.of_lines, storage)
    certificate = file_decoder(folder / "tls.pem", lambda path: check_certificate(path, "FR"))
    yield Target("check_certificate", 5, [(home / "tls.pem").read_bytes()], mutate.of_lines, certificate)
    request = SearchRequest(bytes(128), bytes(32), ("ES", "DE"), "0.55", "case", "offence", 5.0, "a", "b")
    report = SearchReport("FR-1", ("00",), {"ES": HolderAnswer("candidates", (Released("a"),), "0.55")}, 0.5, 0.5)
    refused = (LineupError, *MALFORMED)  # `nodes.service.refusals` answers 400
    for kind, value in ((SearchRequest, request), (SearchReport, report)):
        yield Target(kind.__name__, 25, [msgspec.json.encode(value)], mutate.of_json, _json(kind), refused)


def _json(kind: type[Any]) -> Callable[[bytes], object]:
    return lambda data: msgspec.json.decode(data, type=kind)


def _faces(folder: Path) -> Iterator[Target]:
    path = folder / "gallery.npy"
    spec = ModelSpec("0" * 64, "1" * 64, "insightface-5pt-112", 128, 248)
    rows = np.eye(128, dtype=np.float32)[:2]
    save_templates(path, rows, spec, ["a.jpg", "b.jpg"])
    (folder / "sidecar").mkdir()
    save_templates(folder / "sidecar" / "g.npy", rows, spec, ["a.jpg", "b.jpg"])
    sidecar = folder / "sidecar" / "g.npy.model.json"
    templates = file_decoder(folder / "t.npy", lambda file: load_templates(file, what="gallery").sum())
    yield Target("load_templates", 5, [path.read_bytes()], mutate.of_bytes, templates)
    reader = file_decoder(sidecar, lambda _: read_model_spec(folder / "sidecar" / "g.npy"))
    yield Target("read_model_spec", 10, [sidecar.read_bytes()], mutate.of_json, reader)
    yield Target("ModelSpec.from_json", 20, [spec.to_json().encode()], mutate.of_json,
                 ModelSpec.from_json)  # fmt: skip
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 255, (16, 16, 3), np.uint8))
    for kind in ("JPEG", "PNG", "BMP", "WEBP"):
        file = folder / f"photo.{kind.lower()}"
        picture.save(file, kind)
        yield Target(f"read_photo, {kind}", 2, [file.read_bytes()], mutate.of_bytes, file_decoder(file, read_photo))


def memory_folder() -> str | None:
    """Where files are cheap."""
    return "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
