"""Files that somebody brings to an audit or names for a report, made to break it."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path

import numpy as np
import pytest
import typer
from typer.testing import CliRunner

from nodes.audit import audit
from nodes.audit.audit import AuditRefused, audit_party
from nodes.cli import evidence as cli_evidence
from nodes.verify.format import decode_bundle
from pets.errors import InputError
from tests.kit.evidence import ES, World, shared_world


@pytest.fixture(scope="module")
def world() -> World:
    return shared_world()


@pytest.fixture(scope="module")
def bundle(world: World) -> bytes:
    return world.bundles(world.query((ES,)), (ES,))[ES]


def header(shape: tuple[int, ...], kind: str) -> bytes:
    """The beginning of a .npy file that promises an array."""
    stream = io.BytesIO()
    np.lib.format.write_array_header_1_0(stream, {"descr": kind, "fortran_order": False, "shape": shape})
    return stream.getvalue()


def packed(probe: bytes) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("probe.npy", probe)
        file.writestr("ciphertexts.npy", header((32,), "|u1") + bytes(32))
    return stream.getvalue()


@pytest.mark.parametrize(
    "data",
    [b"", b"nothing", header((2**40, 2, 2, 4096), "<u4"), header((-1, 2, 2, 8), "<u4"), packed(b"")],
    ids=["empty", "text", "more than memory", "negative", "another kind of file"],
)
def test_what_holds_no_ciphertexts_is_refused_by_name(data: bytes, world: World, bundle: bytes, tmp_path: Path) -> None:
    file = tmp_path / "ciphertexts.npy"
    file.write_bytes(data)
    with pytest.raises(AuditRefused, match=f"{file} holds no ciphertexts"):
        audit_party(decode_bundle(bundle), world.root / ES, file)


@pytest.mark.parametrize(
    "data",
    [b"", b"nothing", packed(header((2**50,), "|i1")), packed(header((10**8,), "|i1") + bytes(10**8))],
    ids=["empty", "text", "more than memory", "a bomb"],
)
def test_what_holds_no_probe_is_refused_by_name(data: bytes, world: World, bundle: bytes, tmp_path: Path) -> None:
    ciphertexts, file = tmp_path / "ciphertexts.npy", tmp_path / "probe.npz"
    np.save(ciphertexts, np.zeros((1, 2, 2, 8), np.uint32))
    file.write_bytes(data)
    with pytest.raises(AuditRefused, match=f"{file} holds no probe of an audit"):
        audit_party(decode_bundle(bundle), world.root / ES, ciphertexts, file)


def test_an_audit_says_whose_bundle_it_was_and_what_no_pass_shows(world: World, bundle: bytes) -> None:
    report = audit_party(decode_bundle(bundle), world.root / ES)
    assert world.identities[ES].peer.fingerprint in dict(report.facts)["audited"]
    assert "lineup verify" in report.not_shown


def test_more_ciphertexts_than_a_query_can_have_are_not_read(
    world: World, bundle: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "ciphertexts.npy"
    np.save(file, np.zeros((1, 2, 2, 8), np.uint32))
    monkeypatch.setattr(audit, "CIPHERTEXTS_LIMIT", 127)
    with pytest.raises(AuditRefused, match="holds 128 bytes of ciphertexts, the limit is 127"):
        audit_party(decode_bundle(bundle), world.root / ES, file)


def test_a_report_that_cannot_be_written_is_named(bundle: bytes, tmp_path: Path) -> None:
    app = typer.Typer()
    cli_evidence.register(app)
    file = tmp_path / "es.bundle"
    file.write_bytes(bundle)
    result = CliRunner().invoke(app, ["verify", str(file), "--html", str(tmp_path / "none" / "report.html")])
    assert isinstance(result.exception, InputError)
    assert "report.html cannot be written" in str(result.exception)
