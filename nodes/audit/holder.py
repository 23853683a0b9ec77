"""A holder's part of the audit: gallery, keys, form and blocks of the preparation (`nodes.audit.audit`).

What it sent in the search is the business of `nodes.audit.published` and `nodes.audit.confirmation`.
"""

from __future__ import annotations

from collections.abc import Callable
from hashlib import sha256

import numpy as np
import numpy.typing as npt

from nodes.audit.handover import Sent
from nodes.audit.query import Query, same
from nodes.audit.rows import Rows, Stored, as_searched
from nodes.evidence.sealed import SealedGallery
from nodes.verify.report import Broken, Finding, Findings, Held, Open
from pets import ntt, residues
from pets.errors import LineupError
from pets.gallery_commitment import gallery_root as root_of
from pets.mask_encryption import expand_public
from pets.params import SHARE_BITS
from pets.planes import from_planes, to_planes
from pets.prf import derive_key, labelled_hash
from pets.residues import Residues, Values
from pets.rounding import round_shares
from pets.scoring import ScoringProbe, prepare_probe, score_rows
from protocol.announcing import commit_seed
from protocol.blocks import HolderKeys
from protocol.compute import Ring
from protocol.difference import unpack_difference
from protocol.filter import chunks
from protocol.form import SHARE_MASK, SLACK, form_lanes, form_polynomials, form_values
from protocol.gallery import block_hash
from protocol.messages import (
    Difference,
    FormBlock,
    Joined,
    JoinedPreparation,
    KeySeed,
    MaskPart,
    PairSecret,
    PreparedBlocks,
    PublicPart,
)
from protocol.preparing import holder_keys
from protocol.roles import Seat
from protocol.wire import MASK_PART, as_bytes, residue_array

NO_SENT = "needs what the requester sent, which its audit writes (--sent)"


class HolderAudit:
    """Rules in the order of a report: later ones use what earlier ones found right.

    `stored`: reads the rows that the holder has now. `sent`: not yet trusted.
    """

    def __init__(self, query: Query, content: SealedGallery, sent: Sent | None, stored: Callable[[], Stored]) -> None:
        self.query, self.content, self.params, self.holder = query, content, query.params, query.owner
        self._sent, self._stored = sent, stored
        self.rows: Rows | None = None
        self.why_no_rows = ""
        self.mask: Residues | None = None  # once it is found to be what was received
        self.values: npt.NDArray[np.int32] | None = None  # u, the same
        self.shares: dict[int, Values] = {}  # e' of chunks whose c1 was found right
        self.known: Values | None = None  # e' + m of the unit rows, once the form block was found right
        self.keys: HolderKeys | None = None

    @property
    def chunks(self) -> list[tuple[int, int]]:
        """(first block, number of blocks), as they were prepared."""
        return chunks(len(self.content.versions), self.params)

    def ring(self, query_id: bytes) -> Ring:
        """The holder's seat, from the secrets that it sealed: of the preparation's streams, or of the search's."""
        names = (self.holder, self.query.announce.requester, self.query.announce.router)
        return Ring(Seat.HOLDER, names, query_id, self.content.own, self.content.following, self.query.threads)

    def committed(self) -> Findings:
        """Seed, block hashes and versions open what was committed to; the rows as they are now, as far as they are."""
        content, made, search = self.content, self.query.preparation, self.query.search
        split = [content.hashes[at : at + 32] for at in range(0, len(content.hashes), 32)]
        root = b""
        for item, joined in made.messages(JoinedPreparation, direction="sent"):
            root = joined.gallery or b""
            if commit_seed(content.seed, self.holder) != joined.seed:
                yield Broken(made.place(item.record), "the sealed seed does not open the commitment to it")
            elif split and root_of(split) != root:
                yield Broken(made.place(item.record), "the sealed hashes of blocks do not open the gallery's root")
            elif not joined.blocks == len(content.versions) == -(-content.rows // self.params.n):
                yield Broken(made.place(item.record), "rows or blocks of another number were sealed")
            else:
                yield Held()
        listed = b"".join(version.attempt.to_bytes(8, "big") + version.digest for version in content.versions)
        agreed = labelled_hash("versions", root, len(content.versions), listed)
        for item, answer in search.messages(Joined, direction="sent"):
            if answer.gallery == agreed:
                yield Held()
            else:
                yield Broken(search.place(item.record), "the sealed list of blocks is not the one that all agreed on")
        yield from self._compare_rows(split, root)

    def keyed(self) -> Findings:
        """The seed of s1, b2 and the secrets of the streams are those that were received and sent."""
        content, view = self.content, self.query.preparation
        due = (
            ("KeySeed", "received", self.query.prepare.requester, KeySeed(content.holder_seed), "seed of s1"),
            ("PublicPart", "received", None, PublicPart(content.public), "b2"),
            ("PairSecret", "sent", self.query.prepare.router, PairSecret(content.own), "secret"),
            ("PairSecret", "received", self.query.prepare.requester, PairSecret(content.following), "secret"),
        )
        findings: list[Finding] = []
        for kind, direction, peer, message, what in due:
            for item in view.find(kind, direction=direction, peer=peer):  # type: ignore[arg-type]
                findings.append(same(view, item, message, f"another {what} was sealed"))
        yield from findings
        if not any(isinstance(finding, Broken) for finding in findings):
            public = residue_array(content.public, (), self.params, "b2")
            self.keys = holder_keys(self.params, self.query.preparation_id, content.holder_seed, public, content.seed)

    def received(self) -> Findings:
        """The mask and u that the supervisor brings are those that this holder received."""
        if self._sent is None:
            yield Open(NO_SENT)
            return
        query, params, made, search = self.query, self.params, self.query.preparation, self.query.search
        mask = residue_array(self._sent.mask, (query.dim,), params, "mask")
        findings: list[Finding] = []
        for index, item in enumerate(made.find("MaskPart", self.holder, "received")):
            part = MaskPart(as_bytes(mask[index * MASK_PART : (index + 1) * MASK_PART]))
            findings.append(same(made, item, part, "the mask that was brought is not this"))
        message = Difference(query.query_id, self._sent.difference)
        arrived = search.find("Difference", self.holder, "received")
        findings += [same(search, item, message, "the u that was brought is not this") for item in arrived]
        yield from findings
        if not arrived:
            yield Open("the search ended before u arrived")
        elif not any(isinstance(finding, Broken) for finding in findings):
            self.mask, self.values = mask, unpack_difference(message, query.dim, params)

    def formed(self) -> Findings:
        """The coins of the form check come from the seed, and what was published is the holder's addend under them."""
        if (reason := self.cannot()) is not None:
            yield Open(reason)
            return
        assert self.mask is not None
        assert self.keys is not None
        query, params, threads, view = self.query, self.params, self.query.threads, self.query.preparation
        seed = derive_key(self.content.seed, "form", query.preparation_id)
        public = expand_public(query.preparation_id, query.dim, params, threads)
        own = residues.add(self.mask, residues.multiply(public, self.keys.secret, params, threads), params, threads)
        polynomials = ntt.inverse(form_polynomials(own, seed, params, threads), params, threads)
        zeros, probe = form_values(polynomials, query.dim, seed, params)
        words = (form_lanes(query.dim) + len(probe)) // 64
        lanes = from_planes(
            self.ring(query.preparation_id).masks("form mask").following.words(SHARE_BITS, words).copy()
        )
        planes = to_planes(zeros + lanes[: len(zeros)] + np.uint32(SLACK) & SHARE_MASK, SHARE_BITS)
        message = FormBlock(seed, planes.tobytes())
        found = [
            same(view, item, message, "seed and mask give another form block")
            for item in view.find("FormBlock", self.holder, "sent")
        ]
        yield from found
        if found and not any(isinstance(finding, Broken) for finding in found):
            self.known = probe + lanes[len(zeros) :] & SHARE_MASK

    def prepared(self) -> Findings:
        """Score the rows again and compare every block that was sent; those that changed since are named."""
        if (reason := self.cannot()) is not None or self.rows is None:
            yield Open(reason or self.why_no_rows)
            return
        view, rows, probe = self.query.preparation, self.rows, self.probe()
        owners = (self.query.prepare.requester, self.query.prepare.router)
        sent = [view.find("PreparedBlocks", self.holder, "sent", peer) for peer in owners]
        for index, (first, count) in enumerate(self.chunks):
            blinded = self._blinded(rows, probe, first, count)
            c1 = np.ascontiguousarray(blinded[:, 1])
            found: list[Finding] = []
            for block in range(first, first + count):
                fits = sha256(c1[block - first].tobytes()).digest() == self.content.versions[block].digest
                if block not in rows.missing:
                    found.append(Held() if fits else Broken(f"block {block}", "the committed rows give another c1"))
            if rows.whole(first, count):
                message = PreparedBlocks(as_bytes(c1))
                items = [records[index] for records in sent if index < len(records)]
                found += [same(view, item, message, "the committed rows give other blocks") for item in items]
            yield from found
            if not any(isinstance(finding, Broken) for finding in found):
                assert self.keys is not None
                addend = self.keys.own_addend(blinded, self.query.threads)
                self.shares[index] = round_shares(addend, self.params, self.query.threads).reshape(-1)
        yield from self._named_missing()

    def cannot(self) -> str | None:
        """Why nothing can be recomputed, None if it can."""
        if self.keys is None:
            return "needs the keys of the preparation, and what was sealed of them is not what was used"
        if self._sent is None:
            return NO_SENT
        return None if self.mask is not None else "what was brought is not what the holder received"

    def probe(self) -> ScoringProbe:
        """The encrypted mask, ready to score with."""
        assert self.mask is not None
        second = expand_public(self.query.preparation_id, self.query.dim, self.params, self.query.threads)
        return prepare_probe(np.stack([self.mask, second], axis=1), self.params, self.query.threads)

    def _blinded(self, rows: Rows, probe: ScoringProbe, first: int, count: int) -> Residues:
        assert self.keys is not None
        n, threads, attempt = self.params.n, self.query.threads, self.content.versions[first].attempt
        part = rows.templates[first * n : (first + count) * n]
        scored = score_rows(part, [probe], self.params, threads)[0]
        zeros = self.keys.zeros(f"rerandomise {first} {count} {attempt}", count, threads)
        return residues.add(scored, zeros, self.params, threads)

    def _compare_rows(self, split: list[bytes], root: bytes) -> Findings:
        content, n = self.content, self.params.n
        try:
            stored = self._stored()
        except LineupError as error:
            self.why_no_rows = f"the gallery cannot be read: {error}"
            yield Open(self.why_no_rows)
            return
        if not split:  # none were sealed: all rows are as they were, or nothing can be said
            mine = [block_hash(stored.templates[b * n : min(b * n + n, content.rows)], content.salt_seed, b)
                    for b in range(len(content.versions))]  # fmt: skip
            split = mine if root_of(mine) == root else []
        found = as_searched(stored, content.rows, n, split, content.salt_seed)
        if len(split) != len(content.versions) or (split and len(found.missing) == len(split)):
            self.why_no_rows = "the gallery has changed since (or is not the one searched)"
            yield Open(f"{self.why_no_rows}: rows cannot be compared with it")
            return
        self.rows = found
        yield Held(f"{content.rows} rows" + ("" if found.missing else ", unchanged since the preparation"))
        yield from self._named_missing()

    def _named_missing(self) -> Findings:
        assert self.rows is not None
        for block in sorted(self.rows.missing):
            last = min((block + 1) * self.params.n, self.content.rows) - 1
            yield Open(f"rows {block * self.params.n} to {last}: one of them was changed or forgotten since")
