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

from nodes.audit.audit import audit_party
from nodes.audit.errors import AuditRefused
from nodes.cli import evidence as cli_evidence
from nodes.config.storage_key import storage_key
from nodes.evidence import sealed
from nodes.evidence.export import export_bundle
from nodes.verify import decode_bundle
from pets import mask_encryption
from pets.params import norm_bound
from protocol import preparing, searching
from protocol.local import LocalSearch
from tests.kit.audits import audit, resealed, sealed_of
from tests.kit.evidence import DE, DIM, ES, EU, FR, World, failures, justification

runner = CliRunner()


# Honest parties.


@pytest.mark.ring
def test_an_honest_requester_and_holder_pass(world: World, query: bytes, sent: Path, probe: Path) -> None:
    for name in (FR, ES):
        report = audit(world, query, name, sent, probe)
        assert failures(report) == {}
        assert {check.status for check in report.checks} == {"pass"}


def test_both_holders_of_a_joint_query_pass(world: World, tmp_path: Path) -> None:
    query, files = world.query((ES, DE)), (tmp_path / "fr.sent", tmp_path / "fr.probe")
    for name in (FR, ES, DE):
        report = audit(world, query, name, *files)
        assert failures(report) == {}
        assert {check.status for check in report.checks} == {"pass"}


def test_a_holder_that_a_search_left_out_costs_nothing(world: World, tmp_path: Path) -> None:
    """The preparation was for two, the search asks one."""
    query, files = world.query((ES,), made=world.prepare((ES, DE))), (tmp_path / "fr.sent", tmp_path / "fr.probe")
    for name in (FR, ES):
        assert failures(audit(world, query, name, *files)) == {}


def test_without_what_was_sent_little_can_be_recomputed(world: World, query: bytes) -> None:
    report = audit(world, query, ES)
    assert failures(report) == {}
    unknown = {check.id for check in report.checks if check.status == "not-checkable"}
    assert unknown == {
        "audit-received", "audit-form", "audit-blocks", "audit-admission", "audit-published", "audit-block",
        "audit-hits",
    }  # fmt: skip


def test_without_the_probe_all_but_the_hits_can_be_checked(world: World, query: bytes, sent: Path) -> None:
    report = audit(world, query, ES, sent)
    assert failures(report) == {}
    assert {check.id for check in report.checks if check.status == "not-checkable"} == {"audit-hits"}


def test_nothing_is_sealed_of_a_preparation_until_it_is_used(world: World) -> None:
    made = world.prepare((ES,))
    names = {path.name for name in (FR, ES) for path in (world.root / name / "sealed").glob("*")}
    query = world.query((ES,), made=made)
    after = {path.name for name in (FR, ES) for path in (world.root / name / "sealed").glob("*")}
    assert after - names == {query.hex()}
    with pytest.raises(AuditRefused, match="no search with its preparation"):
        audit(world, made.conversation, FR)


def test_the_seed_of_the_mask_cannot_be_sealed_once_it_is_erased(world: World) -> None:
    kept: list[LocalSearch] = []
    world.query((ES,), attack=kept.append)
    with pytest.raises(ValueError, match="is erased"):
        sealed.of_requester(kept[0].requester, b"", justification())


def test_the_wrong_folder_or_party_is_refused(world: World, query: bytes) -> None:
    bundle = decode_bundle(export_bundle(world.root / ES, query.hex()))
    with pytest.raises(AuditRefused, match="is the node FR"):
        audit_party(bundle, world.root / FR)
    with pytest.raises(AuditRefused, match="router seals nothing"):
        audit(world, query, EU)


@pytest.mark.parametrize("whose", [FR, ES])
def test_another_preparation_in_the_bundle_is_refused(world: World, query: bytes, whose: str) -> None:
    """Its own of another search, or another party's of this one."""
    signed, bundle = decode_bundle(export_bundle(world.root / FR, query.hex()))
    source = world.query((ES,)) if whose == FR else query
    other = decode_bundle(export_bundle(world.root / whose, source.hex()))[1].preparation
    changed = msgspec.structs.replace(bundle, preparation=other)
    message = "names another preparation" if whose == FR else "of ES's with it, not its own"
    with pytest.raises(AuditRefused, match=message):
        audit_party((signed, changed), world.root / FR)


# A requester that cheated.


def test_a_scaled_probe_is_found(world: World, tmp_path: Path) -> None:
    """Twice the template, so that half the threshold would do; it seals the decent one, and u tells."""
    scaled = np.clip(2 * world.probe.astype(np.int16), -127, 127).astype(np.int8)

    def attack(search: LocalSearch) -> None:
        real = search.requester._submit
        search.requester.submit = lambda template: real(scaled)  # type: ignore[method-assign]

    query = world.query((ES,), attack=attack)
    failed = failures(audit(world, query, FR, tmp_path / "none"))
    assert list(failed) == ["audit-difference"]
    assert "(Difference)" in failed["audit-difference"]
    assert "(DifferenceDigest)" in failed["audit-difference"]
    assert not (tmp_path / "none").exists()


def test_a_scaled_probe_that_is_sealed_as_it_was_is_found(world: World, query: bytes, kept: Any) -> None:
    scaled = np.clip(2 * world.probe.astype(np.int16), -127, 127).astype(np.int8)
    resealed(world, query, FR, template=scaled.tobytes())
    failed = failures(audit(world, query, FR))
    assert f"the limit is {norm_bound(DIM)}" in failed["audit-probe"]


def test_another_face_is_found(world: World, query: bytes, kept: Any) -> None:
    resealed(world, query, FR, template=world.galleries[ES].templates[7].tobytes())
    assert list(failures(audit(world, query, FR))) == ["audit-warrant", "audit-difference"]


def test_a_mask_that_is_not_of_the_committed_seed_is_found(
    world: World, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Online nothing is wrong with it: only the seed says which probe was behind u."""
    original = mask_encryption.draw_mask

    def other(seed: bytes, *arguments: Any) -> Any:
        return original(bytes(31) + b"\x01", *arguments)

    monkeypatch.setattr(preparing, "draw_mask", other)
    monkeypatch.setattr(searching, "draw_mask", other)
    query = world.query((ES,))
    monkeypatch.undo()
    failed = failures(audit(world, query, FR, tmp_path / "none"))
    assert list(failed) == ["audit-mask", "audit-difference"]
    assert "(MaskDigest)" in failed["audit-mask"]
    assert "(MaskPart)" in failed["audit-mask"]
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize(
    ("seed", "broken"),
    [
        ("seed", ["audit-seed", "audit-mask", "audit-difference"]),
        ("holder_seed", ["audit-keys", "audit-mask"]),
        ("router_seed", ["audit-keys", "audit-mask"]),
    ],
)
def test_another_seed_is_found(
    world: World, query: bytes, kept: Any, tmp_path: Path, seed: str, broken: list[str]
) -> None:
    resealed(world, query, FR, **{seed: bytes(32)})
    assert list(failures(audit(world, query, FR, tmp_path / "none", tmp_path / "none"))) == broken
    assert not (tmp_path / "none").exists()


def test_another_reason_than_the_warrants_is_found(world: World, query: bytes, kept: Any) -> None:
    resealed(world, query, FR, justification=justification())
    assert "not the one whose hash the warrant carries" in failures(audit(world, query, FR))["audit-justification"]
    slight = msgspec.structs.replace(justification(), maximum_penalty_years=0.5)
    resealed(world, query, FR, justification=slight)
    assert "R 20(1)" in failures(audit(world, query, FR))["audit-justification"]
    resealed(world, query, FR, justification=None)
    assert "audit-justification" in failures(audit(world, query, FR))


def test_a_template_of_another_length_is_found(world: World, query: bytes, kept: Any) -> None:
    resealed(world, query, FR, template=sealed_of(world, query, FR).template[:-8])
    failed = failures(audit(world, query, FR))
    assert f"announced were {DIM}" in failed["audit-probe"]
    assert f"announced were {DIM}" in failed["audit-difference"]


def test_a_requester_that_sealed_nothing_is_found(world: World, query: bytes, kept: Any) -> None:
    (world.root / FR / "sealed" / query.hex()).unlink()
    assert "nothing was sealed" in failures(audit(world, query, FR))["audit-sealed"]


def test_what_another_role_seals_is_refused(world: World, query: bytes, kept: Any) -> None:
    content, key = sealed_of(world, query, ES), storage_key(world.identities[FR].config)
    sealed.keep(world.root / FR / "sealed", key, query, content)
    with pytest.raises(AuditRefused, match="another role"):
        audit(world, query, FR)


def test_a_probe_of_another_audit_is_refused(world: World, query: bytes, sent: Path, tmp_path: Path) -> None:
    other = world.query((ES,))
    files = tmp_path / "other.sent", tmp_path / "other.probe"
    assert failures(audit(world, other, FR, *files)) == {}
    assert all(path.stat().st_mode & 0o077 == 0 for path in files)
    with pytest.raises(AuditRefused, match="is the probe of another query"):
        audit(world, query, ES, sent, files[1])


def test_the_command_line(world: World, query: bytes, tmp_path: Path) -> None:
    app = typer.Typer()
    cli_evidence.register(app)
    for name in (FR, ES):
        (tmp_path / name).write_bytes(export_bundle(world.root / name, query.hex()))
    path = str(tmp_path / "fr.sent")
    for name in (FR, ES):
        arguments = ["audit", str(tmp_path / name), "--sealed", str(world.root / name), "--sent", path, "--json"]
        result = runner.invoke(app, arguments)
        assert result.exit_code == 0, result.output
        assert json.loads(result.output)["holds"]
