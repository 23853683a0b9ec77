"""The folder of an agent's socket: gone with its node; what a killed one left is deleted at the next start."""

from __future__ import annotations

import errno
import fcntl
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from nodes.cluster import folder as folder_module
from nodes.cluster.errors import ClusterError
from nodes.cluster.folder import PREFIX, OwnedFolder
from nodes.cluster.link import Link
from tests.kit.cluster import config

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


def refuse_locks(*_: object) -> None:
    raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))


def test_where_there_are_no_locks_it_says_so_and_leaves_nothing(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on some network file systems. What others left there is let lie: nobody can tell whether their node lives."""
    left = place / f"{PREFIX}left"
    left.mkdir(mode=0o700)
    with monkeypatch.context() as patch:
        patch.setattr(fcntl, "flock", refuse_locks)
        for _ in range(2):
            with pytest.raises(ClusterError, match=rf"{place} takes no folder with a lock.*No locks.*TMPDIR"):
                OwnedFolder()
        assert [path.name for path in place.iterdir()] == [left.name]
    OwnedFolder().close()
    assert not list(place.iterdir()), "the control: where there are locks it goes"


def test_where_no_folder_can_be_made_it_says_so(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(**_: object) -> str:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(tempfile, "mkdtemp", refuse)
    with pytest.raises(ClusterError, match=r"No space left on device"):
        OwnedFolder()


def test_a_node_without_such_a_folder_tells_it_as_the_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    from nodes.cluster import link

    monkeypatch.setattr(link, "check_installed", lambda: None)
    monkeypatch.setattr(link, "knock", lambda _: None)
    monkeypatch.setattr(fcntl, "flock", refuse_locks)
    made = Link(config())
    for _ in range(2):
        with pytest.raises(ClusterError, match=r"takes no folder with a lock"):
            made.connect()
