"""What the commands of the casework share: who acts, what they sign, how results are shown."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, is_dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
import typer
from rich.console import Console

from pets.errors import InputError, printable

if TYPE_CHECKING:
    from nodes.casework.desk import CaseDesk
    from nodes.casework.persons import Person

case = typer.Typer(
    help="From a candidate to a confirmed match and core data: what people decide.", no_args_is_help=True
)
person = typer.Typer(help="Staff: who may do what, with which key.", no_args_is_help=True)
case.add_typer(person, name="person")
output = Console(markup=False, soft_wrap=True, highlight=False)

BANNER = "Candidate, not identified"
Key = Annotated[Path, typer.Option("--key", help="Your private key file, which shows who acts and signs decisions.")]
Query = Annotated[str, typer.Argument(help="The query's ID, as `lineup case list` shows it.")]
Candidate = Annotated[str, typer.Argument(help="The candidate's ID, as `lineup case review` shows it.")]
Handle = Annotated[str, typer.Argument(help="The person's short name.")]
RequestId = Annotated[
    str, typer.Argument(metavar="REQUEST", help="The request's ID, as `lineup case requests` shows it.")
]
Reason = Annotated[str, typer.Option("--reason", help="Why you look at this; recorded.")]


@contextmanager
def at_desk(folder: Path, key: Path) -> Iterator[tuple[CaseDesk, Person]]:
    """The desk of a node, and whose key file this is. Raises `InputError` for a key that belongs to nobody."""
    from nodes.casework.desk import CaseDesk
    from nodes.casework.persons import read_key_file

    public = read_key_file(key)
    with CaseDesk.open(folder) as desk:
        for one in desk.staff():
            if one.key == public:
                yield desk, one
                return
    raise InputError(f"{key} is nobody's key at this node; `lineup case person add` adds a person")


def sign_with_key(desk: CaseDesk, acting: Person, key: Path, decision: Any, target: str, **details: Any) -> Any:
    """Sign a decision with a key file."""
    from nodes.casework.persons import sign_with_file

    return sign_with_file(key, desk.to_sign(acting, decision, target, **details))


def tell(value: Any, as_json: bool, line: str) -> None:
    """One result, as JSON or as a line."""
    if as_json:
        print(json.dumps(plain(value), default=str))
    else:
        output.print(printable(line))


def plain(value: Any) -> Any:
    """A result as JSON takes it."""
    if is_dataclass(value) and not isinstance(value, type):
        return plain(asdict(value))
    if isinstance(value, msgspec.Struct):
        return msgspec.to_builtins(value)
    if isinstance(value, dict):
        return {key: plain(one) for key, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(one) for one in value]
    return value


def split_names(listed: str) -> tuple[str, ...]:
    """The names of a list such as ES,DE or ES, DE."""
    return tuple(name.strip() for name in listed.split(",") if name.strip())


def write_image(path: Path, content: bytes | None) -> None:
    """Write an image to a private file, if there is one."""
    from nodes.private_files import replace_private

    if content is not None:
        replace_private(path, content)
