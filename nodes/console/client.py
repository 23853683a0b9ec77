"""A typed client of the operator's API, for programs that act for a person.

::

    with ConsoleClient("https://console.fr.example") as client:
        client.sign_in("olivia", password, key_file(Path("olivia.key")))
        query = client.open_query(QueryForm(...))
"""

from __future__ import annotations

from nodes.casework.cases import QueryView
from nodes.casework.core_data import RequestView
from nodes.casework.outcomes import MatchView
from nodes.casework.review import BlindCandidate
from nodes.console import contracts as c
from nodes.console.client_base import ConsoleRefused, ConsoleUnreachable, Signer, key_file, passkey
from nodes.console.client_node import NodeCaller

__all__ = ["ConsoleClient", "ConsoleRefused", "ConsoleUnreachable", "Signer", "key_file", "passkey"]


class ConsoleClient(NodeCaller):
    """One person's session. `address`: https://host:port. `verify`, `transport`: as httpx has them.

    Every operation that the API describes is reached by one of its methods; those that sign ask first what is signed.
    Methods raise `ConsoleRefused` with the console's reason, `ConsoleUnreachable`.
    """

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
        """Put a query up for approval; gives its ID."""
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

    def export(self, candidate: str, reason: str, receiver: str = "", authorisation: str = "") -> bytes:
        """A candidate as an ANSI/NIST-ITL file; written down with reason and receiver."""
        asked = c.Export(reason, receiver, authorisation)
        return self._send("POST", f"/candidates/{candidate}/type-10", asked).content

    # Core data

    def ask(self, candidate: str, wanted: c.Wanted) -> str:
        """Ask for core data: signed; gives the request's ID."""
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
