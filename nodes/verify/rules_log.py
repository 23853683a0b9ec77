"""The transcript logs: every record is in one, no log told two stories, and clocks agree."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise

from nodes.logs.checkpoints import (
    BadCheckpoint,
    Checkpoint,
    InconsistentCheckpoints,
    check_checkpoint,
    check_checkpoint_consistent,
    check_disclosure,
)
from nodes.logs.entries import TranscriptEntry
from nodes.logs.errors import LogError
from nodes.verify import table
from nodes.verify.case import Case, View
from nodes.verify.format import WHOLE, Record, signature_in
from nodes.verify.report import Broken, Findings, Held, Open
from pets.errors import LineupError
from pets.merkle import hash_leaf
from pets.signatures import VerifyKey

LOG_CONTEXT = "log"
STEP_MS = 1000  # how far a node's own clock may be set back between two records


def inclusion(case: Case) -> Findings:
    """Every record of the bundle is an entry of the owner's transcript log, under its signed checkpoint."""
    for view in case.views:
        log, records = view.bundle.log, view.bundle.records
        if (log.header.owner, log.header.kind) != (view.owner, "transcript"):
            yield Broken(view.name, f"the log shown is the {log.header.kind} log of {log.header.owner}")
        last = -1
        for number, record in enumerate(records):
            if number >= len(log.entries):
                yield Broken(view.place(record), f"not in the log: it shows {len(log.entries)} entries for "
                             f"{len(records)} messages")  # fmt: skip
                break
            entry = log.entries[number]
            fault = None
            try:
                logged = check_disclosure(entry, log.header, log.checkpoint)
            except LineupError as error:
                fault = str(error)
            else:
                fault = _difference(view, record, logged)
            if fault is None and entry.index <= last:
                fault = f"logged as entry {entry.index}, which is not after entry {last} of the message before"
            last = entry.index
            yield Held() if fault is None else Broken(view.place(record), fault)
        if len(log.entries) > len(records):
            yield Broken(view.name, f"the log shows {len(log.entries)} entries for {len(records)} messages")


def _difference(view: View, record: Record, logged: object) -> str | None:
    expected = TranscriptEntry(
        view.bundle.query, "whole" if record.session == WHOLE else "session", record.direction, record.peer,
        record.kind, record.sequence, view.frame(record), signature_in(record.message), record.time,
    )  # fmt: skip
    return None if logged == expected else "the log has another entry for it"


def checkpoints_signed(case: Case) -> Findings:
    """Checkpoints are signed by the owner of the log."""
    for view in case.views:
        log = view.bundle.log
        for checkpoint in (log.checkpoint, *(extension.older for extension in log.extensions)):
            key = case.key_of(view.owner) or view.key
            fault = _signature_fault(checkpoint, log.header.log, key)
            yield Held() if fault is None else Broken(view.name, fault)
        for witnessed in view.bundle.witnessed:
            peer = witnessed.header.owner
            key_of_peer = case.key_of(peer)
            if key_of_peer is None:
                yield Open(f"{view.name}: a checkpoint of {peer}, whose key is not known")
                continue
            fault = _signature_fault(witnessed.checkpoint, witnessed.header.log, key_of_peer)
            yield Held() if fault is None else Broken(view.name, f"a checkpoint of {peer}: {fault}")


def _signature_fault(checkpoint: Checkpoint, log: bytes, key: VerifyKey) -> str | None:
    try:
        check_checkpoint(checkpoint, log, lambda signature, message: key.verify(signature, message, LOG_CONTEXT))
    except LogError as error:
        return str(error)
    return None


@dataclass(frozen=True)
class _Seen:
    checkpoint: Checkpoint
    where: str
    own: bool = False

    @property
    def tree(self) -> tuple[int, bytes]:
        """What the checkpoint stands for."""
        return self.checkpoint.size, self.checkpoint.root


@dataclass
class _History:
    """All that was shown of one log. `proofs`: older and newer checkpoint, and the proof between them.

    `disputed`: two that a witness keeps because the log's owner did not prove to it that they fit.
    """

    seen: list[_Seen] = field(default_factory=list)
    disputed: list[tuple[_Seen, _Seen]] = field(default_factory=list)
    proofs: list[tuple[_Seen, _Seen, Sequence[bytes]]] = field(default_factory=list)


def logs_consistent(cases: Sequence[Case]) -> Findings:
    """All checkpoints of a log, whoever showed them, are one history (RFC 9162, 2.1.4): no split view, nothing
    rewritten, nothing cut off."""
    histories: dict[bytes, _History] = defaultdict(_History)
    leaves: dict[tuple[bytes, int], tuple[bytes, str]] = {}
    rewritten: list[Broken] = []
    owners: dict[str, tuple[bytes, str]] = {}
    for case, view in ((one, view) for one in cases for view in one.views):
        log = view.bundle.log
        identity, where = owners.setdefault(view.owner, (log.header.log, view.name))
        if identity != log.header.log:
            yield Broken(view.name, f"another transcript log than in the {where}: a node has one")
        history, newest = histories[log.header.log], _Seen(log.checkpoint, view.name, own=True)
        history.seen.append(newest)
        for extension in log.extensions:
            older = _Seen(extension.older, view.name)
            history.seen.append(older)
            history.proofs.append((older, newest, extension.proof))
        given: dict[tuple[str, str], _Seen] = {}
        for witnessed in view.bundle.witnessed:
            header, checkpoint = witnessed.header, witnessed.checkpoint
            key = case.key_of(header.owner)
            if key is None or _signature_fault(checkpoint, header.log, key) is not None:
                continue  # nobody is accused by what its key did not sign: see `checkpoints_signed`
            whose = f"the {header.kind} log of {header.owner}"
            shown = _Seen(checkpoint, f"{view.name} (a checkpoint of {whose} that {view.owner} was given)")
            histories[checkpoint.log].seen.append(shown)
            first = given.setdefault((header.owner, header.kind), shown)
            if first.checkpoint.log != checkpoint.log:
                yield Broken(view.name, f"{whose} is another than before: {view.owner} was given checkpoints of both")
            elif first is not shown:
                histories[checkpoint.log].disputed.append((first, shown))
        for entry in log.entries:
            leaf = hash_leaf(entry.record)
            before, where = leaves.setdefault((log.header.log, entry.index), (leaf, view.name))
            if before != leaf:
                rewritten.append(Broken(view.name, f"another entry {entry.index} of the log than in the {where}"))
    for history in histories.values():
        yield from _one_history(history)
    yield from rewritten[:1]  # the others follow from the first


def _one_history(history: _History) -> Findings:
    """Every proof holds; neighbours by size are connected: the one extends the other, or a third extends both."""
    extended_by: dict[tuple[int, bytes], set[tuple[int, bytes]]] = defaultdict(set)
    for older, newer, proof in history.proofs:
        yield from _compare(older, newer, proof)
        extended_by[older.tree].add(newer.tree)
    for one, other in history.disputed:
        if not _reached(one.tree, extended_by) & _reached(other.tree, extended_by):
            sizes = f"of {one.checkpoint.size} and {other.checkpoint.size} entries"
            yield Broken(one.where, f"two histories of one log, {sizes}: its owner did not prove that they fit")
    if len(history.seen) == 1 and history.seen[0].own:
        yield Open(
            f"{history.seen[0].where}: only one checkpoint of its log is known, and no proof from an earlier one"
        )
    known = sorted(history.seen, key=lambda seen: (seen.checkpoint.size, seen.checkpoint.time))
    for older, newer in pairwise(known):
        old, new = older.checkpoint, newer.checkpoint
        if old.size in (0, new.size) or old.time > new.time:
            yield from _compare(older, newer, ())
        elif not _reached(older.tree, extended_by) & _reached(newer.tree, extended_by):
            yield Open(f"{older.where} ({old.size} entries) and {newer.where} ({new.size} entries): no proof that one "
                       "log extends the other; its owner can export again with --since the other bundle")  # fmt: skip


def _reached(
    start: tuple[int, bytes], edges: dict[tuple[int, bytes], set[tuple[int, bytes]]]
) -> set[tuple[int, bytes]]:
    reached, waiting = {start}, [start]
    while waiting:
        for tree in edges.get(waiting.pop(), ()):
            if tree not in reached:
                reached.add(tree)
                waiting.append(tree)
    return reached


def _compare(older: _Seen, newer: _Seen, proof: Sequence[bytes]) -> Findings:
    try:
        check_checkpoint_consistent(older.checkpoint, newer.checkpoint, proof)
    except (BadCheckpoint, InconsistentCheckpoints) as error:
        yield Broken(f"{older.where} and {newer.where}", f"two histories of one log: {error}")
    else:
        yield Held()


def clocks(case: Case) -> Findings:
    """Times run forwards in every bundle and its log; nothing arrives before it was sent, as far as clocks agree."""
    for view in case.views:
        log, previous = view.bundle.log, 0
        for record, entry in zip(view.bundle.records, log.entries, strict=False):
            if record.time + STEP_MS < previous:
                yield Broken(view.place(record), f"{previous - record.time} ms before the message before it")
            elif not record.time - STEP_MS <= entry.created <= log.checkpoint.time:
                yield Broken(view.place(record), "logged before it happened, or after the checkpoint it is under")
            else:
                yield Held()
            previous = max(previous, record.time)
        if view.bundle.exported + STEP_MS < log.checkpoint.time:
            yield Broken(view.name, "exported before its checkpoint was signed")
    compared = False
    sent = {
        (record.session, *view.ends(record), record.sequence): record.time
        for view in case.views
        for record in view.bundle.records
        if record.direction == "sent"
    }
    for view in case.views:
        for record in view.bundle.records:
            start = sent.get((record.session, *view.ends(record), record.sequence))
            if record.direction == "received" and start is not None:
                early, compared = start - record.time, True
                if early > 1000 * table.SKEW_SECONDS:
                    yield Broken(view.place(record), f"received {early / 1000:.0f} s before it was sent")
                else:
                    yield Held()
    if not compared:
        yield Open(f"{case.label}whether clocks agree: no message is shown by both its ends")
