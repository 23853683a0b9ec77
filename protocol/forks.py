"""Processes forked from this one, which take parts of one call: each has an interpreter's lock of its own.

Half of the work of a search is Python, and threads of one process take turns at that. A fork has the gallery without a
copy of it. Only Linux forks safely enough: elsewhere `possible` says no.
"""

from __future__ import annotations

import multiprocessing
import pickle
import signal
import sys
import warnings
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection
from types import TracebackType
from typing import Any

from pets.errors import LineupError

Serve = Callable[[Connection], None]


class ForkLost(LineupError):
    """A process that is to take a part could not be made, or ended without an answer."""


def possible() -> bool:
    """Whether this system forks a process that has threads, as long as those are idle."""
    return sys.platform == "linux"


class Forks:
    """`count` processes that run `serve`, which receives from its connection and answers until that ends.

    Nothing of what they make comes back but their answers. They end with the `with` block, or with this process.
    Raises `ForkLost` if the system gives no process.
    """

    def __init__(self, count: int, serve: Serve) -> None:
        context = multiprocessing.get_context("fork")
        self._ends: list[Connection] = []
        self._processes = []
        try:
            for _ in range(count):
                here, there = context.Pipe()
                self._ends.append(here)
                process = context.Process(target=_run, args=(serve, there, list(self._ends)), daemon=True)
                with warnings.catch_warnings():  # Python 3.12 and later warn of threads: `possible`
                    warnings.simplefilter("ignore", DeprecationWarning)
                    process.start()
                self._processes.append(process)
                there.close()
        except OSError as error:
            self._stop()
            raise ForkLost(f"the system gives no process for a part of the search ({error.strerror})") from error

    def ask(self, messages: Sequence[object]) -> list[Any]:
        """Send each process a message, and wait for all answers. Raises what a process raised; `ForkLost`."""
        asked = self._ends[: len(messages)]
        try:
            for end, message in zip(asked, messages, strict=True):
                end.send(message)
            answers = [end.recv() for end in asked]
        except (EOFError, OSError):
            raise ForkLost(
                f"a process of this search has ended ({self._statuses()}): is there too little memory?"
            ) from None
        for answer in answers:
            if isinstance(answer, BaseException):
                raise answer
        return answers

    def __enter__(self) -> Forks:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        self._stop()

    def _statuses(self) -> str:
        for process in self._processes:
            process.join(1.0)
        ended = [process.exitcode for process in self._processes if process.exitcode is not None]
        return "status " + ", ".join(map(str, ended)) if ended else "its connection is closed"

    def _stop(self) -> None:
        for end in self._ends:
            end.close()
        for process in self._processes:
            process.kill()  # it has nothing to put in order
            process.join()


def _run(serve: Serve, connection: Connection, ends: list[Connection]) -> None:
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # the terminal tells the whole group, and one report is enough
    for end in ends:
        end.close()  # so that the connection ends with the process that asks
    try:
        serve(connection)
    except (EOFError, BrokenPipeError):  # nobody asks any more
        return
    except Exception as error:
        connection.send(_portable(error))


def _portable(error: Exception) -> Exception:
    try:
        pickle.loads(pickle.dumps(error))  # noqa: S301 - what this process wrote itself
    except Exception:
        return RuntimeError(f"{type(error).__name__}: {error}")
    return error
