"""Searches that run now, so that one during which the node was killed is in the Article 40 log from the next start on.

A file `under-way/CONVERSATION` holds the entry as it stands while nobody has replied. It is made when a search begins
and goes when its entry is in the log. Whatever is there at a start was cut off. It is not forced to disk: it outlives
the node, not a loss of power in its first seconds.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import msgspec

from nodes.logs.entries import ArticleForty
from nodes.private_files import PRIVATE_FILE, PRIVATE_FOLDER
from pets.errors import MALFORMED

FOLDER = "under-way"


def begin(folder: Path, conversation: bytes, entry: ArticleForty) -> None:
    """Note a search. `folder`: the node's. Raises OSError."""
    (folder / FOLDER).mkdir(mode=PRIVATE_FOLDER, exist_ok=True)
    handle = os.open(_path(folder, conversation), os.O_WRONLY | os.O_CREAT | os.O_TRUNC, PRIVATE_FILE)
    with os.fdopen(handle, "wb") as stream:
        stream.write(msgspec.msgpack.encode(entry))


def end(folder: Path, conversation: bytes) -> None:
    """Its entry is in the log."""
    _path(folder, conversation).unlink(missing_ok=True)


def cut_off(folder: Path) -> Iterator[tuple[bytes, ArticleForty | None]]:
    """What ran when the node was killed, the oldest first; None for a file that was cut off itself."""
    found = []
    for path in (folder / FOLDER).glob("[0-9a-f]" * 32):
        try:
            entry: ArticleForty | None = msgspec.msgpack.decode(path.read_bytes(), type=ArticleForty)
        except (*MALFORMED, ValueError):
            entry = None
        found.append((bytes.fromhex(path.name), entry))
    yield from sorted(found, key=lambda one: one[1].request_time if one[1] else 0)


def _path(folder: Path, conversation: bytes) -> Path:
    return folder / FOLDER / conversation.hex()
