"""Writes what the results say into the pages: tables between marks, and the chart of the comparison.

    python -m benchmarks.pages           results/bench.json and results/network*.json into README.md beside this file

A result that is not there leaves its part as it is. The chart needs matplotlib: pip install -e '.[bench]'.
"""

from __future__ import annotations

import argparse
import json
from functools import partial
from pathlib import Path
from typing import Any

from nodes.bench.page import height_of, revealed
from nodes.bench.report import in_words
from nodes.operator.pages import plot, plots_available

FOLDER = Path(__file__).parent
END = "<!-- up to here -->"
NETWORKS = ("network.json", "network-30ms.json", "network-union.json")


def fill(page: str, name: str, content: str) -> str:
    """A page with another content between the mark of a name and the next end mark."""
    start = f"<!-- {name}: written by a script -->"
    before, rest = page.split(start)
    _, after = rest.split(END, 1)
    return f"{before}{start}\n\n{content}\n\n{END}{after}"


def machine_line(report: dict[str, Any]) -> str:
    """Where and when something was measured."""
    about = report["machine"]
    return (
        f"{about['processor']}, {about['threads']} threads, load {about['load']:.1f} before, commit {about['commit']}, "
        f"{about['date']}."
    )


def comparison(report: dict[str, Any]) -> str:
    """The engines and the published figures as one table, sorted within what is revealed."""
    base = next(item["seconds_per_million"] for item in report["engines"] if item["name"] == "plain-float32")
    lines = [
        "| revealed | | s per million | × numpy | core-s per million | offline, s | measured on |",
        "|---|---|---:|---:|---:|---:|---|",
    ]
    quoted = [item for item in report["literature"] if item["seconds_per_million"] is not None]
    for group in dict.fromkeys([item["group"] for item in report["engines"]] + [item["reveals"] for item in quoted]):
        for item in sorted(report["engines"], key=lambda item: float(item["seconds_per_million"])):
            if item["group"] == group:
                mark = " *" if item["extrapolated"] else ""
                lines.append(
                    f"| {group} | {item['name']} | {item['seconds_per_million']:.3g}{mark} "
                    f"| {item['seconds_per_million'] / base:,.1f} | {item['core_seconds_per_million']:.3g} "
                    f"| {item['offline_seconds']:.2g} | {item['rows_measured']:,} rows |"
                )
        lines += [
            f"| {group} | *{item['name']}, quoted* | *{item['seconds_per_million']:g}* | | | | *{item['source']}* |"
            for item in quoted
            if item["reveals"] == group
        ]
    libraries = ", ".join(f"{name} {report['machine'][name]}" for name in ("tenseal", "openfhe", "faiss-cpu"))
    return "\n".join(
        [*lines, "", f"`*`: extrapolated to {report['rows']:,} rows. {machine_line(report)} {libraries}."]
        + [f"Left out: {item['name']}: {item['reason']}." for item in report["left_out"]]
    )


def network(reports: list[dict[str, Any]]) -> str:
    """Queries between nodes, one line a run."""
    lines = [
        "| rows, holders | round trip added | online | answer, prepared | answer, cold | a preparation "
        "| one process, online | received a search, MB: requester, holders, router |",
        "|---|---:|---:|---:|---:|---:|---:|---|",
    ]
    for report in reports:
        prepared, cold = report["prepared"], report["cold"]
        taken = ", ".join(
            f"{prepared['received_bytes'][name] / 1e6:.1f}" for name in ("requester", "holders", "router")
        )
        lines.append(
            f"| {report['rows']:,}, {report['holders']} | {report['round_trip_added_ms']:g} ms "
            f"| {in_words(prepared['online_s'])} | {in_words(prepared['answer_s'])} | {in_words(cold['answer_s'])} "
            f"| {in_words(report['preparing']['preparation_s'])} | {in_words(report['one_process_online_s'])} "
            f"| {taken} |"
        )
    return "\n".join([*lines, "", f"d = {reports[0]['dim']}. {machine_line(reports[0])}"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", type=Path, default=FOLDER / "results")
    parser.add_argument("--page", type=Path, default=FOLDER / "README.md")
    options = parser.parse_args()
    page, written = options.page.read_text("utf-8"), []
    if (options.results / "bench.json").exists():
        report = json.loads((options.results / "bench.json").read_text("utf-8"))
        page = fill(page, "comparison", comparison(report))
        written.append("comparison")
        if plots_available():
            chart = plot(partial(revealed, report), height_of(report))
            (options.results / "bench.svg").write_text(chart, encoding="utf-8")
            written.append("bench.svg")
    found = [options.results / name for name in NETWORKS if (options.results / name).exists()]
    if found:
        page = fill(page, "network", network([json.loads(path.read_text("utf-8")) for path in found]))
        written.append("network")
    options.page.write_text(page, encoding="utf-8")
    print(json.dumps({"written": written}))


if __name__ == "__main__":
    main()
