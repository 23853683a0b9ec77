"""`lineup cluster` without Ray, and without a cluster."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from nodes.config.cluster import ClusterConfig
from nodes.config.schema import Role
from nodes.config.values import ConfigError
from nodes.identity.identity import init_node

WITHOUT_RAY = """
import sys
sys.modules["ray"] = None
sys.argv = ["lineup", *{arguments!r}]
from nodes.cli.app import main
main()
"""


def without_ray(*arguments: str) -> subprocess.CompletedProcess[str]:
    program = WITHOUT_RAY.format(arguments=list(arguments))
    return subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120, check=False)


@pytest.mark.parametrize("command", [[], ["start"], ["status"], ["drain"]])
def test_help_needs_no_ray(command: list[str]) -> None:
    done = without_ray("cluster", *command, "--help")
    assert (done.returncode, done.stderr) == (0, "")
    assert "Usage" in done.stdout


def test_a_node_without_a_cluster_loads_no_ray() -> None:
    program = "import sys, nodes.service.server, nodes.query.scorer; assert 'ray' not in sys.modules"
    subprocess.run([sys.executable, "-c", program], timeout=120, check=True)


def test_a_folder_that_names_no_cluster_is_told_what_to_give(tmp_path: Path) -> None:
    address = "https://127.0.0.1:1"
    init_node(tmp_path / "es", name="ES", role=Role.HOLDER, address=address, authority=tmp_path / "ca", states=["FR"])
    done = without_ray("cluster", "status", "--dir", str(tmp_path / "es"))
    assert done.returncode == 1
    assert "names no cluster: give [cluster] address and token_file" in done.stderr
    with (tmp_path / "es" / "node.toml").open("a") as stream:
        stream.write('\n[cluster]\naddress = "127.0.0.1:6379"\ntoken_file = "cluster.token"\n')
    done = without_ray("cluster", "start", "--dir", str(tmp_path / "es"))
    assert done.returncode == 1
    assert 'pip install "blind-lineup[cluster]"' in done.stderr


def test_a_cluster_without_a_token_is_refused() -> None:
    with pytest.raises(ConfigError, match="Ray runs code for whoever reaches its ports"):
        ClusterConfig(address="10.0.0.1:6379")


@pytest.mark.parametrize("wrong", [{"address": "10.0.0.1"}, {"shards": 0}, {"copies": 3}, {"threads": 0}])
def test_values_outside_their_limits_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        ClusterConfig(**({"address": "10.0.0.1:6379", "token_file": Path("t")} | wrong))  # type: ignore[arg-type]
