"""What a node shows of itself to its own staff: health, gallery, policy, logs, evidence. No personal data."""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from datetime import datetime, timedelta, timezone
from typing import Any

import msgspec
from prometheus_client.parser import text_string_to_metric_families

from nodes.casework.deletion import View
from nodes.casework.statistics import as_csv, as_html
from nodes.console import contracts as c
from nodes.console.accounts import Accounts
from nodes.console.errors import EntryRefused
from nodes.console.operations import Operations
from nodes.console.texts import text
from nodes.evidence.export import export_bundle, open_for_reading
from nodes.identity.identity import load_identity
from nodes.logs.entries import ArticleForty, Kind, retention_end
from nodes.logs.errors import EntryErased
from nodes.operator import client
from nodes.operator.client import NodeNotRunning
from nodes.operator.statistics import Count, statistics
from nodes.service.operator_api import Supplies
from nodes.service.outage import Outage
from nodes.service.under_way import UnderWay
from nodes.store import Status
from nodes.store.subjects import Category
from nodes.verify import load_trust, verify_bundles
from nodes.verify.page import as_data
from protocol.approval import PersonRole
from protocol.roles import Role

OVERSEERS: tuple[PersonRole, ...] = ("data-protection", "supervisor")
LOG_READERS: tuple[PersonRole, ...] = (*OVERSEERS, "admin")
SHOWN_ENTRIES = 500
DAYS = 31
VERIFY_LIMIT = 64 << 20  # bytes of all bundles checked at once
VERIFY_FILES = 16
YEAR = re.compile("[0-9]{4}")


class NodeView(c.Contract, frozen=True):
    """The node. `status`: what it says of itself, null while it does not run.

    `alternative`: what is agreed for when somebody does not answer.
    """

    name: str
    role: Role
    address: str
    fingerprint: str
    running: bool
    health: str
    failing: tuple[str, ...]
    peers: tuple[dict[str, str], ...]
    status: dict[str, Any] | None
    alternative: str


class GalleryView(c.Contract, frozen=True):
    """A holder's gallery. `generation`: counts changes. `models`: digests of the face models of its templates."""

    subjects: int
    generation: int
    models: tuple[str, ...]
    categories: tuple[str, ...]
    forgotten: int


class QuotaView(c.Contract, frozen=True):
    """What a state has used today (R 23(1))."""

    state: str
    identified: int
    identified_limit: int
    unidentified: int
    unidentified_limit: int


class LoggedQuery(c.Contract, frozen=True):
    """An entry of the Article 40 log. Times: milliseconds since 1970. `erased_after`: R 40(3)."""

    requester: str
    request_time: int
    reply_time: int | None
    asked: tuple[str, ...]
    replied: tuple[str, ...]
    erased_after: int


class DayCount(c.Contract, frozen=True):
    """Queries of a state on a UTC day."""

    day: str
    state: str
    asked: int
    answered: int


class HandledView(c.Contract, frozen=True):
    """Somebody handled subjects. `time`: seconds since 1970; `person`: null for the node itself."""

    time: int
    act: str
    person: str | None
    reason: str
    subjects: int
    first: str


class LogView(c.Contract, frozen=True):
    """A tamper-evident log. `checkpoint_time`: milliseconds since 1970."""

    kind: str
    log: str
    size: int
    checkpoint_size: int
    checkpoint_root: str
    checkpoint_time: int


class EvidenceView(c.Contract, frozen=True):
    """Evidence kept of a query. `time`: seconds since 1970."""

    query: str
    time: int
    size: int


class Oversight:
    """For one node, by whoever is on its staff."""

    def __init__(self, operations: Operations, accounts: Accounts) -> None:
        self._operations = operations
        self._accounts = accounts
        self._folder, self._config = operations.folder, operations.config

    def node(self, who: str) -> NodeView:
        """Whether the node runs and is well."""
        self._operations.person(who)
        office, config = self._operations.desk.office, self._config
        up: dict[str, bool] = {}
        outages: dict[str, Outage] = {}
        with suppress(NodeNotRunning):
            up = client.peers(self._folder)
        with suppress(NodeNotRunning):
            outages = client.outages(self._folder).planned
        peers = tuple(
            {
                "name": peer.name,
                "role": peer.role.value,
                "address": peer.address,
                "fingerprint": peer.fingerprint,
                "state": {True: "up", False: "down", None: "unknown"}[up.get(peer.name)],
                **_planned(outages.get(peer.name)),
            }
            for peer in sorted(office.peers.values(), key=lambda peer: peer.name)
            if peer.name != config.name
        )
        try:
            status: dict[str, Any] | None = client.status(self._folder)
            health = client.health(self._folder)
        except NodeNotRunning:
            status, health = None, {"status": "not running"}
        failing = tuple(health.get("failing", ()))
        fingerprint = office.identity.peer.fingerprint
        return NodeView(
            config.name, config.role, config.address, fingerprint, status is not None, health["status"], failing,
            peers, status, self._operations.config.casework.alternative,
        )  # fmt: skip

    def under_way(self, who: str) -> Sequence[UnderWay]:
        """Queries under way. Raises `NodeNotRunning`."""
        self._operations.person(who)
        return client.queries(self._folder)

    def preparations(self, who: str) -> Supplies:
        """Preparations that wait at this node: for whom, since when, until when. Raises `NodeNotRunning`."""
        self._operations.person(who)
        return client.preparations(self._folder)

    def refusals(self, who: str) -> dict[str, int]:
        """Queries refused before any work since the node started, by code. Raises `NodeNotRunning`."""
        self._operations.person(who).needs(*OVERSEERS, "admin", "releaser")
        counts: dict[str, int] = {}
        for family in text_string_to_metric_families(client.metrics(self._folder)):
            for sample in family.samples:
                if sample.name == "lineup_refusals_total":
                    counts[sample.labels["code"]] = int(sample.value)
        return counts

    def gallery(self, who: str) -> GalleryView:
        """The gallery's size and version. Raises `EntryRefused` at another role's node."""
        self._operations.person(who)
        store = self._operations.desk.office.gallery
        if store is None:
            raise EntryRefused(text("refused.gallery").format(node=self._config.name, role=self._config.role.value))
        models = tuple(sorted(digest.hex() for digest in store.models()))
        categories = tuple(sorted(Category(kind).value for kind in store.categories))
        return GalleryView(store.count(), store.generation, models, categories, len(store.deletions()))

    def policy(self, who: str) -> dict[str, Any]:
        """The node's policy as it stands in node.toml."""
        self._operations.person(who)
        told: dict[str, Any] = msgspec.to_builtins(self._config.policy)
        return told

    def quotas(self, who: str) -> tuple[QuotaView, ...]:
        """What each state used today."""
        self._operations.person(who)
        store, policy = self._operations.desk.office.gallery, self._config.policy
        if store is None:
            return ()
        day = datetime.now(timezone.utc).date()
        return tuple(
            QuotaView(
                state,
                store.quota_used(state, Status.IDENTIFIED, day),
                policy.quota_identified_per_day,
                store.quota_used(state, Status.UNIDENTIFIED, day),
                policy.quota_unidentified_per_day,
            )
            for state in sorted(policy.states)
        )

    def article_forty(self, who: str, reason: c.Reason) -> list[LoggedQuery]:
        """The last entries of the Article 40 log, the newest first; the look is written down with its reason."""
        self._look(who, LOG_READERS, "article-40 log", reason)
        return [
            LoggedQuery(one.requester, one.request_time, one.reply_time, one.asked, one.replied,
                        retention_end(one.request_time))
            for one in self._entries()
        ][:SHOWN_ENTRIES]  # fmt: skip

    def days(self, who: str) -> list[DayCount]:
        """Queries by state and day, of the last days, from the Article 40 log."""
        self._operations.person(who).needs(*OVERSEERS)
        since = datetime.now(timezone.utc) - timedelta(DAYS)
        asked: Counter[tuple[str, str]] = Counter()
        answered: Counter[tuple[str, str]] = Counter()
        for one in self._entries():
            moment = datetime.fromtimestamp(one.request_time / 1000, timezone.utc)
            if moment >= since:
                cell = (moment.date().isoformat(), one.requester[:2])
                asked[cell] += 1
                answered[cell] += bool(one.replied)
        return [DayCount(*cell, asked[cell], answered[cell]) for cell in sorted(asked, reverse=True)]

    def statistics(self, who: str, year: str) -> tuple[Count, ...]:
        """Counts of a year that is over, small ones not told (R 72(1))."""
        self._operations.person(who).needs(*OVERSEERS, "admin")
        return statistics(self._folder, _year(year), datetime.now(timezone.utc))

    def report(self, who: str, year: str, form: str) -> bytes:
        """The yearly report as a file, `form` html or csv."""
        self._operations.person(who).needs(*OVERSEERS, "admin")
        if form not in ("html", "csv"):
            raise EntryRefused(text("refused.form").format(form=form[:20]))
        told = self._operations.desk.statistics(_year(year))
        return (as_csv(told) if form == "csv" else as_html(told)).encode()

    def logs(self, who: str) -> list[LogView]:
        """The node's logs and their last checkpoints."""
        self._operations.person(who).needs(*OVERSEERS, "admin")
        kinds: tuple[Kind, ...] = ("article-40", "transcript")
        told = []
        for kind in kinds:
            if (self._config.paths.logs / kind).is_dir():
                with open_for_reading(load_identity(self._folder), self._folder, kind) as log:
                    last = log.last_checkpoint
                    told.append(LogView(kind, log.header.log.hex(), log.size, last.size, last.root.hex(), last.time))
        return told

    def evidence(self, who: str) -> list[EvidenceView]:
        """Queries of which this node keeps evidence, the newest first."""
        self._operations.person(who).needs(*OVERSEERS)
        kept = [path for path in (self._folder / "evidence").glob("*") if path.is_file() and len(path.name) == 32]
        views = [EvidenceView(path.name, int(path.stat().st_mtime), path.stat().st_size) for path in kept]
        return sorted(views, key=lambda view: (-view.time, view.query))

    def bundle(self, who: str, query: str) -> bytes:
        """The evidence of one query, signed. Raises `EvidenceError`."""
        self._operations.person(who).needs(*OVERSEERS)
        return export_bundle(self._folder, query)

    def verify(self, who: str, form: c.VerifyForm) -> dict[str, Any]:
        """Check evidence against the public identities that this node trusts."""
        self._operations.person(who).needs(*OVERSEERS)
        bundles = form.bundles
        size = sum(map(len, bundles))
        if not 0 < len(bundles) <= VERIFY_FILES or size > VERIFY_LIMIT:
            counts = {"count": len(bundles), "size": size, "most": VERIFY_FILES, "limit": VERIFY_LIMIT}
            raise EntryRefused(text("refused.bundles").format(**counts))
        unique = {hashlib.sha256(data).digest(): data for data in bundles}
        return as_data(verify_bundles(list(unique.values()), load_trust(self._config.paths.peers)), [])

    def handled(self, who: str, reason: c.Reason) -> list[HandledView]:
        """Who enrolled, changed, deleted or looked up whom, the last first; the look is written down."""
        self._look(who, LOG_READERS, "gallery log", reason)
        store = self._operations.desk.office.gallery
        if store is None:
            return []
        return [
            HandledView(int(one.time.timestamp()), one.act, one.person, one.reason, len(one.references),
                        next(iter(one.references), ""))
            for one in reversed(store.handled())
        ][:SHOWN_ENTRIES]  # fmt: skip

    def views(self, who: str, reason: c.Reason) -> list[View]:
        """Who looked at personal data, when and why; this look is written down too, and stands first."""
        self._look(who, OVERSEERS, "views", reason)
        return self._operations.desk.views(self._operations.person(who))

    # Staff

    def staff(self, who: str, reason: c.Reason) -> list[c.PersonView]:
        """The staff list (R 64(1)(g)); the look is written down."""
        self._look(who, LOG_READERS, "staff list", reason)
        return [
            c.PersonView(
                one.handle, one.name, tuple(sorted(one.roles)), None if one.key is None else one.key.kind,
                None if one.key is None else one.key.fingerprint.hex(), one.active,
            )
            for one in self._operations.desk.staff()
        ]  # fmt: skip

    def add_person(self, who: str, new: c.NewPerson) -> c.Invitation:
        """Enrol a person, and invite it to set a password and a key."""
        self._operations.desk.add_person(self._operations.person(who), new.handle, new.name, new.roles)
        return c.Invitation(new.handle, self._accounts.invite(new.handle))

    def invite(self, who: str, handle: str) -> c.Invitation:
        """A new invitation for somebody who lost password or key; what they had ends."""
        self._operations.person(who).needs("admin")
        person = self._operations.person(handle)
        return c.Invitation(person.handle, self._accounts.invite(person.handle))

    def close_account(self, who: str, handle: str) -> c.Done:
        """End what a person may do, and every session."""
        desk = self._operations.desk
        desk.close_account(self._operations.person(who), desk.person(handle))
        self._accounts.shut(handle)
        return c.Done("closed")

    def door_log(self, who: str, reason: c.Reason) -> list[c.DoorView]:
        """What happened at the door, the last first; the look is written down."""
        self._look(who, LOG_READERS, "door", reason)
        return [c.DoorView(*one) for one in self._accounts.door()]

    def _look(self, who: str, roles: tuple[PersonRole, ...], what: str, reason: c.Reason) -> None:
        person = self._operations.person(who)
        person.needs(*roles)
        self._operations.desk.note_look(person, what, reason.reason, "audit")

    def _entries(self) -> list[ArticleForty]:
        if not (self._config.paths.logs / "article-40").is_dir():
            return []
        found: list[ArticleForty] = []
        with open_for_reading(load_identity(self._folder), self._folder, "article-40") as log:
            for index in range(log.size - 1, -1, -1):
                try:
                    entry = log.read(index)
                except EntryErased:
                    continue
                assert isinstance(entry, ArticleForty)
                found.append(entry)
        return found


def _planned(outage: Outage | None) -> dict[str, str]:
    if outage is None:
        return {}
    begins, ends = (moment.astimezone(timezone.utc).isoformat() for moment in (outage.begins, outage.ends))
    return {"outage-begins": begins, "outage-ends": ends, "outage-why": outage.why}


def _year(told: str) -> int:
    if not YEAR.fullmatch(told):
        raise EntryRefused(text("refused.year").format(year=told[:20]))
    return int(told)
