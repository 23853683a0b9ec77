"""What every part of the casework works with: the node, its vault, clock and settings; and the making of statements."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import msgspec
from sqlalchemy.orm import Session

from nodes.casework.contents import Closed
from nodes.casework.tables import StatementRow
from nodes.casework.vault import Vault
from nodes.config.casework import CaseworkConfig
from nodes.config.names import Role
from nodes.identity.identity import NodeIdentity, NodeKeyring, Peer
from nodes.store.store import GalleryStore
from protocol.follow_up import AnyContent, Statement, payload_digest

HOUR = 3600
DAY = 24 * HOUR


class Payload(Closed, frozen=True):
    """A payload as it is kept until it was delivered."""

    data: bytes


@dataclass(frozen=True)
class Office:
    """`gallery`: at a holder, what images and marks of candidates come from."""

    identity: NodeIdentity
    peers: Mapping[str, Peer]
    vault: Vault
    settings: CaseworkConfig
    clock: Callable[[], datetime]
    gallery: GalleryStore | None = None

    @property
    def name(self) -> str:
        """The node's name."""
        return self.identity.config.name

    @property
    def role(self) -> Role:
        """The node's role."""
        return self.identity.config.role

    @property
    def keyring(self) -> NodeKeyring:
        """Signs for this node, and knows its peers and itself."""
        return NodeKeyring(self.identity, {**self.peers, self.name: self.identity.peer})

    def now(self) -> int:
        """Seconds since 1970, UTC."""
        return int(self.clock().timestamp())

    def state(
        self, session: Session, attempt: bytes, receiver: str, content: AnyContent, payload: bytes = b""
    ) -> Statement:
        """Sign a statement and queue it for its receiver; one to this node itself is kept at home, as evidence."""
        time = int(self.clock().timestamp() * 1000)
        statement = Statement(1, attempt, self.name, receiver, time, content).signed(self.keyring)
        local = receiver == self.name
        self.keep(session, statement, "sent", "logged" if local else "queued", payload)
        return statement

    def keep(self, session: Session, statement: Statement, direction: str, state: str, payload: bytes = b"") -> None:
        """Write a statement down; whoever runs the node puts it into the transcript log."""
        peer = statement.receiver if direction == "sent" else statement.sender
        row = StatementRow(
            digest=statement.digest,
            attempt=statement.query,
            direction=direction,
            peer=peer,
            kind=statement.kind,
            time=statement.time,
            state=state,
            logged=False,
            tries=0,
            not_before=0,
            content=statement.encode(),
        )
        if payload:
            self.vault.seal(row, Payload(payload))
        session.add(row)
        session.flush()


def encode_payload(payload: msgspec.Struct) -> tuple[bytes, bytes]:
    """A payload's bytes, and the digest by which a statement names it."""
    data = msgspec.msgpack.encode(payload)
    return data, payload_digest(data)


def decode_payload(data: bytes, kind: type[Any]) -> Any:
    """The inverse of `encode_payload`. Raises `msgspec.ValidationError`."""
    return msgspec.msgpack.decode(data, type=kind)
