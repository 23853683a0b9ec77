"""Progress bars on standard error, shown only where somebody looks."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.text import Text


class Moves(Protocol):
    """Is told how many are done, and of how many once that is known."""

    def __call__(self, done: int, total: int | None = None, /, what: str | None = None) -> None:
        """Move on to `done`. `what`: where something else is done from now on."""


class Rate(ProgressColumn):
    """How many a second."""

    def render(self, task: Task) -> Text:
        """Empty while that is not known."""
        speed = task.finished_speed or task.speed
        return Text("" if speed is None else f"{speed:,.0f}/s" if speed >= 10 else f"{speed:.1f}/s")


@contextmanager
def progress_bar(console: Console, what: str, total: int | None) -> Iterator[Moves]:
    """Yield a function that moves the bar. `total`: None while nobody knows how many there are."""
    bar = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        Rate(),
        TimeRemainingColumn(),
        console=console,
        transient=True,
        disable=not console.is_terminal,
    )
    with bar:
        task = bar.add_task(what, total=total)
        yield lambda done, total=None, /, what=None: bar.update(task, completed=done, total=total, description=what)
