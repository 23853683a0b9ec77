"""What a peer answers to this node's requests is limited, and can be anything."""

from __future__ import annotations

import asyncio
import gzip
import tracemalloc
from collections.abc import AsyncIterator

import httpx
import pytest

from nodes.identity.identity import load_identity, load_peers
from nodes.transport.client import HttpTransport
from nodes.transport.send_queue import PeerRefused
from tests.kit.faults import in_turn
from tests.kit.federation import ES, FR, Federation, people

FEDERATION = {"who": people(rows=130)}


def refused(federation: Federation, content: bytes, **headers: str) -> tuple[PeerRefused, int]:
    """What ES's answer of 409 with this content comes to, and how much memory it took."""
    peers = load_peers(load_identity(federation.folder(FR)).config)

    async def body() -> AsyncIterator[bytes]:
        yield content

    async def answer(request: httpx.Request) -> httpx.Response:
        assert request.headers["accept-encoding"] == "identity"
        return httpx.Response(409, headers=headers, content=body())

    async def run() -> tuple[PeerRefused, int]:
        transport = HttpTransport(FR, peers, None, transports=dict.fromkeys(peers, httpx.MockTransport(answer)))
        tracemalloc.start()
        try:
            with pytest.raises(PeerRefused) as error:
                await transport.deliver(ES, bytes(16), 0, in_turn([b"unit"]))
            return error.value, tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
            await transport.close()

    return asyncio.run(run())


def test_an_answer_that_grows_when_it_is_unpacked_is_not_unpacked(federation: Federation) -> None:
    bomb = gzip.compress(gzip.compress(bytes(64 << 20)))
    assert len(bomb) < 2000
    error, peak = refused(federation, bomb, **{"content-encoding": "gzip, gzip"})
    assert error.code == "peer"
    assert peak < 8 << 20


@pytest.mark.parametrize(
    ("content", "code"),
    [
        (b"[" * 4000, "peer"),
        (b'{"code": []}', "peer"),
        (b"\xff", "peer"),
        (b"", "peer"),
        (b'{"code": "quota"}', "quota"),
    ],
    ids=["deep", "a list", "not UTF-8", "nothing", "control"],
)
def test_whatever_a_refusal_says_it_is_a_refusal(content: bytes, code: str, federation: Federation) -> None:
    assert refused(federation, content)[0].code == code
