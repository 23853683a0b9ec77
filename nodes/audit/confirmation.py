"""The confirmation in a holder's audit: whose rows the block holds, how it was made, and whether those rows were hits.

A holder that puts rows into it that did not hit reads their exact scores. It reads them from the answers of requester
and router, who signed them: so what was sealed gives the same scores once more, and shows nobody anything new.

Whether other rows hit takes the probe to say. That check is made only if the supervisor brings what the requester's
audit wrote, and then on the holder's machine: `nodes.audit.audit` says what that costs.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from nodes.audit.handover import CarriedProbe
from nodes.audit.holder import HolderAudit
from nodes.evidence.sealed import SealedBlock
from nodes.verify.case import Item
from nodes.verify.format import content_digest
from nodes.verify.report import Broken, Findings, Held, Open
from pets import residues
from pets.params import norm_bound
from pets.product import product_share
from pets.rounding import round_shares
from pets.scoring import score_rows
from protocol.confirmation_block import FACTOR_BITS, SLOT, SealedConfirmation, check_answers
from protocol.engine import plain_scores
from protocol.errors import ConfirmationFailed
from protocol.form import SHARE_MASK
from protocol.messages import ConfirmationAnswer, ConfirmationBlock, Rung
from protocol.wire import array

NO_PROBE = "needs the probe that the audit of the requester writes (--probe)"


class BlockAudit:
    """`sealed`: None where nothing was confirmed. `probe`: None if the supervisor did not bring it."""

    def __init__(self, audit: HolderAudit, sealed: SealedBlock | None, probe: CarriedProbe | None) -> None:
        self._audit, self._sealed, self._probe = audit, sealed, probe
        self._view, self._query, self._cap = audit.query.search, audit.query, audit.query.terms.cap

    def rows(self) -> Findings:
        """Slot by slot: a template, times 1 and times five factors; the templates are the gallery's."""
        yield from self._with_block(self._rows)

    def block(self) -> Findings:
        """Score the sealed rows again, add the encryption of zero of the seed; compare c1, shares, commitment."""
        yield from self._with_block(self._block)

    def scores(self) -> Findings:
        """Decode the signed answers once more: every row of the block scored theta or more."""
        yield from self._with_block(self._scores)

    def hits(self) -> Findings:
        """The rows of the block are those that hit on the last rung, and on no rung below was there room for all hits.

        Findings are counts: no row, score or reference is shown.
        """
        audit, query = self._audit, self._query
        if self._probe is None or audit.rows is None:
            yield Open(NO_PROBE if self._probe is None else audit.why_no_rows)
            return
        probe = np.frombuffer(self._probe.template, np.int8)
        if probe.shape != (query.dim,):
            yield Broken("probe", f"{len(probe)} entries, announced were {query.dim}")
            return
        scores = plain_scores(audit.rows.templates, probe)
        for rung, (item, message) in enumerate(self._verdicts()):
            hits = set(np.flatnonzero((scores >= query.terms.theta(rung)) & audit.rows.found).tolist())
            fault = self._difference(hits) if message.verdict == "confirm" else self._room(len(hits))
            if fault is not None and message.verdict != "confirm" and audit.rows.missing:
                yield Open("whether a rung was climbed without need: rows were changed or forgotten since")
            else:
                yield Held() if fault is None else Broken(self._view.place(item.record), fault)
        if audit.rows.missing:
            yield Open(f"whether any of {len(audit.rows.missing)} rows hit that were forgotten since")

    def _verdicts(self) -> list[tuple[Item, Rung]]:
        told = self._view.messages(Rung, self._audit.holder, "sent", self._query.announce.requester)
        return list(told)[: len(self._query.terms.rungs)]

    def _room(self, hits: int) -> str | None:
        if hits > self._cap:
            return None
        return (
            f"{hits} rows hit, which the cap of {self._cap} has room for: somebody made others seem to hit, or "
            "the holder said so without reason"
        )

    def _difference(self, hits: set[int]) -> str | None:
        gone = self._audit.rows.missing if self._audit.rows else ()
        rows = {row for row in (self._sealed.rows if self._sealed else ()) if row not in gone}
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
        signed = list(self._view.messages(ConfirmationBlock, self._audit.holder, "sent"))
        if signed:
            yield Broken(self._view.place(signed[0][0].record), "signed, and nothing was sealed that opens it")
        else:
            yield Open("the query never came to a confirmation")

    def _rows(self, sealed: SealedBlock) -> Findings:
        cap, dim, used, known = self._cap, self._query.dim, len(sealed.rows), self._audit.rows
        factors = np.frombuffer(sealed.factors, "<i4").reshape(cap, SLOT).astype(np.int64)
        block = np.frombuffer(sealed.block, "<i4").reshape(cap, SLOT, dim).astype(np.int64)
        if used > cap or len(set(sealed.rows)) != used:
            yield Broken("sealed rows", f"{used} rows for {cap} slots, or one of them twice")
            return
        unknown = 0
        for slot in range(cap):
            where, first = f"slot {slot} of the confirmation block", block[slot, 0]
            if slot >= used:
                fault = None if not block[slot].any() and not factors[slot].any() else "unused, and not zero"
            elif factors[slot, 0] != 1 or factors[slot].min() < 1 or factors[slot].max() > 2**FACTOR_BITS:
                fault = f"factors {factors[slot].tolist()}, allowed are 1, then 1 to {2**FACTOR_BITS}"
            elif not (block[slot] == factors[slot, :, None] * first).all():
                fault = "not one row times its factors: chosen numbers"
            elif int(np.abs(first).max()) > 127 or int(first @ first) > norm_bound(dim):
                fault = "not a template: longer than any that a gallery may hold"
            elif not 0 <= sealed.rows[slot] < self._audit.content.rows:
                fault = f"not row {sealed.rows[slot]} of the gallery"
            elif known is None or sealed.rows[slot] in known.missing:
                fault, unknown = None, unknown + 1
            elif not (first == known.templates[sealed.rows[slot]]).all():
                fault = f"not row {sealed.rows[slot]} of the gallery"
            else:
                fault = None
            yield Held() if fault is None else Broken(where, fault)
        if unknown:
            reason = "theirs were changed or forgotten since" if known else self._audit.why_no_rows
            yield Open(f"whether {unknown} rows are the gallery's: {reason}")

    def _block(self, sealed: SealedBlock) -> Findings:
        audit, cap, dim = self._audit, self._cap, self._query.dim
        if (reason := audit.cannot()) is not None:
            yield Open(reason)
            return
        assert audit.keys is not None
        assert audit.values is not None
        params, threads = audit.params, self._query.threads
        rows = np.frombuffer(sealed.block, "<i4").reshape(cap * SLOT, dim).astype(np.int32)
        scored = score_rows(rows, [audit.probe()], params, threads)[0]
        blinded = residues.add(scored, audit.keys.zeros("confirm", 1, threads), params)
        c1 = np.ascontiguousarray(blinded[:, 1]).tobytes()
        own = round_shares(audit.keys.own_addend(blinded, threads), params)[0, : SLOT * cap]
        product = (rows.astype(np.int64) @ audit.values.astype(np.int64) % params.t).astype(np.uint32)
        shares = np.frombuffer(sealed.shares, "<u4").astype(np.uint32)
        if not np.array_equal(own + product_share(product, params) & SHARE_MASK, shares):
            yield Broken("sealed shares", "rows, seed and u give other shares than those sealed")
        factors = np.frombuffer(sealed.factors, "<i4").reshape(cap, SLOT).astype(np.int32)
        opened = SealedConfirmation(sealed.salt, sealed.rows, factors, rows, shares, audit.content.seed)
        for item, message in self._view.messages(ConfirmationBlock, audit.holder, "sent"):
            if message.data != c1:
                yield Broken(self._view.place(item.record), "rows, factors and seed give another block than the signed")
            elif message.commitment != opened.commitment(c1):
                yield Broken(self._view.place(item.record), "what was sealed does not open its commitment")
            else:
                yield Held()

    def _scores(self, sealed: SealedBlock) -> Findings:
        query, view = self._query, self._view
        received = view.find("ConfirmationAnswer", self._audit.holder, "received")
        verdicts = self._verdicts()
        if len(received) < 2 or not verdicts:
            yield Open("the query ended before the confirmation was answered")
            return
        if len(sealed.answers) != len(received):
            yield Broken(view.place(received[0].record), "nothing was sealed that opens it")
            return
        for item, answer in zip(received, sealed.answers, strict=True):
            if content_digest(ConfirmationAnswer(answer)) != item.record.content:
                yield Broken(view.place(item.record), "another answer was sealed")
                return
        factors = np.frombuffer(sealed.factors, "<i4").reshape(self._cap, SLOT).astype(np.int32)
        shares = np.frombuffer(sealed.shares, "<u4").astype(np.uint32)
        first, second = (array(answer, shares.shape, np.uint32, "confirmation answer") for answer in sealed.answers)
        try:
            if not np.array_equal(first, second):
                raise ConfirmationFailed("requester and router answered differently")
            theta = query.terms.theta(len(verdicts) - 1)
            check_answers(shares + first & SHARE_MASK, factors, len(sealed.rows), theta, query.params)
        except ConfirmationFailed as error:
            released = view.find("Release", self._audit.holder, "sent")
            then = "something was released all the same" if released else "somebody lied, and nothing was released"
            yield Broken(view.place(received[-1].record), f"{error}; {then}")
        else:
            yield Held(f"{len(sealed.rows)} rows")
