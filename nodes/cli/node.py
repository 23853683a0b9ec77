"""The commands around a node: `lineup node …`, and `query`."""

from __future__ import annotations

import json
from datetime import datetime, timezone
from pathlib import Path
from typing import Annotated

import msgspec
import typer
from rich.console import Console
from rich.table import Table

from nodes.casework.contents import Aim, Depicted
from nodes.cli.cluster import cluster_line
from nodes.cli.impact import impact
from nodes.cli.options import Dir, Json, Largest, Models, Provider, ProviderName, tell_several
from nodes.cli.outage import outage
from nodes.cli.peers import peers
from nodes.cli.supply import supply_lines
from nodes.config.names import Purpose
from nodes.operator.progress import progress_bar
from nodes.service.operator_api import TOO_MANY, Progress, SearchReport, Supplies, explained
from pets.errors import ParameterError
from pets.params import N4096

node = typer.Typer(help="Set up and run a national node.", no_args_is_help=True)
output = Console(markup=False, soft_wrap=True)
errors = Console(stderr=True, markup=False, soft_wrap=True)


def register(app: typer.Typer) -> None:
    """Add these commands to `lineup`."""
    node.add_typer(impact, name="impact")
    node.add_typer(peers, name="peers")
    node.command()(outage)
    app.add_typer(node, name="node")
    app.command()(query)


@node.command()
def init(
    folder: Dir,
    name: Annotated[str, typer.Option(help="Name, beginning with the state's code, such as ES or ES-2.")],
    role: Annotated[str, typer.Option(help="requester, holder or router.")],
    address: Annotated[str, typer.Option(help="Address at which the others reach it: https://host:port.")],
    authority: Annotated[Path, typer.Option(help="Folder of the certificate authority; created if it does not exist.")],
    states: Annotated[str, typer.Option(help="States whose queries it accepts, such as FR,IT.")] = "",
    as_json: Json = False,
) -> None:
    """Make keys, certificates and a configuration for a node, and publish its public identity."""
    from nodes.config.schema import Role
    from nodes.identity.identity import init_node, load_identity

    try:
        kind = Role(role)
    except ValueError:
        raise typer.BadParameter(f"must be requester, holder or router, got {role!r}", param_hint="--role") from None
    accepted = names_of(states)
    config = init_node(folder, name=name, role=kind, address=address, authority=authority, states=accepted)
    fingerprint = load_identity(folder).peer.fingerprint
    if as_json:
        print(json.dumps({"name": config.name, "address": config.address, "fingerprint": fingerprint}))
    else:
        output.print(f"{config.name} ({role}) is set up in {folder}; it will serve {config.address}", highlight=False)
        output.print(f"fingerprint {fingerprint}: compare it over another channel", highlight=False)
        output.print("next: its impact assessment, without which it does not start (`lineup node impact --help`)")


@node.command()
def serve(
    folder: Dir,
    accept_loss: Annotated[
        bool,
        typer.Option(
            "--accept-loss", help="Continue with a database that has lost data; a signed log entry records this."
        ),
    ] = False,
    delay_ms: Annotated[float, typer.Option(hidden=True, help="Artificial delay each way, for measurements.")] = 0,
) -> None:
    """Run the node until interrupted. Logs are JSON lines on standard error, without personal data."""
    from nodes.service.server import serve as run

    run(folder, delay_ms / 1000, accept_loss)


@node.command()
def status(folder: Dir, as_json: Json = False) -> None:
    """Show the state of the running node."""
    from nodes.operator.client import status as ask

    report = ask(folder)
    if as_json:
        print(json.dumps(report))
        return
    supplies, latencies = report.pop("preparations", None), report.pop("latencies", None)
    report["peers"] = [name for name in report["peers"] if name != report["name"]]
    if cluster := report.get("cluster"):
        report["cluster"] = cluster_line(cluster)
    report["draining"] = "yes: it refuses new queries and stops" if report["draining"] else "no"
    for key, value in report.items():  # no table: it would cut a log's ID, which `evidence hold` needs whole
        lines = (value or ["none"]) if isinstance(value, list) else [str(value)]
        for line in lines:
            output.print(f"{key.replace('_', ' '):<19} {line}", highlight=False)
    for line in supply_lines(msgspec.convert(supplies, Supplies)) if supplies else ():
        output.print(f"{'preparations':<19} {line}", highlight=False)
    for name, seen in (latencies or {}).items():
        what = {"searches": "search seconds", "preparations": "preparation seconds"}[name]
        output.print(f"{what:<19} {_percentiles(seen)}", highlight=False)


def _percentiles(seen: dict[str, float] | None) -> str:
    if seen is None:
        return "none since the start"
    return f"p50 {seen['p50']:.2f}, p95 {seen['p95']:.2f}, p99 {seen['p99']:.2f}, of the last {seen['count']:,}"


@node.command()
def health(folder: Dir, as_json: Json = False) -> None:
    """Whether the running node can work: exit status 0, or 1 if it is degraded, shutting down or does not answer."""
    from nodes.operator.client import health as ask

    report = ask(folder)
    if as_json:
        print(json.dumps(report))
    else:
        output.print(", ".join([report["status"], *report.get("failing", ())]), highlight=False)
        if contradicting := report.get("contradicting_logs"):
            output.print(f"contradicting logs: {contradicting} (`lineup node status` names them)", highlight=False)
        for line in report.get("release_limit", ()):
            output.print(f"release limit: {line}", highlight=False)
        for line in report.get("running_out", ()):
            output.print(f"running out: {line}", highlight=False)
        for alarm in report.get("alarms", ()):
            output.print(f"alarm: {alarm}", highlight=False)
    if report["status"] != "ok":
        raise typer.Exit(1)


@node.command()
def expire(folder: Dir, as_json: Json = False) -> None:
    """Delete what is past its retention, at a stopped node. A running node does this at start and then daily."""
    from nodes.operator.database import delete_expired as run

    done = run(folder)
    if as_json:
        print(msgspec.json.encode(done).decode())
    else:
        output.print(
            f"deleted {done.subjects} subjects, {done.log_entries} log entries, {done.evidence_files} evidence files, "
            f"{done.sealed_files} sealed files",
            highlight=False,
        )


@node.command()
def hold(
    folder: Dir,
    order: Annotated[Path, typer.Argument(help="The supervisor's order, from `lineup evidence hold`.")],
    as_json: Json = False,
) -> None:
    """Lodge a supervisor's order at the running node: log entries it names are not erased until it is lifted."""
    from nodes.operator.client import hold as lodge

    done = lodge(folder, order)
    if as_json:
        print(json.dumps(done))
    else:
        output.print(f"{done['order']} number {done['number']} is in force", highlight=False)


@node.command()
def statistics(
    folder: Dir,
    year: Annotated[int, typer.Option(help="A calendar year that is over, and whose log entries are not yet erased.")],
    as_json: Json = False,
) -> None:
    """Count queries by requesting state and database, from the Article 40 log. Small counts are suppressed."""
    from nodes.operator.statistics import SMALLEST
    from nodes.operator.statistics import statistics as count

    counts = count(folder, year, datetime.now(timezone.utc))
    if as_json:
        print(msgspec.json.encode({"year": year, "smallest": SMALLEST, "counts": counts}).decode())
        return
    if not counts:
        output.print(f"no queries in {year}", highlight=False)
        return
    table = Table("state", "database", "asked", "answered", title=str(year))
    for cell in counts:
        told = (f"fewer than {SMALLEST}" if n is None else str(n) for n in (cell.asked, cell.answered))
        table.add_row(cell.state, cell.database, *told)
    output.print(table, soft_wrap=False)


@node.command()
def revoke(
    authority: Annotated[Path, typer.Option(help="Folder of the certificate authority.")],
    name: Annotated[
        str | None, typer.Argument(help="The node's name. Without it the list is only signed afresh, for 30 days.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Revoke the certificates of a node and its operator, or sign a fresh list. Running nodes follow in a minute."""
    from nodes.config.schema import check_name, operator_name
    from nodes.identity.authority import Authority

    issuer = Authority.open(authority)
    serials = issuer.refresh() if name is None else issuer.revoke(check_name(name), operator_name(name))
    if as_json:
        print(json.dumps({"revoked": [f"{serial:x}" for serial in serials], "list": str(issuer.crl_file)}))
    else:
        output.print(f"{len(serials)} certificates revoked; list: {issuer.crl_file}", highlight=False)


@node.command()
def renew(
    folder: Dir,
    authority: Annotated[Path, typer.Option(help="Folder of the certificate authority.")],
    days: Annotated[int, typer.Option(min=1, max=825, help="How long the new certificates are valid.")] = 365,
    as_json: Json = False,
) -> None:
    """Issue new certificates for the same keys of a node and its operator. A running node follows within a minute."""
    from nodes.identity.renewal import renew_certificates

    ends = renew_certificates(folder, authority, days)
    if as_json:
        print(json.dumps({str(path): end.isoformat() for path, end in ends.items()}))
        return
    for path, end in ends.items():
        output.print(f"{path} is valid until {end:%Y-%m-%d %H:%M} UTC", highlight=False)


def query(
    folder: Dir,
    photos: Annotated[
        list[Path], typer.Argument(help="Photos of one person, the probe; or a .npy file with one unit template.")
    ],
    holders: Annotated[str, typer.Option(help="Holders to ask, separated by commas, such as ES,DE.")],
    case: Annotated[str, typer.Option(help="Case number; stays at this node.")],
    offence: Annotated[str, typer.Option(help="Offence; stays at this node.")],
    max_penalty_years: Annotated[float, typer.Option(help="Maximum penalty of the offence, at least 1.")],
    officer: Annotated[str, typer.Option(help="Who launches the query; travels as a salted hash.")],
    approver: Annotated[str, typer.Option(help="Who approved it, another person; travels as a salted hash.")],
    threshold: Annotated[
        str | None,
        typer.Option(help="Smallest cosine of a hit, between 0 and 1. Default: the model's, 0.55 for SFace."),
    ] = None,
    max_candidates: Annotated[int, typer.Option(min=1, max=99, help="Cap on candidates of each holder.")] = 10,
    ladder: Annotated[str, typer.Option(help="Step by which the threshold climbs when the cap is exceeded.")] = "0.02",
    purpose: Annotated[
        Purpose, typer.Option(help="Why the query is asked; the last two need a basis in national law.")
    ] = Purpose.INVESTIGATION,
    subject: Annotated[Depicted, typer.Option(help="Who the probe depicts.")] = "suspect",
    aim: Annotated[Aim, typer.Option(help="Identify an unknown person, or verify a known one.")] = "identify",
    models: Models = None,
    provider: Provider = ProviderName.auto,
    largest: Largest = False,
    as_json: Json = False,
) -> None:
    """Search other states' galleries for one face, through the running requester node."""
    from nodes.casework.cases import check_quality
    from nodes.config.schema import load_config
    from nodes.operator.client import check_asks, search
    from nodes.operator.probe import prepare_probe
    from nodes.service.operator_api import SearchRequest
    from pets.thresholds import default_threshold

    given, ladder = _checked_terms(threshold, max_candidates, ladder)  # before the photo is read
    check_asks(folder)
    probe = prepare_probe(photos, models, provider.value, largest)
    tell_several(probe.several)
    check_quality(probe.quality, load_config(folder).casework.minimum_quality)
    request = SearchRequest(
        template=probe.template,
        model=probe.model,
        holders=names_of(holders),
        threshold=given or f"{default_threshold(probe.spec):f}",
        case=case,
        offence=offence,
        maximum_penalty_years=max_penalty_years,
        officer=officer,
        approver=approver,
        purpose=purpose.value,
        subject=subject,
        aim=aim,
        cap=max_candidates,
        ladder=ladder,
    )
    with progress_bar(errors, "searching", None) as moves:

        def told(progress: Progress) -> None:
            preparing = progress.phase == "preparing"
            moves(progress.rows, progress.of or None, what="preparing (rows)" if preparing else "searching")

        report = search(folder, request, told)
    if as_json:
        print(msgspec.json.encode(report).decode())
    else:
        print_report(report, ", ".join(photo.name for photo in photos), output)
    if any(answer.status in ("refused", "unreachable") for answer in report.answers.values()):
        raise typer.Exit(1)


def _checked_terms(threshold: str | None, cap: int, ladder: str) -> tuple[str | None, str]:
    """Threshold, None for the model's own, and ladder as they travel. Raises `typer.BadParameter`."""
    from pets.thresholds import UNKNOWN
    from protocol.terms import Terms, parse_decimal

    try:  # the dimension does not matter to these
        stated = UNKNOWN if threshold is None else parse_decimal(threshold, "--threshold")
        terms = Terms(stated, 128, N4096, cap, parse_decimal(ladder, "--ladder"))
    except ParameterError as error:
        raise typer.BadParameter(str(error)) from None
    return None if threshold is None else f"{terms.threshold:f}", f"{terms.ladder:f}"


def names_of(listed: str) -> tuple[str, ...]:
    """The names of a list such as ES,DE or es, de."""
    return tuple(name.strip().upper() for name in listed.split(",") if name.strip())


def print_report(report: SearchReport, probe: str, console: Console) -> None:
    """One line a candidate or answer. A holder that did not answer is never shown as a no-hit."""

    def say(line: str) -> None:
        console.print(line, highlight=False, markup=False, soft_wrap=True)  # a photo may be called [anything]

    say(f"{report.request_number}: {probe} (candidates, not identified)")
    for holder, answer in report.answers.items():
        for rank, hit in enumerate(answer.hits, start=1):
            mark = ", CONTESTED: its accuracy is disputed" if hit.contested else ""
            say(f"HIT      {holder}  candidate {rank}, reference {hit.reference}{mark}")
        if answer.status == "no hit":
            say(f"NO HIT   {holder}")
        elif answer.status == "too many candidates":
            say(f"TOO MANY {holder}  even at threshold {answer.threshold_used}: {TOO_MANY}")
        elif answer.status != "candidates":
            say(f"{answer.status.upper():<8} {holder}  {explained(holder, answer)}")
    say(f"query {report.queries[-1]}: its evidence is exported under this number")
    now = f"nothing fitting waited: prepared now, in {report.seconds_preparing:.2f} s"
    say("a preparation waited and was used" if report.prepared == "waiting" else now)
    say(f"{report.seconds_offline:.2f} s before the probe was used, {report.seconds_online:.2f} s from there on")
