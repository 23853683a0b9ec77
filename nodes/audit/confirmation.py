"""The confirmation in a holder's audit: whose rows the block holds, how it was made, and whether those rows were hits.

A holder that puts rows into it that did not hit reads their exact scores. It reads them from the answers of requester
and router, who signed them: so what was sealed gives the same scores once more, and shows nobody anything new.

Whether other rows hit takes the probe to say. That check is made only if the supervisor brings what the requester's
audit wrote, and then on the holder's machine: `nodes.audit.audit` says what that costs.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from nodes.audit.holder import HolderAudit
from nodes.evidence.sealed import SealedBlock
from nodes.verify import table
from nodes.verify.format import content_digest
from nodes.verify.report import Broken, Findings, Held, Open
from pets import residues
from pets.params import norm_bound
from pets.scoring import encode_gallery, score
from protocol.confirmation import FACTOR_BITS, SLOT, SealedConfirmation, add_answers, check_answers
from protocol.decryption import flat_shares, own_coefficients
from protocol.engine import plain_scores
from protocol.errors import ConfirmationFailed
from protocol.messages import ConfirmationAnswer, ConfirmationBlock, Rung

Templates = npt.NDArray[np.int8]
NO_PROBE = "needs the probe that the audit of the requester writes (--probe)"


class BlockAudit:
    """`sealed`: None where nothing was confirmed. `probe`: int8 (d,), None if the supervisor did not bring it."""

    def __init__(self, audit: HolderAudit, sealed: SealedBlock | None, probe: Templates | None) -> None:
        self._audit, self._sealed, self._probe = audit, sealed, probe

    def rows(self) -> Findings:
        """Slot by slot: a template, times 1 and times five factors; the templates are the gallery's."""
        yield from self._with_block(self._rows)

    def block(self) -> Findings:
        """Score the sealed rows again, add the last encryption of zero of the pool; compare c1, shares, commitment."""
        yield from self._with_block(self._block)

    def scores(self) -> Findings:
        """Decode the signed answers once more: every row of the block scored theta or more."""
        yield from self._with_block(self._scores)

    def hits(self) -> Findings:
        """The rows of the block are those that hit on the last rung, and on no rung below was there room for all hits.

        Findings are counts: no row, score or reference is shown.
        """
        audit, case = self._audit, self._audit.case
        if self._probe is None:
            yield Open(NO_PROBE)
            return
        if (reason := audit.cannot()) is not None or audit.templates is None or case.terms is None:
            yield Open(reason or audit.why_no_templates)
            return
        if self._probe.shape != (audit.dim,):
            yield Broken("probe", f"{self._probe.shape[0]} entries, announced were {audit.dim}")
            return
        scores = plain_scores(audit.templates, self._probe)
        told = audit.view.messages(Rung, audit.holder, "sent", audit.announce.requester)
        for (item, message), threshold in zip(told, case.terms.rungs, strict=False):
            hits = set(np.flatnonzero(scores >= table.theta(threshold, audit.dim)).tolist())
            fault = self._difference(hits) if message.verdict == "confirm" else self._room(len(hits))
            yield Held() if fault is None else Broken(audit.view.place(item.record), fault)

    def _room(self, hits: int) -> str | None:
        if hits > self._audit.cap:
            return None
        return (
            f"{hits} rows hit, which the cap of {self._audit.cap} has room for: somebody made others seem to hit, or "
            "the holder said so without reason"
        )

    def _difference(self, hits: set[int]) -> str | None:
        rows = set(self._sealed.rows) if self._sealed is not None else set()
        faults = []
        if extra := len(rows - hits):
            faults.append(f"{extra} of {len(rows)} rows in the block did not hit: their exact scores were read")
        if missing := len(hits - rows):
            faults.append(f"{missing} rows hit and are not in the block: left out, or lost by a lie in the comparison")
        return "; ".join(faults) or None

    def _with_block(self, rule: Callable[[SealedBlock], Findings]) -> Findings:
        if self._sealed is not None:
            yield from rule(self._sealed)
            return
        signed = list(self._audit.view.messages(ConfirmationBlock, self._audit.holder, "sent"))
        if signed:
            yield Broken(self._audit.view.place(signed[0][0].record), "signed, and nothing was sealed that opens it")
        else:
            yield Open("the query never came to a confirmation")

    def _rows(self, sealed: SealedBlock) -> Findings:
        audit, used = self._audit, len(sealed.rows)
        factors = np.frombuffer(sealed.factors, "<i4").reshape(audit.cap, SLOT).astype(np.int64)
        block = np.frombuffer(sealed.block, "<i4").reshape(audit.cap, SLOT, audit.dim).astype(np.int64)
        if used > audit.cap or len(set(sealed.rows)) != used:
            yield Broken("sealed rows", f"{used} rows for {audit.cap} slots, or one of them twice")
            return
        for slot in range(audit.cap):
            where, first = f"slot {slot} of the confirmation block", block[slot, 0]
            if slot >= used:
                fault = None if not block[slot].any() and not factors[slot].any() else "unused, and not zero"
            elif factors[slot, 0] != 1 or factors[slot].min() < 1 or factors[slot].max() > 2**FACTOR_BITS:
                fault = f"factors {factors[slot].tolist()}, allowed are 1, then 1 to {2**FACTOR_BITS}"
            elif not (block[slot] == factors[slot, :, None] * first).all():
                fault = "not one row times its factors: chosen numbers"
            elif int(np.abs(first).max()) > 127 or int(first @ first) > norm_bound(audit.dim):
                fault = "not a template: longer than any that a gallery may hold"
            elif audit.templates is not None and not (
                0 <= sealed.rows[slot] < len(audit.templates) and (first == audit.templates[sealed.rows[slot]]).all()
            ):
                fault = f"not row {sealed.rows[slot]} of the gallery"
            else:
                fault = None
            yield Held() if fault is None else Broken(where, fault)
        if audit.templates is None:
            yield Open(f"whether the rows are the gallery's: {audit.why_no_templates}")

    def _block(self, sealed: SealedBlock) -> Findings:
        audit = self._audit
        if (reason := audit.cannot()) is not None:
            yield Open(reason)
            return
        params, threads = audit.params, audit.threads
        rows = np.frombuffer(sealed.block, "<i4").reshape(audit.cap * SLOT, audit.dim).astype(np.int32)
        scored = score(encode_gallery(rows, params, threads), audit.probe(), 0, 1, threads)
        zeros = audit.zeros()
        zeros.take(zeros.left - 1)
        blinded = residues.add(scored, zeros.take(1), params)
        c1 = np.ascontiguousarray(blinded[:, 1]).tobytes()
        own = flat_shares(own_coefficients(blinded[:, 0], params, threads), params, threads)
        shares = np.frombuffer(sealed.shares, "<u4").astype(np.uint32)
        if not np.array_equal(own[: SLOT * audit.cap], shares):
            yield Broken("sealed shares", "rows and seed give other shares than those sealed")
        factors = np.frombuffer(sealed.factors, "<i4").reshape(audit.cap, SLOT).astype(np.int32)
        opened = SealedConfirmation(sealed.salt, sealed.rows, factors, rows, shares, audit.content.seed)
        for item, message in audit.view.messages(ConfirmationBlock, audit.holder, "sent"):
            if message.data != c1:
                yield Broken(audit.view.place(item.record), "rows, factors and seed give another block than the signed")
            elif message.commitment != opened.commitment(c1):
                yield Broken(audit.view.place(item.record), "what was sealed does not open its commitment")
            else:
                yield Held()

    def _scores(self, sealed: SealedBlock) -> Findings:
        audit, case = self._audit, self._audit.case
        received = audit.view.find("ConfirmationAnswer", audit.holder, "received")
        if len(received) < 2 or case.terms is None:
            yield Open("the query ended before the confirmation was answered")
            return
        if len(sealed.answers) != len(received):
            yield Broken(audit.view.place(received[0].record), "nothing was sealed that opens it")
            return
        for item, answer in zip(received, sealed.answers, strict=True):
            if content_digest(ConfirmationAnswer(answer)) != item.record.content:
                yield Broken(audit.view.place(item.record), "another answer was sealed")
                return
        rung = len(list(audit.view.messages(Rung, audit.holder, "sent", audit.announce.requester))) - 1
        theta = table.theta(case.terms.rungs[rung], audit.dim)
        factors = np.frombuffer(sealed.factors, "<i4").reshape(audit.cap, SLOT).astype(np.int32)
        sums = add_answers(np.frombuffer(sealed.shares, "<u4").astype(np.uint32), sealed.answers)
        try:
            check_answers(sums, factors, len(sealed.rows), theta, audit.params)
        except ConfirmationFailed as error:
            released = audit.view.find("Release", audit.holder, "sent")
            then = "something was released all the same" if released else "somebody lied, and nothing was released"
            yield Broken(audit.view.place(received[-1].record), f"{error}; {then}")
        else:
            yield Held(f"{len(sealed.rows)} rows")
