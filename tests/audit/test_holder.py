"""The audit on site finds a holder that cheated: in its block, its gallery, its coins, or the rows it confirmed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nodes.audit.audit import AuditRefused
from nodes.config.storage import storage_key
from nodes.evidence import sealed
from nodes.evidence.sealed import SealedProbe
from pets import subsets
from protocol import confirmation, holder, router
from protocol.compute import ROUTER as ROUTER_SEAT
from protocol.engine import plain_scores
from protocol.gallery import Gallery
from tests.kit.attacks import miscounts
from tests.kit.audits import audit, audit_both, reblocked, resealed, sealed_block
from tests.kit.evidence import DIM, ES, FR, World, failures, sends_instead, wrong_answer


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
    monkeypatch.setattr(router, "key_owner_confirms", sends_instead(router.key_owner_confirms, wrong_answer))
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
    """The router adds to the count: on the second rung two rows hit, and the cap is ten."""
    miscounts(monkeypatch, ROUTER_SEAT, 9)
    query = world.query((ES,))
    monkeypatch.undo()
    report = audit_both(world, query, tmp_path)
    assert list(failures(report)) == ["audit-hits"]
    assert "2 rows hit, which the cap of 10 has room for" in failures(report)["audit-hits"]


def test_a_query_that_never_came_to_a_confirmation_is_audited_too(
    world: World, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The router adds to the count on every rung."""
    miscounts(monkeypatch, ROUTER_SEAT, 1000)
    query = world.query((ES,))
    monkeypatch.undo()
    assert query.hex() in {path.name for path in (world.root / ES / "sealed").iterdir()}
    failed = failures(audit_both(world, query, tmp_path))
    assert list(failed) == ["audit-hits"], "the rest was recomputed, and is as it should be"
