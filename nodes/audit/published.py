"""What a holder published in a search, and which rows it let be found, computed once more (`nodes.audit.audit`).

All that it puts into admission and comparison is public: e of the unit rows and of every row, whose hash requester
and router compared. A threshold of its own, another row in a row's place, a number added to a coordinate of the probe:
each gives another e. Which rows are live is its private input, masked by a stream that it has with the requester.
"""

from __future__ import annotations

import numpy as np

from nodes.audit.holder import HolderAudit
from nodes.audit.query import same
from nodes.verify.report import Findings, Open
from pets.bits import Planes
from pets.params import SHARE_BITS
from pets.planes import from_planes, pack_bits, to_planes
from pets.prf import derive_key
from pets.product import public_product, public_sums
from pets.residues import Values
from protocol.admitting import SLACK
from protocol.compare import threshold_offset
from protocol.form import SHARE_MASK
from protocol.messages import AdmissionScores, LiveRows, MaskedScores
from protocol.wire import as_bytes

CHANGED = "blocks {} to {}: rows of theirs were changed or forgotten since"


class PublishedAudit:
    """Runs after the rules of `HolderAudit`, whose shares it adds to."""

    def __init__(self, audit: HolderAudit) -> None:
        self._audit = audit

    def admission(self) -> Findings:
        """The coins come from the seed, and e of the unit rows from what was prepared of them and u."""
        audit, view, query = self._audit, self._audit.query.search, self._audit.query
        if audit.known is None or audit.values is None:
            yield Open(audit.cannot() or "needs the form block, as the rule before found it right")
            return
        seed = derive_key(audit.content.seed, "admission-coins", query.query_id)
        planes = self._published(audit.known, audit.values.astype(np.uint32), -SLACK)
        message = AdmissionScores(seed, planes.astype("<u8").tobytes())
        for item in view.find("AdmissionScores", audit.holder, "sent"):
            yield same(view, item, message, "seed, mask and u give other numbers in the admission")

    def scores(self) -> Findings:
        """e of every chunk: e' of the rows under the mask, the stream m, their product with u, the first threshold."""
        audit, view, query = self._audit, self._audit.query.search, self._audit.query
        if (reason := audit.cannot()) is not None or audit.rows is None or audit.values is None:
            yield Open(reason or audit.why_no_rows)
            return
        n, ring = audit.params.n, audit.ring(query.preparation_id)
        offset = threshold_offset(query.terms.theta(0), audit.params)
        owners = (query.announce.requester, query.announce.router)
        sent = [view.find("MaskedScores", audit.holder, "sent", peer) for peer in owners]
        for index, (first, count) in enumerate(audit.chunks):
            items = [records[index] for records in sent if index < len(records)]
            if not items:
                return
            if not audit.rows.whole(first, count):
                yield Open(CHANGED.format(first, first + count - 1))
                continue
            if index not in audit.shares:
                yield Open(f"blocks {first} to {first + count - 1}: needs their c1, as the rule before found it right")
                continue
            masks = ring.masks("mask", first, count, audit.content.versions[first].attempt)
            shape = (SHARE_BITS, count * n // 64)
            m = from_planes(masks.own.words(*shape) ^ masks.following.words(*shape), query.threads)
            part = audit.rows.templates[first * n : (first + count) * n]
            product = public_product(part, audit.values[None], audit.params.t, query.threads)[0]
            message = MaskedScores(as_bytes(self._published(audit.shares[index] + m & SHARE_MASK, product, offset)))
            for item in items:
                yield same(view, item, message, "rows, mask and threshold give other numbers in the comparison")

    def live(self) -> Findings:
        """Every row that is still held, and that the purpose of the warrant looks at, could be found."""
        audit, view, query = self._audit, self._audit.query.search, self._audit.query
        if audit.rows is None or audit.keys is None:
            yield Open(audit.why_no_rows or audit.cannot() or "")
            return
        n, ring = audit.params.n, audit.ring(query.query_id)
        sent = view.find("LiveRows", audit.holder, "sent")
        for index, (item, (first, count)) in enumerate(zip(sent, audit.chunks, strict=False)):
            if not audit.rows.whole(first, count):
                yield Open(CHANGED.format(first, first + count - 1))
                continue
            bits, found = np.zeros(count * n, np.uint8), audit.rows.found[first * n : (first + count) * n]
            bits[: len(found)] = found
            masked = pack_bits(bits)[None] ^ ring.masks("live", index).following.words(1, len(bits) // 64)
            message = LiveRows(as_bytes(masked))
            yield same(view, item, message, "other rows could be found than the policy, as it is now, lets be found")

    def _published(self, masked: Values, values: Values, offset: int) -> Planes:
        """masked + round(values·2^K/t) - offset, uint64 (24, words); no values for the rows that fill up a block."""
        padded = np.zeros(len(masked), np.uint32)
        padded[: len(values)] = values
        threads = self._audit.query.threads
        return to_planes(public_sums(masked, padded, offset, self._audit.params, threads), SHARE_BITS, threads)
