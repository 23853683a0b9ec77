"""`lineup bench` at tiny sizes: every engine finds what was planted, and says what it reveals."""

from __future__ import annotations

import html
import json
from collections import deque
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nodes.bench import run as runs
from nodes.bench import worker
from nodes.bench.engine import KINDS, Clock, Costs, Kind, make, missing
from nodes.bench.hops import CountedNetwork
from nodes.bench.literature import COLUMNS, read_literature
from nodes.bench.plain import Float32
from pets.errors import InputError, ParameterError
from tests.kit.commands import run  # noqa: F401  the fixture

DIM = 64
PRESET = "n4096_q60_t20"
QUICK = [kind for kind in KINDS if kind.name != "openfhe-ckks-threshold"]


@pytest.mark.parametrize("kind", QUICK, ids=lambda kind: kind.name)
def test_every_engine_finds_the_planted_rows_and_no_other(kind: Kind):
    if (reason := missing(kind)) is not None:
        pytest.skip(reason)
    if kind.needs:  # several of these libraries in one process have crashed it
        assert worker.measure(kind, 300, DIM, 1, PRESET, 1, 2).wrong == 0
        return
    templates, probes, planted = worker.gallery(300, DIM, 0, 2)
    engine = make(kind, DIM, 1, PRESET)
    engine.enrol(templates)
    engine.prepare(2)
    clock = Clock()
    assert [set(rows) for rows in engine.search(probes, clock)] == planted
    assert sum(clock.seconds.values()) > 0


def test_the_report_has_a_row_an_engine(run: Any, tmp_path: Path):  # noqa: F811
    args = ("--rows", "4096", "--dim", "64", "--runs", "2", "--engines", "blind-lineup,plain-int8")
    literature = Path(__file__).parents[2] / "benchmarks" / "literature.csv"
    files = ("--json", tmp_path / "b.json", "--report", tmp_path / "b.html", "--literature", literature)
    status, out, err = run("bench", *args, *files, "--sweep", "1024")
    assert status == 0, err
    report = json.loads((tmp_path / "b.json").read_text())
    names = [item["name"] for item in report["engines"]]
    assert names == ["blind-lineup", "blind-lineup-cold", "plain-int8"]
    for item in report["engines"]:
        assert item["seconds"] > 0
        assert item["spread"][0] <= item["seconds"] <= item["spread"][1]
        assert (item["rows_measured"], item["extrapolated"], item["wrong_rows"]) == (4096, False, 0)
        assert html.escape(item["reveals"]) in (tmp_path / "b.html").read_text()
        assert item["name"] in out
    prepared, cold = report["engines"][:2]
    assert prepared["offline_seconds"] > 0
    assert cold["seconds"] > prepared["seconds"]
    assert cold["offline_seconds"] == 0
    for part in ("online", "offline"):
        assert prepared["bytes"][part]["requester to holder"] > 0
        assert set(prepared["parties"][part]) == {"requester", "router", "holder"}
    first, *_, last = report["latency"]
    assert (first["round_trip_ms"], last["round_trip_ms"], last["measured"]) == (0, 100, False)
    assert last["seconds"] - first["seconds"] == pytest.approx(prepared["hops"] * 0.05)
    assert prepared["hops"] > 20
    assert sum(prepared["phases"].values()) > 0
    assert {item["rows"] for item in report["sweep"]} == {1024, 4096}
    assert {"processor", "cores", "python", "commit", "tenseal", "openfhe"} <= set(report["machine"])
    assert "HyDia" in (tmp_path / "b.html").read_text()


def test_a_joint_query_of_several_holders_finds_the_rows_of_all(run: Any, tmp_path: Path):  # noqa: F811
    args = ("--rows", "640", "--dim", "64", "--runs", "1", "--engines", "blind-lineup", "--json", tmp_path / "b.json")
    status, out, err = run("bench", *args, "--holders", "3", "--probes", "2")
    assert status == 0, err
    report = json.loads((tmp_path / "b.json").read_text())
    assert (report["probes"], report["holders"]) == (2, 3)
    assert "2 probes together against 640 rows, of 3 holders in one joint query" in " ".join(out.split())
    assert [item["wrong_rows"] for item in report["engines"]] == [0, 0]
    assert set(report["engines"][0]["parties"]["online"]) == {"requester", "router", "holder"}


def test_hops_are_counted_along_the_longest_line():
    """Each of two machines answers the other three times; the third machine, told beside, adds nothing."""

    class Echo:
        def __init__(self, name: str, query: bytes = b"q") -> None:
            self.name, self.query, self.seconds = name, query, {}
            self.outgoing: deque[tuple[str, bytes]] = deque()
            self.wanted: deque[Any] = deque()

        def handle(self, frame: bytes, sender: str) -> None:
            if self.name != "C" and frame:
                self.outgoing += [(sender, frame[1:]), ("C", b"beside")]

    machines = [Echo("A"), Echo("B"), Echo("C")]
    machines[0].outgoing.append(("B", b"123"))
    network = CountedNetwork(machines)  # type: ignore[arg-type]
    network.run_or_raise()
    assert network.hops == 4


def test_more_rows_than_were_measured_are_extrapolated_and_the_probe_is_encrypted_once():
    kind = KINDS[1]
    found = worker.Measured(kind, 1000, [0.5], [0.1], [0.2], [1.0], 0.3, {}, Costs(), 0, 1, 0, [2.0])
    (entry,) = runs.entries(found, 10_000)
    assert entry["seconds"] == pytest.approx(0.5 + 10 * 0.1)
    assert (entry["rows_measured"], entry["extrapolated"]) == (1000, True)
    assert entry["core_seconds_per_million"] == pytest.approx((2.0 + 10 * 1.0) * 100)


def test_a_library_that_is_missing_is_named_and_left_out(monkeypatch: Any, run: Any, tmp_path: Path):  # noqa: F811
    monkeypatch.setattr(runs, "missing", lambda kind: "faiss is not installed" if kind.needs == "faiss" else None)
    args = ("--rows", "64", "--dim", "64", "--runs", "1", "--json", tmp_path / "b.json")
    status, out, err = run("bench", *args, "--engines", "plain")
    assert status == 0, err
    report = json.loads((tmp_path / "b.json").read_text())
    assert report["left_out"] == [{"name": "faiss-flat", "reason": "faiss is not installed"}]
    assert "left out: faiss-flat: faiss is not installed" in out
    assert [item["name"] for item in report["engines"]] == ["plain-float32", "plain-int8"]
    status, _, err = run("bench", *args, "--engines", "faiss-flat")
    assert status == 1
    assert "none of the engines can be used here" in err


def test_an_engine_whose_process_crashes_is_left_out_and_the_others_are_measured(
    monkeypatch: Any,
    run: Any,  # noqa: F811
    tmp_path: Path,
):
    measured = runs.measure

    def crash(kind: Kind, *sizes: Any) -> worker.Measured:
        if kind.name == "plain-int8":
            raise BrokenProcessPool("ended")
        return measured(kind, *sizes)

    monkeypatch.setattr(runs, "measure", crash)
    args = ("--rows", "64", "--dim", "64", "--runs", "1", "--json", tmp_path / "b.json")
    status, _, err = run("bench", *args, "--engines", "plain-float32,plain-int8")
    assert status == 0, err
    report = json.loads((tmp_path / "b.json").read_text())
    assert [item["name"] for item in report["engines"]] == ["plain-float32"]
    assert report["left_out"] == [{"name": "plain-int8", "reason": "its process ended (BrokenProcessPool)"}]
    status, _, err = run("bench", *args, "--engines", "plain-int8")
    assert status == 1
    assert "no engine could be measured" in err


def test_wrong_rows_are_counted(monkeypatch: Any):
    class Barrier:
        def wait(self, seconds: float) -> None:
            pass

    monkeypatch.setattr(worker, "_barrier", Barrier())
    job = worker.Job(KINDS[1], 64, DIM, 1, PRESET, 2, 0)
    assert worker.work(job).wrong == 0
    monkeypatch.setattr(Float32, "search", lambda self, probes, clock: [[0, 1]])
    assert worker.work(job).wrong == 3 * 3  # each of three searches: one row too many, two missed


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (("--engines", "seal"), "--engines does not know seal; known: plain, blind-lineup"),
        (("--rows", "4"), "--rows must be 8 to 67108864, got 4"),
        (("--dim", "12"), "multiple of 8"),
        (("--runs", "0"), "--runs must be 1 to 1000, got 0"),
        (("--probes", "17"), "--probes must be 1 to 16, got 17"),
        (("--holders", "28"), "--holders must be 1 to 27, got 28"),
        (("--rows", "64", "--holders", "9"), "at least 8 a probe and 8 a holder, got 64"),
        (("--round-trips", "10,-1"), "--round-trips must be 0 to 10000 ms, got -1"),
        (("--preset", "n1"), "unknown preset"),
        (("--json", "nowhere/b.json"), "the folder of nowhere/b.json does not exist"),
    ],
)
def test_mistakes_are_named(run: Any, args: tuple[str, ...], words: str):  # noqa: F811
    status, _, err = run("bench", *args)
    assert status == 2
    assert words in err


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("a,fast,no,hits,b,c,d,e,f", "seconds_per_million must be a number, got 'fast'"),
        ("a,1,no,nothing,b,c,d,e,f", "line 2"),
        ("a,1,no,hits,b,c,d,e,", "with a source"),
    ],
)
def test_a_published_figure_that_is_none_is_refused(tmp_path: Path, line: str, words: str):
    (tmp_path / "l.csv").write_text(",".join(COLUMNS) + "\n" + line + "\n")
    with pytest.raises(InputError, match=words):
        read_literature(tmp_path / "l.csv")
    (tmp_path / "l.csv").write_text("name\nx\n")
    with pytest.raises(InputError, match="must have the columns"):
        read_literature(tmp_path / "l.csv")


def test_synthetic_templates_reach_the_threshold_only_where_planted():
    templates, probes, planted = worker.gallery(5000, DIM, 1, 3)
    for probe, rows in zip(probes, planted, strict=True):
        scores = templates.astype(np.int64) @ probe.astype(np.int64)
        assert set(np.flatnonzero(scores >= 0.6 * 176**2)) == rows


def test_names_of_groups_and_engines():
    assert [kind.name for kind in runs.chosen(["plain"])] == ["plain-float32", "plain-int8", "faiss-flat"]
    assert runs.chosen([]) == KINDS
    with pytest.raises(ParameterError):
        runs.chosen(["openfhe"])
