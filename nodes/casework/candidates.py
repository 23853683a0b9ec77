"""What a reply contains beside the hit flag (R 24(2)): images with quality, date and marks, from holder to requester.

The requester asks after every answer, hit or no hit, for as many slots as the cap; the holder's document has the same
size whatever it found. The holder notes what it disclosed to whom: core data, recalls and receipts refer to it.
"""

from __future__ import annotations

import io
import secrets
from collections.abc import Mapping, Sequence
from datetime import datetime

import msgspec
from PIL import ExifTags, Image, ImageOps
from sqlalchemy import select
from sqlalchemy.orm import Session

from nodes.casework import cases, deletion, review
from nodes.casework.contents import IMAGE_LIMIT, Found, Shown, ShownPayload, Told
from nodes.casework.errors import StatementRefused, UnknownThing
from nodes.casework.office import Office, decode_payload, encode_payload
from nodes.casework.tables import DisclosedRow, QueryRow
from nodes.store import Status
from nodes.store.errors import UnknownReference
from pets.errors import MALFORMED
from protocol.follow_up import CandidatesShown, CandidatesWanted, Statement, candidate_digest

SLOT_BYTES = IMAGE_LIMIT + 512  # an image, and what stands beside it
HEAD_BYTES = 8192  # statement and signature
SIDES = (640, 480, 320, 240, 160)  # pixels of the longer side, tried until the image fits
QUALITIES = (88, 75, 60)
_FORMATS = ("JPEG", "PNG", "BMP", "WEBP")


def note_found(
    office: Office, session: Session, query: str, answers: Mapping[str, Told], found: Mapping[str, Found]
) -> None:
    """A search is over. `found`: by holder that answered, hit or no hit; each is asked to show what it released."""
    row = cases.row_of(session, query)
    row.report = msgspec.msgpack.encode(dict(answers))
    held = cases.sealed_of(office, row)
    office.vault.seal(row, msgspec.structs.replace(held, found=dict(found)))
    row.state, row.changed = ("review" if found else "done"), office.now()
    for holder, one in found.items():
        office.state(session, one.attempt, holder, CandidatesWanted(one.cap))


def take_shown(office: Office, session: Session, statement: Statement, payload: bytes) -> None:
    """At the requester: a holder shows exactly what it released. Raises `StatementRefused`."""
    row = query_of_attempt(session, statement.query)
    held = cases.sealed_of(office, row)
    one = held.found.get(statement.sender)
    if one is None or one.attempt != statement.query:
        raise StatementRefused(f"{statement.sender} shows candidates that nobody waits for")
    try:
        shown: Sequence[Shown] = decode_payload(payload, ShownPayload).candidates
    except MALFORMED as error:
        raise StatementRefused(f"the candidates cannot be read: {error}", "bad-frame") from None
    if {candidate.reference for candidate in shown} != one.references or len(shown) != len(one.references):
        raise StatementRefused(f"{statement.sender} shows other candidates than it released")
    review.add_candidates(office, session, row.id, one.attempt, statement.sender, shown)
    rest = {name: other for name, other in held.found.items() if name != statement.sender}
    office.vault.seal(row, msgspec.structs.replace(held, found=rest))
    office.keep(session, statement, "received", "received")


def give_up_waiting(office: Office, session: Session, attempt: bytes, holder: str) -> None:
    """At the requester: a holder will not show what it released. A recall of it is answered from now on."""
    try:
        row = query_of_attempt(session, attempt)
        held = cases.sealed_of(office, row)
    except UnknownThing:
        return
    rest = {name: other for name, other in held.found.items() if name != holder or other.attempt != attempt}
    office.vault.seal(row, msgspec.structs.replace(held, found=rest))


def query_of_attempt(session: Session, attempt: bytes) -> QueryRow:
    """The search that an attempt belongs to. Raises `UnknownThing`."""
    row = session.scalar(select(QueryRow).where(QueryRow.attempts.contains(attempt.hex())))
    if row is None:
        raise UnknownThing("query of attempt", attempt.hex())
    return row


def note_disclosed(office: Office, session: Session, attempt: bytes, peer: str, references: Sequence[str]) -> None:
    """At the holder: a query has released these references to a peer."""
    for reference in references:
        salt = secrets.token_bytes(32)
        row = DisclosedRow(
            attempt=attempt,
            peer=peer,
            mac=office.vault.mac(reference),
            digest=candidate_digest(salt, reference),
            time=office.now(),
        )
        office.vault.seal(row, deletion.Reference(reference, salt))
        session.add(row)
    session.flush()


def show(office: Office, session: Session, wanted: Statement) -> tuple[Statement, bytes, int]:
    """At the holder: the answer to `CandidatesWanted`: statement, payload, and the size that its document must have.

    The same whether it is asked once or again: a reference keeps its salt. Raises `StatementRefused` for more slots
    than a query may have candidates, or fewer than were released.
    """
    content = wanted.content
    assert isinstance(content, CandidatesWanted)
    rows = session.scalars(
        select(DisclosedRow).where(DisclosedRow.attempt == wanted.query, DisclosedRow.peer == wanted.sender)
    ).all()
    if len(rows) > content.slots:
        raise StatementRefused("fewer slots than candidates", "wrong-size")
    mixed = [
        (office.vault.unseal(row, deletion.Reference), row.recalled is not None or row.deleted is not None)
        for row in rows
    ]
    secrets.SystemRandom().shuffle(mixed)
    shown = tuple(_shown(office, one, over) for one, over in mixed)
    payload, digest = encode_payload(ShownPayload(secrets.token_bytes(32), shown))
    statement = Statement(
        1, wanted.query, office.name, wanted.sender, int(office.clock().timestamp() * 1000),
        CandidatesShown(wanted.digest, digest),
    ).signed(office.keyring)  # fmt: skip
    office.keep(session, statement, "sent", "done")
    return statement, payload, HEAD_BYTES + content.slots * SLOT_BYTES


def _shown(office: Office, one: deletion.Reference, over: bool) -> Shown:
    """A candidate as it may be shown: the image where policy allows, quality and marks.

    Forgotten, recalled or deleted by its receiver since (`over`): only marks, as of data that nobody stands by.
    """
    assert office.gallery is not None
    marks = Shown(one.reference, one.salt, None, None, "", "unidentified", True)
    if over:
        return marks
    try:
        subject, photo = office.gallery.subject(one.reference), office.gallery.photo(one.reference)
    except UnknownReference:
        return marks
    image = travel_image(photo) if photo is not None and office.settings.send_images else None
    status = "unidentified" if subject.status is Status.UNIDENTIFIED else "identified"
    acquired = acquired_on(photo) if photo is not None else ""
    return Shown(one.reference, one.salt, image, subject.quality, acquired, status, subject.contested)  # type: ignore[arg-type]


def acquired_on(photo: bytes) -> str:
    """When a photo was taken, as its metadata say: ISO 8601, empty where they do not."""
    try:
        with Image.open(io.BytesIO(photo), formats=_FORMATS) as image:
            exif = image.getexif()
            told = exif.get_ifd(ExifTags.IFD.Exif).get(ExifTags.Base.DateTimeOriginal) or exif.get(
                ExifTags.Base.DateTime
            )
        return datetime.strptime(str(told)[:10], "%Y:%m:%d").date().isoformat()
    except Exception:  # decoders raise almost anything; a date that is none is no date
        return ""


def travel_image(photo: bytes) -> bytes | None:
    """A photo as it travels: JPEG of at most 96 KiB, upright, without metadata. None if it is not an image."""
    try:
        with Image.open(io.BytesIO(photo), formats=_FORMATS) as image:
            upright = ImageOps.exif_transpose(image).convert("RGB")
    except Exception:  # decoders raise almost anything; it was decoded when it was enrolled
        return None
    for side in SIDES:
        smaller = upright.copy()
        smaller.thumbnail((side, side))
        for quality in QUALITIES:
            out = io.BytesIO()
            smaller.save(out, "JPEG", quality=quality)
            if out.tell() <= IMAGE_LIMIT:
                return out.getvalue()
    return None
