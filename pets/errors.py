"""The exception tree of Blind Lineup.

::

    LineupError
    ├── InputError                  refused data: the message names the bad value and the limit
    │   ├── ParameterError          parameters outside the security table, or an option outside its range
    │   ├── TemplateError           not a unit vector: wrong shape, NaN, zero, wrong norm
    │   ├── GalleryError            a gallery that cannot be used
    │   ├── ModelError              a model folder that is missing, broken, or another model than expected
    │   │   └── ModelMismatch       templates of two models were mixed
    │   ├── CacheError, FetchError  a cached file is not what it was (`pets.cache`), a download failed (`pets.fetch`)
    │   └── PhotoError              a photo that gives no single template
    │       ├── UnreadablePhoto
    │       ├── NoFace
    │       ├── SeveralFaces
    │       └── FaceTooSmall
    ├── CryptoError                 cryptographic material that is not what it must be
    │   ├── ResidueOutOfRange
    │   ├── StreamReused            a pseudo-random stream or an encryption of zero was about to be used twice
    │   └── SketchMismatch          the two parties' power sums differ
    └── ProtocolError               see `protocol.errors`
"""

from __future__ import annotations

import msgspec

# What msgspec raises for hostile bytes: text that is not UTF-8, depth and size are not `MsgspecError`s.
MALFORMED = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError, OverflowError)


def printable(text: str) -> str:
    """Text from outside, safe to show: what would steer a terminal or turn the direction of writing is spelt out."""
    return "".join(char if char.isprintable() else ascii(char)[1:-1] for char in text)


class LineupError(Exception):
    """Base of everything this software raises on purpose."""


class InputError(LineupError):
    """Refused data."""


class ParameterError(InputError):
    """A parameter or option outside its range."""


class TemplateError(InputError):
    """A vector that is not a unit template."""


class GalleryError(InputError):
    """A gallery that cannot be used."""


class ModelError(InputError):
    """A model folder that is missing, broken or unexpected."""


class ModelMismatch(ModelError):
    """Templates of two different models were about to be compared."""


class PhotoError(InputError):
    """A photo that gives no single template."""


class UnreadablePhoto(PhotoError):
    """The file is not an image that can be decoded."""


class NoFace(PhotoError):
    """No face was found."""


class SeveralFaces(PhotoError):
    """More than one face was found and none was chosen."""


class FaceTooSmall(PhotoError):
    """The face has too few pixels for a template."""


class OddPhoto(PhotoError):
    """A photo that does not look like the others of its subject. `places`: of the odd ones, of those given."""

    def __init__(self, places: tuple[int, ...], message: str) -> None:
        super().__init__(message)
        self.places = places


class CryptoError(LineupError):
    """Cryptographic material that is not what it must be."""


class ResidueOutOfRange(CryptoError):
    """A residue is not below its prime."""


class StreamReused(CryptoError):
    """One-time randomness was about to be used a second time."""


class SketchMismatch(CryptoError):
    """Two parties sent different power sums for the same shares."""
