"""A file of photos: the photo itself, or the faces of an ANSI/NIST-ITL file."""

from __future__ import annotations

from pathlib import Path

from nodes.casework.exchange.type10 import ExchangeError, read_faces
from pets.photos import MAX_FILE_BYTES

SUFFIXES = frozenset({".an2", ".nist", ".nst", ".eft"})


def photos_in(path: Path) -> list[tuple[str, bytes]]:
    """Name and bytes of each photo; those of an ANSI/NIST-ITL file are called FILE#1 and so on.

    Raises OSError, `ExchangeError`.
    """
    if path.stat().st_size > MAX_FILE_BYTES:
        raise ExchangeError(f"{path} has {path.stat().st_size} bytes, the limit is {MAX_FILE_BYTES}")
    data = path.read_bytes()
    if path.suffix.lower() not in SUFFIXES:
        return [(str(path), data)]
    try:
        faces = read_faces(data)
    except ExchangeError as error:
        raise type(error)(f"{path}: {error}") from None
    return [(f"{path}#{number}", face.image) for number, face in enumerate(faces, start=1)]
