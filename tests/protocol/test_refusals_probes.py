"""A probe that is no unit template, not constant or stuffed with noise is refused before anything is opened."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import protocol.admission
import pytest

from pets.errors import TemplateError
from pets.params import norm_bound
from protocol.errors import OutOfTurn
from protocol.messages import PowerSums
from protocol.session import State
from tests.kit.galleries import unit_rows
from tests.kit.parties import Trio, enrol
from tests.kit.scene import DELTA, DIM, NOISE, NOT_CONSTANT, assert_refused, scene, tampered

pytestmark = pytest.mark.ring


def entries(dim: int, **values: int) -> npt.NDArray[np.int64]:
    probe = np.zeros(dim, np.int64)
    for name, value in values.items():
        probe[int(name[1:])] = value
    return probe


def with_entry(value: int) -> npt.NDArray[np.int64]:
    """A probe whose norm is fine and one entry of which is `value`."""
    probe = unit_rows(np.random.default_rng(0), 1, 128)[0].astype(np.int64) // 2
    probe[77] = value
    return probe


def scaled(factor: float) -> npt.NDArray[np.int64]:
    return np.rint(factor * unit_rows(np.random.default_rng(0), 1, 128)[0]).clip(-127, 127).astype(np.int64)


def one_more_than_the_bound() -> npt.NDArray[np.int64]:
    """Squared norm exactly one above the limit, all entries in range."""
    limit, probe = norm_bound(8), np.zeros(8, np.int64)
    rest = limit + 1
    for j in range(8):
        probe[j] = int(rest**0.5)
        rest -= int(probe[j]) ** 2
    assert int(probe @ probe) == limit + 1
    return probe


BAD_PROBES = {
    "scaled by 2": scaled(2),
    "scaled by 1.05": scaled(1.05),
    "scaled by 1.02": scaled(1.02),
    "one above the norm bound": one_more_than_the_bound(),
    "coordinate beyond the norm": entries(8, e3=127),
    "coordinate beyond the range": entries(128, e3=250),
    "two coordinates beyond the norm": entries(64, e0=127, e9=-127, e10=30),
    "entry 128": with_entry(128),
    "entry -128": with_entry(-128),
    "entry 129": with_entry(129),
    "entry 256, zero in its low byte": with_entry(256),
    "entry 5000": with_entry(5000),
    "entry -40000": with_entry(-40000),
    "entry half of t": with_entry(524286),
    "every entry 127": np.full(128, 127),
    "every entry -128": np.full(128, -128),
}


@pytest.mark.slow
@pytest.mark.parametrize("probe", BAD_PROBES.values(), ids=BAD_PROBES)
def test_probe_that_is_no_unit_template_is_refused_before_anything_is_opened(probe: npt.NDArray[np.int64]) -> None:
    rows = unit_rows(np.random.default_rng(1), 30, len(probe))
    assert_refused(Trio(enrol(rows)).search(probe, unchecked=True))


@pytest.mark.parametrize(
    "probe",
    [entries(128, e3=127), entries(128, e3=-127), scaled(0.3), np.zeros(128, np.int64), scaled(1)],
    ids=["coordinate within the norm", "negative coordinate", "short", "zero", "unit"],
)
def test_control_probes_within_range_and_norm_are_admitted(probe: npt.NDArray[np.int64]) -> None:
    trio = Trio(enrol(unit_rows(np.random.default_rng(1), 30, 128))).search(probe, unchecked=True)
    assert trio.outcome() == trio.expected(probe.astype(np.int8))


@pytest.mark.parametrize("probe", [scaled(2), with_entry(-128), np.full(128, 127)])
def test_requester_refuses_such_a_probe_itself(probe: npt.NDArray[np.int64]) -> None:
    trio = Trio(enrol(unit_rows(np.random.default_rng(1), 3, 128))).offline()
    with pytest.raises(TemplateError):
        trio.requester.submit(probe.astype(np.int8))
    with pytest.raises(TemplateError, match="int8"):
        trio.requester.submit(probe)  # type: ignore[arg-type]
    trio.online(scaled(1).astype(np.int8))  # nothing was used up
    assert trio.outcome().status == "no_hit"


# Eight times the unit of a rounded share: four may be rounded back into the slack of three.
STUFFED = {
    "noise in the constant of one": ([9], {0: 2 * NOISE}),
    "negative noise in the constant of one": ([9], {0: -2 * NOISE}),
    "noise in every constant": (range(DIM), {0: NOISE}),
    "half of Δ in one": ([63], {0: DELTA // 2}),
    "noise below the unit of a share": ([9], {0: 2**20}),
}


@pytest.mark.parametrize("change", NOT_CONSTANT.values(), ids=NOT_CONSTANT)
def test_probe_that_is_not_constant_is_refused(monkeypatch: pytest.MonkeyPatch, change: Any) -> None:
    assert_refused(tampered(monkeypatch, *change))


@pytest.mark.slow
@pytest.mark.parametrize("change", NOT_CONSTANT.values(), ids=NOT_CONSTANT)
def test_control_without_the_constancy_sums_it_is_admitted(monkeypatch: pytest.MonkeyPatch, change: Any) -> None:
    original = protocol.admission.coefficient_sums
    monkeypatch.setattr(protocol.admission, "coefficient_sums", lambda *args: np.zeros_like(original(*args)))
    trio = tampered(monkeypatch, *change)
    assert State.REFUSED not in trio.states.values()
    assert trio.sent(PowerSums)


@pytest.mark.parametrize("change", STUFFED.values(), ids=STUFFED)
def test_noise_stuffed_probe_is_refused(monkeypatch: pytest.MonkeyPatch, change: Any) -> None:
    assert_refused(tampered(monkeypatch, *change))


def test_control_noise_that_rounding_hides_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    trio = tampered(monkeypatch, range(DIM), {0: 2**15})
    assert trio.outcome() == trio.expected(scene()[1])


def test_probe_is_submitted_once_and_only_when_ready() -> None:
    gallery, probe = scene()
    trio = Trio(gallery, threshold="0.7", ladder="0")
    with pytest.raises(OutOfTurn):
        trio.requester.submit(probe)
    trio.search(probe)
    with pytest.raises(OutOfTurn):
        trio.requester.submit(probe)
    assert trio.outcome().status == "released"
