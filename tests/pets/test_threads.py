"""Turns of threads: shorter while it is asked for, as they were afterwards."""

from __future__ import annotations

import sys

import pytest

from pets.threads import TURN, short_turns


def test_turns_are_short_inside_and_as_before_outside() -> None:
    before = sys.getswitchinterval()
    with short_turns():
        assert sys.getswitchinterval() == pytest.approx(min(before, TURN), rel=0.01)
    assert sys.getswitchinterval() == before


def test_they_are_as_before_after_an_error_too() -> None:
    before = sys.getswitchinterval()
    with pytest.raises(ValueError, match="x"), short_turns():
        raise ValueError("x")
    assert sys.getswitchinterval() == before


def test_whoever_set_them_shorter_keeps_it() -> None:
    before = sys.getswitchinterval()
    sys.setswitchinterval(0.0001)
    try:
        with short_turns():
            assert sys.getswitchinterval() == pytest.approx(0.0001, rel=0.01)
    finally:
        sys.setswitchinterval(before)
