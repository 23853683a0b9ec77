"""The chart of `benchmarks.scale`: what a row costs, from 10^5 to 3·10^7 rows, and how much memory all parties take.

python -m benchmarks.scale_chart       draws benchmarks/results/scale.svg from scale.json
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"


def draw(entries: list[dict[str, Any]], path: Path) -> None:
    """Write the chart as SVG: nanoseconds a row on the left, gigabytes on the right."""
    import matplotlib

    matplotlib.use("Agg")
    matplotlib.rcParams["svg.hashsalt"] = "blind-lineup"  # the same entries give the same bytes
    from matplotlib import pyplot

    entries = sorted(entries, key=lambda entry: entry["rows"])
    best = {
        entry["rows"]: entry for entry in sorted(entries, key=lambda entry: -entry["online_s"])
    }  # of several batches
    rows = sorted(best)
    figure, (cost, memory) = pyplot.subplots(1, 2, figsize=(10, 3.6), facecolor="white")
    cost.plot(rows, [1e9 * best[size]["online_s"] / size for size in rows], "o-", color="#1b6ca8", label="one search")
    for batch, colour in zip(
        sorted({entry["batch"] for entry in entries}), ("#c77400", "#8a5a00", "#5c4a20"), strict=False
    ):
        made = [entry for entry in entries if entry["batch"] == batch]
        costs = [1e9 * entry["preparation_s"] / entry["rows"] for entry in made]
        name = f"one preparation of {batch} at once" if batch > 1 else "one preparation alone"
        cost.plot([entry["rows"] for entry in made], costs, "o-", color=colour, label=name)
    cost.set_ylabel("nanoseconds a row, all three parties")
    peaks = [max(entry["peak_rss_bytes"] for entry in entries if entry["rows"] == size) for size in rows]
    memory.plot(rows, [peak / 1e9 for peak in peaks], "o-", color="#6b6b6b", label="at the peak")
    gallery = [size * best[size]["dim"] / 1e9 for size in rows]
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
