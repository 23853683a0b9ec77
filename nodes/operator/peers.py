"""What an operator does about peers: list them, add one, remove one, hand out this node's own public identity.

A running node is told, and follows at once; without being told it looks within a minute.
"""

from __future__ import annotations

import re
from pathlib import Path

import msgspec

from nodes.config.schema import FILE, NodeConfig, load_config
from nodes.identity.identity import IdentityError, Peer, PeerFileRefused, load_identity, peer_files
from nodes.identity.peers import check_same_role
from nodes.operator.client import NodeNotRunning, reread_peers
from nodes.private_files import write_public
from pets.errors import InputError

SECTION = "peer_fingerprints"


class PeerInFolder(msgspec.Struct, frozen=True):
    """A peer as its file says. `pinned`: its fingerprint stands in node.toml; None where none does."""

    name: str
    role: str
    address: str
    fingerprint: str
    pinned: bool | None
    file: str


class Listed(msgspec.Struct, frozen=True):
    """`refused`: why, by file."""

    peers: tuple[PeerInFolder, ...]
    refused: dict[str, str]


class Done(msgspec.Struct, frozen=True):
    """`running`: whether the node runs and follows already. `refused`: what it refuses, in words."""

    name: str
    fingerprint: str
    running: bool
    refused: tuple[str, ...] = ()


def list_peers(folder: Path) -> Listed:
    """The peers in the folder of a node, without itself. Raises `InputError`."""
    config = load_config(folder)
    peers, refused = [], {}
    for path in peer_files(config):
        try:
            peer = Peer.read(path)
            if peer.name == config.name:
                continue
            pins = config.peer_fingerprints
            if pins and pins.get(peer.name) != peer.fingerprint:
                raise PeerFileRefused(f"{path}: fingerprint {peer.fingerprint} is not the one in {_toml(folder)}")
        except PeerFileRefused as error:
            refused[str(path)] = str(error)
            continue
        pinned = True if pins else None
        peers.append(PeerInFolder(peer.name, peer.role.value, peer.address, peer.fingerprint, pinned, str(path)))
    return Listed(tuple(peers), refused)


def add_peer(folder: Path, file: Path, fingerprint: str | None) -> Done:
    """Make the node whose public identity is in `file` a peer; a new address or seal of a known one is taken over.

    `fingerprint`: as its people said it over another channel, 64 hexadecimal digits. A node that pins its peers needs
    it, and writes it into node.toml. Raises `PeerFileRefused`, `IdentityError`, `InputError`; nothing was changed then.
    """
    config = load_config(folder)
    peer = Peer.read(file)
    target = config.paths.peers / f"{peer.name}.json"
    if peer.name == config.name:
        raise IdentityError(f"{file} is the identity of this node itself")
    if fingerprint is not None and fingerprint.replace(" ", "").lower() != peer.fingerprint:
        raise PeerFileRefused(f"{file}: its key has fingerprint {peer.fingerprint}, and you were told {fingerprint}")
    if config.peer_fingerprints and fingerprint is None and peer.name not in config.peer_fingerprints:
        raise InputError(f"{_toml(folder)} lists [{SECTION}]: give --fingerprint, as {peer.name}'s people told you")
    if target.exists():
        before = Peer.read(target)
        if before.fingerprint != peer.fingerprint:
            raise PeerFileRefused(f"{target} holds another key of {peer.name}: if you trust this one, remove it first")
        check_same_role(before, peer)
    for path in peer_files(config):
        if path != target and _key(path) == peer.fingerprint:
            raise PeerFileRefused(f"{file} has the same key as {path}")
    if config.peer_fingerprints:
        _pin(folder, config, peer.name, peer.fingerprint)
    write_public(target, file.read_bytes())
    return _follow(folder, peer)


def remove_peer(folder: Path, name: str) -> Done:
    """Take a peer away: a running node ends its connections and its queries at once. Raises `IdentityError`."""
    config = load_config(folder)
    target = config.paths.peers / f"{name}.json"
    if name == config.name:
        raise IdentityError(f"{name} is this node itself")
    if not target.exists():
        raise IdentityError(f"{target} does not exist: {name} is not a peer of {config.name}")
    fingerprint = _key(target)
    if set(config.peer_fingerprints) == {name}:
        raise InputError(
            f"{_toml(folder)} pins {name} alone, and a node that pins nobody accepts everybody in "
            f"{config.paths.peers}: pin another peer first"
        )
    target.unlink()
    if name in config.peer_fingerprints:
        _pin(folder, config, name, None)
    running, refused = _tell(folder)
    return Done(name, fingerprint, running, refused)


def own_identity(folder: Path) -> tuple[str, bytes]:
    """This node's name, and the file that the others add."""
    identity = load_identity(folder)
    return identity.config.name, identity.peer.publish(identity.signing)


def _follow(folder: Path, peer: Peer) -> Done:
    running, refused = _tell(folder)
    return Done(peer.name, peer.fingerprint, running, refused)


def _tell(folder: Path) -> tuple[bool, tuple[str, ...]]:
    try:
        return True, tuple(reread_peers(folder)["refused"])
    except NodeNotRunning:
        return False, ()


def _key(path: Path) -> str:
    """The fingerprint in a file; empty for a file that does not hold."""
    try:
        return Peer.read(path).fingerprint
    except PeerFileRefused:
        return ""


def _toml(folder: Path) -> Path:
    return folder.absolute() / FILE


def _pin(folder: Path, config: NodeConfig, name: str, fingerprint: str | None) -> None:
    """Write, change or (None) take away one line of [peer_fingerprints], and leave all else in node.toml as it is."""
    path = _toml(folder)
    lines, kept, inside, found = path.read_text("utf-8").splitlines(), [], False, False
    for line in lines:
        header = re.match(r"\s*\[([^\[\]]+)\]\s*(#|$)", line)
        inside = header[1].strip() == SECTION if header else inside
        if inside and re.match(rf"""\s*["']?{re.escape(name)}["']?\s*=""", line):
            continue
        kept.append(line)
        if header and inside:
            found = True
            if fingerprint is not None:
                kept.append(f'{name} = "{fingerprint}"')
    wanted = {other: pin for other, pin in config.peer_fingerprints.items() if other != name}
    wanted |= {name: fingerprint} if fingerprint is not None else {}
    before = path.read_bytes()
    write_public(path, ("\n".join(kept) + "\n").encode())
    try:
        if found and load_config(folder).peer_fingerprints == wanted:
            return
    except InputError:
        pass
    write_public(path, before)
    raise InputError(f"{path}: write the fingerprints as lines under [{SECTION}], then this command can change them")
