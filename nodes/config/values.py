"""What every part of a configuration is made of: closed sections, and the error that names a wrong value.

`ConfigError` (a pets.errors.InputError).
"""

from __future__ import annotations

from decimal import Decimal
from enum import Enum
from pathlib import Path

import msgspec

from pets.errors import InputError

_SECRET_FIELDS = ("storage.url",)  # somebody may have put a password there: never repeated in a message


class ConfigError(InputError):
    """A value that a node does not start with. `where`: file and line, once known."""

    def __init__(self, field: str, value: object, limit: str, where: str = "") -> None:
        self.field, self.value, self.limit = field, value, limit
        shown = "…" if field in _SECRET_FIELDS else _shown(value)
        super().__init__(f"{where}{field} = {shown}: {limit}")
        self._where = where

    def __reduce__(self) -> tuple[type[ConfigError], tuple[str, object, str, str]]:
        """So that a machine of a cluster can tell another."""
        return type(self), (self.field, self.value, self.limit, self._where)


class Section(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A closed table of node.toml."""


def within(field: str, value: int, low: int, high: int) -> None:
    """Raise `ConfigError` unless low <= value <= high."""
    if not low <= value <= high:
        raise ConfigError(field, value, f"must be from {low} to {high}")


def once(field: str, values: tuple[object, ...]) -> None:
    """Raise `ConfigError` for a value that is named twice."""
    if len(set(values)) != len(values):
        raise ConfigError(field, values, "each value may be given only once")


def _shown(value: object) -> str:
    if isinstance(value, Enum):
        return repr(value.value)
    if isinstance(value, (tuple, list)):
        return f"[{', '.join(_shown(item) for item in value)}]"
    text = str(value) if isinstance(value, (Decimal, Path)) else repr(value)
    return text if len(text) <= 200 else text[:200] + "…"
