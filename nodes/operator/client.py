"""What the operator asks of the running node: search, say how it is, obey a supervisor's order."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import msgspec

from nodes.config.schema import NodeConfig, Role, load_config
from nodes.identity.tls import client_context, server_name
from nodes.service.operator_api import (
    Line,
    PrepareReport,
    PrepareRequest,
    Progress,
    SearchReport,
    SearchRequest,
    SearchUnderWay,
    Supplies,
)
from nodes.service.outage import Known
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


def search(folder: Path, request: SearchRequest, told: Callable[[Progress], object] = lambda _: None) -> SearchReport:
    """Have the running requester node search; `told` hears how far it is.

    Raises `NodeNotRunning`, `InputError` with the node's reason.
    """
    content = _stream(load_config(folder), "/operator/v1/search", msgspec.json.encode(request), told)
    return msgspec.json.decode(content, type=SearchReport)


def prepare(folder: Path, request: PrepareRequest, told: Callable[[Progress], object]) -> PrepareReport:
    """Have the running requester node prepare. Raises `NodeNotRunning`, `InputError` with the node's reason."""
    content = _stream(load_config(folder), "/operator/v1/prepare", msgspec.json.encode(request), told)
    return msgspec.json.decode(content, type=PrepareReport)


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


def searches(folder: Path) -> list[SearchUnderWay]:
    """Searches of the running requester node, while they prepare too. Raises `NodeNotRunning`, `InputError`."""
    response = _call(load_config(folder), "GET", "/operator/v1/searches", seconds=HEALTH_SECONDS)
    return msgspec.json.decode(response.content, type=list[SearchUnderWay])


def preparations(folder: Path) -> Supplies:
    """Which preparations wait at the running node. Raises `NodeNotRunning`."""
    return msgspec.convert(status(folder)["preparations"], type=Supplies)


def peers(folder: Path) -> dict[str, bool]:
    """Which peers answer the running node now. Raises `NodeNotRunning`."""
    response = _call(load_config(folder), "GET", "/operator/v1/peers", seconds=HEALTH_SECONDS)
    return msgspec.json.decode(response.content, type=dict[str, bool])


def outages(folder: Path) -> Known:
    """Which peers have told of an outage that they plan, and which did not answer. Raises `NodeNotRunning`."""
    response = _call(load_config(folder), "GET", "/operator/v1/outages", seconds=HEALTH_SECONDS)
    return msgspec.json.decode(response.content, type=Known)


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
        raise _refused(config, response)
    return response


def _refused(config: NodeConfig, response: httpx.Response) -> InputError:
    try:
        body = response.json()
    except ValueError:
        body = {}
    return InputError(body.get("message") or f"{config.name} refused: {body.get('code', response.status_code)}")


def _stream(config: NodeConfig, path: str, content: bytes, told: Callable[[Progress], object]) -> bytes:
    """The report at the end of an answer in lines (`nodes.service.streams`); `told` hears how far it is."""
    with (
        _client(config, SEARCH_SECONDS) as client,
        _reached(config),
        client.stream(
            "POST",
            config.address + path,
            content=content,
            headers={"accept": "application/x-ndjson"},
            extensions=_extensions(config),
        ) as response,
    ):
        if response.status_code != 200:
            response.read()
            raise _refused(config, response)
        for text in response.iter_lines():
            line = msgspec.json.decode(text, type=Line)
            if line.progress is not None:
                told(line.progress)
            if line.code is not None:
                raise InputError(line.message or f"{config.name} refused: {line.code}")
            if bytes(line.report):
                return bytes(line.report)
    raise NodeNotRunning(f"{config.name} broke off its answer; is it being stopped?")


def _ask(
    config: NodeConfig, method: str, path: str, content: bytes | None = None, seconds: float = SEARCH_SECONDS
) -> httpx.Response:
    with _client(config, seconds) as client, _reached(config):
        return client.request(method, config.address + path, content=content, extensions=_extensions(config))


def _client(config: NodeConfig, seconds: float) -> httpx.Client:
    timeout = httpx.Timeout(seconds, connect=config.limits.connect_timeout_seconds)
    return httpx.Client(verify=client_context(config.operator_tls), timeout=timeout, trust_env=False)


def _extensions(config: NodeConfig) -> dict[str, str]:
    return {"sni_hostname": server_name(config.name)}


@contextmanager
def _reached(config: NodeConfig) -> Iterator[None]:
    try:
        yield
    except httpx.TransportError as error:
        # a refused certificate explains itself
        hint = "" if "SSL" in str(error) else "; is `lineup node serve` running, and past its line `ready`?"
        raise NodeNotRunning(f"{config.name} does not answer at {config.address}: {error}{hint}") from error
