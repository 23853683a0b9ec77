"""Plots of a calibration as inline SVG."""

from __future__ import annotations

from functools import partial
from typing import Any

from nodes.calibrate.report import by_size
from nodes.calibrate.run import Calibration
from nodes.calibrate.scores import BINS
from nodes.operator.pages import plot

BLUE, RED, GREY = "#1b6ca8", "#b2182b", "#6b6b6b"


def plots(result: Calibration) -> list[tuple[str, str]]:
    """Title and SVG of each plot."""
    return [
        ("Scores of genuine and impostor comparisons", plot(partial(_distributions, result))),
        ("Detection error trade-off (DET)", plot(partial(_det, result))),
        ("Misses against false positives, by size of the gallery", plot(partial(_searches, result))),
    ]


def _distributions(result: Calibration, axes: Any) -> None:
    for counts, colour, name in (
        (result.scores.impostor_counts, GREY, "impostor"),
        (result.scores.genuine_counts, BLUE, "genuine"),
    ):
        axes.stairs(counts / counts.sum(), BINS, fill=True, color=colour, alpha=0.5, label=name)
    if (row := result.to_set) is not None:
        axes.axvline(float(row.threshold or 0), color=RED, linewidth=1.4, label=f"threshold to set, {row.threshold}")
    axes.set_xlim(-0.4, 1)
    axes.set_xlabel("cosine")
    axes.set_ylabel("share of comparisons in bins of 0.01")
    axes.legend(frameon=False)


def _det(result: Calibration, axes: Any) -> None:
    if not result.det:
        axes.text(0.5, 0.5, "not measurable: too few impostor pairs", transform=axes.transAxes, ha="center")
        return
    _, fmr, fnmr = zip(*result.det, strict=True)
    axes.plot(fmr, [100 * value for value in fnmr], color=BLUE, linewidth=1.8)
    for rate in result.rates:
        if rate.threshold is not None and rate.measured and rate.tmr is not None:
            missed = 100 * (1 - rate.tmr)
            axes.plot(rate.measured, missed, "o", color=BLUE)
            axes.annotate(f"{rate.threshold:.3f}", (rate.measured, missed), xytext=(6, 6), textcoords="offset points")
    axes.set_xscale("log")
    axes.set_ylim(bottom=0)
    axes.set_xlabel("false match rate (FMR); thresholds beside the marks")
    axes.set_ylabel("false non-match rate (FNMR), %")


def _searches(result: Calibration, axes: Any) -> None:
    for index, (size, rows) in enumerate(by_size(result.identified).items()):
        shown = [row for row in rows if row.fnir is not None]
        if not shown:
            continue
        rates = [row.fpir for row in shown]
        colour = f"C{index}"
        style = "--" if shown[0].extrapolated else "-"
        axes.plot(rates, [100 * (row.fnir or 0) for row in shown], style, marker="o", color=colour, label=size)
        axes.fill_between(
            rates, [100 * (row.low or 0) for row in shown], [100 * (row.high or 0) for row in shown],
            color=colour, alpha=0.12,
        )  # fmt: skip
    axes.set_xscale("log")
    axes.set_ylim(bottom=0)
    axes.set_xlabel("false positive identification rate (FPIR); * and dashes: extrapolated; bands: 95 %")
    axes.set_ylabel("misses (FNIR), %")
    axes.legend(title="rows × galleries", frameon=False)
