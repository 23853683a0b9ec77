"""The command line as its users meet it: `lineup` with arguments, and all commands that there are."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Any

import pytest
import typer

from nodes import cli


def lineup(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *args: object) -> tuple[int, str, str]:
    monkeypatch.setattr(sys, "argv", ["lineup", *map(str, args)])
    status = 0
    try:
        cli.main()
    except SystemExit as exit_:
        status = int(exit_.code or 0)
    captured = capsys.readouterr()
    return status, captured.out, captured.err


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    return lambda *args: lineup(monkeypatch, capsys, *args)


def leaves(command: Any = None, name: str = "lineup") -> Iterator[tuple[str, Any]]:
    command = command or typer.main.get_command(cli.app)
    if not hasattr(command, "commands"):
        yield name, command
        return
    for word, inner in command.commands.items():
        yield from leaves(inner, f"{name} {word}")


COMMANDS = dict(leaves())
