"""The casework on the command line, `lineup case …`: every step of a case works without a browser.

Who acts is whose key file is given (`--key`). Decisions are signed with it. Here: staff, and a search up to a confirmed
match; `case_data` has core data, `case_oversight` what is looked at, deleted, recalled and counted.
"""

from __future__ import annotations

import json
from datetime import datetime, timezone
from pathlib import Path
from typing import Annotated, Any

import typer

from nodes.cli import case_data, case_oversight
from nodes.cli.case_common import (
    BANNER,
    Candidate,
    Handle,
    Key,
    Query,
    Reason,
    at_desk,
    case,
    output,
    person,
    plain,
    sign_with_key,
    split_names,
    tell,
    write_image,
)
from nodes.cli.options import Dir, Json, Largest, Models, Provider, ProviderName, tell_several
from pets.errors import printable


def register(app: typer.Typer) -> None:
    """Add these commands to `lineup`."""
    for more in (case_data, case_oversight):
        case.add_typer(more.commands)
    app.add_typer(case, name="case")


@person.command("add")
def add_person(
    folder: Dir,
    handle: Annotated[str, typer.Argument(help="Short name, such as a.officer.")],
    name: Annotated[str, typer.Option(help="Full name; stays at this node, encrypted.")],
    roles: Annotated[
        str,
        typer.Option(
            help="Of officer, approver, reviewer, releaser, data-protection, supervisor, admin, separated by commas."
        ),
    ],
    new_key: Annotated[Path, typer.Option("--new-key", help="New private key file, for the person alone.")],
    as_json: Json = False,
) -> None:
    """Enrol a member of staff and make a key file. Whoever holds the node's folder may do this."""
    from nodes.casework.desk import CaseDesk
    from nodes.casework.persons import new_key_file

    wanted: Any = split_names(roles)
    public = new_key_file(new_key)
    try:
        with CaseDesk.open(folder) as desk:
            made = desk.add_person(None, handle, name, wanted, public)
    except BaseException:
        new_key.unlink()  # nobody's key
        raise
    tell({"handle": handle, "roles": sorted(made.roles), "key": str(new_key)}, as_json,
          f"{handle}: {', '.join(sorted(made.roles))}; key in {new_key}")  # fmt: skip


@person.command("close")
def close_person(folder: Dir, handle: Handle, as_json: Json = False) -> None:
    """Withdraw all of a person's rights. What they signed remains."""
    from nodes.casework.desk import CaseDesk

    with CaseDesk.open(folder) as desk:
        desk.close_account(None, desk.person(handle))
    tell({"closed": handle}, as_json, f"{handle} may do nothing any more")


@person.command("list")
def list_persons(folder: Dir, as_json: Json = False) -> None:
    """The staff list (R 64(1)(g))."""
    from nodes.casework.desk import CaseDesk

    with CaseDesk.open(folder) as desk:
        staff = [
            {"handle": one.handle, "name": one.name, "roles": sorted(one.roles), "active": one.active,
             "key": one.key.fingerprint.hex() if one.key else None}
            for one in desk.staff()
        ]  # fmt: skip
    if as_json:
        print(json.dumps(staff))
        return
    for one in staff:
        state = "" if one["active"] else "  (closed)"
        output.print(printable(f"{one['handle']:<20} {one['name']:<30} {', '.join(one['roles'])}{state}"))  # type: ignore[arg-type]


@case.command("open")
def open_case(
    folder: Dir,
    key: Key,
    photo: Annotated[Path, typer.Argument(help="Photo of the probe, or a .npy file with one unit template.")],
    holders: Annotated[str, typer.Option(help="Holders to ask, separated by commas, such as ES,DE.")],
    case_number: Annotated[str, typer.Option("--case", help="Case number; stays at this node.")],
    offence: Annotated[str, typer.Option(help="Offence; stays at this node.")],
    max_penalty_years: Annotated[float, typer.Option(help="Maximum penalty of the offence, at least 1.")],
    threshold: Annotated[
        str | None, typer.Option(help="Smallest cosine of a hit. Default: the model's, 0.55 for SFace.")
    ] = None,
    max_candidates: Annotated[int, typer.Option(min=1, max=99, help="Cap on candidates of each holder.")] = 10,
    ladder: Annotated[str, typer.Option(help="Step by which the threshold climbs when the cap is exceeded.")] = "0.02",
    purpose: Annotated[str, typer.Option(help="As for `lineup query`.")] = "INVESTIGATION",
    subject: Annotated[str, typer.Option(help="suspect, convicted, victim, missing or remains.")] = "suspect",
    aim: Annotated[str, typer.Option(help="identify or verify.")] = "identify",
    authorisation: Annotated[str, typer.Option(help="Reference of the judicial authorisation (AIA 26(10)).")] = "",
    models: Models = None,
    provider: Provider = ProviderName.auto,
    largest: Largest = False,
    as_json: Json = False,
) -> None:
    """Submit a search for a second person's approval. An image of poor quality is refused at once (R 38)."""
    from nodes.casework.contents import Draft
    from nodes.operator.probe import prepare_probe
    from pets.thresholds import default_threshold

    probe = prepare_probe((photo,), models, provider.value, largest)
    tell_several(probe.several)
    chosen = f"{default_threshold(probe.spec):f}" if threshold is None else threshold
    draft = Draft(
        template=probe.template, model=probe.model, holders=split_names(holders.upper()), case=case_number,
        offence=offence,
        maximum_penalty_years=max_penalty_years, threshold=chosen, purpose=purpose, subject=subject, aim=aim,  # type: ignore[arg-type]
        cap=max_candidates, ladder=ladder, photo=probe.photo, quality=probe.quality, authorisation=authorisation,
    )  # fmt: skip
    with at_desk(folder, key) as (desk, acting):
        query = desk.open_query(acting, draft)
    tell({"query": query, "quality": probe.quality}, as_json, f"query {query}: a second person approves it "
          "(lineup case approve)")  # fmt: skip


@case.command()
def approve(folder: Dir, key: Key, query: Query, as_json: Json = False) -> None:
    """Approve another person's search; the running node starts it."""
    with at_desk(folder, key) as (desk, acting):
        desk.approve_launch(acting, query, sign_with_key(desk, acting, key, "launch", query))
    tell({"approved": query}, as_json, f"query {query} is approved; the running node starts it")


@case.command("list")
def list_queries(folder: Dir, key: Key, as_json: Json = False) -> None:
    """List all searches, the latest first."""
    with at_desk(folder, key) as (desk, acting):
        views = desk.queries(acting)
    if as_json:
        print(json.dumps(plain(views)))
        return
    for view in views:
        _print_query(view)


@case.command()
def show(folder: Dir, key: Key, query: Query, as_json: Json = False) -> None:
    """Show one search: its state, answers by holder and the IDs of its queries."""
    with at_desk(folder, key) as (desk, acting):
        view = desk.query(acting, query)
    if as_json:
        print(json.dumps(plain(view)))
        return
    _print_query(view)
    for holder, told in view.answers.items():
        output.print(printable(f"  {holder}: {told.status}, {told.candidates} candidates {told.reason or ''}"))
    for attempt in view.attempts:
        output.print(f"  evidence of query {attempt}")


def _print_query(view: Any) -> None:
    opened = datetime.fromtimestamp(view.opened, timezone.utc).isoformat(timespec="minutes")
    output.print(
        printable(
            f"{view.id}  {view.state:<9} {view.number}  opened {opened} by {view.opened_by}, approved by "
            f"{view.approved_by or 'nobody yet'}, {view.candidates} candidates"
        )
    )


@case.command()
def review(
    folder: Dir,
    key: Key,
    query: Query,
    images: Annotated[Path | None, typer.Option(help="Folder for the images of probe and candidates.")] = None,
    reason: Reason = "",
    as_json: Json = False,
) -> None:
    """Show your candidates in an order of your own, without rank, score or anybody else's opinion."""
    with at_desk(folder, key) as (desk, acting):
        found = desk.candidates_for(acting, query)
        if images is not None:
            images.mkdir(mode=0o700, exist_ok=True)
            probe = desk.view(acting, f"probe:{query}", reason)
            write_image(images / "probe.jpg", probe.photo)
            for one in found:
                write_image(images / f"{one.id}.jpg", desk.view(acting, f"candidate:{one.id}", reason).image)
    if as_json:
        print(json.dumps(plain(found)))
        return
    output.print(BANNER)
    for one in found:
        marks = ", ".join(filter(None, (one.status, "contested" if one.contested else "", one.acquired)))
        quality = "" if one.quality is None else f", quality {one.quality}"
        output.print(printable(f"{one.id}  from {one.holder}, {marks}{quality}; yours: {one.mine or 'not decided'}"))


@case.command()
def decide(
    folder: Dir,
    key: Key,
    candidate: Candidate,
    verdict: Annotated[str, typer.Argument(help="same, not-same or inconclusive.")],
    note: Annotated[str, typer.Option(help="Which features you compared.")],
    as_json: Json = False,
) -> None:
    """Lock your decision about a candidate, once."""
    words: dict[str, Any] = {"same": "same person", "not-same": "not the same person", "inconclusive": "inconclusive"}
    if verdict not in words:
        raise typer.BadParameter(f"must be one of {', '.join(words)}, got {verdict!r}", param_hint="VERDICT")
    with at_desk(folder, key) as (desk, acting):
        outcome = desk.lock_decision(acting, candidate, words[verdict], note)
    tell({"candidate": candidate, "outcome": outcome}, as_json, f"locked. {candidate}: {outcome}")


@case.command()
def outcome(folder: Dir, key: Key, candidate: Candidate, as_json: Json = False) -> None:
    """Show the outcome of a review and, once it is over, who decided what."""
    from nodes.casework.errors import NotYetLocked

    with at_desk(folder, key) as (desk, acting):
        told = desk.outcome(candidate)
        try:
            votes = [(handle, vote.verdict, vote.note) for handle, vote in desk.votes(acting, candidate)]
        except NotYetLocked:
            votes = []
    tell({"candidate": candidate, "outcome": told, "votes": votes}, as_json, f"{candidate}: {told}")
    if not as_json:
        for handle, verdict, note in votes:
            output.print(printable(f"  {handle}: {verdict}. {note}"))


@case.command()
def confirm(folder: Dir, key: Key, candidate: Candidate, as_json: Json = False) -> None:
    """Sign a match that you found. The last reviewer's signature confirms it, and the holder is told."""
    with at_desk(folder, key) as (desk, acting):
        told = desk.confirm(acting, candidate, sign_with_key(desk, acting, key, "confirm", candidate))
    tell({"candidate": candidate, "outcome": told}, as_json, f"{candidate}: {told}")
