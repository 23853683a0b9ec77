"""Bundles of several parties side by side: forged, of an impostor, no bundles at all, or telling two tales."""

from __future__ import annotations

import os
import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import pytest

from nodes.evidence.export import sign_bundle
from nodes.verify import EvidenceRefused, verify_bundles
from nodes.verify.format import SignedBundle, decode_bundle
from nodes.verify.trust import TrustRefused, load_trust
from pets.signatures import SigningKey
from protocol import filtering, searching
from protocol.messages import MaskedScores
from protocol.roles import Seat
from protocol.steps import Send, Step
from tests.kit.evidence import DE, ES, EU, FR, World, at_seat, failures, sends_instead, wrong_answer
from tests.kit.stories import Files, Story, first, verified
from tests.kit.trio import copied


def other_scores_to_the_router(effect: Send) -> Send:
    """One bit of e changed on its way to the router."""
    if effect.to != EU or not isinstance(effect.message, MaskedScores):
        return effect
    data = bytearray(effect.message.data)
    data[0] ^= 1
    return Send(EU, MaskedScores(memoryview(bytes(data))))


def lying_holder(monkeypatch: pytest.MonkeyPatch) -> None:
    publishes = sends_instead(searching.holder_publishes, other_scores_to_the_router)
    monkeypatch.setattr(searching, "holder_publishes", publishes)


def test_a_holder_that_sent_two_e_is_found_from_the_bundles_of_requester_and_router(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A real query: both frames are well signed, and frames differ anyway, for each names its receiver."""
    lying_holder(monkeypatch)
    failed = failures(verified(world, world.bundles(world.query((ES,)), (FR, EU))))
    assert list(failed) == ["same-content", "compared"]
    assert "ES → EU" in failed["same-content"]
    assert "(MaskedScores)" in failed["same-content"]
    assert "ES did not send the same to FR and EU" in failed["compared"]


def test_control_one_bundle_does_not_show_two_e_and_says_so(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """The router's bundle shows that the two did not get the same, and not what either of them got."""
    lying_holder(monkeypatch)
    report = verified(world, world.bundles(world.query((ES,)), (EU,)))
    assert list(failures(report)) == ["compared"]
    assert "same-content" in {check.id for check in report.checks if check.status == "not-checkable"}


def test_a_router_that_confirms_wrongly_is_found_beside_the_requester(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both must answer alike. The query is frozen, and the bundles say that one of the two lied."""
    monkeypatch.setattr(
        searching, "key_owner_confirms", at_seat(Seat.ROUTER, searching.key_owner_confirms, wrong_answer)
    )
    files = world.bundles(world.query((ES,)), (FR, EU, ES))
    failed = failures(verified(world, files))
    assert list(failed) == ["same-content"]
    assert "(ConfirmationAnswer)" in failed["same-content"]


@pytest.mark.parametrize(
    ("kind", "rule"), [("Difference", "one-probe"), ("MaskPart", "one-mask"), ("KeySeed", "one-key")]
)
def test_what_another_holder_was_told_otherwise_is_found(kind: str, rule: str, world: World, joint: Files) -> None:
    """Another face, mask or key in one ring than in the other."""
    story = Story.read(world, joint)
    part = story if story.find(kind) else story.made
    (said, *_) = part.find(kind, FR, DE)
    said.content = os.urandom(32)
    failed = failures(verified(world, story.tell()))
    assert "FR → DE" in failed[rule]


@pytest.mark.parametrize(("kind", "rule"), [("DifferenceDigest", "one-probe"), ("MaskDigest", "one-mask")])
def test_a_router_that_was_told_of_two_faces_or_masks_is_found(
    kind: str, rule: str, world: World, joint: Files
) -> None:
    story = Story.read(world, joint)
    part = story if story.find(kind) else story.made
    (said, *_) = part.find(kind, DE, EU)
    said.message = msgspec.structs.replace(said.message, **{said.message.__struct_fields__[0]: bytes(32)})
    assert "DE → EU" in failures(verified(world, story.tell()))[rule]


# One preparation, one search.


def test_a_preparation_that_served_two_searches_is_found(world: World) -> None:
    """All parties were restored from a backup: real evidence of two searches with one mask."""
    made = world.prepare((ES,))
    again = replace(made, preparation=copied(made.preparation))  # type: ignore[arg-type]
    files = [world.bundles(world.query((ES,), made=one), (FR, EU, ES)) for one in (made, again)]
    for each in files:
        assert failures(verified(world, each)) == {}, "either alone is in order"
    failed = failures(verify_bundles([data for each in files for data in each.values()], world.trust))
    assert list(failed) == ["preparation-once"]
    for name in (FR, EU, ES):
        assert f"{name} used it in 2 searches" in failed["preparation-once"]


def test_control_a_search_that_was_refused_did_not_use_its_preparation(world: World) -> None:
    """The router says no, for it has another preparation; the requester searches with it where it is known."""
    made, other = world.prepare((ES,)), world.prepare((ES,))
    assert made.preparation is not None
    assert other.preparation is not None
    stranger = replace(made, preparation=replace(made.preparation, router=other.preparation.router))
    refused = world.query((ES,), made=stranger)
    answered = world.query((ES,), made=made)
    files = [*world.bundles(refused, (FR, EU)).values(), *world.bundles(answered, (FR, EU, ES)).values()]
    assert failures(verify_bundles(files, world.trust)) == {}


def test_nobody_is_accused_of_a_second_use_by_another_alone(world: World, files: Files) -> None:
    """ES invents a second search that all accepted. Nothing of it is signed by anybody else."""
    story = Story.read(world, files)
    invented = Story.read(world, world.bundles(world.query((ES,)), (ES,)))
    (said,) = invented.find("Search")
    named = story.find("Search")[0].message.preparation
    said.message = msgspec.structs.replace(said.message, preparation=named)
    invented.timelines[ES] = [told for told in invented.timelines[ES] if told[0].kind in ("Search", "Joined")]
    failed = failures(verify_bundles([*files.values(), *invented.tell().values()], world.trust))
    assert "preparation-once" in failed
    assert "ES used it in 2 searches" in failed["preparation-once"]
    assert "EU" not in failed["preparation-once"]
    assert "FR" not in failed["preparation-once"]
    assert "FR did not sign it" in failed["announcement"]


def test_gates_without_the_comparison_are_found(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Requester and router, together, save themselves a message: real evidence of it."""

    def none(ring: Any, digest: bytes) -> Step[None]:
        return
        yield

    monkeypatch.setattr(searching, "same_from_holder", none)
    monkeypatch.setattr(filtering, "same_from_holder", none)
    failed = failures(verified(world, world.bundles(world.query((ES,)), (FR, EU, ES))))
    assert {"order", "compared"} <= set(failed)
    assert "before it was compared what ES had sent to both" in failed["compared"]


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
        {"version": 4},
        {"version": 6},
        {"format": "other"},
        {"extra": 1},
        {"content": msgspec.msgpack.encode({**content, "score": 1})},
        {"content": plain["content"] + b"\x00"},
        {"content": msgspec.msgpack.encode(dict(reversed(content.items())))},
    ):
        with pytest.raises(EvidenceRefused):
            decode_bundle(msgspec.msgpack.encode({**plain, **changes}))
    with pytest.raises(EvidenceRefused, match="evidence format version 4; this verifier reads 5"):
        decode_bundle(msgspec.msgpack.encode({**plain, "version": 4}))
    with pytest.raises(EvidenceRefused):
        verify_bundles([])


def test_what_is_inside_a_bundle_is_as_strictly_read(world: World, files: Files) -> None:
    bundle = decode_bundle(files[ES])[1]
    for inside in (b"", b"nothing", files[ES]):
        forged = msgspec.structs.replace(bundle, preparation=inside)
        with pytest.raises(EvidenceRefused):
            decode_bundle(sign_bundle(forged, world.identities[ES].signing))


def test_a_preparation_of_another_party_inside_a_bundle_is_found(world: World, files: Files) -> None:
    """Each must show its own records."""
    bundle = msgspec.structs.replace(decode_bundle(files[ES])[1], preparation=decode_bundle(files[EU])[1].preparation)
    failed = failures(verified(world, files | {ES: sign_bundle(bundle, world.identities[ES].signing)}))
    assert "bundle of ES: it does not show preparation" in failed["preparation"]


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
                records[index] = msgspec.structs.replace(records[index], session=rng.choice(["*", ES, DE, "XX"]))
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
    for said in again.find("Search"):
        said.message = story.find("Search")[0].message
    failed = failures(verify_bundles([*files.values(), *again.tell().values()], world.trust))
    for what in ("announcement", "nonce"):
        assert f"{what} of query {story.query.hex()[:8]} again" in failed["answered-once"]


@pytest.mark.parametrize(("kind", "field"), [("Prepare", "seed_digest"), ("JoinedPreparation", "seed")])
def test_a_seed_that_serves_two_preparations_is_found(kind: str, field: str, world: World, files: Files) -> None:
    story = Story.read(world, files).made
    again = Story.read(world, world.bundles(world.query((ES,)), (FR, EU, ES)))
    seed = next(getattr(said.message, field) for said in story.find(kind) if getattr(said.message, field))
    for said in again.made.find(kind):
        if getattr(said.message, field):
            said.message = msgspec.structs.replace(said.message, **{field: seed})
    failed = failures(verify_bundles([*files.values(), *again.tell().values()], world.trust))
    assert f"seed of preparation {story.query.hex()[:8]} again" in failed["answered-once"]


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
