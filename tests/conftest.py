"""With `LINEUP_TEST_PRESET` set, only the files whose tests depend on the ring are collected (see tests/ring.py)."""

from __future__ import annotations

import os
import re
from pathlib import Path


def depends_on_ring(path: Path) -> bool:
    """Whether a file imports `tests.ring`, itself or through the helpers of this folder."""
    imported = set(re.findall(r"^from tests\.(\w+) import", path.read_text(), re.MULTILINE)) - {path.stem}
    helpers = (path.parent / f"{name}.py" for name in imported)
    return "ring" in imported or any(helper.exists() and depends_on_ring(helper) for helper in helpers)


def pytest_ignore_collect(collection_path: Path) -> bool | None:
    """Leave out what would only run again what has run already."""
    if "LINEUP_TEST_PRESET" not in os.environ or collection_path.suffix != ".py":
        return None
    return None if depends_on_ring(collection_path) else True
