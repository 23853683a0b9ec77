"""What a holder put into admission and comparison, computed once more (`nodes.audit.audit`).

A holder that adds to its shares asks whether scores, or numbers of the probe, reach thresholds of its own, and reads
the answers out of the sketch or the admission bit. Its inputs travel masked to the router; the mask comes from a secret
that the requester sent it, so what it sent follows from its shares, and must have the hash that was recorded.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from nodes.audit.holder import HolderAudit
from nodes.verify.format import content_digest
from nodes.verify.report import Broken, Findings, Held, Open
from pets.params import SHARE_BITS
from pets.planes import to_planes
from pets.prf import Label
from pets.replicated import share_input
from protocol.compare import fold_threshold
from protocol.compute import HOLDER, Ring
from protocol.filter import chunks
from protocol.messages import InputShare, PairSecret
from protocol.terms import Terms
from protocol.wire import as_bytes

Shares = npt.NDArray[np.uint32]


class InputAudit:
    """Runs after the rules of `HolderAudit`, whose shares it masks again."""

    def __init__(self, audit: HolderAudit) -> None:
        self._audit = audit

    def inputs(self) -> Findings:
        """Mask the recomputed shares, less the threshold of each rung, and compare with what was sent."""
        audit, view = self._audit, self._audit.view
        sent = view.find("InputShare", audit.holder, "sent")
        blocks = audit.case.joined[audit.holder].blocks or 0
        if (reason := audit.cannot()) is not None:
            yield Open(reason)
            return
        if len(audit.inputs) != 1 + len(chunks(blocks, audit.params)):
            yield Open("needs the committed gallery, and admission and filter as the rules before found them right")
            return
        for item in view.find("PairSecret", audit.holder, "received"):
            if content_digest(PairSecret(audit.content.pair_secret)) != item.record.content:
                yield Broken(view.place(item.record), "the secret that was sealed is not the one received")
                return
        names = (audit.holder, audit.announce.requester, audit.announce.router)
        ring = Ring(HOLDER, names, audit.joint.query_id, bytes(32), audit.content.pair_secret, audit.threads)
        shares = len(audit.inputs) - 1  # after them, at each rung, comes the count: what it is made of is not kept
        masked_again = [item for number, item in enumerate(sent) if number % (shares + 1) or not number]
        for item, (purpose, values) in zip(masked_again, self._expected(), strict=False):
            planes = to_planes(values, SHARE_BITS, audit.threads)
            masked = share_input(ring.masks(*purpose), planes).parts[0]
            if content_digest(InputShare(as_bytes(masked))) == item.record.content:
                yield Held()
            else:
                what = "admission" if purpose == ("admission",) else "comparison"
                yield Broken(view.place(item.record), f"not the holder's share in the {what}: a threshold of its own")

    def _expected(self) -> Iterator[tuple[tuple[Label, ...], Shares]]:
        """Purpose and values of each input in the order sent: admission, then all chunks at each rung."""
        admission, *shares_of = self._audit.inputs
        yield admission
        terms = Terms.announced(self._audit.announce)
        for rung in range(len(terms.rungs)):
            for (name, index), shares in shares_of:
                yield (name, rung, index), fold_threshold(shares, terms.theta(rung), terms.params)
