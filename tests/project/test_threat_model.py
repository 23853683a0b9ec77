"""The threat model points at code and tests that exist, says what is missing, and its figures come out."""

from __future__ import annotations

import ast
import json
import math
import re
from decimal import Decimal
from functools import lru_cache
from pathlib import Path

import numpy as np
import pytest

from nodes.config.schema import PolicyConfig
from nodes.verify.verdict import RULES
from pets.params import N4096, norm_bound, theta
from protocol.form import AMPLIFIED

ROOT = Path(__file__).parents[2]
PAGES = ROOT / "threat_model"
FLOOR = Decimal("0.30")

# `path/file.py`, `path/file.py:function`, `path/file.py:Class.method`, `tests/folder/test_x.py::test`, `path/file.md`
REFERENCE = re.compile(r"`((?:\.ci|[a-z_]+)/[\w./-]*\w)(?:(::?)([A-Za-z_][\w.]*))?`")
LINK = re.compile(r"\]\(([^)#:]+)\)")
CLAIM = re.compile(r"(?m)^### (.+)$")
ITEM = re.compile(r"(?m)^- (Code|Test|Control|Model|Limit|Not yet): (.+)$")


@lru_cache(maxsize=256)
def names_in(path: Path) -> frozenset[str]:
    """What a module defines: functions, classes, constants; of classes also `Class.member`."""

    def walk(body: list[ast.stmt], prefix: str) -> set[str]:
        found: set[str] = set()
        for node in body:
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
                found.add(prefix + node.name)
                if isinstance(node, ast.ClassDef):
                    found |= walk(node.body, f"{prefix}{node.name}.")
            elif isinstance(node, (ast.Assign, ast.AnnAssign)):
                targets = node.targets if isinstance(node, ast.Assign) else [node.target]
                found |= {prefix + target.id for target in targets if isinstance(target, ast.Name)}
        return found

    return frozenset(walk(ast.parse(path.read_text("utf-8")).body, ""))


def broken_references(text: str) -> list[str]:
    """References in backquotes that point at nothing."""
    broken = []
    for whole, name, colons, symbol in ((m[0], m[1], m[2], m[3]) for m in REFERENCE.finditer(text)):
        path = ROOT / name
        if (
            not path.exists()
            or (symbol and symbol not in names_in(path))
            or (colons == "::" and not (re.match(r"tests/\w+/test_", name) and symbol.startswith("test_")))
            or (colons == ":" and name.startswith("tests/"))
        ):
            broken.append(whole)
    return broken


def references(text: str, colons: str) -> list[str]:
    """Names after `colons`: "::" for tests, ":" for code."""
    return [m[3] for m in REFERENCE.finditer(text) if m[2] == colons]


def pages() -> list[Path]:
    return sorted([*PAGES.glob("*.md"), *PAGES.glob("decisions/*.md")])


def claims() -> dict[str, dict[str, str]]:
    """Title -> what stands behind Code, Test, Control, Model, Limit, Not yet."""
    _, *parts = CLAIM.split((PAGES / "claims.md").read_text("utf-8"))
    titles, bodies = parts[::2], parts[1::2]
    assert len(set(titles)) == len(titles)
    return {title: dict(ITEM.findall(body)) for title, body in zip(titles, bodies, strict=True)}


def rows() -> dict[int, list[str]]:
    """Number -> cells of the requirements table."""
    lines = (PAGES / "requirements.md").read_text("utf-8").splitlines()
    table = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if re.match(r"\| \d+ \|", line)]
    assert len({row[0] for row in table}) == len(table)
    return {int(row[0]): row for row in table}


def is_done(cells: list[str]) -> bool:
    return cells[5].startswith("done")


# --- names ---


@pytest.mark.parametrize("page", pages(), ids=lambda page: page.stem)
def test_everything_named_exists(page: Path) -> None:
    text = page.read_text("utf-8")
    assert broken_references(text) == []
    assert [link for link in LINK.findall(text) if not (page.parent / link).exists()] == []


@pytest.mark.parametrize(
    "wrong",
    [
        "`protocol/nothing.py`",
        "`protocol/verdict.py:nothing`",
        "`protocol/machine.py:Machine.nothing`",
        "`tests/attacks/test_opening.py::test_nothing`",
        "`tests/attacks/test_opening.py::planted`",
        "`tests/attacks/test_opening.py:planted`",
        "`protocol/verdict.py::verdict_on`",
        "`threat_model/nothing.md`",
    ],
)
def test_control_a_name_that_points_at_nothing_is_noticed(wrong: str) -> None:
    right = "`protocol/verdict.py:verdict_on` `protocol/machine.py:Machine.handle` `pets/params.py:SECURITY_TABLE`"
    assert broken_references(right) == []
    assert broken_references(f"{right} {wrong}") == [wrong]


def test_every_claim_names_code_and_a_test_or_says_what_is_missing() -> None:
    for title, items in claims().items():
        assert references(items.get("Code", ""), ":"), title
        assert references(items.get("Test", ""), "::") or "Not yet" in items, title


def test_every_part_of_section_2_has_a_claim() -> None:
    design = (ROOT / "protocol" / "DESIGN.md").read_text("utf-8")
    section = design.split("## 2. ")[1].split("\n## 3. ")[0]
    numbers = re.findall(r"(?m)^(\d)\. \*\*", section)
    assert numbers == [str(k) for k in range(1, 10)]
    for number in numbers:
        assert any(title.startswith(f"2.{number}") for title in claims()), number


def test_every_check_of_the_verifier_and_the_audit_names_sections_that_the_design_has() -> None:
    design = (ROOT / "protocol" / "DESIGN.md").read_text("utf-8")
    sections = set(re.findall(r"(?m)^## (\d+a?)\.", design))
    sections |= {f"2.{number}" for number in re.findall(r"(?m)^(\d)\. \*\*", design)}
    audit = ast.parse((ROOT / "nodes" / "audit" / "audit.py").read_text("utf-8"))
    texts = {node.value for node in ast.walk(audit) if isinstance(node, ast.Constant) and isinstance(node.value, str)}
    named = [rule.source for rule in RULES] + sorted(text for text in texts if text.startswith("design "))
    cited = [(text, number) for text in named for part in text.split("; ") if part.startswith("design ")
             for number in part.removeprefix("design ").split(", ")]  # fmt: skip
    assert len(cited) > 40
    assert [(text, number) for text, number in cited if number not in sections] == []


def test_models_variants_exist() -> None:
    tree = ast.parse((PAGES / "model" / "check.py").read_text("utf-8"))
    calls = [n for n in ast.walk(tree) if isinstance(n, ast.Call) and getattr(n.func, "id", "") == "Variant"]
    variants = {call.args[0].value for call in calls if isinstance(call.args[0], ast.Constant)}
    for title, items in claims().items():
        for name in filter(None, items.get("Model", "").split(", ")):
            assert name in variants, (title, name)
    for page in pages():
        for name in re.findall(r"variant `([\w-]+)`", page.read_text("utf-8")):
            assert name in variants, (page, name)


def test_every_known_limit_that_a_test_shows_is_in_the_readme() -> None:
    readme = (PAGES / "README.md").read_text("utf-8")
    for path in sorted((ROOT / "tests").glob("*/test_*.py")):
        for name in names_in(path):
            if name.startswith("test_known_limit_"):
                assert name in readme, f"{path.name}::{name}"


# --- requirements ---


def test_rows_1_to_34_are_there_and_only_what_has_code_and_a_test_is_called_done() -> None:
    table = rows()
    assert sorted(table) == list(range(1, 35))
    for number, cells in table.items():
        assert len(cells) == 6, number
        assert re.match(r"done|partly: .{10}|not yet: .{10}", cells[5]), number
        if is_done(cells):
            assert references(cells[3], ":"), number
            assert references(cells[4], "::"), number
        if cells[5].startswith("partly"):
            assert references(cells[3], ":"), number


# --- decisions ---


def test_decisions_are_numbered_and_short() -> None:
    records = sorted((PAGES / "decisions").glob("[0-9]*.md"))
    assert [path.name[:4] for path in records] == [f"{k:04}" for k in range(1, len(records) + 1)]
    for number, path in enumerate(records, start=1):
        text = path.read_text("utf-8")
        assert text.startswith(f"# {number}. "), path
        assert len(text.splitlines()) <= 25, path
        assert [text.count(f"**{part}.**") for part in ("Context", "Decision", "Consequences")] == [1, 1, 1], path


# --- figures ---


def test_hits_imply_the_probe_as_the_table_says() -> None:
    """k rows at cosine c to the probe, otherwise random: the cosine of their mean with it."""
    readme = (PAGES / "README.md").read_text("utf-8")
    cosines = [float(value) for value in re.findall(r"c = (0\.\d+) \|", readme)]
    assert cosines == [0.37, 0.55, 0.70]
    rng = np.random.default_rng(0)
    for k in (1, 10, 99):
        (line,) = re.findall(rf"(?m)^\| {k} \| (\d\.\d\d) \| (\d\.\d\d) \| (\d\.\d\d) \|$", readme)
        for c, stated in zip(cosines, line, strict=True):
            assert f"{c / math.sqrt(c * c + (1 - c * c) / k):.2f}" == stated
            drawn = []
            for _ in range(20):
                rows = rng.normal(size=(k, 512))
                rows[:, 0] = 0  # the probe is the first axis
                rows *= math.sqrt(1 - c * c) / np.linalg.norm(rows, axis=1, keepdims=True)
                rows[:, 0] = c
                mean = rows.mean(axis=0)
                drawn.append(mean[0] / np.linalg.norm(mean))
            assert np.mean(drawn) == pytest.approx(float(stated), abs=0.015)


def test_slots_that_hold_as_many_bits_as_the_key() -> None:
    """s2 has coefficients -1, 0 and 1, equally often; a slot answers six numbers of 24 bits."""
    bits = math.log2(3)
    assert bits == pytest.approx(1.58, abs=0.006)
    assert bits * N4096.n == pytest.approx(6492, abs=1)
    assert math.ceil(bits * N4096.n / (6 * 24)) == 46


def test_a_coordinate_probe_can_hit_where_the_readme_says() -> None:
    dims = range(8, 1025, 8)
    admitted = [d for d in dims if norm_bound(d) >= 127**2]
    assert [d for d in admitted if theta(FLOOR, d, N4096) <= 127**2] == list(range(40, 105, 8))


def test_noise_that_admission_lets_pass_moves_scores_by_less_than_stated() -> None:
    # A lane of zeros passes up to 3 units of a share, 4 with what two roundings may hide; 16 make one of score.
    passes, row = 4 / 16, math.sqrt(norm_bound(1024))
    coordinates = passes / N4096.t * math.sqrt(1024) * row
    assert coordinates < 0.005
    # Noise of norm r at one power of X has random sums of deviation r/2; all 40 within r/2 of zero are this unlikely:
    assert math.erf(math.sqrt(0.5)) ** 40 < 2**-20
    one_power = 2 * passes / AMPLIFIED * row
    assert one_power < 0.04
    # 8 units between theta and theta - 1/2; rounding shares and D·u takes 1.5 of them, the threshold half a unit.
    assert coordinates + one_power < (8 - 1.5 - 0.5) / 16


def test_the_table_of_reconstructions_is_what_the_benchmark_gave() -> None:
    report = json.loads((ROOT / "benchmarks" / "results" / "inversion.json").read_text("utf-8"))
    populations = dict(
        zip(
            ("d = 128, as SFace", "d = 512, as EdgeFace-XS", "LFW photos, SFace"),
            report["populations"],
            strict=True,
        )
    )
    scenarios = {
        "scores, from another photo": "scores, another photo",
        "hits at 0.55, from another photo": "hit or no hit at 0.55, another photo",
        "hits at 0.30, without a photo": "hit or no hit at 0.30, no photo",
    }
    readme = (PAGES / "README.md").read_text("utf-8")
    found = re.findall(r"(?m)^\| ((?:scores|hits)[^|]*) \| ([^|]+) \| ([\d. |]+) \|$", readme)
    assert len(found) == 6
    for answers, templates, cells in found:
        run = populations[templates]["scenarios"][scenarios[answers]]
        for asked, cell in zip(("0", "10", "100", "300", "1000"), cells.split(" | "), strict=True):
            assert float(cell) == pytest.approx(run[asked]["median"], abs=0.0051), (answers, templates, asked)


def test_the_table_of_limited_reconstructions_is_what_the_benchmark_gave() -> None:
    report = json.loads((ROOT / "benchmarks" / "results" / "inversion.json").read_text("utf-8"))
    names = ("d = 128, as SFace", "d = 512, as EdgeFace-XS", "LFW photos, SFace")
    populations = dict(zip(names, report["populations"], strict=True))
    scenarios = {
        "any number | even": "hit or no hit at 0.55, another photo",
        "10 | even": "the same, 10 releases",
        "10 | 1 in 20": "the same, 10 releases, odds of 1 in 20",
        "10 | 1 in 100": "the same, 10 releases, odds of 1 in 100",
    }
    readme = (PAGES / "README.md").read_text("utf-8")
    found = re.findall(r"(?m)^\| ((?:any number|10) \| (?:even|1 in \d+)) \| ([^|]+) \| ([\d. |]+) \|$", readme)
    assert len(found) == 6
    for answers, templates, cells in found:
        run = populations[templates]["scenarios"][scenarios[answers]]
        for asked, cell in zip(("0", "50", "300", "4500"), cells.split(" | "), strict=True):
            measured = run.get(asked) or run["1000"]
            assert float(cell) == pytest.approx(measured["median"], abs=0.0051), (answers, templates, asked)
    # the benchmark's figures are the defaults
    policy = PolicyConfig()
    daily = policy.quota_identified_per_day + policy.quota_unidentified_per_day
    assert (daily, policy.releases_per_reference, policy.release_window_days) == (50, 10, 90)
    assert daily * policy.release_window_days == 4500
    bits = math.log2(sum(math.comb(4500, hits) for hits in range(policy.releases_per_reference + 2)))
    assert f"about {bits:.0f} for 4500 and 11" in readme


def test_the_million_of_fuzzed_cases_was_run_and_nothing_escaped() -> None:
    report = json.loads((ROOT / "benchmarks" / "results" / "fuzz.json").read_text("utf-8"))
    readme = (PAGES / "README.md").read_text("utf-8")
    assert report["cases"] >= 10**6
    assert report["escaped"] == 0
    assert report["slowest_s"] < 1
    assert f"over {report['decoders']} decoders" in " ".join(readme.split())


def test_the_index_of_decisions_names_each_with_its_title_a_date_and_a_state() -> None:
    folder = PAGES / "decisions"
    listed = re.findall(
        r"(?m)^\| (\d+) \| \[(.+)\]\((\d{4}-[\w-]+\.md)\) \| \d{4}-\d\d-\d\d \| \S.* \|$",
        (folder / "README.md").read_text("utf-8"),
    )
    assert [name for _, _, name in listed] == sorted(path.name for path in folder.glob("[0-9]*.md"))
    for number, title, name in listed:
        assert (folder / name).read_text("utf-8").startswith(f"# {number}. {title}\n"), name
