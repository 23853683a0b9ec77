"""A reference leads to its subject or to nobody, and tells who has no key nothing (Article 19(2))."""

from __future__ import annotations

import hmac
import re
import secrets
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sqlalchemy import Connection, event, text

from nodes.store import StorageKey, StoreCorrupted, UnknownReference, content
from nodes.store.backup import copy_database
from nodes.store.database import Database
from nodes.store.migrations import upgrade
from nodes.store.references import ReferenceKey, written
from nodes.store.store import GalleryStore
from pets.prf import derive_key
from tests.kit.stores import DIM, KEY, MODEL, NOW, WHAT, enrol_one, open_store, sql, templates

OLD = [f"ES-{number:032x}" for number in range(3)]


def with_key(references: list[str], key: ReferenceKey) -> list[int]:
    """The order of enrolment, as whoever has the key reads it."""
    numbers = [key.number(reference) for reference in references]
    return [place for _, place in sorted((number or 0, place) for place, number in enumerate(numbers))]


def without_key(references: list[str]) -> list[float]:
    """What there is to see: how the order of enrolment goes with each of 128 bits, and with the number as a whole."""
    numbers = [int(reference[3:], 16) for reference in references]
    seen = np.array([[number >> bit & 1 for bit in range(128)] + [number / 2**128] for number in numbers])
    order, seen = np.arange(len(seen)) - (len(seen) - 1) / 2, seen - seen.mean(axis=0)
    lengths = np.linalg.norm(seen, axis=0)
    lengths[lengths == 0] = 1  # a bit that is always the same goes with nothing
    found: list[float] = np.abs(order @ seen / (np.linalg.norm(order) * lengths)).tolist()
    return found


def test_who_has_no_key_learns_neither_order_nor_batch() -> None:
    references = written("ES", ReferenceKey(secrets.token_bytes(32)).draw(1000, 4000))
    # 0.1 are six standard deviations; neighbours differ in 64 of 128 bits, give or take eight deviations of the mean
    assert max(without_key(references)) < 0.1
    numbers = [int(reference[3:], 16) for reference in references]
    apart = [(one ^ other).bit_count() for one, other in pairwise(numbers)]
    assert abs(np.mean(apart) - 64) < 8 * 5.66 / 4000**0.5
    assert len(set(numbers)) == 4000


def test_control_the_key_tells_the_order() -> None:
    key = ReferenceKey(secrets.token_bytes(32))
    references = written("ES", key.draw(1000, 4000))
    mixed = [references[place] for place in np.random.default_rng(0).permutation(4000)]
    assert [mixed[place] for place in with_key(mixed, key)] == references
    plain = [f"ES-{(key.number(reference) or 0) << 80:032x}" for reference in references]
    assert max(without_key(plain)) > 0.9, "and the measure sees an order where there is one"


def test_the_same_number_never_gives_the_same_reference() -> None:
    key = ReferenceKey(bytes(32))
    assert key.draw(1, 50) != key.draw(1, 50)
    for first in (0, 2**48 - 49):
        with pytest.raises(StoreCorrupted, match="6 bytes"):
            key.draw(first, 50)


def numbers_given_again(url: str, database: Path) -> tuple[str, str]:
    """One is enrolled after a copy, which is put back, and then another, under the same number."""
    rows, copy = database.with_name("store.db.rows"), database.with_name("copy.db")
    with open_store(url) as store:
        enrol_one(store, 1)
        copy_database(database, copy)
        shutil.copytree(rows, rows.with_name("kept"))
        lost = enrol_one(store, 2)
    for path in database.parent.glob("store.db-*"):
        path.unlink()
    copy.replace(database)
    shutil.rmtree(rows)
    shutil.copytree(rows.with_name("kept"), rows)
    with open_store(url) as store:
        return lost, enrol_one(store, 3)


def test_after_a_restore_an_old_reference_is_nobodys(sqlite_url: str, tmp_path: Path) -> None:
    lost, given = numbers_given_again(sqlite_url, tmp_path / "store.db")
    with open_store(sqlite_url) as store:
        assert store._references.number(lost) == store._references.number(given) == 2
        assert store.subject(given).reference == given
        for look in (store.subject, store.photo, store.photo_names, store.contested_history):
            with pytest.raises(UnknownReference):
                look(lost)
        with pytest.raises(UnknownReference):
            store.flag_contested(lost, NOW)
        assert store.forget_all([lost], NOW) == []
        assert store.count() == 2


def test_control_by_its_number_alone_it_would_be_somebody_elses(
    sqlite_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lost, given = numbers_given_again(sqlite_url, tmp_path / "store.db")
    monkeypatch.setattr(ReferenceKey, "find", lambda key, _, reference: key.number(reference))
    with open_store(sqlite_url) as store:
        assert store.subject(lost).reference == given


def test_a_foreign_or_made_up_reference_is_unknown(url: str, tmp_path: Path) -> None:
    with open_store(f"sqlite:///{tmp_path}/other.db") as other:
        foreign = enrol_one(other)
    with open_store(url) as store:
        own = enrol_one(store)
        assert store.subject(own).reference == own  # the control
        made_up = written("ES", store._references.draw(1, 1))  # by somebody who has the key even
        digits = own[3:]
        for reference in (
            *(foreign, *made_up, f"FR-{digits}", f"ES-{digits.upper()}"),
            *(digits, f"{own}\n", f"ES-{digits}00", "ES-0", "", "%"),
        ):
            if reference != own:
                with pytest.raises(UnknownReference):
                    store.subject(reference)
                assert store.forget_all([reference], NOW) == []
        assert store.count() == 1


def test_a_change_of_the_storage_key_keeps_references(url: str) -> None:
    new = StorageKey(b"n" * 32)
    with open_store(url) as store:
        before, sealed = enrol_one(store, 1), sql(url, "SELECT reference_key FROM store")
    with open_store(url, new, retired=[KEY]) as store:
        store.rekey()
        assert store.subject(before).reference == before
    assert sql(url, "SELECT reference_key FROM store") != sealed
    with open_store(url, new) as store:
        after = enrol_one(store, 2)
        assert [store.subject(name).reference for name in (before, after)] == [before, after]


def test_a_damaged_reference_key_is_named(url: str) -> None:
    open_store(url).close()
    sql(url, "UPDATE store SET reference_key = :v", v=bytes(60))
    with pytest.raises(StoreCorrupted, match="reference key does not decrypt"):
        open_store(url)


def test_a_reference_key_that_was_taken_away_is_not_drawn_anew(url: str) -> None:
    """Nobody could be found any more, neither to be forgotten."""
    open_store(url).close()
    sql(url, "UPDATE store SET reference_key = NULL")
    with open_store(url) as store:  # the control: nobody has a reference yet
        enrol_one(store)
    sql(url, "UPDATE store SET reference_key = NULL")
    with pytest.raises(StoreCorrupted, match="reference key is gone"):
        open_store(url)
    assert sql(url, "SELECT reference_key FROM store") == [(None,)]


RENUMBER = "UPDATE subject SET id = 77 WHERE id = 3"
RENUMBER_FIRST = "UPDATE subject SET id = 77 WHERE id = 1"


@pytest.mark.parametrize(("attack", "row"), [(RENUMBER, 2), (RENUMBER_FIRST, 0), (RENUMBER_FIRST, 1)])
def test_a_subject_that_its_reference_does_not_lead_to_is_neither_released_nor_passed(
    attack: str, row: int, url: str
) -> None:
    with open_store(url) as store:
        joined = store.enrol_subject((), templates(2), **WHAT)
        names = [joined, joined, enrol_one(store, 5)]
        assert [store.reference(MODEL, place) for place in range(3)] == names, "the control"
        assert store.verify(whole=True).rows == 3
        sql(url, attack)
        sql(url, "UPDATE store SET rows = NULL, digest = NULL")  # counted anew: the attacker can do that too
    with open_store(url) as store:
        store.verify()
        with pytest.raises(StoreCorrupted, match=f"{names[row]} does not lead to its subject"):
            store.reference(MODEL, row)
        with pytest.raises(StoreCorrupted, match=f"{names[row]} does not lead to its subject"):
            store.verify(whole=True)


def test_a_change_of_the_storage_key_passes_nobody_over_who_could_not_be_forgotten(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    fresh = StorageKey(b"n" * 32)
    with open_store(url) as store:
        name = store.enrol_many(templates(3), **WHAT).references[2]
    sql(url, RENUMBER)
    sql(url, "UPDATE store SET rows = NULL, digest = NULL")
    with open_store(url, fresh, retired=[KEY]) as store:
        with pytest.raises(StoreCorrupted, match=f"{name} does not lead to its subject"):
            store.rekey()
        monkeypatch.setattr(ReferenceKey, "check_leads", lambda *_: None)
        assert store.rekey() == 3, "the control"


def test_control_without_the_look_at_numbers_it_is(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with open_store(url) as store:
        name = store.enrol_many(templates(3), **WHAT).references[2]
        sql(url, RENUMBER)
        monkeypatch.setattr(ReferenceKey, "check_leads", lambda *_: None)
        monkeypatch.setattr(ReferenceKey, "check_found", lambda *_: None)
        assert store.reference(MODEL, 2) == name
        assert store.verify(whole=True).rows == 3
        with pytest.raises(UnknownReference):
            store.forget(name, NOW)


def test_numbers_of_many_references_are_those_of_each() -> None:
    key = ReferenceKey(bytes(32))
    names = written("ES", key.draw(1000, 50))
    assert key.numbers(names).tolist() == [key.number(name) for name in names] == list(range(1000, 1050))
    assert key.numbers([names[0], "ES-0", "", names[1]]).tolist() == [1000, 0, 0, 1001], "0 is nobody's"
    assert key.numbers([]).tolist() == []


def test_the_secret_is_not_in_the_clear(url: str) -> None:
    with open_store(url) as store:
        ((sealed,),) = sql(url, "SELECT reference_key FROM store")
        first = ReferenceKey(bytes(sealed)[12:44]).number(enrol_one(store))  # as if it were not encrypted
    assert first != 1


# References of an earlier version


def of_version_8(url: str) -> None:
    """Three subjects and a photo; a fourth was forgotten."""
    database = Database(url)
    upgrade(database, "0008")
    database.close()
    check = KEY.seal(b"blind-lineup storage key check", "check", KEY.fingerprint)
    sql(url, "INSERT INTO store (id, state, generation) VALUES (1, 'ES', 7)")
    sql(url, "INSERT INTO storage_key (fingerprint, check_value) VALUES (:f, :c)", f=KEY.fingerprint, c=check)
    sql(url, "INSERT INTO model (digest, dim) VALUES (:model, :dim)", model=MODEL, dim=DIM)
    for reference, row in zip([*OLD, "ES-gone"], templates(4), strict=True):
        sealed = KEY.seal(row.tobytes(), "template", reference, MODEL)
        sql(
            url,
            "INSERT INTO subject (reference, category, status, retain_until, model_id, key_id, template)"
            " VALUES (:reference, 'suspect', 'identified', '2031-01-01', 1, 1, :template)",
            reference=reference,
            template=sealed,
        )
    photo = {"mac": KEY.mac("photo", b"photo"), "photo": KEY.seal(b"photo", "photo", OLD[0])}
    sql(url, "INSERT INTO photo (subject_id, mac, sealed) VALUES (1, :mac, :photo)", **photo)
    sql(url, "DELETE FROM subject WHERE reference = 'ES-gone'")


def test_references_of_an_earlier_version_stay_valid(url: str) -> None:
    of_version_8(url)
    with open_store(url) as store:
        new = enrol_one(store, 5)
        assert store.snapshot(NOW).references == (*OLD, new)
        assert [store.subject(name).reference for name in (*OLD, new)] == [*OLD, new]
        assert store.photo(OLD[0]) == b"photo", "the table was put in another's place, and nothing went with it"
        assert store._references.number(new) == 5, "the number of who was forgotten is not given again"
        assert store.find_photo(b"photo") == OLD[0]
        assert [receipt.reference for receipt in store.forget_all(OLD[:2], NOW)] == OLD[:2]
        assert store.verify(whole=True).rows == 2
        assert sql(url, "SELECT count(*) FROM photo") == [(0,)], "foreign keys hold again"
    assert sql(url, "SELECT reference FROM subject WHERE NOT numbered") == [(OLD[2],)]


def test_control_with_foreign_keys_on_the_photos_would_go_with_the_old_table(
    sqlite_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    of_version_8(sqlite_url)

    @contextmanager
    def as_it_was(database: Database) -> Iterator[Connection]:
        with database._writer.begin() as connection:
            yield connection

    monkeypatch.setattr(Database, "alone", as_it_was)
    with open_store(sqlite_url) as store:
        assert store.photo(OLD[0]) is None


def test_what_was_enrolled_since_is_in_no_index_over_references(sqlite_url: str) -> None:
    """Such an index would be written all over by every batch."""
    of_version_8(sqlite_url)
    with open_store(sqlite_url) as store:
        store.enrol_many(templates(100), **WHAT)
        with store._database.reading() as session:
            plans = []
            for where in ("id = 1 AND reference = 'x'", "reference = 'x' AND NOT numbered", "id = 1 OR subject = 'x'"):
                found = session.execute(text(f"EXPLAIN QUERY PLAN SELECT id FROM subject WHERE {where}"))
                plans.append(" ".join(row[-1] for row in found))
    assert "PRIMARY KEY" in plans[0]
    assert "ix_subject_reference" in plans[1]
    assert "ix_subject_subject" in plans[2]
    assert not any("SCAN" in plan for plan in plans)


SCANS = "SCAN subject"


def plans_of(url: str, work: Callable[[GalleryStore], object]) -> list[str]:
    """How SQLite goes about everything that is asked of it, from the opening on."""
    asked: list[tuple[str, Any]] = []
    with open_store(url) as store:
        connections = store._database.engine
        event.listen(connections, "before_cursor_execute", lambda _, __, sql, values, *___: asked.append((sql, values)))
        store._attach(KEY, ())
        work(store)
        plans = []
        with store._database.reading() as session:
            for statement, values in list(asked):
                if re.match(r"(WITH|SELECT|UPDATE|DELETE|INSERT)\b", statement):
                    told = session.connection().exec_driver_sql(f"EXPLAIN QUERY PLAN {statement}", values)
                    plans.append(" ".join(row[-1] for row in told))
    return plans


def test_neither_opening_nor_enrolment_nor_a_look_reads_all_subjects(sqlite_url: str) -> None:
    """Else each batch would take the longer the more there are."""

    def work(store: GalleryStore) -> None:
        store.enrol_many(templates(100), **WHAT, source=bytes(32))
        one = enrol_one(store, 1, b"photo")
        store.subject(one)
        store.models()
        store.forget(one, NOW)

    with open_store(sqlite_url) as store:
        enrol_one(store, 2)
    plans = plans_of(sqlite_url, work)
    assert len(plans) > 50
    assert not [plan for plan in plans if SCANS in plan]
    counted = plans_of(sqlite_url, lambda store: store.count())
    assert [plan for plan in counted if SCANS in plan], "the control: who counts them reads them all"


# What is put together in one pass is what was put together one by one


def test_ties_are_those_of_earlier_versions() -> None:
    rows = [(0, "ES-a", None), (1, "ES-b", "ES-a"), (2**40, "ES-c", None)]
    key = derive_key(b"k" * 32, "storage", "ties")
    expected = [
        hmac.digest(key, MODEL + row.to_bytes(8, "little") + f"|{name}|{first or name}".encode(), "sha256")[:16]
        for row, name, first in rows
    ]
    assert list(KEY.ties(MODEL, rows)) == expected == [KEY.tie(MODEL, *row) for row in rows]


def test_what_is_added_is_accounted_for_as_it_is_read(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """In parts that begin with others' subjects, of this model and another, and over several parts."""
    monkeypatch.setattr(content, "PART", 7)
    other: dict[str, Any] = {**WHAT, "model": b"m" * 32}
    with open_store(url) as store:
        for count, what in ((3, WHAT), (2, other), (20, WHAT), (1, other), (14, other), (7, WHAT)):
            store.enrol_many(templates(count), **what)
            store.verify()
        store.forget_all(store.snapshot(NOW, model=MODEL).references[::4], NOW)
        store.enrol_many(templates(5), **WHAT)
        assert store.verify(whole=True).rows == 44
        monkeypatch.setattr("nodes.store.enrolment.line", lambda *_: "x")  # the control
        enrol_one(store)
        with pytest.raises(StoreCorrupted, match="not those"):
            store.verify()
