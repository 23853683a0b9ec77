"""Killed at any step of any change, a gallery is as it was before or as it is after, and goes on from there."""

from __future__ import annotations

import copy
import os
import shutil
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from nodes.blocks import BlockFiles, BlocksCorrupted, ResidentGallery, VersionReader
from tests.kit.blocks import CIPHER, Killed, check, dying, new_files, plan, story, take

CHANGES = {
    "append": ("append", 20),
    "correct": ("correct", 4),
    "forget": ("forget", 123),
    "retire": ("retire", -1),
    "compact": ("compact", 0),
}
MOST_STEPS = 300


@pytest.mark.parametrize("name", CHANGES)
def test_killed_at_every_step(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    new_files(tmp_path / "before")
    before = story(BlockFiles(tmp_path / "before", CIPHER))
    check(BlockFiles(tmp_path / "before", CIPHER), before)
    after_kills = []
    for steps in range(MOST_STEPS):
        folder = tmp_path / "gallery"
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(tmp_path / "before", folder)
        generation = BlockFiles(folder, CIPHER).manifest().generation
        on_files, on_model = plan(before, *CHANGES[name])
        try:
            with dying(monkeypatch, steps):
                on_files(BlockFiles(folder, CIPHER))
        except Killed:
            pass
        else:
            break
        files = BlockFiles(folder, CIPHER)
        happened = files.manifest().generation > generation
        after_kills.append(happened)
        model = copy.deepcopy(before)
        if happened:
            on_model(model)
        take(files, model, "append", 3)  # what is left over goes, and work goes on
        check(files, model)
    else:
        raise AssertionError(f"{name} never ended within {MOST_STEPS} steps")
    assert after_kills == sorted(after_kills)  # one moment, before which nothing and after which everything happened
    assert set(after_kills) == {False, True}
    assert len(after_kills) > 8


def test_rekeying_killed_at_every_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    new_files(tmp_path / "before")
    model, new = story(BlockFiles(tmp_path / "before", CIPHER)), AESGCM(b"n" * 32)
    happened = []
    for steps in range(0, MOST_STEPS, 2):
        folder = tmp_path / "gallery"
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(tmp_path / "before", folder)
        try:
            with dying(monkeypatch, steps):
                BlockFiles(folder, CIPHER).rekey(new)
        except Killed:
            pass
        else:
            break
        try:
            files = BlockFiles(folder, CIPHER)
            happened.append(False)
        except BlocksCorrupted:
            files = BlockFiles(folder, new)
            happened.append(True)
        after = copy.deepcopy(model)
        take(files, after, "append", 3)
        check(files, after)
    assert happened == sorted(happened)
    assert set(happened) == {False, True}


def test_creating_and_copying_killed_at_every_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = copied = 0
    for steps in range(20):
        folder = tmp_path / f"gallery{steps}"
        with suppress(Killed), dying(monkeypatch, steps):
            new_files(folder)
            made += 1
        files = BlockFiles(folder, CIPHER) if (folder / "manifest").exists() else new_files(folder)
        model = story(files)
        target = tmp_path / f"copy{steps}"
        with suppress(Killed), dying(monkeypatch, steps):
            files.copy_to(target)
            copied += 1
        if not target.exists():
            files.copy_to(target)
        check(BlockFiles(target, CIPHER), model)
    assert 0 < made < 20
    assert 0 < copied < 20


WORK = """
import sys
from pathlib import Path
from nodes.blocks import BlockFiles
from tests.kit.blocks import CIPHER, rows
files = BlockFiles(Path(sys.argv[1]), CIPHER)
print("ready", flush=True)
while True:
    first, *_ = files.append(rows(20))
    files.correct(first, rows(1)[0])
    files.forget([first + 1])
    files.compact()
"""


def test_real_kills(tmp_path: Path) -> None:
    files = new_files(tmp_path / "g")
    versions = []
    for attempt in range(8):
        command = [sys.executable, "-c", WORK, str(tmp_path / "g")]
        with subprocess.Popen(command, stdout=subprocess.PIPE, cwd=Path(__file__).parents[2]) as worker:
            assert worker.stdout is not None
            assert worker.stdout.readline() == b"ready\n"
            time.sleep(0.05 + 0.013 * attempt)
            os.kill(worker.pid, signal.SIGKILL)
        manifest = files.manifest()
        versions.append(manifest.current.number)
        for version in manifest.versions[-8:]:
            assert VersionReader(files, version.number).recompute().root == version.root
        with ResidentGallery(files).snapshot() as snapshot:
            assert snapshot.rows[snapshot.live()].any(axis=1).all()
    assert versions == sorted(versions)
    assert versions[-1] > 0
