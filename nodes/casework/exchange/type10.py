"""ANSI/NIST-ITL 1-2011 (NIST SP 500-290) files with face images: Type-10 records, read and written with `nistitl`.

`nistitl` is an optional dependency (`pip install blind-lineup[exchange]`), used as it is.

::

    field    written                            read
    1.004    TOT: FAC (a face transaction)      not looked at
    1.005    DAT: day of the export             not looked at
    1.007    DAI, 1.008 ORI: as given           not looked at
    10.003   IMT: FACE                          must be FACE
    10.004   SRC: the sending node              not looked at
    10.005   PHD: day the image was taken       day, none for 00000000
    10.006   HLL, 10.007 VLL: pixels            compared with the image
    10.011   CGA: JPEGB                         JPEGB, JPEGL, PNG, NONE is refused
    10.012   CSP: YCC (JPEG)                    not looked at
    10.020   POS: F                             not looked at
    10.038   COM: "CANDIDATE, NOT IDENTIFIED; REFERENCE " and the reference number, which is read back
    10.999   DATA                               the image

No field carries a name: a candidate has a reference and nothing else (R 19(2), 24(2)).

::

    ExchangeError (a pets.errors.InputError)
    └── ExchangeMissing      the optional dependency is not installed
"""

from __future__ import annotations

import io
import re
from dataclasses import dataclass, field
from datetime import date
from importlib.util import find_spec
from typing import Any

from PIL import Image

from pets.errors import InputError
from pets.photos import MAX_FILE_BYTES, MAX_PIXELS

FACE = 10
BANNER = "CANDIDATE, NOT IDENTIFIED"
MAX_RECORDS = 1000
MAX_TEXT = 64 * 1024  # bytes of a record besides its image
MAX_FIELDS = 300  # of a record: the library compares each with all before it
MAX_PARTS = 20_000  # fields, subfields and values of all records together
WITH_DATA = frozenset({10, 13, 14, 15, 16, 17, 19, 20, 21, 22, 99})  # types of which the library takes 999 as bytes
_LEN = re.compile(rb"(\d{1,2})\.0*1:(\d{1,9})\x1d")
_CODINGS = {"JPEGB": "JPEG", "JPEGL": "JPEG", "PNG": "PNG"}
_AGENCY = re.compile(r"[A-Z0-9-]{1,32}")
_REFERENCE = re.compile(r"[A-Za-z0-9_.:/-]{1,64}")
_BEGINS = re.compile(rb"1\.0*1:")


class ExchangeError(InputError):
    """A file that cannot be exchanged."""


class ExchangeMissing(ExchangeError):
    """The optional dependency is not installed."""


@dataclass(frozen=True)
class FaceRecord:
    """One Type-10 face. `image`: JPEG or PNG bytes. `taken`: None if it is not told. `reference`: may be empty."""

    image: bytes = field(repr=False)
    taken: date | None
    source: str
    reference: str


def is_installed() -> bool:
    """Whether such files can be read and written here."""
    return find_spec("nistitl") is not None


def looks_like_one(data: bytes) -> bool:
    """Whether a file begins as an ANSI/NIST-ITL file does, which no photo does."""
    return _BEGINS.match(data) is not None


def read_faces(data: bytes) -> list[FaceRecord]:
    """The faces of an ANSI/NIST-ITL file, in order. Raises `ExchangeError` for a file of another kind or with none."""
    nistitl = _library()
    if len(data) > MAX_FILE_BYTES:
        raise ExchangeError(f"a file of {len(data)} bytes, the limit is {MAX_FILE_BYTES}")
    _check_structure(data)
    message = nistitl.Message()
    try:
        message.parse(data)
        records = list(message.iter(FACE))[:MAX_RECORDS]
        faces = [_face(record) for record in records if str(_value(record, 3)).upper() == "FACE"]
    except ExchangeError:
        raise
    except Exception as error:  # the library raises its own and Python's for hostile bytes
        raise ExchangeError(f"not an ANSI/NIST-ITL file: {type(error).__name__}") from None
    if not faces:
        raise ExchangeError("the file has no Type-10 record with a face")
    return faces


def _check_structure(data: bytes) -> None:
    """Bound what the library is given: it takes 25 microseconds a subfield, and a file may hold millions of empty ones.

    Raises `ExchangeError` for too many records, fields or values, for a record whose text is too long, and for lengths
    that do not add up.
    """
    position = count = parts = 0
    while position < len(data):
        count += 1
        if count > MAX_RECORDS:
            raise ExchangeError(f"more than {MAX_RECORDS} records")
        head = _LEN.match(data, position)
        if not head and count == 1:
            raise ExchangeError("not an ANSI/NIST-ITL file: it does not begin with a Type-1 record")
        # records of other types may be binary, with their length in front
        length = int(head[2]) if head else int.from_bytes(data[position : position + 4], "big")
        if length <= 4 or position + length > len(data):
            raise ExchangeError(f"record {count} says that it has {length} bytes, {len(data) - position} are left")
        if head:
            parts += _parts(data, position, position + length, head[1], count)
            if parts > MAX_PARTS:
                raise ExchangeError(f"more than {MAX_PARTS} fields and values in all")
        position += length


def _parts(data: bytes, begin: int, end: int, kind: bytes, count: int) -> int:
    """How many fields, subfields and values the library finds in the record of type `kind` at [`begin`, `end`)."""
    binary = data.find(b"\x1d" + kind + b".999:", begin, end) if int(kind) in WITH_DATA else -1
    if binary < 0 and data.find(b"\x1c", begin, end) < 0:  # the library would read on to the next one
        raise ExchangeError(f"record {count} does not end where it says")
    until = end if binary < 0 else binary
    if until - begin > MAX_TEXT:
        raise ExchangeError(f"record {count} has {until - begin} bytes of text, the limit is {MAX_TEXT}")
    fields = data.count(b"\x1c", begin, until) + data.count(b"\x1d", begin, until)
    if fields > MAX_FIELDS:
        raise ExchangeError(f"record {count} has {fields} fields, the limit is {MAX_FIELDS}")
    return fields + data.count(b"\x1e", begin, until) + data.count(b"\x1f", begin, until)


def write_face(face: FaceRecord, sender: str, receiver: str, today: date) -> bytes:
    """A file with one face. Raises `ExchangeError` for an image that is neither JPEG nor PNG, or a bad agency name."""
    nistitl = _library()
    for name in (sender, receiver):
        if not _AGENCY.fullmatch(name):
            raise ExchangeError(f"agency {name!r:.40}: 1 to 32 capital letters, digits and hyphens")
    if face.reference and not _REFERENCE.fullmatch(face.reference):  # a separator in it would begin a field
        raise ExchangeError(f"reference {face.reference!r:.80}: 1 to 64 letters, digits and _.:/-")
    coding, (width, height) = _inspect(face.image)
    message = nistitl.Message()
    head = message[0]
    head.TOT, head.DAT, head.DAI, head.ORI = "FAC", f"{today:%Y%m%d}", receiver, sender
    record = nistitl.AsciiRecord(FACE)
    message += record
    record.IDC = 1
    taken = "00000000" if face.taken is None else f"{face.taken:%Y%m%d}"
    for tag, value in (
        (3, "FACE"), (4, sender), (5, taken), (6, str(width)), (7, str(height)), (8, "0"), (9, "1"), (10, "1"),
        (11, "JPEGB" if coding == "JPEG" else "PNG"), (12, "YCC" if coding == "JPEG" else "SRGB"), (20, "F"),
        (38, f"{BANNER}; REFERENCE {face.reference}" if face.reference else BANNER),
    ):  # fmt: skip
        record += nistitl.Field(FACE, tag, value)
    record += nistitl.BinaryField(FACE, 999, face.image)
    made: bytes = message.NIST
    return made


def _face(record: Any) -> FaceRecord:
    coding = str(_value(record, 11)).strip().upper()
    if coding not in _CODINGS:
        raise ExchangeError(f"compression {coding!r:.20}: JPEGB, JPEGL and PNG are read")
    image = record[999].value
    if not isinstance(image, bytes):
        raise ExchangeError("a face record has no image")
    found, size = _inspect(image)
    if found != _CODINGS[coding]:
        raise ExchangeError(f"the record says {coding}, the image is {found}")
    stated = (_number(record, 6), _number(record, 7))
    if stated != size:
        raise ExchangeError(f"the record says {stated[0]}x{stated[1]} pixels, the image has {size[0]}x{size[1]}")
    return FaceRecord(image, _day(str(_value(record, 5))), str(_value(record, 4))[:64], _reference(record))


def _reference(record: Any) -> str:
    found = re.search(r"REFERENCE ([A-Za-z0-9_.:/-]{1,64})\Z", str(_value(record, 38)))
    return found[1] if found else ""


def _value(record: Any, tag: int) -> Any:
    field = record[tag]
    return "" if field is None else field.value


def _number(record: Any, tag: int) -> int:
    text = str(_value(record, tag))
    return int(text) if re.fullmatch(r"\d{1,6}", text) else -1


def _day(text: str) -> date | None:
    if not re.fullmatch(r"\d{8}", text) or text == "00000000":
        return None
    try:
        return date(int(text[:4]), int(text[4:6]), int(text[6:]))
    except ValueError:
        return None


def _inspect(image: bytes) -> tuple[str, tuple[int, int]]:
    """Coding and size, from the header alone."""
    try:
        with Image.open(io.BytesIO(image), formats=("JPEG", "PNG")) as opened:
            coding, size = str(opened.format), opened.size
    except Exception:  # decoders raise almost anything for hostile bytes
        raise ExchangeError("the image is neither JPEG nor PNG") from None
    if size[0] * size[1] > MAX_PIXELS:
        raise ExchangeError(f"{size[0]}x{size[1]} pixels, the limit is {MAX_PIXELS}")
    return coding, size


def _library() -> Any:
    try:
        import nistitl
    except ImportError:
        raise ExchangeMissing(
            "ANSI/NIST-ITL files need the package nistitl: pip install 'blind-lineup[exchange]'"
        ) from None
    return nistitl
