"""Every rule of the verifier, and a story in which exactly that rule is broken.

Each lie is told consistently by all who would have to take part, so that only the rule it breaks can find it.
"""

from __future__ import annotations

import os
from collections.abc import Callable

import msgspec
import pytest

from nodes.verify.case import announce_statement
from nodes.verify.format import WHOLE
from nodes.verify.verdict import RULES
from protocol.messages import AdmissionBit, CapBit, DerivedId, FormBit, Joined, PowerSums, Search, Warrant
from tests.kit.evidence import DE, ES, EU, FR, World, failures
from tests.kit.stories import Said, Story, first, verified

Lie = Callable[[Story], "Said | None"]


def forged_phase_signature(story: Story) -> Said:
    said = first(story, "Signature", FR, EU)
    said.message = msgspec.structs.replace(said.message, signature=os.urandom(3373))
    return said


def missing_phase_signature(story: Story) -> Said:
    said = first(story, "Signature", EU, ES, number=1)
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
    return story.differ(first(story, "MaskedScores", ES, EU), EU)


def other_scores_to_the_router(story: Story) -> Said:
    """Another e to the router than to the requester, and everybody says so."""
    said = first(story, "MaskedScores", ES, EU)
    said.content = os.urandom(32)
    return said


def other_sums_from_the_router(story: Story) -> Said:
    said = first(story, "PowerSums", EU, ES)
    said.content = os.urandom(32)
    return said


def other_answer_from_the_router(story: Story) -> Said:
    said = first(story, "ConfirmationAnswer", EU, ES)
    said.content = os.urandom(32)
    return said


def other_c1_to_the_router(story: Story) -> Said:
    said = first(story.made, "PreparedBlocks", ES, EU)
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
    told = first(story, "Search", FR, ES, WHOLE)
    message = msgspec.structs.replace(told.message, threshold="0.4")
    signature = story.world.identities[FR].signing.sign(announce_statement(message), "protocol")
    for owner in (FR, ES):
        other = story.differ(first(story, "Search", FR, ES, WHOLE), owner, message={"threshold": "0.4"})
        other.message = msgspec.structs.replace(message, signature=signature)
    return told


def forged_announcement(story: Story) -> None:
    story.announce(sign=False, signature=os.urandom(3373))


def no_warrant(story: Story) -> None:
    story.announce(warrant=None)


def _warrant(story: Story, **changes: object) -> None:
    announce = story.find("Search")[0].message
    assert isinstance(announce, Search)
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
    return first(story, "Search", FR, ES, WHOLE)


def future_warrant(story: Story) -> Said:
    at = story.timelines[FR][0][2] // 1000
    _warrant(story, issued=at + 3600, expires=at + 7200)
    return first(story, "Search", FR, ES, WHOLE)


def weak_parameters(story: Story) -> None:
    story.announce(preset="n1024_q60_t20")


def low_threshold(story: Story) -> None:
    story.announce(threshold="0.05")


def swapped_nonce(story: Story) -> Said:
    said = first(story, "Joined", EU, ES, WHOLE)
    assert isinstance(said.message, Joined)
    said.message = msgspec.structs.replace(said.message, nonce=os.urandom(32))
    return said


def another_id(story: Story) -> Said:
    said = first(story, "DerivedId", EU, ES)
    said.message = DerivedId(os.urandom(32))
    return said


def another_id_to_the_requester(story: Story) -> Said:
    said = first(story, "DerivedId", ES, FR, WHOLE)
    said.message = DerivedId(os.urandom(32))
    return said


def published_before_the_id(story: Story) -> Said:
    scores = first(story, "AdmissionScores", ES, FR)
    story.move(scores, first(story, "Signature", EU, ES), ES)
    return scores


def swapped_nonce_of_the_preparation(story: Story) -> Said:
    said = first(story.made, "JoinedPreparation", EU, ES, WHOLE)
    said.message = msgspec.structs.replace(said.message, nonce=os.urandom(32))
    return said


# The preparation.


def forged_preparation(story: Story) -> None:
    story.made.announce(sign=False, signature=os.urandom(3373))


def weak_preparation(story: Story) -> None:
    story.made.announce(preset="n1024_q60_t20")


def another_key_from_the_router(story: Story) -> Said:
    said = first(story.made, "PublicPart", EU, ES, WHOLE)
    said.content = os.urandom(32)
    return said


def key_from_one_mouth(story: Story) -> Said:
    """The holder begins before the router has said anything of the key."""
    told = first(story.made, "PublicPart", EU, ES, WHOLE)
    begun = first(story.made, "PairSecret", ES, EU)
    story.made.move(begun, told, ES)
    return begun


def another_mask_at_the_holder(story: Story) -> Said:
    said = first(story.made, "MaskDigest", ES, EU)
    said.message = msgspec.structs.replace(said.message, mask=bytes(32))
    return said


def mask_compared_too_late(story: Story) -> Said:
    told, begun = first(story.made, "MaskDigest", ES, EU), first(story.made, "Echo", EU, FR)
    story.made.move(begun, told, EU)
    return begun


def no_form_check(story: Story) -> Said:
    for said in story.made.find("FormBit", session=ES):
        story.made.drop(said)
    return first(story.made, "PreparedBlocks", ES, FR)


def refused_mask(story: Story) -> Said:
    for sender in (FR, EU):
        said = first(story.made, "FormBit", sender, ES)
        assert isinstance(said.message, FormBit)
        said.message = FormBit(not said.message.component)
    return first(story.made, "PreparedBlocks", ES, FR)


def scored_before_the_form_check(story: Story) -> Said:
    blocks = first(story.made, "PreparedBlocks", ES, EU)
    story.made.move(blocks, first(story.made, "FormBit", EU, ES), ES)
    return blocks


def another_list_at_the_router(story: Story) -> Said:
    """Requester and router end with different lists of what the holder sent, and go on."""
    said = first(story.made, "Echo", EU, FR, number=-1)
    said.message = msgspec.structs.replace(said.message, digest=bytes(32))
    return said


def gates_before_the_comparison(story: Story) -> Said:
    gate = first(story, "AdmissionGates", FR, ES)
    story.move(gate, first(story, "Echo", EU, FR), FR)
    return gate


def preparation_not_shown(story: Story) -> None:
    del story.made.originals[EU]


def preparation_of_another_state(story: Story) -> None:
    story.made.announce(requester=DE)
    story.rebind()


def preparation_of_another_dimension(story: Story) -> None:
    story.made.announce(dim=256)
    story.rebind()


def preparation_for_another_model(story: Story) -> None:
    story.made.announce(model=b"one".ljust(32))
    story.announce(model=b"another".ljust(32))
    story.rebind()


def preparation_without_the_holder(story: Story) -> None:
    story.announce(holders=(ES, DE))


def unfinished_preparation(story: Story) -> None:
    said = first(story.made, "Signature", EU, ES, number=-1)
    story.made.drop(said)


def stale_preparation(story: Story) -> Said:
    week = 7 * 24 * 3600 * 1000
    for owner, timeline in story.made.timelines.items():
        story.made.timelines[owner] = [(said, direction, at - week - 3_600_000) for said, direction, at in timeline]
    return first(story, "Search", FR, ES, WHOLE)


def another_gallery(story: Story) -> None:
    for said in story.find("Joined", ES):
        said.message = msgspec.structs.replace(said.message, gallery=bytes(32))


def another_number_of_blocks(story: Story) -> None:
    for said in story.find("Joined", ES):
        said.message = msgspec.structs.replace(said.message, blocks=2)


def another_probe_at_the_holder(story: Story) -> Said:
    said = first(story, "DifferenceDigest", ES, EU)
    said.message = msgspec.structs.replace(said.message, digest=bytes(32))
    return said


def probe_compared_too_late(story: Story) -> Said:
    told, begun = first(story, "DifferenceDigest", ES, EU), first(story, "Echo", EU, FR)
    story.move(begun, told, EU)
    return begun


# The search.


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
    return first(story, "Echo", EU, FR, number=-1)


def answered_before_the_comparison(story: Story) -> Said:
    answer = first(story, "ConfirmationAnswer", EU, ES)
    story.move(answer, first(story, "Echo", FR, EU, number=-1), EU)
    return answer


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


def too_long_a_difference(story: Story) -> Said:
    said = first(story, "Difference", FR, ES)
    said.size += 20
    return said


def clock_set_back(story: Story) -> Said:
    timeline = story.timelines[EU]
    said, direction, at = timeline[40]
    timeline[40] = (said, direction, at - 60_000)
    return said


def received_before_sent(story: Story) -> Said:
    story.timelines[ES] = [(said, direction, at - 700_000) for said, direction, at in story.timelines[ES]]
    return first(story, "Search", FR, ES, WHOLE)


LIES: list[tuple[Lie, str, str]] = [
    (forged_phase_signature, "phase-signature", "does not hold"),
    (missing_phase_signature, "order", "expected the signature of phase 'admission'"),
    (release_to_the_router, "order", "a holder may not send this to a router"),
    (score_in_the_bundle, "schema", "shown in full though it may not be kept"),
    (two_tales_of_one_message, "both-ends", "shows another message in this place"),
    (other_scores_to_the_router, "same-content", "another content than"),
    (other_answer_from_the_router, "same-content", "another content than"),
    (other_c1_to_the_router, "same-content", "another content than"),
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
    (swapped_nonce_of_the_preparation, "query-id", "EU told another party something else"),
    (another_id, "query-id", "another identity than announcement and answers give"),
    (another_id_to_the_requester, "query-id", "another identity than announcement and answers give"),
    (published_before_the_id, "query-id", "before EU had signed the ID"),
    (forged_preparation, "announcement", "preparation, announcement: FR did not sign it"),
    (weak_preparation, "parameters", "preparation, announcement: parameters"),
    (another_key_from_the_router, "one-key", "another public part of the key than in"),
    (key_from_one_mouth, "one-key", "before EU told it the public part of the key"),
    (another_mask_at_the_holder, "one-mask", "another hash than in"),
    (mask_compared_too_late, "one-mask", "before ES told the router its hash"),
    (no_form_check, "form", "before the form check was opened"),
    (refused_mask, "form", "though the form check refused the mask"),
    (scored_before_the_form_check, "form", "before the form check was opened"),
    (another_list_at_the_router, "compared", "ES did not send the same to FR and EU"),
    (gates_before_the_comparison, "compared", "before it was compared what ES had sent to both"),
    (preparation_not_shown, "preparation", "bundle of EU: it does not show preparation"),
    (preparation_of_another_state, "preparation", "FR and EU use a preparation of DE and EU"),
    (preparation_of_another_dimension, "preparation", "prepared was d 256"),
    (preparation_for_another_model, "preparation", "prepared for another model"),
    (preparation_without_the_holder, "preparation", "nothing was prepared at DE"),
    (unfinished_preparation, "preparation", "session ES was never signed as prepared by both others"),
    (stale_preparation, "preparation-age", "hours old, the limit is 168"),
    (another_gallery, "version", "another gallery or version than was prepared"),
    (another_number_of_blocks, "version", "2 block(s), prepared were 1"),
    (another_probe_at_the_holder, "one-probe", "another hash than in"),
    (probe_compared_too_late, "one-probe", "before ES told the router its hash"),
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
    (answered_before_the_comparison, "confirmation", "before requester and router compared the confirmation block"),
    (release_without_the_router, "release", "without the confirmation of EU"),
    (release_before_the_answers, "release", "without the confirmation of"),
    (release_without_a_verdict, "release", "no verdict 'confirm' came before it"),
    (second_release, "release", "a second release"),
    (too_many_candidates, "cap", "cap 10"),
    (too_many_sums, "cap", "cap 10"),
    (too_long_a_difference, "cap", "d 128"),
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
    follow_up = {
        "launch-approval",
        "follow-up-signature",
        "follow-up-log",
        "two-reviewers",
        "core-data",
        "core-data-clock",
        "recall",
    }  # fmt: skip  (tests/casework/test_verify.py)
    elsewhere = follow_up | {
        "bundle-signature",
        "identity",
        "answered-once",
        "warrant-once",
        "preparation-once",
        "log-inclusion",
        "log-checkpoint",
        "log-consistency",
    }
    assert {rule for _, rule, _ in LIES} | elsewhere == {rule.id for rule in RULES}
