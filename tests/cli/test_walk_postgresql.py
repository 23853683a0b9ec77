"""The same walk where ES keeps its gallery in PostgreSQL: `walk-postgresql.txt` is what is printed otherwise there.

A file of its own, so that another worker runs it beside the first.
"""

from __future__ import annotations

import re
from collections import defaultdict, deque
from pathlib import Path

import psycopg
import pytest

from tests.cli.test_walk import BEFORE, HERE, take_templates, walked
from tests.kit.federation import free_ports
from tests.kit.postgres import PostgresServer
from tests.kit.walk import README, Walk, chunks, commands

pytestmark = pytest.mark.slow

STORE_README = README.parent / "nodes" / "store" / "README.md"


def test_the_walk_on_postgresql(tmp_path: Path, postgres: PostgresServer) -> None:
    """ES keeps its gallery there. What it prints is the same but for backup, loss and restore."""
    shell = {"PGHOST": str(postgres.folder), "PGUSER": "lineup"}
    walk = Walk(tmp_path, free_ports(4), shell, postgres.binaries)
    toml = tmp_path / "es" / "node.toml"
    dump, beside, *restore = commands("Backup and restore", of=STORE_README)

    def name_database(name: str) -> None:
        url = f'url = "postgresql://lineup@/{name}?host={postgres.folder}"'
        text, changed = re.subn(r'(?m)^(file = "store\.db"|url = "postgresql:)[^\n]*', url, toml.read_text())
        assert changed == 1
        toml.write_text(text)

    def instead(line: str) -> list[str]:
        if line.startswith("lineup enroll --dir es"):
            postgres.run("createdb", "lineup")
            name_database("lineup")
        if line == "lineup store backup --dir es es.backup":
            return [dump, beside]
        if line == "lineup store backup --dir es es.before-upgrade":
            return [dump.replace("es.backup lineup", "es.before-upgrade restored"), line]
        if line == "rm es/store.db":
            return ["dropdb lineup"]
        if line.startswith("lineup store restore"):
            name_database("restored")
            return restore
        return [line]

    def age(folder: Path) -> None:
        templates = take_templates(folder / "es")
        with psycopg.connect(f"host={postgres.folder} user=lineup dbname=restored") as database:
            database.cursor().executemany("UPDATE subject SET template = %s WHERE id = %s", templates)
            for statement in BEFORE:
                database.execute(statement.encode())

    known: dict[str, deque[str]] = defaultdict(deque)
    for command, printed in chunks((HERE / "walk.txt").read_text()):
        known[command].append(printed)
    differs = dict(chunks((HERE / "walk-postgresql.txt").read_text()))
    found = {}
    for command, printed in chunks(walked(walk, instead, age).replace(str(postgres.folder), "SOCKET")):
        if not known[command] or known[command].popleft() != printed:
            found[command] = printed
    assert found == differs
