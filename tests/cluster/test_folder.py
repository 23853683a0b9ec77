"""The folder of an agent's socket: gone with its node; what a killed one left is deleted at the next start."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from nodes.cluster import folder as folder_module
from nodes.cluster.folder import OwnedFolder

HOLD = """
import sys, tempfile
tempfile.tempdir = sys.argv[1]
from nodes.cluster.folder import OwnedFolder
print(OwnedFolder().path, flush=True)
sys.stdin.read()
"""


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(folder_module, "NEW_SECONDS", -60)
    return tmp_path


def test_it_is_private_and_goes_when_it_is_closed(place: Path) -> None:
    made = OwnedFolder()
    assert made.path.stat().st_mode & 0o777 == 0o700
    (made.path / "agent").touch()
    made.close()
    assert not list(place.iterdir())


def test_what_a_killed_node_left_is_deleted_and_nothing_else(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    other = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(place)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert other.stdout is not None
    path = Path(other.stdout.readline().strip())
    (path / "agent").touch()
    mine = OwnedFolder()
    assert path.is_dir(), "its node lives"
    mine.close()
    other.kill()
    other.communicate()
    (place / "lineup-cluster-file").touch()
    monkeypatch.setattr(folder_module, "NEW_SECONDS", 60)
    OwnedFolder().close()
    assert path.is_dir(), "it is so new that its node may not have locked it yet"
    monkeypatch.setattr(folder_module, "NEW_SECONDS", -60)
    OwnedFolder().close()
    assert [left.name for left in place.iterdir()] == ["lineup-cluster-file"]
