"""Finding photos on disk, and reading one within limits that are checked before anything large is decoded."""

from __future__ import annotations

import io
import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from pets.errors import InputError, UnreadablePhoto

MAX_FILE_BYTES = 32 << 20
MAX_PIXELS = 100_000_000
FORMATS = ("JPEG", "PNG", "BMP", "WEBP")
SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".webp"})


def read_photo(path: Path) -> NDArray[np.uint8]:
    """Decode a photo, (height, width, 3) uint8 in BGR order, turned as its EXIF orientation says.

    Raises `UnreadablePhoto` for a missing file, one over 32 MiB or 100 megapixels, a format other than JPEG, PNG, BMP
    or WebP, a truncated or damaged image, or more than 8 bits a channel.
    """
    try:
        if not path.is_file():
            raise UnreadablePhoto(f"{path} " + ("is not a file" if path.exists() else "does not exist"))
        with path.open("rb") as stream:
            data = stream.read(MAX_FILE_BYTES + 1)
    except OSError as error:
        raise UnreadablePhoto(f"{path} cannot be read: {error.strerror}") from error
    if len(data) > MAX_FILE_BYTES:
        raise UnreadablePhoto(f"{path} has {path.stat().st_size} bytes, the limit is {MAX_FILE_BYTES}")
    return decode_photo(data, str(path))


def decode_photo(data: bytes, name: str, max_pixels: int = MAX_PIXELS) -> NDArray[np.uint8]:
    """As `read_photo`, from the bytes of a file. `name`: what errors call it."""
    try:
        with warnings.catch_warnings():
            # about the photo's metadata, and about a size that is checked here
            warnings.simplefilter("ignore")
            return _decode(data, name, max_pixels)
    except UnreadablePhoto:
        raise
    except UnidentifiedImageError as error:  # its own text names a buffer in memory
        raise UnreadablePhoto(f"{name} is not a {', '.join(FORMATS[:-1])} or {FORMATS[-1]} image") from error
    except Image.DecompressionBombError as error:  # the decoder's own limit is above ours
        raise UnreadablePhoto(f"{name} has more than {max_pixels} pixels, the limit") from error
    except Exception as error:  # decoders raise almost anything for hostile bytes
        raise UnreadablePhoto(f"{name} is a damaged image: {str(error) or type(error).__name__}") from error


def _decode(data: bytes, name: str, max_pixels: int) -> NDArray[np.uint8]:
    with Image.open(io.BytesIO(data), formats=FORMATS) as image:  # reads the header only
        width, height = image.size
        if width * height > max_pixels:
            raise UnreadablePhoto(f"{name} has {width}x{height} pixels, the limit is {max_pixels}")
        if image.mode.startswith(("I", "F")):
            raise UnreadablePhoto(f"{name} has more than 8 bits a channel (mode {image.mode}), the limit is 8")
        rgb: NDArray[Any] = np.asarray(ImageOps.exif_transpose(image).convert("RGB"))
        return np.ascontiguousarray(rgb[:, :, ::-1])


def list_photos(photos: Iterable[Path]) -> list[Path]:
    """Files as given, and for a folder the photos below it sorted by path; each file once.

    Raises `InputError` for a path that does not exist, a folder without photos, or no paths at all.
    """
    found: dict[Path, Path] = {}
    for path in photos:
        if path.is_dir():
            inside = sorted(p for p in path.rglob("*") if p.suffix.lower() in SUFFIXES and p.is_file())
            if not inside:
                raise InputError(f"folder {path} holds no photo ({' '.join(sorted(SUFFIXES))})")
        elif path.exists():
            inside = [path]
        else:
            raise InputError(f"photo {path} does not exist")
        for file in inside:
            found.setdefault(file.resolve(), file)
    if not found:
        raise InputError("no photos given, at least 1 is needed")
    return list(found.values())
