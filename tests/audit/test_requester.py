"""The audit on site: honest parties pass, a requester that cheated is found, and what it refuses to look at."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import typer
from typer.testing import CliRunner

from nodes.audit.audit import AuditRefused, audit_party
from nodes.cli import evidence as cli_evidence
from nodes.evidence.export import export_bundle
from nodes.verify import decode_bundle
from pets.key_source import NativeKeys
from pets.params import norm_bound
from protocol.holder import Holder
from protocol.requester import Requester
from tests.kit.audits import audit, resealed
from tests.kit.evidence import DIM, ES, EU, FR, World, failures, justification
from tests.kit.ring import RING

runner = CliRunner()


# Honest parties.


@pytest.mark.ring
def test_an_honest_requester_and_holder_pass(world: World, query: bytes, ciphertexts: Path, probe: Path) -> None:
    report = audit(world, query, ES, ciphertexts, probe)
    assert failures(report) == {}
    assert {check.status for check in report.checks} == {"pass"}
    assert np.load(ciphertexts).shape == (DIM, 2, 2, RING.n)


def test_without_ciphertexts_the_block_cannot_be_recomputed(world: World, query: bytes) -> None:
    report = audit(world, query, ES)
    assert failures(report) == {}
    unknown = {check.id for check in report.checks if check.status == "not-checkable"}
    assert unknown == {"audit-received", "audit-inputs", "audit-admission", "audit-block", "audit-filter", "audit-hits"}


def test_without_the_probe_all_but_the_hits_can_be_checked(world: World, query: bytes, ciphertexts: Path) -> None:
    report = audit(world, query, ES, ciphertexts)
    assert failures(report) == {}
    assert {check.id for check in report.checks if check.status == "not-checkable"} == {"audit-hits"}


def test_a_changed_gallery_leaves_the_rest_checkable(world: World, query: bytes, ciphertexts: Path, kept: Any) -> None:
    """As if the gallery had changed since: another digest sealed. The commitment does not open, and that is said."""
    resealed(world, query, ES, gallery_digest=bytes(32))
    report = audit(world, query, ES, ciphertexts)
    assert list(failures(report)) == ["audit-gallery"]
    assert "audit-filter" in {check.id for check in report.checks if check.status == "not-checkable"}


def test_openfhe_queries_are_plainly_not_auditable(world: World, tmp_path: Path) -> None:
    class Seedless(NativeKeys):
        """As OpenFHE's source: it encrypts like any other and has nothing to show."""

        def __init__(self) -> None:
            super().__init__()
            self._hidden, self.seed = self.seed, None

        def make_zeros(self, joint: Any, purpose: str, count: int, threads: int = 1) -> Any:
            native = NativeKeys()
            native.seed = self._hidden
            return native.make_zeros(joint, purpose, count, threads)

    query = world.query((ES,), keys=Seedless)
    report = audit(world, query, FR, tmp_path / "none.npy")
    assert failures(report) == {}
    check = next(check for check in report.checks if check.id == "audit-ciphertexts")
    assert check.status == "not-checkable"
    assert "cannot be audited by recomputation" in check.details[0]
    assert not (tmp_path / "none.npy").exists()


def test_the_wrong_folder_or_party_is_refused(world: World, query: bytes) -> None:
    bundle = decode_bundle(export_bundle(world.root / ES, query.hex()))
    with pytest.raises(AuditRefused, match="is the node FR"):
        audit_party(bundle, world.root / FR)
    with pytest.raises(AuditRefused, match="router seals nothing"):
        audit(world, query, EU)


# A requester that cheated.


def test_a_scaled_probe_is_found(world: World, tmp_path: Path) -> None:
    """Twice the template, so that half the threshold would do; it seals the decent one, and the ciphertexts tell."""
    scaled = np.clip(2 * world.probe.astype(np.int16), -127, 127).astype(np.int8)

    def attack(requester: Requester, holders: dict[str, Holder]) -> None:
        requester.submit = lambda template: requester._submit(scaled)  # type: ignore[method-assign]

    query = world.query((ES,), attack=attack)
    failed = failures(audit(world, query, FR, tmp_path / "none.npy"))
    assert list(failed) == ["audit-ciphertexts"]
    assert "(ProbeDigest)" in failed["audit-ciphertexts"]
    assert "(ProbePart)" in failed["audit-ciphertexts"]
    assert not (tmp_path / "none.npy").exists()


def test_a_scaled_probe_that_is_sealed_as_it_was_is_found(world: World, query: bytes, kept: Any) -> None:
    scaled = np.clip(2 * world.probe.astype(np.int16), -127, 127).astype(np.int8)
    resealed(world, query, FR, template=scaled.tobytes())
    failed = failures(audit(world, query, FR))
    assert f"the limit is {norm_bound(DIM)}" in failed["audit-probe"]


def test_another_face_is_found(world: World, query: bytes, kept: Any) -> None:
    resealed(world, query, FR, template=world.galleries[ES].templates[7].tobytes())
    assert list(failures(audit(world, query, FR))) == ["audit-warrant", "audit-ciphertexts"]


@pytest.mark.parametrize("seed", [None, bytes(32)])
def test_another_seed_or_none_is_found(world: World, query: bytes, kept: Any, seed: bytes | None) -> None:
    resealed(world, query, FR, seed=seed)
    assert "not the one whose hash was announced" in failures(audit(world, query, FR))["audit-seed"]


def test_another_reason_than_the_warrants_is_found(world: World, query: bytes, kept: Any) -> None:
    resealed(world, query, FR, justification=justification())
    assert "not the one whose hash the warrant carries" in failures(audit(world, query, FR))["audit-justification"]
    slight = msgspec.structs.replace(justification(), maximum_penalty_years=0.5)
    resealed(world, query, FR, justification=slight)
    assert "R 20(1)" in failures(audit(world, query, FR))["audit-justification"]
    resealed(world, query, FR, justification=None)
    assert "audit-justification" in failures(audit(world, query, FR))


def test_a_requester_that_sealed_nothing_is_found(world: World, query: bytes, kept: Any) -> None:
    (world.root / FR / "sealed" / query.hex()).unlink()
    assert "nothing was sealed" in failures(audit(world, query, FR))["audit-sealed"]


def test_a_probe_of_another_audit_is_refused(
    world: World, query: bytes, ciphertexts: Path, probe: Path, tmp_path: Path
) -> None:
    with pytest.raises(AuditRefused, match="only with the ciphertexts"):
        audit(world, query, ES, None, probe)
    other = world.query((ES,))
    assert failures(audit(world, other, FR, tmp_path / "other.npy", tmp_path / "other.npz")) == {}
    assert (tmp_path / "other.npz").stat().st_mode & 0o077 == 0
    with pytest.raises(AuditRefused, match="not the probe behind these"):
        audit(world, query, ES, ciphertexts, tmp_path / "other.npz")
    for content in (b"", b"no", probe.read_bytes()[:100], ciphertexts.read_bytes()[:1000]):
        (tmp_path / "bad.npz").write_bytes(content)
        with pytest.raises(AuditRefused, match="holds no probe"):
            audit(world, query, ES, ciphertexts, tmp_path / "bad.npz")


def test_the_command_line(world: World, query: bytes, tmp_path: Path) -> None:
    app = typer.Typer()
    cli_evidence.register(app)
    for name in (FR, ES):
        (tmp_path / name).write_bytes(export_bundle(world.root / name, query.hex()))
    path = str(tmp_path / "ct.npy")
    for name in (FR, ES):
        arguments = ["audit", str(tmp_path / name), "--sealed", str(world.root / name), "--ciphertexts", path, "--json"]
        result = runner.invoke(app, arguments)
        assert result.exit_code == 0, result.output
        assert json.loads(result.output)["holds"]
