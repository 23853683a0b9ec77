"""`lineup node outage`: tell the peers of an outage that is planned, take it back, or see what is planned."""

from __future__ import annotations

import json
from datetime import datetime, timezone
from typing import Annotated

import msgspec
import typer
from rich.console import Console

from nodes.cli.options import Dir, Json
from pets.errors import InputError

output = Console(markup=False, soft_wrap=True)


def outage(
    folder: Dir,
    begins: Annotated[str, typer.Option(help="When it begins, ISO 8601; without a time zone: UTC.")] = "",
    ends: Annotated[str, typer.Option(help="When it ends.")] = "",
    why: Annotated[str, typer.Option(help="Why, for the peers' operators: 1 to 200 characters.")] = "",
    withdraw: Annotated[bool, typer.Option("--withdraw", help="Take back what was announced.")] = False,
    as_json: Json = False,
) -> None:
    """Tell the peers of a planned outage: each asks the running node every minute. Without options: what is planned."""
    from nodes.config.schema import load_config
    from nodes.identity.identity import load_peers
    from nodes.operator.client import NodeNotRunning, outages
    from nodes.service.outage import Known, Outage, announce, announced

    config = load_config(folder)
    if withdraw:
        announce(folder, None)
    elif begins or ends or why:
        try:
            announce(folder, Outage(_moment(begins), _moment(ends), why))
        except ValueError as error:
            raise InputError(f"outage from {begins!r:.40} to {ends!r:.40}: {error}") from None
    own = announced(folder, datetime.now(timezone.utc))
    try:
        known = outages(folder)
    except NodeNotRunning:  # then nothing is known of anybody
        known = Known({}, tuple(sorted(set(load_peers(config)) - {config.name})))
    known.planned.update({} if own is None else {config.name: own})
    if as_json:
        print(json.dumps(msgspec.to_builtins(known)))
        return
    for who, one in sorted(known.planned.items()):
        output.print(f"{who}: {one.begins.isoformat()} to {one.ends.isoformat()}: {one.why}", highlight=False)
    if known.unheard:
        output.print(f"not heard from, and what they plan is unknown: {', '.join(known.unheard)}")
    elif not known.planned:
        output.print("no outage is planned")


def _moment(told: str) -> datetime:
    moment = datetime.fromisoformat(told.replace("Z", "+00:00"))
    return moment if moment.tzinfo else moment.replace(tzinfo=timezone.utc)
