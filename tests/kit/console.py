"""A node's console without its node, and people who sign in: what tests of the console start from."""

from __future__ import annotations

import re
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta, timezone
from functools import cached_property, partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import httpx
import uvicorn
from argon2 import PasswordHasher

from nodes.casework.persons import new_key_file, sign_with_file
from nodes.cli.demo import free_ports
from nodes.config.names import Role
from nodes.console.app import make_console
from nodes.console.limits import RateLimits
from nodes.console.server import close_site, open_site
from nodes.console.web import Site
from nodes.identity.identity import init_node
from pets.faces import FaceModel

NO_TLS = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # one for all clients: each would read all authorities for its own
PASSWORD = "planted-Password-4711"
STAFF: dict[str, tuple[Any, ...]] = {
    "olga": ("officer",),
    "anton": ("approver",),
    "rita": ("reviewer",),
    "remo": ("reviewer",),
    "lena": ("releaser",),
    "dora": ("data-protection",),
    "sven": ("supervisor",),
    "alma": ("admin",),
}


class Turned:
    """A clock that tests turn on."""

    def __init__(self) -> None:
        self.ahead = timedelta(0)

    def __call__(self) -> datetime:
        return datetime.now(timezone.utc) + self.ahead


def no_limits() -> RateLimits:
    """Rate limits whose clock runs so fast that they never bind."""
    ticks = iter(range(0, 10**9, 1000))
    return RateLimits(lambda: float(next(ticks)))


@contextmanager
def cheap_passwords() -> Iterator[None]:
    """Accounts that are opened now hash passwords in no time; the usual hash takes 0.2 s of a processor."""
    with patch("nodes.console.accounts.PasswordHasher", partial(PasswordHasher, 1, 8, 1)):
        yield


@dataclass
class House:
    """A node's console, with staff. `keys`: key files by handle; `bare`: a client that has no session."""

    site: Site
    keys: dict[str, Path]
    clock: Turned = field(default_factory=Turned)
    clients: list[httpx.Client] = field(default_factory=list)

    @property
    def origin(self) -> str:
        return self.site.operations.config.console.url

    @cached_property
    def bare(self) -> httpx.Client:
        return self.visitor().http

    def visitor(self) -> Browser:
        self.clients.append(httpx.Client(base_url=self.origin, verify=NO_TLS, trust_env=False, timeout=60))
        return Browser(self, self.clients[-1])

    def close(self) -> None:
        for client in self.clients:
            client.close()

    def signed_in(self, handle: str) -> Browser:
        browser = self.visitor()
        browser.sign_in(handle)
        return browser


@dataclass
class Browser:
    """What a browser does, without one: keeps cookies, fills in forms with their tokens."""

    house: House
    http: httpx.Client

    def get(self, path: str) -> httpx.Response:
        return self.http.get(path)

    def token(self, path: str) -> str:
        """The token of the forms on a page."""
        found = re.search(r'name="csrf" value="([0-9a-f]{64})"', self.get(path).text)
        assert found, path
        return found[1]

    def post(self, path: str, data: dict[str, Any] | None = None, *, form: str | None = None, **more: Any) -> Any:
        """Send a form that stands on the page `form` (the same path if not given)."""
        return self.http.post(path, data={"csrf": self.token(form or path), **(data or {})}, **more)

    def sign_in(self, handle: str, password: str = PASSWORD) -> httpx.Response:
        answer: httpx.Response = self.post("/sign-in", {"handle": handle, "password": password})
        if answer.status_code != 303:
            return answer
        page = self.get("/sign-in/key").text
        challenge = re.search(r'data-key-file="([0-9a-f]{64})"', page)
        assert challenge
        return self.give_key(handle, challenge[1], page)

    def give_key(self, handle: str, challenge: str, page: str) -> httpx.Response:
        signature = sign_with_file(self.house.keys[handle], bytes.fromhex(challenge)).signature.hex()
        token = re.search(r'name="csrf" value="([0-9a-f]{64})"', page)
        assert token
        return self.http.post("/sign-in/key", data={"csrf": token[1], "assertion": signature, "next": "/"})


@contextmanager
def served(site: Site) -> Iterator[None]:
    """The console over real HTTP, in a thread of this process."""
    settings = site.operations.config.console
    config = uvicorn.Config(make_console(site), host=settings.host, port=settings.port, log_level="error", ws="none",
                            access_log=False)  # fmt: skip
    server = uvicorn.Server(config)
    server.install_signal_handlers = lambda: None  # type: ignore[attr-defined]
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    deadline = time.monotonic() + 30
    while not server.started and thread.is_alive() and time.monotonic() < deadline:
        time.sleep(0.02)
    assert server.started
    try:
        yield
    finally:
        server.should_exit = True
        thread.join(30)


def found(root: Path) -> None:
    """FR, which asks, with its peers ES and EU."""
    for port, (name, role) in enumerate((("FR", Role.REQUESTER), ("ES", Role.HOLDER), ("EU", Role.ROUTER)), 9543):
        init_node(root / name, name=name, role=role, address=f"https://127.0.0.1:{port}",
                  authority=root / "authority", states=("FR",))  # fmt: skip


@contextmanager
def house(root: Path, load: Callable[[], FaceModel] | None = None, node: str = "FR") -> Iterator[House]:
    """A node's console; no node runs."""
    if not (root / node).exists():
        found(root)
    with (root / node / "node.toml").open("a") as file:
        file.write(f"\n[console]\nport = {free_ports(1)[0]}\n")
    with cheap_passwords():
        site = open_site(root / node, load or FaceModel.load)
    site.limits = no_limits()
    made = House(site, {})
    site.accounts._clock = made.clock
    for handle, roles in STAFF.items():
        made.keys[handle] = root / f"{node}-{handle}.key"
        site.operations.desk.add_person(
            None, handle, f"{handle.title()} Planted", roles, new_key_file(made.keys[handle])
        )
        half = site.accounts.accept(site.accounts.invite(handle), PASSWORD)
        site.accounts.sign_out(site.accounts.key_enrolled(half, b"", 0).token)
    try:
        with served(site):
            yield made
            made.close()
    finally:
        close_site(site)
