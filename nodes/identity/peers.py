"""The peers of a running node: read again while it runs, so that a node that joins needs no restart of the others.

`Peers` is what every part of a node looks its peers up in; `replace` puts another set in its place in one step.
`read_again` says what the folder holds now. It believes a running node's memory before the folder: a peer whose file
is damaged, or suddenly holds another role or another key, stays as it was, unless `peer_fingerprints` names that key.
Only who is known may be removed, by taking the file away (or by another fingerprint under its name).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar

from nodes.config.schema import NodeConfig, load_config
from nodes.identity.identity import Peer, PeerFileRefused, peer_files

Value = TypeVar("Value")


class Peers(Mapping[str, Peer]):
    """Peers by name. A thread that iterates sees one moment."""

    def __init__(self, peers: Mapping[str, Peer]) -> None:
        self._now = dict(peers)

    def replace(self, peers: Mapping[str, Peer]) -> None:
        """From now on these."""
        self._now = dict(peers)

    def __getitem__(self, name: str) -> Peer:
        return self._now[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._now)

    def __len__(self) -> int:
        return len(self._now)


class Told(Mapping[str, Value], Generic[Value]):
    """One thing about each peer, such as its key, as it is when it is asked for."""

    def __init__(self, peers: Mapping[str, Peer], what: Callable[[Peer], Value]) -> None:
        self._peers, self._what = peers, what

    def __getitem__(self, name: str) -> Value:
        return self._what(self._peers[name])

    def __iter__(self) -> Iterator[str]:
        return iter(self._peers)

    def __len__(self) -> int:
        return len(self._peers)


@dataclass(frozen=True)
class Reread:
    """`peers`: from now on. `gone`: removed, or under another key than before. `refused`: why, by file.

    `states`: those that may ask, as node.toml says now.
    """

    peers: dict[str, Peer]
    gone: frozenset[str]
    refused: dict[Path, str]
    states: tuple[str, ...]


def read_again(folder: Path, known: Mapping[str, Peer]) -> Reread:
    """What the peers of the node in `folder` are now; `known`: what they were.

    Raises `InputError` for a node.toml that does not hold, `IdentityError` for a folder of peers that cannot be read.
    """
    config, was = load_config(folder), dict(known)
    peers: dict[str, Peer] = {}
    refused: dict[Path, str] = {}
    for path in peer_files(config):
        before = was.get(path.stem)
        try:
            peer = Peer.read(path)
            _check(config, peer, before, {**was, **peers})
        except PeerFileRefused as error:
            refused[path] = str(error)
            if before is not None and _still_wanted(config, before):
                peers[before.name] = before
        else:
            peers[peer.name] = peer
    if config.name in was:  # whatever stands there of this node itself
        peers[config.name] = was[config.name]
    gone = {name for name, peer in was.items() if name not in peers or peers[name].fingerprint != peer.fingerprint}
    return Reread(peers, frozenset(gone), refused, config.policy.states)


def _check(config: NodeConfig, peer: Peer, before: Peer | None, others: Mapping[str, Peer]) -> None:
    pin = config.peer_fingerprints.get(peer.name)
    if config.peer_fingerprints and peer.name != config.name and pin != peer.fingerprint:
        raise PeerFileRefused(
            f"{peer.name} has fingerprint {peer.fingerprint}, peer_fingerprints in node.toml expects "
            f"{pin or 'none: it is not listed'}"
        )
    if before is not None and pin is None and before.fingerprint != peer.fingerprint:
        raise PeerFileRefused(
            f"{peer.name} has another key now, fingerprint {peer.fingerprint}; it was {before.fingerprint}, which "
            "still counts. If its people say that they changed it, remove the peer and add it again"
        )
    if before is not None:
        check_same_role(before, peer)
    for name, other in others.items():
        if name != peer.name and other.fingerprint == peer.fingerprint:
            raise PeerFileRefused(f"{peer.name} has the same key as {name}")


def check_same_role(before: Peer, peer: Peer) -> None:
    """Raise `PeerFileRefused` for a peer that says it has another role than it had: no fingerprint tells that."""
    if before.role is not peer.role:
        raise PeerFileRefused(
            f"{peer.name} was {before.role.value} and is {peer.role.value} now. If its people and yours agree to that, "
            "remove the peer and add it again"
        )


def _still_wanted(config: NodeConfig, before: Peer) -> bool:
    pins = config.peer_fingerprints
    return not pins or before.name == config.name or pins.get(before.name) == before.fingerprint
