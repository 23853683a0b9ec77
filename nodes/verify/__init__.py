"""The verifier: what a supervisor runs on evidence bundles, offline, without secret keys (protocol/DESIGN.md, 2.8).

A code path of its own, kept apart from the software that it judges. From `protocol` it takes the message schemas only,
from `pets` hashes, Merkle proofs and signatures, from `nodes` the form of checkpoints and log entries. It runs no state
machine and does no arithmetic on ciphertexts. `tests/verify/test_copies.py` holds the imports to that. The command
`lineup verify` loads more, for all commands are one program; no rule uses it.

::

    format      bundles and records, closed and versioned (threat_model/evidence-format.md)
    table       the verifier's own copy of the security table, thresholds and sizes
    trust       whose keys count
    case        the bundles of one conversation, a preparation or a search, read
    rules_*     the rules; each yields what held, what broke and what could not be checked
    verdict     runs all of them: `verify_bundles`
    facts       what happened, as the bundles tell it
    ledger      what each pair of nodes revealed to each other, in bits
    page        the report as HTML
"""

from nodes.verify.format import Bundle, EvidenceRefused, decode_bundle
from nodes.verify.report import Check, Report
from nodes.verify.trust import load_trust
from nodes.verify.verdict import verify_bundles

__all__ = ["Bundle", "Check", "EvidenceRefused", "Report", "decode_bundle", "load_trust", "verify_bundles"]
