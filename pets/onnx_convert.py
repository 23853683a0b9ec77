"""Two networks of the OpenCV zoo rewritten so that insightface loads them unchanged.

The zoo's block-quantised files store each weight as int8 blocks that `DequantizeLinear` (and `Reshape`) turn into
float32 at run time; here those nodes are folded into plain float32 weights. Both conversions are deterministic down to
the byte, so the SHA-256 of the result can be pinned and two nodes that prepare it apart have one model specification.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

OPSET = 21  # the one of the zoo's files
IR_VERSION = 10  # the one that goes with opset 21
STRIDES = (8, 16, 32)

Array = NDArray[Any]


@dataclass
class _Graph:
    """The nodes that remain after folding, and every constant by name."""

    nodes: list[Any]
    constants: dict[str, Array]

    def serialise(self, name: str, inputs: list[Any], outputs: list[Any]) -> bytes:
        """A checked model with only the constants that are used, in the order of their first use."""
        used = dict.fromkeys(i for node in self.nodes for i in node.input if i in self.constants)
        weights = [numpy_helper.from_array(np.ascontiguousarray(self.constants[i]), i) for i in used]
        graph = helper.make_graph(self.nodes, name, inputs, outputs, weights)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION)
        onnx.checker.check_model(model)
        return bytes(model.SerializeToString(deterministic=True))


def sface_as_arcface(quantised: bytes) -> bytes:
    """SFace with float32 weights, its mean subtraction and scaling recognisable to insightface's `ArcFaceONNX`.

    Input (1, 3, 112, 112) float32 RGB 0…255, output (1, 128) float32, as in the zoo's file.
    """
    model = onnx.load_model_from_string(quantised)
    graph = _fold_weights(model.graph)
    for index, node in enumerate(graph.nodes[:8]):
        if node.op_type in ("Sub", "Mul"):
            # insightface takes the normalisation to be built in if the first nodes' names begin so
            node.name = f"{node.op_type}_{index}"
    return graph.serialise("sface", [_image_input(model.graph.input[0].name, 112, 112)], list(model.graph.output))


def yunet_as_scrfd(quantised: bytes) -> bytes:
    """YuNet with the input and the nine outputs that insightface's `SCRFD` expects.

    Input (1, 3, H, W) float32 RGB (x - 127.5) / 128, H and W multiples of 32. Outputs for strides 8, 16, 32 in turn,
    with two anchors a cell of which the second has score 0, since SCRFD's layout has two and YuNet one:
    scores (2·cells, 1), boxes (2·cells, 4) as distances left, top, right, bottom in strides, landmarks (2·cells, 10).
    """
    model = onnx.load_model_from_string(quantised)
    name = model.graph.input[0].name
    graph = _fold_weights(model.graph)
    for node in graph.nodes:
        for index, value in enumerate(node.input):
            if value == name:
                node.input[index] = "bgr"
    before, after = _Builder("in"), _Builder("out")
    _rgb_to_bgr(before, name)
    outputs = []
    for rows, width in ((_scores, 1), (_boxes, 4), (_landmarks, 10)):
        for stride in STRIDES:
            value = rows(after, stride)
            outputs.append(helper.make_tensor_value_info(value, TensorProto.FLOAT, [None, width]))
    whole = _Graph(before.nodes + graph.nodes + after.nodes, graph.constants | before.constants | after.constants)
    return whole.serialise("yunet", [_image_input(name, "H", "W")], outputs)


@dataclass
class _Builder:
    """Nodes and constants with names that cannot clash with the network's own."""

    prefix: str
    nodes: list[Any] = field(default_factory=list)
    constants: dict[str, Array] = field(default_factory=dict)

    def node(self, operator: str, *inputs: str | Array, output: str = "", **attributes: Any) -> str:
        """Append a node; arrays among its inputs become constants. Returns the name of its output."""
        label = f"{self.prefix}_{len(self.nodes)}"
        names = []
        for index, value in enumerate(inputs):
            if not isinstance(value, str):
                self.constants[f"{label}_constant{index}"] = value
                value = f"{label}_constant{index}"
            names.append(value)
        output = output or f"{label}_{operator.lower()}"
        self.nodes.append(helper.make_node(operator, names, [output], name=label, **attributes))
        return output


def _rgb_to_bgr(build: _Builder, name: str) -> None:
    """insightface's RGB (x - 127.5) / 128 back to YuNet's BGR 0…255."""
    scaled = build.node("Mul", name, _f32(128))
    shifted = build.node("Add", scaled, _f32(127.5))
    build.node("Gather", shifted, _i64(2, 1, 0), output="bgr", axis=1)


def _scores(build: _Builder, stride: int) -> str:
    """sqrt(class · objectness), both clipped to 0…1."""
    clipped = [
        build.node("Clip", f"{head}_{stride}", np.array(0, np.float32), np.array(1, np.float32))
        for head in ("cls", "obj")
    ]
    score = build.node("Sqrt", build.node("Mul", *clipped))
    none = build.node("Mul", score, _f32(0))
    return _two_anchors(build, [score, none], f"score_{stride}", 1)


def _boxes(build: _Builder, stride: int) -> str:
    """YuNet's centre offset and log size, in strides, as distances to the four sides."""
    centre = build.node("Slice", f"bbox_{stride}", _i64(0), _i64(2), _i64(2))
    log_size = build.node("Slice", f"bbox_{stride}", _i64(2), _i64(4), _i64(2))
    half = build.node("Mul", build.node("Exp", log_size), _f32(0.5))
    left_top = build.node("Sub", half, centre)
    right_bottom = build.node("Add", half, centre)
    return _two_anchors(build, [left_top, right_bottom] * 2, f"box_{stride}", 4)


def _landmarks(build: _Builder, stride: int) -> str:
    return _two_anchors(build, [f"kps_{stride}"] * 2, f"landmarks_{stride}", 10)


def _two_anchors(build: _Builder, parts: list[str], output: str, width: int) -> str:
    joined = build.node("Concat", *parts, axis=2)
    return build.node("Reshape", joined, _i64(-1, width), output=output)


def _f32(*values: float) -> Array:
    return np.array(values, np.float32)


def _i64(*values: int) -> Array:
    return np.array(values, np.int64)


def _image_input(name: str, height: int | str, width: int | str) -> Any:
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 3, height, width])


def _fold_weights(graph: Any) -> _Graph:
    constants: dict[str, Array] = {t.name: numpy_helper.to_array(t) for t in graph.initializer}
    kept = []
    for node in graph.node:
        if node.op_type == "DequantizeLinear" and node.input[0] in constants:
            constants[node.output[0]] = _dequantise(node, constants)
        elif node.op_type == "Reshape" and all(name in constants for name in node.input):
            constants[node.output[0]] = constants[node.input[0]].reshape(constants[node.input[1]])
        else:
            kept.append(node)
    return _Graph(kept, constants)


def _dequantise(node: Any, constants: dict[str, Array]) -> Array:
    """(x - zero point) · scale, one scale for every `block_size` entries along `axis` (ONNX operators, opset 21)."""
    x = constants[node.input[0]].astype(np.float32)
    scale, zero = (constants[name].astype(np.float32) for name in node.input[1:3])
    attributes = {a.name: helper.get_attribute_value(a) for a in node.attribute}
    axis, block = attributes["axis"], attributes["block_size"]
    entries = np.arange(x.shape[axis]) // block
    weights: Array = (x - zero.take(entries, axis)) * scale.take(entries, axis)
    return weights
