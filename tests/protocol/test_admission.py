"""Admission: what is no quantised unit vector is refused before anything about hits is opened."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest

import protocol.admitting
from pets.bits import plain_bits
from pets.circuits import evaluate_plain
from pets.errors import TemplateError
from pets.params import SHARE_BITS, norm_bound
from pets.planes import to_planes, unpack_bits
from protocol.errors import OutOfTurn
from protocol.gallery import Gallery
from protocol.local import LocalSearch
from tests.kit.galleries import longest, unit_rows
from tests.kit.scene import assert_refused, scene
from tests.kit.trio import Trio, hold

pytestmark = pytest.mark.ring

DIM = 72  # no whole number of words
RNG = np.random.default_rng(8)


@pytest.fixture(scope="module")
def gallery() -> Gallery:
    return hold(unit_rows(RNG, 50, DIM))


def search(gallery: Gallery, probe: npt.NDArray[np.integer]) -> Trio:
    return Trio(gallery).search(probe.astype(np.int64), unchecked=True)


def fitting(gallery: Gallery, probe: npt.NDArray[np.integer]) -> Gallery:
    """The gallery, or one of the probe's dimension."""
    return gallery if len(probe) == DIM else hold(unit_rows(np.random.default_rng(1), 30, len(probe)))


def with_entry(value: int, place: int = 70) -> npt.NDArray[np.int64]:
    """A short vector with one entry of that size."""
    out = np.zeros(DIM, np.int64)
    out[:4] = 7
    out[place] = value
    return out


def one_longer() -> npt.NDArray[np.int64]:
    """A squared norm of one above the bound."""
    probe = longest(RNG, DIM).astype(np.int64)
    for j in range(DIM):  # x -> x + 1 adds 2x + 1
        if probe[j] == 0:
            probe[j] = 1
            return probe
    raise AssertionError("no entry is zero")


def scaled(factor: float) -> npt.NDArray[np.int64]:
    return np.rint(factor * unit_rows(np.random.default_rng(0), 1, 128)[0]).clip(-127, 127).astype(np.int64)


def entries(dim: int, **values: int) -> npt.NDArray[np.int64]:
    probe = np.zeros(dim, np.int64)
    for name, value in values.items():
        probe[int(name[1:])] = value
    return probe


BAD = {
    "scaled by 2": 2 * unit_rows(RNG, 1, DIM)[0].astype(np.int64).clip(-63, 63),
    "scaled by 1.05": scaled(1.05),
    "scaled by 1.02": scaled(1.02),
    "one above the bound": one_longer(),
    "a coordinate beyond the norm": entries(8, e3=127),
    "two coordinates beyond the norm": entries(64, e0=127, e9=-127, e10=30),
    "a coordinate beyond the range": entries(128, e3=250),
    "128": with_entry(128),
    "-128": with_entry(-128),
    "-128 in the first lane": with_entry(-128, 0),
    "129": with_entry(129),
    "256, zero in its low byte": with_entry(256),
    "1000": with_entry(1000),
    "-40000": with_entry(-40000),
    "half of t": with_entry(524286),
    "all at 127": np.full(DIM, 127),
    "all at -128": np.full(DIM, -128),
}
GOOD = {
    "a unit vector": unit_rows(RNG, 1, DIM)[0],
    "the longest there is": longest(RNG, DIM),
    "127 and -127": with_entry(-127) + with_entry(127, 71) - with_entry(0),
    "a coordinate within the norm": entries(128, e3=127),
    "a negative coordinate within the norm": entries(128, e3=-127),
    "short": scaled(0.3),
    "zero": np.zeros(DIM),
}


@pytest.mark.parametrize("kind", BAD)
def test_a_probe_that_is_no_unit_template_is_refused_before_anything_is_opened(
    gallery: Gallery, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(protocol.admitting, "check_lanes", lambda *_: None)  # the cheating requester's own look
    assert_refused(search(fitting(gallery, BAD[kind]), BAD[kind]))


@pytest.mark.parametrize("kind", GOOD)
def test_what_is_in_range_and_no_longer_than_the_bound_is_admitted(gallery: Gallery, kind: str) -> None:
    probe = GOOD[kind].astype(np.int64)
    assert int(probe @ probe) <= norm_bound(len(probe))
    trio = search(fitting(gallery, probe), probe)
    assert trio.outcome() == trio.expected(probe.astype(np.int8))


def test_control_without_the_norm_a_scaled_probe_is_admitted(gallery: Gallery, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(protocol.admitting, "norm_bound", lambda _: 2**24)
    assert not search(gallery, BAD["scaled by 2"]).failures


def test_control_without_the_parities_a_large_entry_is_admitted(
    gallery: Gallery, monkeypatch: pytest.MonkeyPatch
) -> None:
    weights = protocol.admitting._weights

    def without(words: int) -> npt.NDArray[np.uint32]:
        out = weights(words).copy()
        out[-64:] = 0
        return out

    monkeypatch.setattr(protocol.admitting, "_weights", without)
    assert not search(gallery, BAD["-40000"]).failures


def test_weights_of_bits_and_products_add_up_to_the_square() -> None:
    values = np.arange(-128, 128)
    planes = plain_bits(to_planes((values % 256).astype(np.uint32), 8))
    products, lowest = evaluate_plain(protocol.admitting._products(planes))
    bits = [unpack_bits(plane) for part in (planes, products) for plane in part.parts[0]]
    weights = protocol.admitting._weights(1)[:-64].reshape(36, 64)[:, 0].astype(np.int64)
    total = sum(int(w) * b.astype(np.int64) for w, b in zip(weights, bits, strict=True)) % 2**32
    assert np.array_equal(total, values**2)
    assert np.array_equal(unpack_bits(lowest.parts[0][0]), values == -128)


def test_any_soiled_bit_turns_half_of_the_parities() -> None:
    clean = np.zeros((1, 14, 2), np.uint64)
    soiled = clean.copy()
    soiled[0, 5, 1] = 1 << 40
    parities = [protocol.admitting._parities(plain_bits(bits[0]), bytes(32)).parts[0, 0, 0] for bits in (clean, soiled)]
    assert parities[0] == 0
    assert 8 < bin(int(parities[1])).count("1") < 32


@pytest.mark.parametrize("off", [-4, -3, 0, 3, 4])
def test_noise_beside_a_coordinate_may_be_as_large_as_rounding_makes_it(
    gallery: Gallery, off: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Honest values lie within 2; what lies beyond 4 is refused. (The requester's own look is taken out.)"""
    original = protocol.admitting.public_sums

    def shifted(known: npt.NDArray[np.uint32], *rest: object) -> npt.NDArray[np.uint32]:
        out = original(known, *rest)
        out[7] = (int(out[7]) + 2 * off) % 2**SHARE_BITS
        return out

    monkeypatch.setattr(protocol.admitting, "public_sums", shifted)
    monkeypatch.setattr(protocol.admitting, "check_lanes", lambda *_: None)
    trio = search(gallery, GOOD["a unit vector"])
    assert bool(trio.failures) == (abs(2 * off) > 4)


@pytest.mark.parametrize("kind", ["scaled by 1.02", "all at 127", "-128"])
def test_requester_refuses_such_a_probe_itself(kind: str) -> None:
    probe = BAD[kind]
    trio = Trio(hold(unit_rows(np.random.default_rng(1), 3, len(probe)))).accept()
    with pytest.raises(TemplateError):
        trio.requester.submit(probe.astype(np.int8))
    with pytest.raises(TemplateError, match="int8"):
        trio.requester.submit(probe)  # type: ignore[arg-type]
    trio.search(np.zeros(len(probe), np.int8))  # nothing was used up
    assert trio.outcome().status == "no_hit"


def test_probe_is_submitted_once_and_only_when_ready() -> None:
    gallery, probe = scene()
    trio = Trio(gallery, threshold="0.7", ladder="0").prepare()
    assert trio.made is not None
    early = LocalSearch.start(trio.made, trio.galleries, trio.terms)
    with pytest.raises(OutOfTurn):
        early.requester.submit(probe)
    trio.search(probe)
    with pytest.raises(OutOfTurn):
        trio.requester.submit(probe)
    assert trio.outcome().status == "released"
