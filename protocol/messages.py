"""Every message of the protocol, and who may send it to whom (protocol/DESIGN.md, section 6a).

Closed schemas: an unknown field, a missing field or a wrong type is refused by the decoder. Arrays travel as raw
little-endian bytes; `protocol.wire.array` checks their length against what parameters and rows dictate.
"""

from __future__ import annotations

from typing import Annotated

import msgspec

from protocol.roles import Role
from protocol.shown import kind_only

Digest = Annotated[bytes, msgspec.Meta(min_length=32, max_length=32)]
Name = Annotated[str, msgspec.Meta(min_length=1, max_length=16, pattern="^[A-Z0-9-]+\\Z")]
Decimals = Annotated[str, msgspec.Meta(min_length=1, max_length=24, pattern=r"^[0-9]+(\.[0-9]+)?\Z")]

# Why a party stops. A closed list, so that a reason cannot carry data. First what it found in others, which says
# nothing of itself; then what went wrong in itself, and what its policy refuses.
FOUND_IN_OTHERS = (
    "bad-frame", "version", "out-of-turn", "wrong-size", "disagreement", "crypto", "confirmation", "peer", "timeout",
)  # fmt: skip
ABORT_CODES = (
    *FOUND_IN_OTHERS, "internal", "warrant", "purpose", "threshold", "cap", "state", "clock", "parameters", "quota",
    "replay", "capacity", "unprepared",
)  # fmt: skip


class Message(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """Base of all messages."""

    __repr__ = kind_only


class Warrant(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """The authorisation of a query: exactly what R 24(1) lets a request contain, and hashes of what stays at home.

    `issued`, `expires`: seconds since 1970, UTC. `identified`: whether the person searched for is already identified,
    because daily capacities are counted apart (R 23(1)). `justification`: hash of the local record (case, offence,
    maximum penalty, subject category, identify or verify). `officer`, `approver`: salted hashes of the persons.
    `probe`: salted commitment to the one probe that it is for. `holders`: who may be asked, sorted.
    """

    state: Name
    request_number: Annotated[str, msgspec.Meta(min_length=1, max_length=64)]
    issued: Annotated[int, msgspec.Meta(ge=0, lt=2**40)]
    expires: Annotated[int, msgspec.Meta(ge=0, lt=2**40)]
    purpose: Annotated[str, msgspec.Meta(min_length=1, max_length=32, pattern="^[A-Z-]+\\Z")]
    identified: bool
    justification: Digest
    officer: Digest
    approver: Digest
    probe: Digest
    holders: Annotated[tuple[Name, ...], msgspec.Meta(min_length=1, max_length=64)]


class Joined(Message, tag=2, frozen=True):
    """Announce: a party's nonce; a holder adds its block count and the hash of what was prepared of its gallery.

    Fewer than 2^31 rows at any preset, so that a count of hits modulo 2^32 has a sign (`protocol.cap`).
    """

    announce: Digest
    nonce: Digest
    blocks: Annotated[int, msgspec.Meta(ge=0, lt=2**18)] | None
    gallery: Digest | None


class PairSecret(Message, tag=6, frozen=True):
    """Preparation: the secret that a party shares with its predecessor in the ring."""

    secret: Digest


class InputShare(Message, tag=10, frozen=True):
    """Cap: the masked component of an input, uint64 (planes, words), to the previous party."""

    data: memoryview


class Gates(Message, tag=11, frozen=True):
    """Preparation, comparison and cap: one round of AND gates, uint64 (planes, words), to the previous party."""

    data: memoryview


class AdmissionBit(Message, tag=12, frozen=True):
    """Admission: the component of the admission bit that the receiver lacks."""

    component: bool


class CountShare(Message, tag=22, frozen=True):
    """Cap: the masked hit bits of a chunk, as the holder has them, uint32 (rows,)."""

    data: memoryview


class CapBit(Message, tag=23, frozen=True):
    """Cap: the component of the bit "no more hits than the cap" that the receiver lacks."""

    component: bool


class PowerSums(Message, tag=14, frozen=True):
    """Open: the power sums of the component that the holder lacks, uint32 (cap + 2,)."""

    data: bytes


class Rung(Message, tag=15, frozen=True):
    """Rung: the holder goes on to confirmation, climbs to the next rung, or has none left."""

    verdict: Annotated[str, msgspec.Meta(pattern="^(confirm|climb|exhausted)\\Z")]


class ConfirmationBlock(Message, tag=16, frozen=True):
    """Confirm: c1 of the confirmation block, uint32 (2, n), and the salted commitment to all that made it."""

    commitment: Digest
    data: bytes


class ConfirmationAnswer(Message, tag=18, frozen=True):
    """Confirm: the masked shares of the 6·cap coefficients, uint32 (6·cap,)."""

    data: bytes


class Release(Message, tag=19, frozen=True):
    """Release: exactly cap slots of 65 bytes, by rank; empty slots all zero.

    A slot: a reference number, padded with zeros to 64 bytes, and a mark: 1 if its accuracy is contested, else 0.

    `salt`: fresh, because logs keep the hash of every frame, and who knows the references could else try them all.
    """

    slots: tuple[Annotated[bytes, msgspec.Meta(min_length=65, max_length=65)], ...]
    salt: Digest


class Abort(Message, tag=20, frozen=True):
    """Any phase: this party stops. The codes are a closed list.

    `by`: the party of this query whose refusal, fault or silence made it stop; empty where the sender itself refuses.
    """

    code: Annotated[str, msgspec.Meta(pattern=f"^({'|'.join(ABORT_CODES)})\\Z")]
    by: Annotated[str, msgspec.Meta(max_length=16, pattern="^[A-Z0-9-]*\\Z")] = ""


class Signature(Message, tag=21, frozen=True):
    """Any phase: signature over the hash chain of all frames this party sent the receiver in this session so far."""

    phase: Annotated[str, msgspec.Meta(max_length=32)]
    head: Digest
    signature: Annotated[bytes, msgspec.Meta(max_length=8192)]


class Prepare(Message, tag=24, frozen=True):
    """Preparation, announce: for whom, with which parameters. No probe, no terms, no warrant.

    `seed_digest`: commitment to the seed of mask and errors. `signature`: as in `Search`.
    """

    requester: Name
    router: Name
    holders: Annotated[tuple[Name, ...], msgspec.Meta(min_length=1, max_length=64)]
    nonce: Digest
    preset: Annotated[str, msgspec.Meta(max_length=32)]
    dim: Annotated[int, msgspec.Meta(ge=8, le=1024)]
    model: Digest
    seed_digest: Digest
    signature: Annotated[bytes, msgspec.Meta(max_length=8192)] = b""


class JoinedPreparation(Message, tag=25, frozen=True):
    """Preparation, announce: a party's nonce; a holder adds block count, gallery root and a commitment to its seed."""

    announce: Digest
    nonce: Digest
    blocks: Annotated[int, msgspec.Meta(ge=0, lt=2**18)] | None = None
    gallery: Digest | None = None
    seed: Digest | None = None


class KeySeed(Message, tag=26, frozen=True):
    """Preparation, keys: the seed of s2 to the router, that of s1 to each holder."""

    seed: Digest


class PublicPart(Message, tag=27, frozen=True):
    """Preparation, keys: b2 = -a·s2 + e2, uint32 (2, n), as each of its two owners reports it to a holder."""

    data: bytes


class MaskPart(Message, tag=28, frozen=True):
    """Preparation, mask: consecutive first components of the encrypted mask, uint32 (count, 2, n)."""

    data: memoryview


class MaskDigest(Message, tag=29, frozen=True):
    """Preparation, mask: hashes of the seed of s1 and of the encrypted mask; the router compares all that it gets."""

    key: Digest
    mask: Digest


class FormBlock(Message, tag=30, frozen=True):
    """Preparation, form: seed of the random sums and subsets; the holder's masked addends, uint64 (24, words)."""

    seed: Digest
    data: bytes


class Echo(Message, tag=31, frozen=True):
    """Hash of what a holder sent to both requester and router, between these two."""

    digest: Digest


class FormBit(Message, tag=32, frozen=True):
    """Preparation, form: the component of the bit "well formed" that the receiver lacks."""

    component: bool


class PreparedBlocks(Message, tag=33, frozen=True):
    """Preparation, scores: c1 of one chunk of blocks, uint32 (blocks, 2, n)."""

    data: memoryview


class Search(Message, tag=34, frozen=True):
    """Announce: what is asked, under which terms, with which preparation. All parties must agree on every field.

    `signature`: the requester's, over everything else; empty where parties have no identities (one process).
    """

    requester: Name
    router: Name
    holders: Annotated[tuple[Name, ...], msgspec.Meta(min_length=1, max_length=64)]
    nonce: Digest
    threshold: Decimals
    cap: Annotated[int, msgspec.Meta(ge=1, le=99)]
    ladder: Decimals
    preset: Annotated[str, msgspec.Meta(max_length=32)]
    dim: Annotated[int, msgspec.Meta(ge=8, le=1024)]
    model: Digest
    preparation: Digest
    warrant: Warrant | None = None
    signature: Annotated[bytes, msgspec.Meta(max_length=8192)] = b""


class Difference(Message, tag=35, frozen=True):
    """Search: u = q - r modulo t, 20 bits each, packed: 20·d/8 bytes; and the query id that the requester derived."""

    query_id: Digest
    data: bytes


class DifferenceDigest(Message, tag=36, frozen=True):
    """Search: hash of u, as sent and as received; the router compares all that it gets."""

    digest: Digest


class MaskedScores(Message, tag=37, frozen=True):
    """Filter: e of a chunk, uniform to whoever reads it, uint64 (24, words)."""

    data: memoryview


class AdmissionScores(Message, tag=38, frozen=True):
    """Admission: e of the unit rows, uint64 (24, words), and the seed of the coins that check the range."""

    seed: Digest
    data: bytes


class AdmissionGates(Message, tag=39, frozen=True):
    """Admission: as `Gates`, told apart from those of the filter, which run beside it."""

    data: memoryview


class AdmissionCount(Message, tag=40, frozen=True):
    """Admission: the holder's masked bits, as `CountShare`: uint32 (lanes,)."""

    data: memoryview


class AdmissionInput(Message, tag=41, frozen=True):
    """Admission: as `InputShare`, uint64 (32, 1)."""

    data: memoryview


class LiveRows(Message, tag=42, frozen=True):
    """Filter: which rows of a chunk may be found, masked: uint64 (1, words)."""

    data: memoryview


class DerivedId(Message, tag=43, frozen=True):
    """Announce: the id of the preparation or query, as this party derived it; router and holder compare theirs."""

    identity: Digest


AnyMessage = (
    Joined
    | PairSecret
    | InputShare
    | Gates
    | AdmissionBit
    | CountShare
    | CapBit
    | PowerSums
    | Rung
    | ConfirmationBlock
    | ConfirmationAnswer
    | Release
    | Abort
    | Signature
    | Prepare
    | JoinedPreparation
    | KeySeed
    | PublicPart
    | MaskPart
    | MaskDigest
    | FormBlock
    | Echo
    | FormBit
    | PreparedBlocks
    | Search
    | Difference
    | DifferenceDigest
    | MaskedScores
    | AdmissionScores
    | AdmissionGates
    | AdmissionCount
    | AdmissionInput
    | LiveRows
    | DerivedId
)


def _links(links: str) -> frozenset[tuple[Role, Role]]:
    ends = (link.split(">") for link in links.split())
    return frozenset((Role(sender), Role(receiver)) for sender, receiver in ends)


# Section 6a as data: message type -> allowed (sender role, receiver role). Tests walk every message against it.
ALLOWED: dict[type[Message], frozenset[tuple[Role, Role]]] = {
    kind: _links(links)  # type: ignore[misc]  # of classes mypy sees the metaclass only
    for kind, links in {
        Joined: "router>requester router>holder holder>requester holder>router holder>holder",
        PairSecret: "holder>router requester>holder router>requester",
        InputShare: "holder>router requester>holder router>requester",
        Gates: "holder>router requester>holder router>requester",
        AdmissionBit: "holder>router holder>requester requester>holder requester>router router>holder router>requester",
        CountShare: "holder>router",
        CapBit: "holder>router holder>requester requester>holder requester>router router>holder router>requester",
        PowerSums: "requester>holder router>holder",
        Rung: "holder>requester holder>router",
        ConfirmationBlock: "holder>requester holder>router",
        ConfirmationAnswer: "requester>holder router>holder",
        Release: "holder>requester",
        Abort: "holder>router holder>requester requester>holder requester>router router>holder router>requester "
        "holder>holder",
        Signature: "holder>router holder>requester requester>holder requester>router router>holder router>requester "
        "holder>holder",
        Prepare: "requester>router requester>holder",
        JoinedPreparation: "router>requester router>holder holder>requester holder>router holder>holder",
        KeySeed: "requester>router requester>holder",
        PublicPart: "requester>holder router>holder",
        MaskPart: "requester>holder",
        MaskDigest: "requester>router holder>router",
        FormBlock: "holder>requester holder>router",
        Echo: "requester>router router>requester",
        FormBit: "holder>router holder>requester requester>holder requester>router router>holder router>requester",
        PreparedBlocks: "holder>requester holder>router",
        Search: "requester>router requester>holder",
        Difference: "requester>holder",
        DifferenceDigest: "requester>router holder>router",
        MaskedScores: "holder>requester holder>router",
        AdmissionScores: "holder>requester holder>router",
        AdmissionGates: "holder>router requester>holder router>requester",
        AdmissionCount: "holder>router",
        AdmissionInput: "holder>router requester>holder router>requester",
        LiveRows: "holder>router",
        DerivedId: "router>requester holder>requester router>holder holder>router",
    }.items()
}
