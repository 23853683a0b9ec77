"""Backup, restore and change of key of a node's database: nobody forgotten comes back, no query is answered twice."""

from __future__ import annotations

import asyncio
import shutil
import sqlite3
import stat
import tempfile
from collections.abc import Iterator
from contextlib import closing, contextmanager
from datetime import datetime, timedelta, timezone
from functools import cache
from pathlib import Path
from threading import Thread
from time import sleep
from typing import Any

import numpy as np
import pytest

from nodes.casework.desk import CaseDesk
from nodes.config.schema import PolicyConfig, Role, load_config
from nodes.config.storage import holder_store, open_store
from nodes.config.storage_key import storage_key
from nodes.evidence import sealed, under_way
from nodes.evidence.archive import Archive
from nodes.evidence.sealed import SealedProbe
from nodes.identity.identity import init_node, load_identity
from nodes.logs.entries import ArticleForty
from nodes.operator import database
from nodes.operator.database import LossRefused, backup, in_postgresql, rekey, restore
from nodes.service.known_store import open_known_store
from nodes.store import (
    Category,
    QueryReplayed,
    Status,
    StorageKey,
    StorageKeyError,
    StoreCorrupted,
    StoreError,
    StoreFull,
    StoreLocked,
    StoreRefusal,
    StoreUnavailable,
    WrongStorageKey,
)
from nodes.store import backup as store_backup
from nodes.store.backup import replace_database
from nodes.store.database import is_empty
from nodes.store.store import GalleryStore
from pets.errors import InputError
from protocol.terms import SYNTHETIC_MODEL
from tests.kit.casework import staffed
from tests.kit.federation import ES, FR, found, request
from tests.kit.galleries import unit_rows
from tests.kit.network import AsgiNetwork, running
from tests.kit.postgres import PostgresServer, find_binaries, why_not

pytestmark = pytest.mark.slow

NOW = datetime(2026, 5, 4, 12, tzinfo=timezone.utc)
YESTERDAY = NOW - timedelta(days=1)
SKEW = timedelta(seconds=PolicyConfig().clock_skew_seconds)
WHAT: dict[str, Any] = {
    "category": Category.SUSPECT,
    "status": Status.IDENTIFIED,
    "retain_until": NOW.date() + timedelta(days=400),
    "model": SYNTHETIC_MODEL,
}
OLD, NEW = bytes(16), bytes(range(16))
QUERY = (b"\1" * 16, b"\2" * 32, FR, Status.UNIDENTIFIED, 10)


def make(folder: Path, rows: int = 6) -> tuple[str, ...]:
    """A holder with subjects; their references."""
    init_node(folder, name=ES, role=Role.HOLDER, address="https://127.0.0.1:9", authority=folder.parent / "ca")
    with holder_store(folder) as store:
        return store.enrol_many(unit_rows(np.random.default_rng(2), rows, 64), **WHAT).references


def claimed(store: GalleryStore, query: bytes) -> bool:
    try:
        store.claim_query(query, bytes(32), NOW)
    except QueryReplayed:
        return True
    return False


@pytest.fixture
def holder(tmp_path: Path) -> tuple[Path, tuple[str, ...], Path]:
    """A folder, its references, and a backup; since then somebody was forgotten and contested, and queries answered."""
    made, references = _made()
    shutil.copytree(made.name, tmp_path, dirs_exist_ok=True)
    folder = tmp_path / "es"
    settings = folder / "node.toml"
    settings.write_text(settings.read_text().replace(made.name, str(tmp_path)))
    return folder, references, tmp_path / "backup.db"


@cache
def _made() -> tuple[tempfile.TemporaryDirectory[str], tuple[str, ...]]:
    """What every `holder` is a copy of, until this process ends."""
    place = tempfile.TemporaryDirectory(prefix="lineup-holder-")
    folder = Path(place.name) / "es"
    references = make(folder)
    with holder_store(folder) as store:
        store.claim_query(b"\4" * 16, bytes(32), YESTERDAY)
        store.take_quota(FR, Status.IDENTIFIED, YESTERDAY.date(), 10)
        store.take_releases(FR, references[:1], YESTERDAY.date(), 30)
        backup(folder, Path(place.name) / "backup.db")
        store.forget(references[1], NOW)
        store.flag_contested(references[2], NOW)
        for day in (YESTERDAY, YESTERDAY, NOW):
            store.take_quota(FR, Status.IDENTIFIED, day.date(), 10)
            store.take_releases(FR, references[:1], day.date(), 30)
        store.admit_query(*QUERY, NOW)
    return place, references


def test_a_restore_brings_nobody_back_and_forgets_no_answer(
    holder: tuple[Path, tuple[str, ...], Path],
) -> None:
    folder, references, file = holder
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    with holder_store(folder) as store:
        before = store.generation
    result = restore(folder, file, NOW)
    assert (result.subjects, result.forgotten_again, result.lost, result.refuses_until) == (5, 1, (), None)
    with holder_store(folder) as store:
        assert store.snapshot(NOW).references == references[:1] + references[2:]
        assert store.generation > before  # what was derived from the old one is stale
        assert [name for name in references[2:] if store.subject(name).contested] == [references[2]]
        assert [event.authority for event in store.contested_history(references[2])] == [None]
        assert store.quota_used(FR, Status.IDENTIFIED, YESTERDAY.date()) == 3
        assert store.quota_used(FR, Status.IDENTIFIED, NOW.date()) == 1
        assert store.take_releases(FR, (), NOW.date(), 30) == 4
        assert claimed(store, QUERY[0])
        assert claimed(store, b"\4" * 16)
        assert not claimed(store, b"\5" * 16)
    assert sorted(path.name for path in folder.glob("*store*")) == ["store.db", "store.db.rows"]
    assert len(list((folder / "store.db.rows").iterdir())) == 1, "the folder that was replaced is deleted"


def test_a_mark_that_was_cleared_since_a_backup_comes_back_with_it(tmp_path: Path) -> None:
    folder = tmp_path / "es"
    (name, *_) = make(folder)
    with holder_store(folder) as store:
        store.flag_contested(name, YESTERDAY)
        backup(folder, tmp_path / "backup.db")
        store.clear_contested(name, "BfDI decision 17/2026", NOW)
        assert not store.subject(name).contested
    assert restore(folder, tmp_path / "backup.db", NOW).lost == ()
    with holder_store(folder) as store:
        assert store.subject(name).contested
        assert [one.act for one in store.handled()] == ["enrol", "contest", "clear"], "who cleared it is known"


def test_control_a_bare_copy_brings_them_back_and_answers_again(holder: tuple[Path, tuple[str, ...], Path]) -> None:
    folder, references, file = holder
    shutil.rmtree(folder / "store.db.rows")
    shutil.copyfile(file, folder / "store.db")
    shutil.copytree(file.with_name("backup.db.rows"), folder / "store.db.rows")
    with holder_store(folder) as store:
        assert references[1] in store.snapshot(NOW).references
        assert not claimed(store, QUERY[0])


def test_a_store_restored_from_an_earlier_backup_says_of_whom_it_knows_nothing(tmp_path: Path) -> None:
    folder, first, second = tmp_path / "es", tmp_path / "first", tmp_path / "second"
    make(folder)
    backup(folder, first)
    with holder_store(folder) as store:
        (gone,) = store.enrol_many(unit_rows(np.random.default_rng(5), 1, 64), **WHAT).references
        backup(folder, second)
        store.forget(gone, NOW)
    for suffix in ("", "-wal", "-shm"):
        Path(f"{folder / 'store.db'}{suffix}").unlink(missing_ok=True)
    restore(folder, first, NOW, yes=True)
    with holder_store(folder) as store:
        for _ in range(4):
            store.consulted([gone])
    with pytest.raises(LossRefused, match="whether 1 subjects of the backup, of whom the present store knows nothing"):
        restore(folder, second, NOW)
    assert restore(folder, second, NOW, yes=True).subjects == 7, "the control: the person is back"
    assert restore(folder, second, NOW).lost == (), "now it knows everybody"
    with holder_store(folder) as store:
        assert store.handled(), "two logs that went on apart can be read as one"


@pytest.mark.parametrize("damage", ["missing", "damaged"])
def test_a_backup_with_a_damaged_block_takes_no_sound_template_s_place(damage: str, tmp_path: Path) -> None:
    folder, file = tmp_path / "es", tmp_path / "backup.db"
    references = make(folder)
    backup(folder, file)
    (block,) = file.with_name("backup.db.rows").glob("*/block-*")
    content = bytearray(block.read_bytes())
    block.unlink()  # the present gallery has the same file under its own name
    if damage == "damaged":
        content[100] ^= 1
        block.write_bytes(content)
    before = {path.name for path in (folder / "store.db.rows").iterdir()}
    with pytest.raises(StoreCorrupted, match=block.name):
        restore(folder, file, NOW, yes=True)
    assert {path.name for path in (folder / "store.db.rows").iterdir()} == before
    with holder_store(folder) as store:
        assert store.snapshot(NOW).references == references


def test_a_restore_says_what_it_would_lose_and_waits_for_a_yes(holder: tuple[Path, tuple[str, ...], Path]) -> None:
    folder, _, file = holder
    with holder_store(folder) as store:
        store.enrol_many(unit_rows(np.random.default_rng(3), 2, 64), **WHAT)
    with pytest.raises(LossRefused, match="2 subjects enrolled since the backup: give --yes"):
        restore(folder, file, NOW)
    with holder_store(folder) as store:
        assert store.count() == 7
    assert restore(folder, file, NOW, yes=True).lost == ("2 subjects enrolled since the backup",)


def damage_table(file: Path, table: str) -> None:
    """Overwrite the page where a table begins: the database opens, and reading that table fails."""
    with closing(sqlite3.connect(file)) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        (page,) = connection.execute("SELECT rootpage FROM sqlite_master WHERE name = ?", (table,)).fetchone()
        (size,) = connection.execute("PRAGMA page_size").fetchone()
    with file.open("r+b") as stream:
        stream.seek((page - 1) * size)
        stream.write(b"\xff" * size)


@pytest.mark.parametrize("how", ["lost", "damaged", "damaged inside"])
def test_without_the_present_store_older_warrants_are_refused(
    how: str, holder: tuple[Path, tuple[str, ...], Path], tmp_path: Path
) -> None:
    folder, references, file = holder
    if how == "lost":
        (folder / "store.db").unlink()
    elif how == "damaged":
        (folder / "store.db").write_bytes(b"no database" * 5000)
    else:
        damage_table(folder / "store.db", "deletion")
    with pytest.raises(LossRefused, match="forgotten and answered since the backup"):
        restore(folder, file, NOW)
    result = restore(folder, file, NOW, yes=True)
    assert (result.subjects, result.forgotten_again, result.refuses_until) == (5, 1, NOW + SKEW)
    with holder_store(folder) as store:
        assert store.claims_lost_until == int(NOW.timestamp())
        assert references[1] not in store.snapshot(NOW).references, "the templates of the lost store tell"
        assert store.forget(references[1], NOW + timedelta(days=1)).time == NOW, "told to forget again: a receipt"
    # a second restore, with a store that is readable, keeps the note of the loss; of two losses, the later
    assert restore(folder, file, NOW + timedelta(hours=1)).refuses_until == NOW + SKEW
    backup(folder, tmp_path / "second.db")
    (folder / "store.db").unlink()
    later = NOW + timedelta(hours=2)
    assert restore(folder, tmp_path / "second.db", later, yes=True).refuses_until == later + SKEW
    assert restore(folder, tmp_path / "second.db", NOW + timedelta(hours=3)).refuses_until == later + SKEW


@contextmanager
def failing(folder: Path, patch: pytest.MonkeyPatch, how: str) -> Iterator[None]:
    """The present store cannot be read for a moment."""
    if how == "locked when opened":
        opened = database.open_store

        def locked(config: Any, *, look: bool = True, **more: Any) -> Any:
            if look:
                return opened(config, **more)
            with closing(sqlite3.connect(folder / "store.db", isolation_level=None)) as writer:
                writer.execute("BEGIN IMMEDIATE")
                return GalleryStore(
                    f"sqlite:///{folder / 'store.db'}", storage_key(config), state=ES, look=False, lock_seconds=0.2
                )

        patch.setattr(database, "open_store", locked)
    else:

        def fails(*_: object) -> Any:
            raise sqlite3.OperationalError(how)

        patch.setattr(store_backup, "_carry_over", fails)
    yield


FOR_NOW = {
    "locked when opened": StoreUnavailable,
    "database is locked": StoreLocked,
    "database or disk is full": StoreFull,
    "disk I/O error": StoreUnavailable,
}


@pytest.mark.parametrize(("how", "error"), FOR_NOW.items(), ids=FOR_NOW)
def test_a_sound_store_that_cannot_be_read_for_a_moment_is_not_lost(
    how: str, error: type[StoreError], holder: tuple[Path, tuple[str, ...], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, references, file = holder
    with monkeypatch.context() as patch, failing(folder, patch, how), pytest.raises(error):
        restore(folder, file, NOW, yes=True)
    with holder_store(folder) as store:
        assert references[1] in store.deletions(), "it is the present one still"
    assert restore(folder, file, NOW).lost == ()


def test_a_damaged_log_in_the_backup_is_not_blamed_on_the_present_store(
    holder: tuple[Path, tuple[str, ...], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, references, file = holder

    def damaged(*_: object) -> None:
        raise StoreCorrupted("an entry of the handling log is not what was written")

    with monkeypatch.context() as patch:
        patch.setattr(GalleryStore, "add_handling", damaged)
        with pytest.raises(StoreCorrupted):
            restore(folder, file, NOW, yes=True)
    with holder_store(folder) as store:
        assert references[1] in store.deletions(), "nothing was changed"


def test_a_store_that_is_damaged_is_put_aside_with_its_templates(holder: tuple[Path, tuple[str, ...], Path]) -> None:
    folder, _, file = holder
    (folder / "store.db").write_bytes(b"no database" * 5000)
    (templates,) = (folder / "store.db.rows").iterdir()
    restore(folder, file, NOW, yes=True)
    (kept,) = (path for path in folder.glob("store.db.lost-*") if not path.name.endswith("-wal"))
    assert kept.read_bytes() == b"no database" * 5000
    (away,) = folder.glob("store.db.rows.lost-*/*")
    assert away.name == templates.name
    with holder_store(folder) as store:
        assert store.verify().rows == 5


def test_of_two_losses_the_later_counts_even_if_a_clock_was_set_back(
    holder: tuple[Path, tuple[str, ...], Path],
) -> None:
    folder, _, _ = holder
    with holder_store(folder) as store:
        for moment in (NOW, NOW - timedelta(hours=1)):
            store.note_loss(moment)
            assert store.claims_lost_until == int(NOW.timestamp())
        store.note_loss(NOW + timedelta(hours=1))
        assert store.claims_lost_until == int(NOW.timestamp()) + 3600


def test_a_node_refuses_what_it_may_have_answered_before_a_loss(tmp_path: Path) -> None:
    federation = found(tmp_path)
    wanted = request(federation.people.hit, (ES,))

    async def body() -> tuple[str, str | None]:
        async with running(AsgiNetwork(federation)) as network:
            answer = (await network.search(wanted)).answers[ES]
            return answer.status, answer.reason

    assert asyncio.run(body()) == ("candidates", None)
    for ago, expected in ((3600, ("candidates", None)), (0, ("refused", "replay"))):
        with holder_store(federation.folder(ES)) as store:
            store.note_loss(datetime.now(timezone.utc) - timedelta(seconds=ago))
        assert asyncio.run(body()) == expected


def test_a_store_that_is_in_use_is_not_replaced(
    holder: tuple[Path, tuple[str, ...], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, _, file = holder
    content = (folder / "store.db").read_bytes()
    with holder_store(folder) as enrolling:
        assert enrolling.count() == 5
        with pytest.raises(StoreLocked, match="in use"):
            restore(folder, file, NOW)
    assert (folder / "store.db").read_bytes()[100:] == content[100:]
    assert not list(folder.glob(".store*"))
    assert len(list((folder / "store.db.rows").iterdir())) == 1
    restore(folder, file, NOW)


def test_a_running_node_is_neither_restored_nor_rekeyed(tmp_path: Path) -> None:
    federation = found(tmp_path)
    folder = federation.folder(ES)
    backup(folder, tmp_path / "backup.db")

    async def body() -> None:
        network = AsgiNetwork(federation)
        try:
            await network.start(ES)
            backup(folder, tmp_path / "again.db")
            for work in (lambda: restore(folder, tmp_path / "backup.db", NOW), lambda: rekey(folder)):
                with pytest.raises(InputError, match="ES is running"):
                    work()
        finally:
            await network.close()

    asyncio.run(body())
    restore(folder, tmp_path / "backup.db", NOW)
    rekey(folder)


def test_a_backup_of_another_state_or_key_or_a_damaged_one_changes_nothing(
    holder: tuple[Path, tuple[str, ...], Path], tmp_path: Path
) -> None:
    folder, _, file = holder
    (tmp_path / "other").mkdir()
    make(tmp_path / "other" / "es")
    backup(tmp_path / "other" / "es", tmp_path / "other.db")
    (tmp_path / "text.db").write_text("no database" * 100)
    with closing(sqlite3.connect(file)) as connection:
        connection.execute("VACUUM INTO ?", (str(tmp_path / "foreign.db"),))
    shutil.copytree(tmp_path / "backup.db.rows", tmp_path / "foreign.db.rows")
    with closing(sqlite3.connect(tmp_path / "foreign.db")) as connection, connection:
        connection.execute("UPDATE store SET state = 'PT'")
    for name, error in (
        ("other.db", WrongStorageKey),
        ("text.db", StoreCorrupted),
        ("foreign.db", StoreRefusal),
        ("none.db", StoreError),
    ):
        with pytest.raises(error):
            restore(folder, tmp_path / name, NOW, yes=True)
    with holder_store(folder) as store:
        assert store.count() == 5
    assert not list(folder.glob(".store*"))


def flip(folder: Path) -> None:
    """Damage the manifest of the templates."""
    (manifest,) = folder.glob("store.db.rows/*/manifest")
    data = bytearray(manifest.read_bytes())
    data[40] ^= 1
    manifest.write_bytes(data)


def test_damaged_templates_do_not_keep_a_restore_from_what_the_database_knows(
    holder: tuple[Path, tuple[str, ...], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, references, file = holder
    flip(folder)
    with monkeypatch.context() as patch:  # the control: a database is no use if its templates are damaged
        patch.setattr(database, "open_store", lambda *given, look=True, **more: open_store(*given, **more))
        with pytest.raises(LossRefused, match="forgotten and answered since the backup"):
            restore(folder, file, NOW)
    result = restore(folder, file, NOW)
    assert (result.forgotten_again, result.lost, result.refuses_until) == (1, (), None)
    with holder_store(folder) as store:
        assert references[1] not in store.snapshot(NOW).references
        assert references[1] in store.deletions()
        assert claimed(store, QUERY[0])


def test_after_an_accepted_loss_a_restore_says_that_it_does_not_know_who_was_forgotten(
    holder: tuple[Path, tuple[str, ...], Path],
) -> None:
    folder, references, file = holder
    identity = load_identity(folder)
    for accept in (False, True):
        with closing(Archive(identity, folder)) as archive, open_known_store(identity, archive, accept).store as store:
            assert store.count() == (0 if accept else 5)
        if not accept:
            shutil.rmtree(folder / "store.db.rows")
    with pytest.raises(LossRefused, match="the present store is another database: give --yes"):
        restore(folder, file, NOW)
    result = restore(folder, file, NOW, yes=True)
    assert (result.forgotten_again, len(result.lost)) == (0, 1)
    with holder_store(folder) as store:
        assert references[1] in store.snapshot(NOW).references, "the control: it was worth asking"
        assert store.claims_lost_until is not None


def forgetting(folder: Path, reference: str, given: list[object]) -> Any:
    """The last step of a restore, before which another command forgets somebody, with a receipt."""

    def replace(place: Path, copy: Path, *generation: int | None) -> None:
        with holder_store(folder) as store:
            given.append(store.forget(reference, NOW).reference)
        replace_database(place, copy, *generation)

    return replace


def test_who_is_forgotten_during_a_restore_stays_forgotten(
    holder: tuple[Path, tuple[str, ...], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, references, file = holder
    receipts: list[object] = []
    with monkeypatch.context() as patch:
        patch.setattr(database, "replace_database", forgetting(folder, references[3], receipts))
        with pytest.raises(StoreLocked, match="was changed meanwhile: give the command again"):
            restore(folder, file, NOW)
    assert receipts == [references[3]]
    assert len(list((folder / "store.db.rows").iterdir())) == 1
    assert restore(folder, file, NOW).forgotten_again == 2
    with holder_store(folder) as store:
        assert references[3] not in store.snapshot(NOW).references
        assert references[3] in store.deletions()


def test_control_without_the_look_at_its_number_of_changes_the_person_comes_back(
    holder: tuple[Path, tuple[str, ...], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, references, file = holder
    replace = forgetting(folder, references[3], [])
    monkeypatch.setattr(database, "replace_database", lambda place, copy, _: replace(place, copy))
    restore(folder, file, NOW)
    with holder_store(folder) as store:
        assert references[3] in store.snapshot(NOW).references


def test_who_waits_while_the_database_is_replaced_gets_no_receipt_from_the_one_that_is_gone(
    holder: tuple[Path, tuple[str, ...], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The last moment: it is locked already, and takes its place while a command waits for it."""
    folder, references, file = holder
    told: list[object] = []

    def forget() -> None:
        try:
            with holder_store(folder) as store:
                told.append(store.forget(references[3], NOW))
        except StoreError as error:
            told.append(error)

    waiting = Thread(target=forget)
    rename = Path.replace

    def slow(source: Path, target: Path) -> Path:
        if target.name == "store.db":
            waiting.start()
            sleep(1)
            assert not told, "it waits"
        return rename(source, target)

    monkeypatch.setattr(Path, "replace", slow)
    restore(folder, file, NOW)
    waiting.join()
    with holder_store(folder) as store:
        kept = references[3] in store.snapshot(NOW).references
        assert isinstance(told[0], StoreError) == kept, told
        assert store.verify(whole=True).rows == (5 if kept else 4)


def test_a_restore_deletes_no_folder_that_is_not_its_own(
    holder: tuple[Path, tuple[str, ...], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, _, file = holder
    foreign = folder / "store.db.rows" / "important"
    foreign.mkdir()
    during = folder / "store.db.rows" / ("e" * 16)  # of an enrolment

    def fails(*_: object) -> None:
        during.mkdir()
        raise StoreLocked("in use")

    with monkeypatch.context() as patch:
        patch.setattr(database, "replace_database", fails)
        with pytest.raises(StoreLocked):
            restore(folder, file, NOW)
    assert during.is_dir()
    assert len(list((folder / "store.db.rows").iterdir())) == 3, "what the restore made is gone"
    restore(folder, file, NOW)
    assert foreign.is_dir()
    assert not during.exists()


# The key


def seal_one(folder: Path, query: bytes = NEW) -> SealedProbe:
    content = SealedProbe(b"template", *(bytes([number] * 32) for number in range(3)))
    sealed.keep(folder / "sealed", storage_key(load_config(folder)), query, content)
    return content


def test_rekeying_changes_the_key_of_everything_and_keeps_times(holder: tuple[Path, tuple[str, ...], Path]) -> None:
    folder, references, file = holder
    content, path = seal_one(folder), folder / "sealed" / NEW.hex()
    seal_one(folder, OLD)
    search = ArticleForty("FR", 1, None, ("ES",), ())
    under_way.begin(folder, storage_key(load_config(folder)), NEW, search)
    (folder / under_way.FOLDER / OLD.hex()).write_bytes(b"junk")
    old, data, time = storage_key(load_config(folder)), path.read_bytes(), path.stat().st_mtime_ns
    done = rekey(folder)
    assert (done.subjects, done.sealed_files) == (5, 2)
    new = storage_key(load_config(folder))
    assert new.fingerprint != old.fingerprint
    assert path.read_bytes() != data
    assert path.stat().st_mtime_ns == time  # it says when the file is deleted
    assert sealed.open_kept(folder / "sealed", new, NEW) == content
    with pytest.raises(StoreCorrupted):
        sealed.open_kept(folder / "sealed", old, NEW)
    assert list(under_way.cut_off(folder, new)) == [(NEW, search)]
    assert not list(under_way.cut_off(folder, old))
    with holder_store(folder) as store:
        assert store.snapshot(NOW).references == references[:1] + references[2:]
        assert claimed(store, QUERY[0])
    for name in ("storage.key", f"storage.key.{old.fingerprint}"):
        assert stat.S_IMODE((folder / name).stat().st_mode) == 0o600
    assert not (folder / "storage.key.new").exists()
    # a backup made before comes back with the key until then, and is under the new one afterwards
    with pytest.raises(WrongStorageKey):
        restore(folder, file, NOW)
    assert done.old_key is not None
    assert restore(folder, file, NOW, old_key=Path(done.old_key)).forgotten_again == 1
    with holder_store(folder) as store:
        assert len(store.snapshot(NOW).references) == 5


@pytest.mark.parametrize("step", ["_rekey", "sealed.reseal", "os.link"])
def test_rekeying_that_was_interrupted_goes_on(
    step: str, holder: tuple[Path, tuple[str, ...], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, _, _ = holder
    content = seal_one(folder)

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(f"nodes.operator.database.{step}", interrupted)
        with pytest.raises(KeyboardInterrupt):
            rekey(folder)
    assert rekey(folder).sealed_files == 1
    assert sealed.open_kept(folder / "sealed", storage_key(load_config(folder)), NEW) == content
    with holder_store(folder) as store:
        assert len(store.snapshot(NOW).references) == 5


def test_a_key_in_the_environment_is_changed_there(
    holder: tuple[Path, tuple[str, ...], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, _, _ = holder
    (folder / "storage.key").rename(tmp_path / "old.key")
    StorageKey.create(tmp_path / "new.key")
    text = (folder / "node.toml").read_text()
    (folder / "node.toml").write_text(text.replace('key_file = "storage.key"', 'key_env = "TEST_LINEUP_KEY"'))
    monkeypatch.setenv("TEST_LINEUP_KEY", (tmp_path / "old.key").read_text())
    with pytest.raises(InputError, match=r"storage\.key_env.*--old-key"):
        rekey(folder)
    monkeypatch.setenv("TEST_LINEUP_KEY", (tmp_path / "new.key").read_text())
    with pytest.raises(StorageKeyError):
        rekey(folder, old_key=tmp_path / "none.key")
    assert rekey(folder, old_key=tmp_path / "old.key").subjects == 5
    with holder_store(folder) as store:
        assert len(store.snapshot(NOW).references) == 5


def test_control_where_the_templates_are_lost_too_nobody_knows_who_was_forgotten(
    holder: tuple[Path, tuple[str, ...], Path],
) -> None:
    folder, references, file = holder
    (folder / "store.db").unlink()
    shutil.rmtree(folder / "store.db.rows")
    result = restore(folder, file, NOW, yes=True)
    assert (result.subjects, result.forgotten_again) == (6, 0)
    with holder_store(folder) as store:
        assert references[1] in store.snapshot(NOW).references  # for the operator to forget again: it is said


# PostgreSQL


def test_a_postgresql_store_is_rekeyed_and_after_pg_restore_refuses_old_warrants(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if reason := why_not():
        pytest.skip(reason)
    binaries = find_binaries()
    assert binaries is not None
    folder = tmp_path / "es"
    init_node(folder, name=ES, role=Role.HOLDER, address="https://127.0.0.1:9", authority=tmp_path / "ca")
    text = (folder / "node.toml").read_text()
    with PostgresServer(binaries) as server:
        old, new = server.new_database(), server.new_database()
        configured = text.replace('file = "store.db"', f'url = "{old}"')
        (folder / "node.toml").write_text(configured)
        with holder_store(folder) as store:
            store.enrol_many(unit_rows(np.random.default_rng(2), 3, 64), **WHAT)
        assert rekey(folder).subjects == 3
        with pytest.raises(InputError, match="a dump is restored with pg_restore"):
            restore(folder, tmp_path / "file", NOW)
        server.run("pg_dump", "--format=custom", f"--file={tmp_path}/dump", _name(old))
        server.run("pg_restore", f"--dbname={_name(new)}", "--exit-on-error", str(tmp_path / "dump"))
        with holder_store(folder) as store:
            gone = store.snapshot(NOW).references[0]
            store.forget(gone, NOW)
            store.enrol_many(unit_rows(np.random.default_rng(3), 4, 64), **WHAT)
        (folder / "node.toml").write_text(configured.replace(old, new))
        with pytest.raises(StoreCorrupted, match="the database is an older one"), holder_store(folder):
            pass
        with pytest.raises(LossRefused, match=r"; 4 templates that were enrolled since the dump: give --yes"):
            restore(folder, None, NOW)
        with pytest.raises(StoreCorrupted, match="the database is an older one"), holder_store(folder):
            pass  # nothing was changed
        with monkeypatch.context() as patch:  # where nothing tells how many
            patch.setattr(database, "rows_folder", lambda _: tmp_path / "nowhere")
            with pytest.raises(LossRefused, match=r"; who was enrolled since the dump: give --yes"):
                restore(folder, None, NOW)
        result = restore(folder, None, NOW, yes=True)
        assert (result.subjects, result.forgotten_again, result.refuses_until) == (2, 1, NOW + SKEW)
        assert "4 templates that were enrolled since the backup" in result.lost
        with holder_store(folder) as store:
            assert store.claims_lost_until == int(NOW.timestamp())
            assert gone not in store.snapshot(NOW).references
            assert store.forget(gone, NOW + timedelta(days=1)).time == NOW


def test_what_lies_beside_a_postgresql_database_is_in_a_backup_and_comes_back(tmp_path: Path) -> None:
    """The disk of the node is lost, and the database with it: dump and backup bring all of it back."""
    if reason := why_not():
        pytest.skip(reason)
    binaries = find_binaries()
    assert binaries is not None
    folder, file = tmp_path / "es", tmp_path / "bak"
    init_node(folder, name=ES, role=Role.HOLDER, address="https://127.0.0.1:9", authority=tmp_path / "ca")
    text = (folder / "node.toml").read_text()

    def name_database(url: str) -> None:
        (folder / "node.toml").write_text(text.replace('file = "store.db"', f'url = "{url}"'))

    with PostgresServer(binaries) as server:
        old, new, empty = (server.new_database() for _ in range(3))
        name_database(old)
        with holder_store(folder) as store:
            references = store.enrol_many(unit_rows(np.random.default_rng(2), 3, 64), **WHAT).references
        with CaseDesk.open(folder) as desk:
            staffed(desk)
        server.run("pg_dump", "--format=custom", f"--file={file}", _name(old))
        assert in_postgresql(folder) == ("gallery",)
        made = backup(folder, file)
        assert {path.name for path in made} == {"bak.rows", "bak.casework"}, "and not the dump, which stays"
        with holder_store(folder) as store:
            store.forget(references[2], NOW)
        shutil.rmtree(folder / "store.rows")
        (folder / "casework.db").unlink()
        server.run("pg_restore", f"--dbname={_name(new)}", "--exit-on-error", str(file))
        name_database(new)
        with pytest.raises(LossRefused, match=r"decided.*--yes"):
            restore(folder, file, NOW)
        with pytest.raises(StoreError):  # the control: without the copy there are no templates
            restore(folder, None, NOW, yes=True)
        name_database(empty)
        with pytest.raises(InputError, match="is empty: bring the dump back with pg_restore first"):
            restore(folder, file, NOW, yes=True)
        assert is_empty(empty), "else pg_restore would refuse it"
        assert not (folder / "store.rows").exists(), "nothing was changed"
        name_database(new)
        result = restore(folder, file, NOW, yes=True)
        assert (result.subjects, result.forgotten_again) == (3, 0), "nobody tells of who was forgotten since"
        with holder_store(folder) as store:
            assert store.verify(whole=True).rows == 3
            assert store.snapshot(NOW).references == references
        with CaseDesk.open(folder) as desk:
            assert desk.person("dora").name == "Dora Planted-dora"
        name_database(empty)  # with templates there, one that holds nobody would have them deleted at the next start
        with open_store(load_config(folder)), pytest.raises(InputError, match=r"holds nobody, and .* holds templates"):
            restore(folder, None, NOW, yes=True)
        name_database(new)
        with holder_store(folder) as store:
            assert store.verify(whole=True).rows == 3


def _name(url: str) -> str:
    return url.split("/")[3].split("?")[0]
