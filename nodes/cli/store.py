"""Maintain a node's database: `lineup store backup`, `restore`, `rekey`, `compact`."""

from __future__ import annotations

from datetime import datetime, timezone
from pathlib import Path
from typing import Annotated

import msgspec
import typer
from rich.console import Console

from nodes.cli.options import Dir, Json

store = typer.Typer(help="Back up, restore and re-encrypt a node's database.", no_args_is_help=True)
output = Console(markup=False, soft_wrap=True)
errors = Console(stderr=True, markup=False, soft_wrap=True)

OldKey = Annotated[Path | None, typer.Option(help="File of an earlier storage key.")]


def register(app: typer.Typer) -> None:
    """Add these commands to `lineup`."""
    app.add_typer(store, name="store")


@store.command()
def backup(
    folder: Dir, file: Annotated[Path, typer.Argument(help="File to write; must not exist.")], as_json: Json = False
) -> None:
    """Copy a node's databases while it runs: the gallery to FILE, templates, casework and console beside it.

    They are encrypted as the databases are. What is in PostgreSQL is left
    out: copy that first, with pg_dump --format=custom --file=FILE.
    """
    from nodes.operator.database import backup as run
    from nodes.operator.database import in_postgresql

    made = {str(path): _size(path) for path in run(folder, file)}
    elsewhere = in_postgresql(folder)
    if as_json:
        told = {"file": str(file), "bytes": made.pop(str(file), None), "beside": made, "in_postgresql": elsewhere}
        print(msgspec.json.encode(told).decode())
        return
    for path, size in made.items():
        output.print(f"{path}: {size:,} bytes; keep it apart from the storage key", highlight=False)
    if elsewhere:
        left_out = f"{' and '.join(elsewhere)}: in PostgreSQL, so left out; pg_dump copies that, and before this"
        errors.print(left_out, highlight=False)


def _size(path: Path) -> int:
    files = path.rglob("*") if path.is_dir() else [path]
    return sum(file.stat().st_size for file in files if file.is_file())


@store.command()
def restore(
    folder: Dir,
    file: Annotated[
        Path | None,
        typer.Argument(help="The backup. PostgreSQL: run pg_restore first; here only what lies beside FILE is used."),
    ] = None,
    old_key: OldKey = None,
    yes: Annotated[bool, typer.Option("--yes", help="Restore even if data is lost.")] = False,
    as_json: Json = False,
) -> None:
    """Replace the database with a backup, while the node is stopped.

    What happened since is taken over from the present database: who was
    forgotten or contested, which queries were answered, quotas. Casework and
    console stay as they are, unless they are missing or damaged.

    If that cannot be read, or subjects were enrolled since, nothing is done
    without --yes. After such a loss the node refuses warrants older than the
    restore; who was forgotten since must be forgotten again by hand.
    """  # short lines: the help keeps them
    from nodes.operator.database import restore as run

    result = run(folder, file, datetime.now(timezone.utc), old_key=old_key, yes=yes)
    if as_json:
        print(msgspec.json.encode(result).decode())
        return
    output.print(
        f"{result.subjects} subjects restored, {result.forgotten_again} of the backup forgotten again, "
        f"{result.expired} expired",
        highlight=False,
    )
    for what in result.lost:
        errors.print(f"lost: {what}", highlight=False)
    for path in result.aside:
        errors.print(f"put aside: {path}; delete it once nothing more can be got from it", highlight=False)
    if result.refuses_until is not None:
        errors.print(
            f"queries asked until {result.refuses_until:%Y-%m-%d %H:%M:%S} UTC are refused; "
            "forget again what was forgotten since the backup: lineup forget",
            highlight=False,
        )


@store.command()
def rekey(folder: Dir, old_key: OldKey = None, as_json: Json = False) -> None:
    """Encrypt database and sealed files under a new key, with the node stopped. If interrupted, run it again.

    Replaces the key file with a new key. The previous key stays beside it, for
    backups made under it.

    If the key comes from the environment, put the new one there and name a
    file that holds the previous one with --old-key.
    """
    from nodes.operator.database import rekey as run
    from nodes.operator.progress import progress_bar

    with progress_bar(errors, "encrypting anew", None) as progress:
        result = run(folder, old_key=old_key, progress=progress)
    if as_json:
        print(msgspec.json.encode(result).decode())
        return
    output.print(f"{result.subjects} subjects and {result.sealed_files} sealed files encrypted anew", highlight=False)
    if result.old_key is not None:
        output.print(
            f"the previous key lies in {result.old_key}: older backups need it; delete it when none is kept",
            highlight=False,
        )


@store.command()
def compact(folder: Dir, as_json: Json = False) -> None:
    """Leave out the places of rows that were erased: every search reads them, as zeros. The node may run.

    Rewrites all templates behind the first such place, which takes a minute
    or more at tens of millions; whoever would change or search the gallery
    waits, or is refused after a while. Preparations that wait are made anew.
    """
    from nodes.operator.database import compact as run

    with errors.status("rewriting templates"):
        left_out = run(folder)
    if as_json:
        print(msgspec.json.encode({"left_out": left_out}).decode())
        return
    output.print(f"{left_out:,} place{'' if left_out == 1 else 's'} of erased rows left out", highlight=False)
