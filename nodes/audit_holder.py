"""A holder's part of the audit: gallery, confirmation block and filter blocks, computed once more (`nodes.audit`)."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from datetime import datetime, timezone
from pathlib import Path

import numpy as np
import numpy.typing as npt

from nodes.operate import holder_store
from nodes.sealed import SealedBlock
from nodes.store import StoreError
from nodes.verify.case import Case, View
from nodes.verify.format import encode_frame
from nodes.verify.report import Broken, Findings, Held, Open
from pets import residues
from pets.errors import LineupError
from pets.keys import JointKey, ZeroPool
from pets.params import Parameters, norm_bound
from pets.prf import labelled_hash
from pets.scoring import ScoringProbe, encode_gallery, prepare_probe, score
from pets.threads import default_threads
from protocol.confirmation import FACTOR_BITS, SLOT, SealedConfirmation
from protocol.decryption import flat_shares, own_coefficients
from protocol.filter import chunks
from protocol.messages import ConfirmationBlock, FilterBlock, Joined, ProbePart
from protocol.wire import PROBE_PART

Residues = npt.NDArray[np.uint32]
Templates = npt.NDArray[np.int8]
RuleParts = tuple[str, str, str, Callable[[], Findings]]

CANNOT = "OpenFHE encrypted, whose generator cannot be seeded: this query cannot be audited by recomputation"
NO_CIPHERTEXTS = "needs the ciphertexts that the audit of the requester writes (--ciphertexts)"


def holder_rules(
    case: Case,
    view: View,
    content: SealedBlock | None,
    params: Parameters,
    joint: JointKey,
    ciphertexts: Residues | None,
    folder: Path,
) -> list[RuleParts]:
    """(id, title, source, rule) of each rule. `ciphertexts`: uint32 (d, 2, 2, n), not yet trusted."""
    blocks = list(view.messages(ConfirmationBlock, view.owner, "sent"))
    if content is None:

        def nothing() -> Findings:
            if blocks:
                yield Broken(view.place(blocks[0][0].record), "it was signed, and nothing was sealed that opens it")
            else:
                yield Open("the query never came to a confirmation, so nothing was sealed")

        return [("audit-sealed", "What opens the confirmation block was sealed", "design 2.8, 6", nothing)]
    audit = _HolderAudit(case, view, content, params, joint, ciphertexts, folder)
    return [
        ("audit-gallery", "The gallery is the one committed to", "design 5, 6a", audit.gallery),
        ("audit-rows", "The block holds rows of the gallery and their multiples", "design 6", audit.rows),
        ("audit-received", "The ciphertexts are those that the holder received", "design 2.8", audit.received),
        ("audit-block", "Rows, factors and seed give the block that was signed", "design 2.8, 6", audit.block),
        ("audit-filter", "The filter was computed on the gallery committed to", "design 5", audit.filter),
    ]


class _HolderAudit:
    def __init__(
        self,
        case: Case,
        view: View,
        content: SealedBlock,
        params: Parameters,
        joint: JointKey,
        ciphertexts: Residues | None,
        folder: Path,
    ) -> None:
        assert case.announce is not None
        self.case, self.view, self.content, self.params, self.joint = case, view, content, params, joint
        self.ciphertexts, self.folder = ciphertexts, folder
        self.dim, self.cap, self.holder = case.announce.dim, case.announce.cap, view.owner
        self.threads = default_threads()
        self._templates: Templates | None = None
        self._why_no_templates = ""
        self._trusted = False

    def gallery(self) -> Findings:
        """Salt and digest open the commitment; the gallery as it is now, where it has not changed since."""
        content = self.content
        stated = labelled_hash("gallery", content.gallery_salt, content.gallery_digest)
        for item, joined in self.view.messages(Joined, "", "sent"):
            if joined.gallery == stated:
                yield Held()
            else:
                yield Broken(self.view.place(item.record), "salt and digest do not open the gallery's commitment")
        try:
            with holder_store(self.folder) as store:
                templates = store.snapshot(datetime.now(timezone.utc)).templates
        except (StoreError, LineupError) as error:
            self._why_no_templates = f"the gallery cannot be read: {error}"
            yield Open(self._why_no_templates)
            return
        if hashlib.sha256(np.ascontiguousarray(templates).data).digest() == content.gallery_digest:
            self._templates = templates
            yield Held(f"{len(templates)} rows, unchanged since the query")
        else:
            self._why_no_templates = "the gallery has changed since the query (or is not the one searched)"
            yield Open(f"{self._why_no_templates}: rows cannot be compared with it")

    def rows(self) -> Findings:
        """Slot by slot: a template, times 1 and times five factors; the templates are the gallery's."""
        content, used = self.content, len(self.content.rows)
        factors = np.frombuffer(content.factors, "<i4").reshape(self.cap, SLOT).astype(np.int64)
        block = np.frombuffer(content.block, "<i4").reshape(self.cap, SLOT, self.dim).astype(np.int64)
        if used > self.cap or len(set(content.rows)) != used:
            yield Broken("sealed rows", f"{used} rows for {self.cap} slots, or one of them twice")
            return
        for slot in range(self.cap):
            where, first = f"slot {slot} of the confirmation block", block[slot, 0]
            if slot >= used:
                fault = None if not block[slot].any() and not factors[slot].any() else "unused, and not zero"
            elif factors[slot, 0] != 1 or factors[slot].min() < 1 or factors[slot].max() > 2**FACTOR_BITS:
                fault = f"factors {factors[slot].tolist()}, allowed are 1, then 1 to {2**FACTOR_BITS}"
            elif not (block[slot] == factors[slot, :, None] * first).all():
                fault = "not one row times its factors: chosen numbers"
            elif int(np.abs(first).max()) > 127 or int(first @ first) > norm_bound(self.dim):
                fault = "not a template: longer than any that a gallery may hold"
            elif self._templates is not None and not (
                0 <= content.rows[slot] < len(self._templates) and (first == self._templates[content.rows[slot]]).all()
            ):
                fault = f"not row {content.rows[slot]} of the gallery"
            else:
                fault = None
            yield Held() if fault is None else Broken(where, fault)
        if self._templates is None:
            yield Open(f"whether the rows are the gallery's: {self._why_no_templates}")

    def received(self) -> Findings:
        """The requester's recomputed ciphertexts encode to the very frames that this holder received."""
        if self.ciphertexts is None:
            yield Open(NO_CIPHERTEXTS)
            return
        shape = (self.dim, 2, 2, self.params.n)
        if self.ciphertexts.shape != shape or self.ciphertexts.dtype != np.uint32:
            yield Broken("ciphertexts", f"{self.ciphertexts.dtype} {self.ciphertexts.shape}, expected uint32 {shape}")
            return
        fits = True
        requester = self.view.find("ProbePart", self.holder, "received")
        for index, item in enumerate(requester):
            part = ProbePart(memoryview(self.ciphertexts[index * PROBE_PART : (index + 1) * PROBE_PART].tobytes()))
            if self._same(item.record.peer, self.holder, item.record.sequence, part, item.record.frame):
                yield Held()
            else:
                fits = False
                yield Broken(self.view.place(item.record), "the requester's recomputed ciphertexts are not these")
        self._trusted = fits and bool(requester)

    def block(self) -> Findings:
        """Score the sealed rows again, add the last encryption of zero of the pool; compare c1, shares, commitment."""
        if (reason := self._cannot()) is not None:
            yield Open(reason)
            return
        content = self.content
        rows = np.frombuffer(content.block, "<i4").reshape(self.cap * SLOT, self.dim).astype(np.int32)
        scored = score(encode_gallery(rows, self.params, self.threads), self._probe(), 0, 1, self.threads)
        zeros = self._zeros()
        zeros.take(zeros.left - 1)
        blinded = residues.add(scored, zeros.take(1), self.params)
        c1 = np.ascontiguousarray(blinded[:, 1]).tobytes()
        own = flat_shares(own_coefficients(blinded[:, 0], self.params, self.threads), self.params, self.threads)
        shares = np.frombuffer(content.shares, "<u4").astype(np.uint32)
        if not np.array_equal(own[: SLOT * self.cap], shares):
            yield Broken("sealed shares", "rows and seed give other shares than those sealed")
        factors = np.frombuffer(content.factors, "<i4").reshape(self.cap, SLOT).astype(np.int32)
        opened = SealedConfirmation(content.salt, content.rows, factors, rows, shares, content.seed)
        for item, message in self.view.messages(ConfirmationBlock, self.holder, "sent"):
            if message.data != c1:
                yield Broken(self.view.place(item.record), "rows, factors and seed give another block than the signed")
            elif message.commitment != opened.commitment(c1):
                yield Broken(self.view.place(item.record), "what was sealed does not open its commitment")
            else:
                yield Held()

    def filter(self) -> Findings:
        """Score the whole gallery again and compare every filter block."""
        if (reason := self._cannot()) is not None or self._templates is None:
            yield Open(reason or self._why_no_templates)
            return
        gallery = encode_gallery(self._templates, self.params, self.threads)
        probe, zeros = self._probe(), self._zeros()
        sent = [self.view.find("FilterBlock", self.holder, "sent", peer) for peer in self._key_owners()]
        for index, (first, count) in enumerate(chunks(gallery.blocks, self.params)):
            scored = score(gallery, probe, first, count, self.threads)
            blinded = residues.add(scored, zeros.take(count), self.params, self.threads)
            message = FilterBlock(np.ascontiguousarray(blinded[:, 1]).tobytes())
            for item in (items[index] for items in sent if index < len(items)):
                if self._same(self.holder, item.record.peer, item.record.sequence, message, item.record.frame):
                    yield Held()
                else:
                    yield Broken(self.view.place(item.record), "the committed gallery gives another block")

    def _cannot(self) -> str | None:
        if not self.content.seed:
            return CANNOT
        if self.ciphertexts is None:
            return NO_CIPHERTEXTS
        return None if self._trusted else "the ciphertexts given are not those that the holder received"

    def _key_owners(self) -> tuple[str, str]:
        assert self.case.announce is not None
        return self.case.announce.requester, self.case.announce.router

    def _probe(self) -> ScoringProbe:
        assert self.ciphertexts is not None
        return prepare_probe(self.ciphertexts, self.params, self.threads)

    def _zeros(self) -> ZeroPool:
        """The pool as the holder made it: one for each block of the gallery, and one for the confirmation block."""
        joined = self.case.joined.get(self.holder)
        blocks = joined.blocks if joined is not None and joined.blocks is not None else 0
        return ZeroPool.make(self.joint, self.content.seed, "rerandomise", blocks + 1, self.threads)

    def _same(self, sender: str, receiver: str, sequence: int, message: ProbePart | FilterBlock, frame: bytes) -> bool:
        encoded = encode_frame(self.case.query, self.holder, sender, receiver, sequence, message)
        return hashlib.sha256(encoded).digest() == frame
