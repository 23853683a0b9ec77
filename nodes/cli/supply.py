"""`lineup prepare --dir …`, and what `lineup node status` says of preparations."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from itertools import groupby
from pathlib import Path

import msgspec
from rich.console import Console

from nodes.cli.options import ProviderName
from nodes.operator.progress import progress_bar
from nodes.service.operator_api import PrepareReport, PrepareRequest, Progress, Supplies, WaitingTold, explained
from pets.errors import InputError
from pets.params import Parameters, check_dim


def run_prepare_at_node(
    folder: Path,
    holders: tuple[str, ...],
    count: int,
    params: Parameters,
    *,
    dim: int | None,
    models: Path | None,
    provider: ProviderName,
    console: Console,
    errors: Console,
    as_json: bool,
) -> int:
    """Have the running requester node prepare; gives the exit status. Raises `InputError`, `NodeNotRunning`."""
    from nodes.operator.client import check_asks, prepare

    check_asks(folder)
    size, model = _probes_to_come(dim, models, provider)
    try:
        request = msgspec.convert(
            {"holders": holders, "count": count, "dim": size, "model": model, "preset": params.preset}, PrepareRequest
        )
    except msgspec.ValidationError as error:
        raise InputError(f"such preparations cannot be asked for: {error}") from None
    with progress_bar(errors, f"preparing {count} (rows)", None) as moves:

        def told(progress: Progress) -> None:
            moves(progress.rows, progress.of or None)

        report = prepare(folder, request, told)
    if as_json:
        print(msgspec.json.encode(report).decode())
    else:
        for line in report_lines(report, holders):
            console.print(line, highlight=False, soft_wrap=True)
    return 0 if report.made == report.asked and not report.refused else 1


def _probes_to_come(dim: int | None, models: Path | None, provider: ProviderName) -> tuple[int, bytes]:
    from protocol.terms import SYNTHETIC_MODEL

    if dim is not None:
        check_dim(dim)
        return dim, SYNTHETIC_MODEL
    from pets.faces import FaceModel

    spec = FaceModel.load(models, provider.value).spec
    return spec.dim, spec.digest()


def report_lines(report: PrepareReport, holders: tuple[str, ...]) -> Iterator[str]:
    """How many wait now, and who refused."""
    one = report.made == 1
    waits = f"{report.made} preparation{'' if one else 's'} of {report.asked} now wait{'s' if one else ''}"
    yield f"{waits} for searches of {', '.join(holders)}, made in {report.seconds:.2f} s"
    for holder, answer in report.refused.items():
        yield f"{answer.status.upper():<11} {holder}  {explained(holder, answer)}"


def supply_lines(told: Supplies) -> Iterator[str]:
    """What waits, for whom and since when; what became of others; whether the node makes enough."""

    def alike(one: WaitingTold) -> tuple[str, tuple[str, ...], bool]:
        return one.requester, one.holders, one.on_disk

    for (requester, holders, on_disk), group in groupby(sorted(told.waiting, key=alike), key=alike):
        same = list(group)
        oldest = max(same, key=lambda one: one.age_seconds)
        size = sum(one.size_bytes for one in same) / 1e6
        place = "sealed on disk" if on_disk else "in memory"
        yield (
            f"{len(same)} wait{'s' if len(same) == 1 else ''} for {requester} to search {', '.join(holders)}: "
            f"{size:.1f} MB {place}, the oldest made {_time(oldest.made)}, until {_time(oldest.expires)} UTC"
        )
    if not told.waiting:
        yield "none waits"
    yield (
        f"since the start {told.made} made, {told.spent} used, {told.expired} too old, {told.dropped} dropped, "
        f"{told.refused} refused; {told.being_made} being made"
    )
    if told.per_day is None:
        return
    pace = f"at the pace of the last ones this node makes {told.per_day:,} a day"
    if told.quota_per_day is not None:
        enough = "" if told.per_day >= told.quota_per_day else ": TOO FEW"
        pace += f"; its policy grants {told.quota_per_day:,} searches a day{enough}"
    yield pace


def _time(iso: str) -> str:
    return datetime.fromisoformat(iso).strftime("%Y-%m-%d %H:%M")
