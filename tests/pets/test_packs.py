"""A folder of an operator's own ONNX files, as `--models DIR` takes it: 512 numbers here, on made-up weights.

The weights tell nobody apart. What is tried is everything around them: loading, aligning, spec, search, refusal.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from nodes.cli.demo_photos import demo_photos
from pets.errors import ModelError
from pets.faces import FaceModel
from pets.templates import read_model_spec
from pets.weights import DETECTOR, default_models
from tests.kit.commands import run  # noqa: F401  the fixture

pytestmark = pytest.mark.slow


def embedder(dim: int, side: int = 112, channels: int = 3, outputs: int = 1, people: str | int = "faces") -> bytes:
    """A network from (people, channels, side, side) to (people, dim): one convolution, as coarse as a template."""
    kernel = np.random.default_rng(3).normal(size=(dim, channels, side, side)).astype(np.float32) / 100
    nodes = [
        helper.make_node("Conv", ["data", "kernel"], ["grid"], name="conv"),
        *(helper.make_node("Flatten", ["grid"], [f"out{index}"], name=f"flat{index}") for index in range(outputs)),
    ]
    given = helper.make_tensor_value_info("data", TensorProto.FLOAT, [people, channels, side, side])
    told = [helper.make_tensor_value_info(f"out{i}", TensorProto.FLOAT, [people, dim]) for i in range(outputs)]
    graph = helper.make_graph(nodes, "made up", [given], told, [numpy_helper.from_array(kernel, "kernel")])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    onnx.checker.check_model(model)
    return bytes(model.SerializeToString())


def pack(folder: Path, network: bytes) -> Path:
    folder.mkdir()
    shutil.copy(default_models() / DETECTOR, folder / "det.onnx")
    (folder / "rec.onnx").write_bytes(network)
    return folder


@pytest.mark.parametrize("people", ["faces", 1])
def test_a_pack_of_512_numbers_goes_from_photos_to_an_encrypted_hit(
    run: Any,  # noqa: F811
    tmp_path: Path,
    people: str | int,
) -> None:
    models = pack(tmp_path / "pack", embedder(512, people=people))
    demo = demo_photos()
    photos = (demo.obama, demo.biden, demo.tom_hanks)
    status, out, err = run("embed", *photos, "-o", tmp_path / "g.npy", "--models", models, "--json", "--largest")
    assert status == 0, err
    assert json.loads(out)["batch"] == 16, "a fixed number of faces is freed in memory"
    rows = np.load(tmp_path / "g.npy")
    assert rows.shape == (3, 512)
    spec = read_model_spec(tmp_path / "g.npy")
    assert spec is not None
    assert (spec.dim, spec.scale) == (512, 497)
    status, _, err = run("embed", demo.biden, "-o", tmp_path / "p.npy", "--models", models)
    assert status == 0, err
    args = ("match", "--gallery", tmp_path / "g.npy", "--probe", tmp_path / "p.npy", "--threshold", "0.995")
    status, _, err = run(*args, "--json", tmp_path / "m.json")
    assert status == 0, err
    hits = json.dumps(json.loads((tmp_path / "m.json").read_text()))
    assert '"row": 1' in hits
    status, _, err = run("embed", demo.biden, "-o", tmp_path / "q.npy")
    assert status == 0, err
    args = ("match", "--gallery", tmp_path / "g.npy", "--probe", tmp_path / "q.npy", "--threshold", "0.9")
    status, _, err = run(*args)
    assert status != 0
    assert "the probe has d = 128, the gallery d = 512" in err


@pytest.mark.parametrize(
    ("network", "words"),
    [
        (embedder(500), "multiple of 8 from 8 to 1024, got 500"),
        (embedder(64, side=100), r"no face embedder .*rec\.onnx \(input \? x 3 x 100 x 100; 1 output\); needed are"),
        (embedder(64, side=96), r"no face embedder .*3 x 96 x 96"),
        (embedder(64, channels=1), r"no face embedder .*\? x 1 x 112 x 112"),
        (embedder(64, outputs=2), r"no face embedder .*2 outputs"),
    ],
)
def test_a_pack_whose_outputs_do_not_fit_is_refused(tmp_path: Path, network: bytes, words: str) -> None:
    with pytest.raises(ModelError, match=words):
        FaceModel.load(pack(tmp_path / "pack", network), "cpu")


def test_two_embedders_in_one_folder_are_refused(tmp_path: Path) -> None:
    folder = pack(tmp_path / "pack", embedder(512))
    (folder / "rec2.onnx").write_bytes(embedder(128))
    with pytest.raises(ModelError, match=r"more than one face embedder: rec\.onnx and rec2\.onnx; leave one there"):
        FaceModel.load(folder, "cpu")
