"""Subjects with several photos: one template of them all, or up to four rows; a hit, a cap and a limit count people."""

from __future__ import annotations

import asyncio
import shutil
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nodes.cli.demo_photos import demo_photos
from nodes.config.storage import holder_store
from nodes.operator.client import probe_template
from nodes.store import Category, Status, StoreRefusal
from pets.errors import InputError, OddPhoto
from protocol.terms import SYNTHETIC_MODEL
from tests.kit.commands import as_json
from tests.kit.commands import folder as folder
from tests.kit.commands import run as run
from tests.kit.federation import ES, Federation, _enrolled, found, people, request
from tests.kit.galleries import near, unit_rows
from tests.kit.network import AsgiNetwork, running


@pytest.fixture
def holder(tmp_path: Path, run: Any) -> Path:
    """An empty gallery."""
    args = ("--name", "ES", "--role", "holder", "--address", "https://127.0.0.1:9", "--authority", tmp_path / "ca")
    assert run("node", "init", "--dir", tmp_path / "es", *args)[0] == 0
    return tmp_path / "es"


def man() -> list[Path]:
    demo = demo_photos()
    return [demo.obama, demo.obama2, demo.obama3]


def test_photos_of_one_person_are_one_subject_with_one_row(run: Any, holder: Path) -> None:
    done = as_json(run("enroll", "--dir", holder, "--subject", *man(), "--json"))
    (reference,) = done["references"]
    assert set(done["photos"].values()) == {reference}
    assert len(done["photos"]) == 3
    with holder_store(holder) as store:
        snapshot = store.snapshot(datetime.now(timezone.utc))
        assert snapshot.references == (reference,)
        assert store.count() == 1
    again = as_json(run("enroll", "--dir", holder, "--subject", *man(), "--json"))
    assert (again["added"], again["already_enrolled"]) == (0, 3)


def test_control_without_the_option_they_are_three_subjects(run: Any, holder: Path) -> None:
    assert as_json(run("enroll", "--dir", holder, *man(), "--json"))["added"] == 3


def test_a_wrong_face_in_a_folder_is_refused_by_name_and_the_others_are_enrolled(
    run: Any, holder: Path, tmp_path: Path
) -> None:
    people_folder, demo = tmp_path / "people", demo_photos()
    for name, photos in {"one": [*man(), demo.biden], "two": [demo.tom_hanks]}.items():
        (people_folder / name).mkdir(parents=True)
        for photo in photos:
            shutil.copy(photo, people_folder / name / photo.name)
    status, out, err = run("enroll", "--dir", holder, "--folders", people_folder)
    assert status == 1
    assert "added 2, enrolled already 0, failed 1" in out
    assert f"{people_folder / 'one' / demo.biden.name} does not look like the other photos of its subject" in err


def test_a_table_says_whose_a_photo_is(run: Any, holder: Path, tmp_path: Path) -> None:
    table = tmp_path / "table.csv"
    lines = [f"{photo},4711" for photo in man()] + [f"{demo_photos().tom_hanks},4712"]
    table.write_text("\n".join(["photo,subject", *lines]))
    assert as_json(run("enroll", "--dir", holder, "--table", table, "--json"))["added"] == 2
    table.write_text("file,person\na,b\n")
    assert "must have the columns photo and subject" in run("enroll", "--dir", holder, "--table", table)[2]
    assert run("enroll", "--dir", holder, "--table", table, man()[0])[0] == 2


def test_photos_apart_are_rows_of_one_subject_forgotten_together(run: Any, holder: Path) -> None:
    done = as_json(run("enroll", "--dir", holder, "--subject", "--apart", *man(), "--json"))
    (reference,) = done["references"]
    with holder_store(holder) as store:
        assert store.snapshot(datetime.now(timezone.utc)).references == (reference,) * 3
        assert (store.count(), store.content.rows) == (1, 3)
        assert len(store.forget_all([reference], datetime.now(timezone.utc))) == 1
        assert (store.count(), store.verify().rows) == (0, 0)
        assert store.find_photo(man()[1].read_bytes()) is None


def test_a_probe_may_be_several_photos_of_one_person() -> None:
    one, _ = probe_template(man()[:1], None, "cpu", False)
    several, _ = probe_template(man(), None, "cpu", False)
    assert one != several
    with pytest.raises(OddPhoto, match=demo_photos().biden.name):
        probe_template([*man(), demo_photos().biden], None, "cpu", False)
    with pytest.raises(InputError, match=r"or one \.npy file"):
        probe_template([man()[0], Path("x.npy")], None, "cpu", False)


# --- what parties see ---


def enrol_apart(federation: Federation, rows: Any) -> str:
    with holder_store(federation.folder(ES)) as store:
        return store.enrol_subject(
            (),
            rows,
            category=Category.SUSPECT,
            status=Status.IDENTIFIED,
            retain_until=_enrolled.date(),
            model=SYNTHETIC_MODEL,
        )


@pytest.fixture
def federation(tmp_path: Path) -> Federation:
    return found(tmp_path / "nodes", people(rows=130))


def test_a_subject_that_hits_with_several_rows_is_released_once_and_counts_once(federation: Federation) -> None:
    federation.configure(ES, releases_per_reference=2)
    probe = unit_rows(np.random.default_rng(5), 1, 128)[0]
    reference = enrol_apart(federation, near(np.random.default_rng(6), probe, 4, np.full(4, 0.8)))

    async def body() -> None:
        async with running(AsgiNetwork(federation)) as network:
            for _ in range(2):  # four rows twice would be eight releases of a limit of two
                answer = (await network.search(request(probe, (ES,)))).answers[ES]
                assert (answer.status, answer.references) == ("candidates", (reference,))
            refused = (await network.search(request(probe, (ES,)))).answers[ES]
            assert (refused.status, refused.reason) == ("refused", "quota")

    asyncio.run(body())


def test_a_subject_has_at_most_four_rows(federation: Federation) -> None:
    with pytest.raises(StoreRefusal, match="a subject has 1 to 4 rows, got 5"):
        enrol_apart(federation, unit_rows(np.random.default_rng(7), 5, 128))
