"""With Ray itself: who has no token runs nothing, a killed worker costs no answer, and the commands."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nodes.blocks import BlockFiles
from nodes.config.cluster import ClusterConfig
from nodes.config.schema import Role, load_config
from nodes.config.storage import storage_key
from nodes.identity.identity import init_node
from pets.params import N4096
from pets.synthetic import synthetic_templates
from pets.templates import quantise
from protocol.steps import Product
from protocol.work import perform

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(find_spec("ray") is None, reason="the extra [cluster] is not installed"),
]

JOIN = """
import ray
ray.init(address={address!r}, logging_level="ERROR")
@ray.remote
def run(): return "code ran"
print(ray.get(run.remote(), timeout=60))
"""
DIM = 16


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A holder's folder whose node.toml names a cluster that runs."""
    root = tmp_path_factory.mktemp("ray")
    folder = root / "es"
    init_node(folder, name="ES", role=Role.HOLDER, address="https://127.0.0.1:1", authority=root / "ca", states=["FR"])
    port = next(port for port in range(6300, 9000) if not listening(port))  # above 10,000 Ray has workers
    with (folder / "node.toml").open("a") as stream:
        stream.write(f'\n[cluster]\naddress = "127.0.0.1:{port}"\ntoken_file = "cluster.token"\nshards = 2\n')
    # A process of its own, as an operator would: Ray takes over signals and threads of who connects.
    done = lineup("cluster", "start", "--dir", str(folder), "--processors", "4", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["role"] == "head"
    yield folder
    stopped = lineup("cluster", "drain", "--dir", str(folder))
    assert stopped.returncode == 0, stopped.stderr


def listening(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def lineup(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "nodes.cli", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=180, check=False)


def join(config: ClusterConfig, **environment: str) -> subprocess.CompletedProcess[str]:
    clean = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    return subprocess.run(
        [sys.executable, "-c", JOIN.format(address=config.address)],
        env=clean | environment, capture_output=True, text=True, timeout=180, check=False,
    )  # fmt: skip


def test_nobody_runs_code_on_a_worker_without_the_token(node: Path) -> None:
    done = join(load_config(node).cluster, RAY_AUTH_MODE="token", RAY_AUTH_TOKEN="0" * 64)
    assert "code ran" not in done.stdout
    assert "InvalidAuthToken" in done.stderr


def test_control_with_the_token_anybody_does(node: Path) -> None:
    config = load_config(node).cluster
    done = join(config, RAY_AUTH_MODE="token", RAY_AUTH_TOKEN_PATH=str(config.token_file))
    assert "code ran" in done.stdout, done.stderr


def test_the_machines_are_shown(node: Path) -> None:
    done = lineup("cluster", "status", "--dir", str(node), "--json")
    assert done.returncode == 0, done.stderr
    (machine,) = json.loads(done.stdout)
    assert (machine["alive"], machine["processors"]) == (True, 4)


def test_a_worker_that_is_killed_costs_no_answer(node: Path) -> None:
    """In a process of its own, for the same reason."""
    done = subprocess.run(
        [sys.executable, "-c", f"from tests.cluster.test_ray import search_with_kills as s; s({str(node)!r})"],
        capture_output=True, text=True, timeout=240, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "all right, 3 killed" in done.stdout


def search_with_kills(folder: str) -> None:
    from nodes.cluster.connection import Calls, connect, disconnect, open_rows

    node, config = Path(folder), load_config(Path(folder)).cluster
    rows = quantise(synthetic_templates(2 * N4096.n + 100, DIM, seed=5))
    files = BlockFiles.create(node / "rows", storage_key(load_config(node)).blocks, dim=DIM, model=bytes(32))
    files.append(rows)
    held: Any = open_rows(config, node, node / "rows", 1, len(rows), DIM, N4096.n)
    calls, killed = Calls(connect(config)), 0
    values = np.random.default_rng(1).integers(0, N4096.t, DIM, np.int32)
    expected = perform([Product(rows, values, N4096, 0, 3)], 1)
    for turn in range(6):
        if turn % 2:
            pid = calls.get(held.parts[turn % 2].copies[0].status.remote(), 60)["pid"]
            os.kill(pid, signal.SIGKILL)
            killed += 1
            time.sleep(0.2)
        np.testing.assert_array_equal(held.perform([Product(held, values, N4096, 0, 3)], 1), expected)
    np.testing.assert_array_equal(held[[0, len(rows) - 1]], rows[[0, len(rows) - 1]])
    disconnect()
    print(f"all right, {killed} killed")
