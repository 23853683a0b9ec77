"""Nodes as processes of their own (forks of one that has loaded `lineup`), and an operator who searches meanwhile."""

from __future__ import annotations

import contextlib
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from nodes.operator.client import NodeNotRunning, search
from nodes.operator.client import status as node_status
from nodes.service.operator_api import SearchReport
from tests.kit.federation import FR, ROLES, Answers, Federation, request
from tests.kit.preloaded import BEFORE, Command, preloaded

START_SECONDS = 180.0


class Nodes:
    """Nodes as processes of their own. `folder`: where a node's is."""

    def __init__(self, folder: Callable[[str], Path]) -> None:
        self.folder = folder
        self.running: dict[str, Command] = {}

    def start(self, *names: str, before: str = "") -> None:
        """Start nodes side by side, and wait for all. `before`: Python that each runs first, to be an odd node."""
        for name in names or tuple(ROLES):
            serve = ["node", "serve", "--dir", str(self.folder(name))]
            with (self.folder(name) / "stderr.log").open("ab") as log:
                self.running[name] = preloaded().start(serve, log, {BEFORE: before})
        for name in names or tuple(ROLES):
            self._wait(name)

    def stop(self, name: str, number: int = signal.SIGTERM, seconds: float = 30) -> int:
        """Send a signal and give the exit status."""
        process = self.running.pop(name)
        process.send_signal(number)
        return process.wait(seconds)

    def until_busy(self, name: str) -> None:
        """Wait until a node works on a query."""
        self._until(name, lambda running: running > 0)

    def until_clear(self) -> None:
        """Wait until no node works on anything."""
        for name in self.running:
            self._until(name, lambda running: running == 0)

    def close(self) -> None:
        for process in self.running.values():
            process.kill()
            process.wait()

    def log(self, name: str) -> str:
        return (self.folder(name) / "stderr.log").read_text(errors="replace")

    def _until(self, name: str, condition: Callable[[int], bool]) -> None:
        deadline = time.monotonic() + START_SECONDS
        while not condition(node_status(self.folder(name))["queries_running"]):
            assert time.monotonic() < deadline, name
            time.sleep(0.02)

    def _wait(self, name: str) -> None:
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline:
            assert self.running[name].poll() is None, self.log(name)
            try:
                node_status(self.folder(name))
                return
            except NodeNotRunning:
                time.sleep(0.1)
        raise AssertionError(f"{name} did not start: {self.log(name)}")


class Processes(Nodes):
    """The nodes of a federation."""

    def __init__(self, federation: Federation) -> None:
        super().__init__(federation.folder)
        self.federation = federation


class Searching(threading.Thread):
    """The operator of FR searches, as the command line would."""

    def __init__(self, federation: Federation) -> None:
        super().__init__()
        self._federation = federation
        self._report: SearchReport | None = None
        self.start()

    def run(self) -> None:
        with contextlib.suppress(NodeNotRunning):  # FR itself may be what dies
            self._report = search(self._federation.folder(FR), request(self._federation.people.hit))

    def answers(self) -> Answers | None:
        """None if FR died meanwhile."""
        self.join(90)
        assert not self.is_alive(), "the operator still waits"
        return None if self._report is None else self._report.answers


@contextlib.contextmanager
def processes(federation: Federation, *names: str) -> Iterator[Processes]:
    """Processes that are gone afterwards, whatever happens."""
    group = Processes(federation)
    try:
        group.start(*names)
        yield group
    finally:
        group.close()
