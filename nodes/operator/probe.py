"""A probe made ready for the casework: template, photo as reviewers see it, quality by component."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from nodes.casework.exchange.files import photos_in
from nodes.casework.quality import assess
from pets.errors import InputError, UnreadablePhoto
from pets.faces import Embedded, FaceModel, Provider
from pets.fusion import fuse
from pets.photos import decode_photo
from pets.templates import ModelSpec, load_templates, quantise, read_model_spec
from protocol.terms import SYNTHETIC_MODEL


@dataclass(frozen=True)
class PreparedProbe:
    """`template`: int8 (d,) as bytes. `spec`: of its model, None if unknown. `quality`: 0 to 100 each.

    `photo`: as it was given, the first of several, None for a template. `several`: faces on each photo that had more
    than one, of which the largest was taken.
    """

    template: bytes = field(repr=False)
    spec: ModelSpec | None
    photo: bytes | None = field(repr=False)
    quality: dict[str, int]
    several: dict[str, int] = field(default_factory=dict)

    @property
    def model(self) -> bytes:
        """Digest of the model, 32 bytes."""
        return SYNTHETIC_MODEL if self.spec is None else self.spec.digest()


def prepare_probe(photos: Sequence[Path], models: Path | None, provider: Provider, largest: bool) -> PreparedProbe:
    """Photos of one person, fused; an ANSI/NIST-ITL file with one face; or a .npy file with one unit template.

    Of several photos the quality is the least of each component. Raises `InputError`, `PhotoError`, and `OddPhoto` for
    a photo that does not look like the others.
    """
    path = photos[0]
    if len(photos) > 1 and any(one.suffix == ".npy" for one in photos):
        raise InputError("a probe must be photos of one person, or one .npy file")
    if path.suffix == ".npy":
        unit = load_templates(path, what="probe")
        if unit.ndim == 2 and len(unit) != 1:
            raise InputError(f"{path} holds {len(unit)} templates; a query has one probe")
        return PreparedProbe(quantise(unit.reshape(-1)).tobytes(), read_model_spec(path), None, {})
    read: list[tuple[str, bytes]] = []
    for one in photos:
        (photo, *others) = _read(one)
        if others:
            raise InputError(f"{one} holds {1 + len(others)} faces; a query has one probe")
        read.append(photo)
    faces = FaceModel.load(models, provider)
    if len(read) == 1:
        return prepare_photo(read[0][1], read[0][0], faces, largest)
    seen = [_embedded(data, name, faces, largest) for name, data in read]
    fused = fuse(np.stack([face.template for face, _ in seen]), [name for name, _ in read])
    quality = {component: min(measured[component] for _, measured in seen) for component in seen[0][1]}
    several = {name: face.faces for (name, _), (face, _) in zip(read, seen, strict=True) if face.faces > 1}
    return PreparedProbe(quantise(fused).tobytes(), faces.spec, read[0][1], quality, several)


def prepare_photo(data: bytes, name: str, faces: FaceModel, largest: bool = False) -> PreparedProbe:
    """A photo that is here already; `name`: what errors call it. Raises `PhotoError`."""
    face, quality = _embedded(data, name, faces, largest)
    several = {name: face.faces} if face.faces > 1 else {}
    return PreparedProbe(quantise(face.template, name=name).tobytes(), faces.spec, data, quality, several)


def _embedded(data: bytes, name: str, faces: FaceModel, largest: bool) -> tuple[Embedded, dict[str, int]]:
    image = decode_photo(data, name)
    face = faces.embed(image, largest=largest, name=name)
    return face, assess(image, face)


def _read(path: Path) -> list[tuple[str, bytes]]:
    if not path.is_file():
        raise UnreadablePhoto(f"{path} " + ("is not a file" if path.exists() else "does not exist"))
    try:
        return photos_in(path)
    except OSError as error:
        raise UnreadablePhoto(f"{path} cannot be read: {error.strerror}") from error
