"""The command line as its users meet it: `lineup` with arguments, and all commands that there are."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import typer

from nodes.cli import app as cli
from pets.synthetic import synthetic_templates


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
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    return lambda *args: lineup(monkeypatch, capsys, *args)


@pytest.fixture
def folder(tmp_path: Path, run: Any) -> Path:
    """A holder with three subjects."""
    args = ("--name", "ES", "--role", "holder", "--address", "https://127.0.0.1:9", "--authority", tmp_path / "ca")
    assert run("node", "init", "--dir", tmp_path / "es", *args, "--json")[0] == 0
    np.save(tmp_path / "three.npy", synthetic_templates(3, 64, 5))
    return tmp_path / "es"


def as_json(result: tuple[int, str, str], status: int = 0) -> Any:
    assert result[0] == status, result
    return json.loads(result[1])


def enrol(run: Any, folder: Path) -> list[str]:
    references: list[str] = as_json(run("enroll", "--dir", folder, folder.parent / "three.npy", "--json"))["references"]
    return references


def leaves(command: Any = None, name: str = "lineup") -> Iterator[tuple[str, Any]]:
    command = command or typer.main.get_command(cli.app)
    if not hasattr(command, "commands"):
        yield name, command
        return
    for word, inner in command.commands.items():
        yield from leaves(inner, f"{name} {word}")


COMMANDS = dict(leaves())
