"""Every rule of the verifier about the follow-up, and a lie that breaks exactly that rule, told by whoever could tell
it: nodes sign their statements, logs and bundles anew. The control is the story as it was."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from nodes.evidence.export import export_bundle, sign_bundle
from nodes.identity.identity import NodeIdentity, NodeKeyring, load_identity
from nodes.logs.checkpoints import Disclosure
from nodes.logs.entries import TranscriptEntry, encode_entry, encrypt_entry
from nodes.verify import Report, load_trust, rules_follow_up, verify_bundles
from nodes.verify.case import Case
from nodes.verify.format import Bundle, Stated, TranscriptProof, decode_bundle, preparation_inside
from nodes.verify.verdict import RULES
from pets.merkle import MerkleTree, hash_leaf
from protocol.approval import Approval
from protocol.follow_up import (
    Acknowledged,
    ClockPaused,
    ClockResumed,
    Confirmed,
    CoreDataReleased,
    Deleted,
    Launched,
    Recalled,
    Statement,
)
from tests.casework.test_whole_case import FIELDS, RECORD, confirmed, rounds, set_clock
from tests.kit.casework import Clock, Staff, open_desk, staffed
from tests.kit.evidence import failures
from tests.kit.federation import ES, EU, FR, Federation, found
from tests.kit.network import AsgiNetwork, running
from tests.kit.stories import _logged, signed_checkpoint

OWN = {
    "launch-approval",
    "follow-up-signature",
    "follow-up-log",
    "two-reviewers",
    "core-data",
    "core-data-clock",
    "recall",
}


HOUR = 3_600_000


class Told:
    """The bundles of a case with a follow-up, and the means to retell it."""

    def __init__(self, federation: Federation, staff: dict[str, Staff], attempt: str) -> None:
        self.staff = staff
        self.trust = load_trust(federation.root / "authority" / "peers")
        self.identities: dict[str, NodeIdentity] = {n: load_identity(federation.folder(n)) for n in (FR, ES, EU)}
        self.bundles = {n: decode_bundle(export_bundle(federation.folder(n), attempt))[1] for n in (FR, ES, EU)}

    def verify(self, change: Callable[[str, list[Stated]], list[Stated]] = lambda owner, stated: stated) -> Report:
        return verify_bundles(
            [self._seal(owner, change(owner, list(bundle.follow_up))) for owner, bundle in self.bundles.items()],
            self.trust,
        )

    def restate(self, stated: Stated, time: int | None = None, **changes: Any) -> Stated:
        """A statement with other content, which its node signs. The liar is the node."""
        old = stated.statement
        content = msgspec.structs.replace(old.content, **changes)
        new = msgspec.structs.replace(old, content=content, time=old.time if time is None else time)
        return msgspec.structs.replace(stated, statement=self.signed(new), time=stated.time if time is None else time)

    def signed(self, statement: Statement) -> Statement:
        identity = self.identities[statement.sender]
        return statement.signed(NodeKeyring(identity, {}))

    def _seal(self, owner: str, stated: list[Stated]) -> bytes:
        bundle, identity = self.bundles[owner], self.identities[owner]
        inside = preparation_inside(bundle)
        assert inside is not None
        before, log, told = _log(identity, inside[1], bundle, stated)
        prepared = msgspec.structs.replace(inside[1], log=before, exported=bundle.exported)
        made = sign_bundle(prepared, identity.signing)
        return sign_bundle(msgspec.structs.replace(bundle, log=log, follow_up=told, preparation=made), identity.signing)


def _log(
    identity: NodeIdentity, made: Bundle, bundle: Bundle, stated: list[Stated]
) -> tuple[TranscriptProof, TranscriptProof, tuple[Stated, ...]]:
    """A transcript log of the records of a preparation and its search, and of these statements, alone."""
    header = msgspec.structs.replace(bundle.log.header, nonce=bytes(32))
    tree, parts, latest = MerkleTree(), [], 0
    for part in (made, bundle):
        for record in part.records:
            latest = max(latest, record.time)
            parts.append((len(parts), latest, *_logged(header, part.query, len(parts), latest, record)))
    for index, one in enumerate(stated, len(parts)):
        latest = max(latest, one.time)
        statement = one.statement
        entry = TranscriptEntry(
            statement.query, "follow-up", one.direction, one.peer, statement.kind, index, statement.frame,
            statement.signature, one.time,
        )  # fmt: skip
        secret = os.urandom(32)
        parts.append((index, latest, encrypt_entry(encode_entry(entry, "transcript"), secret, header, index, latest),
                      secret))  # fmt: skip
    for one_part in parts:
        tree.append(hash_leaf(one_part[2]))
    checkpoint = signed_checkpoint(identity, header.log, tree, max(latest, bundle.log.checkpoint.time))
    entries = [Disclosure(*one, tree.size, tuple(tree.inclusion_proof(one[0]))) for one in parts]
    first, second = len(made.records), len(made.records) + len(bundle.records)
    told = tuple(msgspec.structs.replace(one, entry=entry) for one, entry in zip(stated, entries[second:], strict=True))
    before, log = (
        TranscriptProof(header, checkpoint, tuple(chosen), ()) for chosen in (entries[:first], entries[first:second])
    )
    return before, log, told


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> Told:
    federation, clock = found(tmp_path_factory.mktemp("casework-verify")), Clock()
    with open_desk(federation.folder(FR), clock) as fr, open_desk(federation.folder(ES), clock) as es:
        staff = {FR: staffed(fr), ES: staffed(es)}

        async def case() -> str:
            async with running(AsgiNetwork(federation)) as network:
                set_clock(network, clock)
                query, candidate = await confirmed(network, staff[FR], federation)
                asked: dict[str, Any] = {"fields": FIELDS, "facts": "seen at the bank", "offence": "robbery"}
                signed = staff[FR].sign("olga", "request-core-data", candidate, **asked)
                request = fr.request_core_data(staff[FR].olga, candidate, *asked.values(), signed)
                await rounds(network)
                es.pause_clock(staff[ES].lena, request, "a judge is asked")
                es.resume_clock(staff[ES].lena, request)
                signed = staff[ES].sign("lena", "release-core-data", request, record=RECORD)
                es.release_core_data(staff[ES].lena, request, RECORD, signed)
                await rounds(network)
                es.recall(staff[ES].dora, federation.references[ES][17], "another person's photo")
                await rounds(network)
                return fr.query(staff[FR].olga, query).attempts[0]

        attempt = asyncio.run(case())
    return Told(federation, staff, attempt)


def edit(kind: type[Any], act: Callable[[Stated], Stated | None]) -> Callable[[str, list[Stated]], list[Stated]]:
    """Change every statement of a kind, the same in all bundles; None takes it away."""
    made: dict[bytes, Stated | None] = {}

    def change(owner: str, stated: list[Stated]) -> list[Stated]:
        out = []
        for one in stated:
            if isinstance(one.statement.content, kind):
                digest = one.statement.digest
                if digest not in made:
                    made[digest] = act(one)
                other = made[digest]
                if other is None:
                    continue
                one = msgspec.structs.replace(one, statement=other.statement, time=max(one.time, other.time))
            out.append(one)
        return out

    return change


Lie = Callable[[Told], Callable[[str, list[Stated]], list[Stated]]]
LIES: list[tuple[str, Lie, str]] = [
    ("launch-approval", lambda t: edit(Launched, lambda s: None), "nobody is shown to have approved"),
    ("launch-approval", lambda t: edit(Launched, lambda s: t.restate(s, threshold="0.4")), "does not hold"),
    (
        "launch-approval",
        lambda t: edit(Launched, lambda s: t.restate(s, time=s.statement.time + 3_600_000)),
        "approved after the search began",
    ),
    (
        "launch-approval",
        lambda t: edit(Launched, lambda s: t.restate(s, approvals=_borrowed(t, s))),
        "of ES decides for FR",
    ),
    (
        "follow-up-signature",
        lambda t: edit(
            Deleted,
            lambda s: msgspec.structs.replace(
                s, statement=msgspec.structs.replace(s.statement, signature=os.urandom(3373))
            ),
        ),
        "signature does not hold",
    ),
    (
        "follow-up-signature",
        lambda t: (
            lambda owner, stated: [s for s in stated if owner == FR or not isinstance(s.statement.content, Recalled)]
        ),
        "ES does not show that it said this",
    ),
    ("two-reviewers", lambda t: edit(Confirmed, lambda s: _one_reviewer(t, s)), "confirmed by one person"),
    ("two-reviewers", lambda t: edit(Confirmed, lambda s: _same_twice(t, s)), "confirmed by one person"),
    ("core-data", lambda t: edit(Confirmed, lambda s: None), "no confirmed match is shown"),
    (
        "core-data",
        lambda t: edit(CoreDataReleased, lambda s: t.restate(s, approvals=_borrowed(t, s))),
        "of FR decides for ES",
    ),
    ("core-data", lambda t: edit(CoreDataReleased, lambda s: t.restate(s, fields=("aliases",))), "does not hold"),
    (
        "core-data-clock",
        lambda t: edit(CoreDataReleased, lambda s: t.restate(s, time=s.statement.time + 50 * 3_600_000)),
        "hours late",
    ),
    ("core-data-clock", lambda t: _much_later(t, CoreDataReleased), "no answer is shown"),
    ("recall", lambda t: _much_later(t, Deleted), "no deletion receipt"),
]


def _borrowed(told: Told, stated: Stated) -> tuple[Approval, ...]:
    """An approval of a person of the other node."""
    other = ES if stated.statement.sender == FR else FR
    kind = CoreDataReleased if other == ES else Launched
    found = next(s for s in told.bundles[other].follow_up if isinstance(s.statement.content, kind))
    return found.statement.content.approvals  # type: ignore[union-attr, return-value]


def _one_reviewer(told: Told, stated: Stated) -> Stated:
    assert isinstance(stated.statement.content, Confirmed)
    return told.restate(stated, approvals=stated.statement.content.approvals[:1])


def _same_twice(told: Told, stated: Stated) -> Stated:
    assert isinstance(stated.statement.content, Confirmed)
    return told.restate(stated, approvals=stated.statement.content.approvals[:1] * 2)


def _much_later(told: Told, kind: type[Any]) -> Callable[[str, list[Stated]], list[Stated]]:
    """Without these statements, and exported a week later."""
    _export_later(told)
    return edit(kind, lambda s: None)


def _export_later(told: Told) -> None:
    for name, bundle in told.bundles.items():
        told.bundles[name] = msgspec.structs.replace(bundle, exported=bundle.exported + 7 * 24 * HOUR)


@pytest.fixture(autouse=True)
def as_it_was(told: Told) -> Any:
    """Lies do not stay."""
    bundles = dict(told.bundles)
    yield
    told.bundles = bundles


def test_the_case_as_it_was_breaks_no_rule(told: Told) -> None:
    report = told.verify()
    assert not report.failed, failures(report)
    passed = {check.id for check in report.checks if check.status == "pass" and "nothing of" not in check.details[0]}
    assert passed >= OWN


@pytest.mark.parametrize(("rule", "lie", "said"), LIES, ids=[f"{rule}-{said}" for rule, _, said in LIES])
def test_the_lie_is_found_and_named(told: Told, rule: str, lie: Lie, said: str) -> None:
    found = failures(told.verify(lie(told)))
    assert said in found[rule], found


def test_a_statement_that_no_log_holds_is_found(told: Told) -> None:
    """The owner's log holds the release; the bundle shows another one."""
    bundle = told.bundles[ES]
    other = [
        told.restate(s, late="x") if isinstance(s.statement.content, CoreDataReleased) else s for s in bundle.follow_up
    ]
    changed = msgspec.structs.replace(bundle, follow_up=tuple(other))
    report = verify_bundles([sign_bundle(changed, told.identities[ES].signing)], told.trust)
    assert "the log holds another statement" in failures(report)["follow-up-log"]


def test_every_rule_about_the_follow_up_has_a_lie() -> None:
    assert {rule for rule, _, _ in LIES} | {"follow-up-log"} == OWN
    assert {rule.id for rule in RULES} >= OWN


def _logged_later(told: Told, kind: type[Any], owners: set[str]) -> Callable[[str, list[Stated]], list[Stated]]:
    """The statements as their nodes signed them, dated in time; these owners' logs have them 60 hours later."""

    def change(owner: str, stated: list[Stated]) -> list[Stated]:
        return [
            msgspec.structs.replace(one, time=one.time + 60 * 3_600_000)
            if owner in owners and isinstance(one.statement.content, kind)
            else one
            for one in stated
        ]

    return change


@pytest.mark.parametrize(
    ("rule", "kind", "sender", "said"),
    [
        ("core-data-clock", CoreDataReleased, ES, "hours late"),
        ("recall", Deleted, FR, "deleted more than 48 hours later"),
        ("launch-approval", Launched, FR, "approved after the search began"),
    ],
)
def test_an_answer_that_is_dated_back_is_as_old_as_its_senders_log_says(
    told: Told, rule: str, kind: type[Any], sender: str, said: str
) -> None:
    found = failures(told.verify(_logged_later(told, kind, {sender})))
    assert said in found[rule], found


@pytest.mark.parametrize(
    ("rule", "kind", "sender"),
    [("core-data-clock", CoreDataReleased, ES), ("recall", Deleted, FR), ("launch-approval", Launched, FR)],
)
def test_control_without_the_senders_log_dating_back_works(
    told: Told, rule: str, kind: type[Any], sender: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rules_follow_up, "_said", lambda case, statement: statement.time)
    assert rule not in failures(told.verify(_logged_later(told, kind, {sender})))


@pytest.mark.parametrize(
    ("rule", "kind", "receiver"), [("core-data-clock", CoreDataReleased, FR), ("recall", Deleted, ES)]
)
def test_an_answer_that_arrived_late_though_dated_in_time_blames_nobody_and_is_no_pass(
    told: Told, rule: str, kind: type[Any], receiver: str
) -> None:
    report = told.verify(_logged_later(told, kind, {receiver}))
    assert rule not in failures(report)
    assert [one.status for one in report.checks if one.id == rule] == ["not-checkable"]


def _arrived_after(
    told: Told, hours: float, *, logged: float | None = None, signed: float | None = None, receipt: float | None = None
) -> Callable[[str, list[Stated]], list[Stated]]:
    """The recall stays when it was made, and arrives so much later; nothing of it is logged before that.

    `logged`: when its receiver's log has it; `signed`: the date that the receiver puts on its acknowledgement;
    `receipt`: when the receiver deletes, all in hours after the recall was made.
    """
    signed, logged, receipt = (hours if one is None else one for one in (signed, logged, receipt))
    made: dict[bytes, Stated] = {}
    _export_later(told)

    def moved(one: Stated, owner: str, dated: float, at: float) -> Stated:
        if one.statement.digest not in made:
            made[one.statement.digest] = told.restate(one, time=one.statement.time + int(dated * HOUR))
        fresh = made[one.statement.digest]
        return msgspec.structs.replace(fresh, direction=one.direction, peer=one.peer, time=one.time + int(at * HOUR))

    def change(owner: str, stated: list[Stated]) -> list[Stated]:
        out = []
        for one in stated:
            content = one.statement.content
            if isinstance(content, Recalled) and owner == FR:
                one = msgspec.structs.replace(one, time=one.time + int(logged * HOUR))
            elif isinstance(content, Acknowledged):
                one = moved(one, owner, signed, hours if owner == ES else max(signed, logged))
            elif isinstance(content, Deleted):
                one = moved(one, owner, receipt, receipt)
            out.append(one)
        return sorted(out, key=lambda one: one.time)

    return change


def _recall_check(report: Report) -> tuple[str, str]:
    return _check(report, "recall")


def _check(report: Report, rule: str) -> tuple[str, str]:
    (check,) = [one for one in report.checks if one.id == rule]
    return check.status, " ".join(check.details)


@pytest.mark.parametrize("hidden", [(CoreDataReleased,), (ClockPaused, ClockResumed)], ids=["answer", "pauses"])
def test_a_requester_that_hides_what_its_holder_said_blames_nobody_with_its_own_bundle(
    told: Told, hidden: tuple[type[Any], ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    """ES answered, or the clock stood, for all that the bundle of FR alone can show."""
    _export_later(told)
    later = edit(CoreDataReleased, lambda s: told.restate(s, time=s.statement.time + 60 * HOUR))

    def sealed(owner: str) -> Any:
        stated = list(told.bundles[owner].follow_up)
        if ClockPaused in hidden:
            stated = sorted(later(owner, stated), key=lambda one: one.time)
        return told._seal(owner, [one for one in stated if not isinstance(one.statement.content, hidden)])

    status, said = _check(verify_bundles([sealed(FR)], told.trust), "core-data-clock")
    assert (status, "ES, whose bundle is not there" in said) == ("not-checkable", True)
    monkeypatch.setattr(Case, "views_of", lambda case, name: list(case.views))
    assert _check(verify_bundles([sealed(FR)], told.trust), "core-data-clock")[0] == "fail"  # control


def _without_receipt(told: Told, *owners: str) -> Report:
    """Bundles from which the holder left the receipt out; the receiver's, if it is there, shows it."""
    sealed = []
    for owner in owners:
        kept = list(told.bundles[owner].follow_up)
        if owner == ES:
            kept = [one for one in kept if not isinstance(one.statement.content, Deleted)]
        sealed.append(told._seal(owner, kept))
    return verify_bundles(sealed, told.trust)


def test_a_holder_that_hides_the_receipt_blames_nobody_with_its_own_bundle(told: Told) -> None:
    _export_later(told)
    status, said = _recall_check(_without_receipt(told, ES))
    assert status == "not-checkable"
    assert "nor what FR has" in said
    assert _recall_check(_without_receipt(told, ES, FR))[0] == "pass"  # with the receiver's it is there


@pytest.mark.parametrize("owners", [(ES,), (ES, FR)])
def test_a_recall_that_nobody_is_shown_to_acknowledge_is_named_by_its_holders_bundle(
    told: Told, owners: tuple[str, ...]
) -> None:
    """Held against nobody: it may not have arrived."""
    hidden = (Deleted, Acknowledged)

    def report() -> Report:
        kept = {
            owner: [one for one in told.bundles[owner].follow_up if not isinstance(one.statement.content, hidden)]
            for owner in owners
        }
        kept[FR] = [one for one in kept.get(FR, ()) if not isinstance(one.statement.content, Recalled)]
        return verify_bundles([told._seal(owner, kept[owner]) for owner in owners], told.trust)

    early = _recall_check(report())
    assert (early[0], "not over" in early[1]) == ("not-checkable", True)
    _export_later(told)
    status, said = _recall_check(report())
    assert status == "not-checkable"
    assert "168 hours ago, and FR is not shown to have acknowledged or answered it" in said


def test_a_receivers_bundle_of_before_the_48_hours_were_over_is_not_held_against_it(told: Told) -> None:
    early = told.bundles[FR]
    lie = _much_later(told, Deleted)
    assert _recall_check(told.verify(lie))[0] == "fail"  # control: exported after them
    told.bundles[FR] = early
    assert _recall_check(told.verify(lie))[0] == "not-checkable"


def test_control_if_any_bundle_counted_an_honest_receiver_would_be_blamed(
    told: Told, monkeypatch: pytest.MonkeyPatch
) -> None:
    _export_later(told)
    monkeypatch.setattr(Case, "views_of", lambda case, name: list(case.views))
    assert _recall_check(_without_receipt(told, ES))[0] == "fail"


def test_an_acknowledged_recall_is_in_the_evidence_of_both(told: Told) -> None:
    for name in (FR, ES):
        kinds = [one.statement.kind for one in told.bundles[name].follow_up]
        assert kinds.count("Acknowledged") == kinds.count("Recalled") == 1


def test_a_recall_that_arrived_late_is_answered_in_time_after_that(told: Told) -> None:
    """The receiver was down for three days, and answers within the hour."""
    report = told.verify(_arrived_after(told, 72, receipt=73))
    assert not report.failed, failures(report)
    assert _recall_check(report)[0] == "pass"


def test_after_a_late_arrival_the_48_hours_run_all_the_same(told: Told) -> None:
    assert "48 hours later" in failures(told.verify(_arrived_after(told, 72, receipt=72 + 49)))["recall"]


@pytest.mark.parametrize(
    ("lie", "status", "said"),
    [
        ({"logged": 60}, "fail", "48 hours later"),  # its own log alone has it late: it acknowledged it before
        ({"logged": 60, "signed": 60}, "not-checkable", "one side's word"),  # the holder's log says otherwise
    ],
    ids=["logged late", "acknowledged with a later date"],
)
def test_a_receiver_that_says_a_recall_came_late_gains_no_pass(
    told: Told, lie: dict[str, float], status: str, said: str
) -> None:
    found = _recall_check(told.verify(_arrived_after(told, 0, receipt=61, **lie)))
    assert found[0] == status, found
    assert said in found[1]


def test_control_if_its_own_log_counted_the_late_receiver_would_pass(
    told: Told, monkeypatch: pytest.MonkeyPatch
) -> None:
    def own_log(case: Any, recall: Statement) -> tuple[int, int | None]:
        times = [one.time for _, one in rules_follow_up._all(case) if one.statement.digest == recall.digest]
        return max(times), max(times)

    monkeypatch.setattr(rules_follow_up, "_arrival", own_log)
    assert _recall_check(told.verify(_arrived_after(told, 0, receipt=61, logged=60)))[0] == "pass"


def test_without_the_acknowledgement_nobody_is_blamed_and_nothing_passes(told: Told) -> None:
    late = _arrived_after(told, 72, receipt=73)

    def hidden(owner: str, stated: list[Stated]) -> list[Stated]:
        return [one for one in late(owner, stated) if not isinstance(one.statement.content, Acknowledged)]

    status, said = _recall_check(told.verify(hidden))
    assert status == "not-checkable"
    assert "one side's word" in said
