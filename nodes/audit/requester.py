"""A requester's part of the audit: reason, probe, seeds, encrypted mask and u (`nodes.audit.audit`)."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from nodes.audit.handover import CarriedProbe, Sent, write
from nodes.audit.query import Query, same
from nodes.evidence.sealed import SealedProbe
from nodes.verify.report import Broken, Findings, Held, Open
from pets.keys import expand_secret, sample_key_share
from pets.mask_encryption import draw_mask, encrypt_mask, expand_public
from pets.params import norm_bound
from pets.sampling import common_polynomial
from protocol.announcing import commit_seed
from protocol.difference import difference, difference_digest, pack_difference
from protocol.mask import mask_digest, mask_parts
from protocol.messages import KeySeed, PublicPart
from protocol.warrant import JustificationError


class RequesterAudit:
    """Rules in the order of a report. `sent`, `probe`: files to write what a holder's audit reads, if all was right."""

    def __init__(self, query: Query, content: SealedProbe, sent: Path | None, probe: Path | None) -> None:
        self._query, self._content, self._sent, self._probe = query, content, sent, probe
        self._template = np.frombuffer(content.template, np.int8)
        self._part = sample_key_share(
            query.params,
            common_polynomial(query.params, query.preparation_id),
            content.router_seed,
            query.preparation_id,
        )
        self._mask: bytes | None = None  # as it was sent, once that is found right

    def justified(self) -> Findings:
        """The record behind the warrant is lawful as far as its fields say, and the one that the warrant names."""
        reason, warrant = self._content.justification, self._query.announce.warrant
        if reason is None or warrant is None:
            yield Broken("", "there is no justification, or no warrant")
            return
        try:
            reason.check()
        except JustificationError as error:
            yield Broken("justification", str(error))
        stated = (warrant.justification, warrant.officer, warrant.approver)
        if stated == (reason.digest(), reason.person(reason.officer), reason.person(reason.approver)):
            yield Held(f"case {reason.case}, {reason.offence}, {reason.aim}")
        else:
            yield Broken("justification", "it is not the one whose hash the warrant carries")

    def warranted(self) -> Findings:
        """The warrant is for the sealed probe (`searched` says that it was this one)."""
        reason, warrant = self._content.justification, self._query.announce.warrant
        if reason is None or warrant is None:
            yield Broken("", "there is no justification, or no warrant")
        elif reason.probe(self._content.template) != warrant.probe:
            yield Broken("probe", f"warrant {warrant.request_number} was issued for another one")
        else:
            yield Held(f"warrant {warrant.request_number}")

    def seeded(self) -> Findings:
        """The seed of the mask is the announced one."""
        if commit_seed(self._content.seed, self._query.owner) == self._query.prepare.seed_digest:
            yield Held()
        else:
            yield Broken("seed", "it is not the one whose hash was announced")

    def keyed(self) -> Findings:
        """The seeds of s1 and s2 are those handed out, and b2 follows from the latter."""
        query, content, view = self._query, self._content, self._query.preparation
        for holder in query.prepare.holders:
            for item in view.find("KeySeed", direction="sent", peer=holder):
                yield same(view, item, KeySeed(content.holder_seed), "another seed of s1 was sealed")
            for item in view.find("PublicPart", direction="sent", peer=holder):
                yield same(
                    view, item, PublicPart(self._part.public.tobytes()), "the sealed seed of s2 gives another b2"
                )
        for item in view.find("KeySeed", direction="sent", peer=query.prepare.router):
            yield same(view, item, KeySeed(content.router_seed), "another seed of s2 was sealed")

    def template(self) -> Findings:
        """The probe is a quantised unit vector."""
        template, dim = self._template, self._query.dim
        squared, bound = int(np.dot(template.astype(np.int64), template.astype(np.int64))), norm_bound(dim)
        if len(template) != dim:
            yield Broken("probe", f"{len(template)} entries, announced were {dim}")
        elif squared > bound or int(template.min()) < -127:
            yield Broken("probe", f"not a quantised unit vector: squared norm {squared}, the limit is {bound}")
        else:
            yield Held(f"squared norm {squared}, the limit is {bound}")

    def masked(self) -> Findings:
        """The seeds give the encrypted mask whose hash was signed, and that every holder was sent."""
        query, content, view = self._query, self._content, self._query.preparation
        params, preparation_id, dim = query.params, query.preparation_id, query.dim
        parts = mask_parts(
            encrypt_mask(
                draw_mask(content.seed, preparation_id, dim, params),
                expand_public(preparation_id, dim, params, query.threads),
                (expand_secret(params, content.holder_seed, preparation_id), self._part.secret),
                content.seed,
                preparation_id,
                params,
                query.threads,
            )
        )
        stated = mask_digest(content.holder_seed, parts)
        findings = [
            same(view, item, stated, "the seeds give another mask than that signed")
            for item in view.find("MaskDigest", direction="sent", peer=query.prepare.router)
        ]
        for holder in query.prepare.holders:
            for item, part in zip(view.find("MaskPart", holder, "sent", holder), parts, strict=False):
                findings.append(same(view, item, part, "the seeds give another mask than that sent"))
        yield from findings
        if findings and not any(isinstance(finding, Broken) for finding in findings):
            self._mask = b"".join(part.data for part in parts)

    def searched(self) -> Findings:
        """u = q - r of the sealed probe is what was signed, and what every holder was sent."""
        query, view, template = self._query, self._query.search, self._template
        if len(template) != query.dim:
            yield Broken("probe", f"{len(template)} entries, announced were {query.dim}")
            return
        mask = draw_mask(self._content.seed, query.preparation_id, query.dim, query.params)
        message = pack_difference(difference(template, mask, query.params), query.params, query.query_id)
        stated = difference_digest(message)
        findings = [
            same(view, item, message, "probe and mask give another u than that sent")
            for holder in query.announce.holders
            for item in view.find("Difference", holder, "sent", holder)
        ] + [
            same(view, item, stated, "probe and mask give another u than that signed")
            for item in view.find("DifferenceDigest", direction="sent", peer=query.announce.router)
        ]
        yield from findings
        if not findings:
            yield Open("the search ended before u was sent")
        elif not any(isinstance(finding, Broken) for finding in findings) and self._mask is not None:
            yield from self._hand_over(message.data)

    def _hand_over(self, u: bytes) -> Findings:
        if self._sent is not None:
            assert self._mask is not None
            write(self._sent, Sent(self._mask, u))
            yield Held(f"what the holders were sent, written to {self._sent}")
        if self._probe is not None:
            write(self._probe, CarriedProbe(self._content.template, self._query.query_id))
            yield Held(f"the probe itself written to {self._probe}: for the audit of a holder, then to be destroyed")
