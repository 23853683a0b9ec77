"""Options that several commands share."""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from pets.errors import printable


class ProviderName(str, Enum):
    """Where the face models run."""

    auto = "auto"
    cuda = "cuda"
    cpu = "cpu"


Models = Annotated[
    Path | None, typer.Option(help="Folder with your own ONNX models; default: YuNet and SFace from PyPI.")
]
Provider = Annotated[ProviderName, typer.Option(help="Where the models run; auto uses CUDA if it works.")]
Dir = Annotated[Path, typer.Option("--dir", help="The node's folder.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON for machines.")]
Largest = Annotated[bool, typer.Option("--largest", help="If a photo shows several faces, use the largest.")]


def tell_several(several: Mapping[str, int]) -> None:
    """Name on standard error the photos that had several faces, of which the largest was taken."""
    errors = Console(stderr=True, markup=False, soft_wrap=True)
    for name, faces in several.items():
        errors.print(printable(f"{name}: {faces} faces, the largest was taken"), highlight=False)
