"""The commands around a node: `lineup node …`, `enroll`, `forget`, `query`."""

from __future__ import annotations

import json
from datetime import datetime, timezone
from pathlib import Path
from typing import Annotated

import msgspec
import typer
from rich.console import Console
from rich.table import Table

from nodes.choices import Largest, Models, Provider, ProviderName

node = typer.Typer(help="Set up and run a national node.", no_args_is_help=True)
output = Console()
errors = Console(stderr=True)

Dir = Annotated[Path, typer.Option("--dir", help="The node's folder.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON for machines.")]


def register(app: typer.Typer) -> None:
    """Add these commands to `lineup`."""
    app.add_typer(node, name="node")
    for command in (enroll, forget, query):
        app.command()(command)


@node.command()
def init(
    folder: Dir,
    name: Annotated[str, typer.Option(help="Name, beginning with the state's code, such as ES or ES-2.")],
    role: Annotated[str, typer.Option(help="requester, holder or router.")],
    address: Annotated[str, typer.Option(help="How the others reach it: https://host:port.")],
    authority: Annotated[Path, typer.Option(help="Folder of the certificate authority; created if absent.")],
    states: Annotated[str, typer.Option(help="States whose queries it accepts, such as FR,IT.")] = "",
    as_json: Json = False,
) -> None:
    """Make keys, certificates and a configuration for a node, and publish its public identity."""
    from nodes.config import Role
    from nodes.identity import init_node, load_identity

    try:
        kind = Role(role)
    except ValueError:
        raise typer.BadParameter(f"must be requester, holder or router, got {role!r}", param_hint="--role") from None
    accepted = tuple(part for part in states.split(",") if part)
    config = init_node(folder, name=name, role=kind, address=address, authority=authority, states=accepted)
    fingerprint = load_identity(folder).peer.fingerprint
    if as_json:
        print(json.dumps({"name": config.name, "address": config.address, "fingerprint": fingerprint}))
    else:
        output.print(f"{config.name} ({role}) is ready in {folder}; it will serve {config.address}", highlight=False)
        output.print(f"fingerprint {fingerprint}: compare it over another channel", highlight=False)


@node.command()
def serve(
    folder: Dir,
    delay_ms: Annotated[float, typer.Option(hidden=True, help="Delay each way, for measurements.")] = 0,
) -> None:
    """Run the node until interrupted. Logs are JSON lines on standard error, without personal data."""
    from nodes.serve import serve as run

    run(folder, delay_ms / 1000)


@node.command()
def status(folder: Dir, as_json: Json = False) -> None:
    """Ask the running node how it is."""
    from nodes.operate import status as ask

    report = ask(folder)
    if as_json:
        print(json.dumps(report))
        return
    table = Table(show_header=False)
    for key, value in report.items():
        table.add_row(key.replace("_", " "), ", ".join(value) if isinstance(value, list) else str(value))
    output.print(table)


def enroll(
    folder: Dir,
    sources: Annotated[list[Path], typer.Argument(help="Photos, folders of photos, or one .npy file of templates.")],
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
    """Add subjects to a holder's gallery. Given again after an interruption, it goes on where it stopped."""
    from nodes.operate import enroll as run
    from nodes.store import Category, Status

    allowed = [item.value for item in Category]
    if category not in allowed:
        raise typer.BadParameter(f"must be one of {', '.join(allowed)}, got {category!r}", param_hint="--category")
    result = run(
        folder,
        sources,
        category=Category(category),
        status=Status.UNIDENTIFIED if unidentified else Status.IDENTIFIED,
        retain_until=retain_until.date() if retain_until else None,
        models=models,
        provider=provider.value,
        largest=largest,
        console=errors,
    )
    if as_json:
        print(msgspec.json.encode(result).decode())
    else:
        output.print(f"added {result.added}, enrolled already {result.already_enrolled}, failed {len(result.failed)}")
        for path, reason in result.failed.items():
            errors.print(f"{path}: {reason}", highlight=False, markup=False)
    if result.failed:
        raise typer.Exit(1)


def forget(
    folder: Dir,
    references: Annotated[list[str], typer.Argument(help="Reference numbers.")],
    as_json: Json = False,
) -> None:
    """Delete subjects; the next query does not find them. Prints a deletion receipt for each."""
    from nodes.operate import holder_store

    with holder_store(folder) as store:
        receipts = store.forget_all(references, datetime.now(timezone.utc))
    if as_json:
        print(msgspec.json.encode(receipts).decode())
        return
    for receipt in receipts:
        output.print(f"deleted {receipt.reference} at {receipt.time:%Y-%m-%d %H:%M:%S} UTC", highlight=False)


def query(
    folder: Dir,
    photo: Annotated[Path, typer.Argument(help="Photo of the probe, or a .npy file with one unit template.")],
    holders: Annotated[str, typer.Option(help="Holders to ask, such as ES,DE.")],
    case: Annotated[str, typer.Option(help="Case number; stays at this node.")],
    offence: Annotated[str, typer.Option(help="Offence; stays at this node.")],
    max_penalty_years: Annotated[float, typer.Option(help="Maximum penalty of the offence, at least 1.")],
    officer: Annotated[str, typer.Option(help="Who launches the query; travels as a salted hash.")],
    approver: Annotated[str, typer.Option(help="Who approved it, another person; travels as a salted hash.")],
    threshold: Annotated[str, typer.Option(help="Smallest cosine of a hit.")] = "0.55",
    max_candidates: Annotated[int, typer.Option(help="Cap on candidates of each holder, 1 to 99.")] = 10,
    ladder: Annotated[str, typer.Option(help="Step by which the threshold climbs when the cap is exceeded.")] = "0.02",
    purpose: Annotated[
        str, typer.Option(help="PREVENTION, DETECTION, INVESTIGATION, MISSING-PERSON or REMAINS.")
    ] = "INVESTIGATION",
    aim: Annotated[str, typer.Option(help="identify an unknown person, or verify a known one.")] = "identify",
    models: Models = None,
    provider: Provider = ProviderName.auto,
    largest: Largest = False,
    as_json: Json = False,
) -> None:
    """Search other states' galleries for one face, through the running requester node."""
    from nodes.operate import probe_template, search
    from nodes.search import SearchRequest

    template, model = probe_template(photo, models, provider.value, largest)
    request = SearchRequest(
        template=template,
        model=model,
        holders=tuple(part for part in holders.split(",") if part),
        threshold=threshold,
        case=case,
        offence=offence,
        maximum_penalty_years=max_penalty_years,
        officer=officer,
        approver=approver,
        purpose=purpose,
        aim=aim,  # type: ignore[arg-type]
        cap=max_candidates,
        ladder=ladder,
    )
    report = search(folder, request)
    if as_json:
        print(msgspec.json.encode(report).decode())
    else:
        print_report(report, photo.name, output)
    if any(answer.status in ("refused", "unreachable") for answer in report.answers.values()):
        raise typer.Exit(1)


def print_report(report: object, probe: str, console: Console) -> None:
    """One line a candidate or answer. A holder that did not answer is never shown as a no-hit."""
    from nodes.search import SearchReport

    assert isinstance(report, SearchReport)
    console.print(f"{report.request_number}: {probe} (candidates, not identified)", highlight=False)
    for holder, answer in report.answers.items():
        for rank, reference in enumerate(answer.references, start=1):
            console.print(f"HIT      {holder}  candidate {rank}, reference {reference}", highlight=False)
        if answer.status == "no hit":
            console.print(f"NO HIT   {holder}", highlight=False)
        elif answer.status == "too many candidates":
            console.print(f"TOO MANY {holder}  even at threshold {answer.threshold_used}", highlight=False)
        elif answer.status != "candidates":
            console.print(f"{answer.status.upper():<8} {holder}  {answer.reason}", highlight=False)
    console.print(f"offline {report.seconds_offline:.2f} s, online {report.seconds_online:.2f} s", highlight=False)
