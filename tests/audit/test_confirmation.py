"""The audit on site finds a holder that cheated in its confirmation block, or in which rows it confirmed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nodes.verify import decode_bundle
from pets import ntt
from pets.keys import expand_secret
from pets.scoring import ScoringProbe, score_rows
from protocol import cap, confirmation, confirming, filtering, searching
from protocol.compute import Ring
from protocol.confirmation import SLOT
from protocol.engine import plain_scores
from protocol.messages import ConfirmationBlock, Search
from protocol.roles import Seat
from protocol.steps import Send, Step
from tests.kit.audits import audit, audit_both, reblocked, resealed, sealed_block, sealed_of
from tests.kit.evidence import ES, FR, World, failures, sends_instead, wrong_answer
from tests.kit.ring import RING


class ChosenNumbers:
    """Instead of a hit and its multiples: 1000 times single coordinates, which read the probe."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self._block: Any = None
        patch.setattr(confirming, "build_block", self.build)
        patch.setattr(confirming, "combine_rows", self.score)
        patch.setattr(confirming, "check_answers", lambda sums, factors, used, theta, params: [theta] * used)

    def build(self, templates: Any, rows: Any, cap: int) -> Any:
        block, factors = confirmation.build_block(templates, rows, cap)
        self._block = block.copy()
        for slot in range(len(rows)):
            for m in range(SLOT):
                self._block[SLOT * slot + m] = 0
                self._block[SLOT * slot + m, 6 * slot + m] = 1000
        return self._block, factors

    def score(self, _rows: Any, _polynomials: Any, probe: ScoringProbe, threads: int) -> Any:
        return score_rows(self._block, [probe], probe.params, threads)[0, 0]


@pytest.fixture
def asked(world: World, monkeypatch: pytest.MonkeyPatch) -> bytes:
    """A query whose holder asks for chosen numbers, lets its own check pass, and releases its hits."""
    with monkeypatch.context() as patch:
        ChosenNumbers(patch)
        return world.query((ES,))


def test_a_holder_that_asks_for_chosen_numbers_is_found(world: World, asked: bytes, tmp_path: Path) -> None:
    failed = failures(audit_both(world, asked, tmp_path))
    assert list(failed) == ["audit-rows", "audit-scores"]
    assert "chosen numbers" in failed["audit-rows"]


def test_a_holder_that_asks_for_chosen_numbers_and_seals_its_rows_is_found(
    world: World, asked: bytes, tmp_path: Path
) -> None:
    """It seals the decent block: then the block that was signed is not the one recomputed."""
    block, factors = confirmation.build_block(world.galleries[ES].templates, sealed_block(world, asked).rows, 10)
    reblocked(world, asked, block=block.tobytes(), factors=factors.tobytes())
    failed = failures(audit_both(world, asked, tmp_path))
    assert "audit-rows" not in failed
    assert "give another block than the signed" in failed["audit-block"]
    assert "(ConfirmationBlock)" in failed["audit-block"]


def test_a_chosen_c1_is_found(world: World, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Not a product of anything: a constant, with which the answers show coefficients of s2."""
    constant = np.array([[RING.q // 4 % p] for p in RING.primes], np.uint32)
    chosen = np.broadcast_to(constant, (2, RING.n)).tobytes()

    def instead(effect: Send) -> Send:
        if not isinstance(effect.message, ConfirmationBlock):
            return effect
        return Send(effect.to, ConfirmationBlock(effect.message.commitment, chosen))

    monkeypatch.setattr(searching, "holder_confirms", sends_instead(confirming.holder_confirms, instead))
    query = world.query((ES,))
    monkeypatch.undo()
    seeds, identity = sealed_of(world, query, FR), decode_bundle(world.bundles(query, (FR,))[FR])[1].records[0].message
    assert isinstance(identity, Search)
    coefficients = ntt.inverse(expand_secret(RING, seeds.router_seed, identity.preparation)[None], RING)[0, 0, : 6 * 10]
    quarter = np.where(coefficients > 1, -1, coefficients.astype(np.int64)) * 2**22 % 2**24
    read = np.frombuffer(sealed_block(world, query).answers[0], "<u4").astype(np.int64)
    assert (np.abs((read - quarter + 2**23) % 2**24 - 2**23) <= 1).all(), "it did read a part of the key"
    failed = failures(audit_both(world, query, tmp_path))
    assert "give another block than the signed" in failed["audit-block"]


def test_a_row_that_is_not_in_the_gallery_is_found(world: World, query: bytes, sent: Path, kept: Any) -> None:
    for row in (7, 10**6):
        reblocked(world, query, rows=(row, *sealed_block(world, query).rows[1:]))
        assert f"not row {row} of the gallery" in failures(audit(world, query, ES, sent))["audit-rows"]


@pytest.mark.parametrize("field", ["salt", "shares", "factors", "block"])
def test_whatever_else_was_sealed_is_found(world: World, query: bytes, sent: Path, kept: Any, field: str) -> None:
    value = bytearray(getattr(sealed_block(world, query), field))
    value[-1] ^= 1
    reblocked(world, query, **{field: bytes(value)})
    failed = failures(audit(world, query, ES, sent))
    assert set(failed) & {"audit-block", "audit-rows"}
    reblocked(world, query, **{field: bytes(value[:-1])})
    assert failures(audit(world, query, ES, sent))


def test_a_holder_that_sealed_no_block_is_found(world: World, query: bytes, kept: Any) -> None:
    resealed(world, query, ES, confirmation=None)
    assert "nothing was sealed that opens it" in failures(audit(world, query, ES))["audit-rows"]


# Whether the rows in the block hit.


def read_scores(world: World, monkeypatch: pytest.MonkeyPatch, more: tuple[int, ...]) -> tuple[bytes, list[int]]:
    """A query in which ES also confirms rows `more` (or leaves them out), and what it decoded: slot by slot."""
    decoded: list[int] = []
    check, filters = confirmation.check_answers, filtering.holder_filters

    def lenient(sums: Any, factors: Any, used: int, theta: int, params: Any) -> list[int]:
        decoded.extend(check(sums, factors, used, -(10**6), params))
        return decoded

    def more_rows(*arguments: Any) -> Any:
        rung, rows = yield from filters(*arguments)
        assert rows is not None
        return rung, tuple(sorted({*rows} ^ {*more}))

    with monkeypatch.context() as patch:
        patch.setattr(searching, "holder_filters", more_rows)
        patch.setattr(confirming, "check_answers", lenient)
        return world.query((ES,)), decoded


def test_rows_that_did_not_hit_are_found_in_the_block(
    world: World, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """It reads the exact scores of three people of its choice. All else it did is right; the signed answers tell."""
    rows = (3, 4, 5)
    query, decoded = read_scores(world, monkeypatch, rows)
    scores = plain_scores(world.galleries[ES].templates, world.probe)
    assert decoded[:3] == scores[list(rows)].tolist(), "the attack works"
    assert failures(audit(world, query, FR, tmp_path / "fr.sent")) == {}
    failed = failures(audit(world, query, ES, tmp_path / "fr.sent"))
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
    """One answer is shifted. The holder stopped rightly, and its audit says so."""
    real = confirming.key_owner_confirms

    def confirms(ring: Ring, *arguments: Any) -> Step[None]:
        lies = ring.seat == Seat.ROUTER
        yield from (sends_instead(real, wrong_answer) if lies else real)(ring, *arguments)

    monkeypatch.setattr(searching, "key_owner_confirms", confirms)
    query = world.query((ES,))
    monkeypatch.undo()
    failed = failures(audit_both(world, query, tmp_path))
    assert list(failed) == ["audit-bundle", "audit-scores"], "two answers must be the same: `verify` finds that too"
    assert "answered differently; somebody lied, and nothing was released" in failed["audit-scores"]


def test_a_hit_that_was_left_out_is_found(world: World, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    query, decoded = read_scores(world, monkeypatch, (200,))
    assert len(decoded) == 1
    assert "1 rows hit and are not in the block" in failures(audit_both(world, query, tmp_path))["audit-hits"]


def miscounts(monkeypatch: pytest.MonkeyPatch, by: int) -> None:
    """A router that adds to its share of the count on every rung."""
    original = cap.count_share

    def lying(ring: Ring, *arguments: Any) -> Step[int]:
        return (yield from original(ring, *arguments)) + by * (ring.seat == Seat.ROUTER)

    monkeypatch.setattr(filtering, "count_share", lying)


def test_a_climb_without_need_is_found(world: World, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """On the second rung two rows hit, and the cap is ten."""
    miscounts(monkeypatch, 9)
    query = world.query((ES,))
    monkeypatch.undo()
    report = audit_both(world, query, tmp_path)
    assert list(failures(report)) == ["audit-hits"]
    assert "2 rows hit, which the cap of 10 has room for" in failures(report)["audit-hits"]


def test_a_query_that_never_came_to_a_confirmation_is_audited_too(
    world: World, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    miscounts(monkeypatch, 1000)
    query = world.query((ES,))
    monkeypatch.undo()
    assert query.hex() in {path.name for path in (world.root / ES / "sealed").iterdir()}
    failed = failures(audit_both(world, query, tmp_path))
    assert list(failed) == ["audit-hits"], "the rest was recomputed, and is as it should be"
