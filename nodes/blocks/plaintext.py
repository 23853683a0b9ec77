"""What a plaintext memory map holds: a note beside it, which is there only while the map is whole."""

from __future__ import annotations

import hashlib
from pathlib import Path

import msgspec

from nodes.blocks.files import replace_file
from nodes.blocks.manifest import Manifest
from nodes.private_files import sync_folder


class PlaintextMap:
    """The note beside `file`, which holds a gallery in the clear."""

    def __init__(self, file: Path) -> None:
        self._file, self._note = file, file.with_name(f"{file.name}.holds")

    def holds(self, manifest: Manifest) -> bool:
        """Whether the file holds exactly this."""
        size = manifest.current.rows * manifest.dim
        try:
            return self._file.stat().st_size >= size and self._note.read_bytes() == _digest(manifest)
        except FileNotFoundError:
            return False

    def note(self, manifest: Manifest) -> None:
        """The file is on disk and holds this."""
        replace_file(self._note, _digest(manifest))

    def forget(self) -> None:
        """The file is about to change."""
        if self._note.exists():
            self._note.unlink()
            sync_folder(self._note.parent)


def _digest(manifest: Manifest) -> bytes:
    return hashlib.sha256(msgspec.msgpack.encode(manifest)).hexdigest().encode()
