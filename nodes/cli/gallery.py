"""The commands around a holder's gallery: `lineup enroll`, `forget`, `contest`, `gallery list` and `show`."""

from __future__ import annotations

import json
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
import typer
from rich.console import Console

from nodes.cli.options import Dir, Json, Largest, Models, Provider, ProviderName, tell_several
from pets.errors import printable

if TYPE_CHECKING:
    from nodes.store import Subject

output = Console(markup=False, soft_wrap=True)
errors = Console(stderr=True, markup=False, soft_wrap=True)


gallery = typer.Typer(help="Show what a holder's gallery contains, without opening a photo.", no_args_is_help=True)


def register(app: typer.Typer) -> None:
    """Add these commands to `lineup`."""
    for command in (enroll, forget, contest):
        app.command()(command)
    app.add_typer(gallery, name="gallery")


ActingKey = Annotated[
    Path | None,
    typer.Option("--key", help="Your private key file, which shows who acts. Needed once the node has staff."),
]
Why = Annotated[str, typer.Option("--reason", help="Why you do this; recorded with your name and the time.")]


@gallery.command("list")
def list_subjects(folder: Dir, key: ActingKey = None, reason: Why = "", as_json: Json = False) -> None:
    """List all subjects, one a line, in the order of their enrolment."""
    from nodes.config.storage import holder_store
    from nodes.operator.acting import READERS
    from nodes.operator.enrolment import handler_at

    with holder_store(folder, handler_at(folder, key, reason, READERS)) as store:
        found = store.subjects()
        store.consulted([subject.reference for subject in found])
    if as_json:
        print(json.dumps([_told(subject) for subject in found]))
        return
    for subject in found:
        mark = ", CONTESTED" if subject.contested else ""
        since = f", enrolled {subject.enrolled:%Y-%m-%d}" if subject.enrolled else ""
        line = f"{subject.reference}  {subject.category.value}{since}, until {subject.retain_until}{mark}"
        output.print(line, highlight=False)
    output.print(f"{len(found)} subject{'' if len(found) == 1 else 's'}", highlight=False)


@gallery.command()
def show(
    folder: Dir,
    reference: Annotated[str, typer.Argument(help="Reference number.")],
    key: ActingKey = None,
    reason: Why = "",
    as_json: Json = False,
) -> None:
    """One subject: category, retention, quality, model, photos, when it was enrolled and when contested."""
    from nodes.config.storage import holder_store
    from nodes.operator.acting import READERS
    from nodes.operator.enrolment import handler_at

    with holder_store(folder, handler_at(folder, key, reason, READERS)) as store:
        told = _told(store.subject(reference))
        told["photo_names"] = list(store.photo_names(reference))
        store.consulted([reference])
        history = [
            f"{event.time:%Y-%m-%d %H:%M:%S} UTC: " + ("contested" if event.authority is None else "cleared")
            for event in store.contested_history(reference)
        ]
    told["history"] = history
    if as_json:
        print(json.dumps(told))
        return
    for name, value in told.items():
        for line in value if isinstance(value, list) else [value]:
            output.print(f"{name.replace('_', ' ')}: {_in_words(line)}", highlight=False)


@gallery.command()
def log(folder: Dir, key: ActingKey = None, reason: Why = "", as_json: Json = False) -> None:
    """Who enrolled, deleted, contested or looked up whom, when and why (Directive (EU) 2016/680, Article 25)."""
    from nodes.config.storage import holder_store
    from nodes.operator.acting import MONITORS
    from nodes.operator.enrolment import handler_at

    with holder_store(folder, handler_at(folder, key, reason, MONITORS)) as store:
        handled = store.handled()
    if as_json:
        print(msgspec.json.encode(handled).decode())
        return
    for one in handled:
        whom = one.references[0] if len(one.references) == 1 else f"{len(one.references)} subjects"
        who = one.person or "the node"
        line = f"{one.time:%Y-%m-%d %H:%M:%S} UTC  {who}: {one.act} {whom}{f', {one.reason}' if one.reason else ''}"
        output.print(printable(line), highlight=False)


def _in_words(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return "not known" if value is None else str(value)


def _told(subject: Subject) -> dict[str, Any]:
    return {
        "reference": subject.reference,
        "category": subject.category.value,
        "status": subject.status.value,
        "retain_until": subject.retain_until.isoformat(),
        "contested": subject.contested,
        "photo": subject.has_photo,
        "quality": subject.quality,
        "model": subject.model.hex(),
        "enrolled": subject.enrolled.isoformat(timespec="seconds") if subject.enrolled else None,
    }


def enroll(
    folder: Dir,
    sources: Annotated[
        list[Path] | None, typer.Argument(help="Photos, folders of photos, or one .npy file of templates.")
    ] = None,
    subject: Annotated[bool, typer.Option("--subject", help="All these photos show one person.")] = False,
    folders: Annotated[bool, typer.Option("--folders", help="The photos in each folder show one person.")] = False,
    table: Annotated[Path | None, typer.Option(help="CSV file with the columns photo and subject.")] = None,
    apart: Annotated[
        bool, typer.Option("--apart", help="Keep a row for each photo, at most four; for photos taken decades apart.")
    ] = False,
    category: Annotated[
        str,
        typer.Option(
            help="Category of the subjects, such as suspect or convicted; the node's policy says which it allows."
        ),
    ] = "suspect",
    unidentified: Annotated[
        bool, typer.Option("--unidentified", help="Nobody knows yet who these people are.")
    ] = False,
    retain_until: Annotated[
        datetime | None,
        typer.Option(formats=["%Y-%m-%d"], help="Last day on which they are searched. Default: in 3 years."),
    ] = None,
    models: Models = None,
    provider: Provider = ProviderName.auto,
    largest: Largest = False,
    key: ActingKey = None,
    reason: Why = "",
    as_json: Json = False,
) -> None:
    """Add subjects to a holder's gallery. Run it again after an interruption and it continues where it stopped.

    Several photos of one person (--subject, --folders, --table) become one
    template, which misses fewer than one photo does. One that does not look
    like the others is refused by name.

    Prints the reference number of every photo: a hit names that number and nothing else, so keep the list.
    """
    from nodes.operator.enrolment import Grouping
    from nodes.operator.enrolment import enroll as run
    from nodes.operator.progress import progress_bar
    from nodes.store import Category, Status

    allowed = [item.value for item in Category]
    if category not in allowed:
        raise typer.BadParameter(f"must be one of {', '.join(allowed)}, got {category!r}", param_hint="--category")
    if sum((subject, folders, table is not None)) > 1 or bool(sources) == (table is not None):
        problem = "give photos, with --subject or --folders or neither, or a --table"
        raise typer.BadParameter(problem, param_hint="SOURCES")
    grouping = Grouping.ALL if subject else Grouping.FOLDER if folders else Grouping.PHOTO
    with progress_bar(errors, "enrolling", None) as progress:
        result = run(
            folder,
            sources or (),
            grouping=grouping,
            apart=apart,
            table=table,
            category=Category(category),
            status=Status.UNIDENTIFIED if unidentified else Status.IDENTIFIED,
            retain_until=retain_until.date() if retain_until else None,
            models=models,
            provider=provider.value,
            largest=largest,
            progress=progress,
            key=key,
            reason=reason,
            tell=as_json,
        )
    if as_json:
        print(msgspec.json.encode(result).decode())
    else:
        for path, reference in result.photos.items():
            output.print(f"{reference}  {printable(path)}", highlight=False)
        output.print(f"added {result.added}, enrolled already {result.already_enrolled}, failed {len(result.failed)}")
        tell_several(result.several)
        if result.skipped:
            from pets.photos import tell_skipped

            errors.print(printable(tell_skipped([Path(name) for name in result.skipped])), highlight=False)
        for reason in result.failed.values():  # it names the photo
            errors.print(printable(reason), highlight=False)
    if result.failed:
        raise typer.Exit(1)


def forget(
    folder: Dir,
    references: Annotated[list[str], typer.Argument(help="Reference numbers.")],
    key: ActingKey = None,
    reason: Why = "",
    as_json: Json = False,
) -> None:
    """Delete subjects; the next query does not find them. Prints a receipt for each; status 1 if one is unknown."""
    from nodes.operator.enrolment import forget as run

    receipts = run(folder, references, key=key, reason=reason)
    if as_json:
        print(msgspec.json.encode(receipts).decode())
    else:
        for receipt in receipts:
            output.print(f"deleted {receipt.reference} at {receipt.time:%Y-%m-%d %H:%M:%S} UTC", highlight=False)
    _remind(folder, references, "delete")
    if unknown := sorted(set(references) - {receipt.reference for receipt in receipts}):
        errors.print(f"not here: {', '.join(unknown)}", highlight=False)
        raise typer.Exit(1)


def _remind(folder: Path, references: list[str], kind: str) -> None:
    """Say who else has what was deleted or contested here: a person tells them (R 64(1)(m))."""
    from nodes.casework.desk import CaseDesk

    with CaseDesk.open(folder) as desk:
        for reference in references:
            if peers := desk.receivers(reference):
                told = (
                    f"{reference} was given to {', '.join(peers)}: one of your staff tells them within 48 hours, with "
                    f"`lineup case recall --kind {kind}` (staff: `lineup case person --help`)"
                )
                errors.print(told, highlight=False, markup=False)


def contest(
    folder: Dir,
    reference: Annotated[str, typer.Argument(help="Reference number.")],
    clear: Annotated[bool, typer.Option("--clear", help="Remove the mark; needs --authority.")] = False,
    authority: Annotated[str, typer.Option(help="The decision that clears the mark; kept encrypted.")] = "",
    key: ActingKey = None,
    reason: Why = "",
    as_json: Json = False,
) -> None:
    """Mark a subject's accuracy as contested; only a named decision clears the mark. Hits on it carry the mark."""
    from nodes.operator.enrolment import contest as run

    if bool(authority) != clear:
        raise typer.BadParameter("--clear and --authority go together", param_hint="--authority")
    subject = run(folder, reference, authority if clear else None, key=key, reason=reason)
    _remind(folder, [reference], "uncontested" if clear else "contested")
    if as_json:
        print(msgspec.json.encode({"reference": subject.reference, "contested": subject.contested}).decode())
    else:
        output.print(f"{subject.reference} is {'' if subject.contested else 'not '}contested", highlight=False)
