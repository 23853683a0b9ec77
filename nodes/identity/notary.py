"""A node's identity as the protocol wants it: signs, and knows the peers' keys."""

from __future__ import annotations

from collections.abc import Mapping

from nodes.identity.identity import NodeIdentity, Peer
from pets.signatures import SignatureError

CONTEXT = "protocol"


class NodeNotary:
    """Implements `protocol.steps.Notary` for a node and its peers."""

    def __init__(self, identity: NodeIdentity, peers: Mapping[str, Peer]) -> None:
        self._identity = identity
        self._peers = peers

    def sign(self, message: bytes) -> bytes:
        """Sign with both halves of the node's key."""
        return self._identity.signing.sign(message, CONTEXT)

    def check(self, peer: str, message: bytes, signature: bytes) -> None:
        """Raise `SignatureError` unless `peer` is known and the signature is its own."""
        if peer not in self._peers:
            raise SignatureError(f"{peer} is not among the peers of {self._identity.config.name}")
        self._peers[peer].verify_key.verify(signature, message, CONTEXT)
