"""ANSI/NIST-ITL files: round trips, and hostile ones; the UMF mapping names every field."""

from __future__ import annotations

import io
import re
from contextlib import suppress
from datetime import date

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from nodes.casework.exchange import type10
from nodes.casework.exchange.type10 import BANNER, ExchangeError, FaceRecord, read_faces, write_face
from nodes.casework.exchange.umf import CORE_DATA, core_data_as_umf
from protocol.follow_up import IDENTIFIED_FIELDS
from tests.kit.type10_files import FLOODS, lengths_right, with_record

nistitl = pytest.importorskip("nistitl")

TODAY = date(2026, 11, 28)


def photo(coding: str = "JPEG", size: tuple[int, int] = (48, 64)) -> bytes:
    out = io.BytesIO()
    Image.effect_noise(size, 64).convert("RGB").save(out, coding)
    return out.getvalue()


@pytest.mark.parametrize("coding", ["JPEG", "PNG"])
def test_a_face_comes_back_as_it_went(coding: str) -> None:
    face = FaceRecord(photo(coding), date(2019, 2, 28), "ES", "ES-0a1b")
    data = write_face(face, "ES", "FR", TODAY)
    assert read_faces(data) == [face]
    assert BANNER.encode() in data


def test_a_day_that_is_not_known_stays_so() -> None:
    face = FaceRecord(photo(), None, "ES", "")
    assert read_faces(write_face(face, "ES", "FR", TODAY)) == [face]


def test_another_size_or_coding_than_the_image_has_is_refused() -> None:
    data = write_face(FaceRecord(photo(), None, "ES", ""), "ES", "FR", TODAY)
    with pytest.raises(ExchangeError, match="pixels"):
        read_faces(data.replace(b"10.006:48", b"10.006:49"))
    with pytest.raises(ExchangeError, match="compression 'WSQ20'"):
        read_faces(data.replace(b"10.011:JPEGB", b"10.011:WSQ20"))
    with pytest.raises(ExchangeError, match="PNG, the image is JPEG"):
        read_faces(data.replace(b"10.011:JPEGB", b"10.011:PNG  "))


@settings(max_examples=60, deadline=None)
@given(st.binary(max_size=200), st.integers(0, 400))
def test_hostile_files_are_refused_with_one_error(noise: bytes, place: int) -> None:
    data = write_face(FaceRecord(photo(), None, "ES", ""), "ES", "FR", TODAY)
    for hostile in (noise, data[:place] + noise + data[place + len(noise) :]):
        try:
            read_faces(hostile)
        except ExchangeError:
            continue


@pytest.mark.parametrize("flood", ["subfields", "contents"])
def test_a_small_file_does_not_keep_the_parser_busy(flood: str, monkeypatch: pytest.MonkeyPatch) -> None:
    data = lengths_right(FLOODS[flood](write_face(FaceRecord(photo(), None, "ES", ""), "ES", "FR", TODAY)))
    with pytest.raises(ExchangeError, match="bytes of text, the limit is 65536"):
        read_faces(data)
    # control: without the limits the library parses all of it
    monkeypatch.setattr(type10, "MAX_TEXT", 10**9)
    monkeypatch.setattr(type10, "MAX_PARTS", 10**9)
    made: list[int] = []
    begin = nistitl.SubField.__init__
    monkeypatch.setattr(nistitl.SubField, "__init__", lambda self, *given, **more: made.append(1)
                        or begin(self, *given, **more))  # fmt: skip
    with suppress(ExchangeError):
        read_faces(data)
    assert len(made) > 60_000


def test_the_types_with_an_image_are_those_of_the_library() -> None:
    known = {kind: [tag for tag, name in tags.items() if name == "DATA"] for kind, tags in nistitl.ALIASES.items()}
    assert {kind: [999] for kind in type10.WITH_DATA} == {kind: tags for kind, tags in known.items() if tags}


def behind_an_image_that_is_none() -> bytes:
    """Fields behind 2.999, which holds no image: the library compares each with all before it."""
    fields = (b"999:b", *(b"%d:a" % tag for tag in range(1000, 6000)))
    return with_record(write_face(FaceRecord(photo(), None, "ES", ""), "ES", "FR", TODAY), 2, *fields)


def in_a_record_that_looks_binary() -> bytes:
    """Type 1 ends within a field, and the four bytes there are a length: the library reads on to the next 0x1c."""
    fields = b"".join(b"\x1d1.%d:a" % tag for tag in range(1000, 6000))
    tail = b"%b" % (len(fields) + 5).to_bytes(4, "big") + fields + b"\x1c"
    return b"1.001:22\x1d1.004:aaaaaaa" + tail


def in_many_records() -> bytes:
    data = write_face(FaceRecord(photo(), None, "ES", ""), "ES", "FR", TODAY)
    for _ in range(120):
        data = with_record(data, 2, *(b"%d:a" % tag for tag in range(1000, 1250)))
    return data


@pytest.mark.parametrize(
    ("data", "refused", "least"),
    [
        (behind_an_image_that_is_none(), "record 2 has 500[0-9] fields, the limit is 300", 5000),
        (in_a_record_that_looks_binary(), "record 1 does not end", 5000),
        (in_many_records(), "more than 20000 fields and values in all", 20_000),
    ],
    ids=["behind 2.999", "binary", "many"],
)
def test_no_file_gives_the_library_more_fields_than_the_limits(
    data: bytes, refused: str, least: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[int] = []
    begin = nistitl.Field.__init__
    monkeypatch.setattr(nistitl.Field, "__init__", lambda self, *given, **more: made.append(1)
                        or begin(self, *given, **more))  # fmt: skip
    with pytest.raises(ExchangeError, match=refused):
        read_faces(data)
    assert not made
    monkeypatch.setattr(type10, "_check_structure", lambda data: None)  # control: it would make them all
    with suppress(ExchangeError):
        read_faces(data)
    assert len(made) >= least


def test_a_file_with_as_many_faces_as_the_limit_is_read() -> None:
    small = photo(size=(8, 8))
    data = write_face(FaceRecord(small, None, "ES", "ES-1"), "ES", "FR", TODAY)
    head, face = data.split(b"\x1c", 1)
    count = type10.MAX_RECORDS - 1
    head = head.replace(b"\x1f1\x1e10\x1f1", b"\x1f%d" % count + b"\x1e10\x1f1" * count)
    assert len(read_faces(lengths_right(head + b"\x1c" + face)[: -len(face)] + face * count)) == count


def test_more_records_than_the_limit_are_refused() -> None:
    data = FLOODS["records"](write_face(FaceRecord(photo(), None, "ES", ""), "ES", "FR", TODAY))
    with pytest.raises(ExchangeError, match="more than 1000 records"):
        read_faces(data)


@pytest.mark.parametrize("length", [b"0", b"3", b"999999999", b"-1", b"", b"9" * 40])
def test_lengths_that_do_not_add_up_are_refused(length: bytes) -> None:
    data = write_face(FaceRecord(photo(), None, "ES", ""), "ES", "FR", TODAY)
    with pytest.raises(ExchangeError):
        read_faces(re.sub(rb"10\.001:\d+", b"10.001:" + length, data))


def test_every_field_of_the_core_data_is_mapped_once() -> None:
    assert [one.ours for one in CORE_DATA] == list(IDENTIFIED_FIELDS)
    assert core_data_as_umf({"gender": "F", "case-number": "M-17"}) == {
        "Person/PersonIdentity": {"Gender": "F"},
        "Case": {"CaseReference": "M-17"},
    }
