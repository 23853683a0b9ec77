"""Bundles made to mislead whoever reads the report: forged witnesses, wrong roles, text that steers a terminal."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import pytest
from rich.console import Console

from nodes.evidence.export import sign_bundle
from nodes.verify import Report, verify_bundles
from nodes.verify import table as own_table
from nodes.verify.format import Witnessed, decode_bundle
from nodes.verify.page import as_data, as_page, print_report
from pets.errors import printable
from pets.merkle import MerkleTree
from pets.prf import labelled_hash
from protocol.messages import Echo
from tests.kit.evidence import DE, ES, EU, FR, World, failures
from tests.kit.stories import Files, Story, signed_checkpoint

STEERING = "FR-1\x1b[2J\x1b[8m\r\x9b1A\u202e\n"  # clears the screen, hides what follows, goes up, turns the writing


def changed(world: World, files: Files, name: str, **changes: Any) -> Files:
    """One party's bundle with other fields, signed again."""
    bundle = msgspec.structs.replace(decode_bundle(files[name])[1], **changes)
    return files | {name: sign_bundle(bundle, world.identities[name].signing)}


def on_terminal(report: Report) -> str:
    text = io.StringIO()
    print_report(report, [], Console(file=text, width=200, color_system=None, force_terminal=False))
    return text.getvalue()


SHOWN: dict[str, Callable[[Report], str]] = {
    "terminal": on_terminal,
    "page": lambda report: as_page(report, []),
    "machines": lambda report: json.dumps(as_data(report, []), ensure_ascii=False),
}


@pytest.mark.parametrize("shown", SHOWN.values(), ids=SHOWN.keys())
def test_no_text_in_a_bundle_steers_the_terminal_that_shows_it(
    shown: Callable[[Report], str], world: World, files: Files
) -> None:
    """A free text of the warrant and the type of a message: what holds, and what is broken."""
    story = Story.read(world, files)
    (said, *_) = story.find("Search")
    story.announce(warrant=msgspec.structs.replace(said.message.warrant, request_number=STEERING))
    told = story.tell()
    records = list(decode_bundle(told[ES])[1].records)
    records[3] = msgspec.structs.replace(records[3], kind=STEERING)
    report = verify_bundles(list(changed(world, told, ES, records=tuple(records)).values()), world.trust)
    assert "schema" in failures(report)
    text = shown(report)
    assert "FR-1" in text
    assert not {char for char in text if not char.isprintable()} - {"\n"}


def test_printable_leaves_letters_as_they_are() -> None:
    assert printable("Ünï © 1 [b]") == "Ünï © 1 [b]"
    assert printable("a\x1b\u202eb") == "a\\x1b\\u202eb"


@pytest.mark.parametrize("owner", [ES, "IT"])
@pytest.mark.parametrize("sizes", [(7, 7), (7, 9)])
def test_a_forged_witness_accuses_nobody(owner: str, sizes: tuple[int, int], world: World, files: Files) -> None:
    """EU shows two checkpoints of a log, and signed them itself: whose log it is makes no difference."""
    header = msgspec.structs.replace(decode_bundle(files[ES])[1].log.header, owner=owner)
    witnessed = tuple(
        Witnessed(header, signed_checkpoint(world.identities[EU], header.log, _tree(size, fill), 1000 + fill))
        for fill, size in enumerate(sizes)
    )
    failed = failures(verify_bundles(list(changed(world, files, EU, witnessed=witnessed).values()), world.trust))
    assert "log-consistency" not in failed
    assert list(failed) == (["log-checkpoint"] if owner == ES else []), "and where the key is known, the forger shows"


@pytest.mark.parametrize("sizes", [(7, 7), (7, 9)])
def test_control_two_checkpoints_that_the_owner_signed_accuse_it(
    sizes: tuple[int, int], world: World, files: Files
) -> None:
    header = decode_bundle(files[ES])[1].log.header
    header = msgspec.structs.replace(header, owner=DE)
    witnessed = tuple(
        Witnessed(header, signed_checkpoint(world.identities[DE], header.log, _tree(size, fill), 1000 + fill))
        for fill, size in enumerate(sizes)
    )
    failed = failures(verify_bundles(list(changed(world, files, EU, witnessed=witnessed).values()), world.trust))
    assert list(failed) == ["log-consistency"]


def _tree(size: int, fill: int) -> MerkleTree:
    tree = MerkleTree()
    for _ in range(size):
        tree.append(bytes([fill]) * 32)
    return tree


def test_a_party_that_the_trust_list_gives_another_role_is_found_without_its_bundle(world: World, files: Files) -> None:
    """A requester that lets a friend among the holders play the router has all three shares with it."""
    two = [files[FR], files[ES]]
    assert failures(verify_bundles(two, world.trust)) == {}
    trust = world.trust | {EU: replace(world.trust[EU], role="holder")}
    assert "EU is announced as router, the trust list says holder" in failures(verify_bundles(two, trust))["identity"]
    trust = {name: party for name, party in world.trust.items() if name != EU}
    assert "EU is announced and not in the trust list" in failures(verify_bundles(two, trust))["identity"]


def test_a_purpose_that_the_law_does_not_know_is_found(world: World, files: Files) -> None:
    story = Story.read(world, files)
    (said, *_) = story.find("Search")
    for purpose in ("CURIOSITY", *own_table.PURPOSES):
        story.announce(warrant=msgspec.structs.replace(said.message.warrant, purpose=purpose))
        failed = failures(verify_bundles(list(story.tell().values()), world.trust))
        if purpose in own_table.PURPOSES:
            assert "warrant" not in failed
        else:
            assert "CURIOSITY" in failed["warrant"]


def test_what_is_no_bundle_does_not_steer_the_terminal_either(tmp_path: Path) -> None:
    """The name of an unknown field stands in the refusal."""
    file = tmp_path / "crafted"
    file.write_bytes(msgspec.msgpack.encode({STEERING: 1}))
    run = subprocess.run([sys.executable, "-m", "nodes.cli", "verify", str(file)], capture_output=True, text=True)
    assert run.returncode == 1
    assert "FR-1\\x1b" in run.stderr
    assert "\x1b" not in run.stderr


def test_known_limit_all_parties_together_can_tell_of_another_day_and_of_work_that_was_never_done(
    world: World, files: Files
) -> None:
    """A year ago, with gates of no size: nothing dates a log but whoever else was shown its checkpoints then."""
    year = 365 * 24 * 3600
    story = Story.read(world, files)
    (said, *_) = story.find("Search")
    held = said.message.warrant
    story.announce(
        warrant=msgspec.structs.replace(held, issued=held.issued - year, expires=held.expires - year, identified=True)
    )
    story.rebind()
    identity = story.find("DerivedId")[0].message.identity
    block = story.find("ConfirmationBlock")[0].message
    about = labelled_hash("confirmation-block", block.commitment, block.data)
    for said in (story.find("Echo", FR, EU)[-1], story.find("Echo", EU, FR)[-1]):
        said.message = Echo(labelled_hash("echo", identity, ES, about))
    for part in (story, story.made):
        for gates in (*part.find("Gates"), *part.find("AdmissionGates")):
            gates.size = 0
        for owner, timeline in part.timelines.items():
            part.timelines[owner] = [(said, direction, at - 1000 * year) for said, direction, at in timeline]
    assert failures(verify_bundles(list(story.tell().values()), world.trust)) == {}
