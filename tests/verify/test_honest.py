"""What really happened holds, and the report and the ledger say so: honest, refused and frozen queries."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from nodes.verify import table as own_table
from nodes.verify import verify_bundles
from nodes.verify.format import WHOLE, decode_bundle
from nodes.verify.ledger import leakage, totals
from nodes.verify.verdict import RULES, make_cases
from protocol import blocks, form, preparing, searching, wire
from protocol.errors import QueryRefused
from protocol.gallery import Gallery
from protocol.memory import MemoryNetwork
from protocol.messages import Abort, DerivedId
from tests.kit.evidence import DE, DIM, ES, EU, FR, World, failures, sends_instead, wrong_answer
from tests.kit.galleries import unit_rows
from tests.kit.ring import RING
from tests.kit.stories import Files, Said, Story, verified


@pytest.mark.ring
def test_an_honest_query_holds_and_everything_about_it_can_be_checked(world: World, joint: Files) -> None:
    report = verified(world, joint)
    assert failures(report) == {}
    assert report.holds
    assert [check.id for check in report.checks] == [rule.id for rule in RULES], "no rule passes and stays open too"
    assert [check.id for check in report.checks if check.status != "pass"] == ["launch-approval"], "nobody approved it"


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
    check, approval = [check for check in report.checks if check.status == "not-checkable"]
    assert (check.id, approval.id) == ("identity", "launch-approval")
    assert any(world.identities[ES].peer.fingerprint in line for line in check.details)


LONG = np.full(DIM, 30, np.int8)  # no unit vector


def test_a_refused_probe_holds(world: World) -> None:
    """Admission says no: nothing was opened, and the evidence is whole."""
    query = world.query((ES,), LONG, unchecked=True)
    report = verified(world, world.bundles(query, (FR, EU, ES)))
    assert failures(report) == {}
    assert not any(record.kind == "PowerSums" for record in decode_bundle(world.bundles(query, (EU,))[EU])[1].records)


@pytest.mark.slow
def test_a_frozen_query_holds(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Requester and router confirm wrongly, and alike: the holder stops, nothing is released, the evidence is whole."""
    monkeypatch.setattr(searching, "key_owner_confirms", sends_instead(searching.key_owner_confirms, wrong_answer))
    files = world.bundles(world.query((ES,)), (FR, EU, ES))
    assert failures(verified(world, files)) == {}
    assert [record.kind for record in decode_bundle(files[ES])[1].records][-2:] == ["Abort", "Abort"]
    assert told(files)[ES] == "more than 10 hits at 0.7; ES stopped it (confirmation)"
    assert not any(record.kind == "Release" for record in decode_bundle(files[FR])[1].records)


@pytest.mark.parametrize("dead", [ES, EU])
def test_a_death_in_the_set_up_that_only_the_requester_still_waits_for_holds(
    dead: str, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The others have begun their rings and give them up. With its last ring the whole is over at the requester too,
    which says nothing of it: what it was sent meanwhile it never read."""
    made = world.prepare((ES, DE))
    gone: list[str] = []

    def dies(sender: str, receiver: str, frame: bytes) -> tuple[bytes, ...]:
        if sender == dead and isinstance(wire.decode(frame).message, DerivedId):
            gone.append(dead)
        return () if gone and dead in (sender, receiver) else (frame,)

    def run(machines: Any) -> None:
        for machine in machines:
            machine.start()
        MemoryNetwork(machines, tap=dies).run()
        for machine in machines:
            if machine.name not in (FR, dead):
                for session in machine.ring_sessions:
                    machine.abort(session, QueryRefused("timeout", f"{dead} said nothing", dead))
        MemoryNetwork(machines, tap=dies).run()
        assert all(machine.done for machine in machines if machine.name != dead)

    monkeypatch.setattr(world, "_run", run, raising=False)
    files = world.bundles(world.query((ES, DE), made=made))
    assert gone
    assert failures(verified(world, files)) == {}


@pytest.mark.parametrize("hides", [ES, FR, EU])
def test_who_was_past_the_set_up_cannot_hide_a_message_of_it_behind_a_ring_that_was_aborted(
    hides: str, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A frozen query: its one ring was aborted, but the whole was over before, and everybody had all of it."""
    monkeypatch.setattr(searching, "key_owner_confirms", sends_instead(searching.key_owner_confirms, wrong_answer))
    story = Story.read(world, world.bundles(world.query((ES,)), (FR, EU, ES)))
    sender = EU if hides == ES else ES
    story.drop(story.find("Signature", sender, hides, WHOLE)[-1], hides)
    broken = failures(verified(world, story.tell()))
    assert "does not show that it received this, though nobody stopped" in broken["both-ends"]


@pytest.mark.parametrize("hides", [ES, FR, EU])
def test_nor_behind_an_abort_of_the_whole_that_it_says_it_sent(hides: str, world: World, files: Files) -> None:
    """The others do not show that abort, for who is past the set-up heeds none. But it began a ring."""
    story = Story.read(world, files)
    sender = EU if hides == ES else ES
    hidden = story.find("Signature", sender, hides, WHOLE)[-1]
    at = max(place for place, entry in enumerate(story.timelines[hides]) if entry[0].session == WHOLE)
    when = story.timelines[hides][at][2]
    for other in {FR, EU, ES} - {hides}:
        abort = Said(WHOLE, hides, other, "Abort", Abort("timeout"), b"", 0)
        story.timelines[hides].insert(at + 1, (abort, "sent", when))
    story.drop(hidden, hides)
    broken = failures(verified(world, story.tell()))
    assert "does not show that it received this, though nobody stopped" in broken["both-ends"]


def test_without_an_announcement_a_message_that_is_missing_at_one_end_is_not_said_to_be_there(
    world: World, story: Story
) -> None:
    """Nobody can tell then who took part, and whether one of them stopped."""
    for said in story.find("Search"):
        story.drop(said)
    story.drop(story.find("Signature", FR, ES, WHOLE)[-1], ES)
    both_ends = [check for check in verified(world, story.tell()).checks if check.id == "both-ends"]
    assert any("ES does not show it" in line for check in both_ends for line in check.details)


def test_a_preparation_that_no_search_used_holds_by_itself(world: World) -> None:
    made = world.prepare((ES, DE))
    files = world.bundles(made.conversation)
    report = verified(world, files)
    assert failures(report) == {}
    facts = dict(report.facts)
    assert facts["prepared"].startswith("by FR through EU, with ES, DE, 20")
    assert (facts[ES], facts[DE]) == ("ready", "ready")
    assert all(decode_bundle(data)[1].preparation is None for data in files.values())
    assert leakage(make_cases(list(files.values()))) == []


def test_a_search_that_asks_fewer_than_were_prepared_holds(world: World) -> None:
    query = world.query((ES,), made=world.prepare((ES, DE)))
    report = verified(world, world.bundles(query, (FR, EU, ES)))
    assert failures(report) == {}
    assert dict(report.facts)["prepared"].startswith("with ES, DE, 20")
    unshown = {check.id: check.details for check in report.checks if check.status == "not-checkable"}
    assert "preparation, no bundle of DE was given" in unshown["identity"]


def test_a_refused_mask_holds(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """A requester stuffs noise into its mask: the check says no, no row is scored, and the evidence is whole."""
    encrypt = preparing.encrypt_mask

    def noisy(*given: Any) -> Any:
        mask = encrypt(*given)
        mask[3, :, 0] = 1  # one point of the transform: noise in every coefficient
        return mask

    monkeypatch.setattr(preparing, "encrypt_mask", noisy)
    monkeypatch.setattr(form, "check_lanes", lambda *_: None)
    made = world.prepare((ES,))
    assert made.preparation is None
    files = world.bundles(made.conversation, (FR, EU, ES))
    report = verified(world, files)
    assert failures(report) == {}
    assert dict(report.facts)[ES] == "the form check refused the mask; FR stopped it (disagreement)"
    assert not any(record.kind == "PreparedBlocks" for record in decode_bundle(files[ES])[1].records)


def told(files: Files) -> dict[str, str]:
    return dict(verify_bundles(list(files.values())).facts)


@pytest.mark.slow
def test_the_report_tells_what_happened_and_never_whether_anybody_was_found(
    world: World, files: Files, joint: Files
) -> None:
    facts = told(joint)
    assert facts["asked"].startswith("by FR through EU of ES, DE, 20")
    number, rest = facts["warrant"].split(" ", 1)
    assert rest == "of FR, purpose INVESTIGATION"
    (used,) = [text for subject, text in facts.items() if subject == f"warrant {number}"]
    assert used.startswith("of FR, used for 1 query; began to answer: ")
    assert used.endswith("…: ES, DE")
    assert facts["prepared"].startswith("with ES, DE, 20")
    assert facts["terms"].startswith("threshold 0.7, step 0.1, at most 10 candidates a holder")
    assert facts[ES] == "more than 10 hits at 0.7; answered at 0.8, with 10 candidates or fewer, or none"
    assert facts[DE] == "answered at 0.7, with 10 candidates or fewer, or none", "it found nobody"
    assert told({EU: joint[EU]})[ES] == "more than 10 hits at 0.7; no end is shown", "releases do not pass the router"

    stopped = world.bundles(world.query((ES,), LONG, unchecked=True), (FR, EU, ES))
    assert told(stopped)[ES] == "ended with admission: the probe was refused; FR stopped it (disagreement)"
    story = Story.read(world, files)
    for said in story.find("Search"):
        story.drop(said)
    assert "no bundle shows an announcement" in told(story.tell())["query"]


@pytest.mark.slow
@pytest.mark.ring
def test_a_gallery_of_several_chunks_holds(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blocks, "CHUNK_ROWS", RING.n)
    monkeypatch.setattr(own_table, "CHUNK_ROWS", RING.n)
    small = world.galleries[ES]
    rows = np.concatenate(
        [small.templates, unit_rows(np.random.default_rng(2), 2 * RING.n - len(small.templates) + 1, DIM)]
    )
    monkeypatch.setitem(world.galleries, ES, Gallery.of(rows, RING))
    files = world.bundles(world.query((ES,)), (FR, EU, ES))
    assert failures(verified(world, files)) == {}
    assert len([r for r in decode_bundle(files[EU])[1].records if r.kind == "MaskedScores"]) == 3


# The ledger.


@pytest.mark.ring
def test_the_ledger_adds_up_what_each_learnt(joint: Files) -> None:
    cases = make_cases(list(joint.values()))
    leaks = leakage(cases)
    sums = totals(leaks)
    scores, more = 20 * 10, 24 * 6 * 10 - 20 * 10
    assert sums[ES, FR] == (1 + 2 + 32 * 12 + scores, more, 0), "admission, two cap bits, twelve sums, ten scores"
    assert sums[DE, FR] == (1 + 1 + 32 * 12 + scores, more, 0)
    assert sums[EU, ES] == (2.0 + 1, 0, 0), (
        "one of four endings (three rungs, or none was enough), and it did not freeze"
    )
    assert sums[EU, FR] == (2, 0, 0), "an admission bit with each holder"
    bits, cheated, references = sums[FR, ES]
    assert (cheated, references) == (0, 10)
    sets = math.log2(sum(math.comb(RING.n, count) << count for count in range(11)))
    assert bits == pytest.approx(3 + sets), "at most ten of the rows of a block, each contested or not"
    assert (FR, EU) not in sums
    twice = totals([*leaks, *leaks])
    assert all(twice[pair][0] == 2 * sums[pair][0] for pair in sums)
