"""`lineup` in processes of their own that need not load its modules and kernels anew.

A test that types a hundred commands, or starts twenty nodes, waits for little else.

`Preloaded` starts one process that has loaded them. Each command is a fork of it, with the arguments, the folder, the
environment and the input and output of who gave it. `program` is the `lineup` to call, in a folder for PATH; `start`
gives a command as `subprocess.Popen` does. `preloaded` is one for all tests of a process; with `share_preloaded`, for
those of all workers.

What a fork does not show: modules that cannot be loaded in another order, an order of sets that differs from process to
process (all forks have the seed of one), what goes wrong while Python takes itself apart. Nodes that load everything
themselves are in `tests/console/test_beside.py` and, one of four, `lineup demo` (`tests/cli/test_cli.py`); the program
that is installed is in `tests/project/test_extras.py`.
"""

from __future__ import annotations

import atexit
import contextlib
import gc
import marshal
import os
import select
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import IO

BEFORE = "LINEUP_TEST_BEFORE"  # Python that a command runs first, to be an odd one
SHARED = "LINEUP_TEST_PRELOADED"  # the folder of one that others share
LOADING_SECONDS = 120
MODULES = ("nodes.cli.app", "nodes.cli.store", "nodes.service.server", "nodes.verify", "nodes.audit", "pets.faces",
           "nodes.console.server", "nodes.cli.demo_console", "nodes.audit.audit", "nodes.casework.restored",
           "nodes.identity.renewal", "nodes.operator.beside", "nodes.operator.database", "nodes.operator.peers",
           "insightface.app", "insightface.utils.face_align", "onnxruntime", "PIL.Image", "PIL.PngImagePlugin",
           "PIL.JpegImagePlugin", "httpcore", "anyio._backends._asyncio", "anyio.streams.tls", "uvicorn.lifespan.off",
           "nodes.store.migrations.versions.v0001_gallery")  # fmt: skip
LENGTH = 8  # of every number that is sent
FLUSH_FAILED = 120  # Python's status where the last of its output could not be written
PROGRAM = """#!{python} -IS
import marshal, os, signal, socket, sys
asked = socket.socket(socket.AF_UNIX)
asked.connect({address!r})
asking = marshal.dumps((sys.argv[1:], os.getcwd(), dict(os.environ)))
socket.send_fds(asked, [len(asking).to_bytes(8, "big")], [0, 1, 2])
asked.sendall(asking)
command = int.from_bytes(asked.recv(8), "big")
for each in (signal.SIGINT, signal.SIGTERM):
    signal.signal(each, lambda number, _: os.kill(command, number))
status = int.from_bytes(asked.recv(8), "big", signed=True)
sys.exit(status if status >= 0 else 128 - status)
"""


class Command:
    """A command that runs, as `subprocess.Popen` would tell of it. It is killed when nobody holds this any more."""

    def __init__(self, asked: socket.socket) -> None:
        self._asked = asked
        self.pid = int.from_bytes(asked.recv(LENGTH, socket.MSG_WAITALL), "big")
        self.returncode: int | None = None

    def poll(self) -> int | None:
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.wait(0)
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        if self.returncode is None:
            if not select.select([self._asked], [], [], timeout)[0]:
                raise subprocess.TimeoutExpired("lineup", timeout or 0)
            told = self._asked.recv(LENGTH, socket.MSG_WAITALL)
            assert len(told) == LENGTH, "who told of this command is gone"
            self.returncode = int.from_bytes(told, "big", signed=True)
            self._asked.close()
        return self.returncode

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


class Preloaded:
    """A process to fork from. `program`: its `lineup`, executable, alone in its folder."""

    def __init__(self, folder: Path) -> None:
        self.program = folder / "lineup"
        self._address = str(folder / "asked")
        deadline = time.monotonic() + LOADING_SECONDS
        while not Path(self._address).exists():
            assert time.monotonic() < deadline, f"nothing listens in {folder}"
            time.sleep(0.05)

    def start(self, arguments: Sequence[str], log: IO[bytes], environment: Mapping[str, str]) -> Command:
        """A command without input that writes everything to `log`."""
        asked = socket.socket(socket.AF_UNIX)
        asked.connect(self._address)
        asking = marshal.dumps((list(arguments), os.getcwd(), {**os.environ, **environment}))
        with open(os.devnull, "rb") as nothing:
            streams = [nothing.fileno(), log.fileno(), log.fileno()]
            socket.send_fds(asked, [len(asking).to_bytes(LENGTH, "big")], streams)
        asked.sendall(asking)
        return Command(asked)


@cache
def preloaded() -> Preloaded:
    """One for all tests of this process, or of all workers."""
    return Preloaded(Path(os.environ[SHARED]) if SHARED in os.environ else load())


def share_preloaded() -> None:
    """Begin one for this process and all that it starts. It loads while they do other things."""
    os.environ[SHARED] = str(load())


def load() -> Path:
    """Begin to load a process to fork from, which ends with this one. Returns its folder."""
    place = tempfile.TemporaryDirectory(prefix="lineup-preloaded-")
    folder = Path(place.name) / "bin"
    folder.mkdir()
    program, address = folder / "lineup", str(folder / "asked")
    program.write_text(PROGRAM.format(python=sys.executable, address=address))
    program.chmod(0o755)
    # Rich keeps the width that it is told while it is loaded (pytest-xdist tells workers 80); else it asks each time.
    environment = {name: value for name, value in os.environ.items() if name != "COLUMNS"}
    command = [sys.executable, "-m", "tests.kit.preloaded", address]
    process = subprocess.Popen(command, cwd=Path(__file__).parents[2], env=environment)

    def end() -> None:
        process.kill()
        process.wait()
        place.cleanup()

    atexit.register(end)
    return folder


def serve(address: str) -> None:
    """Fork for each command that is asked for."""
    from nodes.cli import app
    from pets.errors import InputError
    from protocol.engine import warm_up
    from tests.kit.command_tree import share_command_tree
    from tests.kit.ring import RING

    for module in MODULES:
        __import__(module)
    share_command_tree()
    with contextlib.suppress(InputError):  # there is no such folder: loads what Typer loads when it reads what is typed
        app.app(["node", "health", "--dir", address])
    warm_up(RING)
    gc.collect()
    gc.freeze()  # else each command looks for garbage among all that is loaded, and has memory copied for it
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(address + ".new")
    listener.listen()
    os.rename(address + ".new", address)  # whoever sees it is answered
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for those below
    while True:
        asked, _ = listener.accept()
        if os.fork() == 0:
            listener.close()
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            attend(asked)
        asked.close()


def attend(asked: socket.socket) -> None:
    """Run one command, pass on its status, and kill it when who asked is gone."""
    first, streams, _, _ = socket.recv_fds(asked, LENGTH, 3)
    rest = int.from_bytes(first, "big")
    arguments, folder, environment = marshal.loads(asked.recv(rest, socket.MSG_WAITALL))
    command = os.fork()
    if command == 0:
        asked.close()
        run(arguments, folder, environment, streams)
    asked.sendall(command.to_bytes(LENGTH, "big"))
    over = os.pidfd_open(command)
    ready, _, _ = select.select([asked.fileno(), over], [], [])
    if over not in ready:
        os.kill(command, signal.SIGKILL)
    _, status = os.waitpid(command, 0)
    with contextlib.suppress(OSError):
        asked.sendall(os.waitstatus_to_exitcode(status).to_bytes(LENGTH, "big", signed=True))
    os._exit(0)


def run(arguments: list[str], folder: str, environment: dict[str, str], streams: list[int]) -> None:
    """What the child does; it does not return."""
    from nodes.cli.__main__ import main

    for standard, given in enumerate(streams):
        os.dup2(given, standard)
        os.close(given)
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    sys.argv = ["lineup", *arguments]
    sys.stdout, sys.stderr = os.fdopen(1, "w"), os.fdopen(2, "w", buffering=1)
    code = 1
    try:
        exec(environment.get(BEFORE, ""), {})
        code = status_of(main)
        # what Python does at its end, up to what belongs to the process that this is a fork of
        threading._shutdown()  # type: ignore[attr-defined]
        atexit._run_exitfuncs()
        code = code if flushed() else FLUSH_FAILED
    finally:
        os._exit(code)


def status_of(main: Callable[[], object]) -> int:
    """How Python would end after this, and what it would print."""
    try:
        main()
    except SystemExit as end:
        if end.code is None or isinstance(end.code, int):
            return (end.code or 0) & 0xFF
        print(end.code, file=sys.stderr)
        return 1
    except BaseException as error:
        traceback.print_exc()
        return 128 + signal.SIGINT if isinstance(error, KeyboardInterrupt) else 1
    return 0


def flushed() -> bool:
    """Whether all that was printed could be written."""
    try:
        sys.stdout.flush()
        sys.stderr.flush()
    except OSError as error:
        print(error, file=sys.stderr)
        return False
    return True


if __name__ == "__main__":
    serve(sys.argv[1])
