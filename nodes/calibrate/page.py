"""A calibration as one HTML page that needs nothing else."""

from __future__ import annotations

import time
from html import escape
from importlib.metadata import version

from nodes.calibrate import plots
from nodes.calibrate.identification import FPIRS
from nodes.calibrate.report import NOT_MEASURABLE, between, by_size, cell, costs_table, notes, percent, to_paste
from nodes.calibrate.run import Calibration
from nodes.operator.pages import NO_PLOTS, paragraph, plots_available, table, whole


def page(result: Calibration) -> str:
    """The whole page."""
    sample, scores = result.sample, result.scores
    parts = [
        paragraph(
            f"{len(sample.templates):,} photos of {len(sample.names):,} people, templates of {sample.dim} numbers: "
            f"{len(scores.genuine.score):,} genuine and {scores.impostors:,} impostor comparisons. "
            f"Model: {sample.spec or 'unknown'}."
        ),
        _answer(result),
        *(paragraph(warning, "warning") for warning in result.warnings),
        "<h2>To paste</h2>",
        f"<pre>{escape(chr(10).join(to_paste(result)))}</pre>",
        "<h2>One comparison</h2>",
        _rates(result),
        "<h2>A search</h2>",
        _searches(result),
        *(paragraph(line) for line in notes(result)),
        *_costs(result),
        *_groups(result),
        *_plots(result),
        "<h2>How it was measured</h2>",
        paragraph(
            "Terms are those of ISO/IEC 19795-1. FMR and TMR are over all pairs of photos. For searches the gallery is "
            "the first photo of each person and every other photo is a probe; for the FPIR its own person is left out. "
            "Galleries asked together under one threshold count as one of all their rows. Intervals hold 95 % and come "
            f"from drawing the people {result.options.resamples} times again. A rate below 3/n is called "
            f"{NOT_MEASURABLE}. Encrypted: each probe was really searched in galleries that the cap cannot cut."
        ),
        paragraph(f"Blind Lineup {version('blind-lineup')}, {time.strftime('%Y-%m-%d')}."),
    ]
    return whole("Which threshold, and what it costs", parts)


def _answer(result: Calibration) -> str:
    row = result.to_set
    if row is None:
        return f'<p class="warning">No threshold: this sample is too small for FPIR {result.options.fpir:g}.</p>'
    kind = "extrapolated" if row.extrapolated else "measured"
    return (
        f'<p class="answer">Threshold <b>{row.threshold:.3f}</b>: of searches for somebody who is in none of '
        f"{row.holders} galleries of {row.rows:,} rows, {100 * row.fpir:g} % show a false candidate; of searches for "
        f"somebody who is, {percent(row.fnir)} miss ({between(row.low, row.high)}; {kind}).</p>"
    )


def _rates(result: Calibration) -> str:
    head = ("FMR", "threshold", "FMR there, 95 %", "TMR", "95 % of it", "TMR quantised", "TMR encrypted")
    rows = []
    for rate in result.rates:
        if rate.threshold is None:
            rows.append((f"{rate.fmr:g}", NOT_MEASURABLE, "", "", "", "", ""))
            continue
        searched = result.encrypted.get(rate.fmr)
        rows.append(
            (
                f"{rate.fmr:g}",
                f"{rate.threshold:.4f}",
                f"{rate.low:.1e} to {rate.high:.1e}",
                percent(rate.tmr),
                between(rate.tmr_low, rate.tmr_high),
                percent(rate.tmr_quantised),
                "" if searched is None else f"{percent(searched.tmr)}\n{searched.probes:,} searched",
            )
        )
    return table("True match rate (TMR) at a false match rate (FMR)", head, rows)


def _searches(result: Calibration) -> str:
    head = ("rows × galleries", *(f"FPIR {fpir:g}" for fpir in FPIRS))
    rows = [(size, *(cell(item) for item in found)) for size, found in by_size(result.identified).items()]
    return table("Threshold, misses (FNIR) and their 95 % interval at a false positive rate (FPIR)", head, rows)


def _costs(result: Calibration) -> list[str]:
    if not result.costs:
        return []
    caption = "Misses of one comparison (FNMR), false match rate, and FPIR by rows asked together; * extrapolated"
    return ["<h2>What usual thresholds cost</h2>", table(caption, *costs_table(result))]


def _groups(result: Calibration) -> list[str]:
    if not result.groups:
        return []
    head = ("group", "people", "genuine", "impostor", "FMR", "FNMR", "95 % of it")
    rows = [
        (
            group.group,
            str(group.people),
            f"{group.genuine:,}",
            f"{group.impostors:,}",
            NOT_MEASURABLE if group.fmr is None else f"{group.fmr:.1e}",
            NOT_MEASURABLE if group.fnmr is None else percent(group.fnmr),
            between(group.fnmr_low, group.fnmr_high),
        )
        for group in result.groups
    ]
    caption = f"Pairs within a group, at threshold {result.groups[0].threshold} for everybody"
    return ["<h2>Error by group</h2>", table(caption, head, rows)]


def _plots(result: Calibration) -> list[str]:
    if not plots_available():
        return [paragraph(NO_PLOTS)]
    return [f"<h2>{escape(title)}</h2>{svg}" for title, svg in plots.plots(result)]
