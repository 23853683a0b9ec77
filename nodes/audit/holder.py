"""A holder's part of the audit: gallery, admission and filter, computed once more (`nodes.audit.audit`).

Its confirmation block is the business of `nodes.audit.confirmation`.
"""

from __future__ import annotations

import hashlib
from datetime import datetime, timezone
from pathlib import Path

import numpy as np
import numpy.typing as npt

from nodes.config.storage import holder_store
from nodes.evidence.sealed import SealedGallery
from nodes.store import StoreError
from nodes.verify.case import Case, Item, View
from nodes.verify.format import content_digest
from nodes.verify.report import Broken, Findings, Held, Open
from pets import residues
from pets.errors import LineupError
from pets.keys import JointKey, ZeroPool
from pets.params import Parameters
from pets.prf import Label
from pets.scoring import ScoringProbe, encode_gallery, prepare_probe, score
from pets.threads import default_threads
from protocol.admission import admission_block, admission_values, identity_gallery
from protocol.compute import HOLDER
from protocol.decryption import flat_shares, own_coefficients
from protocol.filter import chunks
from protocol.gallery import gallery_commitment
from protocol.messages import AnyMessage, FilterBlock, Joined, ProbePart
from protocol.wire import PROBE_PART, as_bytes

Residues = npt.NDArray[np.uint32]
Templates = npt.NDArray[np.int8]

CANNOT = "OpenFHE encrypted, whose generator cannot be seeded: this query cannot be audited by recomputation"
NO_CIPHERTEXTS = "needs the ciphertexts that the audit of the requester writes (--ciphertexts)"


class HolderAudit:
    """`ciphertexts`: uint32 (d, 2, 2, n), not yet trusted. Rules in the order of a report: later ones use earlier ones.

    `templates`: int8 (rows, d), None with `why_no_templates` unless they are those committed to. `inputs`: purpose and
    values of admission, then purpose and shares of each chunk, as far as what was sent of them holds.
    """

    def __init__(
        self,
        case: Case,
        view: View,
        content: SealedGallery,
        params: Parameters,
        joint: JointKey,
        ciphertexts: Residues | None,
        folder: Path,
    ) -> None:
        assert case.announce is not None
        self.case, self.view, self.content, self.params, self.joint = case, view, content, params, joint
        self.announce, self.dim, self.cap, self.holder = case.announce, case.announce.dim, case.announce.cap, view.owner
        self.threads = default_threads()
        self.templates: Templates | None = None
        self.why_no_templates = ""
        self._ciphertexts, self._folder = ciphertexts, folder
        self.inputs: list[tuple[tuple[Label, ...], npt.NDArray[np.uint32]]] = []
        self._trusted = False

    def gallery(self) -> Findings:
        """Salt, digest and seed open the commitment; the gallery as it is now, where it has not changed since."""
        content = self.content
        stated = gallery_commitment(content.gallery_salt, content.gallery_digest, content.seed)
        for item, joined in self.view.messages(Joined, "", "sent"):
            if joined.gallery == stated:
                yield Held()
            else:
                yield Broken(self.view.place(item.record), "salt, digest and seed do not open the gallery's commitment")
        try:
            with holder_store(self._folder) as store:
                templates = store.snapshot(datetime.now(timezone.utc)).templates
        except (StoreError, LineupError) as error:
            self.why_no_templates = f"the gallery cannot be read: {error}"
            yield Open(self.why_no_templates)
            return
        if hashlib.sha256(np.ascontiguousarray(templates).data).digest() == content.gallery_digest:
            self.templates = templates
            yield Held(f"{len(templates)} rows, unchanged since the query")
        else:
            self.why_no_templates = "the gallery has changed since the query (or is not the one searched)"
            yield Open(f"{self.why_no_templates}: rows cannot be compared with it")

    def received(self) -> Findings:
        """The requester's recomputed ciphertexts are those that this holder received."""
        if self._ciphertexts is None:
            yield Open(NO_CIPHERTEXTS)
            return
        shape = (self.dim, 2, 2, self.params.n)
        if self._ciphertexts.shape != shape or self._ciphertexts.dtype != np.uint32:
            yield Broken("ciphertexts", f"{self._ciphertexts.dtype} {self._ciphertexts.shape}, expected uint32 {shape}")
            return
        fits = True
        parts = self.view.find("ProbePart", self.holder, "received")
        for index, item in enumerate(parts):
            part = ProbePart(memoryview(self._ciphertexts[index * PROBE_PART : (index + 1) * PROBE_PART].tobytes()))
            if content_digest(part) == item.record.content:
                yield Held()
            else:
                fits = False
                yield Broken(self.view.place(item.record), "the requester's recomputed ciphertexts are not these")
        self._trusted = fits and bool(parts)
        if not parts:
            yield Open("the query ended before a probe arrived")

    def admission(self) -> Findings:
        """Draw the coins again from the seed, and compare what was sent to requester and router."""
        if (reason := self.cannot()) is not None:
            yield Open(reason)
            return
        assert self._ciphertexts is not None
        identity = score(identity_gallery(self.dim, self.params), self.probe(), 0, 1, self.threads)
        block, message = admission_block(
            identity, self._ciphertexts, self.content.seed, self.joint.query_id, self.params, self.threads
        )
        own = own_coefficients(block[:, 0], self.params, self.threads)
        values = admission_values(HOLDER, own, self.dim, message.seed, self.params)
        found = [
            self._same(item, message, "seed and ciphertexts give another admission block")
            for item in self.view.find("AdmissionBlock", self.holder, "sent")
        ]
        yield from found
        if all(isinstance(finding, Held) for finding in found):
            self.inputs.append((("admission",), values))

    def filter(self) -> Findings:
        """Score the whole gallery again and compare every filter block."""
        if (reason := self.cannot()) is not None or self.templates is None:
            yield Open(reason or self.why_no_templates)
            return
        gallery = encode_gallery(self.templates, self.params, self.threads)
        probe, zeros = self.probe(), self.zeros()
        owners = (self.announce.requester, self.announce.router)
        sent = [self.view.find("FilterBlock", self.holder, "sent", peer) for peer in owners]
        for index, (first, count) in enumerate(chunks(gallery.blocks, self.params)):
            scored = score(gallery, probe, first, count, self.threads)
            blinded = residues.add(scored, zeros.take(count), self.params, self.threads)
            message = FilterBlock(as_bytes(blinded[:, 1]))
            own = own_coefficients(blinded[:, 0], self.params, self.threads)
            found = [
                self._same(items[index], message, "the committed gallery gives another block")
                for items in sent
                if index < len(items)
            ]
            yield from found
            if all(isinstance(finding, Held) for finding in found):
                self.inputs.append((("compare", index), flat_shares(own, self.params, self.threads)))

    def cannot(self) -> str | None:
        """Why nothing can be recomputed, None if it can."""
        if not self.content.seed:
            return CANNOT
        if self._ciphertexts is None:
            return NO_CIPHERTEXTS
        return None if self._trusted else "the ciphertexts given are not those that the holder received"

    def probe(self) -> ScoringProbe:
        """The ciphertexts, ready to score with."""
        assert self._ciphertexts is not None
        return prepare_probe(self._ciphertexts, self.params, self.threads)

    def zeros(self) -> ZeroPool:
        """The pool as the holder made it: one for each block of the gallery, and one for the confirmation block."""
        joined = self.case.joined.get(self.holder)
        blocks = joined.blocks if joined is not None and joined.blocks is not None else 0
        return ZeroPool.make(self.joint, self.content.seed, "rerandomise", blocks + 1, self.threads)

    def _same(self, item: Item, message: AnyMessage, otherwise: str) -> Held | Broken:
        same = content_digest(message) == item.record.content
        return Held() if same else Broken(self.view.place(item.record), otherwise)
