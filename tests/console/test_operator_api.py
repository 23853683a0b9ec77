"""What the running node tells its operator for the console: queries under way, peers that answer."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

from nodes.service.under_way import peers_up
from nodes.transport.send_queue import PeerRefused, PeerUnreachable


def test_a_peer_that_does_not_answer_is_down() -> None:
    async def ask(peer: str, path: str) -> bytes:
        assert path == "/health"
        if peer == "ES":
            raise PeerUnreachable("ES cannot be reached")
        if peer == "DE":
            raise PeerRefused("DE", "state")
        return b"{}"

    node: Any = SimpleNamespace(
        name="EU", peers=dict.fromkeys(("FR", "ES", "DE", "EU")), transport=SimpleNamespace(ask=ask)
    )
    assert asyncio.run(peers_up(node)) == {"FR": True, "ES": False, "DE": False}
