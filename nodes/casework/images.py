"""Pictures made anew from pixels: what a file carries besides its pixels ends here."""

from __future__ import annotations

import io

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from pets.errors import PhotoError
from pets.photos import decode_photo

MAX_PIXELS = 40_000_000
KEPT_SIDE = 1600  # pixels of the longer side of what is shown and kept


def draw(image: NDArray[np.uint8], shrink: float = 1.0) -> bytes:
    """Pixels, (height, width, 3) BGR, as a JPEG without metadata."""
    picture = Image.fromarray(np.ascontiguousarray(image[:, :, ::-1]))
    if shrink < 1:
        picture = picture.resize((max(1, round(picture.width * shrink)), max(1, round(picture.height * shrink))))
    out = io.BytesIO()
    picture.save(out, "JPEG", quality=90)
    return out.getvalue()


def redrawn(data: bytes | None) -> bytes | None:
    """An image from elsewhere, made anew from its pixels; None for none, and for what is no image within the limits."""
    if data is None:
        return None
    try:
        image = decode_photo(data, "the image", MAX_PIXELS)
    except PhotoError:
        return None
    return draw(image, min(1.0, KEPT_SIDE / max(image.shape[:2])))
