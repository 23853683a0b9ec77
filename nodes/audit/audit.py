"""The audit on site (protocol/DESIGN.md, 2.8): what a party sent, computed once more from what it sealed.

A requester's ciphertexts follow from its probe, its seed and the joint key; a holder's confirmation block follows from
rows, factors, its seed and those ciphertexts. Both must be, byte for byte, what was signed in the query. So a scaled or
exchanged probe is found, and a holder that put chosen numbers instead of its rows into the block.

Whether other rows hit than those in the block takes the probe itself. A supervisor may carry it from the requester's
audit to the holder's (`probe`); it then is in the memory of the holder's machine for a moment, so only where that is
worth it. The other checks of a holder do without.

It needs the party's storage key, so it happens at the party, under the supervisor's eyes. What a party shows must be
what the others received: `lineup verify` on all bundles says that. Where OpenFHE encrypted there is no seed, and no
audit by recomputation.

`AuditRefused` (a pets.errors.InputError): there is nothing to audit, or the files do not fit together.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from zipfile import BadZipFile

import numpy as np
import numpy.typing as npt

from nodes.audit.confirmation import BlockAudit
from nodes.audit.holder import HolderAudit
from nodes.audit.inputs import InputAudit
from nodes.audit.requester import RequesterAudit
from nodes.config.schema import load_config
from nodes.config.storage import storage_key
from nodes.evidence import sealed as sealing
from nodes.evidence.sealed import Sealed, SealedGallery, SealedProbe
from nodes.verify.case import Case, View
from nodes.verify.format import Bundle, SignedBundle
from nodes.verify.report import Broken, Findings, Held, Open, Report, conclude
from nodes.verify.verdict import make_cases, verify_bundles
from pets.errors import MALFORMED, InputError, LineupError
from pets.keys import JointKey
from pets.params import Parameters, preset
from protocol.messages import KeyPair
from protocol.probe import component_digests, probe_parts
from protocol.wire import residue_array

Residues = npt.NDArray[np.uint32]
Templates = npt.NDArray[np.int8]
RuleParts = tuple[str, str, str, Callable[[], Findings]]
CIPHERTEXTS_LIMIT = 1 << 28  # twice the most that a query can have
PROBE_FILE_LIMIT = 65536  # an honest one has two thousand; what is packed may grow a thousandfold
NOT_SHOWN = (
    "No pass shows that the bundle is what the other parties were shown, or whose its key is: `lineup verify` on all "
    "bundles with --trust does; nor whether gates were changed inside the circuit."
)


class AuditRefused(InputError):
    """There is nothing to audit, or the files do not fit together."""


def audit_party(
    signed: tuple[SignedBundle, Bundle], folder: Path, ciphertexts: Path | None = None, probe: Path | None = None
) -> Report:
    """Audit the party of a bundle with its node's folder.

    `ciphertexts`, `probe`: a requester's audit writes them (uint32 (d, 2, 2, n) as .npy; int8 (d,) and the hash of the
    ciphertexts as .npz) if they are those that were signed; a holder's audit reads them. Raises `AuditRefused`,
    `ConfigError`, and the store's errors where the storage key is another.
    """
    (case,) = make_cases([signed])
    view = case.views[0]
    config = load_config(folder)
    if config.name != view.owner:
        raise AuditRefused(f"{folder} is the node {config.name}, the bundle is of {view.owner}")
    content = _open(folder, case.query, view)
    role = view.bundle.owner.role
    if role == "router":
        raise AuditRefused("a router seals nothing: its part follows from its bundle and the others'")
    if content is None:
        rules = [("audit-sealed", "What the party used was sealed", "design 2.8, 6", lambda: _nothing_sealed(view))]
    elif role == "requester" and isinstance(content, SealedProbe):
        rules = _requester_rules(RequesterAudit(case, view, content, *key_of_query(case, view), ciphertexts, probe))
    elif role == "holder" and isinstance(content, SealedGallery):
        loaded = _load_ciphertexts(ciphertexts)
        audit = HolderAudit(case, view, content, *key_of_query(case, view), loaded, folder)
        rules = _holder_rules(audit, BlockAudit(audit, content.confirmation, _load_probe(probe, loaded)))
    else:
        raise AuditRefused(f"{folder} sealed what another role seals, and the bundle is a {role}'s")
    checks = conclude(
        "audit-bundle", "The bundle holds by itself", "design 2.8; `lineup verify`", _bundle_holds(signed)
    )
    for identifier, title, source, apply in rules:
        checks += conclude(identifier, title, source, _guarded(apply))
    fingerprint = view.key.fingerprint.hex()
    facts = (("query", case.query.hex()), ("audited", f"{view.owner}, {role}; its bundle's key: {fingerprint}"))
    return Report(tuple(checks), ((case.query.hex(), view.owner, role, fingerprint),), facts, NOT_SHOWN)


def _requester_rules(audit: RequesterAudit) -> list[RuleParts]:
    return [
        ("audit-justification", "The record behind the warrant is the one it names", "R 20(1), 33(2)", audit.justified),
        ("audit-warrant", "The warrant was issued for the probe that was encrypted", "design 2.8; R 24(1)",
         audit.warranted),
        ("audit-seed", "The seed is the announced one", "design 5, 2.8", audit.seeded),
        ("audit-probe", "The probe is a quantised unit vector", "design 2.5, 4", audit.template),
        ("audit-ciphertexts", "Probe and seed give the ciphertexts that were signed", "design 2.8, 5",
         audit.recomputed),
    ]  # fmt: skip


def _holder_rules(audit: HolderAudit, block: BlockAudit) -> list[RuleParts]:
    return [
        ("audit-gallery", "Gallery and seed are those committed to", "design 5, 6a", audit.gallery),
        ("audit-rows", "The block holds rows of the gallery and their multiples", "design 6", block.rows),
        ("audit-received", "The ciphertexts are those that the holder received", "design 2.8", audit.received),
        ("audit-admission", "The coins of admission come from the seed committed to", "design 5", audit.admission),
        ("audit-block", "Rows, factors and seed give the block that was signed", "design 2.8, 6", block.block),
        ("audit-scores", "The signed answers confirm every row of the block", "design 2.7, 6", block.scores),
        ("audit-filter", "The filter was computed on the gallery committed to", "design 5", audit.filter),
        ("audit-inputs", "What the holder put into admission and comparison is its share", "design 2.9, 5",
         InputAudit(audit).inputs),
        ("audit-hits", "All that hit was confirmed, and no rung climbed without need", "design 2.6, 4", block.hits),
    ]  # fmt: skip


def _nothing_sealed(view: View) -> Findings:
    """Both roles seal before they send anything that depends on a probe."""
    sent = [item for kind in ("ProbeDigest", "AdmissionBlock") for item in view.find(kind, direction="sent")]
    if sent:
        yield Broken(view.place(sent[0].record), "it was sent, and nothing was sealed that would explain it")
    else:
        yield Open("the query ended before there was a probe, so nothing need have been sealed")


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
    except MALFORMED as error:
        raise AuditRefused(f"what {view.owner} sealed is malformed: {error}") from None


def _load_ciphertexts(path: Path | None) -> Residues | None:
    if path is None:
        return None
    try:  # mapped, not read: a header may promise more than there is memory, and there must be as much in the file
        loaded: Residues = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError, OverflowError, BadZipFile) as error:
        raise AuditRefused(f"{path} holds no ciphertexts: {error}") from None
    if not isinstance(loaded, np.ndarray) or loaded.ndim != 4 or loaded.shape[1] != 2:
        raise AuditRefused(f"{path} holds no ciphertexts: expected one array of four dimensions, the second 2")
    if loaded.nbytes > CIPHERTEXTS_LIMIT:
        raise AuditRefused(f"{path} holds {loaded.nbytes} bytes of ciphertexts, the limit is {CIPHERTEXTS_LIMIT}")
    return np.array(loaded)  # nobody changes a copy between two checks


def _load_probe(path: Path | None, ciphertexts: Residues | None) -> Templates | None:
    """The probe behind these very ciphertexts."""
    if path is None:
        return None
    if ciphertexts is None:
        raise AuditRefused("a probe is of use only with the ciphertexts made from it (--ciphertexts)")
    try:
        if path.stat().st_size > PROBE_FILE_LIMIT:
            raise AuditRefused(f"{path} holds no probe of an audit: more than {PROBE_FILE_LIMIT} bytes")
        with path.open("rb") as stream, np.load(stream, allow_pickle=False) as file:
            probe: Templates = file["probe"]
            digest = file["ciphertexts"].tobytes()
    except (OSError, ValueError, EOFError, KeyError, TypeError, AttributeError, MemoryError, BadZipFile) as error:
        raise AuditRefused(f"{path} holds no probe of an audit: {error}") from None
    _, of_these = probe_parts(ciphertexts, component_digests(ciphertexts, 1))
    if probe.dtype != np.int8 or probe.ndim != 1 or of_these != digest:
        raise AuditRefused(f"{path} is not the probe behind these ciphertexts")
    return probe


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
