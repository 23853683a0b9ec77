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
from nodes.sealed import SealedBlock, SealedGallery, SealedProbe
from nodes.verify import Report, decode_bundle
from pets import subsets
from pets.key_source import NativeKeys
from pets.params import norm_bound
from protocol import confirmation, holder, router
from protocol import filter as filtering
from protocol.engine import plain_scores
from protocol.gallery import Gallery
from protocol.holder import Holder
from protocol.messages import ConfirmationAnswer
from protocol.requester import Requester
from protocol.steps import Send
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


@pytest.fixture(scope="module")
def probe(world: World, query: bytes, ciphertexts: Path) -> Path:
    """The file that a supervisor may carry besides."""
    path = ciphertexts.with_name("probe.npz")
    assert failures(audit(world, query, FR, None, path)) == {}
    return path


def audit(world: World, query: bytes, name: str, path: Path | None = None, probe: Path | None = None) -> Report:
    bundle = decode_bundle(export_bundle(world.root / name, query.hex()))
    return audit_party(bundle, world.root / name, path, probe)


def audit_both(world: World, query: bytes, folder: Path) -> Report:
    """The requester's audit, which finds nothing, then the holder's with all that it needs."""
    files = folder / "ciphertexts.npy", folder / "probe.npz"
    assert failures(audit(world, query, FR, *files)) == {}
    return audit(world, query, ES, *files)


def failures(report: Report) -> dict[str, str]:
    return {check.id: "\n".join(check.details) for check in report.failed}


def resealed(world: World, query: bytes, name: str, **changes: Any) -> None:
    """Change what a node sealed, as whoever holds its storage key can."""
    key, folder = storage_key(world.identities[name].config), world.root / name / "sealed"
    sealed.keep(folder, key, query, msgspec.structs.replace(sealed.open_kept(folder, key, query), **changes))


def sealed_block(world: World, query: bytes) -> SealedBlock:
    content = sealed.open_kept(world.root / ES / "sealed", storage_key(world.identities[ES].config), query)
    assert isinstance(content, SealedGallery)
    assert content.confirmation is not None
    return content.confirmation


def reblocked(world: World, query: bytes, **changes: Any) -> None:
    """Change what the holder sealed of its confirmation block."""
    block = msgspec.structs.replace(sealed_block(world, query), **changes)
    resealed(world, query, ES, confirmation=block)


@pytest.fixture
def kept(world: World, query: bytes) -> Any:
    """What both sealed, put back afterwards."""
    paths = [world.root / name / "sealed" / query.hex() for name in (FR, ES)]
    contents = [path.read_bytes() for path in paths]
    yield
    for path, content in zip(paths, contents, strict=True):
        path.write_bytes(content)


# Honest parties.


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
    assert list(failed) == ["audit-rows", "audit-scores"]
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
    block, factors = real_build(world.galleries[ES].templates, sealed_block(world, query).rows, 10)
    reblocked(world, query, block=block.tobytes(), factors=factors.tobytes())
    path = tmp_path / "ciphertexts.npy"
    assert failures(audit(world, query, FR, path)) == {}
    failed = failures(audit(world, query, ES, path))
    assert "audit-rows" not in failed
    assert "give another block than the signed" in failed["audit-block"]
    assert "(ConfirmationBlock)" in failed["audit-block"]


def test_a_row_that_is_not_in_the_gallery_is_found(world: World, query: bytes, ciphertexts: Path, kept: Any) -> None:
    rows = (7, *sealed_block(world, query).rows[1:])
    reblocked(world, query, rows=rows)
    assert f"not row {rows[0]} of the gallery" in failures(audit(world, query, ES, ciphertexts))["audit-rows"]


@pytest.mark.parametrize("field", ["salt", "shares", "factors", "block"])
def test_whatever_else_was_sealed_is_found(
    world: World, query: bytes, ciphertexts: Path, kept: Any, field: str
) -> None:
    value = bytearray(getattr(sealed_block(world, query), field))
    value[-1] ^= 1
    reblocked(world, query, **{field: bytes(value)})
    failed = failures(audit(world, query, ES, ciphertexts))
    assert set(failed) & {"audit-block", "audit-rows"}
    reblocked(world, query, **{field: bytes(value[:-1])})
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
    assert "nothing was sealed" in failed["audit-sealed"]
    assert isinstance(
        sealed.open_kept(world.root / FR / "sealed", storage_key(world.identities[FR].config), query), SealedProbe
    )


def test_a_holder_that_sealed_no_block_is_found(world: World, query: bytes, kept: Any) -> None:
    resealed(world, query, ES, confirmation=None)
    assert "nothing was sealed that opens it" in failures(audit(world, query, ES))["audit-rows"]


def test_another_seed_than_the_one_committed_to_is_found(
    world: World, query: bytes, ciphertexts: Path, kept: Any
) -> None:
    resealed(world, query, ES, seed=bytes(32))
    assert set(failures(audit(world, query, ES, ciphertexts))) == {
        "audit-gallery", "audit-admission", "audit-block", "audit-filter",
    }  # fmt: skip


def test_chosen_coins_in_admission_are_found(world: World, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Sums of the holder's choice: here each tests one ciphertext alone, where the coins should have chosen many."""
    real = subsets.subset_sums

    def chosen(values: Any, coins: Any, *rest: Any) -> Any:
        mine = np.eye(*coins.shape, dtype=np.uint8) if coins.shape == (40, DIM) else coins
        return real(values, mine, *rest)

    monkeypatch.setattr(subsets, "subset_sums", chosen)
    query = world.query((ES,))
    monkeypatch.undo()
    failed = failures(audit_both(world, query, tmp_path))
    assert list(failed) == ["audit-admission"]
    assert "(AdmissionBlock)" in failed["audit-admission"]


# Whether the rows in the block hit.


def more_rows(real: Any, more: tuple[int, ...]) -> Any:
    """A holder that goes into the confirmation with other rows than those that hit."""

    def filters(*arguments: Any) -> Any:
        rung, rows = yield from real(*arguments)
        return rung, tuple(sorted({*rows} ^ {*more}))

    return filters


def read_scores(world: World, monkeypatch: pytest.MonkeyPatch, more: tuple[int, ...]) -> tuple[bytes, list[int]]:
    """A query in which ES also confirms rows `more` (or leaves them out), and what it decoded: slot by slot."""
    decoded: list[int] = []

    def lenient(sums: Any, factors: Any, used: int, theta: int, params: Any) -> list[int]:
        decoded.extend(real_check(sums, factors, used, -(10**6), params))
        return decoded

    real_check = confirmation.check_answers
    monkeypatch.setattr(holder, "holder_filters", more_rows(holder.holder_filters, more))
    monkeypatch.setattr(confirmation, "check_answers", lenient)
    query = world.query((ES,))
    monkeypatch.undo()
    return query, decoded


def test_rows_that_did_not_hit_are_found_in_the_block(
    world: World, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """It reads the exact scores of three people of its choice. All else it did is right; the signed answers tell."""
    rows = (3, 4, 5)
    query, decoded = read_scores(world, monkeypatch, rows)
    scores = plain_scores(world.galleries[ES].templates, world.probe)
    assert decoded[:3] == scores[list(rows)].tolist(), "the attack works"
    path = tmp_path / "ciphertexts.npy"
    assert failures(audit(world, query, FR, path)) == {}
    failed = failures(audit(world, query, ES, path))
    assert list(failed) == ["audit-scores"], "and without this rule nobody would know"
    assert (
        "slot 0 of the confirmation block is not a hit; something was released all the same" in failed["audit-scores"]
    )
    assert "(ConfirmationAnswer)" in failed["audit-scores"]
    failed = failures(audit_both(world, query, tmp_path))
    assert list(failed) == ["audit-scores", "audit-hits"]
    assert "3 of 5 rows in the block did not hit" in failed["audit-hits"]


def test_other_answers_than_those_signed_are_found(world: World, query: bytes, kept: Any) -> None:
    """As if the holder sealed answers that would have made its rows hits."""
    answers = sealed_block(world, query).answers
    reblocked(world, query, answers=(answers[0], bytes(len(answers[1]))))
    failed = failures(audit(world, query, ES))
    assert list(failed) == ["audit-scores"]
    assert "another answer was sealed" in failed["audit-scores"]
    reblocked(world, query, answers=())
    assert "nothing was sealed that opens it" in failures(audit(world, query, ES))["audit-scores"]


def test_a_frozen_query_shows_in_the_audit_why_it_froze(
    world: World, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The router's answers are shifted. The holder stopped rightly, and its audit says so."""
    real = router.key_owner_confirms

    def lying(*arguments: Any) -> Any:
        step, value = real(*arguments), None
        while True:
            try:
                effect = step.send(value)
            except StopIteration as end:
                return end.value
            if isinstance(effect, Send) and isinstance(effect.message, ConfirmationAnswer):
                effect = Send(effect.to, ConfirmationAnswer(bytes([0, effect.message.data[1] ^ 64, 0, 0]) * 60))
            value = yield effect

    monkeypatch.setattr(router, "key_owner_confirms", lying)
    query = world.query((ES,))
    monkeypatch.undo()
    failed = failures(audit_both(world, query, tmp_path))
    assert list(failed) == ["audit-scores"]
    assert "somebody lied, and nothing was released" in failed["audit-scores"]


def test_a_hit_that_was_left_out_is_found(world: World, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    query, decoded = read_scores(world, monkeypatch, (200,))
    assert len(decoded) == 1
    assert "1 rows hit and are not in the block" in failures(audit_both(world, query, tmp_path))["audit-hits"]


def test_a_climb_without_need_is_found(world: World, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """As if somebody had made eleven rows seem to hit: on the second rung two did, and the cap is ten."""
    real = filtering.open_hits

    def climbs(ring: Any, running: Any, rows: int, cap: int) -> Any:
        found = yield from real(ring, running, rows, cap)
        return None if found and len(found) == 2 else found

    monkeypatch.setattr(filtering, "open_hits", climbs)
    query = world.query((ES,))
    monkeypatch.undo()
    report = audit_both(world, query, tmp_path)
    assert list(failures(report)) == ["audit-hits"]
    assert "2 rows hit, which the cap of 10 has room for" in failures(report)["audit-hits"]


def test_a_query_that_never_came_to_a_confirmation_is_audited_too(
    world: World, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The holder opens its hits and says on every rung that there were too many."""
    real = filtering.open_hits

    def pretends(*arguments: Any) -> Any:
        yield from real(*arguments)

    monkeypatch.setattr(filtering, "open_hits", pretends)
    query = world.query((ES,))
    monkeypatch.undo()
    assert query.hex() in {path.name for path in (world.root / ES / "sealed").iterdir()}
    failed = failures(audit_both(world, query, tmp_path))
    assert list(failed) == ["audit-hits"], "the rest was recomputed, and is as it should be"


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
