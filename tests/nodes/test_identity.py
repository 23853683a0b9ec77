"""Making a node, reading it back, and what others read of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest

from nodes.config.schema import ConfigError, NodeConfig, Role
from nodes.identity.authority import Authority
from nodes.identity.identity import (
    IdentityError,
    NodeExists,
    NodeKeyring,
    Peer,
    PeerFileRefused,
    init_node,
    load_identity,
    load_peers,
)
from nodes.identity.tls import CertificateError, client_context, server_context
from nodes.private_files import PermissionsRefused
from nodes.store import StorageKey
from pets.errors import InputError
from pets.sealing import open_sealed, seal
from pets.signatures import SignatureError, SigningKey

ADDRESS = "https://127.0.0.1:8443"


def make(folder: Path, name: str = "ES", role: Role = Role.HOLDER, **more: Any) -> NodeConfig:
    return init_node(folder / name, name=name, role=role, address=ADDRESS, authority=folder / "authority", **more)


@pytest.fixture
def node(tmp_path: Path) -> Path:
    """The folder of a fresh holder."""
    make(tmp_path, states=["FR"])
    return tmp_path / "ES"


def test_a_peer_that_is_removed_while_its_signature_is_checked_is_unknown(node: Path) -> None:
    """Not a fault of this node: machines run in other threads than what removes a peer."""

    class Vanishing(dict[str, Peer]):
        def __contains__(self, name: object) -> bool:
            return True

    with pytest.raises(SignatureError, match="FR is not among the peers of ES"):
        NodeKeyring(load_identity(node), Vanishing()).check("FR", b"said", b"signed")


def listing(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_node_is_made_complete_and_reads_back(node: Path) -> None:
    identity = load_identity(node)
    assert (identity.config.name, identity.config.policy.states) == ("ES", ("FR",))
    assert open_sealed(identity.sealing, seal(identity.peer.sealing_key, b"hello", b"test"), b"test") == b"hello"
    identity.peer.verify_key.verify(identity.signing.sign(b"message", "test"), b"message", "test")
    assert identity.config.storage.key_file is not None
    StorageKey.from_file(identity.config.storage.key_file)
    for files in (identity.config.tls, identity.config.operator_tls):
        server_context(files)
        client_context(files)


def test_secrets_are_readable_by_their_owner_only(node: Path) -> None:
    assert node.stat().st_mode & 0o777 == 0o700
    modes = {path.name: path.stat().st_mode & 0o777 for path in node.iterdir()}
    assert {name for name, mode in modes.items() if mode == 0o600} == {
        "signing.key", "sealing.key", "storage.key", "tls.key", "operator.key",
    }  # fmt: skip
    assert {name for name, mode in modes.items() if mode != 0o600} == {
        "node.toml", "tls.pem", "operator.pem", "ca.pem",
    }  # fmt: skip


def test_no_secret_shows_in_what_is_printed_or_published(node: Path) -> None:
    identity = load_identity(node)
    published = (identity.config.paths.peers / "ES.json").read_text()
    shown = f"{identity!r} {identity.config!r} {identity.peer!r} {published}"
    for name in ("signing.key", "sealing.key", "storage.key", "tls.key"):
        for line in (node / name).read_text().splitlines():
            assert line.startswith("-----") or line not in shown


@pytest.mark.parametrize("name", ["signing.key", "sealing.key", "storage.key", "tls.key", "operator.key"])
def test_a_secret_that_others_may_read_is_refused(node: Path, name: str) -> None:
    (node / name).chmod(0o640)
    with pytest.raises(PermissionsRefused, match=rf"{name} has mode 0640, it must be 0600: chmod 600"):
        load_identity(node)
    (node / name).chmod(0o400)
    load_identity(node)


def test_a_folder_that_others_may_enter_is_refused(node: Path) -> None:
    node.chmod(0o755)
    with pytest.raises(PermissionsRefused, match="ES has mode 0755, it must be 0700: chmod 700"):
        load_identity(node)


def test_keys_that_are_missing_or_broken_are_named(node: Path) -> None:
    for name in ("signing.key", "sealing.key"):
        content = (node / name).read_bytes()
        for broken in (b"", content[:-20], b"\xff" * 64):
            (node / name).write_bytes(broken)
            with pytest.raises(IdentityError, match=name):
                load_identity(node)
        (node / name).unlink()
        with pytest.raises(InputError, match=f"{name} cannot be read"):
            load_identity(node)
        (node / name).write_bytes(content)
        (node / name).chmod(0o600)
    load_identity(node)


def test_a_node_does_not_start_with_another_nodes_certificate(node: Path) -> None:
    make(node.parent, "DE")
    (node / "tls.pem").write_bytes((node.parent / "DE" / "tls.pem").read_bytes())
    with pytest.raises(CertificateError, match="is for 'DE', expected 'ES'"):
        load_identity(node)


def test_an_existing_node_is_not_overwritten(node: Path) -> None:
    before = listing(node.parent)
    with pytest.raises(NodeExists, match="the name ES is taken"):
        make(node.parent)
    with pytest.raises(NodeExists, match="exists already; nothing was changed"):
        init_node(node, name="DE", role=Role.HOLDER, address=ADDRESS, authority=node.parent / "authority")
    after = listing(node.parent)
    assert {name: after[name] for name in before} == before
    assert {name.split("/")[1] for name in after.keys() - before.keys()} == {"issued"}  # and nothing published
    assert not [path for path in node.parent.iterdir() if path.name.startswith(".")]


def test_an_empty_folder_is_taken_and_missing_parents_are_made(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir(mode=0o755)
    for folder, name in (("empty", "ES"), ("a/b", "DE")):
        init_node(tmp_path / folder, name=name, role=Role.HOLDER, address=ADDRESS, authority=tmp_path / "authority")
        assert (tmp_path / folder).stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize(
    ("name", "role", "more"),
    [("es", Role.HOLDER, {}), ("FRANCE", Role.REQUESTER, {}), ("ES", Role.HOLDER, {"states": ["France"]})],
)
def test_what_cannot_be_a_node_leaves_nothing_behind(
    tmp_path: Path, name: str, role: Role, more: dict[str, Any]
) -> None:
    with pytest.raises(ConfigError):
        make(tmp_path, name, role, **more)
    assert {path.name for path in tmp_path.iterdir()} <= {"authority"}
    assert not list(tmp_path.glob("authority/peers/*"))


def test_four_nodes_know_each_other(tmp_path: Path) -> None:
    roles = {"FR": Role.REQUESTER, "ES": Role.HOLDER, "DE": Role.HOLDER, "ROUTER": Role.ROUTER}
    for name, role in roles.items():
        make(tmp_path, name, role)
    for name in roles:
        identity = load_identity(tmp_path / name)
        peers = load_peers(identity.config)
        assert {name: peer.role for name, peer in peers.items()} == roles
        assert peers[name] == identity.peer
    assert len({peer.fingerprint for peer in peers.values()}) == 4


# Public identities


def published(node: Path) -> Path:
    return node.parent / "authority" / "peers" / "ES.json"


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("name", "DE"), ("role", "router"), ("address", "https://127.0.0.1:1"), ("sealing_key", "other"),
        ("verify_key", "other"), ("signature", "other"),
    ],
)  # fmt: skip
def test_a_changed_identity_is_refused(node: Path, field: str, value: str) -> None:
    make(node.parent, "DE")
    record = msgspec.json.decode(published(node).read_bytes())
    other = msgspec.json.decode(published(node).with_name("DE.json").read_bytes())
    record[field] = other[field] if value == "other" else value
    published(node).write_bytes(msgspec.json.encode(record))
    with pytest.raises(PeerFileRefused, match=r"ES\.json: the (Ed25519|ML-DSA) half does not hold"):
        load_peers(load_identity(node).config)


def test_an_identity_with_another_fingerprint_schema_or_file_name_is_refused(node: Path) -> None:
    path = published(node)
    good = msgspec.json.decode(path.read_bytes())
    for change, message in (
        ({"fingerprint": "ab" * 32}, "states abab"),
        ({"extra": 1}, "unknown field `extra`"),
        ({"version": 2}, "Invalid enum value 2"),
        ({"verify_key": "AAAA"}, "a verify key has"),
        ({"sealing_key": "AAAA"}, "a public sealing key has"),
        ({"address": "ftp://es"}, "must be https://host:port"),
    ):
        path.write_bytes(msgspec.json.encode({**good, **change}))
        with pytest.raises(PeerFileRefused, match=message):
            Peer.read(path)
    path.write_bytes(b" " * 70000)
    with pytest.raises(PeerFileRefused, match="more than 65536 bytes"):
        Peer.read(path)
    path.with_name("FR.json").write_bytes(msgspec.json.encode(good))
    with pytest.raises(PeerFileRefused, match=r"it must be called ES\.json"):
        Peer.read(path.with_name("FR.json"))


def test_one_key_under_two_names_is_refused(node: Path) -> None:
    identity = load_identity(node)
    own = identity.peer
    twin = Peer("DE", Role.HOLDER, ADDRESS, own.verify_key, own.sealing_key)
    published(node).with_name("DE.json").write_bytes(twin.publish(identity.signing))
    with pytest.raises(PeerFileRefused, match=r"ES\.json has the same key as DE"):
        load_peers(identity.config)


def test_pinned_fingerprints_decide_who_is_a_peer(node: Path) -> None:
    make(node.parent, "DE")
    config = load_identity(node).config
    german = load_peers(config)["DE"]
    pinned = msgspec.structs.replace(config, peer_fingerprints={"DE": german.fingerprint})
    assert load_peers(pinned)["DE"] == german
    for pins in ({"DE": "0" * 64}, {"FR": german.fingerprint}):
        with pytest.raises(PeerFileRefused, match=r"DE has fingerprint .*, peer_fingerprints expects"):
            load_peers(msgspec.structs.replace(config, peer_fingerprints=pins))
    forged = Peer("DE", Role.HOLDER, ADDRESS, (key := SigningKey.generate()).verify_key, german.sealing_key)
    published(node).with_name("DE.json").write_bytes(forged.publish(key))
    assert load_peers(config)["DE"] == forged  # control: without pins whoever writes the folder is believed
    with pytest.raises(PeerFileRefused, match="DE has fingerprint"):
        load_peers(pinned)


def test_a_missing_peers_folder_is_said_so(node: Path) -> None:
    config = load_identity(node).config
    paths = msgspec.structs.replace(config.paths, peers=node / "absent")
    with pytest.raises(IdentityError, match="absent does not exist"):
        load_peers(msgspec.structs.replace(config, paths=paths))


def test_nodes_of_one_authority_are_served_by_it(node: Path) -> None:
    issuer = Authority.open(node.parent / "authority")
    assert len(issuer.revoke("ES")) == 1
    assert len(issuer.revoke("ES-OPERATOR")) == 1
