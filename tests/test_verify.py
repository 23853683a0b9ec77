"""Every rule of the verifier, and a story in which exactly that rule is broken."""

from __future__ import annotations

import math
import os
import random
import subprocess
import sys
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from nodes.evidence import sign_bundle
from nodes.verify import Bundle, EvidenceRefused, Report, verify_bundles
from nodes.verify import table as own_table
from nodes.verify.case import announce_statement
from nodes.verify.format import SignedBundle, Witnessed, decode_bundle
from nodes.verify.ledger import leakage, totals
from nodes.verify.trust import Party, TrustRefused, load_trust
from nodes.verify.verdict import RULES, make_cases
from pets import params
from pets.merkle import MerkleTree
from pets.prf import labelled_hash
from pets.signatures import SigningKey
from protocol import filter as filtering
from protocol import holder, router, wire
from protocol.gallery import Gallery
from protocol.messages import AdmissionBit, Announce, ConfirmationAnswer, FilterBlock, Joined, PowerSums, Warrant
from protocol.steps import Send
from protocol.terms import Terms
from tests.evidence import DE, DIM, ES, EU, FR, Said, Story, World, log_of, shared_world, signed_checkpoint
from tests.galleries import unit_rows
from tests.ring import RING

Files = dict[str, bytes]


@pytest.fixture(scope="module")
def world() -> World:
    return shared_world()


@pytest.fixture(scope="module")
def files(world: World) -> Files:
    """All bundles of one query: ES releases two candidates after a climb."""
    return world.bundles(world.query((ES,)), (FR, EU, ES))


@pytest.fixture(scope="module")
def joint(world: World) -> Files:
    """All bundles of one joint query: besides, DE finds nothing."""
    return world.bundles(world.query())


@pytest.fixture
def story(world: World, files: Files) -> Story:
    return Story.read(world, files)


def verified(world: World, files: Files, trust: dict[str, Party] | None = None) -> Report:
    return verify_bundles(list(files.values()), world.trust if trust is None else trust)


def failures(report: Report) -> dict[str, str]:
    return {check.id: "\n".join(check.details) for check in report.failed}


# The truth.


def test_an_honest_query_holds_and_everything_about_it_can_be_checked(world: World, joint: Files) -> None:
    report = verified(world, joint)
    assert failures(report) == {}
    assert report.holds
    assert [check.id for check in report.checks] == [rule.id for rule in RULES], "each rule passes, none stays open"


def test_the_same_story_told_again_holds(world: World, story: Story) -> None:
    assert failures(verified(world, story.tell())) == {}


def test_one_bundle_alone_holds_and_says_what_it_cannot_show(world: World, joint: Files) -> None:
    for name, data in joint.items():
        report = verified(world, {name: data})
        assert failures(report) == {}
        open_checks = {check.id: check.details for check in report.checks if check.status == "not-checkable"}
        assert "both-ends" in open_checks
        assert any("no bundle of" in line for line in open_checks["identity"])


def test_without_a_trust_list_the_report_shows_fingerprints_to_compare(files: Files, world: World) -> None:
    report = verify_bundles(list(files.values()))
    assert report.holds
    (check,) = [check for check in report.checks if check.status == "not-checkable"]
    assert check.id == "identity"
    assert any(world.identities[ES].peer.fingerprint in line for line in check.details)


def test_a_refused_probe_holds(world: World) -> None:
    """Admission says no: nothing was opened, and the evidence is whole."""
    bad = np.full(DIM, 30, np.int8)  # far too long

    def attack(requester: object, holders: object) -> None:
        requester.submit = lambda template: requester._submit(bad)  # type: ignore[attr-defined]

    query = world.query((ES,), attack=attack)
    report = verified(world, world.bundles(query, (FR, EU, ES)))
    assert failures(report) == {}
    assert not any(record.kind == "PowerSums" for record in decode_bundle(world.bundles(query, (EU,))[EU])[1].records)


def test_a_frozen_query_holds(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """The router answers the confirmation wrongly: the holder stops, nothing is released, and the evidence is whole."""
    honest = router.key_owner_confirms

    def lying(*arguments: Any) -> Any:
        step, value = honest(*arguments), None
        while True:
            try:
                effect = step.send(value)
            except StopIteration as end:
                return end.value
            if isinstance(effect, Send) and isinstance(effect.message, ConfirmationAnswer):
                effect = Send(effect.to, ConfirmationAnswer(bytes([0, effect.message.data[1] ^ 64, 0, 0]) * 60))
            value = yield effect

    monkeypatch.setattr(router, "key_owner_confirms", lying)
    files = world.bundles(world.query((ES,)), (FR, EU, ES))
    assert failures(verified(world, files)) == {}
    assert [record.kind for record in decode_bundle(files[ES])[1].records][-2:] == ["Abort", "Abort"]
    assert told(files)[ES] == "more than 10 hits at 0.7; ES stopped it (confirmation)"
    assert not any(record.kind == "Release" for record in decode_bundle(files[FR])[1].records)


def told(files: Files) -> dict[str, str]:
    return dict(verify_bundles(list(files.values())).facts)


def test_the_report_tells_what_happened_and_never_whether_anybody_was_found(
    world: World, files: Files, joint: Files
) -> None:
    facts = told(joint)
    assert facts["asked"].startswith("by FR through EU of ES, DE, 20")
    assert facts["warrant"] == "FR-1 of FR, purpose INVESTIGATION"
    assert facts["terms"].startswith("threshold 0.7, step 0.1, at most 10 candidates a holder")
    assert facts[ES] == "more than 10 hits at 0.7; answered at 0.8, with 10 candidates or fewer, or none"
    assert facts[DE] == "answered at 0.7, with 10 candidates or fewer, or none", "it found nobody"
    assert told({EU: joint[EU]})[ES] == "more than 10 hits at 0.7; no end is shown", "releases do not pass the router"

    def refused(requester: object, holders: object) -> None:
        requester.submit = lambda template: requester._submit(np.full(DIM, 30, np.int8))  # type: ignore[attr-defined]

    stopped = world.bundles(world.query((ES,), attack=refused), (FR, EU, ES))
    assert told(stopped)[ES] == "ended with admission: the probe was refused"
    story = Story.read(world, files)
    for said in story.find("Announce"):
        story.drop(said)
    assert "no bundle shows an announcement" in told(story.tell())["query"]


def test_a_gallery_of_several_chunks_holds(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(filtering, "CHUNK_ROWS", RING.n)
    monkeypatch.setattr(own_table, "CHUNK_ROWS", RING.n)
    small = world.galleries[ES]
    rows = np.concatenate(
        [small.templates, unit_rows(np.random.default_rng(2), 2 * RING.n - len(small.templates) + 1, DIM)]
    )
    monkeypatch.setitem(world.galleries, ES, Gallery.enrol(rows, RING))
    files = world.bundles(world.query((ES,)), (FR, EU, ES))
    assert failures(verified(world, files)) == {}
    assert len([r for r in decode_bundle(files[EU])[1].records if r.kind == "FilterBlock"]) == 3


# Lies. Each is told consistently by all who would have to take part, so that only the rule it breaks can find it.

Lie = Callable[[Story], "Said | None"]


def first(story: Story, kind: str, sender: str, receiver: str, session: str = ES, number: int = 0) -> Said:
    return story.find(kind, sender, receiver, session)[number]


def forged_phase_signature(story: Story) -> Said:
    said = first(story, "Signature", FR, EU)
    said.message = msgspec.structs.replace(said.message, signature=os.urandom(3373))
    return said


def missing_phase_signature(story: Story) -> Said:
    said = first(story, "Signature", EU, ES)
    story.drop(said)
    return first(story, "PowerSums", EU, ES)


def release_to_the_router(story: Story) -> Said:
    release = first(story, "Release", ES, FR)
    extra = story.repeat(first(story, "Signature", ES, EU, number=-1), ES, EU, kind="Release", message=None)
    extra.size, extra.content = release.size, release.content
    return extra


def score_in_the_bundle(story: Story) -> Said:
    said = first(story, "PowerSums", FR, ES)
    said.message = PowerSums(bytes(48))
    return said


def two_tales_of_one_message(story: Story) -> Said:
    return story.differ(first(story, "FilterBlock", ES, EU), EU)


def other_block_to_the_router(story: Story) -> Said:
    """Another c1 to the router than to the requester, and everybody says so."""
    said = first(story, "FilterBlock", ES, EU)
    said.content = os.urandom(32)
    return said


def other_sums_from_the_router(story: Story) -> Said:
    said = first(story, "PowerSums", EU, ES)
    said.content = os.urandom(32)
    return said


def unknown_to_the_receiver(story: Story) -> Said:
    said = first(story, "Signature", FR, ES, number=-1)
    story.drop(said, ES)
    return said


def never_sent(story: Story) -> Said:
    said = first(story, "Signature", FR, ES, number=-1)
    story.drop(said, FR)
    return said


def changed_threshold(story: Story) -> Said:
    """The requester tells ES another threshold than everybody else, well signed."""
    told = first(story, "Announce", FR, ES, "")
    message = msgspec.structs.replace(told.message, threshold="0.4")
    signature = story.world.identities[FR].signing.sign(announce_statement(message), "protocol")
    for owner in (FR, ES):
        other = story.differ(first(story, "Announce", FR, ES, ""), owner, message={"threshold": "0.4"})
        other.message = msgspec.structs.replace(message, signature=signature)
    return told


def forged_announcement(story: Story) -> None:
    story.announce(sign=False, signature=os.urandom(3373))


def no_warrant(story: Story) -> None:
    story.announce(warrant=None)


def _warrant(story: Story, **changes: object) -> None:
    announce = story.find("Announce")[0].message
    assert isinstance(announce, Announce)
    assert isinstance(announce.warrant, Warrant)
    story.announce(warrant=msgspec.structs.replace(announce.warrant, **changes))


def borrowed_warrant(story: Story) -> None:
    _warrant(story, state=DE)


def eternal_warrant(story: Story) -> None:
    at = story.timelines[FR][0][2] // 1000
    _warrant(story, expires=at + 90_000)


def expired_warrant(story: Story) -> Said:
    at = story.timelines[FR][0][2] // 1000
    _warrant(story, issued=at - 7200, expires=at - 3600)
    return first(story, "Announce", FR, ES, "")


def future_warrant(story: Story) -> Said:
    at = story.timelines[FR][0][2] // 1000
    _warrant(story, issued=at + 3600, expires=at + 7200)
    return first(story, "Announce", FR, ES, "")


def weak_parameters(story: Story) -> None:
    story.announce(preset="n1024_q60_t20")


def low_threshold(story: Story) -> None:
    story.announce(threshold="0.05")


def swapped_nonce(story: Story) -> Said:
    said = first(story, "Joined", EU, ES, "")
    assert isinstance(said.message, Joined)
    said.message = msgspec.structs.replace(said.message, nonce=os.urandom(32))
    return said


def another_query_id(story: Story) -> Said:
    for said in story.find("KeyPair"):
        said.message = msgspec.structs.replace(said.message, query_id=bytes(32))
    return story.find("KeyPair")[0]


def rogue_key(story: Story) -> Said:
    """The router opens another share than it committed to, and everybody is told that one."""
    rogue = os.urandom(4).ljust(32768, b"\0")
    story.find("PublicShare", EU, FR)[0].message = msgspec.structs.replace(
        story.find("PublicShare", EU, FR)[0].message, data=rogue
    )
    for said in story.find("KeyPair"):
        said.message = msgspec.structs.replace(said.message, router=rogue)
    return story.find("KeyCommitment")[0]


def commitment_after_the_share(story: Story) -> Said:
    share = story.find("PublicShare", FR, EU)[0]
    story.move(share, story.find("KeyCommitment")[0])
    return story.find("PublicShare", EU, FR)[0]


def two_keys(story: Story) -> None:
    said = first(story, "KeyPair", EU, ES, "")
    said.message = msgspec.structs.replace(said.message, requester=bytes(32768))


def no_admission(story: Story) -> Said:
    for said in story.find("AdmissionBit", session=ES):
        story.drop(said)
    return first(story, "PowerSums", FR, ES)


def refused_probe(story: Story) -> Said:
    """The component that requester and router hold, and the holder is sent by both, is the other one."""
    for sender in (FR, EU):
        said = first(story, "AdmissionBit", sender, ES)
        assert isinstance(said.message, AdmissionBit)
        said.message = AdmissionBit(not said.message.component)
    return first(story, "PowerSums", FR, ES)


def opened_before_admission(story: Story) -> Said:
    sums = first(story, "PowerSums", FR, ES)
    story.move(sums, first(story, "AdmissionBit", FR, ES), FR)
    return sums


def admission_unsigned(story: Story) -> Said:
    sums = first(story, "PowerSums", EU, ES)
    story.move(sums, first(story, "Signature", FR, EU), EU)
    return sums


def opened_twice(story: Story) -> Said:
    return story.repeat(first(story, "PowerSums", EU, ES))


def opened_after_the_end(story: Story) -> Said:
    said = first(story, "PowerSums", FR, ES, number=-1)
    after = first(story, "Signature", FR, ES, number=-1)
    extra = story.repeat(after, kind="PowerSums", message=None, size=said.size)
    extra.content = os.urandom(32)
    return extra


def one_rung_too_many(story: Story) -> Said:
    story.announce(ladder="0")
    return first(story, "Rung", ES, FR)


def two_verdicts(story: Story) -> Said:
    said = first(story, "Rung", ES, EU, number=-1)
    said.message = msgspec.structs.replace(said.message, verdict="climb")
    return said


def gives_up_early(story: Story) -> Said:
    for receiver in (FR, EU):
        said = first(story, "Rung", ES, receiver)
        said.message = msgspec.structs.replace(said.message, verdict="exhausted")
    return said


def unsigned_block(story: Story) -> Said:
    signature = first(story, "Signature", ES, EU, number=-1)
    story.move(first(story, "ConfirmationAnswer", EU, ES), signature)
    return first(story, "ConfirmationAnswer", EU, ES)


def two_blocks(story: Story) -> Said:
    said = first(story, "ConfirmationBlock", ES, EU)
    said.message = msgspec.structs.replace(said.message, commitment=bytes(32))
    return first(story, "ConfirmationDigest", EU, FR)


def second_answer(story: Story) -> Said:
    return story.repeat(first(story, "ConfirmationAnswer", FR, ES))


def release_without_the_router(story: Story) -> Said:
    story.drop(first(story, "ConfirmationAnswer", EU, ES))
    return first(story, "Release", ES, FR)


def release_before_the_answers(story: Story) -> Said:
    release = first(story, "Release", ES, FR)
    story.move(release, first(story, "ConfirmationAnswer", FR, ES), ES)
    return release


def release_without_a_verdict(story: Story) -> Said:
    for receiver in (FR, EU):
        said = first(story, "Rung", ES, receiver, number=-1)
        said.message = msgspec.structs.replace(said.message, verdict="climb")
    return first(story, "Release", ES, FR)


def second_release(story: Story) -> Said:
    return story.repeat(first(story, "Release", ES, FR))


def too_many_candidates(story: Story) -> Said:
    release = first(story, "Release", ES, FR)
    release.size += 66  # one slot more
    return release


def too_many_sums(story: Story) -> Said:
    sums = first(story, "PowerSums", EU, ES)
    sums.size += 4
    return sums


def clock_set_back(story: Story) -> Said:
    timeline = story.timelines[EU]
    said, direction, at = timeline[40]
    timeline[40] = (said, direction, at - 60_000)
    return said


def received_before_sent(story: Story) -> Said:
    story.timelines[ES] = [(said, direction, at - 700_000) for said, direction, at in story.timelines[ES]]
    return first(story, "Announce", FR, ES, "")


LIES: list[tuple[Lie, str, str]] = [
    (forged_phase_signature, "phase-signature", "does not hold"),
    (missing_phase_signature, "order", "expected the signature of phase 'admission'"),
    (release_to_the_router, "order", "a holder may not send this to a router"),
    (score_in_the_bundle, "schema", "shown in full though it may not be kept"),
    (two_tales_of_one_message, "both-ends", "shows another message in this place"),
    (other_block_to_the_router, "same-content", "another content than"),
    (other_sums_from_the_router, "same-content", "another content than"),
    (unknown_to_the_receiver, "both-ends", "does not show that it received this"),
    (never_sent, "both-ends", "does not show that it sent this"),
    (changed_threshold, "announcement", "another announcement than the other parties were shown"),
    (forged_announcement, "announcement", "FR did not sign it"),
    (no_warrant, "warrant", "there is no signed warrant"),
    (borrowed_warrant, "warrant", "FR asks with a warrant of DE"),
    (eternal_warrant, "warrant", "allowed are 1 to 86400"),
    (expired_warrant, "warrant", "after the warrant expired"),
    (future_warrant, "warrant", "before the warrant was issued"),
    (weak_parameters, "parameters", "not in the security table"),
    (low_threshold, "threshold", "threshold 0.05, allowed are 0.30"),
    (swapped_nonce, "query-id", "EU told another party something else"),
    (another_query_id, "query-id", "another query id than the nonces give"),
    (rogue_key, "key-commitment", "opened another share than it committed to"),
    (commitment_after_the_share, "key-commitment", "the order must be commitment"),
    (two_keys, "key-commitment", "two different public key shares of FR"),
    (no_admission, "admission", "before admission was opened"),
    (refused_probe, "admission", "though admission refused the probe"),
    (opened_before_admission, "admission", "before admission was opened"),
    (admission_unsigned, "admission", "before the admission phase was signed"),
    (opened_twice, "one-opening", "opening number 2 in rung 0"),
    (opened_after_the_end, "one-opening", "after the last verdict"),
    (one_rung_too_many, "rungs", "climbs beyond the last of 1 rungs"),
    (two_verdicts, "rungs", "another party was told"),
    (gives_up_early, "rungs", "gives up on rung 0 of 3"),
    (unsigned_block, "confirmation", "was not signed before"),
    (two_blocks, "confirmation", "not the hash of the confirmation block"),
    (second_answer, "confirmation", "a second one"),
    (release_without_the_router, "release", "without the confirmation of EU"),
    (release_before_the_answers, "release", "without the confirmation of"),
    (release_without_a_verdict, "release", "no verdict 'confirm' came before it"),
    (second_release, "release", "a second release"),
    (too_many_candidates, "cap", "cap 10"),
    (too_many_sums, "cap", "cap 10"),
    (clock_set_back, "clock", "ms before the message before it"),
    (received_before_sent, "clock", "before it was sent"),
]  # fmt: skip


@pytest.mark.parametrize(("lie", "rule", "words"), LIES, ids=[lie.__name__ for lie, _, _ in LIES])
def test_the_lie_is_found_and_named(world: World, story: Story, lie: Lie, rule: str, words: str) -> None:
    said = lie(story)
    failed = failures(verified(world, story.tell()))
    assert rule in failed, failed
    lines = [line for line in failed[rule].splitlines() if words in line]
    assert lines, failed[rule]
    if said is not None:
        assert any(f"{said.sender} → {said.receiver}" in line and said.kind in line for line in lines), lines


def other_blocks_to_the_router(real: Callable[..., Any]) -> Callable[..., Any]:
    """A holder's filter that changes one residue of every c1 on its way to the router."""

    def lying(*arguments: Any) -> Any:
        step, value = real(*arguments), None
        while True:
            try:
                effect = step.send(value)
            except StopIteration as end:
                return end.value
            if isinstance(effect, Send) and effect.to == EU and isinstance(effect.message, FilterBlock):
                data = bytearray(effect.message.data)
                data[0] ^= 1
                effect = Send(EU, FilterBlock(memoryview(bytes(data))))
            value = yield effect

    return lying


def test_a_holder_that_sent_two_c1_is_found_from_the_bundles_of_requester_and_router(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A real query: both frames are well signed, and frames differ anyway, for each names its receiver."""
    monkeypatch.setattr(holder, "holder_filters", other_blocks_to_the_router(holder.holder_filters))
    files = world.bundles(world.query((ES,)), (FR, EU))
    failed = failures(verified(world, files))
    assert list(failed) == ["same-content"]
    assert "ES → EU" in failed["same-content"]
    assert "(FilterBlock)" in failed["same-content"]


def test_control_one_bundle_does_not_show_two_c1_and_says_so(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(holder, "holder_filters", other_blocks_to_the_router(holder.holder_filters))
    report = verified(world, world.bundles(world.query((ES,)), (EU,)))
    assert report.holds
    assert "same-content" in {check.id for check in report.checks if check.status == "not-checkable"}


def test_another_probe_to_another_holder_is_found(world: World, joint: Files) -> None:
    story = Story.read(world, joint)
    said = first(story, "ProbePart", FR, DE, DE)
    said.content = os.urandom(32)
    failed = failures(verified(world, story.tell()))
    assert "FR → DE" in failed["same-content"]


def test_every_rule_has_a_lie_that_breaks_it() -> None:
    elsewhere = {"bundle-signature", "identity", "answered-once", "log-inclusion", "log-checkpoint", "log-consistency"}
    assert {rule for _, rule, _ in LIES} | elsewhere == {rule.id for rule in RULES}


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


# Logs.


def test_a_message_outside_the_log_is_found(world: World, files: Files) -> None:
    bundle = decode_bundle(files[ES])[1]
    story = Story.read(world, files)
    entries = bundle.log.entries
    for log, words in (
        (msgspec.structs.replace(bundle.log, entries=entries[:-1]), "not in the log"),
        (msgspec.structs.replace(bundle.log, entries=(entries[1], *entries[1:])), "the log has another entry for it"),
        (msgspec.structs.replace(bundle.log, entries=(*entries, entries[-1])), "entries for"),
        (
            msgspec.structs.replace(
                bundle.log, entries=(msgspec.structs.replace(entries[0], secret=bytes(32)), *entries[1:])
            ),
            "another secret",
        ),
    ):
        forged = msgspec.structs.replace(story.originals[ES], log=log)
        failed = failures(verified(world, files | {ES: _resealed(world, ES, forged)}))
        assert list(failed) == ["log-inclusion"]
        assert words in failed["log-inclusion"]


def _resealed(world: World, name: str, bundle: Bundle) -> bytes:
    return sign_bundle(bundle, world.identities[name].signing)


def test_a_rewritten_message_is_not_the_logged_one(world: World, files: Files) -> None:
    """The log as it was, one record changed and signed again: only the log knows."""
    bundle = decode_bundle(files[ES])[1]
    changed = [
        msgspec.structs.replace(record, content=bytes(32)) if record.kind == "InputShare" else record
        for record in bundle.records
    ]
    forged = msgspec.structs.replace(bundle, records=tuple(changed))
    failed = failures(verify_bundles([_resealed(world, ES, forged)], world.trust))
    assert "(InputShare)" in failed["log-inclusion"]


def test_a_checkpoint_signed_by_somebody_else_is_found(world: World, files: Files) -> None:
    bundle = decode_bundle(files[ES])[1]
    other = world.identities[DE].signing.sign(bundle.log.checkpoint.signed(), "log")
    log = msgspec.structs.replace(
        bundle.log, checkpoint=msgspec.structs.replace(bundle.log.checkpoint, signature=other)
    )
    failed = failures(verified(world, files | {ES: _resealed(world, ES, msgspec.structs.replace(bundle, log=log))}))
    assert list(failed) == ["log-checkpoint"]
    assert "bundle of ES" in failed["log-checkpoint"]


def test_a_split_view_is_found(world: World, files: Files) -> None:
    """ES shows two supervisors two logs of one size; the other entries differ, its own records are in both."""
    bundle = decode_bundle(files[ES])[1]
    two = []
    for filler in (b"one", b"another"):
        log = log_of(world.identities[ES], bundle.log.header, bundle.query, bundle.records, bundle.exported, [filler])
        two.append(_resealed(world, ES, msgspec.structs.replace(bundle, log=log)))
    for data in two:
        assert failures(verify_bundles([data], world.trust)) == {}
    failed = failures(verify_bundles(two, world.trust))
    assert "two roots for one size" in failed["log-consistency"]
    assert "bundle of ES" in failed["log-consistency"]


def test_a_rewritten_log_is_found_by_whoever_saw_its_checkpoint(world: World, files: Files) -> None:
    bundle, witness = decode_bundle(files[ES])[1], decode_bundle(files[EU])[1]
    log = log_of(world.identities[ES], bundle.log.header, bundle.query, bundle.records, bundle.exported)
    rewritten = _resealed(world, ES, msgspec.structs.replace(bundle, log=log))
    seen = msgspec.structs.replace(witness, witnessed=(Witnessed(bundle.log.header, bundle.log.checkpoint),))
    witnessing = _resealed(world, EU, seen)
    assert failures(verified(world, files | {EU: witnessing})) == {}
    failed = failures(verified(world, files | {EU: witnessing, ES: rewritten}))
    assert "two histories of one log" in failed["log-consistency"]
    assert "a checkpoint of the transcript log of ES that EU was given" in failed["log-consistency"]


def test_a_truncated_log_is_found(world: World, files: Files) -> None:
    """Fewer entries than the log had signed before: the tail was cut off."""
    bundle = decode_bundle(files[EU])[1]
    tree = MerkleTree()
    for index in range(len(bundle.records) + 50):
        tree.append(labelled_hash("entry", index))
    longer = signed_checkpoint(world.identities[EU], bundle.log.header.log, tree, bundle.log.checkpoint.time - 5)
    seen = msgspec.structs.replace(decode_bundle(files[FR])[1], witnessed=(Witnessed(bundle.log.header, longer),))
    log = log_of(world.identities[EU], bundle.log.header, bundle.query, bundle.records, bundle.log.checkpoint.time)
    failed = failures(
        verified(
            world,
            files
            | {FR: _resealed(world, FR, seen), EU: _resealed(world, EU, msgspec.structs.replace(bundle, log=log))},
        )
    )
    assert "before" in failed["log-consistency"]
    assert "two histories of one log" in failed["log-consistency"]


# The verifier's own copies, and what it imports.


def test_the_security_table_is_the_same_twice() -> None:
    assert set(own_table.PRESETS) == set(params.PRESETS)
    for name, preset in own_table.PRESETS.items():
        theirs = params.PRESETS[name]
        assert (preset.n, preset.primes, preset.t) == (theirs.n, theirs.primes, theirs.t)
        assert own_table.SECURITY_TABLE[preset.n] == params.SECURITY_TABLE[preset.n]
        assert own_table.weakness(preset) is None
    assert own_table.weakness(own_table.Preset(1024, (1073692673, 1073668097), 1048573)) is not None
    assert own_table.weakness(own_table.Preset(512, (1073692673, 1073668097), 1048573)) is not None
    assert (own_table.CHUNK_ROWS, own_table.PROBE_PART) == (wire.CHUNK_ROWS, wire.PROBE_PART)


def test_theta_rungs_and_norms_are_the_same_twice() -> None:
    rng = random.Random(3)
    for _ in range(300):
        threshold = Decimal(rng.randint(3000, 9999)) / 10_000
        step = Decimal(rng.choice([0, 1, 20, 100, 999])) / 1000
        dim = 8 * rng.randint(1, 64)
        terms = Terms(threshold, dim, params.N4096, 10, step)
        assert own_table.rungs(threshold, step) == terms.rungs
        assert own_table.theta(threshold, dim) == terms.theta(0)
        assert own_table.norm_bound(dim) == params.norm_bound(dim)
        assert own_table.scale(dim) == params.scale(dim)


def test_the_verifier_imports_little(files: Files) -> None:
    code = "import sys, nodes.verify, nodes.verify.page; print(*sorted(sys.modules))"
    loaded = set(
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    )
    ours = {name for name in loaded if name.split(".")[0] in ("pets", "protocol", "nodes")}
    assert {name for name in ours if not name.startswith("nodes.verify")} == {
        "nodes", "nodes.checkpoints", "nodes.log_entries", "nodes.log_errors",
        "pets", "pets.errors", "pets.merkle", "pets.prf", "pets.signatures",
        "protocol", "protocol.messages",
    }  # fmt: skip
    assert not {"socket", "ssl", "httpx", "numba", "sqlalchemy"} & loaded - _always_loaded()


def _always_loaded() -> set[str]:
    others = "numpy, msgspec, rich.console, rich.table, cryptography.hazmat.primitives.ciphers.aead"
    code = f"import sys, {others}; print(*sys.modules)"
    return set(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split())


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


def test_a_threshold_that_would_wrap_is_refused(world: World, story: Story, monkeypatch: pytest.MonkeyPatch) -> None:
    """No preset allows one; with a plaintext modulus half as large, it would."""
    preset = own_table.PRESETS[RING.preset]
    small = own_table.Preset(preset.n, preset.primes, 200_003)
    monkeypatch.setitem(own_table.PRESETS, RING.preset, small)
    assert "wraps into a hit" in failures(verified(world, story.tell()))["threshold"]


# The ledger.


def test_the_ledger_adds_up_what_each_learnt(joint: Files) -> None:
    cases = make_cases(list(joint.values()))
    leaks = leakage(cases)
    sums = totals(leaks)
    scores, more = 20 * 10, 24 * 6 * 10 - 20 * 10
    assert sums[ES, FR] == (1 + 2 * 32 * 12 + scores, more, 0), "two rungs of twelve sums, an admission bit, ten scores"
    assert sums[DE, FR] == (1 + 32 * 12 + scores, more, 0)
    assert sums[EU, ES] == (2.0 + 1, 0, 0), (
        "one of four endings (three rungs, or none was enough), and it did not freeze"
    )
    assert sums[EU, FR] == (2, 0, 0), "an admission bit with each holder"
    bits, cheated, references = sums[FR, ES]
    assert (cheated, references) == (0, 10)
    sets = math.log2(sum(math.comb(RING.n, count) for count in range(11)))
    assert bits == pytest.approx(3 + sets), "at most ten of the rows of a block"
    assert (FR, EU) not in sums
    twice = totals([*leaks, *leaks])
    assert all(twice[pair][0] == 2 * sums[pair][0] for pair in sums)
