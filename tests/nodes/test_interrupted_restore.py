"""A restore that another command comes between, or a kill: nothing that was written down is lost, and no template of a
database that was lost is deleted."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import pytest

from nodes.config.storage import holder_store
from nodes.evidence import ledger
from nodes.operator import database
from nodes.operator.database import LossRefused, backup, restore
from nodes.store import Status, StoreLocked, StoreLost
from nodes.store import backup as store_backup
from nodes.store.store import GalleryStore
from tests.kit.commands import run as run
from tests.kit.federation import ES, FR, Federation, found, people
from tests.nodes.test_database import NOW, QUERY, claimed
from tests.nodes.test_database import holder as holder
from tests.nodes.test_lost_store import (
    Killed,
    aside,
    enrol,
    exchange,
    file,
    remove,
    rows_of,
    scribble,
    start,
    truncate,
)

pytestmark = pytest.mark.slow

Holder = tuple[Path, tuple[str, ...], Path]
Write = Callable[[GalleryStore, tuple[str, ...]], Any]
LATER = b"\7" * 16

# What a command writes without a change of the gallery, and how it is told afterwards.
WRITES: dict[str, tuple[Write, Write]] = {
    "a look": (
        lambda store, names: store.consulted(names[3:4]),
        lambda store, names: [one.references for one in store.handled()].count(names[3:4]) == 1,
    ),
    "a claim": (
        lambda store, _: store.claim_query(LATER, bytes(32), NOW),
        lambda store, _: claimed(store, LATER),
    ),
    "a quota": (
        lambda store, _: store.take_quota(FR, Status.IDENTIFIED, NOW.date(), 10),
        lambda store, _: store.quota_used(FR, Status.IDENTIFIED, NOW.date()) == 2,
    ),
    "a release": (
        lambda store, names: store.take_releases(FR, names[:1], NOW.date(), 30),
        lambda store, names: store.take_releases(FR, (), NOW.date(), 30) == 5,
    ),
    "a loss": (
        lambda store, _: store.note_loss(NOW),
        lambda store, _: store.claims_lost_until == int(NOW.timestamp()),
    ),
}
MOMENTS = ["before it is read", "after it is read", "before it is replaced"]


def write_during(patch: pytest.MonkeyPatch, holder: Holder, moment: str, write: Write) -> None:
    """Another command comes between."""
    folder, references, _ = holder
    name = "replace_database" if moment == MOMENTS[2] else "carry_over"
    original = getattr(database, name)

    def between(*given: Any) -> Any:
        done = original(*given) if moment == MOMENTS[1] else None
        with holder_store(folder) as store:
            write(store, references)
        return original(*given) if done is None else done

    patch.setattr(database, name, between)


@pytest.mark.parametrize("moment", MOMENTS)
@pytest.mark.parametrize(("write", "told"), WRITES.values(), ids=WRITES)
def test_what_a_command_writes_during_a_restore_is_not_lost(
    holder: Holder, monkeypatch: pytest.MonkeyPatch, moment: str, write: Write, told: Write
) -> None:
    folder, references, source = holder
    with monkeypatch.context() as patch:
        write_during(patch, holder, moment, write)
        if moment == MOMENTS[0]:
            restore(folder, source, NOW)
        else:
            with pytest.raises(StoreLocked, match="was changed meanwhile: give the command again"):
                restore(folder, source, NOW)
    restore(folder, source, NOW)
    with holder_store(folder) as store:
        assert told(store, references)
        assert claimed(store, QUERY[0])


@pytest.mark.parametrize("moment", MOMENTS[1:])
@pytest.mark.parametrize(("write", "told"), WRITES.values(), ids=WRITES)
def test_control_if_only_changes_of_the_gallery_counted_it_would_be(
    holder: Holder, monkeypatch: pytest.MonkeyPatch, moment: str, write: Write, told: Write
) -> None:
    folder, references, source = holder
    state = store_backup._state
    monkeypatch.setattr(store_backup, "_state", lambda *given: state(*given)[:1])
    if moment == MOMENTS[1] and "consulted" in write.__code__.co_names:
        monkeypatch.setattr(database, "_handled", lambda _: [])  # else read later, and not lost
    write_during(monkeypatch, holder, moment, write)
    restore(folder, source, NOW)
    with holder_store(folder) as store:
        assert not told(store, references)


# The database is lost


@pytest.fixture
def federation(tmp_path: Path) -> Federation:
    """ES has run before: it knows what it had."""
    made = found(tmp_path / "nodes", people(rows=130))
    start(made)
    return made


LOST = {"gone": remove, "empty": truncate, "damaged": scribble, "another": exchange}


@pytest.mark.parametrize("loss", LOST.values(), ids=LOST)
def test_the_templates_of_a_database_that_was_lost_are_put_aside(
    loss: Callable[[Path], None], federation: Federation, tmp_path: Path
) -> None:
    backup(federation.folder(ES), tmp_path / "copy")
    enrol(federation, 2)
    (kept,) = (path.name for path in rows_of(federation).iterdir())
    loss(file(federation))
    result = restore(federation.folder(ES), tmp_path / "copy", NOW, yes=True)
    assert aside(federation) == [kept]
    assert kept not in {path.name for path in rows_of(federation).iterdir()}
    told = {Path(path).name.split(".lost-")[0] for path in result.aside}
    assert told == ({"store.db.rows"} if loss is remove else {"store.db", "store.db.rows"})
    assert all(Path(path).exists() for path in result.aside)
    start(federation)
    assert aside(federation) == [kept]


def test_two_losses_within_a_second_overwrite_nothing_that_was_put_aside(
    federation: Federation, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(time, "time", lambda: 2e9)
    backup(federation.folder(ES), tmp_path / "copy")
    for content in (b"first" * 5000, b"second" * 5000):
        file(federation).write_bytes(content)
        restore(federation.folder(ES), tmp_path / "copy", NOW, yes=True)
    scribble(file(federation))
    start(federation, accept_loss=True)
    kept = sorted(path for path in file(federation).parent.glob("store.db.lost-*") if path.suffix != ".db-wal")
    assert [path.read_bytes()[:6] for path in kept] == [b"firstf", b"second", b"SQLite"]


def test_the_command_says_what_was_put_aside(federation: Federation, tmp_path: Path, run: Any) -> None:
    backup(federation.folder(ES), tmp_path / "copy")
    remove(file(federation))
    _, _, err = run("store", "restore", "--dir", federation.folder(ES), tmp_path / "copy", "--yes")
    assert f"put aside: {rows_of(federation)}.lost-" in err
    assert "delete it once nothing more can be got from it" in err


def kill_before_it_is_put_aside(federation: Federation, copy: Path, patch: pytest.MonkeyPatch) -> str:
    """The backup is in place, and the templates of what was lost lie beside its own; gives their folder's name."""

    def killed(*_: object) -> None:
        raise Killed

    (kept,) = (path.name for path in rows_of(federation).iterdir())
    remove(file(federation))
    with patch.context() as killing:
        killing.setattr(GalleryStore, "put_unnamed_rows_aside", killed)
        with pytest.raises(Killed):
            restore(federation.folder(ES), copy, NOW, yes=True)
    return kept


def start_again(federation: Federation, copy: Path) -> None:
    assert start(federation)[1].reason == "restored"


def restore_again(federation: Federation, copy: Path) -> None:
    restore(federation.folder(ES), copy, NOW, yes=True)


def refuse_and_start(federation: Federation, copy: Path) -> None:
    """The next restore does nothing, as nobody said yes."""
    enrol(federation, 1)
    with pytest.raises(LossRefused):
        restore(federation.folder(ES), copy, NOW)
    start_again(federation, copy)


GOES_ON = [start_again, restore_again, refuse_and_start]


@pytest.mark.parametrize("goes_on", GOES_ON)
def test_a_restore_that_was_killed_deletes_no_template_of_the_database_that_was_lost(
    goes_on: Callable[[Federation, Path], None],
    federation: Federation,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    backup(federation.folder(ES), tmp_path / "copy")
    kept = kill_before_it_is_put_aside(federation, tmp_path / "copy", monkeypatch)
    goes_on(federation, tmp_path / "copy")
    assert aside(federation) == [kept]
    start(federation)
    assert aside(federation) == [kept]
    with holder_store(federation.folder(ES)) as store:
        assert store.claims_lost_until is not None


def test_a_database_that_is_in_use_for_a_moment_keeps_the_mark_of_a_restore_that_was_killed(
    federation: Federation, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    backup(federation.folder(ES), tmp_path / "copy")
    kept = kill_before_it_is_put_aside(federation, tmp_path / "copy", monkeypatch)

    def busy(_: str) -> bool:
        raise StoreLocked("the database was locked by somebody else")

    with monkeypatch.context() as patch:
        patch.setattr(database, "is_empty", busy)
        with pytest.raises(StoreLocked):
            restore(federation.folder(ES), tmp_path / "copy", NOW, yes=True)
    start_again(federation, tmp_path / "copy")
    assert aside(federation) == [kept]


@pytest.mark.parametrize("loss", LOST.values(), ids=LOST)
def test_a_restore_that_is_interrupted_once_the_backup_is_in_place_takes_nothing_back(
    loss: Callable[[Path], None], federation: Federation, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ctrl-C while the folder is brought to disk, say."""
    backup(federation.folder(ES), tmp_path / "copy")
    (kept,) = (path.name for path in rows_of(federation).iterdir())
    loss(file(federation))
    sync = store_backup.sync_folder

    def interrupted(folder: Path) -> None:
        sync(folder)
        if not store_backup.restoring(file(federation)).exists():
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(store_backup, "sync_folder", interrupted)
        with pytest.raises(KeyboardInterrupt):
            restore(federation.folder(ES), tmp_path / "copy", NOW, yes=True)
    lost = [path.read_bytes() for path in file(federation).parent.glob("store.db.lost-*") if path.is_file()]
    assert len(lost) == (0 if loss is remove else 1)
    content, entry, _ = start(federation)
    assert (content.rows, entry.reason) == (130, "restored")
    assert aside(federation) == [kept]


@pytest.mark.parametrize("goes_on", GOES_ON)
def test_control_where_it_left_no_mark_they_are_deleted(
    goes_on: Callable[[Federation, Path], None],
    federation: Federation,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    backup(federation.folder(ES), tmp_path / "copy")
    expect = ledger.expect
    with monkeypatch.context() as patch:
        patch.setattr(database, "expect", lambda logs, content, _: expect(logs, content))
        kill_before_it_is_put_aside(federation, tmp_path / "copy", patch)
    goes_on(federation, tmp_path / "copy")
    start(federation)
    assert aside(federation) == []


def test_a_backup_older_than_what_the_node_had_is_refused_after_a_kill_and_a_second_restore_is_not(
    federation: Federation, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    backup(federation.folder(ES), tmp_path / "copy")
    for rows in range(1, 5):
        enrol(federation, rows)
    start(federation)
    kept = kill_before_it_is_put_aside(federation, tmp_path / "copy", monkeypatch)
    with pytest.raises(StoreLost, match="an older state"):
        start(federation)
    restore(federation.folder(ES), tmp_path / "copy", NOW, yes=True)
    assert start(federation)[1].reason == "restored"
    assert aside(federation) == [kept]


def test_a_start_deletes_the_copies_of_a_backup_that_a_restore_left_when_it_was_killed(
    federation: Federation, tmp_path: Path
) -> None:
    """They hold who is forgotten since."""
    folder = federation.folder(ES)
    left = [folder / f".{name}-restoring{suffix}" for name in ("store.db", "casework.db") for suffix in ("", "-wal")]
    for path in left:
        path.write_bytes(b"everybody")
    other = folder / ".other.db-restoring"
    other.touch()
    start(federation)
    assert not any(path.exists() for path in left)
    assert other.exists()


def test_a_second_restore_of_a_killed_one_brings_nobody_back(
    federation: Federation, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    backup(federation.folder(ES), tmp_path / "copy")
    gone = federation.references[ES][7]
    with holder_store(federation.folder(ES)) as store:
        store.forget(gone, datetime.now(timezone.utc))
    kill_before_it_is_put_aside(federation, tmp_path / "copy", monkeypatch)
    restore(federation.folder(ES), tmp_path / "copy", NOW, yes=True)
    with holder_store(federation.folder(ES)) as store:
        assert gone not in store.snapshot(NOW).references
        assert gone in store.deletions()
