"""How a client asks the operator's API: signatures, connections, refusals. The operations are in `client`."""

from __future__ import annotations

import json
import ssl
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

import httpx
import msgspec

from nodes.casework.persons import sign_with_file
from nodes.console import contracts as c
from pets.errors import InputError, LineupError

T = TypeVar("T")
S = TypeVar("S", bound="Caller")
SECONDS = 60.0
# Signs: given the digest (32 bytes) and, for a passkey, its options, gives the assertion as text.
Signer = Callable[[bytes, dict[str, Any] | None], str]


class ConsoleRefused(InputError):
    """The console refused. `status`: of HTTP; `kind`: the error's name."""

    def __init__(self, status: int, kind: str, message: str) -> None:
        super().__init__(f"{kind}: {message}")
        self.status = status
        self.kind = kind


class ConsoleUnreachable(LineupError):
    """The console does not answer."""


def key_file(path: Path) -> Signer:
    """Signs with a person's key file."""
    return lambda digest, _options: sign_with_file(path, digest).signature.hex()


def passkey(get: Callable[[dict[str, Any]], dict[str, Any]]) -> Signer:
    """Signs with an authenticator. `get`: takes WebAuthn's request options as JSON has them, gives its answer."""

    def sign(_digest: bytes, options: dict[str, Any] | None) -> str:
        if options is None:
            raise InputError("this person has a key file, not a passkey")
        return json.dumps(get(options))

    return sign


class Caller:
    """One person's session. `address`: https://host:port. `verify`, `transport`: as httpx has them."""

    def __init__(
        self, address: str, *, verify: ssl.SSLContext | bool = True, transport: httpx.BaseTransport | None = None
    ) -> None:
        self._http = httpx.Client(
            base_url=f"{address}/api/v1", verify=verify, timeout=SECONDS, trust_env=False, transport=transport
        )
        self._sign: Signer | None = None

    def __enter__(self: S) -> S:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections; the session ends by itself, or by `sign_out`."""
        self._http.close()

    def _enter(self, half: c.Half) -> c.Half:
        self._http.headers["authorization"] = f"Bearer {half.token}"
        return half

    def _full(self, session: c.SessionToken, sign: Signer) -> None:
        self._http.headers["authorization"] = f"Bearer {session.token}"
        self._sign = sign

    def call(self, method: str, path: str, gives: type[T], body: Any = None) -> T:
        """Any endpoint, as the API's description has it. `body`: a contract, or bytes."""
        return msgspec.json.decode(self._send(method, path, body).content, type=gives)

    def _decide(self, path: str) -> str:
        to_sign = self.call("GET", path, c.ToSign)
        return self.call("POST", path, c.Done, c.Signed(self._assert(to_sign))).outcome

    def _signed(self, path: str, content: Any) -> Any:
        to_sign = self.call("POST", f"{path}/to-sign", c.ToSign, content)
        return msgspec.structs.replace(content, assertion=self._assert(to_sign))

    def _assert(self, to_sign: c.ToSign) -> str:
        if self._sign is None:
            raise InputError("sign in first")
        return self._sign(bytes.fromhex(to_sign.digest), to_sign.options)

    def _send(self, method: str, path: str, body: Any = None) -> httpx.Response:
        content = body if body is None or isinstance(body, bytes) else msgspec.json.encode(body)
        try:
            response = self._http.request(method, path, content=b"" if content is None else content)
        except httpx.TransportError as error:
            raise ConsoleUnreachable(f"the console does not answer: {type(error).__name__}") from error
        if response.status_code != 200:
            try:
                problem = msgspec.json.decode(response.content, type=c.Problem)
            except msgspec.DecodeError:
                problem = c.Problem("HTTPError", f"status {response.status_code}")
            raise ConsoleRefused(response.status_code, problem.kind, problem.message)
        return response
