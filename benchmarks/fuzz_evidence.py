"""The decoders of evidence and logs (`benchmarks.fuzz_targets` has the others), and what a target is."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import msgspec

from benchmarks import fuzz_mutate as mutate
from nodes.evidence.export import sign_bundle
from nodes.evidence.recorder import read_records
from nodes.identity.identity import load_identity
from nodes.logs.checkpoints import decode_checkpoint
from nodes.logs.entries import RECORD_LIMIT, ArticleForty, decode_entry, decode_header, decrypt_record, encode_entry
from nodes.logs.frames import FrameFile
from nodes.logs.holds import HoldOrder, LiftOrder, decode_order
from nodes.logs.keys import KeySlots
from nodes.logs.of_node import open_log
from nodes.service import gossip
from nodes.verify.format import Bundle, EvidenceRefused, Witnessed, decode_bundle
from nodes.verify.verdict import verify_bundles
from pets.errors import MALFORMED, LineupError
from tests.kit.evidence import ES, EU, FR, World


@dataclass(frozen=True)
class Target:
    """`share`: how many cases of a thousand. `errors`: what it may raise and nothing else."""

    name: str
    share: int
    seeds: list[bytes]
    mutation: mutate.Mutation
    decode: Callable[[bytes], object]
    errors: tuple[type[Exception], ...] = (LineupError,)


def file_decoder(path: Path, read: Callable[[Path], object], mode: int = 0o600) -> Callable[[bytes], object]:
    """A decoder that wants a path."""

    def decode(data: bytes) -> object:
        path.write_bytes(data)
        path.chmod(mode)
        return read(path)

    return decode


def log_file(path: Path) -> object:
    with closing(FrameFile(path, RECORD_LIMIT)) as payloads:
        whole = list(payloads.scan())
        return whole, payloads.torn_by_one_write(), payloads.torn_bytes


def evidence(folder: Path) -> Iterator[Target]:
    """Bundles, records, checkpoints, entries, holds, whole files of a log."""
    world = World.make(folder / "world")
    query = world.query((ES,))
    files = list(world.bundles(query, (FR, EU, ES)).values())
    small = []
    for data in files:  # whole bundles are some 100 KB; a few records and entries have the same structure
        signed, bundle = decode_bundle(data)
        log = msgspec.structs.replace(bundle.log, entries=bundle.log.entries[:2])
        cut = msgspec.structs.replace(bundle, records=bundle.records[:3], log=log)
        small.append((signed, msgspec.msgpack.encode(cut)))

    def outer(data: bytes) -> object:
        return decode_bundle(data)

    def inner(content: bytes) -> object:
        return decode_bundle(msgspec.msgpack.encode(msgspec.structs.replace(small[0][0], content=content)))

    outers = [msgspec.msgpack.encode(msgspec.structs.replace(signed, content=content)) for signed, content in small]
    yield Target("decode_bundle", 20, outers, mutate.of_msgpack, outer)
    yield Target("decode_bundle, content", 60, [content for _, content in small], mutate.of_msgpack, inner)

    def verified(content: bytes) -> object:
        """What the owner itself changed and signed again: a verdict must come, whatever it is."""
        try:
            bundle = msgspec.msgpack.decode(content, type=Bundle)
        except MALFORMED as error:
            raise EvidenceRefused(str(error)) from None
        return verify_bundles([decode_bundle(sign_bundle(bundle, world.identities[FR].signing))], world.trust).holds

    yield Target("verify_bundles", 1, [decode_bundle(files[0])[0].content], mutate.of_msgpack, verified)
    records = (world.root / ES / "evidence" / query.hex()).read_bytes()[:4000]
    reader = file_decoder(folder / "records", read_records)
    yield Target("read_records", 20, [records], mutate.of_bytes, reader, (LineupError, *MALFORMED))
    identity = load_identity(world.root / EU)
    with open_log(identity, world.root / EU, "transcript") as journal:
        checkpoints = [msgspec.msgpack.encode(journal.checkpoint_number(k)) for k in range(2)]
        header, disclosed = journal.header, journal.disclose(0, journal.size)
        entry = encode_entry(journal.read(0), "transcript")
    article = encode_entry(ArticleForty(FR, 1, 2, (EU, FR), (EU,)), "article-40")
    yield Target("decode_checkpoint", 40, checkpoints, mutate.of_msgpack, decode_checkpoint)
    yield Target("decode_header", 30, [msgspec.msgpack.encode(header)], mutate.of_msgpack, decode_header)
    told = [msgspec.msgpack.encode((Witnessed(header, decode_checkpoint(data)),)) for data in checkpoints]
    yield Target("gossip", 30, told, mutate.of_msgpack, lambda data: gossip._decode(data, gossip.Told, ES))
    yield Target("decode_entry", 50, [entry], mutate.of_msgpack, lambda data: decode_entry(data, "transcript"))
    yield Target("decode_entry, Article 40", 50, [article], mutate.of_msgpack,
                 lambda data: decode_entry(data, "article-40"))  # fmt: skip
    orders = [HoldOrder(bytes(32), 0, 0, None, 5, bytes(64)), LiftOrder(bytes(32), 0, 5, bytes(64))]
    yield Target("decode_order", 40, [msgspec.msgpack.encode(order) for order in orders], mutate.of_msgpack,
                 decode_order)  # fmt: skip

    def record(data: bytes) -> object:
        return decrypt_record(data, disclosed.secret, header, 0, disclosed.created)

    yield Target("decrypt_record", 20, [disclosed.record], mutate.of_bytes, record)
    place = identity.config.paths.logs / "transcript"
    log_reader = file_decoder(folder / "entries", log_file)
    yield Target("log file", 15, [(place / "entries").read_bytes()[:3000]], mutate.of_bytes, log_reader)

    def slots(path: Path) -> object:
        keys = KeySlots(path, header.log, 20)
        try:
            return [keys.get(index) for index in range(25)], list(keys.missing()), keys.orphans
        finally:
            keys.close()

    key_reader = file_decoder(folder / "keys", slots)
    yield Target("log keys", 10, [(place / "keys").read_bytes()[: 64 * 20]], mutate.of_bytes, key_reader)
