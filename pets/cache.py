"""A folder of prepared files that is complete and checked, or absent.

Files are built in a temporary folder beside the final one and moved into place with one rename, so two processes that
prepare the same folder at once both end with a whole one, and an interrupted build leaves nothing that looks finished.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import logging
import os
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path

from pets.errors import InputError

logger = logging.getLogger(__name__)

MANIFEST = "manifest.json"
_CHUNK = 1 << 20


class CacheError(InputError):
    """A prepared file is missing, or its SHA-256 is not the pinned one."""


def cache_root() -> Path:
    """`$BLIND_LINEUP_CACHE`, else `$XDG_CACHE_HOME/blind-lineup`, else `~/.cache/blind-lineup`."""
    if own := os.environ.get("BLIND_LINEUP_CACHE"):
        return Path(own).expanduser()
    base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(base).expanduser() / "blind-lineup"


def sha256_file(path: Path) -> str:
    """SHA-256 of a file, as 64 hex digits."""
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while chunk := stream.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def check_files(folder: Path, pins: Mapping[str, str]) -> None:
    """Raise `CacheError`, which names the file, unless `folder` holds every pinned file with its SHA-256.

    `pins`: file name -> 64 hex digits. They come from the code, not from the manifest in the folder: whoever can
    change a cached file can change a manifest beside it too.
    """
    for name, expected in pins.items():
        path = folder / name
        if not path.is_file():
            raise CacheError(f"{path} is missing")
        actual = sha256_file(path)
        if actual != expected:
            raise CacheError(f"{path} has SHA-256 {actual}, expected {expected}")


def prepared(folder: Path, pins: Mapping[str, str], build: Callable[[Path], None]) -> Path:
    """Return `folder` with every pinned file in it, calling `build(empty folder)` first where that is needed.

    A folder with a missing or changed file is reported to the log and rebuilt. Raises `CacheError` if the folder cannot
    be written or the files just built are not the pinned ones, and whatever `build` raises.
    """
    try:
        if folder.is_dir():
            check_files(folder, pins)
            return folder
    except (CacheError, OSError) as error:
        logger.warning("%s; preparing it again", error)
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{folder.name}-", dir=folder.parent) as temporary:
            fresh = Path(temporary) / "fresh"
            fresh.mkdir()
            build(fresh)
            check_files(fresh, pins)
            (fresh / MANIFEST).write_text(json.dumps({"sha256": dict(pins)}, indent=2) + "\n")
            _move_into_place(fresh, folder, pins, Path(temporary))
    except OSError as error:
        raise CacheError(f"{folder} cannot be prepared: {error}") from error
    return folder


def _move_into_place(fresh: Path, folder: Path, pins: Mapping[str, str], temporary: Path) -> None:
    for attempt in range(8):
        try:
            fresh.rename(folder)  # fails on a folder that is not empty
            return
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                raise
        try:
            check_files(folder, pins)
            return  # another process was faster, and what it left is good
        except (CacheError, OSError):
            with contextlib.suppress(FileNotFoundError):  # another process has just moved it away
                folder.rename(temporary / f"discarded-{attempt}")
    raise CacheError(f"another process keeps changing {folder}")
