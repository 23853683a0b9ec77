"""The supervisor's commands: `lineup evidence export`, `verify`, `audit`."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from pets.errors import InputError

evidence = typer.Typer(help="Evidence of a query and its preparation, for a supervisor.", no_args_is_help=True)
output = Console()

Json = Annotated[bool, typer.Option("--json", help="Print JSON for machines.")]
Html = Annotated[Path | None, typer.Option("--html", help="Write the report to this file as one self-contained page.")]


def register(app: typer.Typer) -> None:
    """Add these commands to `lineup`."""
    app.add_typer(evidence, name="evidence")
    for command in (verify, audit):
        app.command()(command)


@evidence.command()
def export(
    folder: Annotated[Path, typer.Option("--dir", help="The node's folder; the node may be running.")],
    query: Annotated[
        str,
        typer.Option(
            help="The query, 32 hexadecimal digits as `lineup query` shows them; or a preparation that no query used."
        ),
    ],
    out: Annotated[Path, typer.Option("--output", "-o", help="File to write.")],
    since: Annotated[
        list[Path] | None,
        typer.Option(help="A bundle with an earlier state of this node's log; proves that it has only grown since."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Write what this node can show of a query and its preparation, signed. No face, score or key is in it."""
    from nodes.evidence.export import export_bundle

    data = export_bundle(folder, query, [_read(path)[1] for path in since or ()])
    _write(out, data)
    if as_json:
        print(json.dumps({"file": str(out), "bytes": len(data), "query": query}))
    else:
        output.print(f"{out}: {len(data):,} bytes of {query}", highlight=False, markup=False, soft_wrap=True)


def verify(
    files: Annotated[list[Path], typer.Argument(help="Evidence bundles, of one query or several, or of preparations.")],
    trust: Annotated[
        Path | None, typer.Option(help="Public identities of the parties: NAME.json, or a folder of them.")
    ] = None,
    strict: Annotated[bool, typer.Option("--strict", help="Also fail if a check could not be made.")] = False,
    as_json: Json = False,
    html: Html = None,
) -> None:
    """Check evidence offline, without keys. Exit status 0 only if no check fails; what was not checkable is listed."""
    from nodes.verify import load_trust, verify_bundles
    from nodes.verify.ledger import leakage
    from nodes.verify.verdict import make_cases

    bundles = [_read(path) for path in files]
    trusted = None if trust is None else load_trust(trust)
    report = verify_bundles(bundles, trusted)
    _show(report, leakage(make_cases(bundles, trusted)), as_json, html)
    if not report.holds or (strict and report.count("not-checkable")):
        raise typer.Exit(1)


def audit(
    bundle: Annotated[Path, typer.Argument(help="The party's evidence bundle of the query.")],
    sealed: Annotated[Path, typer.Option(help="The folder of the party's node, on site: what it sealed and its key.")],
    sent: Annotated[
        Path | None,
        typer.Option(
            help="What the requester sent, mask and u: written in its audit, read in a holder's, which keeps neither."
        ),
    ] = None,
    probe: Annotated[
        Path | None,
        typer.Option(
            help="The probe: written in a requester's audit, read in a holder's to see whether it confirmed all "
            "that hit. Shows the probe to the holder's machine; destroy the file afterwards."
        ),
    ] = None,
    as_json: Json = False,
    html: Html = None,
) -> None:
    """Recompute on site what a party sent, from what it sealed: first the requester's part, then the holders'."""
    from nodes.audit.audit import audit_party

    report = audit_party(_read(bundle), sealed, sent, probe)
    _show(report, [], as_json, html)
    if not report.holds:
        raise typer.Exit(1)


@evidence.command()
def key(
    out: Annotated[Path, typer.Option("--output", "-o", help="New private file; the public half goes beside it.")],
    as_json: Json = False,
) -> None:
    """Make the supervisor's key. Its public half goes into each node's folder as supervisor.pem, before it starts."""
    from nodes.logs.orders import new_key

    public = new_key(out)
    if as_json:
        print(json.dumps({"key": str(out), "public": str(public)}))
    else:
        output.print(f"{out}; its public half: {public}", highlight=False, soft_wrap=True)


@evidence.command()
def hold(
    log: Annotated[str, typer.Option(help="The log's ID, as `lineup node status` shows it.")],
    key: Annotated[Path, typer.Option(help="The supervisor's private key, from `lineup evidence key`.")],
    out: Annotated[Path, typer.Option("--output", "-o", help="File to write.")],
    number: Annotated[int, typer.Option(min=0, help="Number of the hold; a log's holds are numbered from 0.")] = 0,
    first: Annotated[int, typer.Option(min=0, help="First entry to keep.")] = 0,
    last: Annotated[int | None, typer.Option(min=0, help="Last entry to keep. Default: all that follow.")] = None,
    lift: Annotated[bool, typer.Option("--lift", help="End the hold of this number instead.")] = False,
    as_json: Json = False,
) -> None:
    """Write an order that a node must keep log entries beyond three years, while monitoring runs, or lifts one."""
    from nodes.logs.orders import make_order, parse_log, sign_order

    data = sign_order(make_order(parse_log(log), number, first, last, lift, int(time.time() * 1000)), key)
    _write(out, data)
    if as_json:
        print(json.dumps({"file": str(out), "order": "lift" if lift else "hold", "number": number}))
    else:
        output.print(f"{out}: lodge it with `lineup node hold`", highlight=False, soft_wrap=True)


def _read(path: Path) -> Any:
    from nodes.verify import EvidenceRefused, decode_bundle
    from nodes.verify.format import BUNDLE_LIMIT

    try:
        with path.open("rb") as stream:
            return decode_bundle(stream.read(BUNDLE_LIMIT + 1))
    except OSError as error:
        raise EvidenceRefused(f"{path} cannot be read: {error.strerror}") from None
    except EvidenceRefused as error:
        raise EvidenceRefused(f"{path}: {error}") from None


def _write(path: Path, data: bytes) -> None:
    try:
        path.write_bytes(data)
    except OSError as error:
        raise InputError(f"{path} cannot be written: {error.strerror}") from None


def _show(report: Any, leaks: Any, as_json: bool, html: Path | None) -> None:
    from nodes.verify.page import as_data, as_page, print_report

    if html is not None:
        _write(html, as_page(report, leaks).encode())
    if as_json:
        print(json.dumps(as_data(report, leaks), ensure_ascii=False, indent=1))
    else:
        print_report(report, leaks, output)
