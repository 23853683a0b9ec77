"""On the command line: what is looked at, authorised, recalled, deleted, passed on, exported and counted."""

from __future__ import annotations

import json
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import msgspec
import typer

from nodes.cli.case_common import (
    BANNER,
    Candidate,
    Key,
    Query,
    Reason,
    at_desk,
    output,
    plain,
    tell,
    write_image,
)
from nodes.cli.options import Dir, Json
from pets.errors import printable

if TYPE_CHECKING:
    from nodes.casework.deletion import RecallView

commands = typer.Typer()


@commands.command()
def view(
    folder: Dir,
    key: Key,
    what: Annotated[
        str, typer.Argument(help="probe:QUERY, case:QUERY, candidate:ID, facts:REQUEST, core-data:REQUEST.")
    ],
    reason: Reason,
    purpose: Annotated[
        str, typer.Option(help="establish-match, core-data, legal-assistance, log or audit (R 50(2)).")
    ] = "establish-match",
    image: Annotated[Path | None, typer.Option(help="Write the image to this file.")] = None,
    as_json: Json = False,
) -> None:
    """Look at personal data, without the image. Who looked at what, when and why is recorded."""
    with at_desk(folder, key) as (desk, acting):
        found = desk.view(acting, what, reason, purpose)
    told = msgspec.to_builtins(found, builtin_types=(bytes,))
    for name in ("photo", "image"):
        content = told.pop(name, None)
        if image is not None and content is not None:
            write_image(image, content)
    told = {name: value.hex() if isinstance(value, bytes) else value for name, value in told.items()}
    if as_json:
        print(json.dumps(told))
        return
    output.print(BANNER)
    for name, value in told.items():
        output.print(printable(f"{name}: {value}"))


@commands.command("export")
def export_candidate(
    folder: Dir,
    key: Key,
    candidate: Candidate,
    out: Annotated[Path, typer.Option("--output", "-o", help="ANSI/NIST-ITL file to write.")],
    reason: Reason,
    receiver: Annotated[str, typer.Option(help="Agency that the file is for; empty: this node.")] = "",
    authorisation: Annotated[
        str, typer.Option(help="The providing state's prior authorisation, for an agency of another state (R 60).")
    ] = "",
    as_json: Json = False,
) -> None:
    """Write a candidate whose review is over as an ANSI/NIST-ITL Type-10 file. Needs the extra `exchange`.

    For whom the file is, and why, is recorded.
    """
    from nodes.private_files import replace_private

    with at_desk(folder, key) as (desk, acting):
        replace_private(out, desk.export(acting, candidate, reason, receiver, authorisation))
    tell({"file": str(out)}, as_json, f"{out}: {BANNER}")


@commands.command()
def views(folder: Dir, key: Key, as_json: Json = False) -> None:
    """Who looked at what, when and why (LED 25)."""
    with at_desk(folder, key) as (desk, acting):
        seen = desk.views(acting)
    if as_json:
        print(json.dumps(plain(seen)))
        return
    for one in seen:
        when = datetime.fromtimestamp(one.time, timezone.utc).isoformat(timespec="seconds")
        output.print(printable(f"{when}  {one.person}  {one.what}  {one.purpose}  to {one.recipient}: {one.reason}"))


@commands.command()
def authorise(
    folder: Dir,
    key: Key,
    query: Query,
    reference: Annotated[str, typer.Option(help="Reference of the judicial authorisation.")] = "",
    refused: Annotated[bool, typer.Option("--refused", help="It was refused: stop, and delete the results.")] = False,
    as_json: Json = False,
) -> None:
    """Lodge the judicial authorisation of a search, or its refusal (AIA 26(10))."""
    with at_desk(folder, key) as (desk, acting):
        if refused:
            receipts = desk.authorisation_refused(acting, query)
            tell(receipts, as_json, f"query {query} is stopped; {len(receipts)} candidates deleted")
            return
        desk.authorise(acting, query, reference)
    tell({"authorised": query}, as_json, f"query {query} is authorised")


@commands.command()
def recall(
    folder: Dir,
    key: Key,
    reference: Annotated[str, typer.Argument(help="A reference of this node's gallery.")],
    why: Annotated[str, typer.Option(help="The reason in words; sealed to those who received the reference.")],
    kind: Annotated[str, typer.Option(help="delete, correct, contested or uncontested.")] = "delete",
    as_json: Json = False,
) -> None:
    """Tell those who got a reference that it must be deleted or corrected, or is contested; they return receipts."""
    with at_desk(folder, key) as (desk, acting):
        told = desk.recall(acting, reference, why, kind)  # type: ignore[arg-type]
    tell({"told": told}, as_json, f"told: {', '.join(told) or 'nobody: all have deleted it'}")


@commands.command()
def recalls(folder: Dir, key: Key, as_json: Json = False) -> None:
    """Recalls made, and when their receipts are due: 48 hours after they arrived."""
    with at_desk(folder, key) as (desk, acting):
        made = desk.recalls(acting)
    if as_json:
        print(json.dumps(plain(made)))
        return
    for one in made:
        output.print(f"{one.peer}: {'receipt is here' if one.answered else _due(one)}")


def _due(recall: RecallView) -> str:
    if recall.due is None:
        made = datetime.fromtimestamp(recall.made, timezone.utc).isoformat(timespec="minutes")
        return f"has not arrived since {made}; `lineup case recall` once more sends it anew"
    return f"due {datetime.fromtimestamp(recall.due, timezone.utc).isoformat(timespec='minutes')}"


@commands.command()
def delete(folder: Dir, key: Key, candidate: Candidate, as_json: Json = False) -> None:
    """Delete what was received about a candidate; its holder gets a receipt (R 50(3))."""
    with at_desk(folder, key) as (desk, acting):
        receipt = desk.delete(acting, candidate)
    tell(receipt, as_json, f"deleted; receipt {receipt.statement}")


@commands.command()
def onward(
    folder: Dir,
    key: Key,
    candidate: Candidate,
    recipient: Annotated[str, typer.Option(help="Who would receive the data.")],
    authorisation: Annotated[
        str, typer.Option(help="The providing state's prior authorisation; without it the transfer is refused.")
    ] = "",
    as_json: Json = False,
) -> None:
    """Record an onward transfer; refused without the providing state's prior authorisation (R 60)."""
    with at_desk(folder, key) as (desk, acting):
        desk.onward_transfer(acting, candidate, recipient, authorisation)
    tell({"candidate": candidate, "recipient": recipient}, as_json, f"noted: {candidate} to {recipient}")


@commands.command()
def report(
    folder: Dir,
    year: Annotated[int, typer.Option(help="A calendar year that is over.")],
    page: Annotated[Path | None, typer.Option("--html", help="Write the report to this file as a page.")] = None,
    table: Annotated[Path | None, typer.Option("--csv", help="Write the report to this file as tables.")] = None,
    as_json: Json = False,
) -> None:
    """Yearly report: searches, matches, false-match and disagreement rates, core data; small counts are suppressed."""
    from nodes.casework.desk import CaseDesk
    from nodes.casework.statistics import as_csv, as_html
    from nodes.private_files import write_public

    with CaseDesk.open(folder) as desk:
        made = desk.statistics(year)
    if page is not None:
        write_public(page, as_html(made).encode())
    if table is not None:
        write_public(table, as_csv(made).encode())
    if as_json:
        print(json.dumps(plain(made)))
    else:
        output.print(as_csv(made), end="")
