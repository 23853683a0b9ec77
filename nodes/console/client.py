"""A typed client of the operator's API, for programs that act for a person.

::

    with ConsoleClient("https://console.fr.example") as client:
        client.sign_in("olivia", password, key_file(Path("olivia.key")))
        query = client.open_query(QueryForm(...))
"""

from __future__ import annotations

import json
import ssl
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, TypeVar

import httpx
import msgspec

from nodes.casework.cases import QueryView
from nodes.casework.core_data import RequestView
from nodes.casework.deletion import DisclosureView, RecallView, View
from nodes.casework.outcomes import MatchView
from nodes.casework.persons import sign_with_file
from nodes.casework.review import BlindCandidate
from nodes.console import contracts as c
from nodes.console import oversight as o
from nodes.operator.statistics import Count
from nodes.service.operator_api import Supplies
from nodes.service.under_way import UnderWay
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

    Every operation that the API describes is reached by one of its methods; those that sign ask first what is signed.
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

    # The door

    def unclaimed(self) -> bool:
        """Whether the first administrator is to come."""
        return self.call("GET", "/first", bool)

    def first(self, given: c.First) -> c.Half:
        """Be the first administrator; `set_key` comes next."""
        return self._enter(self.call("POST", "/first", c.Half, given))

    def join(self, given: c.Joining) -> c.Half:
        """Take up an invitation; `set_key` comes next."""
        return self._enter(self.call("POST", "/join", c.Half, given))

    def set_key(self, key: c.NewKey, sign: Signer) -> None:
        """Show one's own key, over the challenge of `first`, `join` or `challenge`. `sign`: for decisions."""
        self._full(self.call("POST", "/session/new-key", c.SessionToken, key), sign)

    def challenge(self) -> c.Half:
        """Something fresh to sign, in a session that waits for a key."""
        return self.call("POST", "/session/challenge", c.Half)

    def sign_in(self, handle: str, password: str, sign: Signer) -> None:
        """Both factors. `sign` signs the person's decisions too."""
        half = self._enter(self.call("POST", "/session", c.Half, c.Credentials(handle, password)))
        signed = c.Signed(sign(bytes.fromhex(half.challenge), half.options))
        self._full(self.call("POST", "/session/key", c.SessionToken, signed), sign)

    def sign_out(self) -> None:
        """End the session."""
        self.call("DELETE", "/session", c.Done)

    def me(self) -> c.Me:
        """Who is signed in."""
        return self.call("GET", "/me", c.Me)

    # A search

    def holders(self) -> tuple[str, ...]:
        """Whom this node can ask."""
        return self.call("GET", "/holders", tuple[str, ...])

    def upload(self, photo: bytes) -> c.IntakeView:
        """Upload a photo, or an ANSI/NIST-ITL file with one face."""
        return self.call("POST", "/photos", c.IntakeView, photo)

    def intake(self, intake: str) -> c.IntakeView:
        """One's own upload, as long as it waits."""
        return self.call("GET", f"/photos/{intake}", c.IntakeView)

    def picture(self, intake: str) -> bytes:
        """Its picture: a JPEG."""
        return self._send("GET", f"/photos/{intake}/picture").content

    def open_query(self, form: c.QueryForm) -> str:
        """Put a query up for approval; gives its identity."""
        return self.call("POST", "/queries", c.Made, form).id

    def queries(self) -> list[QueryView]:
        """The history."""
        return self.call("GET", "/queries", list[QueryView])

    def query(self, query: str) -> QueryView:
        """One query."""
        return self.call("GET", f"/queries/{query}", QueryView)

    def case(self, query: str, reason: str) -> c.Case:
        """Justification and probe; written down with the reason."""
        return self.call("POST", f"/queries/{query}/case", c.Case, c.Reason(reason))

    def progress(self, query: str) -> c.Progress:
        """How far a search is, by country."""
        return self.call("GET", f"/queries/{query}/progress", c.Progress)

    def approve(self, query: str) -> None:
        """Approve a launch: sign it."""
        self._decide(f"/queries/{query}/launch")

    def authorise(self, query: str, reference: str) -> None:
        """Lodge a judicial authorisation."""
        self.call("POST", f"/queries/{query}/authorisation", c.Done, c.Made(reference))

    def stop(self, query: str) -> str:
        """The authorisation was refused: stop and delete; says how much."""
        return self.call("POST", f"/queries/{query}/stop", c.Done).outcome

    # Review

    def candidates(self, query: str) -> list[BlindCandidate]:
        """The candidates, in this reviewer's own order."""
        return self.call("GET", f"/queries/{query}/candidates", list[BlindCandidate])

    def pictures(self, query: str, candidate: str, reason: str) -> c.Pictures:
        """A candidate beside the probe; written down with the reason."""
        return self.call("POST", f"/queries/{query}/candidates/{candidate}", c.Pictures, c.Reason(reason))

    def decide(self, candidate: str, decided: c.Decided) -> str:
        """Lock one's decision; gives the outcome so far."""
        return self.call("POST", f"/candidates/{candidate}/decision", c.Done, decided).outcome

    def outcome(self, candidate: str) -> str:
        """How a candidate's review ended, or stands."""
        return self.call("GET", f"/candidates/{candidate}/outcome", c.Done).outcome

    def votes(self, candidate: str, reason: str) -> list[c.VoteView]:
        """Who found what, once the review is over; written down with the reason."""
        return self.call("POST", f"/candidates/{candidate}/votes", list[c.VoteView], c.Reason(reason))

    def confirm(self, candidate: str) -> str:
        """Sign a match; gives the outcome so far."""
        return self._decide(f"/candidates/{candidate}/confirmation")

    def matches(self, query: str) -> list[MatchView]:
        """How the candidates of a search ended."""
        return self.call("GET", f"/queries/{query}/matches", list[MatchView])

    def export(self, candidate: str, reason: str, receiver: str = "") -> bytes:
        """A candidate as an ANSI/NIST-ITL file; written down with the reason."""
        return self._send("POST", f"/candidates/{candidate}/type-10", c.Export(reason, receiver)).content

    # Core data

    def ask(self, candidate: str, wanted: c.Wanted) -> str:
        """Ask for core data: signed; gives the request's identity."""
        signed = self._signed(f"/candidates/{candidate}/core-data", wanted)
        return self.call("POST", f"/candidates/{candidate}/core-data", c.Made, signed).id

    def requests(self) -> list[RequestView]:
        """Requests for core data."""
        return self.call("GET", "/requests", list[RequestView])

    def request_content(self, request: str, reason: str) -> c.RequestContent:
        """Facts, or the core data once released; written down with the reason."""
        return self.call("POST", f"/requests/{request}", c.RequestContent, c.Reason(reason))

    def release(self, request: str, release: c.Release) -> None:
        """Release core data: signed."""
        self.call("POST", f"/requests/{request}/release", c.Done, self._signed(f"/requests/{request}/release", release))

    def refuse(self, request: str, refusal: c.Refusal) -> None:
        """Refuse core data: signed."""
        self.call("POST", f"/requests/{request}/refusal", c.Done, self._signed(f"/requests/{request}/refusal", refusal))

    def pause(self, request: str, reason: str) -> None:
        """Stop the clock while judicial authorisation is sought."""
        self.call("POST", f"/requests/{request}/pause", c.Done, c.Reason(reason))

    def resume(self, request: str) -> None:
        """Let the clock run on."""
        self.call("POST", f"/requests/{request}/resume", c.Done)

    # What goes, and what is recalled

    def delete(self, candidate: str) -> str:
        """What was received about a candidate is not needed any more; gives the receipt's digest."""
        return self.call("DELETE", f"/candidates/{candidate}", c.Done).outcome

    def transfer(self, candidate: str, transfer: c.Transfer) -> None:
        """Note an onward transfer."""
        self.call("POST", f"/candidates/{candidate}/transfer", c.Done, transfer)

    def recall(self, form: c.RecallForm) -> str:
        """Recall a reference; gives whom was told."""
        return self.call("POST", "/recalls", c.Done, form).outcome

    def recalls(self) -> list[RecallView]:
        """Recalls, and whether they were answered."""
        return self.call("GET", "/recalls", list[RecallView])

    def disclosures(self) -> list[DisclosureView]:
        """What was given to whom, and deleted there."""
        return self.call("GET", "/disclosures", list[DisclosureView])

    # The node

    def node(self) -> o.NodeView:
        """Health, peers, what the node says of itself."""
        return self.call("GET", "/node", o.NodeView)

    def under_way(self) -> list[UnderWay]:
        """Queries in flight."""
        return self.call("GET", "/under-way", list[UnderWay])

    def preparations(self) -> Supplies:
        """Preparations that wait at the node: for whom, since when, until when."""
        return self.call("GET", "/preparations", Supplies)

    def refusals(self) -> dict[str, int]:
        """Queries refused since the node started, by code."""
        return self.call("GET", "/refusals", dict[str, int])

    def gallery(self) -> o.GalleryView:
        """A holder's gallery: size and version."""
        return self.call("GET", "/gallery", o.GalleryView)

    def handled(self, reason: str) -> list[o.HandledView]:
        """Who enrolled, changed, deleted or looked up whom; written down with the reason."""
        return self.call("POST", "/gallery/log", list[o.HandledView], c.Reason(reason))

    def policy(self) -> dict[str, Any]:
        """The node's policy."""
        return self.call("GET", "/policy", dict[str, Any])

    def quotas(self) -> tuple[o.QuotaView, ...]:
        """What each state used today."""
        return self.call("GET", "/quotas", tuple[o.QuotaView, ...])

    def article_forty(self, reason: str) -> list[o.LoggedQuery]:
        """The Article 40 log; written down with the reason."""
        return self.call("POST", "/article-40", list[o.LoggedQuery], c.Reason(reason))

    def days(self) -> list[o.DayCount]:
        """Queries by state and day."""
        return self.call("GET", "/days", list[o.DayCount])

    def statistics(self, year: int) -> tuple[Count, ...]:
        """A year's counts."""
        return self.call("GET", f"/statistics/{year:04d}", tuple[Count, ...])

    def report(self, year: int, form: Literal["html", "csv"]) -> bytes:
        """The yearly report as a file."""
        return self._send("GET", f"/reports/{year:04d}/{form}").content

    def logs(self) -> list[o.LogView]:
        """Logs and checkpoints."""
        return self.call("GET", "/logs", list[o.LogView])

    def evidence(self) -> list[o.EvidenceView]:
        """Queries of which evidence is kept."""
        return self.call("GET", "/evidence", list[o.EvidenceView])

    def bundle(self, query: str) -> bytes:
        """A query's evidence."""
        return self._send("GET", f"/evidence/{query}").content

    def verify(self, bundles: Sequence[bytes]) -> dict[str, Any]:
        """Check evidence."""
        return self.call("POST", "/verify", dict[str, Any], c.VerifyForm(tuple(bundles)))

    def views(self, reason: str) -> list[View]:
        """Who looked at personal data; written down with the reason."""
        return self.call("POST", "/views", list[View], c.Reason(reason))

    # Staff

    def staff(self, reason: str) -> list[c.PersonView]:
        """The staff list; written down with the reason."""
        return self.call("POST", "/staff-list", list[c.PersonView], c.Reason(reason))

    def door_log(self, reason: str) -> list[c.DoorView]:
        """What happened at the door; written down with the reason."""
        return self.call("POST", "/door", list[c.DoorView], c.Reason(reason))

    def add_person(self, new: c.NewPerson) -> c.Invitation:
        """Add and invite a person."""
        return self.call("POST", "/staff", c.Invitation, new)

    def invite(self, handle: str) -> c.Invitation:
        """Invite somebody again; what they had ends."""
        return self.call("POST", f"/staff/{handle}/invitation", c.Invitation)

    def close_account(self, handle: str) -> None:
        """End what a person may do."""
        self.call("DELETE", f"/staff/{handle}", c.Done)

    def call(self, method: str, path: str, gives: type[T], body: Any = None) -> T:
        """Any endpoint, as the API's description has it. `body`: a contract, or bytes."""
        return msgspec.json.decode(self._send(method, path, body).content, type=gives)

    def _enter(self, half: c.Half) -> c.Half:
        self._http.headers["authorization"] = f"Bearer {half.token}"
        return half

    def _full(self, session: c.SessionToken, sign: Signer) -> None:
        self._http.headers["authorization"] = f"Bearer {session.token}"
        self._sign = sign

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
