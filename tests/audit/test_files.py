"""Files that somebody brings to an audit or names for a report, made to break it."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest
import typer
from typer.testing import CliRunner

from nodes.audit import handover
from nodes.audit.audit import audit_party
from nodes.audit.errors import AuditRefused
from nodes.audit.handover import CarriedProbe, Sent
from nodes.cli import evidence as cli_evidence
from nodes.verify.format import decode_bundle
from pets.errors import InputError
from tests.kit.evidence import ES, World

FILES = [
    b"",
    b"nothing",
    b"\xdb\xff\xff\xff\xff",
    msgspec.msgpack.encode({"type": "sent", "mask": b"", "difference": b"", "more": 1}),
    b"\x91" * 10000,
]
IDS = ["empty", "text", "more than there is", "a field more", "deep"]


@pytest.fixture(scope="module")
def bundle(world: World, query: bytes) -> bytes:
    return world.bundles(query, (ES,))[ES]


@pytest.mark.parametrize("data", [*FILES, msgspec.msgpack.encode(CarriedProbe(b"", bytes(32)))], ids=[*IDS, "a probe"])
def test_what_a_requester_did_not_send_is_refused_by_name(
    data: bytes, world: World, bundle: bytes, tmp_path: Path
) -> None:
    file = tmp_path / "fr.sent"
    file.write_bytes(data)
    with pytest.raises(AuditRefused, match=f"{file} does not hold what a requester sent"):
        audit_party(decode_bundle(bundle), world.root / ES, file)


@pytest.mark.parametrize("data", [*FILES, msgspec.msgpack.encode(Sent(b"", b""))], ids=[*IDS, "what was sent"])
def test_what_holds_no_probe_is_refused_by_name(data: bytes, world: World, bundle: bytes, tmp_path: Path) -> None:
    file = tmp_path / "fr.probe"
    file.write_bytes(data)
    with pytest.raises(AuditRefused, match=f"{file} does not hold the probe of an audit"):
        audit_party(decode_bundle(bundle), world.root / ES, None, file)


@pytest.mark.parametrize("limit", ["SENT_LIMIT", "PROBE_LIMIT"])
def test_more_than_a_query_can_have_is_not_read(
    limit: str, world: World, bundle: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "long"
    file.write_bytes(bytes(128))
    monkeypatch.setattr(handover, limit, 127)
    files = (file, None) if limit == "SENT_LIMIT" else (None, file)
    with pytest.raises(AuditRefused, match="more than 127 bytes"):
        audit_party(decode_bundle(bundle), world.root / ES, *files)


def test_files_that_are_not_there_or_cannot_be_written_are_named(tmp_path: Path) -> None:
    with pytest.raises(AuditRefused, match="none cannot be read: No such file"):
        handover.read(tmp_path / "none", Sent)
    with pytest.raises(AuditRefused, match="cannot be written: No such file"):
        handover.write(tmp_path / "none" / "fr.sent", Sent(b"", b""))


def test_an_audit_says_whose_bundle_it_was_and_what_no_pass_shows(world: World, bundle: bytes) -> None:
    report = audit_party(decode_bundle(bundle), world.root / ES)
    assert world.identities[ES].peer.fingerprint in dict(report.facts)["audited"]
    assert "lineup verify" in report.not_shown
    assert "gates" in report.not_shown


def test_a_report_that_cannot_be_written_is_named(bundle: bytes, tmp_path: Path) -> None:
    app = typer.Typer()
    cli_evidence.register(app)
    file = tmp_path / "es.bundle"
    file.write_bytes(bundle)
    result = CliRunner().invoke(app, ["verify", str(file), "--html", str(tmp_path / "none" / "report.html")])
    assert isinstance(result.exception, InputError)
    assert "report.html cannot be written" in str(result.exception)
