"""`lineup node impact …`: the record of the impact assessment that a node needs before it connects."""

from __future__ import annotations

import json
from datetime import date, datetime, timezone
from pathlib import Path
from typing import Annotated

import msgspec
import typer
from rich.console import Console

from nodes.cli.options import Dir, Json

impact = typer.Typer(help="The impact assessment that a node needs before it connects.", no_args_is_help=True)
output = Console(markup=False, soft_wrap=True, highlight=False)
Day = Annotated[str, typer.Option(help="Day of the assessment, such as 2026-11-28.")]


def _day(text: str, option: str) -> date:
    try:
        return date.fromisoformat(text)
    except ValueError:
        raise typer.BadParameter(f"must be a date such as 2026-11-28, got {text!r}", param_hint=option) from None


def _today() -> date:
    return datetime.now(timezone.utc).date()


@impact.command()
def lodge(
    folder: Dir,
    document: Annotated[Path, typer.Argument(help="The assessment; only its hash is kept.")],
    by: Annotated[str, typer.Option(help="Who made the assessment.")],
    on: Day = "",
    review: Annotated[str, typer.Option(help="Last day on which it is valid, such as 2028-11-28.")] = "",
    as_json: Json = False,
) -> None:
    """Record who made the assessment, when, and the document's hash. Without this record no node serves."""
    from nodes.casework.impact import lodge as run
    from nodes.identity.identity import load_identity

    today = _today()
    day = _day(on, "--on") if on else today
    until = _day(review, "--review") if review else None
    record = run(load_identity(folder), folder, document, by, day, today, until)
    if as_json:
        print(msgspec.json.encode(msgspec.structs.replace(record, signature=b"")).decode())
    else:
        output.print(f"{record.document}, SHA-256 {record.sha256}, assessed by {record.by} on {record.on}")


@impact.command()
def show(folder: Dir, as_json: Json = False) -> None:
    """Show the lodged record; exit status 1 if there is no valid one."""
    from nodes.casework.impact import check
    from nodes.identity.identity import load_identity

    record = check(load_identity(folder), folder, _today())
    if as_json:
        print(msgspec.json.encode(msgspec.structs.replace(record, signature=b"")).decode())
    else:
        output.print(f"{record.document}, SHA-256 {record.sha256}, assessed by {record.by} on {record.on}")


@impact.command()
def template(
    folder: Dir,
    out: Annotated[Path, typer.Option("--output", "-o", help="Markdown file to write.")],
    kind: Annotated[str, typer.Option(help="dpia (LED 27) or fria (AIA 27).")] = "dpia",
    as_json: Json = False,
) -> None:
    """Write an assessment's template, filled with what the node knows of itself; people fill in the rest."""
    from nodes.casework.impact_template import template as made
    from nodes.config.schema import load_config
    from nodes.private_files import write_public

    if kind not in ("dpia", "fria"):
        raise typer.BadParameter(f"must be dpia or fria, got {kind!r}", param_hint="--kind")
    write_public(out, made(load_config(folder), kind, _today()).encode(), overwrite=False)  # type: ignore[arg-type]
    if as_json:
        print(json.dumps({"file": str(out), "kind": kind}))
    else:
        output.print(f"{out}: complete it, then lodge it with `lineup node impact lodge`")
