"""What the verifier says of evidence with parts missing, and of far too much of it."""

from __future__ import annotations

import io
import time
from itertools import combinations

import msgspec
import numpy as np
import pytest
from rich.console import Console

from nodes.evidence.export import sign_bundle
from nodes.verify import Report, verify_bundles
from nodes.verify.format import decode_bundle
from nodes.verify.ledger import leakage, totals
from nodes.verify.page import as_data, as_page, print_report
from nodes.verify.table import Shape
from nodes.verify.verdict import make_cases
from protocol.form import form_lanes
from protocol.messages import (
    AdmissionCount,
    AdmissionScores,
    ConfirmationAnswer,
    DerivedId,
    Difference,
    FormBlock,
    InputShare,
    KeySeed,
    LiveRows,
    MaskedScores,
    MaskPart,
    PairSecret,
    PowerSums,
    PreparedBlocks,
    PublicPart,
    Release,
    Signature,
)
from tests.kit.evidence import DE, DIM, ES, EU, FR, World
from tests.kit.ring import RING
from tests.kit.stories import Files, Story

OF_SESSIONS = ("same-content", "admission", "one-opening", "rungs", "confirmation", "release", "cap")


def left_open(report: Report) -> dict[str, str]:
    return {check.id: "\n".join(check.details) for check in report.checks if check.status == "not-checkable"}


@pytest.mark.slow
@pytest.mark.parametrize("names", [n for count in (1, 2, 3, 4) for n in combinations((FR, EU, ES, DE), count)])
def test_a_session_is_called_checked_only_where_both_links_of_its_holder_are_shown(
    names: tuple[str, ...], world: World, joint: Files
) -> None:
    """A router's bundle alone shows no release, a holder's alone nothing of the other holder's session."""
    report = verify_bundles([joint[name] for name in names], world.trust)
    assert report.holds
    said = left_open(report)
    for holder in (ES, DE):
        seen = holder in names or {FR, EU} <= set(names)
        for rule in OF_SESSIONS:
            assert (f"session {holder}: needs the bundle of {holder}" in said.get(rule, "")) == (not seen), rule


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["ConfirmationAnswer", "ConfirmationBlock", "Rung"])
def test_many_records_of_a_kind_do_not_keep_the_verifier_busy(kind: str, world: World, joint: Files) -> None:
    """The work must grow with the bundle, not with its square."""
    bundle = decode_bundle(joint[EU])[1]
    (one, *_) = [record for record in bundle.records if (record.kind, record.session) == (kind, ES)]
    few = 200 if kind == "ConfirmationBlock" else 2_000  # a block is shown in full
    seconds = []
    for count in (few, 8 * few):
        records = (*bundle.records, *(msgspec.structs.replace(one, sequence=number) for number in range(count)))
        changed = msgspec.structs.replace(bundle, records=records)
        signed = decode_bundle(sign_bundle(changed, world.identities[EU].signing))
        start = time.process_time()
        assert not verify_bundles([signed], world.trust).holds
        seconds.append(time.process_time() - start)
    assert seconds[1] < 24 * seconds[0], seconds


def test_a_release_that_both_its_ends_leave_out_is_not_called_checked(world: World, joint: Files) -> None:
    """Requester and holder together: the router was told of a confirmation, and nobody says that it stopped."""
    story = Story.read(world, joint)
    for said in story.find("Signature", session=ES):
        if isinstance(said.message, Signature) and said.message.phase == "release":
            story.drop(said)
    story.drop(*story.find("Release", session=ES))
    report = verify_bundles(list(story.tell().values()), world.trust)
    assert report.holds
    assert "session ES: neither a release nor another end is shown" in left_open(report)["release"]


@pytest.mark.parametrize("kept", [(), ("AdmissionBit",)], ids=["all of it", "what came after admission"])
def test_a_session_that_all_its_parties_leave_out_has_no_end(kept: tuple[str, ...], world: World, joint: Files) -> None:
    """Also if they stop telling after a probe was admitted: that is no refusal."""
    story = Story.read(world, joint)
    for owner, timeline in story.timelines.items():
        places = [n for n, (said, *_) in enumerate(timeline) if said.session == ES and said.kind in kept]
        last = max(places, default=-1)
        story.timelines[owner] = [told for n, told in enumerate(timeline) if n <= last or told[0].session != ES]
    report = verify_bundles(list(story.tell().values()), world.trust)
    assert dict(report.facts)[ES] == "no end is shown"
    assert "session ES: neither a release nor another end is shown" in left_open(report)["release"]


def test_control_a_session_that_ended_without_a_release_is_called_checked(world: World) -> None:
    """The probe was refused, and there is nothing to release."""

    query = world.query((ES,), np.full(DIM, 30, np.int8), unchecked=True)
    report = verify_bundles(list(world.bundles(query, (FR, EU, ES)).values()), world.trust)
    assert dict(report.facts)[ES].startswith("ended with admission: the probe was refused")
    assert "release" not in left_open(report)


def test_clocks_of_one_party_agree_with_nobodys(world: World, joint: Files) -> None:
    assert "whether clocks agree" in left_open(verify_bundles([joint[EU]], world.trust))["clock"]
    assert "clock" not in left_open(verify_bundles([joint[EU], joint[ES]], world.trust))


def test_the_report_says_what_no_pass_shows(world: World, joint: Files) -> None:
    report = verify_bundles(list(joint.values()), world.trust)
    text = io.StringIO()
    print_report(report, [], Console(file=text, width=2000, color_system=None))
    for shown in (text.getvalue(), as_page(report, []), as_data(report, [])["not_shown"]):
        assert "No pass shows what is in messages that are kept as hashes" in shown


@pytest.mark.parametrize("cap", [1, 10, 99])
@pytest.mark.parametrize("blocks", [1, 65])
@pytest.mark.parametrize("dim", [80, 512])
def test_the_sizes_that_are_computed_are_those_of_real_messages(dim: int, cap: int, blocks: int) -> None:
    shape = Shape(RING.n, dim, cap, blocks)
    (*_, last), words = shape.chunks, RING.n // 64
    lanes = -(-dim // 64)
    for kind, index, message in (
        ("PairSecret", 0, PairSecret(bytes(32))),
        ("KeySeed", 0, KeySeed(bytes(32))),
        ("DerivedId", 0, DerivedId(bytes(32))),
        ("PublicPart", 0, PublicPart(bytes(8 * RING.n))),
        ("MaskPart", 1, MaskPart(memoryview(bytes(8 * (16 if dim == 80 else 64) * RING.n)))),
        ("FormBlock", 0, FormBlock(bytes(32), bytes(24 * form_lanes(dim) // 8))),
        ("PreparedBlocks", len(shape.chunks) - 1, PreparedBlocks(memoryview(bytes(last * 8 * RING.n)))),
        ("Difference", 0, Difference(bytes(32), bytes(20 * dim // 8))),
        ("AdmissionScores", 0, AdmissionScores(bytes(32), bytes(24 * 8 * lanes))),
        ("MaskedScores", len(shape.chunks) - 1, MaskedScores(memoryview(bytes(24 * 8 * last * words)))),
        ("LiveRows", len(shape.chunks) - 1, LiveRows(memoryview(bytes(8 * last * words)))),
        ("AdmissionCount", 0, AdmissionCount(memoryview(bytes(4 * 64 * (36 * lanes + 1))))),
        ("InputShare", 0, InputShare(memoryview(bytes(32 * 8)))),
        ("PowerSums", 0, PowerSums(bytes(4 * (cap + 2)))),
        ("ConfirmationAnswer", 0, ConfirmationAnswer(bytes(24 * cap))),
        ("Release", 0, Release((bytes(65),) * cap, bytes(32))),
    ):
        assert shape.message_bytes(kind, index) == len(msgspec.msgpack.encode(message)), kind
    assert shape.message_bytes("Gates", 0) is None


def test_a_ledger_says_that_it_bounds_only_what_is_shown(world: World, joint: Files) -> None:
    """The router's bundle shows no release, so what the requester learnt by it is not in the sum."""
    sums = {}
    for names in ((EU,), (FR, EU, ES, DE)):
        bundles = [joint[name] for name in names]
        leaks = leakage(make_cases(bundles))
        sums[names] = totals(leaks)[FR, ES][0]
        text = io.StringIO()
        print_report(verify_bundles(bundles), leaks, Console(file=text, width=300, color_system=None))
        for shown in (text.getvalue(), as_page(verify_bundles(bundles), leaks)):
            assert "where one is missing, more may have been learnt" in shown
    assert sums[EU,] < sums[FR, EU, ES, DE]
