"""The audit on site: what was sealed gives what was signed; and whoever cheated in the query is found."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import typer
from typer.testing import CliRunner

from nodes import cli_evidence, sealed
from nodes.audit import AuditRefused, audit_party
from nodes.evidence import export_bundle
from nodes.keeper import storage_key
from nodes.sealed import SealedBlock, SealedProbe
from nodes.verify import Report, decode_bundle
from pets.key_source import NativeKeys
from pets.params import norm_bound
from protocol import confirmation
from protocol.gallery import Gallery
from protocol.holder import Holder
from protocol.requester import Requester
from tests.evidence import DIM, ES, EU, FR, World, justification, shared_world
from tests.ring import RING

runner = CliRunner()


@pytest.fixture(scope="module")
def world() -> World:
    return shared_world()


@pytest.fixture(scope="module")
def query(world: World) -> bytes:
    return world.query((ES,))


@pytest.fixture(scope="module")
def ciphertexts(world: World, query: bytes, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Written by the requester's audit."""
    path = tmp_path_factory.mktemp("audit") / "ciphertexts.npy"
    assert failures(audit(world, query, FR, path)) == {}
    return path


def audit(world: World, query: bytes, name: str, path: Path | None = None) -> Report:
    bundle = decode_bundle(export_bundle(world.root / name, query.hex()))
    return audit_party(bundle, world.root / name, path)


def failures(report: Report) -> dict[str, str]:
    return {check.id: "\n".join(check.details) for check in report.failed}


def resealed(world: World, query: bytes, name: str, **changes: Any) -> None:
    """Change what a node sealed, as whoever holds its storage key can."""
    key, folder = storage_key(world.identities[name].config), world.root / name / "sealed"
    sealed.keep(folder, key, query, msgspec.structs.replace(sealed.open_kept(folder, key, query), **changes))


@pytest.fixture
def kept(world: World, query: bytes) -> Any:
    """What both sealed, put back afterwards."""
    paths = [world.root / name / "sealed" / query.hex() for name in (FR, ES)]
    contents = [path.read_bytes() for path in paths]
    yield
    for path, content in zip(paths, contents, strict=True):
        path.write_bytes(content)


# Honest parties.


def test_an_honest_requester_and_holder_pass(world: World, query: bytes, ciphertexts: Path) -> None:
    report = audit(world, query, ES, ciphertexts)
    assert failures(report) == {}
    assert {check.status for check in report.checks} == {"pass"}
    assert np.load(ciphertexts).shape == (DIM, 2, 2, RING.n)


def test_without_ciphertexts_the_block_cannot_be_recomputed(world: World, query: bytes) -> None:
    report = audit(world, query, ES)
    assert failures(report) == {}
    unknown = {check.id for check in report.checks if check.status == "not-checkable"}
    assert unknown == {"audit-received", "audit-block", "audit-filter"}


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
    assert list(failures(audit(world, query, FR))) == ["audit-ciphertexts"]


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


# A holder that cheated.


def chosen_numbers(real: Any) -> Any:
    """Instead of a hit and its multiples: 1000 times single coordinates, which read the probe."""

    def build(templates: Any, rows: Any, cap: int) -> Any:
        block, factors = real(templates, rows, cap)
        block = block.copy()
        for slot in range(len(rows)):
            for m in range(confirmation.SLOT):
                block[confirmation.SLOT * slot + m] = 0
                block[confirmation.SLOT * slot + m, 6 * slot + m] = 1000
        return block, factors

    return build


def test_a_holder_that_asks_for_chosen_numbers_is_found(
    world: World, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """It lets its own check pass, releases what it decoded of its hits, and seals what it did."""
    real_build, real_check = confirmation.build_block, confirmation.check_answers
    monkeypatch.setattr(confirmation, "build_block", chosen_numbers(real_build))
    monkeypatch.setattr(confirmation, "check_answers", lambda sums, factors, used, theta, params: [theta] * used)
    query = world.query((ES,))
    monkeypatch.setattr(confirmation, "check_answers", real_check)
    path = tmp_path / "ciphertexts.npy"
    assert failures(audit(world, query, FR, path)) == {}
    failed = failures(audit(world, query, ES, path))
    assert list(failed) == ["audit-rows"]
    assert "chosen numbers" in failed["audit-rows"]


def test_a_holder_that_asks_for_chosen_numbers_and_seals_its_rows_is_found(
    world: World, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """It seals the decent block: then the block that was signed is not the one recomputed."""
    real_build = confirmation.build_block
    monkeypatch.setattr(confirmation, "build_block", chosen_numbers(real_build))
    monkeypatch.setattr(confirmation, "check_answers", lambda sums, factors, used, theta, params: [theta] * used)
    query = world.query((ES,))
    monkeypatch.undo()
    key, folder = storage_key(world.identities[ES].config), world.root / ES / "sealed"
    content = sealed.open_kept(folder, key, query)
    assert isinstance(content, SealedBlock)
    block, factors = real_build(world.galleries[ES].templates, content.rows, 10)
    resealed(world, query, ES, block=block.tobytes(), factors=factors.tobytes())
    path = tmp_path / "ciphertexts.npy"
    assert failures(audit(world, query, FR, path)) == {}
    failed = failures(audit(world, query, ES, path))
    assert "audit-rows" not in failed
    assert "give another block than the signed" in failed["audit-block"]
    assert "(ConfirmationBlock)" in failed["audit-block"]


def test_a_row_that_is_not_in_the_gallery_is_found(world: World, query: bytes, ciphertexts: Path, kept: Any) -> None:
    content = sealed.open_kept(world.root / ES / "sealed", storage_key(world.identities[ES].config), query)
    assert isinstance(content, SealedBlock)
    rows = (7, *content.rows[1:])
    resealed(world, query, ES, rows=rows)
    assert f"not row {rows[0]} of the gallery" in failures(audit(world, query, ES, ciphertexts))["audit-rows"]


@pytest.mark.parametrize("field", ["salt", "shares", "factors", "seed", "block"])
def test_whatever_else_was_sealed_is_found(
    world: World, query: bytes, ciphertexts: Path, kept: Any, field: str
) -> None:
    content = sealed.open_kept(world.root / ES / "sealed", storage_key(world.identities[ES].config), query)
    value = bytearray(getattr(content, field))
    value[-1] ^= 1
    resealed(world, query, ES, **{field: bytes(value)})
    failed = failures(audit(world, query, ES, ciphertexts))
    assert set(failed) & {"audit-block", "audit-rows"}
    resealed(world, query, ES, **{field: bytes(value[:-1])})
    assert failures(audit(world, query, ES, ciphertexts))


def test_a_swapped_gallery_is_found(world: World, tmp_path: Path) -> None:
    """Planted rows: the holder searches another gallery than its store holds, and commits to the store's."""
    honest = world.galleries[ES]
    planted = honest.templates.copy()
    planted[0] = planted[0][::-1]
    swapped = Gallery.enrol(planted, honest.encoded.params, honest.references)
    swapped.__dict__["digest"] = honest.digest  # commits to what it should have searched
    world.galleries[ES] = swapped
    try:
        query = world.query((ES,))
    finally:
        world.galleries[ES] = honest
    path = tmp_path / "ciphertexts.npy"
    assert failures(audit(world, query, FR, path)) == {}
    failed = failures(audit(world, query, ES, path))
    assert list(failed) == ["audit-filter"]
    assert "(FilterBlock)" in failed["audit-filter"]


def test_other_ciphertexts_than_those_received_are_refused(
    world: World, query: bytes, ciphertexts: Path, tmp_path: Path
) -> None:
    other = np.load(ciphertexts)
    other[3, 0, 0, 0] ^= 1
    np.save(tmp_path / "other.npy", other)
    report = audit(world, query, ES, tmp_path / "other.npy")
    assert list(failures(report)) == ["audit-received"]
    np.save(tmp_path / "short.npy", other[:8])
    assert "expected uint32" in failures(audit(world, query, ES, tmp_path / "short.npy"))["audit-received"]
    (tmp_path / "text.npy").write_text("no")
    with pytest.raises(AuditRefused, match="holds no ciphertexts"):
        audit(world, query, ES, tmp_path / "text.npy")


def test_a_holder_that_sealed_nothing_is_found(world: World, query: bytes, kept: Any) -> None:
    (world.root / ES / "sealed" / query.hex()).unlink()
    failed = failures(audit(world, query, ES))
    assert "nothing was sealed that opens it" in failed["audit-sealed"]
    assert isinstance(
        sealed.open_kept(world.root / FR / "sealed", storage_key(world.identities[FR].config), query), SealedProbe
    )


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
