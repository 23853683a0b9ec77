"""Every database of a test run compiles its statements for itself; tests open thousands. Here they share them.

SQLAlchemy keeps compiled statements by engine, under keys that hold the engine's dialect. Dialects of one kind that are
set up alike compile alike, so `share_compiled_statements` has them count as equal, and gives each kind one store.
Those that make a new database's tables and indexes it does not keep at all: here it does.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from sqlalchemy import Engine
from sqlalchemy.engine.default import DefaultDialect
from sqlalchemy.schema import CreateIndex, CreateTable
from sqlalchemy.util import LRUCache

STATEMENTS = 2_000


def share_compiled_statements() -> None:
    """From now on, in this process."""
    shared: LRUCache[Any, Any] = LRUCache(STATEMENTS)
    Engine._compiled_cache = property(lambda _: shared, lambda _, own: None)  # type: ignore[assignment]
    DefaultDialect.__eq__ = lambda one, other: _kind(one) == _kind(other)  # type: ignore[method-assign]
    DefaultDialect.__hash__ = lambda one: hash(_kind(one))  # type: ignore[method-assign, assignment]
    for kind in (CreateTable, CreateIndex):
        kind.compile = _shared(kind.compile)  # type: ignore[method-assign]


def _shared(compile_: Callable[..., Any]) -> Callable[..., Any]:
    made: dict[Any, Any] = {}

    def compile_once(self: Any, bind: Any = None, dialect: Any = None, **options: Any) -> Any:
        unusual = dialect is None or any(options.values()) or getattr(self, "include_foreign_key_constraints", None)
        key = self.element, dialect, self.if_not_exists
        if unusual:
            return compile_(self, bind, dialect, **options)
        if key not in made:
            made[key] = compile_(self, bind, dialect, **options)
        return made[key]

    return compile_once


def _kind(dialect: Any) -> tuple[object, ...]:
    return type(dialect), getattr(dialect, "paramstyle", ""), getattr(dialect, "server_version_info", None)
