"""Core data on the command line: asked for, released, refused; the clock."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import msgspec
import typer

from nodes.cli.case_common import (
    Candidate,
    Key,
    RequestId,
    at_desk,
    output,
    plain,
    sign_with_key,
    split_names,
    tell,
)
from nodes.cli.options import Dir, Json
from pets.errors import InputError, printable

commands = typer.Typer()


@commands.command()
def request(
    folder: Dir,
    key: Key,
    candidate: Candidate,
    facts: Annotated[str, typer.Option(help="The facts (R 47(1)); sealed to the holder.")],
    offence_category: Annotated[str, typer.Option(help="Category of the offence in lower case, such as robbery.")],
    fields: Annotated[str, typer.Option(help="Fields, separated by commas. Default: all eleven of R 47(4).")] = "",
    as_json: Json = False,
) -> None:
    """Ask the holder for core data of a confirmed match. Its 48 hours start when it receives the request."""
    from protocol.follow_up import IDENTIFIED_FIELDS

    wanted: Any = split_names(fields) or IDENTIFIED_FIELDS
    details: dict[str, Any] = {"fields": wanted, "facts": facts, "offence": offence_category}
    with at_desk(folder, key) as (desk, acting):
        signed = sign_with_key(desk, acting, key, "request-core-data", candidate, **details)
        made = desk.request_core_data(acting, candidate, wanted, facts, offence_category, signed)
    tell({"request": made}, as_json, f"request {made}")


@commands.command()
def requests(folder: Dir, key: Key, as_json: Json = False) -> None:
    """Requests for core data, made or received, the most urgent first."""
    with at_desk(folder, key) as (desk, acting):
        views = desk.requests(acting)
    if as_json:
        print(json.dumps(plain(views)))
        return
    for view in views:
        hours = f"{view.left / 3600:.1f} h left" if view.state in ("waiting", "paused") else view.state
        alarm = "  OVERDUE" if view.overdue else "  ALARM" if view.alarm else ""
        ends = f"from {view.peer}" if view.direction == "received" else f"to {view.peer}"
        output.print(printable(f"{view.id}  {ends}, {view.state}, {hours}{alarm}; {', '.join(view.fields)}"))


@commands.command()
def release(
    folder: Dir,
    key: Key,
    request_id: RequestId,
    record: Annotated[
        Path, typer.Option(help="JSON file from field names to text; at most the fields of R 47(4) or (5).")
    ],
    kind: Annotated[str, typer.Option(help="identified or unidentified.")] = "identified",
    late: Annotated[str, typer.Option(help="Why it comes after the deadline.")] = "",
    as_json: Json = False,
) -> None:
    """Release core data, signed, at the holder."""
    try:
        filled = msgspec.json.decode(record.read_bytes(), type=dict[str, str])
    except msgspec.MsgspecError as error:
        raise InputError(f"{record} is not a JSON object of texts: {error}") from None
    details: dict[str, Any] = {"record": filled, "kind": kind, "late": late}
    with at_desk(folder, key) as (desk, acting):
        signed = sign_with_key(desk, acting, key, "release-core-data", request_id, **details)
        desk.release_core_data(acting, request_id, filled, signed, kind, late)  # type: ignore[arg-type]
    tell({"released": request_id}, as_json, f"released: {request_id}")


@commands.command()
def refuse(
    folder: Dir,
    key: Key,
    request_id: RequestId,
    reason: Annotated[
        str,
        typer.Option(help="no-authorisation, not-released, facts-missing, withdrawn or national-security."),
    ],
    as_json: Json = False,
) -> None:
    """Refuse core data, signed, at the holder."""
    told: Any = reason
    with at_desk(folder, key) as (desk, acting):
        signed = sign_with_key(desk, acting, key, "refuse-core-data", request_id, reason=told)
        desk.refuse_core_data(acting, request_id, told, signed)
    tell({"refused": request_id}, as_json, f"refused: {request_id}")


@commands.command()
def pause(
    folder: Dir,
    key: Key,
    request_id: RequestId,
    reason: Annotated[str, typer.Option(help="Which judicial authorisation is sought (R 47(2)).")],
    as_json: Json = False,
) -> None:
    """Stop a request's clock while judicial authorisation is sought."""
    with at_desk(folder, key) as (desk, acting):
        desk.pause_clock(acting, request_id, reason)
    tell({"paused": request_id}, as_json, f"the clock of {request_id} stands")


@commands.command()
def resume(folder: Dir, key: Key, request_id: RequestId, as_json: Json = False) -> None:
    """Restart a request's clock."""
    with at_desk(folder, key) as (desk, acting):
        desk.resume_clock(acting, request_id)
    tell({"resumed": request_id}, as_json, f"the clock of {request_id} runs")
