"""A router that chooses its key share last, and what one share alone decrypts; each attack with its control."""

from __future__ import annotations

import secrets
from collections.abc import Iterable

import numpy as np
import pytest

import protocol.keyring
from pets import ntt, residues
from pets.errors import CommitmentMismatch
from pets.keys import sample_key_share
from pets.sampling import common_polynomial
from protocol.messages import KeyCommitment, KeyPair, ProbePart, PublicShare
from protocol.wire import residue_array
from tests.kit.attacks import Residues, centred, probe_ciphertexts, probes_and_gallery
from tests.kit.galleries import Templates
from tests.kit.parties import REQUESTER, ROUTER, Delivery, Trio, enrol, forge
from tests.kit.ring import RING

pytestmark = pytest.mark.ring


class RogueRouter:
    """Waits for b_Q and then publishes b_R = -b_Q - a·s + e with an s of its own: the joint key is its alone."""

    def __init__(self) -> None:
        self.identity = b""
        self.theirs: Residues | None = None
        self.rogue: Residues | None = None
        self.secret: Residues | None = None

    def __call__(self, d: Delivery) -> Iterable[bytes] | None:
        if d.of(KeyCommitment, ROUTER):
            self.identity = d.message.query_id  # type: ignore[union-attr]
        if d.of(PublicShare, REQUESTER):
            self.theirs = residue_array(d.message.data, (), RING, "b_Q")  # type: ignore[union-attr]
        if d.of(PublicShare, ROUTER):
            assert self.theirs is not None
            common = common_polynomial(RING, self.identity)
            own = sample_key_share(RING, common, secrets.token_bytes(32), self.identity)
            self.secret, self.rogue = own.secret.copy(), residues.subtract(own.public, self.theirs, RING)
            return [forge(d.frame, data=self.rogue.tobytes())]
        if d.of(KeyPair, ROUTER) and self.rogue is not None:
            return [forge(d.frame, router=self.rogue.tobytes())]
        return None


def rogue_search() -> tuple[Trio, RogueRouter, Templates]:
    probes, templates = probes_and_gallery()
    router = RogueRouter()
    trio = Trio(enrol(templates), attack=router).offline()
    if not trio.failures:
        trio.online(probes[0])
    return trio, router, probes[0]


def test_rogue_key_is_refused_by_the_commitment() -> None:
    trio, _, _ = rogue_search()
    trio.assert_stopped(CommitmentMismatch)
    assert not trio.sent(ProbePart)


def test_control_without_the_commitment_the_router_alone_decrypts_the_probe(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(protocol.keyring, "check_commitment", lambda *_: None)
    trio, router, probe = rogue_search()
    assert router.secret is not None
    ciphertexts = probe_ciphertexts(trio)
    masked = residues.multiply(np.ascontiguousarray(ciphertexts[:, 1]), router.secret, RING)
    opened = ntt.inverse(residues.add(np.ascontiguousarray(ciphertexts[:, 0]), masked, RING), RING)
    assert np.array_equal(np.rint(centred(opened)[:, 0] / RING.delta), probe)


def test_neither_key_share_alone_decrypts_the_probe() -> None:
    probes, templates = probes_and_gallery()
    trio = Trio(enrol(templates)).offline()
    keys = [trio.requester._key, trio.router._key]
    alone = [key.share.secret.copy() for key in keys if key is not None]
    trio.online(probes[0])
    ciphertexts = probe_ciphertexts(trio)
    for secret in [*alone, residues.add(*alone, RING)]:
        masked = residues.multiply(np.ascontiguousarray(ciphertexts[:, 1]), secret, RING)
        opened = ntt.inverse(residues.add(np.ascontiguousarray(ciphertexts[:, 0]), masked, RING), RING)
        values = np.rint(centred(opened)[:, 0] / RING.delta)
        both = secret is not alone[0] and secret is not alone[1]
        assert np.array_equal(values, probes[0]) == both  # the control: with both shares it opens
