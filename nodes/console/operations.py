"""What a signed-in person does with cases. Pages and API call these, and nothing else.

Every method takes the person's handle and asks the desk afresh who that is: a role taken away counts at once.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from nodes.casework.cases import QueryView
from nodes.casework.contents import Blind, Draft, SealedRequest, Shown
from nodes.casework.core_data import RequestView
from nodes.casework.deletion import DisclosureView, RecallView
from nodes.casework.desk import CaseDesk
from nodes.casework.exchange.type10 import ExchangeMissing, is_installed
from nodes.casework.images import redrawn
from nodes.casework.outcomes import MatchView
from nodes.casework.persons import Person
from nodes.casework.review import BlindCandidate
from nodes.config.schema import NodeConfig, Role
from nodes.console import contracts as c
from nodes.console import passkeys
from nodes.console.accounts import Accounts
from nodes.console.errors import EntryRefused
from nodes.console.intake import Intake, Intakes
from nodes.console.texts import text
from nodes.operator.client import NodeNotRunning, searches
from nodes.service.operator_api import Stage
from protocol.approval import Assertion, Decision


class Operations:
    """For one node. `folder`: of the node; `accounts`: only to know a person's passkey."""

    def __init__(self, folder: Path, config: NodeConfig, desk: CaseDesk, intakes: Intakes, accounts: Accounts) -> None:
        self.folder = folder
        self.config = config
        self.desk = desk
        self.intakes = intakes
        self._accounts = accounts

    def me(self, who: str) -> c.Me:
        """Who is signed in."""
        person = self.person(who)
        kind = None if person.key is None else person.key.kind
        roles = tuple(sorted(person.roles))
        return c.Me(person.handle, person.name, roles, kind, self.config.name, self.config.role, is_installed())

    # A search

    def holders(self, who: str) -> tuple[str, ...]:
        """Whom this node can ask."""
        self.person(who)
        return tuple(sorted(peer.name for peer in self.desk.office.peers.values() if peer.role is Role.HOLDER))

    def upload(self, who: str, data: bytes) -> c.IntakeView:
        """Take a photo or a Type-10 file, and say what is on it. Raises `UploadRefused`, `NotYourRole`."""
        self.person(who).needs("officer")
        return self._told(self.intakes.add(who, data))

    def intake(self, who: str, name: str) -> c.IntakeView:
        """One's own upload."""
        self.person(who).needs("officer")
        return self._told(self.intakes.get(who, name))

    def picture(self, who: str, name: str) -> bytes:
        """One's own upload as a JPEG, drawn anew; the look is written down."""
        person = self.person(who)
        person.needs("officer")
        picture = self.intakes.get(who, name).picture
        self.desk.note_look(person, f"upload:{name}", text("upload.look"), "establish-match")
        return picture

    def _told(self, intake: Intake) -> c.IntakeView:
        limit = self.config.casework.minimum_quality
        faces = tuple(
            c.FaceView(face.box, face.quality, all(score >= limit for score in face.quality.values()))
            for face in intake.faces
        )
        return c.IntakeView(intake.id, intake.width, intake.height, faces, limit, intake.threshold)

    def open_query(self, who: str, form: c.QueryForm) -> c.Made:
        """Put a query up for a second person's approval. Raises `Unsuitable` at once for a poor image (R 38)."""
        person = self.person(who)
        person.needs("officer")  # before anything is said of uploads and peers
        intake = self.intakes.get(who, form.intake)
        if form.face >= len(intake.faces):
            raise EntryRefused(text("refused.face").format(face=form.face + 1, faces=len(intake.faces)))
        unknown = sorted(set(form.holders) - set(self.holders(who)))
        if unknown:
            raise EntryRefused(text("refused.holder").format(names=", ".join(unknown)[:80], node=self.config.name))
        threshold = form.threshold or intake.threshold
        if threshold is None:
            raise EntryRefused(text("refused.threshold"))
        face = intake.faces[form.face]
        draft = Draft(
            template=face.template,
            model=intake.model,
            holders=form.holders,
            case=form.case.strip(),
            offence=form.offence.strip(),
            maximum_penalty_years=form.maximum_penalty_years,
            threshold=threshold,
            purpose=form.purpose,
            subject=form.subject,
            aim=form.aim,
            cap=form.cap,
            photo=intake.picture,
            quality=face.quality,
            authorisation=form.authorisation.strip(),
        )
        made = self.desk.open_query(person, draft)
        self.intakes.drop(intake.id)
        return c.Made(made)

    def queries(self, who: str) -> list[QueryView]:
        """The history, the last first."""
        return self.desk.queries(self.person(who))

    def query(self, who: str, query: str) -> QueryView:
        """One search."""
        return self.desk.query(self.person(who), query)

    def progress(self, who: str, query: str) -> c.Progress:
        """How far a search is, by country."""
        view = self.query(who, query)
        stages: dict[str, Stage] = {}
        agreed = self.config.casework.alternative
        if view.state == "running":
            try:
                running = {one.request_number: one.stages for one in searches(self.folder)}
            except NodeNotRunning:
                return c.Progress("node not running", True, _countries(view, {}), agreed)
            stages = running.get(view.number, {})
        return c.Progress(view.state, view.state in ("approved", "running"), _countries(view, stages), agreed)

    def case(self, who: str, query: str, reason: c.Reason) -> c.Case:
        """Justification and probe; written down with the reason."""
        draft: Draft = self.desk.view(self.person(who), f"case:{query}", reason.reason)
        return c.Case(
            draft.case, draft.offence, draft.maximum_penalty_years, draft.subject, draft.aim, draft.purpose,
            draft.threshold, draft.cap, draft.authorisation, dict(draft.quality), redrawn(draft.photo),
        )  # fmt: skip

    def launch_to_sign(self, who: str, query: str) -> c.ToSign:
        """What the second person signs."""
        return self._to_sign(who, "launch", query)

    def launch(self, who: str, query: str, signed: c.Signed) -> c.Done:
        """A second person approves."""
        self.desk.approve_launch(self.person(who), query, passkeys.assertion(signed.assertion))
        return c.Done("approved")

    def authorise(self, who: str, query: str, reference: c.Made) -> c.Done:
        """Lodge a judicial authorisation; its reference stands in `id`."""
        self.desk.authorise(self.person(who), query, reference.id)
        return c.Done("authorised")

    def stop(self, who: str, query: str) -> c.Done:
        """The authorisation was refused: stop and delete (AIA 26(10))."""
        receipts = self.desk.authorisation_refused(self.person(who), query)
        return c.Done(text("done.stopped").format(count=len(receipts)))

    # Review

    def candidates(self, who: str, query: str) -> list[BlindCandidate]:
        """The candidates in this reviewer's own random order."""
        return self.desk.candidates_for(self.person(who), query)

    def pictures(self, who: str, query: str, candidate: str, reason: c.Reason) -> c.Pictures:
        """Candidate and probe side by side; both looks are written down."""
        person = self.person(who)
        person.needs("reviewer")
        if candidate not in {one.id for one in self.desk.candidates_for(person, query)}:
            raise EntryRefused(text("refused.candidate"))
        probe: Any = self.desk.view(person, f"probe:{query}", reason.reason)
        shown: Blind | Shown = self.desk.view(person, f"candidate:{candidate}", reason.reason)
        holder = next(one.holder for one in self.desk.candidates_for(person, query) if one.id == candidate)
        return c.Pictures(
            redrawn(probe.photo), dict(probe.quality), redrawn(shown.image), holder,
            shown.quality, shown.acquired, shown.status, shown.contested,
        )  # fmt: skip

    def decide(self, who: str, candidate: str, decided: c.Decided) -> c.Done:
        """Lock one's decision, once."""
        return c.Done(self.desk.lock_decision(self.person(who), candidate, decided.verdict, decided.note))

    def outcome(self, who: str, candidate: str) -> c.Done:
        """How a candidate's review ended."""
        self.person(who).needs("reviewer", "officer", "approver", "data-protection", "supervisor")
        return c.Done(self.desk.outcome(candidate))

    def votes(self, who: str, candidate: str, reason: c.Reason) -> list[c.VoteView]:
        """Who found what, once the review is over; written down with the reason."""
        votes = self.desk.votes(self.person(who), candidate, reason.reason)
        return [c.VoteView(handle, vote.verdict, vote.note) for handle, vote in votes]

    def export(self, who: str, candidate: str, export: c.Export) -> bytes:
        """A candidate whose review is over as an ANSI/NIST-ITL file; written down with reason and receiver.

        Raises `ExchangeError`, `ExchangeMissing`, `OnwardTransferRefused`.
        """
        if not is_installed():
            raise ExchangeMissing(text("exchange.missing"))
        given = candidate, export.reason, export.receiver, export.authorisation
        return self.desk.export(self.person(who), *given)

    def confirmation_to_sign(self, who: str, candidate: str) -> c.ToSign:
        """What both reviewers sign."""
        return self._to_sign(who, "confirm", candidate)

    def confirm(self, who: str, candidate: str, signed: c.Signed) -> c.Done:
        """Sign a match."""
        return c.Done(self.desk.confirm(self.person(who), candidate, passkeys.assertion(signed.assertion)))

    def matches(self, who: str, query: str) -> list[MatchView]:
        """How the candidates of a search ended."""
        return self.desk.matches(self.person(who), query)

    # Core data

    def request_to_sign(self, who: str, candidate: str, wanted: c.Wanted) -> c.ToSign:
        """What the officer signs."""
        asked = {"fields": wanted.fields, "facts": wanted.facts, "offence": wanted.offence}
        return self._to_sign(who, "request-core-data", candidate, **asked)

    def request(self, who: str, candidate: str, wanted: c.Wanted) -> c.Made:
        """Ask the holder for core data."""
        signed = _given(wanted.assertion)
        asked = (candidate, wanted.fields, wanted.facts, wanted.offence, signed)
        return c.Made(self.desk.request_core_data(self.person(who), *asked))

    def requests(self, who: str) -> list[RequestView]:
        """All requests, made or received, the most urgent first."""
        return self.desk.requests(self.person(who))

    def request_content(self, who: str, request: str, reason: c.Reason) -> c.RequestContent:
        """Facts, and core data once released; written down with the reason."""
        person = self.person(who)
        made = next((one for one in self.desk.requests(person) if one.id == request), None)
        record = made is not None and made.direction == "sent" and made.state == "released"
        what, purpose = ("core-data", "core-data") if record else ("facts", "core-data")
        held: SealedRequest = self.desk.view(person, f"{what}:{request}", reason.reason, purpose)
        told = None if held.record is None else {str(name): value for name, value in held.record.items()}
        return c.RequestContent(held.reference, held.offence_category, held.facts, tuple(held.fields), told)

    def release_to_sign(self, who: str, request: str, release: c.Release) -> c.ToSign:
        """What the releasing person signs."""
        told = {"kind": release.kind, "record": _filled(release), "late": release.late}
        return self._to_sign(who, "release-core-data", request, **told)

    def release(self, who: str, request: str, release: c.Release) -> c.Done:
        """Release core data."""
        given = (request, _filled(release), _given(release.assertion), release.kind, release.late)
        self.desk.release_core_data(self.person(who), *given)
        return c.Done("released")

    def refusal_to_sign(self, who: str, request: str, refusal: c.Refusal) -> c.ToSign:
        """What the refusing person signs."""
        return self._to_sign(who, "refuse-core-data", request, reason=refusal.reason)

    def refuse(self, who: str, request: str, refusal: c.Refusal) -> c.Done:
        """Refuse core data."""
        self.desk.refuse_core_data(self.person(who), request, refusal.reason, _given(refusal.assertion))
        return c.Done("refused")

    def pause(self, who: str, request: str, reason: c.Reason) -> c.Done:
        """Stop the clock while judicial authorisation is sought (R 47(2))."""
        self.desk.pause_clock(self.person(who), request, reason.reason)
        return c.Done("paused")

    def resume(self, who: str, request: str) -> c.Done:
        """The clock runs on."""
        self.desk.resume_clock(self.person(who), request)
        return c.Done("waiting")

    # What goes, and what is recalled

    def delete(self, who: str, candidate: str) -> c.Done:
        """What was received about a candidate is not needed any more; gives the receipt's digest."""
        return c.Done(self.desk.delete(self.person(who), candidate).statement)

    def transfer(self, who: str, candidate: str, transfer: c.Transfer) -> c.Done:
        """Note an onward transfer; refused without a prior authorisation (R 60)."""
        self.desk.onward_transfer(self.person(who), candidate, transfer.recipient, transfer.authorisation)
        return c.Done("noted")

    def recall(self, who: str, form: c.RecallForm) -> c.Done:
        """Tell everybody who received a reference."""
        told = self.desk.recall(self.person(who), form.reference.strip(), form.why, form.kind)
        return c.Done(", ".join(told) or text("recalls.nobody"))

    def recalls(self, who: str) -> list[RecallView]:
        """Recalls, and whether they were answered."""
        return self.desk.recalls(self.person(who))

    def disclosures(self, who: str) -> list[DisclosureView]:
        """What was given to whom, and the receipts that came back; nothing for whom that is not."""
        person = self.person(who)
        seers = {"releaser", "data-protection", "supervisor"}
        return self.desk.disclosures(person) if seers & set(person.roles) else []

    def person(self, who: str) -> Person:
        """The person as the staff list has it now. Raises `NotYourRole` for a closed account."""
        person = self.desk.person(who)
        person.needs(*person.roles)
        return person

    def options(self, who: str, digest: bytes) -> dict[str, Any] | None:
        """What a passkey needs to sign a digest; None for a person with a key file."""
        credential = self._accounts.credential(who)
        return passkeys.to_sign(self.config.console, credential, digest) if credential else None

    def _to_sign(self, who: str, decision: Decision, target: str, **details: Any) -> c.ToSign:
        digest = self.desk.to_sign(self.person(who), decision, target, **details)
        return c.ToSign(digest.hex(), self.options(who, digest))


def _given(assertion: str) -> Assertion | None:
    return passkeys.assertion(assertion) if assertion else None


def _filled(release: c.Release) -> dict[str, str]:
    return {str(field): value.strip() for field, value in release.record.items() if value.strip()}


def _countries(view: QueryView, stages: dict[str, Stage]) -> tuple[c.CountryProgress, ...]:
    told = []
    for holder in view.holders:
        answer = view.answers.get(holder)
        if answer is not None:
            told.append(c.CountryProgress(holder, answer.status, answer.reason or ""))
            continue
        stage = stages.get(holder)
        if stage is None:
            told.append(c.CountryProgress(holder, "waiting", ""))
            continue
        word = (stage.answer or "answered") if stage.phase == "over" else stage.phase
        told.append(c.CountryProgress(holder, word, "", stage.rows, stage.of, stage.prepared))
    return tuple(told)
