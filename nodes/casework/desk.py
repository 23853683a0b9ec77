"""`CaseDesk`: everything that persons do. Each method takes who acts, checks role and order, and takes effect whole.

What must be signed is asked for first (`to_sign`), signed with the person's key, and handed in as `assertion`. What a
decision asks other nodes for is queued; the running node delivers it (`nodes.service.follow_up`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, Concatenate, ParamSpec, TypeVar

import msgspec
from sqlalchemy import select
from sqlalchemy.orm import Session

from nodes.casework import cases, core_data, deletion, outcomes, persons, review
from nodes.casework.contents import Draft, Probe, SealedRequest, Verdict, Vote
from nodes.casework.errors import CaseRefused, UnknownThing
from nodes.casework.exchange.export import candidate_file
from nodes.casework.office import Office
from nodes.casework.persons import Person
from nodes.casework.statistics import YearlyReport, yearly_report
from nodes.casework.tables import QueryRow, StatementRow
from nodes.casework.vault import Vault
from nodes.config.names import FOLLOW_UP
from nodes.config.schema import NodeConfig, Role
from nodes.config.storage import open_store
from nodes.config.storage_key import storage_key
from nodes.identity.identity import NodeIdentity, Peer, load_identity, load_peers
from nodes.identity.peers import Peers, read_again
from nodes.logs.of_node import has_entries
from nodes.store import StoreCorrupted
from nodes.store.database import is_empty
from nodes.store.store import GalleryStore
from protocol.approval import ROLE_FOR, Assertion, Decision, PersonKey, PersonRole
from protocol.follow_up import CoreDataField, RecallKind, RefusalReason, digest_to_sign

FILE = "casework.db"
P = ParamSpec("P")
R = TypeVar("R")


def utc() -> datetime:
    """Now."""
    return datetime.now(timezone.utc)


def database_url(config: NodeConfig, folder: Path) -> str:
    """Where a node keeps its cases: `casework.url`, else casework.db in its folder."""
    return config.casework.url or f"sqlite:///{folder.absolute() / FILE}"


def has_content(file: Path) -> bool:
    """Whether there is a database: an empty file would be begun anew, as if there had been nothing."""
    return file.is_file() and file.stat().st_size > 0


def is_there(config: NodeConfig, folder: Path) -> bool:
    """Whether a node's database of cases is there, and has tables: a file that was copied without its log has none.

    Raises `StoreError` for one in PostgreSQL that does not answer, or a file that is damaged.
    """
    if config.casework.url is None and not has_content(folder / FILE):
        return False
    return not is_empty(database_url(config, folder))


def was_begun(config: NodeConfig, folder: Path) -> bool:
    """Whether a node had a database of cases, as its logs and its evidence tell: it is begun before their first entry.

    A router, where nobody decides, has one only if it has a console.
    """
    if config.role is Role.ROUTER:
        return False
    return has_entries(config.paths.logs) or bool(list((folder / FOLLOW_UP).glob("[0-9a-f]*")))


def begin(config: NodeConfig, folder: Path) -> None:
    """Begin the database of a node that never had one; for whoever is about to make the first entry of its logs."""
    if config.role is not Role.ROUTER and not was_begun(config, folder):
        Vault(database_url(config, folder), storage_key(config)).close()


class CaseDesk:
    """The casework of one node. Safe to use from many threads, and from several processes at once.

    Raises `CaseworkError`s (`nodes.casework.errors`) and `StoreError`s; nothing was changed then.
    """

    def __init__(self, office: Office, folder: Path | None = None) -> None:
        self.office = office
        self._folder = folder

    @classmethod
    def open(cls, folder: Path, clock: Callable[[], datetime] = utc) -> CaseDesk:
        """The desk of a node's folder, whether or not the node runs."""
        identity = load_identity(folder)
        config = identity.config
        gallery = open_store(config) if config.role is Role.HOLDER else None
        try:
            return cls.of_node(identity, Peers(load_peers(config)), folder, gallery, clock)
        except BaseException:
            if gallery is not None:
                gallery.close()
            raise

    @classmethod
    def of_node(
        cls,
        identity: NodeIdentity,
        peers: Mapping[str, Peer],
        folder: Path,
        gallery: GalleryStore | None,
        clock: Callable[[], datetime] = utc,
    ) -> CaseDesk:
        """The desk inside a running node. Raises `StoreCorrupted` if the database is gone that there was."""
        config = identity.config
        check_there(config, folder)
        vault = Vault(database_url(config, folder), storage_key(config))
        return cls(Office(identity, peers, vault, config.casework, clock, gallery), folder)

    def read_peers_again(self) -> None:
        """Know the peers as a running node does; for a program that opened this desk and goes on for long.

        Raises `InputError` where they cannot be read.
        """
        peers = self.office.peers
        if isinstance(peers, Peers) and self._folder is not None:
            peers.replace(read_again(self._folder, peers).peers)

    def close(self) -> None:
        """Close the databases."""
        self.office.vault.close()
        if self.office.gallery is not None:
            self.office.gallery.close()

    def __enter__(self) -> CaseDesk:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # Staff

    def add_person(
        self,
        actor: Person | None,
        handle: str,
        name: str,
        roles: Sequence[PersonRole],
        key: PersonKey | None = None,
    ) -> Person:
        """Enrol a person. `actor`: an admin; None is whoever holds the node's folder."""
        if actor is not None:
            self._fresh(actor).needs("admin")
        with self.office.vault.writing() as session:
            return persons.add(self.office, session, handle, name, roles, key)

    def set_key(self, actor: Person | None, person: Person, key: PersonKey) -> None:
        """Give a person a key: the person itself while it has none, else an admin."""
        if actor is not None and not (actor.id == person.id and person.key is None):
            self._fresh(actor).needs("admin")
        with self.office.vault.writing() as session:
            persons.set_key(session, person.id, key)

    def close_account(self, actor: Person | None, person: Person) -> None:
        """End what a person may do."""
        if actor is not None:
            self._fresh(actor).needs("admin")
        with self.office.vault.writing() as session:
            persons.close_account(session, person.id)

    def person(self, handle: str) -> Person:
        """A person by handle. Raises `UnknownThing`."""
        with self.office.vault.reading() as session:
            return persons.by_handle(self.office, session, handle)

    def staff(self) -> list[Person]:
        """Everybody (R 64(1)(g)). Whoever shows it to somebody notes that (`note_look`)."""
        with self.office.vault.reading() as session:
            return persons.everybody(self.office, session)

    def settled(self) -> bool:
        """Whether nothing waits for the running node to log or deliver it."""
        with self.office.vault.reading() as session:
            waits = StatementRow.logged.is_(False) | (StatementRow.state == "queued")
            return session.scalar(select(StatementRow.id).where(waits).limit(1)) is None

    # From a draft to a confirmed match

    def open_query(self, person: Person, draft: Draft) -> str:
        """Put a search up for a second person's approval; gives the query's ID."""
        return self._write(person, cases.open_query, draft)

    def approve_launch(self, person: Person, query: str, assertion: Assertion | None) -> None:
        """A second person approves: the node starts the search as soon as it runs."""
        self._write(person, cases.approve_launch, query, assertion)

    def authorise(self, person: Person, query: str, reference: str) -> None:
        """Lodge the judicial authorisation of a search (AIA 26(10))."""
        self._write(person, cases.authorise, query, reference)

    def authorisation_refused(self, person: Person, query: str) -> list[deletion.Receipt]:
        """The authorisation was refused: stop, and delete everything linked to the search (AIA 26(10))."""
        person = self._fresh(person)
        person.needs("officer", "approver", "data-protection")
        with self.office.vault.writing() as session:
            done = deletion.stop(self.office, session, cases.row_of(session, query))
        self.office.vault.wipe_log()
        return done

    def queries(self, person: Person) -> list[cases.QueryView]:
        """All searches, the last first, without probe and justification."""
        self._fresh(person)
        with self.office.vault.reading() as session:
            rows = session.scalars(select(QueryRow).order_by(QueryRow.opened.desc(), QueryRow.id))
            return [cases.view_of(self.office, session, row) for row in rows]

    def query(self, person: Person, query: str) -> cases.QueryView:
        """One search. Raises `UnknownThing`."""
        self._fresh(person)
        with self.office.vault.reading() as session:
            return cases.view_of(self.office, session, cases.row_of(session, query))

    def candidates_for(self, person: Person, query: str) -> list[review.BlindCandidate]:
        """The candidates in this reviewer's own random order, without rank, score or anybody's word."""
        return self._read(person, review.candidates_for, query)

    def lock_decision(self, person: Person, candidate: str, verdict: Verdict, note: str) -> review.Outcome:
        """Lock one's decision, once. A candidate that all found not to be the person is deleted at once."""
        person = self._fresh(person)
        with self.office.vault.writing() as session:
            review.lock_decision(self.office, session, person, candidate, verdict, note)
            outcome = review.outcome(session, candidate)
            if outcome == "no match":
                row = review.candidate_row(session, candidate)
                deletion.delete_candidate(self.office, session, row, "not-confirmed")
        return outcome

    def outcome(self, candidate: str) -> review.Outcome:
        """The outcome; *under review* tells nothing of who has decided, or how."""
        with self.office.vault.reading() as session:
            return review.outcome(session, candidate)

    def votes(self, person: Person, candidate: str, reason: str) -> list[tuple[str, Vote]]:
        """Who found what, once the review is over; the look is written down. Raises `NotYetLocked` before."""
        person = self._fresh(person)
        with self.office.vault.writing() as session:
            found = review.votes_seen_by(self.office, session, person, candidate)
            deletion.note_view(self.office, session, person, f"notes:{candidate}", "establish-match", reason)
        return found

    def matches(self, person: Person, query: str) -> list[outcomes.MatchView]:
        """How the candidates of a search ended, for the officer who goes on with it."""
        return self._read(person, outcomes.matches, query)

    def confirm(self, person: Person, candidate: str, assertion: Assertion | None) -> review.Outcome:
        """A reviewer signs a match; with the last reviewer's signature it is *confirmed*."""
        return self._write(person, review.confirm, candidate, assertion)

    # Core data

    def request_core_data(
        self,
        person: Person,
        candidate: str,
        fields: Sequence[CoreDataField],
        facts: str,
        offence: str = "serious crime",
        assertion: Assertion | None = None,
    ) -> str:
        """Ask the holder for core data of a confirmed match; gives the request's ID."""
        return self._write(person, core_data.request_core_data, candidate, fields, facts, offence, assertion)

    def release_core_data(
        self,
        person: Person,
        request: str,
        record: dict[str, str],
        assertion: Assertion | None,
        kind: core_data.Kind = "identified",
        late: str = "",
    ) -> None:
        """A person of the holder releases core data. `late`: why after the deadline."""
        self._write(person, core_data.release_core_data, request, kind, record, assertion, late)

    def refuse_core_data(
        self, person: Person, request: str, reason: RefusalReason, assertion: Assertion | None
    ) -> None:
        """A person of the holder refuses, for one of the closed reasons."""
        self._write(person, core_data.refuse_core_data, request, reason, assertion)

    def pause_clock(self, person: Person, request: str, reason: str) -> None:
        """Stop the clock while judicial authorisation is sought (R 47(2))."""
        self._write(person, core_data.pause_clock, request, reason)

    def resume_clock(self, person: Person, request: str) -> None:
        """The clock runs on."""
        self._write(person, core_data.resume_clock, request)

    def deadlines(self, now: datetime | None = None) -> list[core_data.RequestView]:
        """Requests that wait at this holder, the most urgent first."""
        with self.office.vault.reading() as session:
            return core_data.deadlines(self.office, session, self._seconds(now))

    def requests(self, person: Person, now: datetime | None = None) -> list[core_data.RequestView]:
        """All requests, made or received."""
        self._fresh(person)
        with self.office.vault.reading() as session:
            return core_data.requests(self.office, session, self._seconds(now))

    # What goes, what is recalled, what is looked at

    def delete_expired_case_data(self, now: datetime | None = None) -> list[deletion.Receipt]:
        """Delete what is past its time. `now`: only for a clock that differs from the desk's."""
        office = self.office if now is None else _at(self.office, now)
        with office.vault.writing() as session:
            done = deletion.delete_expired_case_data(office, session)
        office.vault.wipe_log()
        return done

    def delete(self, person: Person, candidate: str) -> deletion.Receipt:
        """What was received about a candidate is not needed any more (R 50(3))."""
        person = self._fresh(person)
        person.needs("officer", "data-protection")
        with self.office.vault.writing() as session:
            row = review.candidate_row(session, candidate)
            done = deletion.delete_candidate(self.office, session, row, "not-needed")
        self.office.vault.wipe_log()
        return done

    def recall(self, person: Person, reference: str, why: str, kind: RecallKind = "delete") -> list[str]:
        """Tell everybody who received a reference; returns names. Raises `UnknownThing` where it went to nobody."""
        return self._write(person, deletion.recall, reference, why, kind)

    def receivers(self, reference: str) -> list[str]:
        """Who was given a reference of this gallery and has not said that it deleted it."""
        with self.office.vault.reading() as session:
            return deletion.receivers(self.office, session, reference)

    def owes_receipts(self, peer: str) -> bool:
        """Whether a peer has let the 48 hours of a recall pass without a receipt, and is given nothing more."""
        with self.office.vault.reading() as session:
            return deletion.owes_receipts(self.office, session, peer)

    def recalls(self, person: Person) -> list[deletion.RecallView]:
        """Recalls made, whether they arrived, and whether they were answered."""
        self._fresh(person)
        with self.office.vault.reading() as session:
            return deletion.recalls(session)

    def disclosures(self, person: Person) -> list[deletion.DisclosureView]:
        """What this holder gave to whom, and the receipts that say it was deleted there."""
        self._fresh(person).needs("releaser", "data-protection", "supervisor")
        with self.office.vault.reading() as session:
            return deletion.disclosures(session)

    def onward_transfer(self, person: Person, candidate: str, recipient: str, authorisation: str = "") -> None:
        """Note a transfer to somebody else. Raises `OnwardTransferRefused` without a prior authorisation (R 60)."""
        self._write(person, deletion.onward_transfer, candidate, recipient, authorisation)

    def export(self, person: Person, candidate: str, reason: str, receiver: str = "", authorisation: str = "") -> bytes:
        """A candidate as an ANSI/NIST-ITL file; written down with its receiver, an agency (empty: this node).

        `authorisation`: of the providing state, where the receiver is in another (R 60). Raises `NotYourRole`,
        `NoReason`, `CaseRefused` while it is under review, `OnwardTransferRefused`, `ExchangeError`.
        """
        sender = self.office.name
        person = self._fresh(person)
        with self.office.vault.writing() as session:  # whole: nothing is noted of a file that could not be made
            given = candidate, receiver or sender, reason, authorisation
            shown = deletion.note_export(self.office, session, person, *given)
            return candidate_file(shown, sender, receiver or sender, self.office.clock().date())

    def view(self, person: Person, what: str, reason: str, purpose: str = "establish-match") -> Any:
        """Look at personal data; written down first, with the reason (LED 25).

        `what`: `probe:QUERY` (a `Probe`), `case:QUERY` (a `Draft`), `candidate:ID` (`review.look`), `facts:REQUEST`
        or `core-data:REQUEST` (a `SealedRequest`). Raises `NoReason`, `PurposeRefused`, `NotYourRole`,
        `UnknownThing`, `NotYetLocked`, `FourEyes`.
        """
        person = self._fresh(person)
        kind, _, name = what.partition(":")
        look = _VIEWS.get(kind)
        if look is None:
            raise CaseRefused("look-at", what=what, allowed=", ".join(f"{known}:ID" for known in _VIEWS))
        roles, read = look
        person.needs(*roles)
        with self.office.vault.writing() as session:
            found = read(self.office, session, person, name)
            deletion.note_view(self.office, session, person, what, purpose, reason)
        return found

    def note_look(self, person: Person, what: str, reason: str, purpose: str) -> None:
        """Write down that somebody looks at something that is kept elsewhere, as at a log. Raises as `view`."""
        self._write(person, _note_look, what, purpose, reason)

    def views(self, person: Person) -> list[deletion.View]:
        """Who looked at what, when and why, for the data-protection officer and the supervisor."""
        person = self._fresh(person)
        person.needs("data-protection", "supervisor")
        with self.office.vault.reading() as session:
            return [
                deletion.View(
                    persons.load(self.office, session, row.person_id).handle if row.person_id else None,
                    row.what,
                    row.purpose,
                    row.recipient,
                    row.time,
                    reason,
                )
                for row, reason in deletion.views(self.office, session)
            ]

    def statistics(self, year: int) -> YearlyReport:
        """The yearly report of a year that is over; small counts are not told."""
        with self.office.vault.reading() as session:
            return yearly_report(self.office, session, year)

    # What a person signs

    def to_sign(self, person: Person, decision: Decision, target: str, **details: Any) -> bytes:
        """The 32 bytes that `person` signs for a decision, and that WebAuthn takes as its challenge.

        `target`, `details`: launch: query. confirm: candidate. request-core-data: candidate; `fields`, `facts`,
        `offence`. release-core-data: request; `kind`, `record`, `late`. refuse-core-data: request; `reason`.
        """
        person = self._fresh(person)
        person.needs(ROLE_FOR[decision])  # what a refusal says of a candidate or of the gallery is for nobody else
        with self.office.vault.reading() as session:
            content, attempt = _CONTENTS[decision](self.office, session, person, target, **details)
        return digest_to_sign(content, self.office.name, attempt)

    def _fresh(self, person: Person) -> Person:
        """The person as it is now: roles may have been taken since it logged in. Raises `NotYourRole` if closed."""
        with self.office.vault.reading() as session:
            fresh = persons.load(self.office, session, person.id)
        fresh.needs(*fresh.roles)
        return fresh

    def _write(
        self, person: Person, act: Callable[Concatenate[Office, Session, Person, P], R], *some: P.args, **more: P.kwargs
    ) -> R:
        person = self._fresh(person)
        with self.office.vault.writing() as session:
            return act(self.office, session, person, *some, **more)

    def _read(
        self,
        person: Person,
        look: Callable[Concatenate[Office, Session, Person, P], R],
        *some: P.args,
        **more: P.kwargs,
    ) -> R:
        person = self._fresh(person)
        with self.office.vault.reading() as session:
            return look(self.office, session, person, *some, **more)

    def _seconds(self, now: datetime | None) -> int:
        return self.office.now() if now is None else int(now.timestamp())


def check_there(config: NodeConfig, folder: Path) -> None:
    """One that is gone is not begun anew by whoever looks into it: without staff nobody approves a search, and without
    what was disclosed a recall finds nobody. Raises `StoreCorrupted`."""
    if not was_begun(config, folder) or is_there(config, folder):
        return
    if config.casework.url is not None:
        lost = (
            "the database that casework.url names is empty, and this node had one: bring its dump back with pg_restore"
        )
    else:
        file = folder / FILE
        how = "empty" if file.exists() else "gone"
        lost = f"{file} is {how}, and this node had one: put a backup in its place with `lineup store restore`"
    if config.storage.file is None:
        raise StoreCorrupted(f"{lost}; where there is none, `lineup store restore` without a file begins it anew")
    raise StoreCorrupted(f"{lost}; where there is none, make one now with `lineup store backup` and restore that")


def _at(office: Office, now: datetime) -> Office:
    return replace(office, clock=lambda: now)


def _launch(office: Office, session: Session, person: Person, query: str) -> tuple[Any, bytes]:
    return cases.launch_content(office, session, query, person), b""


def _confirm(office: Office, session: Session, person: Person, candidate: str) -> tuple[Any, bytes]:
    content, _ = review.confirmation_content(office, session, candidate)
    return content, review.candidate_row(session, candidate).attempt


def _request(
    office: Office, session: Session, person: Person, candidate: str, *, fields: Sequence[CoreDataField], facts: str,
    offence: str = "serious crime",
) -> tuple[Any, bytes]:  # fmt: skip
    content, _ = core_data.request_content(office, session, candidate, fields, facts, offence)
    return content, review.candidate_row(session, candidate).attempt


def _release(
    office: Office, session: Session, person: Person, request: str, *, record: dict[str, str],
    kind: core_data.Kind = "identified", late: str = "",
) -> tuple[Any, bytes]:  # fmt: skip
    content, _ = core_data.release_content(office, session, request, kind, record, late)
    return content, core_data.request_row(session, request).attempt


def _refuse(
    office: Office, session: Session, person: Person, request: str, *, reason: RefusalReason
) -> tuple[Any, bytes]:
    return core_data.refusal_content(session, request, reason), core_data.request_row(session, request).attempt


_CONTENTS: dict[Decision, Callable[..., tuple[Any, bytes]]] = {
    "launch": _launch,
    "confirm": _confirm,
    "request-core-data": _request,
    "release-core-data": _release,
    "refuse-core-data": _refuse,
}


def _note_look(office: Office, session: Session, person: Person, what: str, purpose: str, reason: str) -> None:
    deletion.note_view(office, session, person, what, purpose, reason)


def _draft(office: Office, session: Session, person: Person, query: str) -> Draft:
    return cases.sealed_of(office, cases.row_of(session, query)).draft


def _probe(office: Office, session: Session, person: Person, query: str) -> Probe:
    draft = _draft(office, session, person, query)
    return Probe(draft.photo, draft.quality)  # without the case: a reviewer compares faces


def _request_of(office: Office, session: Session, person: Person, request: str) -> SealedRequest:
    row = core_data.request_row(session, request)
    if not row.sealed:
        raise UnknownThing("content of request", request)
    return office.vault.unseal(row, SealedRequest)


def _facts(office: Office, session: Session, person: Person, request: str) -> SealedRequest:
    held = _request_of(office, session, person, request)
    return msgspec.structs.replace(held, record=None)  # which has a look of its own


_VIEWS: dict[str, tuple[tuple[PersonRole, ...], Callable[[Office, Session, Person, str], Any]]] = {
    "probe": (("officer", "approver", "reviewer"), _probe),
    "case": (("officer", "approver", "data-protection", "supervisor"), _draft),
    "candidate": (("reviewer", "officer", "data-protection"), review.look),
    "facts": (("releaser", "officer", "data-protection"), _facts),
    "core-data": (("officer", "data-protection"), _request_of),
}
