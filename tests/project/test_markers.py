"""A test that works on the ring is run on both rings, unless it is said here why once is enough."""

from __future__ import annotations

import re
from pathlib import Path

from tests.conftest import RING_MARK

TESTS = Path(__file__).parents[1]

ONCE = {
    "attacks/test_gates.py": "lies in gates, which know no ring",
    "attacks/test_pools.py": "what is kept of a preparation, whatever its length",
    "audit/test_changed.py": "rows that changed; the ring only says how many make a block",
    "audit/test_confirmation.py": "rules over what was sealed and sent, recomputed by code that is tried on both rings",
    "audit/test_holder.py": "as test_confirmation.py",
    "audit/test_limits.py": "gates, which know no ring",
    "blocks/test_search.py": "how a gallery is stored; the search of it is tried on both rings elsewhere",
    "casework/test_command_line.py": "what persons do after a search",
    "cluster/test_node.py": "where the rows of a gallery lie, not what is computed with them",
    "cluster/test_ray.py": "as test_node.py",
    "pets/test_product.py": "rows times a vector modulo t, which both rings share",
    "protocol/test_forks.py": "which process searches; the search is tried on both rings elsewhere",
    "protocol/test_orders.py": "the order of messages, whatever their length",
    "protocol/test_scoring_ahead.py": "the order of messages, whatever their length",
    "cli/test_prepare_at_node.py": "what an operator reads of preparations",
    "nodes/test_answering.py": "who asks at the wrong moment, whatever is computed",
    "nodes/test_blame.py": "who is named for what went wrong, whatever was computed",
    "nodes/test_latency.py": "how long searches took, whatever they computed",
    "nodes/test_supply.py": "when preparations are made, not what of",
    "nodes/test_together.py": "what is stopped when something else fails, whatever was computed",
    "nodes/test_versions.py": "which version of a gallery a search meets",
    "nodes/test_refusals.py": "what a node refuses before it computes",
    "nodes/test_units.py": "a limit on bytes that wait, measured in parts of the smaller ring",
    "verify/test_copies.py": "the verifier's table, compared with both presets at once",
    "verify/test_partial.py": "what is called checkable; the ring only sets a length",
}


def works_on_the_ring(text: str) -> bool:
    return bool(re.search(r"^from tests\.kit\.ring import", text, re.MULTILINE))


def is_marked(text: str) -> bool:
    return RING_MARK in text


def test_what_works_on_the_ring_is_marked_or_named_with_a_reason() -> None:
    files = {path.relative_to(TESTS).as_posix(): path.read_text() for path in TESTS.glob("*/test_*.py")}
    unmarked = {name for name, text in files.items() if works_on_the_ring(text) and not is_marked(text)}
    assert unmarked == set(ONCE)


def test_the_mark_is_given_only_where_a_run_with_it_looks() -> None:
    """Such a run does not open files in which it is not written (`tests/conftest.py`)."""
    for path in TESTS.rglob("*.py"):
        text = path.read_text()
        told_otherwise = re.search(r"(?<!pytest\.)\bmark\.ring\b|from pytest import.*\bmark\b", text)
        looked_at = path.name.startswith("test_") or not is_marked(text) or path == TESTS / "conftest.py"
        assert (told_otherwise, looked_at) == (None, True), path


def test_control_a_file_without_the_mark_is_noticed() -> None:
    text = "import pytest\nfrom tests.kit.ring import RING\n"
    assert works_on_the_ring(text)
    assert not is_marked(text)
    assert is_marked(text + "pytestmark = pytest.mark.ring\n")
