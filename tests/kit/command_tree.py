"""Typer builds the tree of all commands anew for each one that is typed: a tenth of a second. Here it is built once."""

from __future__ import annotations

from functools import cache

import typer.main


def share_command_tree() -> None:
    """From now on, in this process. The tree does not depend on what is typed."""
    typer.main.get_command = cache(typer.main.get_command)
