"""Who a node is: its keys on disk, and what the other nodes know of it.

::

    DIR/                 mode 0700
        node.toml        configuration (`nodes.config.schema`)
        signing.key      Ed25519 + ML-DSA-65 (`pets.signatures`), PEM                            mode 0600
        sealing.key      X25519 + ML-KEM-768 (`pets.sealing`), 64 hexadecimal digits             mode 0600
        storage.key      what records are encrypted under (`nodes.store`)                        mode 0600
        tls.key          of the service, and tls.pem, its certificate                            mode 0600
        operator.key     by which the command line speaks to its own node, and operator.pem      mode 0600
        ca.pem           the authority that node and peers trust
    PEERS/NAME.json      public: name, role, address, both public keys, fingerprint, signed with the key inside

The signature shows that whoever published an identity holds its keys. That the identity is the right state's is for the
authority's certificate to say (name), and for `peer_fingerprints` in node.toml, compared over another channel.

::

    IdentityError (a pets.errors.InputError)
    ├── NodeExists               the folder or the name is taken
    └── PeerFileRefused          a public identity that does not hold
"""

from __future__ import annotations

import contextlib
import errno
import re
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import msgspec

from nodes.config.schema import ConfigError, NodeConfig, Role, check_node, load_config, operator_name, split_address
from nodes.config.template import write_default
from nodes.identity.authority import NODE_DAYS, Authority
from nodes.identity.tls import check_certificate
from nodes.private_files import check_private, read_private, write_private, write_public
from nodes.store.keys import StorageKey
from pets.errors import MALFORMED, CryptoError, InputError
from pets.prf import encode_labels
from pets.sealing import SealingKey, SealingPublicKey
from pets.signatures import SignatureError, SigningKey, VerifyKey

_CONTEXT = "node-identity"
_PHASES = "protocol"  # the context of what a node signs in a query
_MAX_PEER_BYTES = 65536


class IdentityError(InputError):
    """An identity that cannot be made or used."""


class NodeExists(IdentityError):
    """There is a node already, in this folder or of this name."""


class PeerFileRefused(IdentityError):
    """A public identity that is malformed, not signed by itself, or not the expected one."""


class _PeerFile(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    version: Literal[1] = 1
    name: str
    role: Role
    address: str
    verify_key: bytes
    sealing_key: bytes
    fingerprint: str
    signature: bytes


@dataclass(frozen=True)
class Peer:
    """What others know of a node."""

    name: str
    role: Role
    address: str
    verify_key: VerifyKey
    sealing_key: SealingPublicKey

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the verify key, 64 hexadecimal digits: what people compare."""
        return self.verify_key.fingerprint.hex()

    def publish(self, key: SigningKey) -> bytes:
        """The content of NAME.json, signed."""
        record = _PeerFile(
            name=self.name,
            role=self.role,
            address=self.address,
            verify_key=self.verify_key.to_bytes(),
            sealing_key=self.sealing_key.data,
            fingerprint=self.fingerprint,
            signature=key.sign(self._statement(), _CONTEXT),
        )
        return msgspec.json.format(msgspec.json.encode(record)) + b"\n"

    @classmethod
    def read(cls, path: Path) -> Peer:
        """The identity in NAME.json, its signature checked. Raises `PeerFileRefused`."""
        try:
            with path.open("rb") as stream:
                content = stream.read(_MAX_PEER_BYTES + 1)
            if len(content) > _MAX_PEER_BYTES:
                raise PeerFileRefused(f"{path} has more than {_MAX_PEER_BYTES} bytes")
            record = msgspec.json.decode(content, type=_PeerFile)
            check_node(record.name, record.role)
            split_address(record.address)
            verify_key = VerifyKey.from_bytes(record.verify_key)
            peer = cls(record.name, record.role, record.address, verify_key, SealingPublicKey(record.sealing_key))
            verify_key.verify(record.signature, peer._statement(), _CONTEXT)
        except (OSError, *MALFORMED, ConfigError, CryptoError) as error:
            raise PeerFileRefused(f"{path}: {error}") from error
        if path.name != f"{peer.name}.json":
            raise PeerFileRefused(f"{path} holds the identity of {peer.name}, it must be called {peer.name}.json")
        if record.fingerprint != peer.fingerprint:
            raise PeerFileRefused(f"{path} states {record.fingerprint[:64]}, its key has {peer.fingerprint}")
        return peer

    def _statement(self) -> bytes:
        return encode_labels(
            1, self.name, self.role.value, self.address, self.verify_key.to_bytes(), self.sealing_key.data
        )


@dataclass(frozen=True)
class NodeIdentity:
    """A node with its secret keys."""

    config: NodeConfig
    signing: SigningKey = field(repr=False)
    sealing: SealingKey = field(repr=False)

    @property
    def peer(self) -> Peer:
        """What others know of it."""
        config = self.config
        return Peer(config.name, config.role, config.address, self.signing.verify_key, self.sealing.public)


def init_node(
    folder: Path,
    *,
    name: str,
    role: Role,
    address: str,
    authority: Path,
    states: Sequence[str] = (),
    days: int = NODE_DAYS,
) -> NodeConfig:
    """Make a node: keys, certificates from the authority (created if absent), configuration, public identity.

    `states`: codes of the states whose queries it accepts. `days`: validity of the certificates. The folder is complete
    or absent. Raises `NodeExists` rather than overwrite, `ConfigError`, `AuthorityError`.
    """
    check_node(name, role)
    split_address(address)
    folder = folder.absolute()
    issuer = Authority.open_or_create(authority.absolute())
    published = issuer.peers_folder / f"{name}.json"
    if published.exists():
        raise NodeExists(f"{published} exists already: the name {name} is taken")
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{folder.name}-", dir=folder.parent) as temporary:
            fresh = Path(temporary) / "node"
            fresh.mkdir(mode=0o700)
            write_default(
                fresh,
                name=name,
                role=role,
                address=address,
                crl=issuer.crl_file,
                peers=issuer.peers_folder,
                states=states,
            )
            _make_keys(fresh)
            _make_certificates(fresh, issuer, name, address, days)
            identity = load_identity(fresh)
            with _published(published, identity):
                fresh.rename(folder)  # fails on a folder that is not empty
    except OSError as error:
        if error.errno in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR):
            raise NodeExists(f"{folder} exists already; nothing was changed") from None
        raise IdentityError(f"{folder} cannot be created: {error.strerror}") from error
    return load_config(folder)


def load_identity(folder: Path) -> NodeIdentity:
    """A node's configuration and secret keys; its certificates are checked for name and time.

    Raises `ConfigError`, `PermissionsRefused`, `CertificateError`, `IdentityError`.
    """
    config = load_config(folder)
    paths = config.paths
    check_private(folder.absolute())
    for path in (paths.tls_key, paths.operator_key, config.storage.key_file):
        if path is not None and path.exists():
            check_private(path)
    try:
        signing = SigningKey.from_pem(read_private(paths.signing_key).decode("ascii"))
        sealing = SealingKey.from_bytes(_from_hex(paths.sealing_key))
    except (CryptoError, UnicodeDecodeError) as error:
        raise IdentityError(f"{paths.signing_key} or {paths.sealing_key} is not a key: {error}") from None
    check_certificate(paths.tls_certificate, config.name)
    if paths.operator_certificate.exists():
        check_certificate(paths.operator_certificate, operator_name(config.name))
    return NodeIdentity(config, signing, sealing)


def load_peers(config: NodeConfig) -> dict[str, Peer]:
    """Every node in the peers folder by name, this one included if it is there; every signature checked.

    Raises `PeerFileRefused` for an invalid file, for a key under two names, and for a peer that is not the one
    in `peer_fingerprints`.
    """
    peers: dict[str, Peer] = {}
    owners: dict[str, str] = {}
    for path in peer_files(config):
        peer = Peer.read(path)
        if owners.setdefault(peer.fingerprint, peer.name) != peer.name:
            raise PeerFileRefused(f"{path} has the same key as {owners[peer.fingerprint]}")
        _check_pin(config, peer)
        peers[peer.name] = peer
    return peers


def peer_files(config: NodeConfig) -> list[Path]:
    """The files in the folder of peers, sorted. Raises `IdentityError` if it cannot be read."""
    folder = config.paths.peers
    if not folder.is_dir():
        raise IdentityError(f"the folder of peers {folder} does not exist")
    return sorted(folder.glob("[!.]*.json"))


def _check_pin(config: NodeConfig, peer: Peer) -> None:
    pins = config.peer_fingerprints
    if not pins or peer.name == config.name:
        return
    if pins.get(peer.name) != peer.fingerprint:
        expected = pins.get(peer.name, "none: it is not listed")
        raise PeerFileRefused(f"{peer.name} has fingerprint {peer.fingerprint}, peer_fingerprints expects {expected}")


def _make_keys(folder: Path) -> None:
    write_private(folder / "signing.key", SigningKey.generate().to_pem().encode())
    write_private(folder / "sealing.key", (SealingKey.generate().to_bytes().hex() + "\n").encode())
    StorageKey.create(folder / "storage.key")


def _make_certificates(folder: Path, issuer: Authority, name: str, address: str, days: int) -> None:
    service = issuer.issue(name, address, days=days)
    operator = issuer.issue_operator(name, days=days)
    for stem, issued in (("tls", service), ("operator", operator)):
        write_private(folder / f"{stem}.key", issued.key)
        write_public(folder / f"{stem}.pem", issued.certificate)
    write_public(folder / "ca.pem", issuer.ca_file.read_bytes())


@contextlib.contextmanager
def _published(path: Path, identity: NodeIdentity) -> Iterator[None]:
    try:
        write_public(path, identity.peer.publish(identity.signing), overwrite=False)
    except FileExistsError:
        raise NodeExists(f"{path} exists already: the name {identity.config.name} is taken") from None
    try:
        yield
    except BaseException:
        path.unlink(missing_ok=True)
        raise


def _from_hex(path: Path) -> bytes:
    text = read_private(path).decode("ascii").strip()
    if not re.fullmatch("[0-9a-f]{64}", text):
        raise IdentityError(f"{path} must hold 64 hexadecimal digits")
    return bytes.fromhex(text)


class NodeKeyring:
    """Implements `protocol.steps.Keyring` for a node and its peers."""

    def __init__(self, identity: NodeIdentity, peers: Mapping[str, Peer]) -> None:
        self._identity = identity
        self._peers = peers

    def sign(self, message: bytes) -> bytes:
        """Sign with both halves of the node's key."""
        return self._identity.signing.sign(message, _PHASES)

    def check(self, peer: str, message: bytes, signature: bytes) -> None:
        """Raise `SignatureError` unless `peer` is known and the signature is its own."""
        known = self._peers.get(peer)  # once: another thread may remove it
        if known is None:
            raise SignatureError(f"{peer} is not among the peers of {self._identity.config.name}")
        known.verify_key.verify(signature, message, _PHASES)
