"""The benchmarks run from the command line at tiny sizes and print JSON with the fields that the README cites."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks import check, machine
from nodes.bench.literature import read_literature

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
MACHINE = {"processor", "cores", "threads", "load", "python", "numpy", "numba", "commit", "date"}


def benchmark(name: str, *args: str, timeout: float = 300) -> tuple[dict[str, Any], str]:
    command = [sys.executable, "-m", f"benchmarks.{name}", *args]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=timeout, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout), done.stderr


def test_every_script_explains_itself_before_it_measures():
    """`--help` once started forty million rows."""
    scripts = [path for path in (ROOT / "benchmarks").glob("*.py") if "__main__" in path.read_text()]
    assert len(scripts) >= 10
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


def test_product_reports_what_prepared_queries_must_reach():
    small = ("--rows", "20000", "--dim", "64", "--runs", "1", "--probes", "2", "--batch", "2", "--score-rows", "4097")
    report, _ = benchmark("product", *small)
    assert set(report["machine"]) >= MACHINE
    assert (report["rows"], report["dim"], report["probes"], report["batch"]) == (20000, 64, 2, 2)
    assert all(0 < times["min"] <= times["median"] for times in report["times"].values())
    numpy_time, times = report["times"]["numpy_float32"]["min"], report["times"]
    for name, ratio in report["over_numpy"]["min"].items():
        assert ratio == pytest.approx(times[name]["min"] / numpy_time, rel=0.02, abs=0.001)
    assert report["score_rows_s_per_million_rows"] == pytest.approx(
        times["score_rows"]["median"] / 0.004097, rel=0.01, abs=0.001
    )


def test_search_reports_every_figure_that_has_a_target():
    report, table = benchmark("search", "--rows", "4096", "--large", "0", "--dim", "64", "--runs", "1", "--probes", "2")
    assert set(report["machine"]) >= MACHINE
    (run,) = report["runs"]
    assert (run["rows"], run["dim"], run["many_probes"]) == (4096, 64, 2)
    for field in (
        "numpy_s",
        "product_over_numpy",
        "online_s",
        "online_over_numpy",
        "cold_s",
        "preparation_s",
        "enrolment_s_per_million",
        "gallery_bytes_per_row",
        "other_memory_bytes",
        "online_bytes",
        "preparation_bytes",
        "many_online_over_one",
    ):
        assert run[field] > 0, field
    assert {"admit", "score", "share", "compare", "open", "confirm"} <= set(run["phases_s"])
    assert table.count("must") == 10


def test_network_reports_nodes_with_a_preparation_and_without_beside_one_process():
    small = ("--rows", "4096", "--dim", "64", "--runs", "1", "--delay-ms", "1", "--holders", "2")
    report, _ = benchmark("network", *small, timeout=900)
    assert set(report["machine"]) >= MACHINE
    assert (report["rows"], report["holders"], report["dim"], report["round_trip_added_ms"]) == (8192, 2, 64, 2)
    prepared, cold, preparing = report["prepared"], report["cold"], report["preparing"]
    for turns in (prepared, cold, preparing):
        assert set(turns["received_bytes"]) == {"requester", "holders", "router"}
        assert turns["core_seconds"] > 0
        assert all(count > 0 for count in turns["received_bytes"].values())
    assert prepared["online_s"] > 0.02, "20 messages and more on a line 1 ms long"
    assert prepared["answer_s"] > prepared["online_s"]
    assert cold["received_bytes"]["holders"] > 10 * prepared["received_bytes"]["holders"], "the masks"
    assert report["one_process_online_s"] > 0


def test_a_ratio_a_quarter_worse_fails_the_gate_and_seconds_do_not():
    before = {"blind-lineup": 10.0}
    assert check.worse({"blind-lineup": 12.4}, before) == []
    assert "takes 12.6 times numpy, checked in is 10.0" in check.worse({"blind-lineup": 12.6}, before)[0]
    assert "was not measured" in check.worse({}, before)[0]
    slow, fast = (
        {"engines": [{"name": name, "core_seconds_least_per_million": by * least} for name, least in (
            ("blind-lineup", 2.0), ("blind-lineup-cold", 2.0), ("plain-float32", 0.1)
        )]}
        for by in (1, 7)
    )  # fmt: skip
    assert check.ratios(slow) == check.ratios(fast) == {"blind-lineup": 20.0}


def test_bytes_and_messages_are_those_that_are_checked_in():
    """What CI runs of `make bench-check`. After a change that is meant: `benchmarks.check --smoke --write`."""
    report, _ = benchmark("check", "--smoke")
    assert report["now"]["hops"] == report["checked_in"]["hops"]


def test_a_byte_more_or_less_and_a_message_more_fail_the_gate():
    before = {"bytes": {"online": {"a to b": 5}, "offline": {"a to b": 7}}, "hops": 29}
    assert check.different(before, before) == []
    more = {"bytes": {"online": {"a to b": 6}, "offline": {"a to b": 7, "b to a": 1}}, "hops": 30}
    assert check.different(more, before) == [
        "messages waited for: 30, checked in is 29",
        "offline bytes, b to a: 1, checked in is None",
        "online bytes, a to b: 6, checked in is 5",
    ]


def test_the_roofline_counts_what_a_row_takes_and_fills_its_page(tmp_path: Path):
    page = tmp_path / "page.md"
    page.write_text((ROOT / "benchmarks" / "roofline.md").read_text())
    small = ("--rows", "16384", "--dim", "64", "--runs", "1", "--score-rows", "4096", "--batch", "2")
    report, _ = benchmark("roofline", *small, "--page", str(page))
    assert all(value > 0 for value in report["ceilings"].values())
    stages = report["stages"]
    assert len(stages) == 6
    assert stages["numpy float32"]["bytes_a_row"] == 4 * 64
    assert stages["online: the holder's product"]["operations_a_row"] == 3 * 64
    assert stages["preparation: products, a mask"]["operations_a_row"] == 4 * 64
    for name, item in stages.items():
        assert item["reached"] == pytest.approx(item["floor_ns_a_row"] / item["ns_a_row"]), name
        assert f"| {name} |" in page.read_text()
    assert "How to read it" in page.read_text()


def test_pages_are_written_from_results_and_keep_what_has_none(tmp_path: Path):
    page, results = tmp_path / "page.md", tmp_path / "results"
    results.mkdir()
    page.write_text((ROOT / "benchmarks" / "README.md").read_text())
    report, _ = benchmark("pages", "--page", str(page), "--results", str(results))
    assert report["written"] == []
    assert page.read_text() == (ROOT / "benchmarks" / "README.md").read_text()
    about = {"processor": "P", "threads": 2, "load": 0.1, "commit": "c0ffee", "date": "today"}
    turns = {"online_s": 0.25, "answer_s": 0.5, "received_bytes": {"requester": 1e6, "holders": 2e6, "router": 3e6}}
    network = {"machine": about, "rows": 4096, "holders": 3, "dim": 64, "round_trip_added_ms": 30.0, "prepared": turns}
    network |= {"cold": turns, "preparing": {"preparation_s": 1.5}, "one_process_online_s": 0.1}
    (results / "network-30ms.json").write_text(json.dumps(network))
    report, _ = benchmark("pages", "--page", str(page), "--results", str(results))
    assert report["written"] == ["network"]
    assert "| 4,096, 3 | 30 ms | 250 ms | 500 ms | 500 ms | 1.5 s | 100 ms | 1.0, 2.0, 3.0 |" in page.read_text()
    assert page.read_text().count("<!-- up to here -->") == 2


def test_centring_is_measured_on_people_who_are_not_in_the_mean(tmp_path: Path):
    """Templates that all lean in one direction, more or less: without it they are told apart better."""
    rng = np.random.default_rng(2)
    people = rng.normal(size=(60, 1, 32)) / 32**0.5
    rows = people + 0.6 * rng.normal(size=(60, 4, 32)) / 32**0.5
    rows[..., 0] += rng.uniform(1, 3, (60, 4))
    rows = rows.reshape(-1, 32)
    np.save(tmp_path / "e.npy", (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32))
    (tmp_path / "l.txt").write_text("".join(f"{row // 4}\n" for row in range(240)))
    files = ("--embeddings", str(tmp_path / "e.npy"), "--labels", str(tmp_path / "l.txt"))
    report, _ = benchmark("centring", *files, "--draws", "10")
    assert (report["people"], report["photos"], report["mirror_images"], report["draws"]) == (60, 240, False, 10)
    assert [row["fmr"] for row in report["fmr"]] == [1e-2, 1e-3]
    assert report["not_measurable"] == [1e-4], "6960 impostor pairs"
    first = report["fmr"][0]
    assert first["misses_centred"] < first["misses"]
    assert first["lower"] > 0.7 > first["higher"]


def test_every_published_figure_has_a_source_and_says_whether_it_can_be_compared():
    rows = read_literature(ROOT / "benchmarks" / "literature.csv")
    assert len(rows) >= 10
    assert all(row["source"] and row["hardware"] and row["comparable"] and row["leaks"] for row in rows)
    assert {row["derived"] for row in rows} == {"yes", "no"}


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


def test_scale_writes_a_flat_list_an_entry_a_size(tmp_path: Path):
    file = tmp_path / "scale.json"
    arguments = ("--dim", "64", "--batch", "2", "--folder", str(tmp_path), "--json", str(file))
    before = {"rows": 5000, "dim": 64, "batch": 2, "verified": False, "online_s": -1}  # is measured again
    file.write_text(json.dumps([before]))
    benchmark("scale", "--rows", "9000", "5000", *arguments)
    entries = json.loads(file.read_text())
    assert [entry["rows"] for entry in entries] == [5000, 9000]
    for entry in entries:
        assert set(entry) >= {"rows", "dim", "online_s", "preparation_s", "batch", "verified", "peak_rss_bytes"}
        assert entry["measured"] is True
        assert not any(isinstance(value, dict) for value in entry.values())
        assert 0 < entry["online_s"] < 60
        assert entry["peak_rss_bytes"] > entry["rows"] * 64
        assert entry["preparation_bytes"] > 8 * entry["rows"]
    assert [path.name for path in tmp_path.iterdir()] == ["scale.json"]


def test_the_chart_of_scale_is_drawn_from_its_file(tmp_path: Path):
    pytest.importorskip("matplotlib")
    entries = [
        {"rows": rows, "dim": 512, "batch": batch, "online_s": 1e-7 * rows, "preparation_s": 1e-6 * rows / batch}
        | {"peak_rss_bytes": 600 * rows}
        for rows, batch in ((10**5, 4), (10**6, 4), (10**6, 1))
    ]
    (tmp_path / "scale.json").write_text(json.dumps(entries))
    benchmark("scale_chart", "--json", str(tmp_path / "scale.json"), "--out", str(tmp_path / "scale.svg"))
    assert "one search" in (tmp_path / "scale.svg").read_text()


def test_soak_counts_what_it_did_and_what_was_wrong():
    report, _ = benchmark("soak", "--minutes", "0.02", "--rows", "2000", "--dim", "64")
    assert report["wrong"] == 0
    assert report["done"]["search"] >= 1
    assert report["rss_late_bytes"] > 0
