"""A candidate as an ANSI/NIST-ITL file, for whoever may look at it."""

from __future__ import annotations

from datetime import date

from nodes.casework.contents import Shown
from nodes.casework.exchange.type10 import ExchangeError, FaceRecord, write_face
from nodes.casework.images import redrawn


def candidate_file(shown: Shown, sender: str, receiver: str, today: date) -> bytes:
    """A Type-10 file. The image came from another state and is drawn anew. Raises `ExchangeError` if there is none."""
    image = redrawn(shown.image)
    if image is None:
        raise ExchangeError("the candidate came without an image that can be read")
    try:
        taken = date.fromisoformat(shown.acquired) if shown.acquired else None
    except ValueError:  # another state's word
        taken = None
    return write_face(FaceRecord(image, taken, sender, shown.reference), sender, receiver, today)
