"""Bundles of several parties side by side: forged, of an impostor, no bundles at all, or telling two tales."""

from __future__ import annotations

import os
import random
from pathlib import Path

import msgspec
import pytest

from nodes.verify import EvidenceRefused, verify_bundles
from nodes.verify.format import SignedBundle, decode_bundle
from nodes.verify.trust import TrustRefused, load_trust
from pets.signatures import SigningKey
from protocol import holder
from protocol.messages import FilterBlock
from protocol.steps import Send
from tests.kit.evidence import DE, ES, EU, FR, World, failures, sends_instead
from tests.kit.stories import Files, Story, first, verified


def other_block_to_the_router(effect: Send) -> Send:
    """One residue of every c1 changed on its way to the router."""
    if effect.to != EU or not isinstance(effect.message, FilterBlock):
        return effect
    data = bytearray(effect.message.data)
    data[0] ^= 1
    return Send(EU, FilterBlock(memoryview(bytes(data))))


def test_a_holder_that_sent_two_c1_is_found_from_the_bundles_of_requester_and_router(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A real query: both frames are well signed, and frames differ anyway, for each names its receiver."""
    monkeypatch.setattr(holder, "holder_filters", sends_instead(holder.holder_filters, other_block_to_the_router))
    files = world.bundles(world.query((ES,)), (FR, EU))
    failed = failures(verified(world, files))
    assert list(failed) == ["same-content"]
    assert "ES → EU" in failed["same-content"]
    assert "(FilterBlock)" in failed["same-content"]


def test_control_one_bundle_does_not_show_two_c1_and_says_so(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(holder, "holder_filters", sends_instead(holder.holder_filters, other_block_to_the_router))
    report = verified(world, world.bundles(world.query((ES,)), (EU,)))
    assert report.holds
    assert "same-content" in {check.id for check in report.checks if check.status == "not-checkable"}


def test_another_probe_to_another_holder_is_found(world: World, joint: Files) -> None:
    story = Story.read(world, joint)
    said = first(story, "ProbePart", FR, DE, DE)
    said.content = os.urandom(32)
    failed = failures(verified(world, story.tell()))
    assert "FR → DE" in failed["same-content"]


# Bundles and identities.


def _signed(data: bytes, **changes: object) -> bytes:
    signed = msgspec.msgpack.decode(data, type=SignedBundle)
    return msgspec.msgpack.encode(msgspec.structs.replace(signed, **changes))


def test_a_forged_bundle_signature_is_found(world: World, files: Files) -> None:
    failed = failures(verified(world, files | {ES: _signed(files[ES], signature=os.urandom(3373))}))
    assert list(failed) == ["bundle-signature"]
    assert "bundle of ES" in failed["bundle-signature"]


def test_a_bundle_of_an_impostor_is_found(world: World, story: Story) -> None:
    story.originals[ES] = msgspec.structs.replace(
        story.originals[ES],
        owner=msgspec.structs.replace(
            story.originals[ES].owner, verify_key=SigningKey.generate().verify_key.to_bytes()
        ),
    )
    failed = failures(verified(world, story.tell()))
    assert "signed with another key" in failed["identity"]
    assert "bundle-signature" in failed


def test_a_party_that_is_not_trusted_or_not_announced_is_found(world: World, files: Files, story: Story) -> None:
    trust = {name: party for name, party in world.trust.items() if name != EU}
    failed = failures(verified(world, files, trust))
    assert "EU is not in the trust list" in failed["identity"]
    assert "EU is not in the trust list" in failed["phase-signature"]
    story.originals[EU] = msgspec.structs.replace(
        story.originals[EU], owner=msgspec.structs.replace(story.originals[EU].owner, role="holder")
    )
    assert "the announcement makes it router" in failures(verified(world, story.tell()))["identity"]


@pytest.mark.parametrize(
    "broken",
    [b"", b"\x80", os.urandom(100), b"\xc1" * 50],
    ids=["nothing", "an empty map", "random", "no MessagePack"],  # random bytes as an id would never be found again
)
def test_what_is_no_bundle_is_refused(broken: bytes) -> None:
    with pytest.raises(EvidenceRefused):
        verify_bundles([broken])


def test_another_version_an_unknown_field_and_other_forms_are_refused(files: Files) -> None:
    plain = msgspec.msgpack.decode(files[ES])
    content = msgspec.msgpack.decode(plain["content"])
    for changes in (
        {"version": 3},
        {"format": "other"},
        {"extra": 1},
        {"content": msgspec.msgpack.encode({**content, "score": 1})},
        {"content": plain["content"] + b"\x00"},
        {"content": msgspec.msgpack.encode(dict(reversed(content.items())))},
    ):
        with pytest.raises(EvidenceRefused):
            decode_bundle(msgspec.msgpack.encode({**plain, **changes}))
    with pytest.raises(EvidenceRefused):
        verify_bundles([])


@pytest.mark.slow
def test_whatever_a_bundle_says_the_verifier_answers(world: World, story: Story) -> None:
    """Random omissions, repetitions, swaps and moved sessions: a verdict, never a crash."""
    rng = random.Random(1)
    broken = 0
    originals = {name: bundle.records for name, bundle in story.originals.items()}
    for _ in range(40):
        name = rng.choice([FR, EU, ES])
        records = list(originals[name])
        for _ in range(rng.randint(1, 6)):
            index = rng.randrange(len(records))
            match = rng.randrange(5)
            if match == 0:
                del records[index : index + rng.randint(1, 30)]
            elif match == 1:
                records.insert(index, records[rng.randrange(len(records))])
            elif match == 2:
                other = rng.randrange(len(records))
                records[index], records[other] = records[other], records[index]
            elif match == 3:
                records[index] = msgspec.structs.replace(records[index], session=rng.choice(["", ES, DE, "XX"]))
            else:
                records[index] = msgspec.structs.replace(records[index], peer=rng.choice([FR, EU, ES, DE, "XX"]))
            if not records:
                break
        report = verify_bundles([story.seal(name, records)], world.trust)
        assert report.checks
        broken += not report.holds
    assert broken > 25, "most of it breaks a rule; exchanging messages of two links may be harmless"


# Answered once.


def test_two_bundles_of_one_party_that_differ_are_found(world: World, files: Files, story: Story) -> None:
    said = first(story, "ConfirmationAnswer", EU, ES)
    story.differ(said, EU)
    other = story.tell()[EU]
    failed = failures(verify_bundles([files[EU], other], world.trust))
    assert "EU shows two different messages in this place" in failed["answered-once"]
    assert "ConfirmationAnswer" in failed["answered-once"]


def test_an_announcement_that_serves_two_queries_is_found(world: World, files: Files, story: Story) -> None:
    again = Story.read(world, world.bundles(world.query((ES,)), (FR, EU, ES)))
    for said in again.find("Announce"):
        said.message = story.find("Announce")[0].message
    failed = failures(verify_bundles([*files.values(), *again.tell().values()], world.trust))
    for what in ("announcement", "nonce", "seed of the probe"):
        assert f"{what} of query {story.query.hex()[:8]} again" in failed["answered-once"]


def test_trust_refuses_what_is_not_signed_by_itself(world: World, tmp_path: Path) -> None:
    folder = tmp_path
    with pytest.raises(TrustRefused, match="no public identities"):
        load_trust(folder)
    source = (world.root / "authority" / "peers" / "ES.json").read_bytes()
    assert load_trust(world.root / "authority" / "peers" / "ES.json")[ES].role == "holder"
    (folder / "ES.json").write_bytes(source.replace(b'"holder"', b'"router"'))
    with pytest.raises(TrustRefused, match="does not hold"):
        load_trust(folder)
    (folder / "ES.json").write_bytes(source)
    (folder / "copy.json").write_bytes(source)
    with pytest.raises(TrustRefused, match="twice"):
        load_trust(folder)
