"""`lineup node peers`: which nodes this one talks to."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import msgspec
import typer
from rich.console import Console

from nodes.cli.options import Dir, Json

if TYPE_CHECKING:
    from nodes.operator.peers import Done

peers = typer.Typer(help="Manage which nodes this one talks to. A running node follows at once.", no_args_is_help=True)
output = Console(markup=False, soft_wrap=True, highlight=False)
errors = Console(stderr=True, markup=False, soft_wrap=True, highlight=False)


@peers.command("list")
def list_peers(folder: Dir, as_json: Json = False) -> None:
    """List name, role, address and fingerprint of each peer. Exit status 1 if a peer's file is not valid."""
    from nodes.operator.peers import list_peers as run

    listed = run(folder)
    if as_json:
        print(msgspec.json.encode(listed).decode())
    else:
        for peer in listed.peers:
            pinned = ", pinned" if peer.pinned else ""
            output.print(f"{peer.name}  {peer.role}, {peer.address}{pinned}\n    fingerprint {peer.fingerprint}")
        output.print(f"{len(listed.peers)} peer{'' if len(listed.peers) == 1 else 's'}")
        for reason in listed.refused.values():  # it names the file
            errors.print(f"refused: {reason}")
    if listed.refused:
        raise typer.Exit(1)


@peers.command()
def add(
    folder: Dir,
    file: Annotated[Path, typer.Argument(help="The node's public identity, NAME.json.")],
    fingerprint: Annotated[
        str | None, typer.Option(help="Its fingerprint, as its people told you over another channel; it is checked.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Make a node a peer. If node.toml lists fingerprints, its own must be given, and is written there."""
    from nodes.operator.peers import add_peer

    done = add_peer(folder, file, fingerprint)
    _tell(done, f"{done.name} is a peer", as_json)
    if not as_json:
        said = "as you were told" if fingerprint else "compare it over another channel"
        output.print(f"fingerprint {done.fingerprint}: {said}")


@peers.command()
def remove(
    folder: Dir,
    name: Annotated[str, typer.Argument(help="The node.")],
    as_json: Json = False,
) -> None:
    """Stop talking to a node: its connections and the queries it takes part in end at once.

    Takes NAME.json out of the folder of peers, for every node that uses the
    same folder. `lineup node revoke` shuts a node out everywhere.
    """
    from nodes.operator.peers import remove_peer

    done = remove_peer(folder, name)
    _tell(done, f"{done.name} is no peer any more", as_json)


@peers.command()
def export(
    folder: Dir,
    out: Annotated[Path, typer.Option("--output", "-o", help="Folder for NAME.json.")] = Path("."),
    as_json: Json = False,
) -> None:
    """Write this node's own public identity, for the others to add."""
    from nodes.operator.peers import own_identity
    from nodes.private_files import write_public
    from pets.errors import InputError

    name, content = own_identity(folder)
    file = out / f"{name}.json"
    try:
        write_public(file, content)
    except OSError as error:
        raise InputError(f"{file} cannot be written: {error.strerror}") from None
    if as_json:
        print(json.dumps({"name": name, "file": str(file)}))
    else:
        output.print(f"{file}: the others add it with `lineup node peers add`")


def _tell(done: Done, what: str, as_json: bool) -> None:
    if as_json:
        print(msgspec.json.encode(done).decode())
        return
    output.print(what + ("; the running node follows" if done.running else "; the node does not run now"))
    for reason in done.refused:
        errors.print(reason)
