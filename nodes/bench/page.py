"""The comparison as one HTML page with plots."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from html import escape
from typing import Any

from nodes.bench.engine import REVEALS
from nodes.bench.report import in_short, in_words, notes, spread
from nodes.operator.pages import NO_PLOTS, paragraph, plot, plots_available, table, whole

COLOURS = {"all": "#6b6b6b", "scores": "#b2182b", "graded": "#c77400", "hits": "#1b6ca8"}
Json = dict[str, Any]


def page(report: Json) -> str:
    """The whole page."""
    parts = [
        paragraph(
            f"{in_short(report)[0].upper()}{in_short(report)[1:]}: synthetic templates, the same for every engine, "
            "from the known probe to the rows that match. What is done before the probe is known is offline."
        ),
        _engines(report),
        *(paragraph(line) for line in notes(report)),
        "<h2>What is revealed, to whom</h2>",
        _reveals(report),
        *_plots(report),
        *_literature(report),
    ]
    return whole("How fast is encrypted matching", parts)


def _engines(report: Json) -> str:
    head = ("engine", "seconds", "spread", "offline", "per million", "core-s per million", "measured on")
    rows = [
        (
            item["name"],
            in_words(item["seconds"]) + (" *" if item["extrapolated"] else ""),
            spread(item),
            in_words(item["offline_seconds"]),
            in_words(item["seconds_per_million"]),
            f"{item['core_seconds_per_million']:.3g}",
            f"{item['rows_measured']:,}",
        )
        for item in report["engines"]
    ]
    return table("Medians; core-seconds are of all threads and processes, offline included", head, rows)


def _reveals(report: Json) -> str:
    rows = [(item["name"], item["reveals"], item["to_whom"], item["how"]) for item in report["engines"]]
    return table("", ("engine", "what", "to whom", "how it is used"), rows, "words")


def _literature(report: Json) -> list[str]:
    if not report["literature"]:
        return []
    rows = [
        (
            item["name"],
            "" if item["seconds_per_million"] is None else f"{item['seconds_per_million']:g}",
            item["leaks"],
            item["hardware"],
            item["offline_share"],
            item["comparable"],
            item["source"] + (" (derived)" if item["derived"] == "yes" else ""),
        )
        for item in report["literature"]
    ]
    head = ("system", "s per million", "what leaks", "hardware", "offline", "comparable", "source")
    return [
        "<h2>Published by others, not run here</h2>",
        table("Derived: arithmetic on published figures", head, rows, "words"),
    ]


def _plots(report: Json) -> list[str]:
    if not plots_available():
        return [paragraph(NO_PLOTS)]
    drawn: list[tuple[str, Callable[[Any], None], float]] = [
        ("Time per million against what is revealed", partial(revealed, report), height_of(report)),
        ("Offline and online", partial(_parts, report), 1.2 + 0.34 * len(report["engines"])),
    ]
    if len({item["rows"] for item in report["sweep"]}) > 1:
        drawn.append(("Time against rows", partial(_sweep, report), 4.2))
    ours = next((item for item in report["engines"] if item["name"] == "blind-lineup"), None)
    if ours is not None:
        drawn.append(("Ours, online, by phase", partial(_bars, ours["phases"], 1e3, "milliseconds"), 3.4))
        drawn.append(("Ours, by party", partial(_apart, ours["parties"], 1.0, "seconds of computing"), 2.6))
        drawn.append(("Ours, bytes by link", partial(_apart, ours["bytes"], 1e-6, "megabytes"), 3.6))
    if len(report["latency"]) > 1:
        drawn.append(("Ours, on a long line", partial(_latency, report), 4.2))
    return [f"<h2>{escape(title)}</h2>{plot(draw, height)}" for title, draw, height in drawn]


def height_of(report: Json) -> float:
    """Inches that `revealed` needs."""
    quoted = sum(item["seconds_per_million"] is not None for item in report["literature"])
    return 1.5 + 0.32 * (len(report["engines"]) + quoted + 4)


def revealed(report: Json, axes: Any) -> None:
    """Draw time per million comparisons against what is revealed to whom."""
    line, names = 0, []
    quoted = [item for item in report["literature"] if item["seconds_per_million"] is not None]
    for group, (what, whom) in REVEALS.items():
        own = [(item, False, item["group"]) for item in report["engines"]]
        others = [(item, True, item["reveals"]) for item in quoted]
        members = [(item, other) for item, other, key in own + others if key == group]
        if not members:
            continue
        words = f"Reveals {what}, to {whom}"
        axes.text(0, line, words, transform=axes.get_yaxis_transform(), color=COLOURS[group], weight="bold", size=9)
        for item, other in sorted(members, key=lambda member: float(member[0]["seconds_per_million"])):
            line += 1
            seconds, face = item["seconds_per_million"], "white" if other else COLOURS[group]
            axes.plot(seconds, line, "D" if other else "o", color=COLOURS[group], markerfacecolor=face)
            axes.annotate(in_words(seconds), (seconds, line), xytext=(8, -3), textcoords="offset points", size=9)
            names.append((line, item["name"]))
        line += 1
    axes.set_yticks([at for at, _ in names], [name for _, name in names])
    axes.set_ylim(line - 0.4, -0.8)
    axes.set_xscale("log")
    axes.margins(x=0.12)
    axes.set_xlabel("seconds per million comparisons; dots: measured in this run, diamonds: published, other machines")


def _parts(report: Json, axes: Any) -> None:
    names = [item["name"] for item in report["engines"]]
    online = [item["seconds_per_million"] for item in report["engines"]]
    scale = [1e6 / item["rows"] for item in report["engines"]]
    offline = [item["offline_seconds"] * by for item, by in zip(report["engines"], scale, strict=True)]
    axes.barh([at - 0.2 for at in range(len(names))], online, 0.38, color="#1b6ca8", label="online")
    axes.barh([at + 0.2 for at in range(len(names))], offline, 0.38, color="#9ecae1", label="offline")
    axes.set_yticks(range(len(names)), names)
    axes.invert_yaxis()
    axes.set_xscale("log")
    axes.set_xlim(left=max(1e-3, min(online) / 5))
    axes.set_xlabel(f"seconds per million, at {report['rows']:,} rows")
    axes.legend(frameon=False)


def _sweep(report: Json, axes: Any) -> None:
    for index, name in enumerate(dict.fromkeys(item["name"] for item in report["sweep"])):
        rows = sorted((item["rows"], item["seconds"]) for item in report["sweep"] if item["name"] == name)
        axes.plot(*zip(*rows, strict=True), marker="o", color=f"C{index}", label=name)
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlabel("rows")
    axes.set_ylabel("seconds, online")
    axes.legend(frameon=False)


def _bars(values: dict[str, float], factor: float, unit: str, axes: Any) -> None:
    shown = {name: factor * value for name, value in values.items() if value}
    axes.barh(list(shown), list(shown.values()), color="#1b6ca8")
    axes.invert_yaxis()
    axes.set_xlabel(unit)


def _apart(values: dict[str, dict[str, float]], factor: float, unit: str, axes: Any) -> None:
    names = list(dict.fromkeys(name for part in values.values() for name in part))
    for part, offset, colour in (("online", -0.2, "#1b6ca8"), ("offline", 0.2, "#9ecae1")):
        shown = [factor * values[part].get(name, 0) for name in names]
        axes.barh([at + offset for at in range(len(names))], shown, 0.38, color=colour, label=part)
    axes.set_yticks(range(len(names)), names)
    axes.invert_yaxis()
    axes.set_xlabel(unit)
    axes.legend(frameon=False)


def _latency(report: Json, axes: Any) -> None:
    points = sorted((item["round_trip_ms"], item["seconds"]) for item in report["latency"])
    axes.plot(*zip(*points, strict=True), marker="o", linestyle="--", color=COLOURS["hits"])
    axes.set_ylim(bottom=0)
    axes.set_xlabel("round-trip time, milliseconds; worked out, bandwidth not in it")
    axes.set_ylabel("seconds, online")
