"""Exporting evidence: what goes into a bundle, and what a node cannot show."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from pathlib import Path

import msgspec
import pytest
import typer
from typer.testing import CliRunner

from nodes.cli import evidence as cli_evidence
from nodes.evidence import export as evidence
from nodes.evidence import links
from nodes.evidence.archive import Archive
from nodes.evidence.export import EvidenceError, export_bundle
from nodes.evidence.links import LinkDamaged
from nodes.evidence.recorder import read_records
from nodes.logs.entries import TranscriptEntry
from nodes.logs.of_node import open_log
from nodes.verify import EvidenceRefused, decode_bundle, verify_bundles
from nodes.verify import format as format_of_bundles
from nodes.verify.format import HARMLESS, Bundle, Witnessed, frame_digest, preparation_inside
from nodes.verify.verdict import RULES
from pets.errors import LineupError
from protocol.messages import ALLOWED
from tests.kit.evidence import DE, ES, EU, FR, World
from tests.kit.stories import Story

pytestmark = pytest.mark.slow

KEPT = {kind.__name__ for kind in HARMLESS}
runner = CliRunner()


def inside(data: bytes) -> Bundle:
    """The bundle of the preparation in that of a search."""
    found = preparation_inside(decode_bundle(data)[1])
    assert found is not None
    return found[1]


@pytest.fixture(scope="module")
def app() -> typer.Typer:
    made = typer.Typer()
    cli_evidence.register(made)
    return made


def test_no_score_share_reference_or_template_is_in_any_bundle(world: World, query: bytes) -> None:
    assert {kind.__name__ for kind in ALLOWED} - KEPT == {
        "KeySeed", "PublicPart", "PairSecret", "MaskPart", "FormBlock", "PreparedBlocks", "Difference",
        "AdmissionScores", "AdmissionGates", "AdmissionCount", "AdmissionInput", "MaskedScores", "LiveRows",
        "InputShare", "Gates", "CountShare", "PowerSums", "ConfirmationAnswer", "Release",
    }  # fmt: skip
    row = world.galleries[ES].templates[200].tobytes()
    reference = world.galleries[ES].reference(200).encode()
    for name in (FR, EU, ES):
        data = export_bundle(world.root / name, query.hex())
        for bundle in (decode_bundle(data)[1], inside(data)):
            assert {record.kind for record in bundle.records if record.message is not None} <= KEPT
            assert all(record.message is None for record in bundle.records if record.kind not in KEPT)
        assert world.probe.tobytes() not in data
        assert row not in data
        assert reference not in data


def test_every_record_has_its_disclosed_entry(world: World, query: bytes) -> None:
    bundle = decode_bundle(export_bundle(world.root / EU, query.hex()))[1]
    assert len(bundle.records) == len(bundle.log.entries) > 50
    assert list(bundle.records) == read_records(world.root / EU / "evidence" / query.hex())


def test_the_preparation_of_a_search_travels_inside(world: World) -> None:
    made = world.prepare((ES,))
    query = world.query((ES,), made=made)
    for name in (FR, EU, ES):
        data = export_bundle(world.root / name, query.hex())
        before = inside(data)
        assert (before.query, before.owner.name, before.preparation) == (made.conversation, name, None)
        assert list(before.records) == read_records(world.root / name / "evidence" / made.conversation.hex())
        assert verify_bundles([data], world.trust).holds


def test_a_preparation_that_no_search_used_is_exported_by_its_own_number(world: World) -> None:
    made = world.prepare((ES,))
    files = world.bundles(made.conversation, (FR, EU, ES))
    assert all(decode_bundle(data)[1].query == made.conversation for data in files.values())
    assert verify_bundles(list(files.values()), world.trust).holds


def test_a_search_whose_preparation_is_not_known_any_more_is_exported_and_does_not_hold(world: World) -> None:
    """Its file is gone: `verify` says so. Damaged, it is named."""
    made = world.prepare((ES,))
    query = world.query((ES,), made=made)
    (link,) = [
        path
        for path in (world.root / ES / links.FOLDER).iterdir()
        if links.conversation_of(world.root / ES, bytes.fromhex(path.name)) == made.conversation
    ]
    link.write_bytes(b"short")
    with pytest.raises(LinkDamaged, match=f"{link} is damaged: 5 bytes"):
        export_bundle(world.root / ES, query.hex())
    link.unlink()
    data = export_bundle(world.root / ES, query.hex())
    assert decode_bundle(data)[1].preparation is None
    (failed,) = verify_bundles([data], world.trust).failed
    assert failed.id == "preparation"


def test_what_is_not_there_cannot_be_exported(world: World, query: bytes) -> None:
    for text in ("", "zz", "00" * 15, "00" * 16, "../" * 8):
        with pytest.raises(EvidenceError):
            export_bundle(world.root / ES, text)
    with pytest.raises(EvidenceError, match="keeps nothing"):
        export_bundle(world.root / DE, query.hex())


def test_evidence_that_was_changed_on_disk_is_not_exported(world: World, query: bytes, tmp_path: Path) -> None:
    path = world.root / ES / "evidence" / query.hex()
    original = path.read_bytes()
    try:
        records = read_records(path)
        place = original.index(records[40].content)
        path.write_bytes(original[:place] + bytes(32) + original[place + 32 :])
        with pytest.raises(EvidenceError, match="under no checkpoint"):
            export_bundle(world.root / ES, query.hex())
    finally:
        path.write_bytes(original)


def test_a_running_node_can_be_asked_too(world: World, query: bytes) -> None:
    """The log is locked by the node; a copy is read, and nothing of it stays behind."""
    folder = world.root / EU
    with open_log(world.identities[EU], folder, "transcript"):
        data = export_bundle(folder, query.hex())
    assert verify_bundles([data], world.trust).holds
    assert not list(world.identities[EU].config.paths.logs.glob(".evidence*"))


def test_a_query_that_is_still_running_cannot_be_exported_from_a_running_node(world: World) -> None:
    folder = world.root / EU
    source = read_records(next((folder / "evidence").iterdir()))[0]
    query = bytes(16)
    frame = frame_digest(query, source.session, FR, EU, source.sequence, source.content)
    archive = Archive(world.identities[EU], folder)
    try:
        entry = TranscriptEntry(query, "whole", "received", FR, source.kind, 0, frame, None, source.time)
        archive.transcript.append([entry], int(time.time() * 1000))
        data = msgspec.msgpack.encode(source)
        (folder / "evidence" / query.hex()).write_bytes(len(data).to_bytes(4, "big") + data)
        with pytest.raises(EvidenceError, match="still running"):
            export_bundle(folder, query.hex())
    finally:
        archive.close()
        (folder / "evidence" / query.hex()).unlink(missing_ok=True)


def test_later_bundles_prove_that_the_log_only_grew(
    world: World, query: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Unasked since the last few checkpoints, and asked since any that somebody shows."""
    folder = world.root / ES
    early = export_bundle(folder, query.hex())
    world.query((ES,))
    late_query = world.query((ES,))
    report = verify_bundles([early, export_bundle(folder, late_query.hex())], world.trust)
    assert [c.status for c in report.checks if c.id == "log-consistency"] == ["pass"]
    monkeypatch.setattr(evidence, "RECENT", 1)
    late = export_bundle(folder, late_query.hex())
    report = verify_bundles([early, late], world.trust)
    assert report.holds
    (check,) = [c for c in report.checks if c.id == "log-consistency" and c.status == "not-checkable"]
    assert "--since" in check.details[0]
    proven = export_bundle(folder, late_query.hex(), [decode_bundle(early)[1]])
    report = verify_bundles([early, proven], world.trust)
    assert [c.status for c in report.checks if c.id == "log-consistency"] == ["pass"]
    with pytest.raises(EvidenceError, match="the bundle of EU shows no checkpoint of this node's log"):
        export_bundle(folder, late_query.hex(), [decode_bundle(export_bundle(world.root / EU, query.hex()))[1]])


def test_a_witnessed_checkpoint_travels_along(world: World, query: bytes) -> None:
    log = decode_bundle(export_bundle(world.root / ES, query.hex()))[1].log
    shown = Witnessed(log.header, log.checkpoint)
    archive = Archive(world.identities[FR], world.root / FR)
    archive.witnesses.keep(shown)
    archive.close()
    data = export_bundle(world.root / FR, query.hex())
    assert decode_bundle(data)[1].witnessed == (shown,)
    assert verify_bundles([data], world.trust).holds
    shutil.rmtree(world.root / FR / "witnessed")


# The command line.


def files_of(world: World, query: bytes, app: typer.Typer, folder: Path) -> list[str]:
    paths = []
    for name in (FR, EU, ES):
        path = folder / f"{name}.evidence"
        arguments = ["evidence", "export", "--dir", str(world.root / name), "--query", query.hex(), "-o", str(path)]
        result = runner.invoke(app, arguments)
        assert result.exit_code == 0, result.output
        paths.append(str(path))
    return paths


def test_export_and_verify_from_the_command_line(world: World, query: bytes, app: typer.Typer, tmp_path: Path) -> None:
    paths = files_of(world, query, app, tmp_path)
    trust = str(world.root / "authority" / "peers")
    page = tmp_path / "report.html"
    result = runner.invoke(app, ["verify", *paths, "--trust", trust, "--json", "--html", str(page)])
    assert result.exit_code == 0, result.output
    report = json.loads(result.output)
    assert report["holds"]
    assert report["counts"] == {"pass": len(RULES) - 1, "fail": 0, "not-checkable": 1}, "nobody approved it"
    assert all(check["rule"] for check in report["checks"])
    assert {entry["learner"] for entry in report["ledger_totals"]} == {FR, EU, ES}
    html = page.read_text("utf-8")
    assert all(check["title"].replace("'", "&#x27;") in html for check in report["checks"])
    assert "http" not in html, "nothing is loaded from anywhere"
    shown = runner.invoke(app, ["verify", *paths, "--trust", trust])
    assert f"{len(RULES) - 1} checks passed, 0 failed" in shown.output
    assert runner.invoke(app, ["verify", paths[0], "--strict"]).exit_code == 1, "not everything could be checked"
    assert runner.invoke(app, ["verify", paths[0]]).exit_code == 0


def test_a_broken_bundle_gives_status_one_and_names_the_message(
    world: World, query: bytes, app: typer.Typer, tmp_path: Path
) -> None:
    story = Story.read(world, world.bundles(query, (FR, EU, ES)))
    story.find("Release")[0].size += 66
    paths = []
    for name, data in story.tell().items():
        paths.append(tmp_path / name)
        paths[-1].write_bytes(data)
    page = tmp_path / "report.html"
    result = runner.invoke(app, ["verify", *map(str, paths), "--html", str(page)])
    assert result.exit_code == 1
    assert "EVIDENCE DOES NOT HOLD" in result.output
    assert "Rules that were broken" in page.read_text("utf-8")
    assert "(Release)" in page.read_text("utf-8")


def test_a_bundle_that_was_cut_or_is_too_long_is_refused_by_name(
    world: World, query: bytes, app: typer.Typer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = export_bundle(world.root / EU, query.hex())
    path = tmp_path / "EU.evidence"
    for cut in (*range(40), *range(40, len(data), len(data) // 50)):
        path.write_bytes(data[:cut])
        result = runner.invoke(app, ["verify", str(path)])
        assert isinstance(result.exception, EvidenceRefused)
        assert str(path) in str(result.exception)
    path.write_bytes(data)
    assert runner.invoke(app, ["verify", str(path)]).exit_code == 0
    monkeypatch.setattr(format_of_bundles, "BUNDLE_LIMIT", len(data) - 1)
    result = runner.invoke(app, ["verify", str(path)])
    assert f"a bundle of {len(data)} bytes, the limit is {len(data) - 1}" in str(result.exception)


def test_a_record_file_that_was_damaged_is_refused_by_name(world: World, query: bytes) -> None:
    """The tail that a crash left is passed over, and then the log knows of more; anything else is named."""
    path = world.root / ES / "evidence" / query.hex()
    original = path.read_bytes()
    try:
        for damaged in (b"\0\0\0\x05hello", original[:4] + b"\xc1" + original[5:]):
            path.write_bytes(damaged)
            with pytest.raises(EvidenceError, match=f"{path} is damaged"):
                export_bundle(world.root / ES, query.hex())
        path.write_bytes(original[:-7])
        bundle = decode_bundle(export_bundle(world.root / ES, query.hex()))[1]
        assert len(bundle.records) == len(read_records(path))
    finally:
        path.write_bytes(original)


def test_files_that_are_no_evidence_are_refused_by_name(app: typer.Typer, tmp_path: Path) -> None:
    bad = tmp_path / "bad.evidence"
    bad.write_bytes(b"nothing")
    for path in (bad, tmp_path / "missing"):
        result = runner.invoke(app, ["verify", str(path)])
        assert isinstance(result.exception, LineupError)
        assert str(path) in str(result.exception)


def test_verification_needs_no_network(world: World, query: bytes, app: typer.Typer, tmp_path: Path) -> None:
    """In a process of its own in which no socket can be made."""
    paths = files_of(world, query, app, tmp_path)
    code = (
        "import sys, socket\n"
        "def refuse(*_, **__): raise RuntimeError('a socket')\n"
        "socket.socket = refuse\n"
        "from pathlib import Path\n"
        "from nodes.verify import verify_bundles\n"
        "assert verify_bundles([Path(p).read_bytes() for p in sys.argv[1:]]).holds\n"
    )
    subprocess.run([sys.executable, "-c", code, *paths], check=True)
