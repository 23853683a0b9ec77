"""Galleries in block files for tests, a plain model of what they must hold, and a file system that dies."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from nodes import private_files
from nodes.blocks import BlockFiles, HeldGallery, ResidentGallery, VersionReader
from nodes.blocks import files as file_module
from pets.params import norm_bound

DIM = 16
BLOCK = 8
MODEL = bytes(range(32))
CIPHER = AESGCM(b"k" * 32)


def rows(count: int, seed: int = 0, dim: int = DIM) -> npt.NDArray[np.int8]:
    wide = np.random.default_rng([seed, count]).standard_normal((count, dim))
    unit = wide / np.linalg.norm(wide, axis=1, keepdims=True)
    scaled: npt.NDArray[np.int8] = np.rint(unit * norm_bound(dim) ** 0.5 * 0.9).clip(-127, 127).astype(np.int8)
    return scaled


def new_files(folder: Path, **options: Any) -> BlockFiles:
    return BlockFiles.create(folder, CIPHER, dim=DIM, model=MODEL, block_rows=options.pop("block_rows", BLOCK))


@dataclass
class Model:
    """What a gallery must hold, kept in the plainest way. `history`: version -> numbers of its rows, in order."""

    templates: dict[int, npt.NDArray[np.int8]] = field(default_factory=dict)
    dropped: set[int] = field(default_factory=set)
    forgotten: set[int] = field(default_factory=set)
    erased: set[int] = field(default_factory=set)
    replaced: dict[int, tuple[int, int]] = field(default_factory=dict)
    history: dict[int, list[int]] = field(default_factory=lambda: {0: []})
    roots: dict[int, bytes] = field(default_factory=dict)

    @property
    def version(self) -> int:
        return max(self.history)

    def note(self) -> None:
        self.history[self.version + 1] = [row for row in self.templates if row not in self.dropped]

    def append(self, templates: npt.NDArray[np.int8]) -> None:
        for template in templates:
            self.templates[len(self.templates)] = template
        self.note()

    def correct(self, row: int, template: npt.NDArray[np.int8]) -> None:
        self.replaced[row] = (len(self.templates), self.version + 1)
        self.append(template[None])

    def forget(self, wanted: set[int]) -> None:
        wanted = set(wanted)
        while more := {old for old, (new, _) in self.replaced.items() if new in wanted} - wanted:
            wanted |= more
        if wanted - self.forgotten - self.dropped:
            self.forgotten |= wanted
            self.erased |= wanted
            self.note()

    def retire(self, oldest: int) -> None:
        self.history = {number: held for number, held in self.history.items() if number >= oldest}
        self.erased |= {old for old, (_, version) in self.replaced.items() if version <= oldest}

    def compact(self) -> None:
        if self.erased - self.dropped:
            self.dropped |= self.erased
            self.note()

    def live(self, version: int) -> list[bool]:
        dead = self.forgotten | {old for old, (_, since) in self.replaced.items() if since <= version}
        return [row not in dead for row in self.history[version]]

    def pick_live(self, seed: int) -> int | None:
        held = [row for row, live in zip(self.history[self.version], self.live(self.version), strict=True) if live]
        return held[seed % len(held)] if held else None


def check(files: BlockFiles, model: Model, gallery: HeldGallery | None = None) -> None:
    """Every version that is kept is whole, on disk and in memory, but for what was erased."""
    manifest = files.manifest()
    assert {version.number for version in manifest.versions} == set(model.history)
    assert {path.name for path in files.folder.iterdir()} - {"lock"} == manifest.names() | {"manifest"}
    for number, held in model.history.items():
        reader = VersionReader(files, number)
        again = reader.recompute()
        assert again.root == reader.version.root == model.roots.setdefault(number, reader.version.root)
        assert again.missing.tolist() == [row for row in held if row in model.erased]
        found = [row for part in reader.blocks() for row in part.rows]
        wanted = [np.zeros(DIM, np.int8) if row in model.erased else model.templates[row] for row in held]
        assert len(found) == len(wanted)
        assert all((one == other).all() for one, other in zip(found, wanted, strict=True))
    resident = ResidentGallery(files, threads=2, spare=64) if gallery is None else gallery
    with resident.snapshot() as snapshot:
        number = snapshot.version.number
        held = model.history[number]
        assert number == model.version
        assert snapshot.live().tolist() == model.live(number)
        assert snapshot.numbers(range(len(held))).tolist() == held
        wanted = [np.zeros(DIM, np.int8) if row in model.erased else model.templates[row] for row in held]
        assert snapshot.rows.shape == (len(held), DIM)
        assert all((one == other).all() for one, other in zip(snapshot.rows[:], wanted, strict=True))


class Killed(BaseException):
    """The process died here."""


@dataclass
class DyingSystem:
    """Stands for `os` in `nodes.blocks.files` and `nodes.private_files`.

    It dies before its `steps`th change of the disk, and stays dead.
    A file whose content was not brought to disk loses its second half then, as after a power cut.
    """

    steps: int
    taken: int = 0
    unsynced: dict[int, Path] = field(default_factory=dict)
    halves: set[int] = field(default_factory=set)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def __getattr__(self, name: str) -> Any:
        return getattr(os, name)

    def _step(self) -> None:
        with self.lock:
            if self.taken == self.steps:
                for path in self.unsynced.values():
                    if path.exists():
                        os.truncate(path, path.stat().st_size // 2)
                self.unsynced.clear()
                raise Killed
            self.taken += 1

    def open(self, path: Path, flags: int, mode: int = 0o777) -> int:
        if not flags & os.O_TRUNC:
            return os.open(path, flags, mode)
        self._step()
        handle = os.open(path, flags, mode)
        with self.lock:
            self.unsynced[handle] = path
            self.halves.add(handle)
        return handle

    def write(self, handle: int, data: memoryview) -> int:
        self._step()
        half = handle in self.halves  # a step in the middle of every file
        self.halves.discard(handle)
        return os.write(handle, data[: len(data) // 2] if half else data)

    def fsync(self, handle: int) -> None:
        self._step()
        with self.lock:
            self.unsynced.pop(handle, None)

    def replace(self, old: Path, new: Path) -> None:
        self._step()
        os.replace(old, new)

    def unlink(self, path: Path) -> None:
        self._step()
        os.unlink(path)


@contextmanager
def dying(monkeypatch: pytest.MonkeyPatch, steps: int) -> Iterator[DyingSystem]:
    system = DyingSystem(steps)
    with monkeypatch.context() as patch:
        patch.setattr(file_module, "os", system)
        patch.setattr(private_files, "os", system)  # which brings names in a folder to disk
        yield system


def plan(model: Model, what: str, seed: int) -> tuple[Callable[[BlockFiles], object], Callable[[Model], object]]:
    """A change that fits the model as it is: as it is made to the files, and to the model."""
    templates = rows(1 + seed % 20, abs(seed))
    if what == "append":
        return lambda files: files.append(templates), lambda model: model.append(templates)
    if what == "forget":
        wanted = {row for row in (model.pick_live(seed), model.pick_live(seed // 7)) if row is not None}
        return lambda files: files.forget(wanted), lambda model: model.forget(wanted)
    if what == "correct" and (row := model.pick_live(seed)) is not None:
        found = row
        return lambda files: files.correct(found, templates[0]), lambda model: model.correct(found, templates[0])
    if what == "retire":
        oldest = sorted(model.history)[seed % len(model.history)]
        return lambda files: files.retire(oldest), lambda model: model.retire(oldest)
    return lambda files: files.compact(), lambda model: model.compact()


def take(files: BlockFiles, model: Model, what: str, seed: int) -> None:
    """Make a change to both."""
    on_files, on_model = plan(model, what, seed)
    on_files(files)
    on_model(model)


def story(files: BlockFiles) -> Model:
    """Something of everything, over several blocks."""
    model = Model()
    for what, seed in [
        ("append", 19), ("append", 12), ("correct", 3), ("forget", 5), ("append", 6), ("forget", 1000), ("compact", 0),
        ("correct", 9), ("append", 19), ("retire", 4), ("compact", 0), ("forget", 77), ("correct", 11),
    ]:  # fmt: skip
        take(files, model, what, seed)
    return model
