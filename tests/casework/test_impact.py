"""A node does not connect before its impact assessment is lodged."""

from __future__ import annotations

import json
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import pytest

from nodes.casework import impact
from nodes.casework.impact import ImpactError, NotAssessed
from nodes.casework.impact_template import FILL, template
from nodes.config.schema import Role, load_config
from nodes.identity.identity import init_node, load_identity
from tests.kit.commands import as_json
from tests.kit.commands import run as run

TODAY = date(2026, 11, 28)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name, port in (("ES", 9443), ("DE", 9444)):
        init_node(tmp_path / name, name=name, role=Role.HOLDER, address=f"https://127.0.0.1:{port}",
                  authority=tmp_path / "ca", states=("FR",))  # fmt: skip
    (tmp_path / "dpia.pdf").write_bytes(b"assessed")
    return tmp_path / "ES"


def _lodge(folder: Path, **changes: Any) -> None:
    values: dict[str, Any] = {"by": "D. Protection", "on": TODAY, "today": TODAY} | changes
    impact.lodge(load_identity(folder), folder, folder.parent / "dpia.pdf", **values)


def test_a_node_without_an_assessment_does_not_serve(folder: Path, run: Any) -> None:
    with pytest.raises(NotAssessed, match="R 50"):
        impact.check(load_identity(folder), folder, TODAY)
    status, _, told = run("node", "serve", "--dir", folder)
    assert status == 1
    assert "no impact assessment is lodged" in told
    assert f"`lineup node impact template --dir {folder} -o FILE` writes one" in told
    assert f"`lineup node impact lodge --dir {folder} FILE --by NAME` lodges it" in told


def test_control_a_lodged_assessment_opens_the_gate(folder: Path) -> None:
    _lodge(folder)
    record = impact.check(load_identity(folder), folder, TODAY)
    assert (record.by, record.on, record.document) == ("D. Protection", TODAY, "dpia.pdf")


def test_a_changed_or_another_nodes_record_does_not_open_it(folder: Path) -> None:
    _lodge(folder)
    path = folder / impact.FILE
    told = json.loads(path.read_text())
    path.write_text(json.dumps(told | {"by": "Somebody Else"}))
    with pytest.raises(NotAssessed, match="does not hold"):
        impact.check(load_identity(folder), folder, TODAY)
    other = folder.parent / "DE"
    _lodge(other)
    path.write_bytes((other / impact.FILE).read_bytes())
    with pytest.raises(NotAssessed, match="does not hold"):
        impact.check(load_identity(folder), folder, TODAY)


def test_an_assessment_is_over_when_its_review_is_due(folder: Path) -> None:
    _lodge(folder, review=TODAY + timedelta(days=365))
    impact.check(load_identity(folder), folder, TODAY + timedelta(days=365))
    with pytest.raises(NotAssessed, match="to be reviewed by"):
        impact.check(load_identity(folder), folder, TODAY + timedelta(days=366))


def test_nobody_a_day_to_come_and_an_empty_document_are_refused(folder: Path) -> None:
    for changes in ({"by": " "}, {"on": TODAY + timedelta(days=1)}, {"review": TODAY - timedelta(days=1)}):
        with pytest.raises(ImpactError):
            _lodge(folder, **changes)
    (folder.parent / "dpia.pdf").write_bytes(b"")
    with pytest.raises(ImpactError, match="0 bytes"):
        _lodge(folder)


@pytest.mark.parametrize("kind", ["dpia", "fria"])
def test_the_template_states_the_configuration_and_leaves_judgement_open(folder: Path, kind: Any) -> None:
    text = (folder / "node.toml").read_text().replace("max_candidates = 10", "max_candidates = 7")
    (folder / "node.toml").write_text(text)
    made = template(load_config(folder), kind, TODAY)
    assert "at most 7 candidates" in made
    assert "two reviewers, independent and blind" in made
    assert made.count(FILL) >= 6
    assert max(map(len, made.splitlines())) < 900


def test_the_commands_lodge_show_and_write_templates(folder: Path, run: Any) -> None:
    out = folder.parent / "template.md"
    assert as_json(run("node", "impact", "template", "--dir", folder, "-o", out, "--json"))["kind"] == "dpia"
    lodged = as_json(run("node", "impact", "lodge", "--dir", folder, out, "--by", "D. Protection", "--json"))
    assert as_json(run("node", "impact", "show", "--dir", folder, "--json")) == lodged
    assert run("node", "impact", "show", "--dir", folder.parent / "DE")[0] == 1
