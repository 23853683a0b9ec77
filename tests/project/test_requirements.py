"""What the law lists is what the code has: fields of a request, articles that a check may cite, floors of a policy."""

from __future__ import annotations

import re
from typing import Any

import msgspec
import pytest

from nodes.config import policy
from nodes.verify import table
from nodes.verify.verdict import RULES
from protocol import wire
from protocol.errors import MalformedFrame
from protocol.messages import Search, Warrant
from protocol.warrant import Justification, Request, issue_warrant
from tests.project.test_threat_model import rows


def announcement() -> list[Any]:
    """A frame with a warrant, as its decoder sees it."""
    reason = Justification("4711/26", "robbery", 5.0, "suspect", "identify", "officer", "approver", bytes(32))
    warrant = issue_warrant(Request("FR", "FR-1", "INVESTIGATION", False, 1000, 2000, ("ES",)), reason, b"probe")
    announce = Search(
        "FR", "EU", ("ES",), bytes(32), "0.55", 10, "0.02", "n4096_q60_t20", 128, bytes(32), None, warrant, b"signed"
    )
    frame = wire.encode(wire.Envelope(wire.VERSION, bytes(16), "", "FR", "ES", 0, announce))
    raw: list[Any] = msgspec.msgpack.decode(frame)
    return raw


def test_a_request_has_the_fields_listed_and_refuses_one_more() -> None:
    """R 24(1), with `identified` for R 23(1); hashes stand for what stays at the requester (R 33(2)), and its probe."""
    assert Warrant.__struct_fields__ == (
        "state", "request_number", "issued", "expires", "purpose", "identified", "justification", "officer", "approver",
        "probe", "holders",
    )  # fmt: skip
    raw = announcement()
    place = Search.__struct_fields__.index("warrant") + 1  # behind the tag
    wire.decode(msgspec.msgpack.encode(raw))  # the control
    for extended in (raw[-1], raw[-1][place]):
        extended.append("A. Suspect")
        with pytest.raises(MalformedFrame):
            wire.decode(msgspec.msgpack.encode(raw))
        extended.pop()


def test_no_check_of_evidence_cites_an_article_of_which_nothing_is_there() -> None:
    """A release that is confirmed by computation is not one that a person confirmed (R 20(2))."""
    states: dict[str, set[str]] = {}
    for _, _, source, _, _, state in rows().values():
        for article in re.findall(r"\d+\(\d+\)", source):
            states.setdefault(article, set()).add(state.split(":")[0])
    nothing = {article for article, found in states.items() if found == {"not yet"}}
    assert any("20(2)" in rule.source for rule in RULES), "there is a review, and a check of it"
    for rule in RULES:
        assert not nothing & set(re.findall(r"\d+\(\d+\)", rule.source)), rule.id


def test_the_verifiers_floors_are_those_of_the_policy() -> None:
    """Written down twice, so that a node whose floors were lowered is judged by others; today they are the same."""
    assert table.LOWEST_THRESHOLD == policy.LAW_MINIMUM_THRESHOLD
    assert (table.MAX_CAP, table.MAX_CLIMBS + 1) == (policy.MAX_CANDIDATES, policy.MAX_RUNGS)
    assert (table.WARRANT_SECONDS, table.SKEW_SECONDS) == (policy.MAX_WARRANT_SECONDS, policy.MAX_SKEW_SECONDS)
    assert set(table.PURPOSES) == {purpose.value for purpose in policy.Purpose}
