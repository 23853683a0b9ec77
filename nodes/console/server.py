"""Running the console beside a node."""

from __future__ import annotations

import logging
import os
import secrets
import signal
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import uvicorn

from nodes.casework.desk import CaseDesk, utc
from nodes.config.console import FILE
from nodes.config.schema import load_config
from nodes.console.accounts import Accounts
from nodes.console.app import make_console
from nodes.console.door import Door
from nodes.console.intake import Intakes
from nodes.console.limits import RateLimits
from nodes.console.operations import Operations
from nodes.console.oversight import Oversight
from nodes.console.security import Forms
from nodes.console.web import Site
from nodes.service.strict_http import StrictProtocol
from pets.errors import InputError
from pets.faces import FaceModel, Provider

PEERS_SECONDS = 30.0

log = logging.getLogger("lineup.console")


def open_site(folder: Path, load: Callable[[], FaceModel]) -> Site:
    """Everything the console works with, from a node's folder. Whoever opens it closes desk and accounts.

    `load`: gives the face model when the first photo comes. Raises as the node's configuration and stores do.
    """
    config = load_config(folder)
    desk = CaseDesk.open(folder)
    try:
        accounts = Accounts(f"sqlite:///{folder.absolute() / FILE}", config.console, utc)
    except BaseException:
        desk.close()
        raise
    operations = Operations(folder, config, desk, Intakes(load), accounts)
    door = Door(operations, accounts, secrets.token_urlsafe(18) if accounts.empty else None)
    oversight, forms = Oversight(operations, accounts), Forms(config.console, config.name)
    return Site(operations, oversight, door, accounts, forms, RateLimits())


def accounts_lost(site: Site) -> str:
    """What to say where nobody has an account though the node has staff: the accounts may have been lost; else empty.

    Whoever uses the one-time token then becomes an administrator of that staff.
    """
    if site.door.first_token is None or not site.operations.desk.staff():
        return ""
    return (
        f"{FILE} knows nobody, and this node has staff: if there were accounts, end this and bring them back with "
        "`lineup store restore`; whoever uses the token that follows becomes an administrator"
    )


def close_site(site: Site) -> None:
    """Close all databases."""
    site.accounts.close()
    site.operations.desk.close()


def run_console(
    folder: Path, models: Path | None, provider: Provider, say: Callable[[str], object], *, with_parent: bool = False
) -> None:
    """Serve until interrupted. `say`: takes lines for the terminal, the one-time token among them.

    `with_parent`: end with the process that started this one, which holds the other end of the standard input.
    """
    if with_parent:
        threading.Thread(target=_end_with_parent, daemon=True).start()
    site = open_site(folder, lambda: FaceModel.load(models, provider))
    settings = site.operations.config.console
    ended = threading.Event()
    threading.Thread(target=_follow_peers, args=(site.operations.desk, ended), daemon=True).start()
    try:
        say(f"console of {site.operations.config.name}: {settings.url}")
        if lost := accounts_lost(site):
            say(lost)
        if site.door.first_token is not None:
            say(f"nobody can sign in yet: open {settings.url}/first with the one-time token {site.door.first_token}")
        uvicorn.run(
            make_console(site), host=settings.host, port=settings.port, log_level="warning", ws="none",
            http=StrictProtocol, access_log=False,
            server_header=False, proxy_headers=settings.behind_proxy, forwarded_allow_ips="127.0.0.1",
            timeout_keep_alive=30, limit_concurrency=200,
            ssl_certfile=None if settings.certificate is None else str(settings.certificate),
            ssl_keyfile=None if settings.key is None else str(settings.key),
        )  # fmt: skip
    finally:
        ended.set()
        close_site(site)


def _end_with_parent() -> None:
    sys.stdin.buffer.read()  # nothing comes: it ends when the parent closes it, however it dies
    os.kill(os.getpid(), signal.SIGTERM)


def _follow_peers(desk: CaseDesk, ended: threading.Event) -> None:
    """So that a node that joins can be asked without a restart of the console."""
    while not ended.wait(PEERS_SECONDS):
        try:
            desk.read_peers_again()
        except (InputError, OSError) as error:  # the node tells its operator more
            log.error("peers cannot be read again: %s", type(error).__name__)
