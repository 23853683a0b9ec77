"""A probe made ready for the casework: template, photo as reviewers see it, quality by component."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from nodes.casework.quality import assess
from pets.errors import InputError
from pets.faces import FaceModel, Provider
from pets.photos import read_photo
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
    """A photo, or a .npy file with one unit template. Raises `InputError`, `PhotoError`."""
    if path.suffix == ".npy":
        unit = load_templates(path, what="probe")
        if unit.ndim == 2 and len(unit) != 1:
            raise InputError(f"{path} holds {len(unit)} templates; a query has one probe")
        identity = read_identity(path)
        model = identity.digest() if identity is not None else SYNTHETIC_MODEL
        return PreparedProbe(quantise(unit.reshape(-1)).tobytes(), model, None, {})
    faces = FaceModel.load(models, provider)
    face = faces.embed(path, largest=largest)
    template = quantise(face.template, name=str(path))
    return PreparedProbe(template.tobytes(), faces.identity.digest(), path.read_bytes(), assess(read_photo(path), face))
