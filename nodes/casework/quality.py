"""Image quality at the front end (R 38, 22(2)): 0 to 100 by component, from pixels and five landmarks alone.

Components bear the names of ISO/IEC 29794-5 where what is measured is what that standard names; the mappings to 0…100
are this project's own, monotone and simple, and no conformance is claimed. What needs a model that does not ship
(occlusion, expression, eyes open, no head covering) is not measured.

::

    inter-eye distance       (d - 12) / 78 of the pixels between the eyes; 90 px: 100
    sharpness                1 - exp(-v / 120), v the variance of the Laplacian of the face at 112 px
    under-exposure, over-exposure prevention    1 - 4·share of the face's pixels at 25 and below, 247 and above
    dynamic range            entropy of the face's grey values / 7 bits
    illumination uniformity  overlap of the histograms of its left and right half
    head pose roll, yaw, pitch   cos² of the angle, estimated from the landmarks
    face detection           the detector's confidence
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from pets.faces import Embedded, aligned_face

Grey = NDArray[np.float64]


def assess(image: NDArray[np.uint8], face: Embedded) -> dict[str, int]:
    """Scores of one face. `image`: (height, width, 3) uint8, BGR, from which `face` was embedded."""
    grey = _grey(aligned_face(image, face))
    roll, yaw, pitch = head_pose(face.landmarks)
    roll -= face.turned * math.pi / 2  # of the head, not of the scanner
    left, right = face.landmarks[0], face.landmarks[1]
    scores = {
        "inter-eye distance": (float(np.hypot(*(right - left))) - 12) / 78,
        "sharpness": 1 - math.exp(-_laplacian_variance(grey) / 120),
        "under-exposure prevention": 1 - 4 * float((grey <= 25).mean()),
        "over-exposure prevention": 1 - 4 * float((grey >= 247).mean()),
        "dynamic range": _entropy(grey) / 7,
        "illumination uniformity": _overlap(grey),
        "head pose roll": math.cos(roll) ** 2,
        "head pose yaw": math.cos(yaw) ** 2,
        "head pose pitch": math.cos(pitch) ** 2,
        "face detection": face.score,
    }
    return {name: round(100 * min(1.0, max(0.0, score))) for name, score in scores.items()}


def overall(scores: dict[str, int]) -> int:
    """One number for a gallery's record: the worst component, 0 to 100."""
    return min(scores.values())


def head_pose(landmarks: NDArray[np.float32]) -> tuple[float, float, float]:
    """Roll, yaw and pitch in radians, roughly, from eyes, nose and corners of the mouth, (5, 2) in pixels.

    Along the line between the eyes and across it: a frontal nose lies in the middle, and 0.58 of the way to the mouth.
    """
    eyes, mouth, nose = landmarks[:2].mean(0), landmarks[3:].mean(0), landmarks[2]
    across = landmarks[1] - landmarks[0]
    distance = float(np.hypot(*across))
    if distance < 1:
        return math.pi / 2, math.pi / 2, math.pi / 2
    along = across / distance
    down = np.array([-along[1], along[0]])
    height = max(1.0, float((mouth - eyes) @ down))
    yaw = math.asin(max(-1.0, min(1.0, float((nose - (eyes + mouth) / 2) @ along) / (0.6 * distance))))
    pitch = math.asin(max(-1.0, min(1.0, (float((nose - eyes) @ down) / height - 0.58) / 0.6)))
    return math.atan2(float(across[1]), float(across[0])), yaw, pitch


def _grey(face: NDArray[np.uint8]) -> Grey:
    grey: Grey = face.astype(np.float64) @ np.array([0.114, 0.587, 0.299])
    return grey


def _laplacian_variance(grey: Grey) -> float:
    inner = grey[1:-1, 1:-1]
    sharp = grey[:-2, 1:-1] + grey[2:, 1:-1] + grey[1:-1, :-2] + grey[1:-1, 2:] - 4 * inner
    return float(sharp.var())


def _entropy(grey: Grey) -> float:
    counts = np.bincount(grey.astype(np.int64).ravel().clip(0, 255), minlength=256)
    shares = counts[counts > 0] / counts.sum()
    return float(-(shares * np.log2(shares)).sum())


def _overlap(grey: Grey) -> float:
    half = grey.shape[1] // 2
    parts = [np.histogram(part, bins=32, range=(0, 256))[0] for part in (grey[:, :half], grey[:, -half:])]
    shares = [part / max(1, part.sum()) for part in parts]
    return float(np.minimum(*shares).sum())
