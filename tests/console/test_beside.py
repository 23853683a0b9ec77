"""`[console] enabled`: the console starts with the node, comes back when it dies, and ends with the node."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from nodes.cli.demo import _assess, free_ports, lineup
from nodes.config.names import Role
from nodes.config.schema import load_config
from nodes.identity.identity import init_node
from tests.kit.console import NO_TLS
from tests.kit.preloaded import Command, preloaded

pytestmark = pytest.mark.slow


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    console, node = free_ports(2)
    made = tmp_path / "EU"
    init_node(made, name="EU", role=Role.ROUTER, address=f"https://127.0.0.1:{node}", authority=tmp_path / "ca")
    _assess(made)
    with (made / "node.toml").open("a") as file:
        file.write(f"\n[console]\nenabled = true\nport = {console}\n")
    return made


@contextlib.contextmanager
def serving(folder: Path) -> Iterator[subprocess.Popen[bytes]]:
    with (folder / "out").open("wb") as out, (folder / "err").open("wb") as err:
        process = subprocess.Popen(lineup("node", "serve", "--dir", folder), stdout=out, stderr=err)
        try:
            yield process
        finally:
            process.kill()
            process.wait()


@contextlib.contextmanager
def forked(folder: Path) -> Iterator[Command]:
    """The same, of a node that need not load everything first."""
    with (folder / "err").open("wb") as err:
        process = preloaded().start(["node", "serve", "--dir", str(folder)], err, {})
        try:
            yield process
        finally:
            process.kill()
            process.wait()


def answers(folder: Path, wanted: bool, seconds: float = 90) -> bool:
    """Whether the console comes to answer, or to answer no more."""
    url, deadline = load_config(folder).console.url, time.monotonic() + seconds
    while time.monotonic() < deadline:
        try:
            up = httpx.get(f"{url}/health", verify=NO_TLS, trust_env=False).status_code == 200
        except httpx.TransportError:
            up = False
        if up is wanted:
            return True
        time.sleep(0.2)
    return False


def child(process: subprocess.Popen[bytes] | Command) -> int | None:
    """The console's process."""
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            parent = int((entry / "stat").read_text().rsplit(")", 1)[1].split()[1])
            if parent == process.pid and b"--with-parent" in (entry / "cmdline").read_bytes():
                return int(entry.name)
    return None


def test_the_console_runs_with_its_node_and_ends_with_it(folder: Path) -> None:
    with serving(folder) as process:
        assert answers(folder, True), (folder / "err").read_text()
        assert "one-time token" in (folder / "out").read_text()
        console = child(process)
        assert console is not None
        os.kill(console, signal.SIGKILL)
        assert answers(folder, False)
        assert answers(folder, True)  # started again
        assert "console ended with status -9" in (folder / "err").read_text()
        process.terminate()
        process.wait(60)
        assert process.returncode == 0
        assert answers(folder, False, 5)


def test_a_killed_node_leaves_no_console_behind(folder: Path) -> None:
    with forked(folder) as process:
        assert answers(folder, True), (folder / "err").read_text()
        process.kill()
        assert answers(folder, False, 20)


@pytest.mark.parametrize("enabled", [False, True], ids=["not asked for", "control"])
def test_it_is_not_started_unless_asked_for(folder: Path, enabled: bool) -> None:
    if not enabled:
        text = (folder / "node.toml").read_text()
        (folder / "node.toml").write_text(text.replace("enabled = true", "enabled = false"))
    assert load_config(folder).console.enabled is enabled
    with forked(folder) as process:
        deadline = time.monotonic() + 90
        while '"message": "ready"' not in (folder / "err").read_text():
            assert time.monotonic() < deadline, (folder / "err").read_text()
            time.sleep(0.1)
        time.sleep(1)  # the console is started before the node says so
        assert (child(process) is not None) is enabled
        assert enabled or not answers(folder, True, 1)
