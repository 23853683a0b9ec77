"""A calibration as JSON, as tables for the terminal, and as lines for `node.toml`."""

from __future__ import annotations

import time
from importlib.metadata import version
from typing import Any

from rich.console import Console
from rich.table import Table

from nodes.calibrate.identification import FPIRS, Identified
from nodes.calibrate.rates import RULE_OF_THREE, Rate
from nodes.calibrate.run import Calibration, mean_and_sd
from nodes.calibrate.sample import Sample
from nodes.calibrate.scores import BINS

NOT_MEASURABLE = "not measurable"


def as_json(result: Calibration) -> dict[str, Any]:
    """Everything, ready for `json.dumps`; a figure that the sample is too small for is None, with its reason."""
    sample, scores = result.sample, result.scores
    centres = (BINS[1:] + BINS[:-1]) / 2
    genuine, impostor = (mean_and_sd(c, centres) for c in (scores.genuine_counts, scores.impostor_counts))
    chosen = result.to_set
    return {
        "version": version("blind-lineup"),
        "date": time.strftime("%Y-%m-%d"),
        "seconds": {step: round(taken, 3) for step, taken in result.seconds.items()},
        "threads": result.options.threads,
        "model": _model(sample),
        "sample": {
            "people": len(sample.names),
            "photos": len(sample.templates),
            "dim": sample.dim,
            "genuine_pairs": len(scores.genuine.score),
            "impostor_pairs": scores.impostors,
            "failed_to_acquire": len(sample.failed),
            "left_out": sample.left_out,
            "lowest_measurable_fmr": RULE_OF_THREE / scores.impostors,
        },
        "confidence": 0.95,
        "resamples": result.options.resamples,
        "warnings": result.warnings,
        "fmr": [_rate(result, rate) for rate in result.rates],
        "identification": [_identified(row) for row in result.identified],
        "extrapolation_check": None if result.tail_check is None else _fields(result.tail_check),
        "costs": [_fields(cost) for cost in result.costs],
        "groups": [_fields(group) | {"threshold": float(group.threshold)} for group in result.groups],
        "to_set": None if chosen is None else _identified(chosen),
        "det": [{"threshold": t, "fmr": fmr, "fnmr": fnmr} for t, fmr, fnmr in result.det],
        "distributions": {
            "edges": [round(float(edge), 2) for edge in BINS],
            "genuine": scores.genuine_counts.tolist(),
            "impostor": scores.impostor_counts.tolist(),
            "genuine_mean_sd": genuine,
            "impostor_mean_sd": impostor,
        },
    }  # fmt: skip


def _fields(value: Any) -> dict[str, Any]:
    return {name: getattr(value, name) for name in value.__dataclass_fields__}


def _model(sample: Sample) -> dict[str, Any] | None:
    if sample.spec is None:
        return None
    return {**_fields(sample.spec), "digest": sample.spec.digest().hex()}


def _rate(result: Calibration, rate: Rate) -> dict[str, Any]:
    searched = result.encrypted.get(rate.fmr)
    return {
        "fmr": rate.fmr,
        "measurable": rate.threshold is not None,
        "reason": None if rate.threshold is not None else why_not(result, rate),
        "threshold": None if rate.threshold is None else float(rate.threshold),
        "fmr_measured": rate.measured,
        "fmr_low": rate.low,
        "fmr_high": rate.high,
        "fmr_quantised": rate.fmr_quantised,
        "tmr": rate.tmr,
        "tmr_low": rate.tmr_low,
        "tmr_high": rate.tmr_high,
        "tmr_quantised": rate.tmr_quantised,
        "tmr_encrypted": None if searched is None else searched.tmr,
        "encrypted": None
        if searched is None
        else {
            "probes": searched.probes,
            "genuine": searched.genuine,
            "tmr_quantised_same_pairs": searched.tmr_quantised,
            "decisions": searched.decisions,
            "disagreements": searched.wrong,
        },
    }


def why_not(result: Calibration, rate: Rate) -> str:
    """Why there is no figure for a false match rate."""
    least = RULE_OF_THREE / result.scores.impostors
    if rate.fmr < least:
        return f"{NOT_MEASURABLE}: {result.scores.impostors} impostor pairs show no rate below {least:.2g}"
    return f"{NOT_MEASURABLE}: no threshold between 0 and 1 gives this rate"


def _identified(row: Identified) -> dict[str, Any]:
    fields = _fields(row)
    fields["threshold"] = None if row.threshold is None else float(row.threshold)
    return fields | {"measurable": row.threshold is not None}


def print_tables(result: Calibration, console: Console) -> None:
    """The two tables, what they rest on, and the lines to paste."""
    sample, scores = result.sample, result.scores
    console.print(
        f"{len(sample.templates):,} photos of {len(sample.names):,} people, d = {sample.dim}: "
        f"{len(scores.genuine.score):,} genuine and {scores.impostors:,} impostor pairs",
        highlight=False,
    )
    for warning in result.warnings:
        console.print(f"warning: {warning}", highlight=False, markup=False, soft_wrap=True)
    console.print(_rates_table(result))
    console.print(_searches_table(result))
    if result.costs:
        head, rows = costs_table(result)
        table = Table(title="usual thresholds: misses, and FPIR by rows asked together")
        for name in head:
            table.add_column(name, justify="right")
        for row in rows:
            table.add_row(*row)
        console.print(table)
    for line in notes(result):
        console.print(line, highlight=False, markup=False, soft_wrap=True)
    console.print("\n".join(to_paste(result)), highlight=False, markup=False, soft_wrap=True)


def _rates_table(result: Calibration) -> Table:
    table = Table(title="one comparison: true match rate (TMR) at a false match rate (FMR)")
    for column in ("FMR", "threshold", "TMR", "95 % of it", "quantised", "encrypted"):
        table.add_column(column, justify="right", no_wrap=True)
    for rate in result.rates:
        if rate.threshold is None:
            table.add_row(f"{rate.fmr:g}", NOT_MEASURABLE, "", "", "", "")
            continue
        searched = result.encrypted.get(rate.fmr)
        table.add_row(
            f"{rate.fmr:g}",
            f"{rate.threshold:.4f}",
            percent(rate.tmr),
            between(rate.tmr_low, rate.tmr_high),
            percent(rate.tmr_quantised),
            "" if searched is None else percent(searched.tmr),
        )
    return table


def _searches_table(result: Calibration) -> Table:
    table = Table(title="a search: threshold, misses (FNIR) and their 95 % at a false positive rate (FPIR)")
    table.add_column("rows", justify="right", no_wrap=True)
    for fpir in FPIRS:
        table.add_column(f"FPIR {fpir:g}", justify="right")
    for size, row in by_size(result.identified).items():
        table.add_row(size, *(cell(item) for item in row))
    return table


def costs_table(result: Calibration) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """Heading and rows of what usual thresholds cost."""
    sizes = list(result.costs[0].fpirs)
    head = ("threshold", "FNMR", "95 % of it", "FMR", *(_short(size) for size in sizes))
    rows = []
    for cost in result.costs:
        mark = " *" if cost.extrapolated else ""
        fmr = NOT_MEASURABLE if cost.fmr is None else f"{cost.fmr:.1e}{mark}"
        shown = (percent(value) if value < 0.9995 else "always" for value in cost.fpirs.values())
        rows.append((f"{cost.threshold:.2f}", percent(cost.fnmr), between(cost.low, cost.high), fmr, *shown))
    return head, rows


def by_size(identified: list[Identified]) -> dict[str, list[Identified]]:
    """The results of each size, named as in the tables."""
    sizes: dict[str, list[Identified]] = {}
    for row in identified:
        mark = " *" if row.extrapolated else ""
        sizes.setdefault(f"{_short(row.rows)} × {row.holders}{mark}", []).append(row)
    return sizes


def _short(rows: int) -> str:
    return f"{rows / 1e6:g} M" if rows >= 1_000_000 else f"{rows:,}"


def cell(row: Identified) -> str:
    """One result: threshold, FNIR and its interval."""
    if row.threshold is None:
        return NOT_MEASURABLE
    return f"{row.threshold:.3f}\n{percent(row.fnir)}\n{between(row.low, row.high)}"


def percent(value: float | None) -> str:
    """A rate in percent, two decimals."""
    return "" if value is None else f"{100 * value:.2f} %"


def between(low: float | None, high: float | None) -> str:
    """An interval in percent, one decimal."""
    if low is None or high is None:
        return ""
    digits = 0 if high >= 0.1 and low >= 0.01 and high - low > 0.02 else 1
    return f"{100 * low:.{digits}f}–{100 * high:.{digits}f} %"


def notes(result: Calibration) -> list[str]:
    """What the figures rest on."""
    lines = []
    if any(row.extrapolated and row.threshold is not None for row in result.identified):
        deepest = max(row.decades or 0 for row in result.identified)
        lines.append(
            "* extrapolated: more rows than the sample has people. Rows count as independent, and the impostor tail is "
            f"followed along a normal tail, {deepest:.1f} powers of ten below what the sample shows at most."
        )
        if (done := result.tail_check) is not None:
            lines.append(
                f"  How far that was off over {done.decades:.1f} powers of ten, fitted on {done.people} people and "
                f"compared with all: {done.mean:+.3f} ± {done.sd:.3f} in cosine, over {done.repeats} draws."
            )
        else:
            lines.append("  The sample is too small to check this extrapolation.")
    searched = next(iter(result.encrypted.values()), None)
    if searched is not None and searched.probes < len(result.sample.templates):
        lines.append(f"encrypted: over the first {searched.probes} of {len(result.sample.templates)} probes")
    if result.encrypted:
        total = sum(found.decisions for found in result.encrypted.values())
        lines.append(f"quantised and encrypted: {result.disagreements} of {total:,} decisions differ")
    return lines


def to_paste(result: Calibration) -> list[str]:
    """Lines for `node.toml` of a holder, and the option for a requester."""
    row = result.to_set
    if row is None:
        return [
            f"# no threshold: FPIR {result.options.fpir:g} at the largest of these sizes is {NOT_MEASURABLE} with this "
            "sample; give it more people, or --rows that it can show"
        ]
    kind = "extrapolated" if row.extrapolated else "measured"
    return [
        f"# FPIR {row.fpir:g} over {row.rows:,} rows x {row.holders} ({kind}): misses {percent(row.fnir)}, 95 % "
        f"{percent(row.low)} to {percent(row.high)}",
        "[policy]",
        f"minimum_threshold = {row.threshold:.4f}",
        f"# requester: lineup query --threshold {row.threshold:.4f}",
    ]
