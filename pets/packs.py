"""Which file of a folder of ONNX networks is the detector and which the embedder, before anything is run."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from pets.errors import ModelError

DETECTOR_OUTPUTS = 6  # scores and boxes at three strides; with landmarks nine
NEEDED = (
    "needed are one detector with 5 landmarks (SCRFD's outputs) and one embedder with a single output and an input of "
    "3 x 112 x 112, or multiples of 112 or 128 pixels"
)
Shape = tuple[int | None, ...]  # None: any


@dataclass(frozen=True)
class Network:
    """What a file says of itself."""

    name: str
    inputs: tuple[Shape, ...]
    outputs: int

    @property
    def detects(self) -> bool:
        """Whether it has a detector's number of outputs."""
        return self.outputs >= DETECTOR_OUTPUTS

    @property
    def embeds(self) -> bool:
        """Whether it takes one aligned face and gives one vector. 192 pixels are those of landmark networks."""
        if self.outputs != 1 or len(self.inputs) != 1 or len(self.inputs[0]) != 4:
            return False
        _, channels, height, width = self.inputs[0]
        side = height or 0
        return channels == 3 and height == width and side >= 112 and not (side % 112 and side % 128)

    def __str__(self) -> str:
        shapes = ", ".join(" x ".join("?" if size is None else str(size) for size in shape) for shape in self.inputs)
        return f"{self.name} (input {shapes}; {self.outputs} output{'' if self.outputs == 1 else 's'})"


def check_pack(folder: Path) -> None:
    """Raise `ModelError` unless a folder holds exactly one detector and one embedder; other networks may lie beside."""
    networks = [_read(path) for path in sorted(folder.glob("*.onnx"))]
    listed = "; ".join(map(str, networks))
    for what, found in (
        ("face detector", [network for network in networks if network.detects]),
        ("face embedder", [network for network in networks if network.embeds]),
    ):
        if not found:
            raise ModelError(f"{folder} has no {what} among its ONNX files: {listed}; {NEEDED}")
        if len(found) > 1:
            names = " and ".join(network.name for network in found)
            raise ModelError(f"{folder} has more than one {what}: {names}; leave one there")


def _read(path: Path) -> Network:
    import onnx

    try:
        graph = onnx.load(path, load_external_data=False).graph
    except Exception as error:  # protobuf has its own
        raise ModelError(f"{path} cannot be loaded: it is not an ONNX file ({type(error).__name__})") from error
    weights = {weight.name for weight in graph.initializer}
    inputs = tuple(
        tuple(size.dim_value or None for size in value.type.tensor_type.shape.dim)
        for value in graph.input
        if value.name not in weights  # older files list weights as inputs
    )
    return Network(path.name, inputs, len(graph.output))
