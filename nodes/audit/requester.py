"""A requester's part of the audit: reason, seed, probe and ciphertexts (`nodes.audit.audit`)."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from nodes.audit.holder import CANNOT
from nodes.evidence.sealed import SealedProbe
from nodes.verify.case import Case, View
from nodes.verify.format import content_digest
from nodes.verify.report import Broken, Findings, Held, Open
from pets.keys import JointKey, ZeroPool, encrypt_constants
from pets.params import Parameters, norm_bound
from pets.prf import labelled_hash
from pets.threads import default_threads
from protocol.messages import ProbeDigest
from protocol.probe import component_digests, probe_parts
from protocol.warrant import JustificationError


class RequesterAudit:
    """`ciphertexts`, `probe`: files to write what a holder's audit reads, if it is what was signed."""

    def __init__(
        self,
        case: Case,
        view: View,
        content: SealedProbe,
        params: Parameters,
        joint: JointKey,
        ciphertexts: Path | None,
        probe: Path | None,
    ) -> None:
        assert case.announce is not None
        self._case, self._view, self._content, self._params, self._joint = case, view, content, params, joint
        self._announce, self._ciphertexts, self._probe = case.announce, ciphertexts, probe
        self._template = np.frombuffer(content.template, np.int8)

    def justified(self) -> Findings:
        """The record behind the warrant is lawful as far as its fields say, and the one that the warrant names."""
        reason, warrant = self._content.justification, self._announce.warrant
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
        """The warrant is for the probe that was encrypted (`recomputed` says that it was this one)."""
        reason, warrant = self._content.justification, self._announce.warrant
        if reason is None or warrant is None:
            yield Broken("", "there is no justification, or no warrant")
        elif reason.probe(self._content.template) != warrant.probe:
            yield Broken("probe", f"warrant {warrant.request_number} was issued for another one")
        else:
            yield Held(f"warrant {warrant.request_number}")

    def seeded(self) -> Findings:
        """The seed is the one whose hash was announced."""
        seed, announced = self._content.seed, self._announce.seed_digest
        if seed is None and announced is None:
            yield Open(CANNOT)
        elif seed is None or labelled_hash("probe-seed", seed) != announced:
            yield Broken("seed", "it is not the one whose hash was announced")
        else:
            yield Held()

    def template(self) -> Findings:
        """The probe is a quantised unit vector."""
        template, dim = self._template, self._announce.dim
        squared, bound = int(np.dot(template.astype(np.int64), template.astype(np.int64))), norm_bound(dim)
        if len(template) != dim:
            yield Broken("probe", f"{len(template)} entries, announced were {dim}")
        elif squared > bound or int(template.min()) < -127:
            yield Broken("probe", f"not a quantised unit vector: squared norm {squared}, the limit is {bound}")
        else:
            yield Held(f"squared norm {squared}, the limit is {bound}")

    def recomputed(self) -> Findings:
        """Probe and seed give the ciphertexts whose hash was signed, and that every holder was sent."""
        if self._content.seed is None:
            yield Open(CANNOT)
            return
        case, view, dim = self._case, self._view, self._announce.dim
        zeros = ZeroPool.make(self._joint, self._content.seed, "probe", dim, default_threads())
        ciphertexts = encrypt_constants(self._template, zeros.take(dim), self._params)
        parts, digest = probe_parts(ciphertexts, component_digests(ciphertexts, 1))
        digests = list(view.messages(ProbeDigest))
        findings = [
            Held() if message.digest == digest
            else Broken(view.place(item.record), "probe and seed give other ciphertexts than those signed")
            for item, message in digests
        ]  # fmt: skip
        contents = [content_digest(part) for part in parts]
        for holder in case.holders:
            for content, item in zip(contents, view.find("ProbePart", holder, "sent", holder), strict=False):
                findings.append(
                    Held() if content == item.record.content
                    else Broken(view.place(item.record), "probe and seed give other ciphertexts than those sent")
                )  # fmt: skip
        yield from findings
        if not digests:
            yield Open("the query ended before a probe was sent")
        elif all(isinstance(finding, Held) for finding in findings):
            if self._ciphertexts is not None:
                with self._ciphertexts.open("wb") as file:
                    np.save(file, ciphertexts)
                yield Held(f"ciphertexts written to {self._ciphertexts}")
            if self._probe is not None:
                self._probe.unlink(missing_ok=True)  # whoever may read what lies there must not read this
                self._probe.touch(mode=0o600)
                with self._probe.open("wb") as file:
                    np.savez(file, probe=self._template, ciphertexts=np.frombuffer(digest, np.uint8))
                yield Held(
                    f"the probe itself written to {self._probe}: for the audit of a holder, then to be destroyed"
                )
