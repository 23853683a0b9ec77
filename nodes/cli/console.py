"""`lineup console`: the node's console in a browser, and people's key files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from nodes.cli.options import Json, Models, Provider, ProviderName
from pets.errors import InputError

console = typer.Typer(help="The node's console in a browser, and people's key files.")
output = Console(markup=False, soft_wrap=True, highlight=False)
DIGEST_HEX = 64


def register(app: typer.Typer) -> None:
    """Add these commands to `lineup`."""
    app.add_typer(console, name="console", invoke_without_command=True)


@console.callback(invoke_without_command=True)
def serve(
    context: typer.Context,
    folder: Annotated[Path | None, typer.Option("--dir", help="The node's folder.")] = None,
    models: Models = None,
    provider: Provider = ProviderName.auto,
    with_parent: Annotated[bool, typer.Option(hidden=True, help="End when the standard input does.")] = False,
) -> None:
    """Serve the console of a node until interrupted; the node runs beside it. Address: [console] in node.toml.

    With `enabled = true` there, `lineup node serve` starts it by itself.
    """
    if context.invoked_subcommand is not None:
        return
    if folder is None:
        raise typer.BadParameter("the node's folder must be given", param_hint="--dir")
    try:
        from nodes.console.server import run_console
    except ModuleNotFoundError as error:
        raise InputError(f"the console needs {error.name}: pip install 'blind-lineup[console]'") from None
    run_console(folder, models, provider.value, output.print, with_parent=with_parent)


@console.command()
def key(out: Annotated[Path, typer.Option("--output", "-o", help="New private file.")], as_json: Json = False) -> None:
    """Make a person's key file. Its public half is given to the console when an invitation is taken up."""
    from nodes.casework.persons import new_key_file

    public = new_key_file(out).public.hex()
    if as_json:
        print(json.dumps({"file": str(out), "public_key": public}))
    else:
        output.print(f"public key {public}")


@console.command()
def sign(
    digest: Annotated[str, typer.Argument(help="What the console shows: 64 hexadecimal digits.")],
    key: Annotated[Path, typer.Option(help="The person's key file.")],
    as_json: Json = False,
) -> None:
    """Sign a log-in or a decision by hand, for a browser without JavaScript."""
    from nodes.casework.persons import read_key_file, sign_with_file

    try:
        data = bytes.fromhex(digest)
    except ValueError:
        data = b""
    if len(data) != DIGEST_HEX // 2:
        raise typer.BadParameter(f"must be {DIGEST_HEX} hexadecimal digits, got {digest!r:.80}", param_hint="DIGEST")
    public, signature = read_key_file(key).public.hex(), sign_with_file(key, data).signature.hex()
    if as_json:
        print(json.dumps({"public_key": public, "signature": signature}))
    else:
        output.print(f"public key {public}")
        output.print(f"signature {signature}")


@console.command()
def demo(provider: Provider = ProviderName.auto) -> None:
    """Start four nodes on loopback with their consoles, sample people and cases; Ctrl-C ends it."""
    from nodes.cli.demo_console import run_demo_console

    run_demo_console(provider.value, output, Console(stderr=True))
