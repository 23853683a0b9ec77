"""Who does not serve loads no network library, as an audit or a backup; a shard of a cluster loads no database."""

from __future__ import annotations

import importlib
import re
import subprocess
import sys
from pathlib import Path

import pytest

import nodes

NETWORK = {"uvicorn", "starlette", "httpx"}


def loaded_by(module: str) -> set[str]:
    code = f"import sys, {module}; print(*sys.modules)"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(run.stdout.split())


@pytest.mark.slow
@pytest.mark.parametrize(
    "module",
    [
        "nodes.audit.audit",
        "nodes.config.storage",
        "nodes.operator.database",
        "nodes.operator.enrolment",
        "nodes.verify",
    ],
)
def test_a_store_is_opened_without_a_network_library(module: str) -> None:
    assert NETWORK & loaded_by(module) == set()


@pytest.mark.slow
def test_control_the_server_loads_all_of_them() -> None:
    assert loaded_by("nodes.service.server") >= NETWORK


@pytest.mark.slow
def test_a_shard_of_a_cluster_opens_no_database_and_loads_none() -> None:
    shard, store = loaded_by("nodes.cluster.shard"), loaded_by("nodes.config.storage")
    assert {"sqlalchemy", "alembic"} <= store - shard


def test_every_module_of_nodes_has_a_room() -> None:
    assert {path.name for path in Path(nodes.__path__[0]).glob("*.py")} == {"__init__.py", "private_files.py"}


def test_the_command_that_is_installed_exists() -> None:
    text = (Path(__file__).parents[2] / "pyproject.toml").read_text("utf-8")
    (module, function), *others = re.findall(r'(?m)^lineup = "([\w.]+):(\w+)"$', text)
    assert not others
    assert callable(getattr(importlib.import_module(module), function))
