"""The audit on site (protocol/DESIGN.md, 2.8): what a party sent, computed once more from what it sealed.

A requester's mask and u follow from its seeds and its probe; all that a holder put into a preparation and a search
follows from its rows, its seed, the secrets of its streams, the mask and u. Each must be, byte for byte, what was
signed. So a scaled or exchanged probe is found, rows or thresholds of a holder's own, chosen coins, and a confirmation
block of chosen numbers. No gate of a circuit is computed again: who flips one is not found by that.

A holder does not keep the mask and u that it was sent; a supervisor brings them from the requester's audit (`sent`).
They tell the holder nothing that it did not know. Whether other rows hit than those that were confirmed takes the probe
itself (`probe`), which is in the memory of the holder's machine then for a moment: so only where that is worth it.

It needs the party's storage key, so it happens at the party, under the supervisor's eyes. What a party shows must be
what the others received: `lineup verify` on all bundles says that.

`AuditRefused` (a pets.errors.InputError): there is nothing to audit, or the files do not fit together.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

from nodes.audit.confirmation import BlockAudit
from nodes.audit.errors import AuditRefused
from nodes.audit.handover import CarriedProbe, Sent, read
from nodes.audit.holder import HolderAudit
from nodes.audit.published import PublishedAudit
from nodes.audit.query import Query
from nodes.audit.requester import RequesterAudit
from nodes.audit.rows import version_rows
from nodes.config.schema import load_config
from nodes.config.storage_key import storage_key
from nodes.evidence import sealed as sealing
from nodes.evidence.sealed import Sealed, SealedGallery, SealedProbe
from nodes.verify.case import View
from nodes.verify.format import Bundle, SignedBundle, decode_bundle
from nodes.verify.report import Broken, Findings, Held, Open, Report, conclude
from nodes.verify.verdict import verify_bundles
from pets.errors import MALFORMED, LineupError
from protocol.roles import Role

RuleParts = tuple[str, str, str, Callable[[], Findings]]
NOT_SHOWN = (
    "No pass shows that the bundle is what the other parties were shown, or whose its key is: `lineup verify` on all "
    "bundles with --trust does. Nor that gates were computed rightly: whoever turns one inside the form check, the "
    "admission, the comparison or the count passes every rule, and with them a holder reads comparisons of its choice "
    "and a router hides a hit. Nor anything about rows that were changed or forgotten since, whether the gallery is "
    "the one that the law means, or that the reference numbers released are those of the confirmed rows."
)


def audit_party(
    signed: tuple[SignedBundle, Bundle], folder: Path, sent: Path | None = None, probe: Path | None = None
) -> Report:
    """Audit the party of a search's bundle with its node's folder.

    `sent`, `probe`: files that a requester's audit writes if they are what was signed, and that a holder's reads
    (`nodes.audit.handover`). Raises `AuditRefused`, `ConfigError`, and the store's errors where the storage key is
    another.
    """
    view = View(*signed)
    config = load_config(folder)
    if config.name != view.owner:
        raise AuditRefused(f"{folder} is the node {config.name}, the bundle is of {view.owner}")
    role, query = Role(view.bundle.owner.role), view.bundle.query
    if role is Role.ROUTER:
        raise AuditRefused("a router seals nothing: its part follows from its bundle and the others'")
    if view.bundle.preparation is None:
        raise AuditRefused(
            f"the {view.name} shows no search with its preparation, and of nothing else is anything sealed"
        )
    shown = Query.shown(view, View(*decode_bundle(view.bundle.preparation)))
    content = _open(folder, query, view)
    if content is None:
        title = "What the party used was sealed"
        rules: list[RuleParts] = [("audit-sealed", title, "design 2.8", partial(_nothing_sealed, view))]
    elif role is Role.REQUESTER and isinstance(content, SealedProbe):
        rules = _requester_rules(RequesterAudit(shown, content, sent, probe))
    elif role is Role.HOLDER and isinstance(content, SealedGallery):
        rules = _holder_rules(shown, content, folder, sent, probe)
    else:
        raise AuditRefused(f"{folder} sealed what another role seals, and the bundle is a {role}'s")
    checks = conclude(
        "audit-bundle", "The bundle holds by itself", "design 2.8; `lineup verify`", _bundle_holds(signed)
    )
    for identifier, title, source, apply in rules:
        checks += conclude(identifier, title, source, _guarded(apply))
    fingerprint = view.key.fingerprint.hex()
    facts = (("query", query.hex()), ("audited", f"{view.owner}, {role}; its bundle's key: {fingerprint}"))
    return Report(tuple(checks), ((query.hex(), view.owner, role, fingerprint),), facts, NOT_SHOWN)


def _requester_rules(audit: RequesterAudit) -> list[RuleParts]:
    return [
        ("audit-justification", "The record behind the warrant is the one it names", "R 20(1), 33(2)", audit.justified),
        ("audit-warrant", "The warrant was issued for the probe", "design 2.8; R 24(1)", audit.warranted),
        ("audit-seed", "The seed of the mask is the announced one", "design 2.8, 5", audit.seeded),
        ("audit-keys", "The parts of the key are those handed out", "design 5", audit.keyed),
        ("audit-probe", "The probe is a quantised unit vector", "design 2.5, 4", audit.template),
        ("audit-mask", "The seeds give the encrypted mask that was signed", "design 2.8, 5", audit.masked),
        ("audit-difference", "Probe and mask give the u that was signed", "design 2.8, 6", audit.searched),
    ]


def _holder_rules(
    query: Query, content: SealedGallery, folder: Path, sent: Path | None, probe: Path | None
) -> list[RuleParts]:
    carried = None if probe is None else read(probe, CarriedProbe)
    if carried is not None and carried.query_id != query.query_id:
        raise AuditRefused(f"{probe} is the probe of another query")
    brought = None if sent is None else read(sent, Sent)
    audit = HolderAudit(query, content, brought, partial(version_rows, folder, query.announce, query.params.n))
    published, block = PublishedAudit(audit), BlockAudit(audit, content.confirmation, carried)
    return [
        ("audit-gallery", "Gallery, seed and list of blocks are those committed to", "design 5, 6a", audit.committed),
        ("audit-keys", "Key and secrets are those received and handed out", "design 5", audit.keyed),
        ("audit-received", "The mask and u are those that the holder received", "design 2.8, 5, 6", audit.received),
        ("audit-form", "Coins and numbers of the form check follow from the seed and the mask", "design 5",
         audit.formed),
        ("audit-blocks", "The blocks prepared are the committed rows under the mask", "design 5", audit.prepared),
        ("audit-admission", "Coins and numbers of the admission follow from the seed, the mask and u", "design 2.5, 6",
         published.admission),
        ("audit-published", "The numbers compared are the rows' under mask, u and threshold", "design 6",
         published.scores),
        ("audit-live", "All rows that are held and looked at could be found", "design 6; R 29", published.live),
        ("audit-rows", "The confirmation block holds rows of the gallery and their multiples", "design 6", block.rows),
        ("audit-block", "Rows, factors and seed give the confirmation block that was signed", "design 2.8, 6",
         block.block),
        ("audit-scores", "The signed answers confirm every row of the block", "design 2.7, 6", block.scores),
        ("audit-hits", "All that hit was confirmed, and no rung climbed without need", "design 2.6, 4", block.hits),
    ]  # fmt: skip


def _nothing_sealed(view: View) -> Findings:
    """Both roles seal before they send anything that depends on a probe."""
    sent = view.find("DifferenceDigest", direction="sent")
    if sent:
        yield Broken(view.place(sent[0].record), "it was sent, and nothing was sealed that would explain it")
    else:
        yield Open("the query ended before there was a probe, so nothing need have been sealed")


def _open(folder: Path, query: bytes, view: View) -> Sealed | None:
    try:
        return sealing.open_kept(folder / "sealed", storage_key(load_config(folder)), query)
    except FileNotFoundError:
        return None
    except MALFORMED as error:
        raise AuditRefused(f"what {view.owner} sealed is malformed: {error}") from None


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
        yield Broken("", f"what was sealed or brought cannot be used: {error}")
