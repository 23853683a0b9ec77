"""Which conversation made a preparation, so that evidence of a search finds it: `preparations/ID`.

`LinkDamaged` (a pets.errors.InputError): a file there names no conversation.
"""

from __future__ import annotations

from pathlib import Path

from nodes.private_files import replace_private
from pets.errors import InputError

FOLDER = "preparations"
CONVERSATION_BYTES = 16


class LinkDamaged(InputError):
    """A file that should name a conversation does not."""


def note(folder: Path, preparation_id: bytes, conversation: bytes) -> None:
    """Write down, on disk before it returns, that a preparation was made in a conversation. Raises OSError.

    `folder`: the node's. `preparation_id`: 32 bytes. `conversation`: 16 bytes.
    """
    links = folder / FOLDER
    links.mkdir(mode=0o700, exist_ok=True)
    replace_private(links / preparation_id.hex(), conversation)


def conversation_of(folder: Path, preparation_id: bytes) -> bytes | None:
    """The conversation of a preparation, None if this node noted none. Raises `LinkDamaged`, OSError."""
    path = folder / FOLDER / preparation_id.hex()
    if not path.is_file():
        return None
    conversation = path.read_bytes()
    if len(conversation) != CONVERSATION_BYTES:
        raise LinkDamaged(f"{path} is damaged: {len(conversation)} bytes, a conversation has {CONVERSATION_BYTES}")
    return conversation
