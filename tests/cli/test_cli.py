"""`lineup match` and `lineup demo` as their users meet them: exit status, one line on stderr, JSON."""

from __future__ import annotations

import json
import re
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pytest

from nodes.cli import demo
from nodes.cli.case_common import split_names
from nodes.cli.embed import photo_count
from nodes.cli.node import names_of
from pets.synthetic import synthetic_templates
from pets.templates import ModelSpec, save_templates
from tests.kit.preloaded import preloaded

DIM = 128
PHASES = {"enroll", "offline", "admit", "score", "share", "compare", "open", "confirm", "online"}


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("match")
    templates = synthetic_templates(5000, DIM, 7)
    rng = np.random.default_rng(5)
    for row, cosine in ((17, 0.9), (4999, 0.7), (40, 0.61)):
        noise = rng.normal(size=DIM)
        noise -= (noise @ templates[0]) * templates[0]
        templates[row] = cosine * templates[0] + np.sqrt(1 - cosine**2) * noise / np.linalg.norm(noise)
    templates[0] = synthetic_templates(1, DIM, 8)[0]
    np.save(folder / "gallery.npy", templates)
    probe = synthetic_templates(5000, DIM, 7)[0]
    np.save(folder / "probe.npy", probe)
    np.save(folder / "probes.npy", np.stack([probe, synthetic_templates(1, DIM, 99)[0]]))
    return folder


def arguments(files: Path, **changes: object) -> list[object]:
    options: dict[str, object] = {
        "gallery": files / "gallery.npy",
        "probe": files / "probe.npy",
        "threshold": "0.55",
        "json": files / "result.json",
    } | changes
    return ["match", *(item for key, value in options.items() for item in (f"--{key.replace('_', '-')}", value))]


def result(files: Path) -> dict:
    return json.loads((files / "result.json").read_text())


def test_match_names_the_photos_of_a_gallery_that_was_embedded(run, files: Path, tmp_path: Path) -> None:
    model = ModelSpec("a" * 64, "b" * 64, "x", DIM, 248)
    rows = np.load(files / "gallery.npy")[:50].astype(np.float32)
    save_templates(tmp_path / "named.npy", rows, model, [f"[b]{row}.jpg" for row in range(50)])
    status, out, error = run(*arguments(files, gallery=tmp_path / "named.npy", engine="plain"))
    assert status == 0, error
    assert "[b]17.jpg" in out
    assert result(files)["probes"][0]["released"][0]["photo"] == "[b]17.jpg"


def test_an_empty_gallery_is_called_empty(run, files: Path, tmp_path: Path) -> None:
    np.save(tmp_path / "empty.npy", np.zeros((0, DIM), np.float32))
    status, _, error = run(*arguments(files, gallery=tmp_path / "empty.npy", engine="plain"))
    assert status == 0
    assert "empty.npy is empty: nobody can be found in it" in error


def test_the_version_is_told(run) -> None:
    status, out, _ = run("--version")
    assert (status, out) == (0, f"lineup {version('blind-lineup')}\n")


def test_one_photo_is_one_photo_and_names_of_holders_may_be_small() -> None:
    assert [photo_count(count) for count in (0, 1, 2)] == ["0 photos", "1 photo", "2 photos"]
    assert names_of("es, DE") == ("ES", "DE")
    assert split_names("officer, reviewer") == ("officer", "reviewer")  # roles and fields stay as they are


def test_match_releases_the_rows_that_hit_in_order_of_score(run, files: Path) -> None:
    status, out, _ = run(*arguments(files))
    assert status == 0
    assert "released" in out
    report = result(files)
    (probe,) = report["probes"]
    assert probe["status"] == "released"
    assert [entry["row"] for entry in probe["released"]] == [17, 4999, 40]
    assert probe["threshold_used"] == 0.55
    for entry in probe["released"]:
        assert entry["score"] == entry["score_int"] / report["params"]["scale"] ** 2
    assert report["params"] == {
        "preset": "n4096_q60_t20",
        "n": 4096,
        "log2_q": 60,
        "t": 1048573,
        "scale": 248,
        "dim": 128,
        "key_source": "native",
        "verified": False,
    }
    assert report["rows"] == 5000
    assert set(report["timing_s"]) == PHASES
    assert all(seconds > 0 for seconds in report["timing_s"].values())
    sent = report["bytes"]
    links = {key: size for key, size in sent.items() if "_to_" in key}
    assert len(links) == 6
    assert sum(links.values()) == sent["total"] == sent["offline_total"] + sent["online_total"]
    assert report["gallery_bytes"] == 5000 * DIM
    assert report["peak_rss_bytes"] > 10**7


@pytest.mark.parametrize(
    ("changes", "statuses"),
    [
        ({}, ["released", "no_hit"]),
        ({"max_candidates": 1}, ["released", "no_hit"]),
        ({"threshold": "0.01", "max_candidates": 1}, ["too_many_candidates"] * 2),
        ({"threshold": "0.95"}, ["no_hit", "no_hit"]),
        ({"preset": "n8192_q60_t20"}, ["released", "no_hit"]),
    ],
)
def test_encrypted_and_plain_agree_in_everything_but_cost(run, files: Path, changes: dict, statuses: list[str]) -> None:
    reports = []
    for engine in ("encrypted", "plain"):
        status, _, _ = run(*arguments(files, probe=files / "probes.npy", engine=engine, **changes))
        assert status == 0
        reports.append(result(files))
    assert reports[0]["probes"] == reports[1]["probes"]
    assert [probe["status"] for probe in reports[0]["probes"]] == statuses
    plain = reports[1]
    assert plain["params"]["n"] is None
    assert plain["params"]["key_source"] is None
    assert plain["bytes"]["total"] is None
    assert plain["timing_s"]["offline"] is None


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"threshold": "1"}, "strictly between 0 and 1, got 1"),
        ({"threshold": "0"}, "got 0"),
        ({"threshold": "nan"}, "nan"),
        ({"threshold": "much"}, "much"),
        ({"max_candidates": "100"}, "99"),
        ({"max_candidates": "0"}, "99"),
        ({"ladder": "-0.1"}, "-0.1"),
        ({"threads": "0"}, "256"),
        ({"preset": "n1024"}, "n1024"),
        ({"engine": "quantum"}, "quantum"),
        ({"json": "/no/such/folder/x.json"}, "/no/such/folder"),
    ],
)
def test_bad_arguments_end_with_status_2_and_name_the_value(run, files: Path, changes: dict, word: str) -> None:
    (files / "result.json").unlink(missing_ok=True)
    status, out, err = run(*arguments(files, **changes))
    assert status == 2
    assert word in err
    assert "Traceback" not in err
    assert not out
    assert not (files / "result.json").exists()


def write_bad(files: Path, name: str) -> None:
    good = synthetic_templates(3, DIM, 1)
    if name == "nan":
        good[1, 5] = np.nan
    elif name == "zero":
        good[2] = 0
    elif name == "scaled":
        good[1] *= 2
    elif name == "odd":
        good = good[:, :127]
    elif name == "cube":
        good = good[None]
    elif name == "ints":
        good = np.ones((3, DIM), np.int32)
    elif name == "empty":
        good = good[:0]
    elif name == "other":
        good = synthetic_templates(3, 64, 1)
    if name == "pickle":
        np.save(files / "bad.npy", np.array([{}, []], object), allow_pickle=True)
    elif name == "text":
        (files / "bad.npy").write_text("not numpy")
    elif name == "missing":
        (files / "bad.npy").unlink(missing_ok=True)
    else:
        np.save(files / "bad.npy", good)


@pytest.mark.parametrize("name", ["nan", "zero", "scaled", "odd", "cube", "ints", "pickle", "text", "missing", "other"])
@pytest.mark.parametrize("which", ["gallery", "probe"])
def test_refused_data_ends_with_status_1_one_line_and_no_json(run, files: Path, name: str, which: str) -> None:
    write_bad(files, name)
    (files / "result.json").write_text("{}")
    status, out, err = run(*arguments(files, **{which: files / "bad.npy"}))
    assert status == 1
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert not out
    assert not (files / "result.json").exists()


def test_an_empty_gallery_has_no_hit_and_an_empty_probe_is_refused(run, files: Path) -> None:
    write_bad(files, "empty")
    status, _, _ = run(*arguments(files, gallery=files / "bad.npy"))
    assert status == 0
    assert [probe["status"] for probe in result(files)["probes"]] == ["no_hit"]
    status, _, err = run(*arguments(files, probe=files / "bad.npy"))
    assert status == 1
    assert "no templates" in err


def test_templates_of_two_models_are_refused(run, files: Path) -> None:
    templates = synthetic_templates(3, DIM, 1)
    for name, letter in (("one.npy", "a"), ("two.npy", "b")):
        spec = ModelSpec("0" * 64, letter * 64, "similarity-5-landmarks-112-v1", DIM, 248)
        save_templates(files / name, templates, spec, ["x", "y", "z"])
    status, _, err = run(*arguments(files, gallery=files / "one.npy", probe=files / "two.npy"))
    assert status == 1
    assert "two models" in err


@pytest.mark.slow
def test_demo_finds_the_real_face_in_its_country_and_nobody_else(run, monkeypatch: pytest.MonkeyPatch) -> None:
    """Spain's node is a process that loads everything itself; the other three, and who asks, are forks."""
    lineup, own = demo.lineup, []

    def fork_of(*words: object) -> list[str]:
        command = lineup(*words)
        if words[:2] == ("node", "serve") and Path(str(words[-1])).name == "ES":
            own.append(command)
            return command
        return [str(preloaded().program), *map(str, words)]

    monkeypatch.setattr(demo, "lineup", fork_of)
    status, out, _ = run("demo")
    assert len(own) == 1
    assert status == 0
    hits = [line for line in out.splitlines() if line.startswith("HIT")]
    assert len(hits) == 1
    assert "obama.jpg" in hits[0]
    assert "Spain" in hits[0]
    assert any(line.startswith("NO HIT") for line in out.splitlines())
    assert "could not see" in out
    assert re.search(r"All that could be checked holds: \d+ checks passed, 0 failed, 0 could not be made", out)
    assert "lineup case approve" in out
