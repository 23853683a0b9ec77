"""A typed client of the operator's API, for programs that act for a person.

::

    with ConsoleClient("https://console.fr.example") as client:
        client.sign_in("olivia", password, key_file(Path("olivia.key")))
        query = client.open_query(QueryForm(...))
"""

from __future__ import annotations

import json
import ssl
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

import httpx
import msgspec

from nodes.casework.cases import QueryView
from nodes.casework.core_data import RequestView
from nodes.casework.outcomes import MatchView
from nodes.casework.persons import sign_with_file
from nodes.casework.review import BlindCandidate
from nodes.console import contracts as c
from nodes.service.operator_api import Supplies
from pets.errors import InputError, LineupError

T = TypeVar("T")
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


class ConsoleClient:
    """One person's session. `address`: https://host:port. `verify`, `transport`: as httpx has them.

    Methods raise `ConsoleRefused` with the console's reason, `ConsoleUnreachable`.
    """

    def __init__(
        self, address: str, *, verify: ssl.SSLContext | bool = True, transport: httpx.BaseTransport | None = None
    ) -> None:
        self._http = httpx.Client(
            base_url=f"{address}/api/v1", verify=verify, timeout=SECONDS, trust_env=False, transport=transport
        )
        self._sign: Signer | None = None

    def __enter__(self) -> ConsoleClient:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections; the session ends by itself, or by `sign_out`."""
        self._http.close()

    def sign_in(self, handle: str, password: str, sign: Signer) -> None:
        """Both factors. `sign` signs the person's decisions too."""
        half = self.call("POST", "/session", c.Half, c.Credentials(handle, password))
        self._http.headers["authorization"] = f"Bearer {half.token}"
        signed = c.Signed(sign(bytes.fromhex(half.challenge), half.options))
        session = self.call("POST", "/session/key", c.SessionToken, signed)
        self._http.headers["authorization"] = f"Bearer {session.token}"
        self._sign = sign

    def sign_out(self) -> None:
        """End the session."""
        self.call("DELETE", "/session", c.Done)

    def me(self) -> c.Me:
        """Who is signed in."""
        return self.call("GET", "/me", c.Me)

    def upload(self, photo: bytes) -> c.IntakeView:
        """Upload a photo."""
        return self.call("POST", "/photos", c.IntakeView, photo)

    def open_query(self, form: c.QueryForm) -> str:
        """Put a query up for approval; gives its ID."""
        return self.call("POST", "/queries", c.Made, form).id

    def queries(self) -> list[QueryView]:
        """The history."""
        return self.call("GET", "/queries", list[QueryView])

    def case(self, query: str, reason: str) -> c.Case:
        """Justification and probe; written down with the reason."""
        return self.call("POST", f"/queries/{query}/case", c.Case, c.Reason(reason))

    def progress(self, query: str) -> c.Progress:
        """How far a search is, by country."""
        return self.call("GET", f"/queries/{query}/progress", c.Progress)

    def preparations(self) -> Supplies:
        """Preparations that wait at the node: for whom, since when, until when."""
        return self.call("GET", "/preparations", Supplies)

    def approve(self, query: str) -> None:
        """Approve a launch: sign it."""
        self._decide(f"/queries/{query}/launch")

    def candidates(self, query: str) -> list[BlindCandidate]:
        """The candidates, in this reviewer's own order."""
        return self.call("GET", f"/queries/{query}/candidates", list[BlindCandidate])

    def pictures(self, query: str, candidate: str, reason: str) -> c.Pictures:
        """A candidate beside the probe."""
        return self.call("POST", f"/queries/{query}/candidates/{candidate}", c.Pictures, c.Reason(reason))

    def decide(self, candidate: str, decided: c.Decided) -> str:
        """Lock one's decision; gives the outcome so far."""
        return self.call("POST", f"/candidates/{candidate}/decision", c.Done, decided).outcome

    def confirm(self, candidate: str) -> str:
        """Sign a match; gives the outcome so far."""
        return self._decide(f"/candidates/{candidate}/confirmation")

    def matches(self, query: str) -> list[MatchView]:
        """How the candidates of a search ended."""
        return self.call("GET", f"/queries/{query}/matches", list[MatchView])

    def ask(self, candidate: str, wanted: c.Wanted) -> str:
        """Ask for core data: signed; gives the request's ID."""
        signed = self._signed(f"/candidates/{candidate}/core-data/to-sign", wanted)
        return self.call("POST", f"/candidates/{candidate}/core-data", c.Made, signed).id

    def requests(self) -> list[RequestView]:
        """Requests for core data."""
        return self.call("GET", "/requests", list[RequestView])

    def request_content(self, request: str, reason: str) -> c.RequestContent:
        """Facts, or the core data once released."""
        return self.call("POST", f"/requests/{request}", c.RequestContent, c.Reason(reason))

    def release(self, request: str, release: c.Release) -> None:
        """Release core data: signed."""
        signed = self._signed(f"/requests/{request}/release/to-sign", release)
        self.call("POST", f"/requests/{request}/release", c.Done, signed)

    def recall(self, form: c.RecallForm) -> str:
        """Recall a reference; gives whom was told."""
        return self.call("POST", "/recalls", c.Done, form).outcome

    def bundle(self, query: str) -> bytes:
        """A query's evidence."""
        return self._send("GET", f"/evidence/{query}").content

    def call(self, method: str, path: str, gives: type[T], body: Any = None) -> T:
        """Any endpoint, as the API's description has it. `body`: a contract, or bytes."""
        return msgspec.json.decode(self._send(method, path, body).content, type=gives)

    def _decide(self, path: str) -> str:
        to_sign = self.call("GET", path, c.ToSign)
        return self.call("POST", path, c.Done, c.Signed(self._assert(to_sign))).outcome

    def _signed(self, path: str, content: Any) -> Any:
        to_sign = self.call("POST", path, c.ToSign, content)
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
