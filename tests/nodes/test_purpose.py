"""The purpose of a query chooses who is searched (Article 29): the missing for the missing, nobody else for them."""

from __future__ import annotations

import asyncio
from datetime import date, datetime, timezone
from pathlib import Path

import numpy as np
import pytest

from nodes.config.schema import PolicyConfig
from nodes.config.storage import holder_store
from nodes.store import Category, Status
from protocol.terms import SYNTHETIC_MODEL
from tests.kit.federation import ES, EU, Federation, found, request
from tests.kit.galleries import near
from tests.kit.network import AsgiNetwork, running

pytestmark = pytest.mark.slow

CITED = {'# missing = ""': 'missing = "Act 5/2026"', '# remains = ""': 'remains = "Act 6/2026"'}


@pytest.fixture(scope="module")
def federation(tmp_path_factory: pytest.TempPathFactory) -> Federation:
    """ES also holds a missing person and remains with the probe's face, and the law of ES and EU permits to ask."""
    federation = found(tmp_path_factory.mktemp("purpose"))
    for name in (ES, EU):
        path = federation.folder(name) / "node.toml"
        _replace(path, '"INVESTIGATION"]', '"INVESTIGATION", "MISSING-PERSON", "REMAINS"]')
        _replace(path, '"unidentified"]', '"unidentified", "missing", "remains"]')
        for old, new in CITED.items():
            _replace(path, old, new)
    rng = np.random.default_rng(3)
    with holder_store(federation.folder(ES)) as store:
        for category in (Category.MISSING, Category.REMAINS):
            federation.references[category] = (
                store.enrol(
                    None,
                    near(rng, federation.people.hit, 1, np.array([0.9]))[0],
                    category=category,
                    status=Status.IDENTIFIED,
                    retain_until=date(2099, 1, 1),
                    model=SYNTHETIC_MODEL,
                ),
            )
    return federation


def _replace(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert text.count(old) == 1, old
    path.write_text(text.replace(old, new))


def found_for(federation: Federation, *purposes: str) -> list[set[str]]:
    """References that ES gives for each purpose."""

    async def body() -> list[set[str]]:
        async with running(AsgiNetwork(federation)) as network:
            given = []
            for purpose in purposes:
                report = await network.search(request(federation.people.hit, (ES,), purpose=purpose))
                given.append(set(report.answers[ES].references))
            return given

    return asyncio.run(body())


def test_each_purpose_finds_only_its_categories(federation: Federation) -> None:
    suspect = {federation.references[ES][17]}
    missing, remains = (set(federation.references[name]) for name in ("missing", "remains"))
    given = found_for(federation, "INVESTIGATION", "MISSING-PERSON", "REMAINS", "DETECTION")
    assert given == [suspect, missing, missing | remains, suspect]


@pytest.mark.parametrize("asked", [False, True], ids=["nobody asks for them", "control"])
def test_the_missing_may_be_found_only_where_they_may_be_asked_for(
    asked: bool, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """A preparation knows no purpose and holds everybody; nobody may be found whom no purpose served here looks for."""
    federation = found(tmp_path_factory.mktemp("categories"))
    path = federation.folder(ES) / "node.toml"
    _replace(path, '"unidentified"]', '"unidentified", "missing"]')
    _replace(path, '# missing = ""', 'missing = "Act 5/2026"')
    if asked:
        _replace(path, '"INVESTIGATION"]', '"INVESTIGATION", "MISSING-PERSON"]')
    with holder_store(federation.folder(ES)) as store:
        rows = len(store.snapshot(datetime.now(timezone.utc)).templates)
        store.enrol(
            None,
            near(np.random.default_rng(3), federation.people.hit, 1, np.array([0.9]))[0],
            category=Category.MISSING,
            status=Status.IDENTIFIED,
            retain_until=date(2099, 1, 1),
            model=SYNTHETIC_MODEL,
        )

    async def body() -> int:
        async with running(AsgiNetwork(federation)) as network:
            (derived,) = network.nodes[ES].galleries.all
            gallery = derived.current()
            assert len(gallery.templates) == rows + 1
            lent = derived.lend(gallery.root, datetime.now(timezone.utc), list(Category))
            assert lent is not None
            derived.give_back(lent[1])
            return int(lent[1].sum())

    assert asyncio.run(body()) == rows + asked


def test_control_without_the_choice_an_investigation_finds_the_missing_too(
    federation: Federation, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(PolicyConfig, "searched", lambda policy, _: frozenset(policy.categories))
    given = found_for(federation, "INVESTIGATION")
    assert given[0] >= set(federation.references["missing"])
