"""Checkpoints of other nodes' transcript logs that this node was shown: `witnessed/NAME` in its folder.

Of each log the newest is kept, and where two contradict each other both, for good: `witnessed/NAME.contradicts` is the
second. They travel in evidence bundles, so that whoever verifies one sees the contradiction too.

`WitnessDamaged` (a pets.errors.InputError): a file there is no checkpoint.
"""

from __future__ import annotations

from pathlib import Path

import msgspec

from nodes.checkpoints import Checkpoint
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

    def newest(self, owner: str) -> Checkpoint | None:
        """The newest checkpoint of a node's log, None if there is none. Raises `WitnessDamaged`."""
        path = self._folder / owner
        return _read(path) if path.exists() else None

    def keep(self, owner: str, checkpoint: Checkpoint) -> None:
        """Keep a newer one in place of the one before."""
        self._write(owner, checkpoint)

    def accuse(self, owner: str, one: Checkpoint, other: Checkpoint) -> None:
        """Keep two that contradict each other."""
        self._write(owner, one)
        self._write(owner + _SECOND, other)

    @property
    def accused(self) -> list[str]:
        """Whose logs showed two histories."""
        return sorted(path.name[: -len(_SECOND)] for path in self._folder.glob(f"[!.]*{_SECOND}"))

    def all(self) -> tuple[Witnessed, ...]:
        """Everything kept, by owner. Raises `WitnessDamaged`."""
        paths = sorted(self._folder.glob("[!.]*"))
        return tuple(Witnessed(path.name.removesuffix(_SECOND), _read(path)) for path in paths)

    def _write(self, name: str, checkpoint: Checkpoint) -> None:
        self._folder.mkdir(mode=0o700, exist_ok=True)
        fresh = self._folder / f".{name}"
        fresh.write_bytes(msgspec.msgpack.encode(checkpoint))
        fresh.replace(self._folder / name)


def _read(path: Path) -> Checkpoint:
    try:
        return msgspec.msgpack.decode(path.read_bytes(), type=Checkpoint)
    except MALFORMED as error:
        raise WitnessDamaged(f"{path} is no checkpoint: {error}") from None
