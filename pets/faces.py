"""From a photo to a unit template: one detector and one embedder, run by insightface over onnxruntime."""

from __future__ import annotations

import contextlib
import ctypes
import io
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from pets.batches import BATCH, Batched, session_options
from pets.cache import sha256_file
from pets.centre import centred, load_centre
from pets.errors import (
    FaceTooSmall,
    ModelError,
    NoFace,
    ParameterError,
    PhotoError,
    SeveralFaces,
    UnreadablePhoto,
)
from pets.packs import check_pack
from pets.params import check_dim, scale
from pets.templates import ModelSpec

MIN_FACE_SIDE = 40  # pixels; below it the 112-pixel input of the embedder is mostly interpolation
DETECTION_SCORE = 0.6
# Tried in turn until a face is found: ordinary photos, a face that fills the frame, a small face in a large photo.
DETECTION_SIDES = (640, 128, 1280)
# A detector finds many a face that lies on its side or stands on its head, and puts the landmarks where they would be
# upright: the template is then of nobody. Of 134 photos of LFW the score was highest in the right position every time,
# 0.900 to 0.957 there and at most 0.918 in the others: from this score on the others are not tried.
UPRIGHT_SCORE = 0.93
# Version of everything between the photo and the embedder's input that changes the template; part of the spec.
ALIGNMENT = "similarity-5-landmarks-112-v1"

Provider = Literal["auto", "cuda", "cpu"]
PROVIDERS = {"cuda": "CUDAExecutionProvider", "cpu": "CPUExecutionProvider"}
Image = NDArray[np.uint8]


@dataclass(frozen=True)
class Embedded:
    """One face. `template`: (d,) float32 unit vector. `box`: left, top, right, bottom, and `face_side`: the shorter
    side of the box, in pixels of the photo. `score`: the detector's confidence, 0 to 1. `landmarks`: (5, 2) float32,
    pixels: eyes, nose and corners of the mouth, those on the left of the upright face first. `faces`: to choose from.
    `turned`: quarter turns clockwise by which the photo is off; 0 to 3.
    """

    template: NDArray[np.float32] = field(repr=False)
    box: tuple[float, float, float, float]
    score: float
    face_side: float
    landmarks: NDArray[np.float32]
    faces: int = 1
    turned: int = 0


@dataclass(frozen=True)
class _Face:
    box: tuple[float, float, float, float]
    score: float
    landmarks: NDArray[np.float32]  # (5, 2), pixels
    turned: int = 0

    @property
    def side(self) -> float:
        left, top, right, bottom = self.box
        return min(right - left, bottom - top)


@dataclass(frozen=True)
class _Found:
    """The face that was chosen on a photo. `aligned`: as the embedder takes it; `faces`: to choose from."""

    name: str
    aligned: Image = field(repr=False)
    face: _Face
    faces: int

    def embedded(self, template: NDArray[np.float32]) -> Embedded:
        face = self.face
        return Embedded(template, face.box, face.score, face.side, face.landmarks, self.faces, face.turned)


class FaceModel:
    """A detector and an embedder, ready to run. Built with `FaceModel.load`."""

    def __init__(self, detector: Any, embedder: Any, folder: Path) -> None:
        self._detector = detector
        self._embedder = embedder
        self.folder = folder
        self._batched: Batched | None = None  # made when there are several photos
        dim = _dimension(embedder, folder)
        self._centre, centre_sha256 = load_centre(folder, dim)
        self.spec = ModelSpec(
            detector_sha256=sha256_file(Path(detector.model_file)),
            embedder_sha256=sha256_file(Path(embedder.model_file)),
            alignment=ALIGNMENT,
            dim=dim,
            scale=scale(dim),
            centre_sha256=centre_sha256,
        )

    @classmethod
    def load(cls, models: Path | None = None, provider: Provider = "auto") -> FaceModel:
        """Load the ONNX files of the folder `models`, or the default ones (fetched on first use).

        A file `centre.npy` in `models` is subtracted from every template (`pets.centre`).
        `provider`: "cuda" insists on the GPU, "auto" takes it where it works. Raises `ModelError` for a folder that is
        missing, empty or not a pair of detector (with five landmarks) and embedder, and for a provider that is not
        available.
        """
        wanted = _wanted_providers(provider)
        from pets.weights import default_models

        folder = default_models() if models is None else _check_folder(models)
        found, notices = _load_folder(folder, wanted)
        for task, what in (("detection", "face detector"), ("recognition", "face embedder")):
            if task not in found:  # insightface sees it otherwise than `check_pack`
                raise ModelError(f"{folder} has no {what} that insightface recognises: {_onnx_names(folder)}")
        detector, embedder = found["detection"], found["recognition"]
        if not getattr(detector, "use_kps", False):
            raise ModelError(f"the detector {detector.model_file} gives no landmarks, 5 are needed to align a face")
        model = cls(detector, embedder, folder)
        if provider == "cuda" and model.provider != "cuda":
            raise ModelError(
                f"onnxruntime has CUDA but could not start it, only the cpu runs: {notices or 'no reason given'}"
            )
        return model

    @property
    def provider(self) -> str:
        """What both networks really run on, "cuda" or "cpu": asked of the sessions, not of the options."""
        sessions = (self._detector.session, self._embedder.session)
        return "cuda" if all(s.get_providers()[0] == PROVIDERS["cuda"] for s in sessions) else "cpu"

    def embed(
        self, photo: Path | Image, *, largest: bool = False, mirrored: bool = False, name: str = "the photo"
    ) -> Embedded:
        """The template of the one face on a photo, or on its mirror image.

        `photo`: a file, or (height, width, 3) uint8 in BGR order, which errors call `name`. With
        `largest`, the largest of several faces.
        Faces under 40 pixels are not counted beside one that is more than twice as large. A photo that lies on its side
        or stands on its head is found out by trying all four positions.
        Raises `UnreadablePhoto`, `NoFace`, `SeveralFaces` or `FaceTooSmall`.
        """
        found = self._find(photo, largest, mirrored, name)
        return found.embedded(self._unit(next(self._raw([found.aligned])), found.name))

    def _find(self, photo: Path | Image, largest: bool, mirrored: bool, name: str) -> _Found:
        if isinstance(photo, Path):
            from pets.photos import read_photo

            name, image = str(photo), read_photo(photo)
        else:
            image = _check_image(photo)
        if mirrored:
            image = np.ascontiguousarray(image[:, ::-1])
        face, faces = _choose(self._detect(image), name, largest)
        return _Found(name, self._aligned(image, face), face, faces)

    def embed_each(
        self,
        photos: Iterable[Path],
        *,
        largest: bool = False,
        mirrored: bool = False,
        progress: Callable[[], object] | None = None,
    ) -> Iterator[tuple[Path, Embedded | PhotoError]]:
        """Each photo with its face, or with the error that `embed` raised for it; `progress()` after each.

        The embedder gets up to `batch_size` faces in a call, so results come in groups.
        """
        group: list[tuple[Path, _Found | PhotoError]] = []
        for path in photos:
            try:
                found: _Found | PhotoError = self._find(path, largest, mirrored, "")
            except PhotoError as error:
                found = error
            group.append((path, found))
            if progress is not None:
                progress()
            if len(group) == BATCH:
                yield from self._embed_group(group)
                group = []
        yield from self._embed_group(group)

    @property
    def batch_size(self) -> int:
        """Faces that the embedder takes in one call."""
        if self._batched is None:
            self._batched = Batched(self._embedder)
        return self._batched.size

    def _embed_group(
        self, group: list[tuple[Path, _Found | PhotoError]]
    ) -> Iterator[tuple[Path, Embedded | PhotoError]]:
        raw = iter(self._raw([found.aligned for _, found in group if not isinstance(found, PhotoError)]))
        for path, found in group:
            if isinstance(found, PhotoError):
                yield path, found
                continue
            try:
                result: Embedded | PhotoError = found.embedded(self._unit(next(raw), found.name))
            except PhotoError as error:
                result = error
            yield path, result

    def _raw(self, aligned: Sequence[Image]) -> Iterator[NDArray[np.float64]]:
        """What the embedder says of each face, (d,)."""
        if len(aligned) == 1 or self.batch_size == 1:
            for face in aligned:
                yield np.asarray(self._embedder.get_feat(face), np.float64).reshape(-1)
            return
        assert self._batched is not None
        for start in range(0, len(aligned), self.batch_size):
            yield from self._batched(aligned[start : start + self.batch_size])

    def embed_all(self, image: Image) -> list[Embedded]:
        """Every face of at least 40 pixels in an image, the largest first; an image without one is no error.

        `image`: (height, width, 3) uint8 in BGR order. Raises `UnreadablePhoto`.
        """
        found = sorted(self._detect(_check_image(image)), key=lambda face: -face.side)
        return [
            Embedded(
                self._template(image, face, "the photo"),
                face.box,
                face.score,
                face.side,
                face.landmarks,
                len(found),
                face.turned,
            )
            for face in found
            if face.side >= MIN_FACE_SIDE
        ]

    def _detect(self, image: Image) -> list[_Face]:
        """The faces in the position of the photo in which the detector is surest of one."""
        found = self._detect_at(image, DETECTION_SIDES)
        if max((face.score for face in found), default=0) >= UPRIGHT_SCORE:
            return found
        sides = DETECTION_SIDES[:2] if found else DETECTION_SIDES  # the last one is slow
        for turns in (1, 2, 3):
            upright = np.ascontiguousarray(np.rot90(image, turns))
            faces = self._detect_at(upright, sides)
            if max((face.score for face in faces), default=0) > max((face.score for face in found), default=0):
                found = [_turned_back(face, turns, image.shape) for face in faces]
        return found

    def _detect_at(self, image: Image, sides: Iterable[int]) -> list[_Face]:
        for side in sides:
            if side > 640 >= max(image.shape[:2]):
                continue  # nothing to gain from enlarging further
            boxes, landmarks = self._detector.detect(image, input_size=(side, side), det_thresh=DETECTION_SCORE)
            if len(boxes):
                return [
                    _Face((float(b[0]), float(b[1]), float(b[2]), float(b[3])), float(b[4]), np.asarray(k, np.float32))
                    for b, k in zip(boxes, landmarks, strict=True)
                ]
        return []

    def _template(self, image: Image, face: _Face, name: str) -> NDArray[np.float32]:
        return self._unit(next(self._raw([self._aligned(image, face)])), name)

    def _aligned(self, image: Image, face: _Face) -> Image:
        return _align(image, face.landmarks, self._embedder.input_size[0])

    def _unit(self, raw: NDArray[np.float64], name: str) -> NDArray[np.float32]:
        norm = float(np.linalg.norm(raw))
        if not np.isfinite(norm) or norm == 0:
            raise UnreadablePhoto(f"{name}: the embedder gave a vector of norm {norm}, it must be finite and not 0")
        unit = raw / norm
        return (unit if self._centre is None else centred(unit, self._centre)).astype(np.float32)


def _turned_back(face: _Face, turns: int, shape: tuple[int, ...]) -> _Face:
    """A face found on a photo that was turned `turns` times by 90° anticlockwise, where it lies on the photo itself.

    `shape`: of the photo, (height, width, 3).
    """
    height, width = shape[:2]

    def back(points: NDArray[np.float32]) -> NDArray[np.float32]:
        x, y = points[:, 0], points[:, 1]
        turned = {1: (width - 1 - y, x), 2: (width - 1 - x, height - 1 - y), 3: (y, height - 1 - x)}[turns]
        return np.stack(turned, axis=1)

    left, top, right, bottom = face.box
    corners = back(np.array([[left, top], [right, bottom]], np.float32))
    (left, top), (right, bottom) = corners.min(0), corners.max(0)
    return _Face((float(left), float(top), float(right), float(bottom)), face.score, back(face.landmarks), turns)


def aligned_face(image: Image, face: Embedded) -> Image:
    """The face as the embedder sees it: upright, cropped, (112, 112, 3) uint8 in BGR order."""
    return _align(image, face.landmarks, 112)


def _align(image: Image, landmarks: NDArray[np.float32], side: int) -> Image:
    from insightface.utils import face_align

    with warnings.catch_warnings():
        # insightface fits the landmarks with a method that newer scikit-image calls by another name
        warnings.filterwarnings("ignore", message=".*estimate.*is deprecated", category=FutureWarning)
        aligned: Image = face_align.norm_crop(image, landmarks, image_size=side)
    return aligned


def _choose(faces: list[_Face], name: str, largest: bool) -> tuple[_Face, int]:
    if not faces:
        raise NoFace(f"{name}: no face found (detection score below {DETECTION_SCORE})")
    chosen = max(faces, key=lambda face: face.side)
    if chosen.side < MIN_FACE_SIDE:
        raise FaceTooSmall(f"{name}: the face is {chosen.side:.0f} pixels wide, the limit is {MIN_FACE_SIDE}")
    rivals = [face for face in faces if face.side >= MIN_FACE_SIDE or 2 * face.side >= chosen.side]
    if len(rivals) > 1 and not largest:
        raise SeveralFaces(
            f"{name}: {len(rivals)} faces found, 1 is needed; crop it, or choose the largest (--largest)"
        )
    return chosen, len(rivals)


def _check_image(image: Image) -> Image:
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or not image.size:
        raise UnreadablePhoto(f"an image must be (height, width, 3) uint8, got {image.shape} {image.dtype}")
    return image


def _check_folder(folder: Path) -> Path:
    if not folder.is_dir():
        raise ModelError(f"model folder {folder} " + ("is not a folder" if folder.exists() else "does not exist"))
    if not _onnx_names(folder):
        raise ModelError(f"model folder {folder} holds no .onnx file; a detector and an embedder are needed")
    check_pack(folder)
    return folder


def _onnx_names(folder: Path) -> str:
    return ", ".join(sorted(path.name for path in folder.glob("*.onnx")))


def _wanted_providers(provider: str) -> list[str]:
    import onnxruntime

    if provider not in ("auto", *PROVIDERS):
        raise ParameterError(f"provider must be auto, cuda or cpu, got {provider!r}")
    available = onnxruntime.get_available_providers()
    usable = PROVIDERS["cuda"] in available and _has_nvidia_driver()
    if provider == "cuda" and not usable:
        if PROVIDERS["cuda"] in available:
            raise ModelError("provider cuda is not available: no NVIDIA driver found; available: cpu")
        raise ModelError(
            f"provider cuda is not available: this onnxruntime has {', '.join(available)}. "
            "`make gpu` puts onnxruntime-gpu in its place"
        )
    if provider != "cpu" and usable:
        return [PROVIDERS["cuda"], PROVIDERS["cpu"]]
    return [PROVIDERS["cpu"]]


def _has_nvidia_driver() -> bool:
    # onnxruntime-gpu lists CUDA on every machine, and without a driver prints pages of errors before it gives up
    try:
        ctypes.CDLL("nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1")
    except OSError:
        return False
    return True


def _load_folder(folder: Path, providers: list[str]) -> tuple[dict[str, Any], str]:
    """insightface's models by task, and the first line that was printed while they were loaded."""
    from insightface.app import FaceAnalysis

    printed = io.StringIO()
    options: dict[str, Any] = {"providers": providers, "sess_options": session_options()}
    try:
        with contextlib.redirect_stdout(printed):
            app = FaceAnalysis(name=str(folder), allowed_modules=["detection", "recognition"], **options)
    except AssertionError as error:  # how insightface says that no file is a detector
        raise ModelError(f"{folder} has no face detector among its ONNX files: {_onnx_names(folder)}") from error
    except Exception as error:  # onnxruntime, protobuf and insightface each raise their own
        lines = str(error).splitlines() or [type(error).__name__]
        raise ModelError(f"the ONNX files in {folder} cannot be loaded: {lines[0]}") from error
    return dict(app.models), printed.getvalue().partition("\n")[0]


def _dimension(embedder: Any, folder: Path) -> int:
    """Entries of a template, found by running the embedder once on a blank face."""
    side = embedder.input_size[0]
    if side % 112 and side % 128:
        raise ModelError(f"the embedder in {folder} takes {side} pixels, alignment needs a multiple of 112 or 128")
    try:
        return check_dim(int(np.asarray(embedder.get_feat(np.zeros((side, side, 3), np.uint8))).size))
    except Exception as error:  # onnxruntime raises its own for a network that cannot run
        raise ModelError(f"the embedder in {folder} is not usable: {error}") from error
