"""The operator is reminded of what was put aside: of nothing else, and no longer than it lies there."""

from __future__ import annotations

from datetime import datetime, timezone
from pathlib import Path

import pytest

from nodes.store.aside import put_aside

SINCE = 1_700_000_000


@pytest.fixture
def places(tmp_path: Path) -> tuple[Path, Path]:
    """A database and the folder of its templates, as a restore left them."""
    database, rows = tmp_path / "store.db", tmp_path / "store.db.rows"
    for name, size in (
        ("store.db", 7),
        (f"store.db.lost-{SINCE}", 2_000_000),
        (f"store.db.lost-{SINCE}-wal", 500_000),
        (f"store.db.rows.lost-{SINCE + 86400}/ab/block-0", 3000),
        (f"store.db.rows.lost-{SINCE + 86400}/ab/manifest", 500),
        (f"store.db.rows/lost-{SINCE + 1}/cd/block-0", 10),
        ("store.db.rows/0123456789abcdef/block-0", 7),
        ("store.db.rows/lost-and-found/block-0", 7),
        ("store.db.lost-", 7),
        ("other.db.lost-1", 7),
    ):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(bytes(size))
    return database, rows


def test_it_is_told_with_its_age_and_size(places: tuple[Path, Path], tmp_path: Path) -> None:
    found = put_aside(*places)
    assert [(Path(one.path).relative_to(tmp_path), one.bytes) for one in found] == [
        (Path(f"store.db.lost-{SINCE}"), 2_500_000),
        (Path(f"store.db.rows/lost-{SINCE + 1}"), 10),
        (Path(f"store.db.rows.lost-{SINCE + 86400}"), 3500),
    ]
    assert found[0].since == datetime(2023, 11, 14, 22, 13, 20, tzinfo=timezone.utc)
    assert str(found[0]) == f"{tmp_path}/store.db.lost-{SINCE}, since 2023-11-14, 2.5 MB"
    assert str(found[2]).endswith("since 2023-11-15, 3.5 kB")


def test_what_is_deleted_is_told_no_more(places: tuple[Path, Path], tmp_path: Path) -> None:
    for path in tmp_path.glob("store.db.lost-*"):
        path.unlink()
    assert len(put_aside(*places)) == 2
    assert put_aside(tmp_path / "nowhere" / "store.db") == []
