"""The benchmarks run from the command line at tiny sizes and print JSON with the fields that the README cites."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from benchmarks import machine
from pets import openfhe_keys

ROOT = Path(__file__).parents[2]
MACHINE = {"processor", "cores", "threads", "load", "python", "numpy", "numba", "commit", "date"}


def benchmark(name: str, *args: str) -> tuple[dict[str, Any], str]:
    command = [sys.executable, "-m", f"benchmarks.{name}", *args]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout), done.stderr


def test_every_script_explains_itself_before_it_measures():
    """`--help` once started forty million rows."""
    scripts = [path for path in (ROOT / "benchmarks").glob("*.py") if "__main__" in path.read_text()]
    assert len(scripts) >= 11
    for path in scripts:
        assert "ArgumentParser(" in path.read_text(), path.name


def test_a_commit_says_whether_files_were_changed_since(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    assert machine.commit() == "none"
    file = tmp_path / "file"
    file.write_text("one")
    named = ("-c", "user.name=n", "-c", "user.email=e", "-c", "commit.gpgsign=false")
    for command in (("init", "-q"), ("add", "file"), (*named, "commit", "-qm", "first")):
        subprocess.run(["git", *command], check=True)
    clean = machine.commit()
    assert "dirty" not in clean
    file.write_text("two")
    assert machine.commit() == f"{clean}-dirty"


def test_search_reports_every_figure_that_has_a_target():
    report, table = benchmark("search", "--rows", "4096", "--large", "0", "--dim", "64", "--runs", "1", "--probes", "2")
    assert set(report["machine"]) >= MACHINE
    (run,) = report["runs"]
    assert (run["rows"], run["dim"], run["many_probes"]) == (4096, 64, 2)
    for field in (
        "numpy_s",
        "kernel_over_numpy",
        "online_s",
        "online_over_numpy",
        "offline_s",
        "enrolment_s_per_million",
        "gallery_bytes_per_row",
        "other_memory_bytes",
        "bytes_sent",
        "many_online_over_one",
        "many_first_over_one",
    ):
        assert run[field] > 0, field
    assert {"admit", "score", "share", "compare", "open", "confirm"} <= set(run["phases_s"])
    assert table.count("must") == 10


def test_network_reports_nodes_beside_one_process():
    report, _ = benchmark("network", "--rows", "4096", "--dim", "64", "--runs", "1", "--delay-ms", "1")
    assert set(report["machine"]) >= MACHINE
    assert (report["rows"], report["dim"], report["round_trip_added_ms"]) == (4096, 64, 2)
    for field in ("nodes_online_s", "nodes_offline_s", "nodes_online_over_one_process", "nodes_core_seconds"):
        assert report[field] > 0, field
    assert report["nodes_online_s"] > 0.04, "40 rounds and more on a line 1 ms long"


@pytest.fixture(scope="module")
def compared(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], str, Path]:
    folder = tmp_path_factory.mktemp("compare")
    results = ROOT / "benchmarks" / "results"
    before = {path: path.stat().st_mtime_ns for path in results.glob("*")}
    report, table = benchmark("compare", "--smoke", "--out", str(folder))
    assert {path: path.stat().st_mtime_ns for path in results.glob("*")} == before, "a smoke run replaced results"
    return report, table, folder


def test_comparison_says_time_size_and_what_is_revealed_for_every_entry(compared: tuple[dict[str, Any], str, Path]):
    report, table, _ = compared
    assert set(report["machine"]) >= MACHINE | {"tenseal", "openfhe"}
    for row in report["entries"]:
        assert row["seconds_per_million"] > 0
        assert row["core_seconds_per_million"] > 0
        assert row["over_numpy"] > 0
        assert row["rows"] > 0
        assert row["how"]
        assert row["reveals"] in report["reveals"]
        assert row["name"] in table
        for check in row.get("checks", []):
            assert check.get("wrong_scores", 0) == check.get("wrong_hits", 0) == 0
            assert check.get("max_error", 0) < 1e-3
    assert all(row["source"] and row["reveals"] in report["reveals"] for row in report["quoted"])


def test_comparison_leaves_out_missing_libraries_and_says_so(compared: tuple[dict[str, Any], str, Path]):
    report, table, _ = compared
    present = {
        "tenseal": importlib.util.find_spec("tenseal") is not None,
        "openfhe": openfhe_keys.available() is None,
    }
    measured = {row["key"].split("_")[0] for row in report["entries"]}
    assert measured == {"numpy", "ours"} | {library for library, there in present.items() if there}
    assert len(report["left_out"]) == list(present.values()).count(False)
    assert all(sentence in table for sentence in report["left_out"])


def test_chart_names_every_entry(compared: tuple[dict[str, Any], str, Path]):
    if importlib.util.find_spec("matplotlib") is None:
        pytest.skip("matplotlib is not installed")
    report, _, folder = compared
    chart = (folder / "compare.svg").read_text()
    assert chart.startswith("<?xml")
    for row in report["entries"] + report["quoted"]:
        assert f"<!-- {row['name']} -->" in chart  # matplotlib writes the text of a label beside its outlines


def test_no_decoder_lets_anything_but_its_typed_errors_escape():
    report, _ = benchmark("fuzz", "--cases", "6000", "--seed", "5")
    assert report["cases"] >= 6000
    assert report["decoders"] >= 36
    assert report["escaped"] == 0, [result["escapes"] for result in report["results"] if result["escapes"]]
    for result in report["results"]:
        assert result["outcomes"], result["decoder"]
        assert sum(result["outcomes"].values()) == result["cases"]
    accepted = [result["decoder"] for result in report["results"] if "accepted" in result["outcomes"]]
    assert len(accepted) > 20, "mutations that nothing accepts test only the first check"


def test_a_fuzzed_decoder_that_raises_anything_else_is_an_escape():
    from benchmarks.fuzz import fuzz
    from benchmarks.fuzz_evidence import Target
    from benchmarks.fuzz_mutate import of_bytes

    def careless(data: bytes) -> object:
        return data.decode()  # UnicodeDecodeError is no typed error

    report = fuzz(Target("careless", 1, [b"text"], of_bytes, careless), 500, 0)
    assert report["escaped"] > 0
    assert set(report["escapes"][0]) == {"error", "at", "input"}


def test_inversion_tells_hits_from_scores():
    report, _ = benchmark("inversion", "--smoke")
    (population,) = report["populations"]
    reached = {name: {int(k): v["median"] for k, v in run.items()} for name, run in population["scenarios"].items()}
    assert len(reached) == 8
    limited = {name: reached.pop(name) for name in list(reached) if "10 releases" in name}
    for run in reached.values():
        assert run[10] < run[30] < run[100]
    assert len(limited) == 3
    for run in limited.values():
        assert run[100] < reached["hit or no hit at 0.55, another photo"][100]
    assert limited["the same, 10 releases"][50] == limited["the same, 10 releases"][100]
    hits, scores = reached["hit or no hit at 0.55, another photo"], reached["scores, another photo"]
    assert 0.7 < hits[100] < scores[100]
    assert scores[100] > 0.95
