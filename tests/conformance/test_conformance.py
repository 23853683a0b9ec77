"""Our verifier gives each stored case the verdict that it must get. Another verifier could stand in its place."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from nodes.verify import Report, load_trust, verify_bundles
from nodes.verify.verdict import RULES
from tests.conformance.generate import TRUST, VERDICTS, unpack
from tests.kit.evidence import failures

CASES: dict[str, dict[str, Any]] = {case["name"]: case for case in json.loads(VERDICTS.read_text())}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The archive, unpacked."""
    place = tmp_path_factory.mktemp("conformance")
    unpack(place)
    return place


def verified(folder: Path, case: str) -> Report:
    bundles = [path.read_bytes() for path in sorted((folder / case).iterdir())]
    return verify_bundles(bundles, load_trust(folder / TRUST))


@pytest.mark.parametrize("name", CASES)
def test_a_stored_case_gets_its_verdict(name: str, folder: Path) -> None:
    report, case = verified(folder, name), CASES[name]
    assert report.holds == case["holds"], failures(report)
    if not case["holds"]:
        assert case["what"] in failures(report).get(case["rule"], ""), failures(report)


def test_no_case_is_without_a_verdict_and_hardly_a_rule_without_a_case(folder: Path) -> None:
    assert {path.name for path in folder.iterdir()} == {TRUST, *CASES}
    broken = {case["rule"] for case in CASES.values() if not case["holds"]}
    in_logs_only = {"identity", "answered-once", "log-inclusion", "log-checkpoint", "log-consistency"}
    not_stored_yet = {  # their lies are told in tests/casework/test_verify.py and tests/nodes/test_warrants.py
        "warrant-once",
        "launch-approval",
        "follow-up-log",
        "follow-up-signature",
        "two-reviewers",
        "core-data",
        "core-data-clock",
        "recall",
    }
    assert broken | in_logs_only | not_stored_yet == {rule.id for rule in RULES}
    assert sum(case["holds"] for case in CASES.values()) >= 3


@pytest.mark.slow
def test_the_command_line_says_so_by_its_exit_status(folder: Path) -> None:
    for name in ("all-bundles", "signed-by-another"):
        files = [str(path) for path in sorted((folder / name).iterdir())]
        command = [sys.executable, "-m", "nodes.cli", "verify", *files, "--trust", str(folder / TRUST), "--json"]
        run = subprocess.run(command, capture_output=True, text=True, check=False)
        assert run.returncode == (0 if CASES[name]["holds"] else 1), run.stderr


def test_control_files_of_two_cases_side_by_side_do_not_hold(folder: Path, tmp_path: Path) -> None:
    """The verdict depends on the files: a lie told by one and not by the others is found as well."""
    honest, other = folder / "all-bundles", folder / "low-threshold"
    bundles = [path.read_bytes() for path in (honest / "FR.bundle", honest / "EU.bundle", *other.iterdir())]
    assert not verify_bundles(bundles, load_trust(folder / TRUST)).holds
