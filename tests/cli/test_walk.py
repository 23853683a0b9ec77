"""The README's walk through the life of nodes, word for word: what it says to type, and what its reader then reads.

`walk.txt` is what is printed on SQLite; `test_walk_postgresql.py` is the same walk on PostgreSQL. After a meant change,
`python -m tests.cli.test_walk` prints it anew.
"""

from __future__ import annotations

import re
import shutil
import sqlite3
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import closing
from datetime import datetime, timezone
from pathlib import Path

import numpy as np
import pytest
from sqlalchemy import select

from nodes.cli.demo_photos import demo_photos
from nodes.config.schema import load_config
from nodes.config.storage import open_store, rows_folder
from nodes.config.storage_key import storage_key
from nodes.service.gossip import PAUSE_SECONDS
from nodes.store.tables import ModelRow, SubjectRow
from tests.kit.federation import free_ports
from tests.kit.walk import Walk, commands

pytestmark = pytest.mark.slow

HERE = Path(__file__).parent
SECTIONS = "Running nodes", "Evidence"
# The last block of each section is not part of the walk, as the README says.
NOT_WALKED = re.compile(
    r"lineup (node (status|statistics|hold)|gallery log|store (rekey|compact)|evidence (key|hold))\b"
)
# What a node's node.toml says in place of what `node init` wrote, as README tells, so that less is waited for.
CHANGED = {
    "es": ("clock_skew_seconds", 2),  # so long a node distrusts warrants after a loss
    "fr": ("ready", 1),
}


def lay_out(folder: Path) -> None:
    """Photos of two people for ES, one more of the first for DE, and the probe."""
    photos = demo_photos()
    for target, photo in (
        ("people/one.jpg", photos.obama2),
        ("people/other.jpg", photos.biden),
        ("more/same.jpg", photos.obama3),
        ("probe.jpg", photos.obama),
    ):
        (folder / target).parent.mkdir(exist_ok=True)
        shutil.copy(photo, folder / target)


DROPS = [
    f"ALTER TABLE {table} DROP COLUMN {column}"
    for table, column in (("subject", "enrolled"), ("photo", "name"), ("further_photo", "name"))
]
BEFORE = (  # as the version before left a database
    *DROPS,
    "DROP INDEX ix_subject_reference",
    "ALTER TABLE subject DROP COLUMN numbered",
    "ALTER TABLE store DROP COLUMN reference_key",
    "DROP TABLE handling",
    "DROP TABLE gone_row",
    "DROP INDEX ix_subject_model_id_row",
    *(f'ALTER TABLE subject DROP COLUMN "{column}"' for column in ("row", "tie")),
    *(f"ALTER TABLE model DROP COLUMN {column}" for column in ("folder", "line", "generation", "next_row")),
    "ALTER TABLE store DROP COLUMN changing",
    "UPDATE alembic_version SET version_num = '0005'",
)


def take_templates(folder: Path) -> list[tuple[bytes, int]]:
    """Sealed as the version before kept them in the database, with the numbers of their subjects; the files go."""
    config = load_config(folder)
    key, found = storage_key(config), []
    with open_store(config) as store, store._database.reading() as session:
        for subject, model in session.execute(select(SubjectRow, ModelRow).join(ModelRow)).all():
            rows, _ = store._rows.read(model, np.array([subject.row], np.int64))
            sealed = key.seal(rows[0].tobytes(), "template", subject.reference, model.digest)
            found.append((sealed, subject.id))
    shutil.rmtree(rows_folder(config))
    return found


def age_sqlite(folder: Path) -> None:
    """What an upgrade finds."""
    templates = take_templates(folder / "es")
    with closing(sqlite3.connect(folder / "es" / "store.db")) as database, database:
        database.executemany("UPDATE subject SET template = ? WHERE id = ?", templates)
        for statement in BEFORE:
            database.execute(statement)


def configure(folder: Path, key: str, value: int) -> None:
    toml = folder / "node.toml"
    text, changed = re.subn(rf"(?m)^{key} = \d+", f"{key} = {value}", toml.read_text())
    assert changed == 1
    toml.write_text(text)


def walked(walk: Walk, instead: Callable[[str], list[str]], old: Callable[[Path], None]) -> str:
    """Run all commands of the walk; gives the transcript. `instead`: what is typed in place of a line."""
    lay_out(walk.folder)
    try:
        for line in commands(*SECTIONS):
            if NOT_WALKED.search(line):
                continue
            for typed in instead(line):
                if "evidence export" in typed:
                    time.sleep(5 * PAUSE_SECONDS)  # by then the nodes have shown each other their logs after the query
                printed = walk.run(typed)
                if made := re.match(r"lineup node init --dir (es|fr)\b", typed):
                    configure(walk.folder / made[1], *CHANGED[made[1]])
                if until := re.search(r"queries asked until (\S+ \S+) UTC are refused", printed):
                    refused = datetime.strptime(until[1], "%Y-%m-%d %H:%M:%S").replace(tzinfo=timezone.utc).timestamp()
                    time.sleep(max(0.0, refused + 1 - time.time()))
                if "install the new version" in typed:
                    old(walk.folder)
        return "\n".join(walk.said) + "\n"
    finally:
        walk.close()


def on_sqlite(folder: Path) -> str:
    return walked(Walk(folder, free_ports(4)), lambda line: [line], age_sqlite)


def test_the_walk_on_sqlite(tmp_path: Path) -> None:
    assert on_sqlite(tmp_path) == (HERE / "walk.txt").read_text()


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as made:
        sys.stdout.write(on_sqlite(Path(made)))
