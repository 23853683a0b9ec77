"""One search over every transport: in memory without nodes, over ASGI, over TLS."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import numpy as np

from nodes.service.operator_api import SearchRequest
from protocol.announcing import Plan
from protocol.gallery import Gallery
from protocol.local import LocalSearch, prepare
from protocol.memory import MemoryNetwork
from protocol.roles import Parties
from tests.kit.federation import EU, FR, Answers, Federation, answer_of, terms_of
from tests.kit.network import AsgiNetwork, Network, TlsNetwork, assert_clear, running
from tests.kit.ring import RING

System = Callable[[SearchRequest], Answers]


def over_memory(federation: Federation) -> System:
    """`protocol.memory`: no nodes, no network."""

    def ask(wanted: SearchRequest) -> Answers:
        galleries = {
            name: Gallery.of(federation.people.galleries[name], RING, federation.references[name])
            for name in wanted.holders
        }
        terms, parties = terms_of(wanted), Parties(FR, EU, tuple(galleries))
        (made,), _ = prepare(parties, galleries, Plan(terms.params, terms.dim, terms.model), 1)
        search = LocalSearch.start(made, galleries, terms)
        network = MemoryNetwork(search.machines)
        network.run_or_raise()
        search.requester.submit(np.frombuffer(wanted.template, np.int8))
        network.run_or_raise()
        return {
            name: answer_of(answer.status, answer.references, answer.threshold_used)
            for name, answer in search.requester.answers.items()
        }

    return ask


def over_network(kind: type[Network]) -> Callable[[Federation], System]:
    """Nodes in this process."""

    def make(federation: Federation) -> System:
        def search(wanted: SearchRequest) -> Answers:
            async def body() -> Answers:
                async with running(kind(federation)) as network:
                    report = await network.search(wanted)
                    await network.settle()
                    assert_clear(network)
                    return report.answers

            return asyncio.run(body())

        return search

    return make


over_asgi = over_network(AsgiNetwork)
over_tls = over_network(TlsNetwork)

TRANSPORTS: dict[str, Callable[[Federation], System]] = {
    "memory": over_memory,
    "asgi": over_asgi,
    "tls": over_tls,
}
