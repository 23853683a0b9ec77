"""An embedder run on several aligned faces at once, where its network can take more than one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

BATCH = 16  # faces a call; more gains nothing on a CPU and little on a GPU
TOLERANCE = 1e-4  # of the largest entry: the order of sums on a GPU may differ with the number of faces

Image = NDArray[np.uint8]


class Batched:
    """`embedder`: insightface's. `size`: faces that it takes in one call, 1 if its network takes no more.

    Many files fix the number of faces at 1 in the shape of their input alone (the default model's does). Those run from
    a copy in memory without it. It is used only if it gives for two faces together what the file gives for each.
    """

    def __init__(self, embedder: Any) -> None:
        self._embedder = embedder
        self.size = BATCH if _agrees(embedder, embedder) else 1
        if self.size == 1 and (freed := _freed(embedder)) is not None and _agrees(freed, embedder):
            self._embedder, self.size = freed, BATCH

    def __call__(self, faces: Sequence[Image]) -> NDArray[np.float64]:
        """Raw outputs of at most `size` aligned faces, (n, d)."""
        return _run(self._embedder, faces)


def session_options() -> Any:
    """How onnxruntime runs a network: a thread that waits for its part of a layer gives its processor back.

    Spinning there, as onnxruntime does by itself, took twice the processor time and a third longer on two cores.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return options


def _run(embedder: Any, faces: Sequence[Image]) -> NDArray[np.float64]:
    return np.asarray(embedder.get_feat(list(faces)), np.float64).reshape(len(faces), -1)


def _agrees(several: Any, single: Any) -> bool:
    side = single.input_size[0]
    ramp = np.arange(3 * side * side, dtype=np.int64).reshape(side, side, 3)
    faces = [(ramp % 251).astype(np.uint8), (ramp // 7 % 239).astype(np.uint8)]
    alone = np.concatenate([_run(single, [face]) for face in faces])
    try:
        together = _run(several, faces)
    except Exception:  # onnxruntime has its own for a shape that a network does not take
        return False
    return together.shape == alone.shape and bool(np.abs(together - alone).max() <= TOLERANCE * np.abs(alone).max())


def _freed(embedder: Any) -> Any:
    """The embedder from its file without the number of faces; None if that file gives no network then."""
    import onnx
    import onnxruntime

    model = onnx.load(embedder.model_file)
    for value in (*model.graph.input, *model.graph.output):
        if len(value.type.tensor_type.shape.dim):
            value.type.tensor_type.shape.dim[0].dim_param = "faces"
    del model.graph.value_info[:]
    try:
        providers = embedder.session.get_providers()
        session = onnxruntime.InferenceSession(model.SerializeToString(), session_options(), providers=providers)
        return type(embedder)(model_file=embedder.model_file, session=session)
    except Exception:  # onnxruntime and protobuf have their own
        return None
