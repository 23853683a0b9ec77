"""Files that are uploaded: bombs, polyglots, orientation, metadata, other people's uploads. Attacks with controls."""

from __future__ import annotations

import io
import tempfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from starlette.formparsers import MultiPartParser

from nodes.casework.errors import UnknownThing
from nodes.casework.images import redrawn
from nodes.cli.demo_photos import demo_photos
from nodes.console import intake as intake_module
from nodes.console.errors import UploadRefused
from nodes.console.intake import MAX_PIXELS, UPLOAD_LIMIT, Intakes
from pets.faces import FaceModel
from tests.kit.console import Browser, House
from tests.kit.uploads import SCRIPT, bomb, shown_pictures


@pytest.fixture(scope="module")
def photo() -> bytes:
    return demo_photos().obama2.read_bytes()


@pytest.fixture(scope="module")
def intakes() -> Intakes:
    model = FaceModel.load()
    return Intakes(lambda: model)


def upload(browser: Browser, data: bytes):  # type: ignore[no-untyped-def]
    return browser.post("/queries/new", files={"photo": ("p.jpg", data, "image/jpeg")})


def test_a_photo_becomes_faces_with_quality(house: House, photo: bytes) -> None:
    browser = house.signed_in("olga")
    answer = upload(browser, photo)
    assert answer.status_code == 303
    page = browser.get(answer.headers["location"]).text
    assert page.count("<rect") == 1
    assert "face detection" in page


def test_a_decompression_bomb_is_refused_before_it_is_unpacked(
    house: House, intakes: Intakes, monkeypatch: pytest.MonkeyPatch
) -> None:
    side = 7000  # 49 megapixels: 147 MB in memory
    data = bomb(side)
    assert len(data) < 200_000
    loaded: list[int] = []
    load = Image.Image.load
    monkeypatch.setattr(Image.Image, "load", lambda self: loaded.append(self.size[0]) or load(self))
    with pytest.raises(UploadRefused, match=f"7000x7000 pixels, the limit is {MAX_PIXELS}"):
        intakes.add("olga", data)
    assert not loaded
    assert upload(house.signed_in("olga"), data).status_code == 422
    # control: without the limit it is unpacked
    monkeypatch.setattr(intake_module, "MAX_PIXELS", side * side)
    monkeypatch.setattr(FaceModel, "embed_all", lambda self, image: [])  # to look for faces in it would take seconds
    intakes.add("olga", data)
    assert side in loaded


def test_a_file_that_is_too_large_is_refused(intakes: Intakes) -> None:
    with pytest.raises(UploadRefused, match=str(UPLOAD_LIMIT)):
        intakes.add("olga", b"\xff\xd8" + bytes(UPLOAD_LIMIT))


@pytest.mark.parametrize("junk", [b"", b"GIF89a" + bytes(50), b"<svg xmlns='http://www.w3.org/2000/svg'/>", b"%PDF-1.7",
                                  b"\xff\xd8\xff\xe0" + bytes(200), SCRIPT])  # fmt: skip
def test_what_is_no_photo_is_refused(house: House, junk: bytes) -> None:
    answer = upload(house.signed_in("olga"), junk)
    assert answer.status_code == 422
    assert "UploadRefused" in answer.text


def test_of_a_polyglot_only_the_pixels_are_left(house: House, photo: bytes) -> None:
    """A photo that is a page too: behind its end, in its comment, in its EXIF block."""
    exif = Image.Exif()
    exif[0x010E] = SCRIPT.decode()
    out = io.BytesIO()
    with Image.open(io.BytesIO(photo)) as image:
        image.save(out, "JPEG", exif=exif, comment=SCRIPT)
    polyglot = out.getvalue() + SCRIPT + b"PK\x05\x06" + bytes(18)
    assert polyglot.count(SCRIPT) >= 3  # control: it is in the file
    browser = house.signed_in("olga")
    pictures = shown_pictures(browser.get(upload(browser, polyglot).headers["location"]).text)
    assert len(pictures) == 1
    assert SCRIPT not in pictures[0]
    assert b"PK\x05\x06" not in pictures[0]
    with Image.open(io.BytesIO(pictures[0])) as shown:
        assert not shown.getexif()


def test_an_image_from_another_state_is_drawn_anew(photo: bytes) -> None:
    with Image.open(io.BytesIO(photo)) as image:
        image.thumbnail((400, 400))
        out = io.BytesIO()
        image.save(out, "JPEG", comment=SCRIPT)
    hostile = out.getvalue() + SCRIPT
    shown = redrawn(hostile)
    assert shown is not None
    assert SCRIPT not in shown
    assert redrawn(SCRIPT) is None
    assert redrawn(bomb(7000)) is None


def test_orientation_is_applied_once(intakes: Intakes, photo: bytes) -> None:
    """A photo lying on its side whose EXIF says so shows the same face as the upright one."""
    with Image.open(io.BytesIO(photo)) as image:
        upright = image.convert("RGB")
    exif = Image.Exif()
    exif[0x0112] = 6
    turned = io.BytesIO()
    upright.rotate(90, expand=True).save(turned, "JPEG", quality=95, exif=exif)
    plain = io.BytesIO()
    upright.rotate(90, expand=True).save(plain, "JPEG", quality=95)
    expected = intakes.add("olga", photo)
    seen = intakes.add("olga", turned.getvalue())
    assert (seen.width, seen.height) == (expected.width, expected.height)
    mine, theirs = (np.frombuffer(one.faces[0].template, np.int8).astype(float) for one in (expected, seen))
    assert float(mine @ theirs) / float(np.linalg.norm(mine) * np.linalg.norm(theirs)) > 0.97
    sideways = intakes.add("olga", plain.getvalue())  # control: without the mark it lies on its side
    assert (sideways.width, sideways.height) == (expected.height, expected.width)


def test_an_upload_is_its_owners_alone(house: House, photo: bytes) -> None:
    site = house.site
    site.operations.desk.add_person(None, "otto", "Otto Planted", ["officer"])
    half = site.accounts.accept(site.accounts.invite("otto"), "otherwise-Password-9")
    otto = house.visitor()
    otto.http.cookies.set(site.forms.session_cookie, site.accounts.key_enrolled(half, b"", 0).token)
    olga = house.signed_in("olga")
    place = upload(olga, photo).headers["location"]
    assert otto.get(place).status_code == 404
    assert olga.get(place).status_code == 200  # control


def test_uploads_go_after_a_while_and_when_there_are_many(
    intakes: Intakes, photo: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [0.0]
    monkeypatch.setattr(intake_module, "KEPT_AT_MOST", 2)
    kept = Intakes(intakes._load, lambda: now[0])
    first = kept.add("olga", photo)
    assert kept.get("olga", first.id) is first
    now[0] += 901
    with pytest.raises(UnknownThing, match="upload"):
        kept.get("olga", first.id)
    many = [kept.add("olga", photo) for _ in range(3)]
    assert len(kept._kept) == 2
    assert kept.get("olga", many[2].id) is many[2]


def test_an_uploaded_face_never_touches_the_disk(
    house: House, photo: bytes, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    rolled: list[int] = []
    rollover = tempfile.SpooledTemporaryFile.rollover
    monkeypatch.setattr(tempfile.SpooledTemporaryFile, "rollover", lambda self: rolled.append(1) or rollover(self))
    big = photo + bytes(3 << 20)  # more than the parser would keep in memory by itself
    assert upload(house.signed_in("olga"), big).status_code == 303
    assert not rolled
    monkeypatch.setattr(MultiPartParser, "spool_max_size", 1024)
    upload(house.signed_in("olga"), big)
    assert rolled  # control: with a smaller limit it is
