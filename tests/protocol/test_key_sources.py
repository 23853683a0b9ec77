"""A query in which one party's keys come from OpenFHE and another's from our own sampling is as exact as any."""

from __future__ import annotations

from decimal import Decimal

import numpy as np
import pytest

from pets import openfhe_keys
from pets.errors import ParameterError
from pets.key_source import NativeKeys, key_source, seed_digest
from pets.params import PRESETS
from pets.synthetic import synthetic_templates
from pets.templates import quantise
from protocol.engine import HOLDER, REQUESTER, ROUTER, LocalQuery, PlainEngine
from protocol.gallery import Gallery
from protocol.memory import MemoryNetwork
from protocol.terms import Terms

pytestmark = pytest.mark.slow

DIM = 128
missing = openfhe_keys.available()


@pytest.mark.skipif(missing is not None, reason=str(missing))
@pytest.mark.parametrize("preset", list(PRESETS))
@pytest.mark.parametrize("openfhe_party", [REQUESTER, ROUTER, HOLDER])
def test_a_query_with_mixed_key_sources_equals_the_plaintext_twin(preset: str, openfhe_party: str) -> None:
    params = PRESETS[preset]
    unit = synthetic_templates(700, DIM, 3)
    unit[[5, 600]] = unit[0]
    templates = quantise(unit)
    gallery = Gallery.enrol(templates, params)
    terms = Terms(Decimal("0.6"), DIM, params)
    sources = iter(
        key_source("openfhe")() if party == openfhe_party else NativeKeys() for party in (REQUESTER, ROUTER, HOLDER)
    )
    query = LocalQuery.start(REQUESTER, ROUTER, {HOLDER: gallery}, terms, 1, lambda: next(sources))
    assert (query.requester.announce.seed_digest is None) == (openfhe_party == REQUESTER)
    network = MemoryNetwork(query.machines)
    network.run_or_raise()
    query.requester.submit(templates[0])
    network.run_or_raise()
    result = query.holders[HOLDER].result
    (expected,) = PlainEngine().search(gallery, templates[:1], terms)
    assert result is not None
    assert result.hits == expected.hits
    assert {hit.row for hit in result.hits} >= {0, 5, 600}


def test_an_unknown_key_source_is_refused() -> None:
    with pytest.raises(ParameterError, match="quantum"):
        key_source("quantum")


@pytest.mark.skipif(missing is None, reason="OpenFHE can be imported here")
def test_openfhe_where_it_cannot_be_imported_is_refused_with_the_reason() -> None:
    with pytest.raises(ParameterError, match="OpenFHE"):
        key_source("openfhe")


def test_the_seed_of_a_native_source_is_committed_to_and_differs_every_time() -> None:
    first, second = NativeKeys(), NativeKeys()
    assert seed_digest(first) != seed_digest(second)
    assert np.frombuffer(first.seed or b"", np.uint8).size == 32
