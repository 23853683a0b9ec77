"""`lineup calibrate` against plain numpy, and on samples that are too small or wrongly labelled."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nodes.calibrate import encrypted, identification, page
from nodes.calibrate.costs import costs
from nodes.calibrate.sample import Sample, arrange
from nodes.calibrate.scores import all_scores
from nodes.calibrate.tail import fit
from nodes.operator.pages import plots_available
from pets.synthetic import synthetic_templates
from tests.kit.commands import run  # noqa: F401  the fixture

DIM = 64


def people(count: int, photos: int, seed: int = 3) -> tuple[np.ndarray, np.ndarray]:
    """Templates of people whose photos have cosines of about 0.65, and their numbers."""
    rng = np.random.default_rng(seed)
    centres = synthetic_templates(count, DIM, seed)
    labels = np.repeat(np.arange(count), photos)
    noise = rng.normal(size=(len(labels), DIM)) / np.sqrt(DIM)
    rows = 0.8 * centres[labels] + 0.6 * noise
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32), labels


def files(folder: Path, templates: np.ndarray, labels: np.ndarray) -> list[object]:
    order = np.random.default_rng(1).permutation(len(labels))
    np.save(folder / "e.npy", templates[order])
    (folder / "l.txt").write_text("".join(f"person {label}\n" for label in labels[order]))
    return ["--embeddings", folder / "e.npy", "--labels", folder / "l.txt"]


@pytest.fixture(scope="module")
def sample() -> Sample:
    templates, labels = people(150, 3)
    return arrange(templates.astype(np.float64), [f"{label:03}" for label in labels], None, 1)


def calibrated(run: Any, folder: Path, *args: object) -> dict[str, Any]:  # noqa: F811
    status, out, err = run("calibrate", *args, "--json", folder / "c.json", "--resamples", "20")
    assert status == 0, (out, err)
    return json.loads((folder / "c.json").read_text()) | {"printed": out}


def test_rates_are_those_of_plain_numpy_and_encrypted_agrees_exactly(run: Any, tmp_path: Path):  # noqa: F811
    templates, labels = people(27, 3)
    args = (*files(tmp_path, templates, labels), "--rows", "20,26,1000000", "--encrypted-probes", 30)
    report = calibrated(run, tmp_path, *args)
    exact = templates.astype(np.float64)
    scores = exact @ exact.T
    later = np.triu(np.ones_like(scores, bool), 1)
    same = labels[:, None] == labels[None, :]
    genuine, impostor = scores[later & same], scores[later & ~same]
    ten = np.isin(labels, sorted(range(27), key=str)[:10])  # whose photos are searched, encrypted
    searched = scores[later & same & ten & ten[:, None]]
    for wanted, rate in zip((1e-2, 1e-3), report["fmr"], strict=False):
        assert rate["fmr"] == wanted
        threshold = rate["threshold"]
        assert (impostor >= threshold).mean() <= wanted < (impostor >= threshold - 2e-4).mean() + 1 / len(impostor)
        assert rate["fmr_measured"] == pytest.approx((impostor >= threshold).mean())
        assert rate["tmr"] == pytest.approx((genuine >= threshold).mean())
        assert rate["tmr_low"] <= rate["tmr"] <= rate["tmr_high"]
        assert rate["tmr_encrypted"] == rate["tmr_quantised"]
        assert abs(rate["tmr_quantised"] - (searched >= threshold).mean()) <= 0.034  # 30 pairs: one of them
        assert rate["encrypted"]["probes"] == 30
        assert rate["encrypted"]["disagreements"] == 0
        assert rate["encrypted"]["decisions"] == 30 * 30
    assert [row["measurable"] for row in report["fmr"]] == [True, True, False, False, False]
    assert "3159 impostor pairs" in report["fmr"][2]["reason"]
    assert "not measurable" in report["printed"]
    assert "minimum_threshold" not in report["printed"]  # nothing to paste: a million rows need 10,000 pairs
    assert set(report["seconds"]) == {"embedding", "comparing", "rates", "searches", "encrypted searches"}
    assert all(seconds > 0 for seconds in report["seconds"].values())
    sizes = {(row["rows"], row["extrapolated"]) for row in report["identification"]}
    assert sizes == {(20, False), (26, False), (1_000_000, True)}
    for row in report["identification"]:
        if row["measurable"]:
            assert row["low"] <= row["fnir"] <= row["high"]
        else:
            assert row["fnir"] is None
            assert "not measurable" in row["reason"]


def test_a_lost_hit_is_a_disagreement_and_ends_with_status_1(run: Any, tmp_path: Path, monkeypatch: Any):  # noqa: F811
    honest = encrypted.EncryptedEngine.search

    def losing(self: Any, *args: Any) -> Any:
        first, *others = honest(self, *args)
        return [replace(first, hits=first.hits[:-1]), *others]

    args = (*files(tmp_path, *people(13, 2)), "--resamples", "20", "--encrypted-probes", "6")
    assert run("calibrate", *args)[0] == 0
    monkeypatch.setattr(encrypted.EncryptedEngine, "search", losing)
    status, _, err = run("calibrate", *args)
    assert status == 1
    assert "differ in" in err


def test_false_positives_are_those_of_galleries_drawn_at_random(sample: Sample):
    done = identification.searches(sample)
    galleries = identification.Galleries(done, 40)
    everybody = np.ones(150, np.int64)
    threshold = float(galleries.threshold(0.1, everybody) or 0)
    exact = galleries.fpir(threshold, everybody)
    assert 0.08 < exact <= 0.1
    rng = np.random.default_rng(9)
    drawn = []
    for row, person in zip(done.scores, done.people, strict=True):
        others = np.delete(row, person)
        drawn += [rng.choice(others, 40, replace=False).max() >= threshold for _ in range(20)]
    assert exact == pytest.approx(np.mean(drawn), abs=0.015)


def test_the_tail_of_few_people_foretells_the_threshold_of_many():
    templates, labels = people(1200, 2, seed=8)
    many = arrange(templates.astype(np.float64), [str(label) for label in labels], None, 1)
    everybody = np.ones(1200, np.int64)
    whole = fit(all_scores(many).tail, everybody, many.photos_each)
    few = arrange(templates[:240].astype(np.float64), [str(label) for label in labels[:240]], None, 1)
    part = fit(all_scores(few).tail, everybody[:120], few.photos_each)
    assert whole is not None
    assert part is not None
    rate = whole.measured
    assert part.decades(rate) == pytest.approx(2, abs=0.1)
    assert part.threshold(rate) == pytest.approx(whole.threshold(rate), abs=0.04)
    assert part.threshold(1e-9) > part.threshold(1e-8) > part.threshold(1e-4)


def test_a_larger_gallery_asks_for_a_higher_threshold_and_misses_more(sample: Sample):
    found = identification.identification(sample, all_scores(sample), (100, 10_000, 10**7), (1, 5), 20, 1)
    for fpir in (0.3, 0.1, 0.03):
        rows = [row for row in found if row.fpir == fpir]
        assert [row.extrapolated for row in rows] == [False, True, True, True, True, True]
        thresholds = [row.threshold for row in rows]
        assert thresholds == sorted(thresholds)
        assert [row.fnir for row in rows] == sorted(row.fnir for row in rows)


def test_a_rate_below_three_in_n_is_not_measurable(sample: Sample):
    (row,) = (
        row
        for row in identification.identification(sample, all_scores(sample), (100,), (1,), 20, 1)
        if row.fpir == 0.003
    )
    assert row.fnir is None
    assert row.reason == "not measurable: 300 searches, rates below 0.01"


def test_error_by_group(run: Any, tmp_path: Path):  # noqa: F811
    templates, labels = people(40, 3)
    rng = np.random.default_rng(5)
    worse = labels >= 20  # photos of these people are noisier
    templates[worse] += 0.12 * rng.normal(size=(worse.sum(), DIM)).astype(np.float32)
    templates /= np.linalg.norm(templates, axis=1, keepdims=True)
    np.save(tmp_path / "e.npy", templates)
    (tmp_path / "l").write_text("".join(f"{label}\n" for label in labels))
    (tmp_path / "g").write_text("".join("worse\n" if flag else "better\n" for flag in worse))
    args = ("--embeddings", tmp_path / "e.npy", "--labels", tmp_path / "l", "--groups", tmp_path / "g")
    better, noisy = calibrated(run, tmp_path, *args, "--encrypted-probes", "0")["groups"]
    assert (better["group"], better["people"], better["genuine"]) == ("better", 20, 60)
    assert noisy["fnmr"] > better["fnmr"]
    assert noisy["fnmr_low"] <= noisy["fnmr"] <= noisy["fnmr_high"]


def test_the_page_stands_alone_and_says_what_it_lacks(run: Any, tmp_path: Path, monkeypatch: Any):  # noqa: F811
    monkeypatch.setattr(page, "plots_available", lambda: False)
    args = files(tmp_path, *people(40, 3))
    calibrated(run, tmp_path, *args, "--encrypted-probes", "0", "--report", tmp_path / "r.html")
    text = (tmp_path / "r.html").read_text()
    assert "matplotlib is not installed" in text
    assert "<script" not in text
    assert "ISO/IEC 19795-1" in text


@pytest.mark.skipif(not plots_available(), reason="matplotlib is not installed")
def test_the_page_shows_plots(run: Any, tmp_path: Path):  # noqa: F811
    args = files(tmp_path, *people(160, 2))
    calibrated(run, tmp_path, *args, "--encrypted-probes", "0", "--report", tmp_path / "r.html")
    assert (tmp_path / "r.html").read_text().count("<svg") == 3


def test_more_photos_of_one_person_than_a_gallery_holds(tmp_path: Path):
    templates, labels = people(3, 120)
    crowd = arrange(templates.astype(np.float64), [str(label) for label in labels], None, 1)
    blocks = list(encrypted.blocks_of_people(crowd, 10**6))
    pairs = sum(int((crowd.people[probes][:, None] == crowd.people[rows]).sum()) for rows, probes in blocks)
    assert pairs == 3 * 120 * 120
    assert max(len(rows) for rows, _ in blocks) <= 99


@pytest.mark.parametrize(
    ("change", "args", "words"),
    [
        ({"l": "a\nb\n"}, (), "has 2 lines, one label a row is needed: 6"),
        ({"l": "a\na\n\nb\nb\nb\n"}, (), "line 3 of"),
        ({"l": "a\nb\nc\nd\ne\nf\n"}, (), "2 photos of one of them, got 6 photos of 6 people"),
        ({"l": "a\n" * 6}, (), "at least 2 people"),
        ({"g": "x\ny\nx\nx\nx\nx\n"}, ("--groups", "g"), "'a' is in two groups, 'x' and 'y'"),
        ({}, ("--fpir", "0.2"), "--fpir must be one of 0.3, 0.1, 0.03, 0.01, 0.003, got 0.2"),
        ({}, ("--rows", "1e6"), "--rows takes whole numbers such as 1000,1000000, got '1e6'"),
        ({}, ("--rows", "0"), "--rows must be 1 to 10000000000, got 0"),
        ({}, ("--photos", "."), "give either --photos, or --embeddings with --labels"),
        ({}, ("--json", "nowhere/c.json"), "the folder of nowhere/c.json does not exist"),
    ],
)
def test_mistakes_are_named(
    run: Any,  # noqa: F811
    tmp_path: Path,
    monkeypatch: Any,
    change: dict[str, str],
    args: tuple[str, ...],
    words: str,
):
    monkeypatch.chdir(tmp_path)
    np.save("e.npy", people(3, 2)[0])
    for name, text in ({"l": "a\na\nb\nb\nc\nc\n"} | change).items():
        Path(name).write_text(text)
    status, _, err = run("calibrate", "--embeddings", "e.npy", "--labels", "l", *args)
    assert status in (1, 2)
    assert words in err.replace("\n", " ")


def test_usual_thresholds_cost_what_numpy_counts(sample: Sample):
    scores = all_scores(sample)
    exact = sample.templates @ sample.templates.T
    later = np.triu(np.ones_like(exact, bool), 1)
    same = sample.people[:, None] == sample.people[None, :]
    found = costs(sample, scores, (100, 10**6), 20, 1)
    assert len(found) >= 4
    for cost in found:
        reached = exact >= cost.threshold
        assert cost.matches == (later & ~same & reached).sum()
        assert cost.fnmr == pytest.approx(1 - (later & same & reached).sum() / (later & same).sum())
        assert cost.fmr is not None
        if cost.extrapolated:
            assert cost.fmr < 2 * 10 / scores.impostors
        else:
            assert cost.fmr == pytest.approx(cost.matches / scores.impostors)
        assert cost.fpirs[100] <= cost.fpirs[10**6] <= 1
        assert cost.fpirs[100] == pytest.approx(1 - (1 - cost.fmr) ** 100, rel=1e-6)


def test_a_centre_is_written_and_few_people_have_none(run: Any, tmp_path: Path):  # noqa: F811
    templates, labels = people(60, 2)
    args = files(tmp_path, templates, labels)
    written = tmp_path / "centre.npy"
    assert run("calibrate", *args, "--encrypted-probes", "0", "--resamples", "20", "--centre", written)[0] == 0
    assert np.load(written) == pytest.approx(templates.mean(axis=0), abs=1e-6)
    written.unlink()
    few = files(tmp_path, templates[:20], labels[:20])
    status, _, err = run("calibrate", *few, "--centre", written)
    assert status == 1
    assert "--centre needs photos of at least 50 people, got 10" in err
    assert not written.exists()
    assert "must name a .npy file" in run("calibrate", *args, "--centre", tmp_path / "centre.txt")[2]
