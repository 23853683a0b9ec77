"""The casework on the command line, `lineup case …`: every step of a case works without a browser.

Who acts is whose key file is given (`--key`). Decisions are signed with it.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, is_dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
import typer
from rich.console import Console

from nodes.cli.options import Dir, Json, Largest, Models, Provider, ProviderName
from pets.errors import InputError, printable

if TYPE_CHECKING:
    from nodes.casework.desk import CaseDesk
    from nodes.casework.persons import Person

case = typer.Typer(
    help="From a candidate to a confirmed match and core data: what persons decide.", no_args_is_help=True
)
person = typer.Typer(help="Staff: who may do what, with which key.", no_args_is_help=True)
case.add_typer(person, name="person")
output = Console(markup=False, soft_wrap=True, highlight=False)

BANNER = "Candidate, not identified"
Key = Annotated[Path, typer.Option("--key", help="Your private key file: says who acts, and signs decisions.")]
Query = Annotated[str, typer.Argument(help="The query's identity, as `lineup case list` shows it.")]
Candidate = Annotated[str, typer.Argument(help="The candidate's identity, as `lineup case review` shows it.")]
Handle = Annotated[str, typer.Argument(help="The person's short name.")]
RequestId = Annotated[
    str, typer.Argument(metavar="REQUEST", help="The request's identity, as `lineup case requests` shows it.")
]
Reason = Annotated[str, typer.Option("--reason", help="Why you look at this; written down.")]


def register(app: typer.Typer) -> None:
    """Add these commands to `lineup`."""
    app.add_typer(case, name="case")


@contextmanager
def _acting(folder: Path, key: Path) -> Iterator[tuple[CaseDesk, Person]]:
    from nodes.casework.desk import CaseDesk
    from nodes.casework.persons import read_key_file

    public = read_key_file(key)
    with CaseDesk.open(folder) as desk:
        for one in desk.staff():
            if one.key == public:
                yield desk, one
                return
    raise InputError(f"{key} is nobody's key at this node: `lineup case person add`")


def _sign(desk: CaseDesk, acting: Person, key: Path, decision: Any, target: str, **details: Any) -> Any:
    from nodes.casework.persons import sign_with_file

    return sign_with_file(key, desk.to_sign(acting, decision, target, **details))


def _show(value: Any, as_json: bool, line: str) -> None:
    """One result, as JSON or as a line."""
    if as_json:
        print(json.dumps(_plain(value), default=str))
    else:
        output.print(printable(line))


def _plain(value: Any) -> Any:
    if is_dataclass(value) and not isinstance(value, type):
        return _plain(asdict(value))
    if isinstance(value, msgspec.Struct):
        return msgspec.to_builtins(value)
    if isinstance(value, dict):
        return {key: _plain(one) for key, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(one) for one in value]
    return value


@person.command("add")
def add_person(
    folder: Dir,
    handle: Annotated[str, typer.Argument(help="Short name, such as a.officer.")],
    name: Annotated[str, typer.Option(help="Full name; stays at this node, encrypted.")],
    roles: Annotated[
        str,
        typer.Option(help="Of officer, approver, reviewer, releaser, data-protection, supervisor, admin, by commas."),
    ],
    new_key: Annotated[Path, typer.Option("--new-key", help="New private key file, for the person alone.")],
    as_json: Json = False,
) -> None:
    """Enrol a member of staff and make a key file. Whoever holds the node's folder may do this."""
    from nodes.casework.desk import CaseDesk
    from nodes.casework.persons import new_key_file

    with CaseDesk.open(folder) as desk:
        wanted: Any = _names(roles)
        made = desk.add_person(None, handle, name, wanted)
        desk.set_key(None, made, new_key_file(new_key))
    _show({"handle": handle, "roles": sorted(made.roles), "key": str(new_key)}, as_json,
          f"{handle}: {', '.join(sorted(made.roles))}; key in {new_key}")  # fmt: skip


@person.command("close")
def close_person(folder: Dir, handle: Handle, as_json: Json = False) -> None:
    """End what a person may do. What they signed stays."""
    from nodes.casework.desk import CaseDesk

    with CaseDesk.open(folder) as desk:
        desk.close_account(None, desk.person(handle))
    _show({"closed": handle}, as_json, f"{handle} may do nothing any more")


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
    holders: Annotated[str, typer.Option(help="Holders to ask, such as ES,DE.")],
    case_number: Annotated[str, typer.Option("--case", help="Case number; stays at this node.")],
    offence: Annotated[str, typer.Option(help="Offence; stays at this node.")],
    max_penalty_years: Annotated[float, typer.Option(help="Maximum penalty of the offence, at least 1.")],
    threshold: Annotated[str, typer.Option(help="Smallest cosine of a hit.")] = "0.55",
    max_candidates: Annotated[int, typer.Option(min=1, max=99, help="Cap on candidates of each holder.")] = 10,
    ladder: Annotated[str, typer.Option(help="Step by which the threshold climbs when the cap is exceeded.")] = "0.02",
    purpose: Annotated[str, typer.Option(help="As of `lineup query`.")] = "INVESTIGATION",
    subject: Annotated[str, typer.Option(help="suspect, convicted, victim, missing or remains.")] = "suspect",
    aim: Annotated[str, typer.Option(help="identify or verify.")] = "identify",
    authorisation: Annotated[str, typer.Option(help="Reference of the judicial authorisation (AIA 26(10)).")] = "",
    models: Models = None,
    provider: Provider = ProviderName.auto,
    largest: Largest = False,
    as_json: Json = False,
) -> None:
    """Put a search up for a second person's approval. An image of poor quality is refused at once (R 38)."""
    from nodes.casework.contents import Draft
    from nodes.operator.probe import prepare_probe

    probe = prepare_probe(photo, models, provider.value, largest)
    draft = Draft(
        template=probe.template, model=probe.model, holders=_names(holders), case=case_number, offence=offence,
        maximum_penalty_years=max_penalty_years, threshold=threshold, purpose=purpose, subject=subject, aim=aim,  # type: ignore[arg-type]
        cap=max_candidates, ladder=ladder, photo=probe.photo, quality=probe.quality, authorisation=authorisation,
    )  # fmt: skip
    with _acting(folder, key) as (desk, acting):
        query = desk.open_query(acting, draft)
    _show({"query": query, "quality": probe.quality}, as_json, f"query {query}: a second person approves it "
          "(lineup case approve)")  # fmt: skip


@case.command()
def approve(folder: Dir, key: Key, query: Query, as_json: Json = False) -> None:
    """Approve another person's search; the running node starts it."""
    with _acting(folder, key) as (desk, acting):
        desk.approve_launch(acting, query, _sign(desk, acting, key, "launch", query))
    _show({"approved": query}, as_json, f"query {query} is approved; the running node starts it")


@case.command("list")
def list_queries(folder: Dir, key: Key, as_json: Json = False) -> None:
    """All searches, the last first."""
    with _acting(folder, key) as (desk, acting):
        views = desk.queries(acting)
    if as_json:
        print(json.dumps(_plain(views)))
        return
    for view in views:
        _print_query(view)


@case.command()
def show(folder: Dir, key: Key, query: Query, as_json: Json = False) -> None:
    """One search: state, answers by holder, identities of its queries."""
    with _acting(folder, key) as (desk, acting):
        view = desk.query(acting, query)
    if as_json:
        print(json.dumps(_plain(view)))
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
    images: Annotated[Path | None, typer.Option(help="Folder to write probe and candidates' images to.")] = None,
    reason: Reason = "",
    as_json: Json = False,
) -> None:
    """Your candidates, in an order of your own, without rank, score or anybody's word."""
    with _acting(folder, key) as (desk, acting):
        found = desk.candidates_for(acting, query)
        if images is not None:
            images.mkdir(mode=0o700, exist_ok=True)
            probe = desk.view(acting, f"probe:{query}", reason)
            _write_image(images / "probe.jpg", probe.photo)
            for one in found:
                _write_image(images / f"{one.id}.jpg", desk.view(acting, f"candidate:{one.id}", reason).image)
    if as_json:
        print(json.dumps(_plain(found)))
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
    note: Annotated[str, typer.Option(help="The features that you compared.")],
    as_json: Json = False,
) -> None:
    """Lock your decision about a candidate, once."""
    words: dict[str, Any] = {"same": "same person", "not-same": "not the same person", "inconclusive": "inconclusive"}
    if verdict not in words:
        raise typer.BadParameter(f"must be one of {', '.join(words)}, got {verdict!r}", param_hint="VERDICT")
    with _acting(folder, key) as (desk, acting):
        outcome = desk.lock_decision(acting, candidate, words[verdict], note)
    _show({"candidate": candidate, "outcome": outcome}, as_json, f"locked. {candidate}: {outcome}")


@case.command()
def outcome(folder: Dir, key: Key, candidate: Candidate, as_json: Json = False) -> None:
    """The outcome of a review, and who found what once it is over."""
    from nodes.casework.errors import NotYetLocked

    with _acting(folder, key) as (desk, acting):
        told = desk.outcome(candidate)
        try:
            votes = [(handle, vote.verdict, vote.note) for handle, vote in desk.votes(acting, candidate)]
        except NotYetLocked:
            votes = []
    _show({"candidate": candidate, "outcome": told, "votes": votes}, as_json, f"{candidate}: {told}")
    if not as_json:
        for handle, verdict, note in votes:
            output.print(printable(f"  {handle}: {verdict}. {note}"))


@case.command()
def confirm(folder: Dir, key: Key, candidate: Candidate, as_json: Json = False) -> None:
    """Sign a match that you found. With the last reviewer's signature it is confirmed, and the holder is told."""
    with _acting(folder, key) as (desk, acting):
        told = desk.confirm(acting, candidate, _sign(desk, acting, key, "confirm", candidate))
    _show({"candidate": candidate, "outcome": told}, as_json, f"{candidate}: {told}")


@case.command()
def request(
    folder: Dir,
    key: Key,
    candidate: Candidate,
    facts: Annotated[str, typer.Option(help="The facts (R 47(1)); sealed to the holder.")],
    offence_category: Annotated[str, typer.Option(help="Small letters, such as robbery.")],
    fields: Annotated[str, typer.Option(help="Fields by commas; default: all eleven of R 47(4).")] = "",
    as_json: Json = False,
) -> None:
    """Ask the holder for core data of a confirmed match. Its clock of 48 hours starts when it has this."""
    from protocol.follow_up import IDENTIFIED_FIELDS

    wanted: Any = _names(fields) or IDENTIFIED_FIELDS
    details: dict[str, Any] = {"fields": wanted, "facts": facts, "offence": offence_category}
    with _acting(folder, key) as (desk, acting):
        signed = _sign(desk, acting, key, "request-core-data", candidate, **details)
        made = desk.request_core_data(acting, candidate, wanted, facts, offence_category, signed)
    _show({"request": made}, as_json, f"request {made}")


@case.command()
def requests(folder: Dir, key: Key, as_json: Json = False) -> None:
    """Requests for core data, made or received, the most urgent first."""
    with _acting(folder, key) as (desk, acting):
        views = desk.requests(acting)
    if as_json:
        print(json.dumps(_plain(views)))
        return
    for view in views:
        hours = f"{view.left / 3600:.1f} h left" if view.state in ("waiting", "paused") else view.state
        alarm = "  OVERDUE" if view.overdue else "  ALARM" if view.alarm else ""
        ends = f"from {view.peer}" if view.direction == "received" else f"to {view.peer}"
        output.print(printable(f"{view.id}  {ends}, {view.state}, {hours}{alarm}; {', '.join(view.fields)}"))


@case.command()
def release(
    folder: Dir,
    key: Key,
    request_id: RequestId,
    record: Annotated[Path, typer.Option(help="JSON file: field to text, at most those of R 47(4) or (5).")],
    kind: Annotated[str, typer.Option(help="identified or unidentified.")] = "identified",
    late: Annotated[str, typer.Option(help="Why after the deadline.")] = "",
    as_json: Json = False,
) -> None:
    """Release core data, signed, at the holder."""
    try:
        filled = msgspec.json.decode(record.read_bytes(), type=dict[str, str])
    except msgspec.MsgspecError as error:
        raise InputError(f"{record} is no JSON object of texts: {error}") from None
    details: dict[str, Any] = {"record": filled, "kind": kind, "late": late}
    with _acting(folder, key) as (desk, acting):
        signed = _sign(desk, acting, key, "release-core-data", request_id, **details)
        desk.release_core_data(acting, request_id, filled, signed, kind, late)  # type: ignore[arg-type]
    _show({"released": request_id}, as_json, f"released: {request_id}")


@case.command()
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
    with _acting(folder, key) as (desk, acting):
        signed = _sign(desk, acting, key, "refuse-core-data", request_id, reason=told)
        desk.refuse_core_data(acting, request_id, told, signed)
    _show({"refused": request_id}, as_json, f"refused: {request_id}")


@case.command()
def pause(
    folder: Dir,
    key: Key,
    request_id: RequestId,
    reason: Annotated[str, typer.Option(help="Which judicial authorisation is sought (R 47(2)).")],
    as_json: Json = False,
) -> None:
    """Stop a request's clock while judicial authorisation is sought."""
    with _acting(folder, key) as (desk, acting):
        desk.pause_clock(acting, request_id, reason)
    _show({"paused": request_id}, as_json, f"the clock of {request_id} stands")


@case.command()
def resume(folder: Dir, key: Key, request_id: RequestId, as_json: Json = False) -> None:
    """Let a request's clock run on."""
    with _acting(folder, key) as (desk, acting):
        desk.resume_clock(acting, request_id)
    _show({"resumed": request_id}, as_json, f"the clock of {request_id} runs")


@case.command()
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
    """Look at personal data, without the image; who, what, when and why is written down."""
    with _acting(folder, key) as (desk, acting):
        found = desk.view(acting, what, reason, purpose)
    told = msgspec.to_builtins(found, builtin_types=(bytes,))
    for name in ("photo", "image"):
        content = told.pop(name, None)
        if image is not None and content is not None:
            _write_image(image, content)
    told = {name: value.hex() if isinstance(value, bytes) else value for name, value in told.items()}
    if as_json:
        print(json.dumps(told))
        return
    output.print(BANNER)
    for name, value in told.items():
        output.print(printable(f"{name}: {value}"))


@case.command("export")
def export_candidate(
    folder: Dir,
    key: Key,
    candidate: Candidate,
    out: Annotated[Path, typer.Option("--output", "-o", help="ANSI/NIST-ITL file to write.")],
    reason: Reason,
    receiver: Annotated[str, typer.Option(help="Name of the agency that the file is for.")] = "",
    as_json: Json = False,
) -> None:
    """Write a candidate as an ANSI/NIST-ITL Type-10 file, within this authority. Needs the extra [exchange]."""
    from datetime import date

    from nodes.casework.exchange.type10 import FaceRecord, write_face
    from nodes.private_files import replace_private

    with _acting(folder, key) as (desk, acting):
        shown = desk.view(acting, f"candidate:{candidate}", reason)
        name = desk.office.name
        if shown.image is None:
            raise InputError(f"candidate {candidate} came without an image")
        taken = date.fromisoformat(shown.acquired) if shown.acquired else None
        face = FaceRecord(shown.image, taken, name, shown.reference)
        replace_private(out, write_face(face, name, receiver or name, datetime.now(timezone.utc).date()))
    _show({"file": str(out)}, as_json, f"{out}: {BANNER}")


@case.command()
def views(folder: Dir, key: Key, as_json: Json = False) -> None:
    """Who looked at what, when and why (LED 25)."""
    with _acting(folder, key) as (desk, acting):
        seen = desk.views(acting)
    if as_json:
        print(json.dumps(_plain(seen)))
        return
    for one in seen:
        when = datetime.fromtimestamp(one.time, timezone.utc).isoformat(timespec="seconds")
        output.print(printable(f"{when}  {one.person}  {one.what}  {one.purpose}  to {one.recipient}: {one.reason}"))


@case.command()
def authorise(
    folder: Dir,
    key: Key,
    query: Query,
    reference: Annotated[str, typer.Option(help="Reference of the judicial authorisation.")] = "",
    refused: Annotated[
        bool, typer.Option("--refused", help="It was refused: stop, and delete what came of it.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Lodge the judicial authorisation of a search, or its refusal (AIA 26(10))."""
    with _acting(folder, key) as (desk, acting):
        if refused:
            receipts = desk.authorisation_refused(acting, query)
            _show(receipts, as_json, f"query {query} is stopped; {len(receipts)} candidates deleted")
            return
        desk.authorise(acting, query, reference)
    _show({"authorised": query}, as_json, f"query {query} is authorised")


@case.command()
def recall(
    folder: Dir,
    key: Key,
    reference: Annotated[str, typer.Argument(help="A reference of this node's gallery.")],
    why: Annotated[str, typer.Option(help="In words; sealed to who received it.")],
    kind: Annotated[str, typer.Option(help="delete, correct, contested or uncontested.")] = "delete",
    as_json: Json = False,
) -> None:
    """Tell everybody who received a reference that it must go, or is contested; receipts come back."""
    with _acting(folder, key) as (desk, acting):
        told = desk.recall(acting, reference, why, kind)  # type: ignore[arg-type]
    _show({"told": told}, as_json, f"told: {', '.join(told) or 'nobody: all have deleted it'}")


@case.command()
def recalls(folder: Dir, key: Key, as_json: Json = False) -> None:
    """Recalls made, and whether their receipts came within 48 hours."""
    with _acting(folder, key) as (desk, acting):
        made = desk.recalls(acting)
    if as_json:
        print(json.dumps(_plain(made)))
        return
    for one in made:
        due = datetime.fromtimestamp(one.due, timezone.utc).isoformat(timespec="minutes")
        output.print(f"{one.peer}: {'receipt is here' if one.answered else f'due {due}'}")


@case.command()
def delete(folder: Dir, key: Key, candidate: Candidate, as_json: Json = False) -> None:
    """Delete what was received about a candidate; its holder gets a receipt (R 50(3))."""
    with _acting(folder, key) as (desk, acting):
        receipt = desk.delete(acting, candidate)
    _show(receipt, as_json, f"deleted; receipt {receipt.statement}")


@case.command()
def onward(
    folder: Dir,
    key: Key,
    candidate: Candidate,
    recipient: Annotated[str, typer.Option(help="Who would get it.")],
    authorisation: Annotated[
        str, typer.Option(help="The giving state's prior authorisation; without it: refused.")
    ] = "",
    as_json: Json = False,
) -> None:
    """Note an onward transfer; refused without the giving state's prior authorisation (R 60)."""
    with _acting(folder, key) as (desk, acting):
        desk.onward_transfer(acting, candidate, recipient, authorisation)
    _show({"candidate": candidate, "recipient": recipient}, as_json, f"noted: {candidate} to {recipient}")


@case.command()
def report(
    folder: Dir,
    year: Annotated[int, typer.Option(help="A calendar year that is over.")],
    page: Annotated[Path | None, typer.Option("--html", help="Write the report to this file as a page.")] = None,
    table: Annotated[Path | None, typer.Option("--csv", help="Write the report to this file as tables.")] = None,
    as_json: Json = False,
) -> None:
    """The yearly report: searches, matches, false-match and disagreement rates, core data; small counts not told."""
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
        print(json.dumps(_plain(made)))
    else:
        output.print(as_csv(made), end="")


def _names(listed: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in listed.split(",") if name.strip())


def _write_image(path: Path, content: bytes | None) -> None:
    from nodes.private_files import replace_private

    if content is not None:
        replace_private(path, content)
