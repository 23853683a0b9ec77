"""Images travel with candidates: of equal size whatever was found, only where policy allows, never with metadata."""

from __future__ import annotations

import io
import secrets
from datetime import datetime, timezone
from typing import Any

import msgspec
import numpy as np
import pytest
from PIL import Image

from nodes.casework.candidates import acquired_on, note_disclosed, show, travel_image
from nodes.casework.contents import IMAGE_LIMIT, ShownPayload
from nodes.casework.errors import StatementRefused
from nodes.casework.quality import assess, head_pose
from nodes.store import Status
from pets.faces import Embedded
from pets.sealing import SealingError
from pets.signatures import SignatureError
from protocol.documents import open_document, seal_document
from protocol.follow_up import CandidatesWanted, FollowUpError, Statement
from tests.kit.casework import Offices


def noise(side: int = 1200, exif: bool = False) -> bytes:
    pixels = np.frombuffer(secrets.token_bytes(side * side * 3), np.uint8).reshape(side, side, 3)
    out, told = io.BytesIO(), Image.Exif()
    if exif:
        told[0x0132] = "2019:02:28 10:11:12"
        told[0x010E] = "Planted Name"
        told[0x0112] = 6
    Image.fromarray(pixels).save(out, "JPEG", quality=95, exif=told)
    return out.getvalue()


def test_documents_have_one_size_hit_or_no_hit(offices: Offices) -> None:
    references = [offices.enrol(noise()) for _ in range(3)]
    sizes = set()
    for found in ((), references[:1], references):
        attempt = secrets.token_bytes(16)
        with offices.es.office.vault.writing() as session:
            note_disclosed(offices.es.office, session, attempt, "FR", found)
            reply, payload, size = show(offices.es.office, session, _wanted(offices, attempt))
        sizes.add(len(seal_document(reply, payload, offices.fr.office.identity.sealing.public, size)))
        unpadded = len(seal_document(reply, payload, offices.fr.office.identity.sealing.public))
        assert (unpadded < max(sizes)) or len(found) == 10  # the control: without padding sizes differ
    assert len(sizes) == 1


def test_more_candidates_than_slots_are_not_shown(offices: Offices) -> None:
    attempt = secrets.token_bytes(16)
    with offices.es.office.vault.writing() as session:
        note_disclosed(offices.es.office, session, attempt, "FR", [offices.enrol(), offices.enrol()])
    with offices.es.office.vault.writing() as session, pytest.raises(StatementRefused, match="slots"):
        show(offices.es.office, session, _wanted(offices, attempt, 1))


def test_who_is_forgotten_before_being_shown_comes_contested_and_without_image(offices: Offices) -> None:
    attempt, gallery = secrets.token_bytes(16), offices.es.office.gallery
    forgotten, kept = offices.enrol(noise()), offices.enrol(noise(1000))
    assert gallery is not None
    with offices.es.office.vault.writing() as session:
        note_disclosed(offices.es.office, session, attempt, "FR", (forgotten, kept))
    gallery.forget(forgotten, datetime.now(timezone.utc))
    with offices.es.office.vault.writing() as session:
        _, payload, _ = show(offices.es.office, session, _wanted(offices, attempt))
    shown = {one.reference: one for one in msgspec.msgpack.decode(payload, type=ShownPayload).candidates}
    assert (shown[forgotten].image, shown[forgotten].contested) == (None, True)
    assert shown[kept].image is not None  # the control
    assert not shown[kept].contested


def test_an_image_travels_small_and_without_metadata(offices: Offices) -> None:
    photo = noise(exif=True)
    query = offices.searched(offices.enrol(photo, status=Status.UNIDENTIFIED, quality=44))
    (one,) = offices.fr.candidates_for(offices.french.rita, query)
    assert (one.has_image, one.quality, one.acquired, one.status) == (True, 44, "2019-02-28", "unidentified")
    image = offices.fr.view(offices.french.rita, f"candidate:{one.id}", "to compare").image
    assert len(image) <= IMAGE_LIMIT
    assert b"Planted" in photo
    assert b"Planted" not in image
    assert b"Exif" not in image


def test_no_image_travels_where_policy_keeps_them(tmp_path: Any) -> None:
    offices = Offices.found(tmp_path, send_images=False)
    query = offices.searched(offices.enrol(noise(64)))
    (one,) = offices.fr.candidates_for(offices.french.rita, query)
    assert not one.has_image
    offices.close()


def test_what_is_no_image_gives_none() -> None:
    assert travel_image(b"GIF89a not a face") is None
    assert acquired_on(b"nothing") == ""


def test_a_holder_that_shows_others_than_it_released_is_refused(offices: Offices) -> None:
    from nodes.casework import candidates, cases
    from nodes.casework.contents import Found, Told

    query, attempt = offices.query(), secrets.token_bytes(16)
    released, other = offices.enrol(), offices.enrol()
    with offices.fr.office.vault.writing() as session:
        launch = cases.take_approved(offices.fr.office, session)
        assert launch is not None
        cases.note_attempt(offices.fr.office, session, query, attempt, launch.approved)
        told = {"ES": Told("candidates", 1, "0.55", None)}
        candidates.note_found(
            offices.fr.office, session, query, told, {"ES": Found(attempt, frozenset({released}), 10)}
        )
    with offices.es.office.vault.writing() as session:
        note_disclosed(offices.es.office, session, attempt, "FR", [other])
    with pytest.raises(StatementRefused, match="other candidates than it released"):
        offices.carry()


def test_a_document_opens_only_for_its_receiver_and_only_unchanged(offices: Offices) -> None:
    fr, es = offices.fr.office, offices.es.office
    statement = _wanted(offices, secrets.token_bytes(16))
    data = seal_document(statement, b"", es.identity.sealing.public)
    assert open_document(data, es.identity.sealing, "FR", "ES", es.keyring)[0] == statement
    for key, sender in ((fr.identity.sealing, "FR"), (es.identity.sealing, "DE")):
        with pytest.raises(SealingError):
            open_document(data, key, sender, "ES", es.keyring)
    with pytest.raises(SealingError):
        open_document(data[:-1] + bytes([data[-1] ^ 1]), es.identity.sealing, "FR", "ES", es.keyring)
    forged = seal_document(_unsigned(statement), b"", es.identity.sealing.public)
    with pytest.raises(SignatureError):
        open_document(forged, es.identity.sealing, "FR", "ES", es.keyring)
    with pytest.raises(FollowUpError, match="the payload is not the one"):
        open_document(
            seal_document(statement, b"x", es.identity.sealing.public), es.identity.sealing, "FR", "ES", es.keyring
        )


def test_quality_falls_with_blur_darkness_and_a_turned_head() -> None:
    eyes = np.array([[70, 90], [130, 90], [100, 122], [78, 146], [122, 146]], np.float32)
    pixels = np.random.default_rng(3).integers(0, 256, (220, 200, 3)).astype(np.uint8)
    good = assess(pixels, _face(eyes))
    blurred = np.asarray(Image.fromarray(pixels).resize((20, 22)).resize((200, 220)))
    assert assess(blurred, _face(eyes))["sharpness"] < good["sharpness"]
    assert assess(pixels // 12, _face(eyes))["under-exposure prevention"] < good["under-exposure prevention"]
    turned = eyes.copy()
    turned[2, 0] += 25
    assert assess(pixels, _face(turned))["head pose yaw"] < 60 < good["head pose yaw"]
    assert abs(head_pose(eyes)[0]) < 0.01


def _face(landmarks: Any) -> Embedded:
    return Embedded(np.zeros(128, np.float32), (50, 60, 150, 170), 0.9, 100.0, landmarks)


def _wanted(offices: Offices, attempt: bytes, slots: int = 10) -> Statement:
    time = int(datetime.now(timezone.utc).timestamp() * 1000)
    return Statement(1, attempt, "FR", "ES", time, CandidatesWanted(slots)).signed(offices.fr.office.keyring)


def _unsigned(statement: Statement) -> Statement:
    import msgspec

    return msgspec.structs.replace(statement, signature=secrets.token_bytes(3373))
