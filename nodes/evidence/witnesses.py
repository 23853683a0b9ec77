"""Checkpoints of other nodes' logs that this node was shown: `witnessed/NAME.KIND` in its folder.

Of each log the newest is kept, and where two contradict each other both, for good: `witnessed/NAME.KIND.contradicts` is
the second. They travel in evidence bundles, so that whoever verifies one sees the contradiction too.

`WitnessDamaged` (a pets.errors.InputError): a file there is no checkpoint.
"""

from __future__ import annotations

from pathlib import Path

import msgspec

from nodes.logs.entries import Kind
from nodes.private_files import replace_private
from nodes.verify.format import Witnessed
from pets.errors import MALFORMED, InputError

WITNESSED = "witnessed"
_SECOND = ".contradicts"


class WitnessDamaged(InputError):
    """A file that should hold a checkpoint does not."""


class Witnesses:
    """`folder`: made when there is something to keep. Callers have checked signatures and consistency."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def newest(self, owner: str, kind: Kind) -> Witnessed | None:
        """The newest of a node's log, None if there is none. Raises `WitnessDamaged`."""
        path = self._folder / f"{owner}.{kind}"
        return _read(path) if path.exists() else None

    def keep(self, shown: Witnessed) -> None:
        """Keep a newer one in place of the one before."""
        self._write(shown)

    def accuse(self, one: Witnessed, other: Witnessed) -> None:
        """Keep two that contradict each other."""
        self._write(one)
        self._write(other, _SECOND)

    @property
    def accused(self) -> list[tuple[str, Kind]]:
        """(node, log) of each log that showed two histories. Raises `WitnessDamaged`."""
        second = [_read(path) for path in sorted(self._folder.glob(f"[!.]*{_SECOND}"))]
        return [(shown.header.owner, shown.header.kind) for shown in second]

    def all(self) -> tuple[Witnessed, ...]:
        """Everything kept, by owner and log. Raises `WitnessDamaged`."""
        return tuple(_read(path) for path in sorted(self._folder.glob("[!.]*")))

    def _write(self, shown: Witnessed, suffix: str = "") -> None:
        self._folder.mkdir(mode=0o700, exist_ok=True)
        name = f"{shown.header.owner}.{shown.header.kind}{suffix}"
        replace_private(self._folder / name, msgspec.msgpack.encode(shown))


def _read(path: Path) -> Witnessed:
    try:
        return msgspec.msgpack.decode(path.read_bytes(), type=Witnessed)
    except MALFORMED as error:
        raise WitnessDamaged(f"{path} is not a checkpoint: {error}") from None
