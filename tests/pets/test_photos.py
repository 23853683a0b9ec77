"""What of a folder is read as a photo, what is said of the rest, and what decoding may cost."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("PIL", reason="needs the extra faces")
from PIL import Image

from pets.errors import InputError, UnreadablePhoto
from pets.photos import FORMATS, WEB_FORMATS, decode_photo, list_photos, read_photo, skipped_files

KINDS = {".jpg": "JPEG", ".png": "PNG", ".bmp": "BMP", ".webp": "WEBP", ".gif": "GIF", ".tif": "TIFF", ".tiff": "TIFF",
         ".jp2": "JPEG2000", ".avif": "AVIF"}  # fmt: skip
PEAK = """
import sys
from pathlib import Path
from pets.photos import read_photo
try:
    print(read_photo(Path(sys.argv[1])).shape)
except Exception as error:
    print(type(error).__name__, error)
print(next(line.split()[1] for line in open('/proc/self/status') if line.startswith('VmHWM')))
"""


def readable() -> list[str]:
    return [suffix for suffix, kind in KINDS.items() if kind in FORMATS]


def test_a_folder_gives_every_photo_that_can_be_read_and_names_the_rest(tmp_path: Path) -> None:
    for suffix in readable():
        Image.new("RGB", (8, 4), (200, 100, 50)).save(tmp_path / f"x{suffix}")
    (tmp_path / "deep").mkdir()
    for name in ("notes.txt", "deep/raw.nef", "deep/NO SUFFIX", ".hidden"):
        (tmp_path / name).write_text("x")
    found = list_photos([tmp_path])
    assert sorted(path.suffix for path in found) == sorted(readable())
    for path in found:
        image = read_photo(path)
        assert image.shape == (4, 8, 3)
        assert np.abs(image[0, 0].astype(int) - [50, 100, 200]).max() < 12, path.suffix
    assert {p.name for p in skipped_files([tmp_path, tmp_path / "xyz.jpg"])} == {"notes.txt", "raw.nef", "NO SUFFIX"}
    (tmp_path / "only").mkdir()
    (tmp_path / "only" / "a.heic").write_text("x")
    with pytest.raises(InputError, match=r"only holds no photo .*; skipped 1 file that is no photo: a\.heic"):
        list_photos([tmp_path / "only"])


def test_what_comes_over_the_web_is_of_fewer_kinds(tmp_path: Path) -> None:
    Image.new("RGB", (8, 4)).save(tmp_path / "x.tif")
    data = (tmp_path / "x.tif").read_bytes()
    assert decode_photo(data, "x").shape == (4, 8, 3)  # control
    with pytest.raises(UnreadablePhoto, match="x is not a JPEG, PNG, BMP or WEBP image"):
        decode_photo(data, "x", formats=WEB_FORMATS)


def test_a_file_of_several_pages_is_refused(tmp_path: Path) -> None:
    page = Image.new("RGB", (8, 4))
    page.save(tmp_path / "x.tif", save_all=True, append_images=[page])
    with pytest.raises(UnreadablePhoto, match=r"x\.tif has 2 pages, 1 is needed"):
        read_photo(tmp_path / "x.tif")


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="the peak is read from /proc")
def test_a_vast_blank_picture_costs_little_memory(tmp_path: Path) -> None:
    def peak(path: Path) -> tuple[str, int]:
        done = subprocess.run([sys.executable, "-c", PEAK, str(path)], capture_output=True, text=True, check=True)
        said, megabytes = done.stdout.splitlines()
        return said, int(megabytes) >> 10

    blank = Image.new("L", (9000, 9000))
    blank.save(tmp_path / "vast.png")
    blank.save(tmp_path / "vast.jpg")
    said, megabytes = peak(tmp_path / "vast.png")
    assert said.endswith("vast.png has 9000x9000 pixels, the limit is 40000000")
    assert megabytes < 150
    said, megabytes = peak(tmp_path / "vast.jpg")  # decoded at half its size
    assert said == "(4500, 4500, 3)"
    assert megabytes < 400
