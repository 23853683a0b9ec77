"""Processes forked from this one, which take parts of one call: each has an interpreter's lock of its own.

Half of the work of a search is Python, and threads of one process take turns at that. A fork has the gallery without a
copy of it. Only Linux forks safely enough: elsewhere `possible` says no.
"""

from __future__ import annotations

import multiprocessing
import os
import pickle
import signal
import sys
import threading
import traceback
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from types import TracebackType
from typing import Any

from pets.errors import LineupError

Serve = Callable[[Connection], None]


class ForkLost(LineupError):
    """A process that is to take a part could not be made, or ended without an answer."""


class ForkTraceback(Exception):
    """Where another process raised the error that this is the cause of, as Python prints it."""


def possible() -> bool:
    """Whether this system forks a process that has threads, as long as those are idle.

    Python lets no daemonic process, such as a worker of a pool, have processes of its own.
    """
    return sys.platform == "linux" and not multiprocessing.current_process().daemon


class Forks:
    """`count` processes that run `serve`, which receives from its connection and answers until that ends.

    Nothing of what they make comes back but their answers. They end with the `with` block, or with this process.
    Raises `ForkLost` if the system gives no process. Not for two threads at once: one's forks would hold the other's
    connections open.
    """

    def __init__(self, count: int, serve: Serve) -> None:
        self._ends: list[Connection] = []
        self._processes: list[BaseProcess] = []
        try:
            with _interrupt_afterwards():
                for _ in range(count):
                    self._fork(serve)
        except OSError as error:
            self._stop()
            raise ForkLost(f"the system gives no process ({error.strerror}); one thread needs none") from error
        except BaseException:
            self._stop()
            raise

    def _fork(self, serve: Serve) -> None:
        context = multiprocessing.get_context("fork")
        here, there = context.Pipe()
        self._ends.append(here)
        process = context.Process(target=_run, args=(serve, there, list(self._ends)), daemon=True)
        with there, warnings.catch_warnings():  # Python 3.12 and later warn of threads: `possible`
            warnings.simplefilter("ignore", DeprecationWarning)
            process.start()
        self._processes.append(process)

    def ask(self, messages: Sequence[object]) -> list[Any]:
        """Send each process a message, and wait for all answers, or the first error. Raises that, and `ForkLost`."""
        answers: dict[int, Any] = {}
        for number, message in enumerate(messages):
            with self._naming(number):
                self._ends[number].send(message)
        while len(answers) < len(messages):
            asked = [number for number in range(len(messages)) if number not in answers]
            ready = wait([self._ends[number] for number in asked])
            for number in asked:
                if self._ends[number] in ready:
                    with self._naming(number):
                        answers[number] = self._ends[number].recv()
                    if isinstance(answers[number], _Raised):
                        raise answers[number].error() from ForkTraceback("\n" + answers[number].trace)
        return [answers[number] for number in range(len(messages))]

    @contextmanager
    def _naming(self, number: int) -> Iterator[None]:
        try:
            yield
        except (EOFError, OSError):
            raise ForkLost(self._end_of(self._processes[number])) from None

    @staticmethod
    def _end_of(process: BaseProcess) -> str:
        process.join(1.0)
        why = ": is there too little memory?" if process.exitcode == -signal.SIGKILL else ""
        return f"a process of this search has ended, with status {process.exitcode}{why}"

    def __enter__(self) -> Forks:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        self._stop()

    def _stop(self) -> None:
        for end in self._ends:
            end.close()
        for process in self._processes:
            process.kill()  # it has nothing to put in order
        for process in self._processes:
            process.join()


@contextmanager
def _interrupt_afterwards() -> Iterator[None]:
    """Python runs hooks when it forks, and what one raises is printed and forgotten: an interrupt must wait."""
    usual = signal.getsignal(signal.SIGINT)
    if threading.current_thread() is not threading.main_thread() or usual is None:  # handled elsewhere
        yield
        return
    came: list[int] = []
    signal.signal(signal.SIGINT, lambda number, _: came.append(number))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, usual)
        if came:
            signal.raise_signal(signal.SIGINT)


def _run(serve: Serve, connection: Connection, ends: list[Connection]) -> None:
    """Be one of the processes. It never ends as Python does: what is there to put in order is its parent's."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # to the group, it means the process that asks, which ends this one
    for end in ends:
        end.close()
    try:
        threading.Thread(target=_end_with_parent, daemon=True).start()
        serve(connection)
    except Exception as error:
        with suppress(OSError):  # nobody asks any more
            connection.send(_raised(error))
    finally:
        os._exit(1)


def _end_with_parent() -> None:
    """However the parent ends: this process may compute for minutes without a look at its connection."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


@dataclass(frozen=True)
class _Raised:
    """An error as it is sent. Pickle alone would make it from its `args`, which many errors of ours cannot be."""

    kind: type[Exception]
    args: tuple[Any, ...]
    attributes: dict[str, Any]
    trace: str

    def error(self) -> Exception:
        error = self.kind.__new__(self.kind, *self.args)
        error.__dict__.update(self.attributes)
        return error


def _raised(error: Exception) -> _Raised:
    trace = "".join(traceback.format_exception(type(error), error, error.__traceback__))
    reduced: Any = error.__reduce__()
    told = _Raised(type(error), reduced[1], vars(error), trace)
    try:
        pickle.loads(pickle.dumps(told)).error()  # noqa: S301 - what this process wrote itself
    except Exception:
        return _Raised(RuntimeError, (f"{type(error).__name__}: {error}",), {}, trace)
    return told
