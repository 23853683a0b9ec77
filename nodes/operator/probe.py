"""A probe made ready for the casework: template, photo as reviewers see it, quality by component."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from nodes.casework.exchange.files import photos_in
from nodes.casework.quality import assess
from pets.errors import InputError, UnreadablePhoto
from pets.faces import FaceModel, Provider
from pets.photos import decode_photo
from pets.templates import load_templates, quantise, read_identity
from protocol.terms import SYNTHETIC_MODEL


@dataclass(frozen=True)
class PreparedProbe:
    """`template`: int8 (d,) as bytes. `photo`: as it was given, None for a template. `quality`: 0 to 100 each."""

    template: bytes
    model: bytes
    photo: bytes | None
    quality: dict[str, int]


def prepare_probe(path: Path, models: Path | None, provider: Provider, largest: bool) -> PreparedProbe:
    """A photo, an ANSI/NIST-ITL file with one face, or a .npy file with one unit template.

    Raises `InputError`, `PhotoError`.
    """
    if path.suffix == ".npy":
        unit = load_templates(path, what="probe")
        if unit.ndim == 2 and len(unit) != 1:
            raise InputError(f"{path} holds {len(unit)} templates; a query has one probe")
        identity = read_identity(path)
        model = identity.digest() if identity is not None else SYNTHETIC_MODEL
        return PreparedProbe(quantise(unit.reshape(-1)).tobytes(), model, None, {})
    (photo, *others) = _read(path)
    if others:
        raise InputError(f"{path} holds {1 + len(others)} faces; a query has one probe")
    return prepare_photo(photo[1], photo[0], FaceModel.load(models, provider), largest)


def prepare_photo(data: bytes, name: str, faces: FaceModel, largest: bool = False) -> PreparedProbe:
    """A photo that is here already; `name`: what errors call it. Raises `PhotoError`."""
    image = decode_photo(data, name)
    face = faces.embed(image, largest=largest, name=name)
    template = quantise(face.template, name=name)
    return PreparedProbe(template.tobytes(), faces.identity.digest(), data, assess(image, face))


def _read(path: Path) -> list[tuple[str, bytes]]:
    if not path.is_file():
        raise UnreadablePhoto(f"{path} " + ("is not a file" if path.exists() else "does not exist"))
    try:
        return photos_in(path)
    except OSError as error:
        raise UnreadablePhoto(f"{path} cannot be read: {error.strerror}") from error
