"""The chart of `benchmarks.compare`: time per million comparisons, grouped by what is revealed to whom.

python -m benchmarks.chart       draws benchmarks/results/compare.svg again from compare.json
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

COLOURS = {"all": "#6b6b6b", "scores": "#b2182b", "graded": "#c77400", "hits": "#1b6ca8"}
RESULTS = Path(__file__).parent / "results"


def in_words(seconds: float) -> str:
    if seconds >= 120:
        return f"{seconds / 60:.1f} min"
    if seconds >= 1:
        return f"{seconds:.{1 if seconds < 10 else 0}f} s"
    return f"{1000 * seconds:.0f} ms"


def draw(report: dict[str, Any], path: Path) -> None:
    """Write the chart as SVG. Filled marks were measured in one run, hollow ones are quoted."""
    import matplotlib

    matplotlib.use("Agg")
    matplotlib.rcParams["svg.hashsalt"] = "blind-lineup"  # the same report gives the same bytes
    from matplotlib import pyplot
    from matplotlib.lines import Line2D

    rows = report["entries"] + report["quoted"]
    lines: list[tuple[str, dict[str, Any] | None]] = []
    for group in report["reveals"]:
        members = [row for row in rows if row["reveals"] == group]
        if members:
            lines.append((group, None))
            lines += [(group, row) for row in sorted(members, key=lambda row: row["seconds_per_million"])]
    figure, axes = pyplot.subplots(figsize=(10, 0.36 * len(lines) + 1.3), facecolor="white")
    times = [row["seconds_per_million"] for row in rows]
    left, right = min(times) / 2.5, max(times) * 4
    for line, (group, row) in enumerate(lines):
        colour = COLOURS[group]
        if row is None:
            words = "Reveals " + report["reveals"][group]
            axes.text(0, line + 0.15, words, transform=axes.get_yaxis_transform(), color=colour, weight="bold", size=10)
            continue
        seconds, quoted = row["seconds_per_million"], "source" in row
        axes.hlines(line, left, seconds, color=colour, linewidth=1.2, alpha=0.35, linestyle=":" if quoted else "-")
        axes.plot(seconds, line, "o", color=colour, markerfacecolor="white" if quoted else colour, markersize=8)
        axes.annotate(
            in_words(seconds), (seconds, line), xytext=(9, 0), textcoords="offset points", va="center", size=10
        )
    named = [(line, row) for line, (_, row) in enumerate(lines) if row is not None]
    axes.set_yticks([line for line, _ in named], [row["name"] for _, row in named], size=10)
    axes.tick_params(axis="y", length=0)
    axes.set_ylim(len(lines) - 0.4, -0.7)
    axes.set_xscale("log")
    axes.set_xlim(left, right)
    ticks = {0.01: "10 ms", 0.1: "100 ms", 1: "1 s", 10: "10 s", 100: "100 s", 1000: "1000 s", 10000: "10,000 s"}
    inside = [tick for tick in ticks if left <= tick <= right]
    axes.set_xticks(inside, [ticks[tick] for tick in inside])
    axes.minorticks_off()
    axes.grid(axis="x", color="#dddddd", linewidth=0.8)
    axes.set_axisbelow(True)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    machine = report["machine"]
    axes.set_xlabel(
        f"time for one probe against a million templates of {report['dim']} numbers"
        f" ({machine['processor']}, {machine['threads']} cores);\n"
        "TenSEAL and OpenFHE: the server's work alone, probe encrypted and gallery encoded before"
    )
    axes.legend(
        handles=[
            Line2D([], [], marker="o", color="#444444", linestyle="", label="measured in one run"),
            Line2D(
                [],
                [],
                marker="o",
                color="#444444",
                markerfacecolor="white",
                linestyle="",
                label="quoted, other machines",
            ),
        ],
        loc="upper right",
        frameon=True,
        framealpha=1,
        edgecolor="#dddddd",
    )
    figure.savefig(path, format="svg", bbox_inches="tight", metadata={"Date": None, "Creator": None})
    pyplot.close(figure)


def main() -> None:
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    draw(json.loads((RESULTS / "compare.json").read_text(encoding="utf-8")), RESULTS / "compare.svg")


if __name__ == "__main__":
    main()
