"""Searches that run now, so that one during which the node was killed is in the Article 40 log from the next start on.

A file `under-way/CONVERSATION` holds the entry as it stands while nobody has replied, encrypted under the storage key
for this name: who can only write to the disk puts nothing into the log. It is made when a search begins and goes when
its entry is in the log. Whatever is there at a start was cut off. It is not forced to disk: it outlives the node, not a
loss of power in its first seconds. What is no such note stays where it is, and is named in the node's log.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import msgspec

from nodes.logs.entries import ArticleForty
from nodes.private_files import PRIVATE_FILE, PRIVATE_FOLDER, replace_private
from nodes.store.errors import StoreCorrupted
from nodes.store.keys import StorageKey
from pets.errors import MALFORMED

log = logging.getLogger("lineup.archive")

FOLDER = "under-way"
_NAME = "[0-9a-f]" * 32


def begin(folder: Path, key: StorageKey, conversation: bytes, entry: ArticleForty) -> None:
    """Note a search. `folder`: the node's. Raises OSError."""
    (folder / FOLDER).mkdir(mode=PRIVATE_FOLDER, exist_ok=True)
    path = _path(folder, conversation)
    fresh = path.with_name(f".{path.name}")  # never half of it
    handle = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, PRIVATE_FILE)
    try:
        with os.fdopen(handle, "wb") as stream:
            stream.write(key.seal(msgspec.msgpack.encode(entry), FOLDER, path.name))
        fresh.replace(path)
    except BaseException:
        fresh.unlink(missing_ok=True)
        raise


def end(folder: Path, conversation: bytes) -> None:
    """Its entry is in the log. Raises OSError."""
    _path(folder, conversation).unlink(missing_ok=True)


def cut_off(folder: Path, key: StorageKey) -> Iterator[tuple[bytes, ArticleForty]]:
    """What ran when the node was killed, the oldest first."""
    for half in (folder / FOLDER).glob("." + _NAME):
        with suppress(OSError):
            half.unlink()
    found = []
    for path in _files(folder):
        try:
            entry = msgspec.msgpack.decode(key.unseal(path.read_bytes(), FOLDER, path.name), type=ArticleForty)
            if entry.replied:
                raise ValueError("somebody replied")
        except (OSError, StoreCorrupted, *MALFORMED, ValueError) as error:
            log.warning("not a note of a search", extra={"query": path.name, "error": type(error).__name__})
            continue
        found.append((bytes.fromhex(path.name), entry))
    yield from sorted(found, key=lambda one: one[1].request_time)


def reseal(folder: Path, old: StorageKey, new: StorageKey) -> None:
    """Encrypt every note anew. May be interrupted and called again. What opens under neither key stays."""
    for path in _files(folder):
        with suppress(StoreCorrupted):
            content = old.unseal(path.read_bytes(), FOLDER, path.name)
            replace_private(path, new.seal(content, FOLDER, path.name))


def _files(folder: Path) -> list[Path]:
    return [path for path in sorted((folder / FOLDER).glob(_NAME)) if path.is_file()]


def _path(folder: Path, conversation: bytes) -> Path:
    return folder / FOLDER / conversation.hex()
