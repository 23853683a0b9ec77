"""The bounded model of the message flow: the intact one holds, each broken one fails in exactly its property."""

from __future__ import annotations

import importlib.util
import re
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

CHECK = Path(__file__).parents[2] / "threat_model" / "model" / "check.py"

needs_maude = pytest.mark.skipif(
    shutil.which("maude") is None, reason="the model checker Maude is not installed (apt-get install maude)"
)


@pytest.fixture(scope="module")
def check() -> ModuleType:
    spec = importlib.util.spec_from_file_location("model_check", CHECK)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@needs_maude
def test_intact_model_holds_and_every_broken_variant_fails_in_its_property() -> None:
    done = subprocess.run([sys.executable, str(CHECK)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "NOT AS EXPECTED" not in done.stdout


@needs_maude
def test_a_violation_that_nobody_expected_is_reported(check: ModuleType) -> None:
    hopeful = check.Variant("hopeful", "no form check, yet all should hold", without=("form-check",))
    outcome = check.explore([hopeful])[0]
    assert outcome.failed == {"confirmed-only"}
    assert not outcome.as_expected
    assert "NOT AS EXPECTED" in check.row(outcome)


@needs_maude
def test_a_defence_that_does_nothing_is_reported(check: ModuleType) -> None:
    idle = check.Variant("idle", "nothing removed, yet a failure expected", frozenset({"secrecy"}))
    assert not check.explore([idle])[0].as_expected


@needs_maude
def test_counterexample_shows_the_one_mouth(check: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    assert check.main(["--show", "two-mouths"]) == 0
    printed = capsys.readouterr().out
    assert "corrupt: requester" in printed
    assert "msg(R, H, p1, public(public-of(evil-seed, ID1)))" in printed
    assert printed.index("router-joins-preparation") < printed.index("violated(same-to-both)")


def test_every_property_has_a_broken_variant_and_every_flag_is_used(check: ModuleType) -> None:
    broken = {prop for variant in check.BROKEN for prop in variant.fails}
    assert broken == set(check.PROPERTIES)
    assert all(len(variant.fails) == 1 for variant in check.BROKEN)
    declared = re.findall(r"ops ([\w\s-]+?) : -> Flag \.", check.MODEL.read_text())
    flags = {flag for names in declared for flag in names.split()}
    variants = [variant for group in (*check.GROUPS.values(), check.LONG) for variant in group]
    assert flags == {flag for variant in variants for flag in (*variant.without, *variant.powers)}


def test_missing_maude_is_said_plainly(
    check: ModuleType, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "")
    assert check.main([]) == 2
    assert "apt-get install maude" in capsys.readouterr().err
