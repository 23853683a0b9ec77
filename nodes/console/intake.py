"""Photos, also in ANSI/NIST-ITL files: decoded within limits, made anew from their pixels, faces found.

What a browser is shown again is always a picture this console has drawn from pixels. A file that is an image and
something else besides, its metadata and its comments end here. Nothing is written to disk before a query is opened.
"""

from __future__ import annotations

import secrets
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from nodes.casework.errors import UnknownThing
from nodes.casework.exchange.type10 import ExchangeError, looks_like_one, read_faces
from nodes.casework.images import KEPT_SIDE, MAX_PIXELS, draw
from nodes.casework.quality import assess
from nodes.console.errors import UploadRefused
from nodes.console.texts import text
from pets.errors import ParameterError, PhotoError
from pets.faces import FaceModel
from pets.photos import WEB_FORMATS, decode_photo
from pets.templates import ModelSpec, quantise
from pets.thresholds import default_threshold

UPLOAD_LIMIT = 16 << 20  # bytes of a file
KEPT_SECONDS = 900.0
KEPT_AT_MOST = 64
MAX_FACES = 20


@dataclass(frozen=True)
class FoundFace:
    """A face on an upload. `box`: left, top, right, bottom, in pixels of the picture as it is shown.

    `quality`: 0 to 100 by component. `template`: int8 (d,).
    """

    box: tuple[int, int, int, int]
    quality: dict[str, int]
    template: bytes = field(repr=False)


@dataclass(frozen=True)
class Intake:
    """An upload that waits for its query. `picture`: JPEG, `width` x `height`. `model`: digest of the face model.

    `threshold`: the model's default; None for a model that nobody has calibrated.
    """

    id: str
    owner: str
    picture: bytes = field(repr=False)
    width: int
    height: int
    faces: tuple[FoundFace, ...]
    model: bytes
    threshold: str | None


class Intakes:
    """Uploads by ID; each belongs to who made it and goes after 15 minutes, or when there are too many."""

    def __init__(self, load: Callable[[], FaceModel], clock: Callable[[], float] = time.monotonic) -> None:
        self._load = load
        self._model: FaceModel | None = None
        self._clock = clock
        self._lock = threading.Lock()
        self._working = threading.Semaphore(2)  # decoding and finding faces take memory
        self._kept: OrderedDict[str, tuple[float, Intake]] = OrderedDict()

    def add(self, owner: str, data: bytes) -> Intake:
        """Decode a photo, or an ANSI/NIST-ITL file with one, and find its faces. Raises `UploadRefused`."""
        if not data:
            raise UploadRefused(text("upload.none"))
        if len(data) > UPLOAD_LIMIT:
            raise UploadRefused(text("upload.large").format(size=len(data), limit=UPLOAD_LIMIT))
        with self._working:
            try:
                photo = _only_face(data) if looks_like_one(data) else data
                intake = self._look(owner, decode_photo(photo, text("upload.the-photo"), MAX_PIXELS, WEB_FORMATS))
            except (PhotoError, ExchangeError) as error:
                raise UploadRefused(text("upload.unreadable").format(why=error)) from None
        with self._lock:
            self._drop_old()
            self._kept[intake.id] = (self._clock(), intake)
            while len(self._kept) > KEPT_AT_MOST:
                self._kept.popitem(last=False)
        return intake

    def get(self, owner: str, name: str) -> Intake:
        """Somebody's own upload. Raises `UnknownThing`."""
        with self._lock:
            self._drop_old()
            kept = self._kept.get(name)
        if kept is None or kept[1].owner != owner:
            raise UnknownThing("upload", name)
        return kept[1]

    def drop(self, name: str) -> None:
        """The query is opened, or given up."""
        with self._lock:
            self._kept.pop(name, None)

    def _look(self, owner: str, image: NDArray[np.uint8]) -> Intake:
        with self._lock:
            if self._model is None:
                self._model = self._load()
            model = self._model
        faces = model.embed_all(image)[:MAX_FACES]
        height, width = image.shape[:2]
        shrink = min(1.0, KEPT_SIDE / max(width, height))
        shown = draw(image, shrink)
        found = [
            FoundFace(_box(face.box, shrink), assess(image, face), quantise(face.template).tobytes()) for face in faces
        ]
        size = (round(width * shrink), round(height * shrink))
        digest, threshold = model.spec.digest(), _threshold(model.spec)
        return Intake(secrets.token_hex(16), owner, shown, *size, tuple(found), digest, threshold)

    def _drop_old(self) -> None:
        before = self._clock() - KEPT_SECONDS
        while self._kept and next(iter(self._kept.values()))[0] < before:
            self._kept.popitem(last=False)


def _only_face(data: bytes) -> bytes:
    """The image of an ANSI/NIST-ITL file. Raises `ExchangeError`, `UploadRefused` for several."""
    first, *others = read_faces(data)
    if others:
        raise UploadRefused(text("upload.several").format(count=1 + len(others)))
    return first.image


def _threshold(spec: ModelSpec) -> str | None:
    try:
        return f"{default_threshold(spec):f}"
    except ParameterError:
        return None


def _box(box: tuple[float, float, float, float], shrink: float) -> tuple[int, int, int, int]:
    left, top, right, bottom = (round(side * shrink) for side in box)
    return left, top, right, bottom
