"""ANSI/NIST-ITL files: round trips, and hostile ones; the UMF mapping names every field."""

from __future__ import annotations

import io
import re
import time
from contextlib import suppress
from datetime import date

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from nodes.casework.exchange import type10
from nodes.casework.exchange.umf import CORE_DATA, core_data_as_umf
from protocol.follow_up import IDENTIFIED_FIELDS

pytest.importorskip("nistitl")

from nodes.casework.exchange.type10 import (
    BANNER,
    ExchangeError,
    FaceRecord,
    read_faces,
    write_face,
)

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


FLOODS = {
    "subfields": lambda data: data.replace(b"10.004:ES", b"10.004:" + b"\x1e".join([b"x\x1fy"] * 60_000)),
    "contents": lambda data: data.replace(b"10\x1f1\x1d", b"10\x1f1" + b"\x1e10\x1f1" * 60_000 + b"\x1d", 1),
    "records": lambda data: data.split(b"\x1c", 1)[0] + b"\x1c" + data.split(b"\x1c", 1)[1] * 1200,
}


def _lengths_right(data: bytes) -> bytes:
    """Each record says how long it is."""
    out = b""
    for record in data.split(b"\x1c", 1):
        if not record:
            continue
        head, rest = record.split(b"\x1d", 1)
        tag = head.split(b":")[0] + b":"
        body = b"\x1d" + rest + (b"" if record.endswith(b"\x1c") else b"\x1c")
        length = len(tag) + len(body)
        length += len(str(length + len(str(length))))
        out += tag + str(length).encode() + body
    return out


@pytest.mark.parametrize("flood", ["subfields", "contents"])
def test_a_small_file_does_not_keep_the_parser_busy(flood: str, monkeypatch: pytest.MonkeyPatch) -> None:
    data = _lengths_right(FLOODS[flood](write_face(FaceRecord(photo(), None, "ES", ""), "ES", "FR", TODAY)))
    with pytest.raises(ExchangeError, match="bytes of text, the limit is 65536"):
        read_faces(data)
    # control: without the limit the library parses all of it
    monkeypatch.setattr(type10, "MAX_TEXT", 10**9)
    begun = time.perf_counter()
    with suppress(ExchangeError):
        read_faces(data)
    assert time.perf_counter() - begun > 0.3


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
