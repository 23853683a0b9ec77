"""The commands around a holder's gallery: `lineup enroll`, `forget`, `contest`."""

from __future__ import annotations

from datetime import datetime, timezone
from pathlib import Path
from typing import Annotated

import msgspec
import typer
from rich.console import Console

from nodes.cli.options import Dir, Json, Largest, Models, Provider, ProviderName
from pets.errors import printable

output = Console(markup=False, soft_wrap=True)
errors = Console(stderr=True, markup=False, soft_wrap=True)


def register(app: typer.Typer) -> None:
    """Add these commands to `lineup`."""
    for command in (enroll, forget, contest):
        app.command()(command)


def enroll(
    folder: Dir,
    sources: Annotated[
        list[Path] | None, typer.Argument(help="Photos, folders of photos, or one .npy file of templates.")
    ] = None,
    subject: Annotated[bool, typer.Option("--subject", help="All these photos show one person.")] = False,
    folders: Annotated[bool, typer.Option("--folders", help="The photos in one folder show one person.")] = False,
    table: Annotated[Path | None, typer.Option(help="CSV file with the columns photo and subject.")] = None,
    apart: Annotated[
        bool, typer.Option("--apart", help="Keep each photo a row of its own: photos decades apart, at most four.")
    ] = False,
    category: Annotated[str, typer.Option(help="suspect, convicted, … as the node's policy allows.")] = "suspect",
    unidentified: Annotated[bool, typer.Option("--unidentified", help="The persons are not identified.")] = False,
    retain_until: Annotated[
        datetime | None, typer.Option(formats=["%Y-%m-%d"], help="Last day searched; default 3 years.")
    ] = None,
    models: Models = None,
    provider: Provider = ProviderName.auto,
    largest: Largest = False,
    as_json: Json = False,
) -> None:
    """Add subjects to a holder's gallery. Given again after an interruption, it goes on where it stopped.

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
        )
    if as_json:
        print(msgspec.json.encode(result).decode())
    else:
        for path, reference in result.photos.items():
            output.print(f"{reference}  {printable(path)}", highlight=False)
        output.print(f"added {result.added}, enrolled already {result.already_enrolled}, failed {len(result.failed)}")
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
    as_json: Json = False,
) -> None:
    """Delete subjects; the next query does not find them. Prints a receipt for each; status 1 if one is unknown."""
    from nodes.config.storage import holder_store

    with holder_store(folder) as store:
        receipts = store.forget_all(references, datetime.now(timezone.utc))
    if as_json:
        print(msgspec.json.encode(receipts).decode())
    else:
        for receipt in receipts:
            output.print(f"deleted {receipt.reference} at {receipt.time:%Y-%m-%d %H:%M:%S} UTC", highlight=False)
    _remind(folder, references)
    if unknown := sorted(set(references) - {receipt.reference for receipt in receipts}):
        errors.print(f"not here: {', '.join(unknown)}", highlight=False)
        raise typer.Exit(1)


def _remind(folder: Path, references: list[str]) -> None:
    """Say who else has what was deleted or contested here: a person tells them (R 64(1)(m))."""
    from nodes.casework.desk import CaseDesk

    with CaseDesk.open(folder) as desk:
        for reference in references:
            if peers := desk.receivers(reference):
                told = (
                    f"{reference} was given to {', '.join(peers)}: tell them with `lineup case recall` within 48 hours"
                )
                errors.print(told, highlight=False, markup=False)


def contest(
    folder: Dir,
    reference: Annotated[str, typer.Argument(help="Reference number.")],
    clear: Annotated[bool, typer.Option("--clear", help="Take the mark off; needs --authority.")] = False,
    authority: Annotated[str, typer.Option(help="The decision that clears the mark; kept encrypted.")] = "",
    as_json: Json = False,
) -> None:
    """Mark a subject's accuracy as contested; only a decision that is named clears the mark. Queries still find it."""
    from nodes.operator.enrolment import contest as run

    if bool(authority) != clear:
        raise typer.BadParameter("--clear and --authority go together", param_hint="--authority")
    subject = run(folder, reference, authority if clear else None)
    _remind(folder, [reference])
    if as_json:
        print(msgspec.json.encode({"reference": subject.reference, "contested": subject.contested}).decode())
    else:
        output.print(f"{subject.reference} is {'' if subject.contested else 'not '}contested", highlight=False)
