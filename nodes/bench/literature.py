"""Published figures, from a table of them."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

from nodes.bench.engine import REVEALS
from pets.errors import InputError

COLUMNS = ("name", "seconds_per_million", "derived", "reveals", "leaks", "hardware", "offline_share", "comparable",
           "source")  # fmt: skip


def read_literature(path: Path) -> list[dict[str, Any]]:
    """The rows of a CSV file with `COLUMNS`; an empty `seconds_per_million` is None. Raises `InputError`."""
    try:
        with path.open(newline="", encoding="utf-8") as stream:
            reader = csv.DictReader(stream)
            if tuple(reader.fieldnames or ()) != COLUMNS:
                raise InputError(f"{path} must have the columns {', '.join(COLUMNS)}, got {reader.fieldnames}")
            rows = list(reader)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{path} cannot be read: {error}") from error
    found: list[dict[str, Any]] = []
    for line, row in enumerate(rows, start=2):
        if row["reveals"] not in REVEALS or not row["source"]:
            raise InputError(f"line {line} of {path}: reveals must be one of {', '.join(REVEALS)}, with a source")
        text = row["seconds_per_million"]
        try:
            seconds = float(text) if text else None
        except ValueError:
            raise InputError(f"line {line} of {path}: seconds_per_million must be a number, got {text!r}") from None
        found.append({**row, "seconds_per_million": seconds})
    return found
