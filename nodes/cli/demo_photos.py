"""The photographs of the demo: three of one man and one of another, a group of six, and one small portrait.

The White House portraits (public domain) come from the source distribution of `face_recognition`, fetched once; the
other two are part of the installed insightface.
"""

from __future__ import annotations

import tarfile
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from pets.cache import CacheError, cache_root, check_files, prepared
from pets.errors import InputError
from pets.fetch import fetch_sdist

ARCHIVE = ("face_recognition", "1.3.0")
ARCHIVE_SHA256 = "5e5efdd1686aa566af0d3cc1313b131e4b197657a8ffd03669e6d3fad92705ec"
MEMBERS = "face_recognition-1.3.0/tests/test_images"
FOLDER = "face_recognition-1.3.0"

PORTRAITS = {
    "obama.jpg": "0930e3aa8cae5920329c0c8cbc6a2ab70f47b0e67b432875beaa95cbf7e741f6",
    "obama2.jpg": "a7efcc907375274796f39646510704aa86672d59f6d5469d69af3c85590976a6",
    "obama3.jpg": "76ac6bf97c36dc2da0ad16a537d6a5ac1b10f48d49aac29a0cca9a17cdbc3ca3",
    "biden.jpg": "3c17508bb91554c637a2eabddfae790e5bb1caba93130814fc2ac50be9760c4c",
}
INSIGHTFACE = {
    "t1.jpg": "47f682e945b659f93a9e490b9c9c4a2a864abe64dace9e1a2893845ddfd69489",
    "Tom_Hanks_54745.png": "8545da294e8c7c79911169c3915fed8528f1960cd0ed99b92453788ca4275083",
}


@dataclass(frozen=True)
class DemoPhotos:
    """Paths of the photographs. `six_faces` shows six people, every other one a single person."""

    obama: Path
    obama2: Path
    obama3: Path
    biden: Path
    six_faces: Path
    tom_hanks: Path


def demo_photos() -> DemoPhotos:
    """The photographs, fetched on first use (3 MB). Raises `InputError` if that fails or a file is another one."""
    try:
        folder = prepared(cache_root() / "photos" / FOLDER, PORTRAITS, _build)
        installed = _insightface_images()
        check_files(installed, INSIGHTFACE)
    except InputError as error:
        raise InputError(f"the demo photographs cannot be prepared: {error}") from error
    return DemoPhotos(
        *(folder / name for name in PORTRAITS),
        *(installed / name for name in INSIGHTFACE),
    )


def _build(folder: Path) -> None:
    archive = fetch_sdist(*ARCHIVE, ARCHIVE_SHA256, folder)
    with tarfile.open(archive) as tar:
        for name in PORTRAITS:
            member = tar.extractfile(f"{MEMBERS}/{name}")
            if member is None:
                raise CacheError(f"{archive.name} holds no file {MEMBERS}/{name}")
            (folder / name).write_bytes(member.read())
    archive.unlink()


def _insightface_images() -> Path:
    spec = find_spec("insightface")  # its location only: importing it takes a second
    if spec is None or spec.origin is None:
        raise CacheError("insightface is not installed")
    return Path(spec.origin).parent / "data" / "images"
