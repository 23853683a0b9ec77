"""The comparison as a table for the terminal."""

from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.table import Table


def print_table(report: dict[str, Any], console: Console) -> None:
    """What each engine took, and what it reveals to whom."""
    figures = Table(title=in_short(report))
    words = Table(title="what is revealed, to whom")
    for column in ("engine", "online", "from – to", "offline", "× numpy"):
        figures.add_column(column, justify="left" if column == "engine" else "right", no_wrap=True)
    for column in ("engine", "reveals", "to whom", "measured on"):
        words.add_column(column, justify="right" if column == "measured on" else "left")
    base = next((item["seconds"] for item in report["engines"] if item["name"] == "plain-float32"), None)
    for item in report["engines"]:
        mark = " *" if item["extrapolated"] else ""
        figures.add_row(
            item["name"],
            in_words(item["seconds"]) + mark,
            spread(item),
            in_words(item["offline_seconds"]),
            "" if base is None else f"{item['seconds'] / base:,.{1 if item['seconds'] < 100 * base else 0}f}",
        )
        words.add_row(item["name"], item["reveals"], item["to_whom"], f"{item['rows_measured']:,} rows")
    console.print(figures)
    console.print(words)
    for line in notes(report):
        console.print(line, highlight=False, markup=False, soft_wrap=True)


def in_short(report: dict[str, Any]) -> str:
    """What was searched for in what."""
    probes = "one probe" if report["probes"] == 1 else f"{report['probes']} probes together"
    split = "" if report["holders"] == 1 else f", of {report['holders']} holders in one joint query"
    return f"{probes} against {report['rows']:,} rows{split}, d = {report['dim']}"


def notes(report: dict[str, Any]) -> list[str]:
    """What the figures rest on."""
    lines = []
    if any(item["extrapolated"] for item in report["engines"]):
        lines.append("* extrapolated from the rows it was measured on; the encryption of a probe is counted once.")
    lines += [f"left out: {item['name']}: {item['reason']}" for item in report["left_out"]]
    lines += [
        f"{item['name']}: {item['wrong_rows']} wrong rows over all runs"
        for item in report["engines"]
        if item["wrong_rows"]
    ]
    if (ours := next((item for item in report["engines"] if item["hops"]), None)) is not None:
        lines.append(
            f"A search waits for {ours['hops']} messages, one after the other: half a round trip each on a long line"
            + "".join(f"; {in_words(item['seconds'])} at {item['round_trip_ms']} ms" for item in report["latency"])
            + " (worked out, bandwidth not in it)."
        )
    if report["holders"] > 1:
        lines.append("Others than ours have the rows of all holders in one gallery.")
    described = report["machine"]
    lines.append(
        f"{described['processor']}, {described['threads']} threads, load {described['load']:.1f} before, "
        f"commit {described['commit']}, {described['date']}"
    )
    return lines


def in_words(seconds: float) -> str:
    """Seconds with a unit that suits them."""
    if seconds >= 120:
        return f"{seconds / 60:.1f} min"
    if seconds >= 1:
        return f"{seconds:.{1 if seconds < 10 else 0}f} s"
    return f"{1000 * seconds:.{0 if seconds >= 0.01 else 2}f} ms" if seconds >= 5e-6 else "0"


def spread(item: dict[str, Any]) -> str:
    """The shortest and longest run."""
    low, high = item["spread"]
    return "" if item["runs"] == 1 else f"{in_words(low)} – {in_words(high)}"
