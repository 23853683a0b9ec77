"""The audit on site (protocol/DESIGN.md, 2.8): what a party sent, computed once more from what it sealed.

A requester's ciphertexts follow from its probe, its seed and the joint key; a holder's confirmation block follows from
rows, factors, its seed and those ciphertexts. Both must be, byte for byte, what was signed in the query. So a scaled or
exchanged probe is found, and a holder that put chosen numbers instead of its rows into the block.

It needs the party's storage key, so it happens at the party, under the supervisor's eyes. What a party shows must be
what the others received: `lineup verify` on all bundles says that. Where OpenFHE encrypted there is no seed, and no
audit by recomputation.

`AuditRefused` (a pets.errors.InputError): there is nothing to audit, or the files do not fit together.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np
import numpy.typing as npt

from nodes import sealed as sealing
from nodes.audit_holder import holder_rules
from nodes.config import load_config
from nodes.keeper import storage_key
from nodes.sealed import Sealed, SealedBlock, SealedProbe
from nodes.verify.case import Case, View
from nodes.verify.format import Bundle, SignedBundle, encode_frame
from nodes.verify.report import Broken, Findings, Held, Open, Report, conclude
from nodes.verify.verdict import make_cases, verify_bundles
from pets.errors import InputError, LineupError
from pets.keys import JointKey, ZeroPool, encrypt_constants
from pets.params import Parameters, norm_bound, preset
from pets.prf import labelled_hash
from pets.threads import default_threads
from protocol.messages import KeyPair, ProbeDigest
from protocol.probe import component_digests, probe_parts
from protocol.warrant import JustificationError
from protocol.wire import residue_array

Residues = npt.NDArray[np.uint32]
CANNOT = "OpenFHE encrypted, whose generator cannot be seeded: this query cannot be audited by recomputation"


class AuditRefused(InputError):
    """There is nothing to audit, or the files do not fit together."""


@dataclass(frozen=True)
class Rule:
    """One rule of an audit; the same form as those of `nodes.verify.verdict`."""

    id: str
    title: str
    source: str
    apply: Callable[[], Findings]


def audit_party(signed: tuple[SignedBundle, Bundle], folder: Path, ciphertexts: Path | None = None) -> Report:
    """Audit the party of a bundle with its node's folder.

    `ciphertexts`: a requester's audit writes the recomputed ones there (uint32 (d, 2, 2, n), .npy) if they are those
    that were signed; a holder's audit reads them. Raises `AuditRefused`, `ConfigError`, and the store's errors where
    the storage key is another.
    """
    (case,) = make_cases([signed])
    view = case.views[0]
    config = load_config(folder)
    if config.name != view.owner:
        raise AuditRefused(f"{folder} is the node {config.name}, the bundle is of {view.owner}")
    content = _open(folder, case.query, view)
    if view.bundle.owner.role == "requester":
        if content is not None and not isinstance(content, SealedProbe):
            raise AuditRefused(f"{folder} sealed a confirmation block, and the bundle is a requester's")
        rules = _requester_rules(case, view, content, ciphertexts)
    elif view.bundle.owner.role == "holder":
        if content is not None and not isinstance(content, SealedBlock):
            raise AuditRefused(f"{folder} sealed a probe, and the bundle is a holder's")
        params, joint = key_of_query(case, view)
        rules = [Rule(*rule) for rule in holder_rules(case, view, content, params, joint, _load(ciphertexts), folder)]
    else:
        raise AuditRefused("a router seals nothing: its part follows from its bundle and the others'")
    checks = conclude(
        "audit-bundle", "The bundle holds by itself", "design 2.8; `lineup verify`", _bundle_holds(signed)
    )
    for rule in rules:
        checks += conclude(rule.id, rule.title, rule.source, _guarded(rule.apply))
    subject = (case.query.hex(), view.owner, view.bundle.owner.role, view.key.fingerprint.hex())
    return Report(tuple(checks), (subject,))


def key_of_query(case: Case, view: View) -> tuple[Parameters, JointKey]:
    """The joint key, from the pair that the bundle shows. Raises `AuditRefused`."""
    announce, query_id = case.announce, case.query_id
    pairs = {pair for _, pair in view.messages(KeyPair)}
    if announce is None or query_id is None or len(pairs) != 1:
        raise AuditRefused(f"the {view.name} does not show one announcement, every nonce and one key pair")
    params = preset(announce.preset)
    (pair,) = pairs
    shares = (
        residue_array(pair.requester, (), params, "public share of the requester"),
        residue_array(pair.router, (), params, "public share of the router"),
    )
    return params, JointKey.combine(params, query_id, shares)


def _open(folder: Path, query: bytes, view: View) -> Sealed | None:
    try:
        return sealing.open_kept(folder / "sealed", storage_key(load_config(folder)), query)
    except FileNotFoundError:
        return None
    except msgspec.MsgspecError as error:
        raise AuditRefused(f"what {view.owner} sealed is malformed: {error}") from None


def _load(path: Path | None) -> Residues | None:
    if path is None:
        return None
    try:
        loaded: Residues = np.load(path, allow_pickle=False)
    except (OSError, ValueError) as error:
        raise AuditRefused(f"{path} holds no ciphertexts: {error}") from None
    return loaded


def _bundle_holds(signed: tuple[SignedBundle, Bundle]) -> Findings:
    report = verify_bundles([signed])
    for check in report.failed:
        yield Broken(check.title, "; ".join(check.details))
    if report.holds:
        yield Held()


def _guarded(apply: Callable[[], Findings]) -> Findings:
    """A party's own files may be anything: what they make our arithmetic refuse is a finding."""
    try:
        yield from apply()
    except (LineupError, ValueError) as error:
        yield Broken("", f"what was sealed cannot be used: {error}")


def _requester_rules(case: Case, view: View, content: SealedProbe | None, out: Path | None) -> list[Rule]:
    announce = case.announce
    if announce is None:
        raise AuditRefused("the bundle shows no announcement")
    digests = list(view.messages(ProbeDigest))
    if content is None:

        def nothing() -> Findings:
            if digests:
                yield Broken(view.place(digests[0][0].record), "a probe was sent, and nothing was sealed")
            else:
                yield Open("the query ended before a probe was sent")

        return [Rule("audit-sealed", "Probe and seed were sealed", "design 2.8", nothing)]
    template = np.frombuffer(content.template, np.int8)

    def justified() -> Findings:
        reason, warrant = content.justification, announce.warrant
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

    def seeded() -> Findings:
        if content.seed is None and announce.seed_digest is None:
            yield Open(CANNOT)
        elif content.seed is None or labelled_hash("probe-seed", content.seed) != announce.seed_digest:
            yield Broken("seed", "it is not the one whose hash was announced")
        else:
            yield Held()

    def template_fits() -> Findings:
        squared, bound = int(np.dot(template.astype(np.int64), template.astype(np.int64))), norm_bound(announce.dim)
        if len(template) != announce.dim:
            yield Broken("probe", f"{len(template)} entries, announced were {announce.dim}")
        elif squared > bound or int(template.min()) < -127:
            yield Broken("probe", f"not a quantised unit vector: squared norm {squared}, the limit is {bound}")
        else:
            yield Held(f"squared norm {squared}, the limit is {bound}")

    def recomputed() -> Findings:
        if content.seed is None:
            yield Open(CANNOT)
            return
        params, joint = key_of_query(case, view)
        threads = default_threads()
        zeros = ZeroPool.make(joint, content.seed, "probe", announce.dim, threads)
        ciphertexts = encrypt_constants(template, zeros.take(announce.dim), params)
        parts, digest = probe_parts(ciphertexts, component_digests(ciphertexts, 1, threads), threads)
        same = True
        for item, message in digests:
            same &= message.digest == digest
            yield (
                Held() if message.digest == digest
                else Broken(view.place(item.record), "probe and seed give other ciphertexts than those signed")
            )  # fmt: skip
        for holder in case.holders:
            for part, item in zip(parts, view.find("ProbePart", holder, "sent", holder), strict=False):
                frame = encode_frame(case.query, holder, view.owner, holder, item.record.sequence, part)
                fits = hashlib.sha256(frame).digest() == item.record.frame
                same &= fits
                yield (
                    Held() if fits
                    else Broken(view.place(item.record), "probe and seed give other ciphertexts than those sent")
                )  # fmt: skip
        if not digests:
            yield Open("the query ended before a probe was sent")
        elif out is not None and same:
            with out.open("wb") as file:
                np.save(file, ciphertexts)
            yield Held(f"ciphertexts written to {out}")

    return [
        Rule("audit-justification", "The record behind the warrant is the one it names", "R 20(1), 33(2)", justified),
        Rule("audit-seed", "The seed is the announced one", "design 5, 2.8", seeded),
        Rule("audit-probe", "The probe is a quantised unit vector", "design 2.5, 4", template_fits),
        Rule("audit-ciphertexts", "Probe and seed give the ciphertexts that were signed", "design 2.8, 5", recomputed),
    ]
