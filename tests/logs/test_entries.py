"""What an entry of a log may be, what a disclosed one shows, and that GCM's lack of a commitment is made good."""

from __future__ import annotations

import struct
from pathlib import Path

import msgspec
import pytest
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from nodes.logs.checkpoints import BadCheckpoint, check_disclosure
from nodes.logs.entries import ArticleForty, TranscriptEntry, decode_entry, decrypt_record, encode_entry
from nodes.logs.errors import DisclosureRefused, EntryRefused
from nodes.logs.log import TamperEvidentLog
from pets.merkle import MerkleTree, hash_leaf
from pets.prf import derive_key, encode_labels
from tests.kit.logs import DAY, START, TRUST, article, frames, message, opened

# Schemas.


def test_the_article_40_log_has_exactly_requirement_9s_fields() -> None:
    assert ArticleForty.__struct_fields__ == ("requester", "request_time", "reply_time", "asked", "replied")


def test_the_transcript_log_has_exactly_its_fields() -> None:
    fields = ("query", "phase", "direction", "peer", "message", "sequence", "frame", "signature", "time")
    assert TranscriptEntry.__struct_fields__ == fields


def test_entries_of_both_schemas_come_back() -> None:
    for entry in (article(), article(3, ()), ArticleForty("FR", 0, None, (), ())):
        assert decode_entry(encode_entry(entry, "article-40"), "article-40") == entry
    for message_entry in (message(1), message(2, b"signature")):
        assert decode_entry(encode_entry(message_entry, "transcript"), "transcript") == message_entry


@pytest.mark.parametrize(
    "values",
    [
        ["FR", START, START + 1, ["DE"], ["DE"], "extra"],
        ["FR", START, START + 1, ["DE"]],
        ["FR", str(START), START + 1, ["DE"], ["DE"]],
        ["FR", -1, START + 1, ["DE"], ["DE"]],
        ["FR", float(START), START + 1, ["DE"], ["DE"]],
        ["fr", START, START + 1, ["DE"], ["DE"]],
        ["A person's name", START, START + 1, ["DE"], ["DE"]],
        ["FR", START, START + 1, ["DE", "DE"], ["DE"]],
        ["FR", START, START + 1, ["HU", "DE"], ["DE"]],
        ["FR", START, START + 1, ["DE"], ["HU"]],
        ["FR", START, None, ["DE"], ["DE"]],
        ["FR", START, START + 1, ["DE"], []],
        ["FR", START, START - 1, ["DE"], ["DE"]],
        {"requester": "FR"},
    ],
)
def test_what_does_not_fit_the_article_40_schema_is_refused(values: object) -> None:
    with pytest.raises(EntryRefused):
        decode_entry(msgspec.msgpack.encode(values), "article-40")


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("query", b"short"),
        ("phase", "Free text about a person"),
        ("direction", "lost"),
        ("peer", ""),
        ("message", "no message"),
        ("sequence", 2**32),
        ("sequence", True),
        ("frame", bytes(31)),
        ("signature", b""),
        ("signature", bytes(4097)),
        ("time", 2**47),
        ("time", 1.5),
        ("phase", object()),
    ],
)
def test_what_does_not_fit_the_transcript_schema_is_refused(log: TamperEvidentLog, field: str, value: object) -> None:
    with pytest.raises(EntryRefused):
        log.append([message(0), msgspec.structs.replace(message(1), **{field: value})], START)
    assert log.size == 0


def test_bytes_that_are_not_canonical_are_refused() -> None:
    data = encode_entry(message(5), "transcript")
    longer = data.replace(b"\xa9ProbePart\x05", b"\xa9ProbePart\xcc\x05")  # 5 in two bytes instead of one
    assert msgspec.msgpack.decode(longer, type=TranscriptEntry) == message(5)  # the control: msgspec takes it
    with pytest.raises(EntryRefused, match="canonical"):
        decode_entry(longer, "transcript")


def test_an_entry_of_the_other_schema_is_refused(log: TamperEvidentLog) -> None:
    with pytest.raises(EntryRefused, match="ArticleForty"):
        log.append([article()], START)


def test_an_entry_that_is_built_wrongly_is_refused(tmp_path: Path) -> None:
    with TamperEvidentLog.create(tmp_path / "log", "article-40", "RELAY", TRUST, START) as made:
        listed = ArticleForty("FR", START, START, ["DE"], ["DE"])  # type: ignore[arg-type]
        with pytest.raises(EntryRefused):
            made.append([listed], START)
    with pytest.raises(ValueError, match="not asked"):
        article(0, ("XX",))


# The tree, proofs and disclosures.


def test_the_root_is_rfc_9162s_over_the_records(ten: Path) -> None:
    tree = MerkleTree()
    for record in frames(ten / "entries")[1:]:
        tree.append(hash_leaf(record))
    with opened(ten) as log:
        assert (log.size, log.root) == (10, tree.root())
        assert [log.read(n) for n in range(10)] == [message(n) for n in range(10)]


def test_a_disclosed_entry_holds_and_nothing_else_does(ten: Path) -> None:
    with opened(ten) as log:
        checkpoint = log.checkpoint(START + DAY)
        disclosure, header = log.disclose(4, 10), log.header
        other = log.disclose(5, 10)
        earlier = log.checkpoint_number(1)
    assert check_disclosure(disclosure, header, checkpoint) == message(4)
    for field, value in (
        ("index", 5),
        ("created", disclosure.created + 1),
        ("record", other.record),
        ("record", disclosure.record[:-1]),
        ("secret", other.secret),
        ("size", 9),
        ("path", other.path),
        ("path", disclosure.path[:-1]),
    ):
        with pytest.raises(DisclosureRefused):
            check_disclosure(msgspec.structs.replace(disclosure, **{field: value}), header, checkpoint)
    with pytest.raises(DisclosureRefused, match="checkpoint of 4"):
        check_disclosure(disclosure, header, earlier)
    with pytest.raises(BadCheckpoint):
        check_disclosure(disclosure, msgspec.structs.replace(header, owner="OTHER"), checkpoint)


def test_records_do_not_tell_how_many_databases_replied(tmp_path: Path) -> None:
    with TamperEvidentLog.create(tmp_path / "log", "article-40", "RELAY", TRUST, START) as made:
        made.append([article(0, ()), article(1), ArticleForty("FR", 0, None, (), ())], START)
    assert {len(record) for record in frames(tmp_path / "log" / "entries")[1:]} == {32 + 256 + 16}


# GCM does not commit to its key. Blocks as in NIST SP 800-38D, section 6: bit 0 is the leftmost.


def times(x: int, y: int) -> int:
    product = 0
    for i in range(128):
        if x >> (127 - i) & 1:
            product ^= y
        y = y >> 1 ^ (0xE1 << 120 if y & 1 else 0)
    return product


def inverse(x: int) -> int:
    result = 1 << 127
    for _ in range(127):
        x = times(x, x)
        result = times(result, x)
    return result


def block(key: bytes, counter: int) -> int:
    encryptor = Cipher(algorithms.AES(key), modes.ECB()).encryptor()
    return int.from_bytes(encryptor.update(counter.to_bytes(16, "big")), "big")


def tag_without_last_block(key: bytes, aad: bytes, blocks: list[bytes]) -> tuple[int, int]:
    """(the tag if the last block of text were zero, what that block is multiplied with)."""
    h, total = block(key, 0), 0
    padded = aad + bytes(-len(aad) % 16)
    parts = [padded[at : at + 16] for at in range(0, len(padded), 16)]
    parts += [*blocks, bytes(16), struct.pack(">QQ", 8 * len(aad), 128 * (len(blocks) + 1))]
    for part in parts:
        total = times(total ^ int.from_bytes(part, "big"), h)
    return total ^ block(key, 1), times(h, h)


def test_an_entry_cannot_be_made_to_open_under_two_secrets(log: TamperEvidentLog) -> None:
    secrets = bytes(32), bytes([1]) * 32
    keys = [derive_key(secret, "log-entry", log.header.log, 0) for secret in secrets]
    aad = encode_labels("blind-lineup/log-entry/v1", log.header.log, 0, START)
    blocks = [bytes([n]) * 16 for n in range(15)]
    (one, p), (other, q) = (tag_without_last_block(key, aad, blocks) for key in keys)
    last = times(one ^ other, inverse(p ^ q))
    sealed = b"".join(blocks) + last.to_bytes(16, "big") + (one ^ times(last, p)).to_bytes(16, "big")
    texts = {AESGCM(key).decrypt(bytes(12), sealed, aad) for key in keys}
    assert len(texts) == 2  # the control: GCM alone takes both
    with pytest.raises(InvalidTag):
        AESGCM(keys[0]).decrypt(bytes(12), sealed, aad + b"x")
    record = derive_key(secrets[0], "log-commitment", log.header.log, 0) + sealed
    with pytest.raises(DisclosureRefused, match="another secret"):
        decrypt_record(record, secrets[1], log.header, 0, START)
