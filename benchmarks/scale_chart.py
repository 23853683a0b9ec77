"""The chart of `benchmarks.scale`: what a row costs, from 10^5 to 3·10^7 rows, and how much memory all parties take.

python -m benchmarks.scale_chart       draws benchmarks/results/scale.svg from scale.json
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"
LINES = (
    ("online_s", "one search", "#1b6ca8"),
    ("preparation_s", "one preparation of a batch", "#c77400"),
)


def draw(entries: list[dict[str, Any]], path: Path) -> None:
    """Write the chart as SVG: nanoseconds a row on the left, gigabytes on the right."""
    import matplotlib

    matplotlib.use("Agg")
    matplotlib.rcParams["svg.hashsalt"] = "blind-lineup"  # the same entries give the same bytes
    from matplotlib import pyplot

    entries = sorted(entries, key=lambda entry: entry["rows"])
    rows = [entry["rows"] for entry in entries]
    figure, (cost, memory) = pyplot.subplots(1, 2, figsize=(10, 3.6), facecolor="white")
    for field, name, colour in LINES:
        cost.plot(rows, [1e9 * entry[field] / entry["rows"] for entry in entries], "o-", color=colour, label=name)
    cost.set_ylabel("nanoseconds a row, all three parties")
    memory.plot(rows, [entry["peak_rss_bytes"] / 1e9 for entry in entries], "o-", color="#6b6b6b", label="at the peak")
    gallery = [entry["rows"] * entry["dim"] / 1e9 for entry in entries]
    memory.plot(rows, gallery, ":", color="#6b6b6b", label="of it the gallery")
    memory.set_ylabel("GB of memory, all three parties")
    for axes in (cost, memory):
        axes.set_xscale("log")
        axes.set_yscale("log")
        axes.set_xlabel("rows of the gallery")
        axes.legend(frameon=False)
        axes.grid(alpha=0.3)
    figure.tight_layout()
    figure.savefig(path, metadata={"Date": None})
    pyplot.close(figure)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, default=RESULTS / "scale.json")
    parser.add_argument("--out", type=Path, default=RESULTS / "scale.svg")
    options = parser.parse_args()
    draw(json.loads(options.json.read_text()), options.out)
    print(json.dumps({"chart": str(options.out)}))


if __name__ == "__main__":
    main()
