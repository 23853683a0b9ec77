"""The commands around a case: images to compare, exports, who looked, refusals with one clear line."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from nodes.casework import deletion, desk, review
from nodes.casework.cases import row_of
from nodes.private_files import write_private
from tests.kit.casework import Offices
from tests.kit.commands import as_json
from tests.kit.commands import run as run


def photo() -> bytes:
    out = io.BytesIO()
    Image.fromarray(np.random.default_rng(1).integers(0, 255, (90, 80, 3), np.uint8)).save(out, "JPEG")
    return out.getvalue()


@pytest.fixture
def lineup(offices: Offices, tmp_path: Path, run: Any) -> Any:
    for staff in (offices.french, offices.spanish):
        for handle in staff.keys:
            staff.key_file(handle, tmp_path)

    def call(node: str, who: str, *args: object) -> tuple[int, str, str]:
        return run("case", *args, "--dir", tmp_path / node, "--key", tmp_path / f"{node}-{who}.key", "--json")

    return call


def test_a_reviewer_gets_images_to_compare_and_that_is_written_down(
    offices: Offices, lineup: Any, tmp_path: Path
) -> None:
    query = offices.searched(offices.enrol(photo()), photo=photo(), quality={"sharpness": 60})
    look = tmp_path / "look"
    status, _, told = lineup("FR", "rita", "review", query, "--images", look)
    assert (status, "reason" in told) == (1, True)
    (one,) = as_json(lineup("FR", "rita", "review", query, "--images", look, "--reason", "to compare"))
    assert {path.name for path in look.iterdir()} == {"probe.jpg", f"{one['id']}.jpg"}
    assert all(path.stat().st_mode & 0o077 == 0 for path in look.iterdir())
    seen = as_json(lineup("FR", "dora", "views"))
    assert {view["what"] for view in seen} == {f"probe:{query}", f"candidate:{one['id']}"}


def _looks(offices: Offices, lineup: Any, tmp_path: Path) -> dict[str, tuple[int, str, str]]:
    """What `lineup case view` shows of a candidate under review, to whom; one opened the query and also reviews."""
    offices.french.key_file(offices.french.enrol("boris", ("officer", "reviewer")).handle, tmp_path)
    query = offices.searched(offices.enrol(photo()))
    with offices.fr.office.vault.writing() as session:
        row_of(session, query).opened_by = offices.french.boris.id
    (one,) = offices.fr.candidates_for(offices.french.rita, query)
    view = "view", f"candidate:{one.id}", "--reason", "curious", "--image"
    return {who: lineup("FR", who, *view, tmp_path / f"{who}.jpg") for who in ("olga", "dora", "boris", "rita")}


def test_blind_review_holds_on_the_command_line(offices: Offices, lineup: Any, tmp_path: Path) -> None:
    told = _looks(offices, lineup, tmp_path)
    for who in ("olga", "dora", "boris"):
        status, out, error = told[who]
        assert (status, out) == (1, "")
        assert "review" in error
        assert not (tmp_path / f"{who}.jpg").exists()
    assert set(as_json(told["rita"])) == {"quality", "acquired", "status", "contested"}
    assert (tmp_path / "rita.jpg").exists()
    assert offices.references[0] not in str(told)
    # once the review is over, whoever goes on with the match sees its reference, and a reviewer still does not
    (query,) = offices.fr.queries(offices.french.olga)
    (one,) = offices.fr.candidates_for(offices.french.rita, query.id)
    for reviewer in (offices.french.rita, offices.french.remo):
        offices.fr.lock_decision(reviewer, one.id, "same person", "ears")
    view = "view", f"candidate:{one.id}", "--reason", "to go on"
    assert as_json(lineup("FR", "olga", *view))["reference"] == offices.references[0]
    assert "reference" not in as_json(lineup("FR", "rita", *view))


def test_control_without_the_rule_everybody_sees_image_and_reference(
    offices: Offices, lineup: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    roles, _ = desk._VIEWS["candidate"]

    def all_of_it(office: Any, session: Any, person: Any, candidate: str) -> Any:
        return deletion.shown_of(office, review.candidate_row(session, candidate))

    monkeypatch.setitem(desk._VIEWS, "candidate", (roles, all_of_it))
    for who, told in _looks(offices, lineup, tmp_path).items():
        assert as_json(told)["reference"] == offices.references[0]
        assert (tmp_path / f"{who}.jpg").exists()


def test_a_candidate_is_exported_with_the_words_that_it_is_not_identified(
    offices: Offices, lineup: Any, tmp_path: Path
) -> None:
    pytest.importorskip("nistitl")
    from nodes.casework.exchange.type10 import read_faces

    query = offices.searched(offices.enrol(photo()))
    (one,) = offices.fr.candidates_for(offices.french.rita, query)
    out = tmp_path / "c.an2"
    for who in (offices.french.rita, offices.french.remo):
        offices.fr.lock_decision(who, one.id, "same person", "ears")
    told = ("export", one.id, "-o", out, "--reason", "for the laboratory")
    assert "prior authorisation" in lineup("FR", "olga", *told, "--receiver", "FBI")[2]
    assert not out.exists()
    as_json(lineup("FR", "olga", *told))
    assert b"CANDIDATE, NOT IDENTIFIED" in out.read_bytes()
    assert read_faces(out.read_bytes())[0].reference == offices.references[0]


@pytest.mark.parametrize(
    ("who", "args", "said"),
    [
        ("olga", ("onward", "CANDIDATE", "--recipient", "Interpol"), "prior authorisation"),
        ("rita", ("approve", "QUERY"), "needs the role approver"),
        ("olga", ("request", "CANDIDATE", "--facts", "seen", "--offence-category", "robbery"), "confirmed match"),
        ("rita", ("confirm", "CANDIDATE"), "no match"),
        ("rita", ("view", "candidate:CANDIDATE", "--reason", " "), "needs a reason"),
        ("rita", ("view", "secret:1", "--reason", "x"), "look at"),
        ("olga", ("show", "nothing"), "no query"),
    ],
)
def test_what_is_not_allowed_ends_in_one_line(
    offices: Offices, lineup: Any, who: str, args: tuple[str, ...], said: str
) -> None:
    query = offices.searched(offices.enrol())
    (one,) = offices.fr.candidates_for(offices.french.rita, query)
    status, out, told = lineup("FR", who, *(arg.replace("CANDIDATE", one.id).replace("QUERY", query) for arg in args))
    assert (status, out) == (1, "")
    assert said in told
    assert told.startswith("error: ")
    assert len(told.splitlines()) == 1


def test_a_key_of_nobody_is_refused_and_a_failed_enrolment_leaves_no_key(
    offices: Offices, run: Any, tmp_path: Path
) -> None:
    write_private(tmp_path / "stranger.key", b"11" * 32)
    status, _, told = run("case", "list", "--dir", tmp_path / "FR", "--key", tmp_path / "stranger.key")
    assert (status, "nobody's key" in told) == (1, True)
    fresh = tmp_path / "fresh.key"
    args = ("--name", "Olga", "--roles", "officer", "--new-key", fresh)
    assert run("case", "person", "add", "olga", "--dir", tmp_path / "FR", *args)[0] == 1  # taken
    assert not fresh.exists()


def test_the_report_of_a_year_that_is_not_over_is_refused(offices: Offices, run: Any, tmp_path: Path) -> None:
    year = offices.clock().year
    page, table = tmp_path / "r.html", tmp_path / "r.csv"
    assert run("case", "report", "--dir", tmp_path / "FR", "--year", year)[0] == 1
    before = run(
        "case", "report", "--dir", tmp_path / "FR", "--year", year - 1, "--html", page, "--csv", table, "--json"
    )
    assert as_json(before)["year"] == year - 1
    assert page.read_text().startswith("<!doctype html>")
    assert table.read_text().startswith("table,")
