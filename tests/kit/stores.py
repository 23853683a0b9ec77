"""Gallery stores for tests: the same test bodies on SQLite and on a PostgreSQL server of the tests' own."""

from __future__ import annotations

import atexit
import hashlib
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import date, datetime, timezone
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sqlalchemy import create_engine, text

from nodes.store import Category, Status, StorageKey
from nodes.store.store import GalleryStore
from pets.params import norm_bound
from tests.kit.postgres import PostgresServer

DIM = 64
MODEL = bytes(range(32))
NOW = datetime(2026, 5, 4, 12, tzinfo=timezone.utc)
TODAY = NOW.date()
LATER = date(2031, 1, 1)
KEY = StorageKey(b"k" * 32)
LAW = dict.fromkeys(Category, "National Act 1/2025, section 3")


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """An empty database."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/store.db"
    server: PostgresServer = request.getfixturevalue("postgres")
    return server.new_schema()


@pytest.fixture
def sqlite_url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path}/store.db"


def rows_folder(url: str) -> Path | None:
    """Where the templates of a store lie: beside an SQLite file, which is the default; else one folder a database."""
    if url.startswith("sqlite:"):
        return None
    place = _rows_folders() / hashlib.sha256(url.encode()).hexdigest()
    place.mkdir(mode=0o700, exist_ok=True)
    return place


@cache
def _rows_folders() -> Path:
    folder = tempfile.TemporaryDirectory(prefix="lineup-rows-")
    atexit.register(folder.cleanup)
    return Path(folder.name)


def open_store(url: str, key: StorageKey = KEY, **options: Any) -> GalleryStore:
    return GalleryStore(url, key, state="ES", **{"rows": rows_folder(url), **options})


@pytest.fixture
def store(url: str) -> Iterator[GalleryStore]:
    with open_store(url) as opened:
        yield opened


def templates(rows: int, dim: int = DIM, seed: int = 0) -> np.ndarray[Any, np.dtype[np.int8]]:
    wide = np.random.default_rng(seed).standard_normal((rows, dim))
    unit = wide / np.linalg.norm(wide, axis=1, keepdims=True)
    scaled: np.ndarray[Any, np.dtype[np.int8]] = (
        np.rint(unit * norm_bound(dim) ** 0.5 * 0.9).clip(-127, 127).astype(np.int8)
    )
    return scaled


WHAT: dict[str, Any] = {
    "category": Category.SUSPECT,
    "status": Status.IDENTIFIED,
    "retain_until": LATER,
    "model": MODEL,
}


def enrol_one(store: GalleryStore, seed: int = 0, photo: bytes | None = None, **changes: Any) -> str:
    return store.enrol(photo, templates(1, seed=seed)[0], **{**WHAT, **changes})


def sql(url: str, statement: str, **values: object) -> list[Any]:
    """Go behind the store's back."""
    engine = create_engine(url.replace("postgresql:", "postgresql+psycopg:"))
    try:
        with engine.begin() as connection:
            result = connection.execute(text(statement), values)
            return list(result) if result.returns_rows else []
    finally:
        engine.dispose()


@contextmanager
def enrolling(store: GalleryStore) -> Iterator[None]:
    stop = threading.Event()

    def work() -> None:
        while not stop.is_set():
            store.enrol_many(templates(64), **WHAT)

    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def database_name(url: str) -> str:
    return url.split("/")[3].split("?")[0]
