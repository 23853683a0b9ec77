"""ANSI/NIST-ITL files through the console: as a probe, and a candidate as one. Hostile files, with controls."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from datetime import date
from typing import Any

import pytest
from PIL import Image

from nodes.casework.contents import Shown
from nodes.casework.exchange import export, type10
from nodes.casework.exchange.type10 import ExchangeError, ExchangeMissing, FaceRecord, read_faces, write_face
from nodes.cli.demo_photos import demo_photos
from nodes.console import contracts as c
from nodes.console import intake as intake_module
from nodes.console.client import ConsoleClient, key_file
from nodes.console.intake import MAX_PIXELS, UPLOAD_LIMIT
from pets.faces import FaceModel
from tests.kit.casework import Offices
from tests.kit.console import PASSWORD, Browser, House
from tests.kit.two_consoles import Two, two_consoles
from tests.kit.type10_files import FLOODS, lengths_right
from tests.kit.uploads import SCRIPT, bomb, shown_pictures

pytest.importorskip("nistitl")
TODAY = date(2026, 11, 28)


@pytest.fixture(scope="module")
def photo() -> bytes:
    return demo_photos().obama2.read_bytes()


def wrapped(image: bytes, reference: str = "") -> bytes:
    return write_face(FaceRecord(image, date(2012, 12, 6), "US", reference), "US", "FR", TODAY)


def upload(browser: Browser, data: bytes, name: str = "face.an2") -> Any:
    return browser.post("/queries/new", files={"photo": (name, data, "application/octet-stream")})


def test_a_type10_file_is_the_same_probe_as_its_photo(house: House, photo: bytes) -> None:
    with ConsoleClient(house.origin) as olga:
        olga.sign_in("olga", PASSWORD, key_file(house.keys["olga"]))
        assert olga.me().exchange
        ours, theirs = (olga.upload(data) for data in (wrapped(photo), photo))
        assert ours.faces == theirs.faces
        assert olga.picture(ours.id) == olga.picture(theirs.id)
        olga.open_query(c.QueryForm(ours.id, 0, ("ES",), "C-1", "robbery", 5.0, "0.5"))


def test_a_page_takes_one_too_whatever_it_is_called(house: House, photo: bytes) -> None:
    browser = house.signed_in("olga")
    assert ".an2" in browser.get("/queries/new").text
    for name in ("face.an2", "face.jpg"):
        answer = upload(browser, wrapped(photo), name)
        assert answer.status_code == 303
        assert browser.get(answer.headers["location"]).text.count("<rect") == 1


def test_a_bomb_inside_is_refused_before_it_is_unpacked(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    side = 7000
    loaded: list[int] = []
    load = Image.Image.load
    monkeypatch.setattr(Image.Image, "load", lambda self: loaded.append(self.size[0]) or load(self))
    data = wrapped(bomb(side))
    answer = upload(house.signed_in("olga"), data)
    assert answer.status_code == 422
    assert f"7000x7000 pixels, the limit is {MAX_PIXELS}" in answer.text
    assert not loaded
    monkeypatch.setattr(intake_module, "MAX_PIXELS", side * side)  # control: without the limit it is unpacked
    monkeypatch.setattr(FaceModel, "embed_all", lambda self, image: [])  # to look for faces in it would take seconds
    upload(house.signed_in("olga"), data)
    assert side in loaded


def test_a_flood_inside_is_refused_before_the_library_sees_it(
    house: House, photo: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[int] = []
    library = type10._library()
    parse = library.Message.parse
    monkeypatch.setattr(library.Message, "parse", lambda self, data: seen.append(len(data)) or parse(self, data))
    browser = house.signed_in("olga")
    answer = upload(browser, lengths_right(FLOODS["subfields"](wrapped(photo).replace(b"10.004:US", b"10.004:ES"))))
    assert answer.status_code == 422
    assert "the limit is 65536" in answer.text
    assert not seen
    assert upload(browser, wrapped(photo)).status_code == 303  # control: an honest one is parsed
    assert seen


def test_a_file_that_is_too_large_and_one_with_two_faces_are_refused(house: House, photo: bytes) -> None:
    browser = house.signed_in("olga")
    large = wrapped(photo) + bytes(UPLOAD_LIMIT)
    assert str(UPLOAD_LIMIT) in upload(browser, large).text
    one = wrapped(photo).replace(b"\x1f1\x1e10\x1f1\x1d", b"\x1f2\x1e10\x1f1\x1e10\x1f2\x1d")
    head, face = lengths_right(one).split(b"\x1c", 1)
    two = upload(browser, head + b"\x1c" + face + face.replace(b"10.002:1", b"10.002:2"))
    assert two.status_code == 422
    assert "2 faces" in two.text


@pytest.mark.parametrize("junk", [b"1.001:", b"1.001:99\x1d", b"1.1:0\x1d" + SCRIPT, b"1.001:22\x1d1.002:0501\x1c"])
def test_what_is_no_type10_file_is_refused(house: House, junk: bytes) -> None:
    answer = upload(house.signed_in("olga"), junk)
    assert answer.status_code == 422
    assert "UploadRefused" in answer.text


def test_of_a_polyglot_only_the_pixels_are_left(house: House, photo: bytes) -> None:
    """A page in the image's comment, behind its end, and in the text of the record."""
    out = io.BytesIO()
    with Image.open(io.BytesIO(photo)) as image:
        image.save(out, "JPEG", comment=SCRIPT)
    polyglot = wrapped(out.getvalue() + SCRIPT).replace(b"CANDIDATE", b"<script>a")
    assert polyglot.count(b"<script>") == 3  # control: it is in the file
    browser = house.signed_in("olga")
    page = browser.get(upload(browser, polyglot).headers["location"]).text
    assert b"<script>a" not in page.encode()
    (picture,) = shown_pictures(page)
    assert b"<script>" not in picture


def test_without_the_library_it_says_so(house: House, photo: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    data = wrapped(photo)
    monkeypatch.setattr(type10, "find_spec", lambda name: None)
    monkeypatch.setattr(type10, "_library", missing)
    browser = house.signed_in("olga")
    page = browser.get("/queries/new").text
    assert "installed without the extra exchange" in page
    assert ".an2" not in page
    assert "blind-lineup[exchange]" in upload(browser, data).text


def missing() -> Any:
    raise ExchangeMissing("ANSI/NIST-ITL files need the package nistitl: pip install 'blind-lineup[exchange]'")


# A candidate as a Type-10 file


def pictured(offices: Offices) -> dict[str, str]:
    """A candidate with an image, and one whose image is a page too, as its holder sent it."""
    photo = demo_photos().obama.read_bytes()
    query = offices.searched(offices.enrol(photo))
    (one,) = offices.fr.candidates_for(offices.french.rita, query)
    for who in (offices.french.rita, offices.french.remo):
        offices.fr.lock_decision(who, one.id, "same person", "ears")
    waiting = offices.searched(offices.enrol())
    (other,) = offices.fr.candidates_for(offices.french.rita, waiting)
    return {"query": query, "candidate": one.id, "reference": offices.references[0], "waiting": waiting,
            "under review": other.id}  # fmt: skip


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Two]:
    with two_consoles(tmp_path_factory.mktemp("two"), pictured) as made:
        yield made


def download(two: Two, handle: str, **data: str) -> Any:
    path = two.fill("/candidates/{candidate}/type-10")
    return two.browsers["FR", handle].post(path, {"reason": "for the lab", **data}, form="/")


def test_a_candidate_is_downloaded_for_a_reason_that_is_written_down(two: Two) -> None:
    answer = download(two, "olga", receiver="FR-LAB")
    assert answer.headers["content-disposition"].startswith("attachment")
    (face,) = read_faces(answer.content)
    assert face.reference == two.things["reference"]
    assert b"CANDIDATE, NOT IDENTIFIED" in answer.content
    desk = two.fr.site.operations.desk
    seen = desk.views(desk.person("dora"))[0]
    written = (seen.person, seen.what, seen.recipient, seen.reason)
    assert written == ("olga", f"type-10:{two.things['candidate']}", "FR-LAB", "for the lab")
    assert download(two, "olga", reason=" ").status_code == 422


@pytest.mark.parametrize("handle", ["anton", "sven", "alma", "lena", "rita"])
def test_who_may_not_see_a_candidate_does_not_get_it_as_a_file(two: Two, handle: str) -> None:
    answer = download(two, handle)
    assert answer.status_code == 403
    assert "NotYourRole" in answer.text
    assert download(two, "dora").status_code == 200  # control


def test_the_page_offers_it_and_says_so_where_it_cannot(two: Two, monkeypatch: pytest.MonkeyPatch) -> None:
    olga, path = two.browsers["FR", "olga"], two.fill("/queries/{query}")
    assert "Download the file" in olga.get(path).text
    assert "Download the file" not in olga.get(two.fill("/queries/{waiting}")).text
    review = two.browsers["FR", "rita"].post(two.fill("/review/{query}/{candidate}"), {"reason": "to compare"}).text
    assert "Download the file" not in review  # it holds the reference
    monkeypatch.setattr("nodes.console.operations.is_installed", lambda: False)
    assert "installed without the extra exchange" in olga.get(path).text
    answer = download(two, "olga")
    assert answer.status_code == 422
    assert "ExchangeMissing" in answer.text


def test_an_agency_of_another_state_and_an_open_review_are_refused(two: Two) -> None:
    answer = download(two, "olga", receiver="FBI")
    assert "OnwardTransferRefused" in answer.text
    assert answer.headers["content-type"].startswith("text/html")
    assert download(two, "olga", receiver="FBI", authorisation="ES letter 44/2026").status_code == 200  # control
    path = two.fill("/candidates/{candidate}/type-10").replace(two.things["candidate"], two.things["under review"])
    answer = two.browsers["FR", "olga"].post(path, {"reason": "for the lab"}, form="/")
    assert answer.status_code == 422
    assert "under review" in answer.text


def test_an_agency_that_is_none_is_refused(two: Two) -> None:
    for receiver in ("FR-<script>", "FR-\x1d10.003:X", "FR-" + "X" * 30):
        assert download(two, "olga", receiver=receiver).status_code == 422


def shown(**changes: Any) -> Shown:
    values: dict[str, Any] = {"reference": "ES-1", "salt": bytes(32), "image": None, "quality": 50, "acquired": "",
                              "status": "identified", "contested": False}  # fmt: skip
    return Shown(**values | changes)


def test_what_another_state_hid_in_an_image_does_not_go_on(photo: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    with Image.open(io.BytesIO(photo)) as image:
        image.thumbnail((300, 300))
        out = io.BytesIO()
        image.save(out, "JPEG", comment=SCRIPT)
    hostile = shown(image=out.getvalue() + SCRIPT)
    assert SCRIPT not in export.candidate_file(hostile, "FR", "FR", TODAY)
    for none in (None, SCRIPT, bomb(7000)):
        with pytest.raises(ExchangeError, match="without an image"):
            export.candidate_file(shown(image=none), "FR", "FR", TODAY)
    monkeypatch.setattr(export, "redrawn", lambda data: data)  # control: as it came, it would go on
    assert export.candidate_file(hostile, "FR", "FR", TODAY).count(SCRIPT) == 2


def test_what_another_state_wrote_begins_no_field(photo: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    planted = "ES-1\x1d10.003:SCAR"
    with pytest.raises(ExchangeError, match="reference"):
        export.candidate_file(shown(image=photo, reference=planted), "FR", "FR", TODAY)
    made = export.candidate_file(shown(image=photo, acquired="2012-99-01"), "FR", "FR", TODAY)
    assert read_faces(made)[0].taken is None  # a date that is none
    monkeypatch.setattr(type10, "_REFERENCE", re.compile(r"(?s).*"))  # control: unchecked, it is a field of its own
    made = export.candidate_file(shown(image=photo, reference=planted), "FR", "FR", TODAY)
    assert b"\x1d10.003:SCAR" in made
