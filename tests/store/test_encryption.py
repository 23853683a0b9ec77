"""Encryption at rest: keys and their change, damage, private files, and nothing personal in logs."""

from __future__ import annotations

import hashlib
import stat
from pathlib import Path

import pytest
from sqlalchemy import create_engine, text

from nodes.store import DuplicatePhoto, StorageKey, StorageKeyError, StoreCorrupted, WrongStorageKey, rekey
from nodes.store.store import GalleryStore
from nodes.store.tables import Base
from tests.kit.stores import KEY, NOW, WHAT, enrol_one, open_store, rows_folder, sql, templates


def dump(url: str) -> bytes:
    """Everything in the database, as bytes."""
    rows = [row for table in Base.metadata.sorted_tables for row in sql(url, f"SELECT * FROM {table.name}")]
    return b"|".join(bytes(v) if isinstance(v, (bytes, memoryview)) else str(v).encode() for row in rows for v in row)


def test_database_holds_no_template_photo_or_plain_hash(url: str, tmp_path: Path) -> None:
    row, photo = templates(1)[0], b"recognisable photo bytes"
    with open_store(url) as store:
        reference = store.enrol(photo, row, **WHAT)
        store.flag_contested(reference, NOW)
        store.clear_contested(reference, "planted authority", NOW)
        store.enrol_many(templates(1, seed=5), **WHAT, source=b"q" * 32)
        everything = dump(url) + b"".join(path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())
    assert reference.encode() in everything  # the control: what is stored in the clear is found
    for secret in (row.tobytes(), photo, hashlib.sha256(photo).digest(), b"planted authority", b"q" * 32, b"k" * 32):
        assert secret not in everything


def test_wrong_key_is_refused_at_open(url: str) -> None:
    with open_store(url) as store:
        enrol_one(store)
    with pytest.raises(WrongStorageKey, match=KEY.fingerprint):
        open_store(url, StorageKey(b"w" * 32))
    with open_store(url) as store:
        assert store.count() == 1


def test_damaged_check_value_is_refused_at_open(url: str) -> None:
    open_store(url).close()
    sql(url, "UPDATE storage_key SET check_value = :v", v=bytes(60))
    with pytest.raises(WrongStorageKey, match="check value"):
        open_store(url)


def test_store_without_its_key_check_is_refused(url: str) -> None:
    with open_store(url) as store:
        enrol_one(store)
    sql(url, "UPDATE subject SET key_id = key_id")
    engine = create_engine(url.replace("postgresql:", "postgresql+psycopg:"))
    with engine.begin() as connection:  # SQLite leaves foreign keys alone here, PostgreSQL must be told
        if engine.dialect.name == "postgresql":
            connection.execute(text("ALTER TABLE subject DROP CONSTRAINT fk_subject_key_id"))
        connection.execute(text("DELETE FROM storage_key"))
    engine.dispose()
    with pytest.raises(StoreCorrupted, match="no check value"):
        open_store(url)


@pytest.mark.parametrize("how", ["flipped", "short", "of another gallery"])
def test_a_damaged_or_exchanged_block_of_templates_is_named(url: str, how: str, tmp_path: Path) -> None:
    with open_store(url) as store:
        enrol_one(store)
        store.snapshot(NOW)  # the control
        (block,) = (rows_folder(url) or tmp_path / "store.db.rows").glob("*/block-*")
        content = block.read_bytes()
        if how == "of another gallery":
            with open_store(f"sqlite:///{tmp_path}/other.db") as other:
                enrol_one(other)
            content = next((tmp_path / "other.db.rows").glob("*/block-*")).read_bytes()
        block.write_bytes({"flipped": content[:-1] + bytes([content[-1] ^ 1]), "short": content[:99]}.get(how, content))
        with pytest.raises(StoreCorrupted, match=block.name):
            store.snapshot(NOW)


def test_damaged_photo_is_named_by_its_reference(store: GalleryStore, url: str) -> None:
    reference = enrol_one(store, photo=b"photo")
    sql(url, "UPDATE photo SET sealed = :v", v=bytes(50))
    with pytest.raises(StoreCorrupted, match=reference):
        store.photo(reference)


def test_rekeying_moves_every_record_even_after_an_interruption(
    url: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(rekey, "BATCH_ROWS", 4)
    new = StorageKey(b"n" * 32)
    with open_store(url) as store:
        reference = enrol_one(store, photo=b"photo")
        store.flag_contested(reference, NOW)
        store.clear_contested(reference, "decision 5", NOW)
        store.enrol_many(templates(20), **WHAT, source=bytes(32))
        before = store.snapshot(NOW)
    with pytest.raises(WrongStorageKey):
        open_store(url, new)

    def interrupt(done: int) -> None:
        if done == 8:
            raise KeyboardInterrupt

    with open_store(url, new, retired=[KEY]) as store, pytest.raises(KeyboardInterrupt):
        store.rekey(interrupt)
    with open_store(url, new, retired=[KEY]) as store:  # half and half: everything still works
        assert store.find_photo(b"photo") == reference
        assert store.snapshot(NOW).references == before.references
        with pytest.raises(DuplicatePhoto):
            enrol_one(store, photo=b"photo")
        assert store.rekey() == 13
        assert store.generation > before.generation, "the rows stored are others now"
    with pytest.raises(WrongStorageKey):
        open_store(url)
    for block in (rows_folder(url) or tmp_path / "store.db.rows").glob("*/block-*"):
        assert block.suffix == ".2", "sealed anew, after two enrolments"
    with open_store(url, new) as store:
        assert (store.snapshot(NOW).templates == before.templates).all()
        assert store.photo(reference) == b"photo"
        assert store.find_photo(b"photo") == reference
        assert store.contested_history(reference)[1].authority == "decision 5"
        assert store.enrol_many(templates(20), **WHAT, source=bytes(32)).skipped == 20


def test_storage_key_files_are_private(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "storage.key"
    key = StorageKey.create(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert StorageKey.from_file(path).fingerprint == key.fingerprint
    with pytest.raises(StorageKeyError, match="cannot be created"):
        StorageKey.create(path)
    monkeypatch.setenv("LINEUP_STORAGE_KEY", path.read_text())
    assert StorageKey.from_environment().fingerprint == key.fingerprint
    assert path.read_text().strip() not in repr(key)
    path.chmod(0o640)
    with pytest.raises(StorageKeyError, match="0640"):
        StorageKey.from_file(path)
    path.chmod(0o600)
    path.write_text("planted")
    with pytest.raises(StorageKeyError, match="64 hexadecimal") as caught:
        StorageKey.from_file(path)
    assert "planted" not in str(caught.value)
    with pytest.raises(StorageKeyError):
        StorageKey.from_file(tmp_path / "none")
    with pytest.raises(StorageKeyError, match="not set"):
        StorageKey.from_environment("LINEUP_NO_SUCH")
    with pytest.raises(StorageKeyError, match="32 bytes, got 3"):
        StorageKey(b"abc")


def test_database_file_is_private(sqlite_url: str, tmp_path: Path) -> None:
    with open_store(sqlite_url) as store:
        enrol_one(store)
        files = [path for path in tmp_path.rglob("*") if path.is_file()]
        assert len(files) == 6  # the database, its log and index; the rows, their manifest and lock
        assert all(stat.S_IMODE(path.stat().st_mode) == 0o600 for path in files)


def test_nothing_personal_is_logged(
    url: str, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    caplog.set_level(1)
    with open_store(url) as store:
        reference = enrol_one(store, photo=b"planted photo")
        with pytest.raises(DuplicatePhoto):
            enrol_one(store, photo=b"planted photo")
        store.snapshot(NOW)
        store.forget(reference, NOW)
    out, err = capfd.readouterr()
    said = caplog.text + out + err
    assert "planted" not in said
    assert reference not in said
    assert str(templates(1)[0].tolist())[1:20] not in said
