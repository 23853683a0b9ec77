"""Operations of the client on what goes and is recalled, on the node, its logs and its staff."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from nodes.casework.deletion import DisclosureView, RecallView, View
from nodes.console import contracts as c
from nodes.console import oversight as o
from nodes.console.client_base import Caller
from nodes.operator.statistics import Count
from nodes.service.operator_api import Supplies
from nodes.service.under_way import UnderWay


class NodeCaller(Caller):
    """What belongs to no single search."""

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
