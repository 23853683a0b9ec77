"""Every rule of the verifier, and a story in which exactly that rule is broken.

Each lie is told consistently by all who would have to take part, so that only the rule it breaks can find it.
"""

from __future__ import annotations

import os
from collections.abc import Callable

import msgspec
import pytest

from nodes.verify.case import announce_statement
from nodes.verify.verdict import RULES
from protocol.messages import AdmissionBit, Announce, CapBit, Joined, PowerSums, Warrant
from tests.kit.evidence import DE, ES, EU, FR, World, failures
from tests.kit.stories import Said, Story, first, verified

Lie = Callable[[Story], "Said | None"]


def forged_phase_signature(story: Story) -> Said:
    said = first(story, "Signature", FR, EU)
    said.message = msgspec.structs.replace(said.message, signature=os.urandom(3373))
    return said


def missing_phase_signature(story: Story) -> Said:
    said = first(story, "Signature", EU, ES)
    story.drop(said)
    return first(story, "CapBit", EU, ES)


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
    return first(story, "CapBit", FR, ES)


def refused_probe(story: Story) -> Said:
    """The component that requester and router hold, and the holder is sent by both, is the other one."""
    for sender in (FR, EU):
        said = first(story, "AdmissionBit", sender, ES)
        assert isinstance(said.message, AdmissionBit)
        said.message = AdmissionBit(not said.message.component)
    return first(story, "CapBit", FR, ES)


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


def opened_on_a_climb(story: Story) -> Said:
    sums = first(story, "PowerSums", FR, ES)
    story.move(sums, first(story, "CapBit", FR, ES))
    return first(story, "Rung", ES, FR)


def sums_against_the_bit(story: Story) -> Said:
    """On the first rung there were more hits than the cap, sums left all the same, and then somebody stopped."""
    sums = first(story, "PowerSums", FR, ES)
    story.move(sums, first(story, "Signature", FR, ES, number=1), FR)
    return sums


def another_cap_bit(story: Story) -> Said:
    """One of those who hold a component shows another one than the others."""
    said = first(story, "CapBit", EU, ES)
    assert isinstance(said.message, CapBit)
    said.message = CapBit(not said.message.component)
    return said


def climbs_against_the_bit(story: Story) -> Said:
    for receiver in (FR, EU):
        said = first(story, "Rung", ES, receiver, number=-1)
        said.message = msgspec.structs.replace(said.message, verdict="climb")
    return said


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
    (opened_twice, "one-opening", "opening number 2 in rung 1"),
    (opened_after_the_end, "one-opening", "after the last verdict"),
    (opened_on_a_climb, "one-opening", "'climb' on rung 0, of which hits were opened"),
    (sums_against_the_bit, "rungs", "hits were opened on rung 0, though all opened that there are more than the cap"),
    (another_cap_bit, "rungs", "another component of the cap bit on rung 0"),
    (climbs_against_the_bit, "rungs", "though all opened that there are no more hits than the cap"),
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


@pytest.mark.slow
@pytest.mark.parametrize(("lie", "rule", "words"), LIES, ids=[lie.__name__ for lie, _, _ in LIES])
def test_the_lie_is_found_and_named(world: World, story: Story, lie: Lie, rule: str, words: str) -> None:
    said = lie(story)
    failed = failures(verified(world, story.tell()))
    assert rule in failed, failed
    lines = [line for line in failed[rule].splitlines() if words in line]
    assert lines, failed[rule]
    if said is not None:
        assert any(f"{said.sender} → {said.receiver}" in line and said.kind in line for line in lines), lines


def test_every_rule_has_a_lie_that_breaks_it() -> None:
    elsewhere = {
        "bundle-signature",
        "identity",
        "answered-once",
        "warrant-once",
        "log-inclusion",
        "log-checkpoint",
        "log-consistency",
    }
    assert {rule for _, rule, _ in LIES} | elsewhere == {rule.id for rule in RULES}
