"""What may wait for a query that has not been announced."""

from __future__ import annotations

import pytest

from nodes.query import early_units
from nodes.query.early_units import EarlyUnits
from nodes.transport.send_queue import PeerRefused
from tests.kit.federation import DE, ES, EU

QUERY = bytes(16)


def test_a_peer_that_floods_loses_its_own_frames_and_nobody_elses() -> None:
    waiting = EarlyUnits()
    waiting.keep(ES, DE, QUERY, 0, [b"hello"])
    waiting.keep(ES, EU, QUERY, 0, [b"first"])
    for number in range(1, 10 * early_units.QUERIES):
        waiting.keep(ES, EU, number.to_bytes(16, "big"), 0, [b"flood"])
    assert waiting.take(QUERY) == [(DE, (0, [b"hello"]))]
    assert waiting.take(QUERY) == []
    held = sum(bool(waiting.take(number.to_bytes(16, "big"))) for number in range(1, 10 * early_units.QUERIES))
    assert held == early_units.QUERIES


@pytest.mark.parametrize("units", [[b"x"] * early_units.UNITS, [bytes(early_units.BYTES)]])
def test_one_query_keeps_no_more_of_a_peer_than_its_limit(units: list[bytes]) -> None:
    waiting = EarlyUnits()
    waiting.keep(ES, EU, QUERY, 0, units)
    with pytest.raises(PeerRefused, match="capacity"):
        waiting.keep(ES, EU, QUERY, len(units), [b"x"])
    waiting.keep(ES, DE, QUERY, 0, [b"x"])
    assert waiting.take(QUERY) == [(EU, (0, units)), (DE, (0, [b"x"]))]


def test_what_is_refused_leaves_nothing() -> None:
    """Else a peer had a little kept for each of as many queries as it likes, for ever."""
    waiting = EarlyUnits()
    for number in range(10 * early_units.QUERIES):
        with pytest.raises(PeerRefused, match="capacity"):
            waiting.keep(ES, EU, number.to_bytes(16, "big"), 0, [b""] * (early_units.UNITS + 1))
    assert not waiting._held[EU]
