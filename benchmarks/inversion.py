"""How much of a gallery template answers give away: hit or no hit against scores.

python -m benchmarks.inversion                     synthetic templates; JSON and chart into benchmarks/results
python -m benchmarks.inversion --photos FOLDER     also real ones: FOLDER/PERSON/*.jpg
python -m benchmarks.inversion --smoke             few people, few queries; nothing is written

The attacker is the requester. It knows the population (mean and covariance of other people's templates), may ask
with any probe that admission lets through, adapts each probe to all answers so far, and knows under which reference
number the target's row is released. It keeps a Gaussian posterior of the row x:

    hit or no hit   one bit, <p, x> >= threshold: moments of the truncated Gaussian (assumed density filtering);
                    the next probe has even odds and points where the posterior is widest
    score           <p, x> exactly, as schemes that decrypt scores to the asker answer: least squares with that prior

Answers are the plaintext twin's, which the encrypted search equals bit for bit. Nothing here is secret.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import NormalDist
from typing import Any

import numpy as np
import numpy.typing as npt

from benchmarks.machine import describe
from pets.params import scale
from pets.synthetic import IMPOSTOR_MEAN, IMPOSTOR_SD, synthetic_templates

RESULTS = Path(__file__).parent / "results"
CHECKPOINTS = (0, 10, 30, 50, 100, 300, 1000, 4500)
PUBLIC = 4000  # other people's templates that the attacker has
FLOOR, USUAL, EVEN = 0.30, 0.55, 0.5

Vectors = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Population:
    """`rows`: templates in galleries, (people, d). `photos`: another photo's template of each. `public`: others'."""

    name: str
    rows: Vectors
    photos: Vectors
    public: Vectors


@dataclass
class Posterior:
    """What the attacker believes of a row: a Gaussian."""

    mean: Vectors
    covariance: Vectors

    def condition(self, probe: Vectors, gain: float, shrink: float) -> None:
        """A rank-one update along `probe`."""
        moved = self.covariance @ probe
        self.mean = self.mean + gain * moved
        self.covariance -= shrink * np.outer(moved, moved)

    def spread(self, probe: Vectors) -> float:
        """Variance of <probe, x>, and of the rounding of templates."""
        return float(probe @ self.covariance @ probe) + 1.0 / 12 / scale(len(probe)) ** 2

    def learn_score(self, probe: Vectors, score: float) -> None:
        variance = self.spread(probe)
        self.condition(probe, (score - float(probe @ self.mean)) / variance, 1 / variance)

    def learn_bit(self, probe: Vectors, threshold: float, hit: bool) -> None:
        variance = self.spread(probe)
        deviation, sign = math.sqrt(variance), 1 if hit else -1
        z = sign * (float(probe @ self.mean) - threshold) / deviation
        tail = max(0.5 * math.erfc(-z / math.sqrt(2)), 1e-12)
        ratio = math.exp(-z * z / 2) / math.sqrt(2 * math.pi) / tail
        self.condition(probe, sign * ratio / deviation, ratio * (ratio + z) / variance)

    def widest(self, rng: np.random.Generator) -> Vectors:
        """About the direction in which least is known, orthogonal to the mean."""
        direction = rng.normal(size=len(self.mean))
        for _ in range(3):
            direction = self.covariance @ direction
            direction /= np.linalg.norm(direction)
        ahead = self.mean / np.linalg.norm(self.mean)
        direction -= (direction @ ahead) * ahead
        return unit(direction)

    def probe(self, threshold: float, odds: float, rng: np.random.Generator) -> Vectors:
        """A unit probe that is a hit with about these odds."""
        length, direction = float(np.linalg.norm(self.mean)), self.widest(rng)
        share = min(threshold / length, 0.999)
        for _ in range(3 if odds != EVEN else 0):  # the spread depends on the probe, a little
            ahead = share * self.mean / length + math.sqrt(1 - share**2) * direction
            behind = NormalDist().inv_cdf(odds) * math.sqrt(self.spread(ahead))
            share = min((threshold + behind) / length, 0.999)
        probe: Vectors = share * self.mean / length + math.sqrt(1 - share**2) * direction
        return probe


def unit(vectors: Vectors) -> Vectors:
    """Normalised."""
    normalised: Vectors = vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)
    return normalised


def quantised(vector: Vectors) -> Vectors:
    """round(S·x), as it is searched, divided by S again."""
    s = scale(vector.shape[-1])
    rounded: Vectors = np.clip(np.rint(s * vector), -127, 127) / s
    return rounded


Answer = Callable[[bool], "bool | None"]


class Limit:
    """What a holder with a limit of releases tells of a hit or no hit.

    The hit that exceeds the limit is refused, which tells as much as its release; so is every query after it, whatever
    it would find, which tells nothing: None.
    """

    def __init__(self, releases: float) -> None:
        self._left = releases

    def __call__(self, hit: bool) -> bool | None:
        if self._left < 0:
            return None
        self._left -= hit
        return hit


@dataclass(frozen=True)
class Scenario:
    """What is answered, and how the attacker asks.

    `threshold`: None answers with scores. `photo`: whether it begins with another photo of the person. `releases`: as
    `Limit`. `odds`: of a hit, in each query; low ones make the releases last.
    """

    threshold: float | None
    photo: bool
    queries: int = 1000
    releases: float = math.inf
    odds: float = EVEN


def attack(
    population: Population, person: int, scenario: Scenario, seed: int, answer: Answer | None = None
) -> dict[int, float]:
    """Cosine of the reconstruction with the row after each checkpoint. `answer`: stands in for the scenario's limit."""
    threshold = scenario.threshold
    rng = np.random.default_rng(seed)
    row = quantised(population.rows[person])
    mean = population.public.mean(axis=0)
    centred = population.public - mean
    covariance = centred.T @ centred / len(centred)
    few = 1 / (1 + len(centred) / covariance.shape[0])  # shrinkage, for populations of a few hundred photos
    covariance = (1 - few) * covariance + few * np.trace(covariance) / len(mean) * np.eye(len(mean))
    if scenario.photo:
        near = float(
            np.mean(np.sum((population.rows - mean) * (population.photos - mean), axis=1)) / covariance.trace()
        )
        mean = mean + near * (population.photos[person] - mean)
        covariance = (1 - near**2) * covariance
    answer = answer or Limit(scenario.releases)
    belief, reached = Posterior(mean, covariance), {}
    told: bool | None = True
    for asked in range(scenario.queries + 1):
        if asked in CHECKPOINTS:
            reached[asked] = float(unit(belief.mean) @ unit(row))
        if threshold is None:
            probe = quantised(belief.widest(rng))
            belief.learn_score(probe, float(probe @ row))
        elif told is not None:
            probe = quantised(belief.probe(threshold, scenario.odds, rng))
            told = answer(bool(probe @ row >= threshold))
            if told is not None:
                belief.learn_bit(probe, threshold, told)
    return reached


def genuine(rng: np.random.Generator, rows: Vectors, others: Vectors, mean: float, sd: float) -> Vectors:
    """Another photo of each row's person: that cosine to the row, and the rest like somebody else's face."""
    cosine = np.clip(rng.normal(mean, sd, len(rows)), 0.3, 0.95)[:, None]
    rest = others - np.sum(others * rows, axis=1, keepdims=True) * rows
    second: Vectors = cosine * rows + np.sqrt(1 - cosine**2) * unit(rest)
    return second


def synthetic(name: str, dim: int, people: int, mean: float, sd: float, same: tuple[float, float]) -> Population:
    """Templates with a model's statistics (cosines of different people; of one person's photos)."""
    drawn = synthetic_templates(2 * people + PUBLIC, dim, 1, None, mean, sd).astype(np.float64)
    rows, others, public = drawn[:people], drawn[people : 2 * people], drawn[2 * people :]
    return Population(name, rows, genuine(np.random.default_rng(2), rows, others, *same), public)


def photographed(folder: Path, people: int) -> Population:
    """Real templates under the default model: the first two photos of each of `people`, all photos of the others."""
    from pets.errors import PhotoError
    from pets.faces import FaceModel

    model = FaceModel.load()
    found: dict[str, list[Vectors]] = {}
    for path in sorted(folder.glob("*/*.jpg")):
        try:
            template = model.embed(path, largest=True).template
        except PhotoError as error:
            print(f"left out {path}: {error}", file=sys.stderr)
            continue
        found.setdefault(path.parent.name, []).append(template.astype(np.float64))
    usable = [templates for templates in found.values() if len(templates) > 1]
    chosen, rest = usable[:people], usable[people:]
    public = np.concatenate([np.stack(templates) for templates in rest])
    return Population(
        f"photos, SFace, {len(usable)} people",
        np.stack([templates[0] for templates in chosen]),
        np.stack([templates[1] for templates in chosen]),
        public,
    )


# 10 releases in 90 days, and 50 queries a day for as long: the defaults of a node
SCENARIOS = {
    "scores, no photo": Scenario(None, False),
    "scores, another photo": Scenario(None, True),
    f"hit or no hit at {FLOOR:.2f}, no photo": Scenario(FLOOR, False),
    f"hit or no hit at {FLOOR:.2f}, another photo": Scenario(FLOOR, True),
    f"hit or no hit at {USUAL:.2f}, another photo": Scenario(USUAL, True),
    "the same, 10 releases": Scenario(USUAL, True, 4500, 10),
    "the same, 10 releases, odds of 1 in 20": Scenario(USUAL, True, 4500, 10, 1 / 20),
    "the same, 10 releases, odds of 1 in 100": Scenario(USUAL, True, 4500, 10, 1 / 100),
}


def measure(population: Population, queries: int) -> dict[str, Any]:
    """Median and tenth percentile over all people, for each scenario and checkpoint."""
    report: dict[str, Any] = {"name": population.name, "dim": population.rows.shape[1], "people": len(population.rows)}
    report["scenarios"] = {}
    for name, scenario in SCENARIOS.items():
        wanted = replace(scenario, queries=min(queries, scenario.queries))
        runs = [attack(population, k, wanted, k) for k in range(len(population.rows))]
        report["scenarios"][name] = {
            str(asked): {
                "median": round(float(np.median([run[asked] for run in runs])), 3),
                "tenth": round(float(np.quantile([run[asked] for run in runs], 0.1)), 3),
            }
            for asked in runs[0]
        }
    return report


def draw(report: dict[str, Any], path: Path) -> None:
    """The chart, as SVG: one panel a population."""
    import matplotlib

    matplotlib.use("Agg")
    matplotlib.rcParams["svg.hashsalt"] = "blind-lineup"
    from matplotlib import pyplot

    populations = report["populations"]
    figure, panels = pyplot.subplots(1, len(populations), figsize=(5 * len(populations), 4), sharey=True, squeeze=False)
    for panel, population in zip(panels[0], populations, strict=True):
        for name, reached in population["scenarios"].items():
            asked = [max(int(key), 1) for key in reached]
            line = "--" if name.startswith("scores") else "-"
            panel.plot(asked, [value["median"] for value in reached.values()], line, marker="o", label=name)
        panel.set_xscale("log")
        panel.set_xlabel("queries on one row (none at the left edge)")
        panel.set_title(f"{population['name']}, d = {population['dim']}", size=10)
        panel.grid(color="#dddddd")
    panels[0][0].set_ylabel("cosine of reconstruction and template (median)")
    lines, names = panels[0][0].get_legend_handles_labels()
    figure.legend(lines, names, loc="upper center", bbox_to_anchor=(0.5, 0), ncols=2 if len(populations) < 3 else 4)
    figure.savefig(path, format="svg", bbox_inches="tight", metadata={"Date": None, "Creator": None})
    pyplot.close(figure)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--photos", type=Path)
    parser.add_argument("--people", type=int, default=20)
    parser.add_argument("--smoke", action="store_true")
    parser.add_argument("--draw", action="store_true", help="only draw the chart again from the JSON")
    arguments = parser.parse_args()
    if arguments.draw:
        draw(json.loads((RESULTS / "inversion.json").read_text("utf-8")), RESULTS / "inversion.svg")
        return
    people, queries = (4, 100) if arguments.smoke else (arguments.people, CHECKPOINTS[-1])
    populations = [synthetic("synthetic, as SFace", 128, people, IMPOSTOR_MEAN, IMPOSTOR_SD, (0.6645, 0.1087))]
    if not arguments.smoke:
        populations.append(synthetic("synthetic, as EdgeFace-XS", 512, people, 0.0087, 0.0757, (0.6315, 0.1212)))
    if arguments.photos:
        populations.append(photographed(arguments.photos, people))
    report = {"machine": describe(1), "populations": [measure(population, queries) for population in populations]}
    print(json.dumps(report, indent=2))
    if not arguments.smoke:
        (RESULTS / "inversion.json").write_text(json.dumps(report, indent=2) + "\n", "utf-8")
        draw(report, RESULTS / "inversion.svg")


if __name__ == "__main__":
    main()
