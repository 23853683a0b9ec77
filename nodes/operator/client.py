"""What the operator asks of the running node: search, say how it is, obey a supervisor's order."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import httpx
import msgspec

from nodes.config.schema import NodeConfig, Role, load_config
from nodes.identity.tls import client_context, server_name
from nodes.service.operator_api import SearchReport, SearchRequest
from nodes.service.under_way import UnderWay
from pets.errors import InputError, LineupError

SEARCH_SECONDS = 3600.0
HEALTH_SECONDS = 15.0


class NodeNotRunning(LineupError):
    """The node's service does not answer at its address."""


def check_asks(folder: Path) -> None:
    """Raise `InputError` unless this is a requester's folder."""
    config = load_config(folder)
    if config.role is not Role.REQUESTER:
        raise InputError(f"{config.name} is a {config.role.value}; only a requester can ask")


def search(folder: Path, request: SearchRequest) -> SearchReport:
    """Have the running requester node search. Raises `NodeNotRunning`, `InputError` with the node's reason."""
    response = _call(load_config(folder), "POST", "/operator/v1/search", msgspec.json.encode(request))
    return msgspec.json.decode(response.content, type=SearchReport)


def status(folder: Path) -> dict[str, Any]:
    """What the running node says of itself. Raises `NodeNotRunning`."""
    report: dict[str, Any] = _call(load_config(folder), "GET", "/operator/v1/status").json()
    return report


def health(folder: Path) -> dict[str, Any]:
    """Whether the running node can work. Raises `NodeNotRunning`."""
    report: dict[str, Any] = _ask(load_config(folder), "GET", "/health", seconds=HEALTH_SECONDS).json()
    return report


def queries(folder: Path) -> list[UnderWay]:
    """Queries that the running node takes part in now. Raises `NodeNotRunning`."""
    response = _call(load_config(folder), "GET", "/operator/v1/queries", seconds=HEALTH_SECONDS)
    return msgspec.json.decode(response.content, type=list[UnderWay])


def peers(folder: Path) -> dict[str, bool]:
    """Which peers answer the running node now. Raises `NodeNotRunning`."""
    response = _call(load_config(folder), "GET", "/operator/v1/peers", seconds=HEALTH_SECONDS)
    return msgspec.json.decode(response.content, type=dict[str, bool])


def reread_peers(folder: Path) -> dict[str, Any]:
    """Have the running node read its peers again. Raises `NodeNotRunning`, `InputError` with the node's reason."""
    report: dict[str, Any] = _call(load_config(folder), "POST", "/operator/v1/peers", seconds=HEALTH_SECONDS).json()
    return report


def metrics(folder: Path) -> str:
    """The running node's counters, in the exposition format. Raises `NodeNotRunning`."""
    return _call(load_config(folder), "GET", "/metrics", seconds=HEALTH_SECONDS).text


def hold(folder: Path, order: Path) -> dict[str, Any]:
    """Lodge a supervisor's order at the running node. Raises `NodeNotRunning`, `InputError` with the node's reason."""
    try:
        data = order.read_bytes()
    except OSError as error:
        raise InputError(f"{order} cannot be read: {error.strerror}") from None
    report: dict[str, Any] = _call(load_config(folder), "POST", "/operator/v1/hold", data).json()
    return report


def _call(
    config: NodeConfig, method: str, path: str, content: bytes | None = None, seconds: float = SEARCH_SECONDS
) -> httpx.Response:
    response = _ask(config, method, path, content, seconds)
    if response.status_code != 200:
        try:
            body = response.json()
        except ValueError:
            body = {}
        raise InputError(body.get("message") or f"{config.name} refused: {body.get('code', response.status_code)}")
    return response


def _ask(
    config: NodeConfig, method: str, path: str, content: bytes | None = None, seconds: float = SEARCH_SECONDS
) -> httpx.Response:
    timeout = httpx.Timeout(seconds, connect=config.limits.connect_timeout_seconds)
    with httpx.Client(verify=client_context(config.operator_tls), timeout=timeout, trust_env=False) as client:
        try:
            return client.request(
                method, config.address + path, content=content, extensions={"sni_hostname": server_name(config.name)}
            )
        except httpx.TransportError as error:
            # a refused certificate explains itself
            hint = "" if "SSL" in str(error) else "; is `lineup node serve` running, and past its line `ready`?"
            raise NodeNotRunning(f"{config.name} does not answer at {config.address}: {error}{hint}") from error
