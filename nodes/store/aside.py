"""What restores and accepted losses put aside, until the operator deletes it: it may hold who was forgotten since."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import suppress
from datetime import datetime, timezone
from pathlib import Path

import msgspec

from nodes.store.rows import ASIDE

_MARK = re.compile(rf"{ASIDE}([0-9]{{1,11}})")


class Aside(msgspec.Struct, frozen=True):
    """A database, or a folder of templates. `since`: UTC. `bytes`: on disk, of a database with its log."""

    path: str
    since: datetime
    bytes: int

    def __str__(self) -> str:
        size, unit = (self.bytes / 1e6, "MB") if self.bytes >= 10**6 else (self.bytes / 1e3, "kB")
        return f"{self.path}, since {self.since:%Y-%m-%d}, {size:.1f} {unit}"


def put_aside(*places: Path) -> list[Aside]:
    """What lies beside databases and folders of templates as PLACE.lost-SECONDS, and in folders as lost-SECONDS."""
    found = [one for place in places for one in (*_beside(place), *_inside(place))]
    return sorted(found, key=lambda one: (one.since, one.path))


def _beside(place: Path) -> Iterator[Aside]:
    beside = f"{place.name}."
    for path in _listed(place.parent):
        if path.name.startswith(beside) and (marked := _MARK.fullmatch(path.name.removeprefix(beside))):
            yield _aside(path, int(marked[1]))


def _inside(place: Path) -> Iterator[Aside]:
    for path in _listed(place) if place.is_dir() else ():
        if path.is_dir() and (marked := _MARK.fullmatch(path.name)):
            yield _aside(path, int(marked[1]))


def _aside(path: Path, seconds: int) -> Aside:
    files = [path, path.with_name(f"{path.name}-wal")]
    if path.is_dir():
        files = [Path(folder, name) for folder, _, names in os.walk(path) for name in names]
    return Aside(str(path), datetime.fromtimestamp(seconds, timezone.utc), sum(map(_size, files)))


def _size(file: Path) -> int:
    with suppress(OSError):  # deleted meanwhile
        return file.stat().st_size
    return 0


def _listed(folder: Path) -> list[Path]:
    try:
        return list(folder.iterdir())
    except OSError:  # nothing that is put aside can be told
        return []
