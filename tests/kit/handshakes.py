"""Real handshakes over loopback sockets, and what each side came to."""

from __future__ import annotations

import contextlib
import socket
import ssl
import threading
from collections.abc import Callable
from dataclasses import dataclass

from nodes.identity.tls import peer_name, server_name
from pets.errors import InputError


@dataclass
class Side:
    """What one side of a handshake came to: the peer's name, or the error."""

    name: str | None = None
    error: Exception | None = None


def handshake(server: ssl.SSLContext, client: ssl.SSLContext, host: str = server_name("ES")) -> tuple[Side, Side]:
    """One connection over 127.0.0.1; a byte goes each way, since a client of TLS 1.3 is done before it is judged."""
    listener = socket.create_server(("127.0.0.1", 0))
    listener.settimeout(10)
    at_server, at_client = Side(), Side()

    def run(side: Side, connect: Callable[[], socket.socket], wrap: Callable[[socket.socket], ssl.SSLSocket]) -> None:
        with connect() as raw:
            raw.settimeout(10)
            try:
                with wrap(raw) as secured:
                    secured.sendall(b"x")
                    if secured.recv(1) != b"x":
                        raise ConnectionError("closed")
                    side.name = peer_name(secured.getpeercert())
            except (OSError, InputError) as error:
                side.error = error

    def serve() -> None:
        run(at_server, lambda: listener.accept()[0], lambda raw: server.wrap_socket(raw, server_side=True))

    thread = threading.Thread(target=serve)
    with contextlib.closing(listener):
        thread.start()
        run(
            at_client,
            lambda: socket.create_connection(listener.getsockname(), 10),
            lambda raw: client.wrap_socket(raw, server_hostname=host),
        )
        thread.join(20)
    assert not thread.is_alive()
    return at_server, at_client


def assert_refused(sides: tuple[Side, Side], by: str, reason: str) -> None:
    """`by` refused for `reason`, and the other side got nothing through either."""
    server, client = sides
    judge, other = (server, client) if by == "server" else (client, server)
    assert isinstance(judge.error, ssl.SSLError)
    assert reason.lower() in str(judge.error).lower()
    assert other.error is not None
    assert server.name is client.name is None
