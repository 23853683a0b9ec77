"""Options that several commands share."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import Annotated

import typer


class ProviderName(str, Enum):
    """Where the face models run."""

    auto = "auto"
    cuda = "cuda"
    cpu = "cpu"


Models = Annotated[
    Path | None, typer.Option(help="Folder with your own ONNX models; default: YuNet and SFace from PyPI.")
]
Provider = Annotated[ProviderName, typer.Option(help="Where the models run. auto takes CUDA if it really works.")]
Dir = Annotated[Path, typer.Option("--dir", help="The node's folder.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON for machines.")]
Largest = Annotated[bool, typer.Option("--largest", help="With several faces, take the largest.")]
