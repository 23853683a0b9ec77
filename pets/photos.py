"""Finding photos on disk, and reading one within limits that are checked before anything large is decoded."""

from __future__ import annotations

import io
import warnings
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError, features

from pets.errors import InputError, UnreadablePhoto

MAX_FILE_BYTES = 32 << 20
MAX_PIXELS = 100_000_000
DECODED_PIXELS = 40_000_000  # 120 MB in three channels, of which decoding takes a few copies
WEB_FORMATS = ("JPEG", "PNG", "BMP", "WEBP")  # of what people upload: the fewer decoders, the better
DRAFTS = (2, 4, 8)  # a JPEG can be decoded at these parts of its size


def _formats() -> dict[str, tuple[str, ...]]:
    """What this Pillow decodes, by name, with its suffixes. Police archives hold JPEG 2000 and TIFF."""
    found = {
        "JPEG": (".jpg", ".jpeg", ".jpe", ".jfif"),
        "PNG": (".png",),
        "BMP": (".bmp",),
        "WEBP": (".webp",),
        "GIF": (".gif",),
        "TIFF": (".tif", ".tiff"),
        "JPEG2000": (".jp2", ".j2k", ".j2c", ".jpc", ".jpf", ".jpx"),
        "AVIF": (".avif",),
    }
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of a feature that this Pillow does not know
        for name, feature in (("JPEG2000", "jpg_2000"), ("AVIF", "avif"), ("WEBP", "webp")):
            if not features.check(feature):
                del found[name]
    return found


FORMATS = tuple(_formats())
SUFFIXES = frozenset(suffix for suffixes in _formats().values() for suffix in suffixes)


def read_photo(path: Path) -> NDArray[np.uint8]:
    """Decode a photo, (height, width, 3) uint8 in BGR order, turned as its EXIF orientation says.

    A JPEG of more than 40 megapixels is decoded at a half of its size. Raises `UnreadablePhoto` for a missing file, one
    over 32 MiB, over 40 megapixels (JPEG: 100), a format that is none of `FORMATS`, several pages, a truncated or
    damaged image, or more than 8 bits a channel.
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


def decode_photo(
    data: bytes, name: str, max_pixels: int | None = None, formats: tuple[str, ...] = FORMATS
) -> NDArray[np.uint8]:
    """As `read_photo`, from the bytes of a file. `name`: what errors call it. `formats`: those that are read.

    `max_pixels`: of any format.
    """
    try:
        with warnings.catch_warnings():
            # about the photo's metadata, and about a size that is checked here
            warnings.simplefilter("ignore")
            return _decode(data, name, max_pixels, formats)
    except UnreadablePhoto:
        raise
    except UnidentifiedImageError as error:  # its own text names a buffer in memory
        raise UnreadablePhoto(f"{name} is not a {', '.join(formats[:-1])} or {formats[-1]} image") from error
    except Image.DecompressionBombError as error:  # the decoder's own limit is above ours
        raise UnreadablePhoto(f"{name} has more than {max_pixels or MAX_PIXELS} pixels, the limit") from error
    except Exception as error:  # decoders raise almost anything for hostile bytes
        raise UnreadablePhoto(f"{name} is a damaged image: {str(error) or type(error).__name__}") from error


def _decode(data: bytes, name: str, max_pixels: int | None, formats: tuple[str, ...]) -> NDArray[np.uint8]:
    with Image.open(io.BytesIO(data), formats=formats) as image:  # reads the header only
        width, height = image.size
        limit = max_pixels or (MAX_PIXELS if image.format == "JPEG" else DECODED_PIXELS)
        if width * height > limit:
            raise UnreadablePhoto(f"{name} has {width}x{height} pixels, the limit is {limit}")
        if image.format == "TIFF" and (pages := getattr(image, "n_frames", 1)) != 1:
            raise UnreadablePhoto(f"{name} has {pages} pages, 1 is needed")
        if image.mode.startswith(("I", "F")):
            raise UnreadablePhoto(f"{name} has more than 8 bits a channel (mode {image.mode}), the limit is 8")
        if width * height > DECODED_PIXELS:
            part = next((part for part in DRAFTS if width * height <= DECODED_PIXELS * part**2), DRAFTS[-1])
            image.draft(None, (width // part, height // part))
        ImageOps.exif_transpose(image, in_place=True)
        rgb: NDArray[Any] = np.asarray(image if image.mode == "RGB" else image.convert("RGB"))
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
                others = skipped_files([path])
                rest = f"; {tell_skipped(others)}" if others else ""
                raise InputError(f"folder {path} holds no photo ({' '.join(sorted(SUFFIXES))}){rest}")
        elif path.exists():
            inside = [path]
        else:
            raise InputError(f"photo {path} does not exist")
        for file in inside:
            found.setdefault(file.resolve(), file)
    if not found:
        raise InputError("no photos given, at least 1 is needed")
    return list(found.values())


def skipped_files(photos: Iterable[Path]) -> list[Path]:
    """What `list_photos` passes over in the folders among `photos`, sorted by path: not hidden ones."""
    return sorted(
        file
        for folder in photos
        if folder.is_dir()
        for file in folder.rglob("*")
        if file.is_file() and file.suffix.lower() not in SUFFIXES and not file.name.startswith(".")
    )


def tell_skipped(files: Sequence[Path], most: int = 10) -> str:
    """How many and which, in a line; at most `most` by name."""
    names = ", ".join(file.name for file in files[:most]) + (", …" if len(files) > most else "")
    return f"skipped {len(files)} {'file that is' if len(files) == 1 else 'files that are'} no photo: {names}"
