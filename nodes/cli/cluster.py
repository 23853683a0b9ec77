"""Machines that hold a gallery together: `lineup cluster start`, `status`, `drain`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from nodes.cli.options import Dir, Json

if TYPE_CHECKING:
    from nodes.config.cluster import ClusterConfig

cluster = typer.Typer(
    help="Spread a holder's gallery over several machines, with Ray (README: A cluster).", no_args_is_help=True
)
output = Console(markup=False, soft_wrap=True)

WARNING = (
    "Ray's ports run code for whoever reaches them and shows the token: keep them inside the holder's own network, "
    "behind a firewall."
)
Host = Annotated[
    str | None,
    typer.Option(help="This machine's address there. Default: the one in node.toml, which makes it the head."),
]


def register(app: typer.Typer) -> None:
    """Add these commands to `lineup`."""
    app.add_typer(cluster, name="cluster")


@cluster.command()
def start(
    folder: Dir,
    host: Host = None,
    processors: Annotated[int | None, typer.Option(help="Processors to lend. Default: all.", min=1)] = None,
    as_json: Json = False,
) -> None:
    """Start this machine's part: as the head on the address in node.toml, else as a worker that joins it.

    The first start writes a token next to the node's keys. Every machine needs
    it, and finds the node's folder and templates at the same path. Ray listens
    on every address of a machine, and its ports run code for whoever reaches
    them and shows the token: keep the machines in a network of their own,
    behind a firewall.
    """
    from nodes.cluster import machines

    config = _config(folder)
    if config.token_file is not None and machines.make_token(config.token_file) and not as_json:
        output.print(f"new token in {config.token_file}: every machine of the cluster needs this file", highlight=False)
    address = host or config.address.rsplit(":", 1)[0]
    role = machines.start(config, address, processors)
    if as_json:
        _print_json({"role": role, "host": address, "address": config.address})
        return
    output.print(f"{role} on {address}, cluster {config.address}", highlight=False)
    output.print(WARNING, highlight=False)


@cluster.command()
def status(folder: Dir, as_json: Json = False) -> None:
    """Show the machines of the cluster, and how many processes with rows each has.

    A process that does not say within ten seconds where it is is counted apart: it works, is being begun, or waits for
    room.
    """
    from nodes.cluster import machines

    found, silent = machines.status(_config(folder))
    if as_json:
        _print_json({"machines": found, "silent": silent})
        return
    table = Table("machine", "alive", "processors", "shards")
    for one in found:
        table.add_row(one["machine"], "yes" if one["alive"] else "no", str(one["processors"]), str(one["shards"]))
    output.print(table)
    if silent:
        output.print(f"Shards that do not say where they are: {silent}. They work, are being begun, or wait for room.")


@cluster.command()
def drain(folder: Dir, as_json: Json = False) -> None:
    """Stop this machine's part. Its ranges of rows are opened on the others, and queries wait for that.

    With copies = 2 in node.toml the other copy answers at once.
    """
    from nodes.cluster import machines

    _config(folder)
    machines.stop()
    if as_json:
        _print_json({"stopped": True})
    else:
        output.print("stopped")


def cluster_line(told: dict[str, Any]) -> str:
    """Where the gallery of a running node lies, for `lineup node status`."""
    held = f"{told['address']}: {told['rows']:,} rows in {told['shards']} shards, {told['processes']} processes"
    machines = "" if told["machines"] is None else f", {told['machines']} machines"
    together = f"; both copies on one machine: {told['together']} shards" if told["together"] else ""
    return held + machines + together + (f"; CANNOT BE USED: {told['fault']}" if told["fault"] else "")


def _config(folder: Path) -> ClusterConfig:
    from nodes.config.schema import load_config
    from pets.errors import InputError

    config = load_config(folder).cluster
    if not config.used:
        raise InputError(f"{folder / 'node.toml'} names no cluster: give [cluster] address and token_file")
    return config


def _print_json(content: object) -> None:
    import msgspec

    print(msgspec.json.encode(content).decode())
