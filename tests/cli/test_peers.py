"""`lineup node peers` and `lineup node renew`: what an operator types, and what is said when it does not hold."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509

from nodes.config.schema import load_config
from nodes.identity.authority import Authority
from nodes.identity.identity import Peer, load_identity, load_peers
from nodes.identity.tls import client_context, server_context
from nodes.private_files import write_public
from pets.signatures import SigningKey
from tests.kit.commands import as_json
from tests.kit.handshakes import handshake


@pytest.fixture
def nodes(tmp_path: Path, run: Any, folder: Path) -> dict[str, Path]:
    """ES, and DE, founded elsewhere under an authority and a folder of peers of its own."""
    for name in ("DE", "FR"):
        ca = tmp_path / ("ca" if name == "FR" else "other")
        role = "requester" if name == "FR" else "holder"
        args = ("--name", name, "--role", role, "--address", "https://127.0.0.1:8", "--authority", ca)
        assert run("node", "init", "--dir", tmp_path / name.lower(), *args)[0] == 0
    return {"ES": folder, "FR": tmp_path / "fr", "DE": tmp_path / "de"}


def fingerprint(folder: Path) -> str:
    return load_identity(folder).peer.fingerprint


def test_a_peer_is_added_listed_and_removed(run: Any, nodes: dict[str, Path], tmp_path: Path) -> None:
    es, german = nodes["ES"], fingerprint(nodes["DE"])
    status, out, _ = run("node", "peers", "export", "--dir", nodes["DE"], "-o", tmp_path)
    file = tmp_path / "DE.json"
    assert (status, out) == (0, f"{file}: the others add it with `lineup node peers add`\n")
    assert run("node", "peers", "add", "--dir", es, file) == (
        0,
        f"DE is a peer; the node does not run now\nfingerprint {german}: compare it over another channel\n",
        "",
    )
    assert run("node", "peers", "list", "--dir", es) == (
        0,
        f"DE  holder, https://127.0.0.1:8\n    fingerprint {german}\n"
        f"FR  requester, https://127.0.0.1:8\n    fingerprint {fingerprint(nodes['FR'])}\n2 peers\n",
        "",
    )
    listed = as_json(run("node", "peers", "list", "--dir", es, "--json"))
    assert [(peer["name"], peer["pinned"]) for peer in listed["peers"]] == [("DE", None), ("FR", None)]
    assert listed["refused"] == {}
    done = as_json(run("node", "peers", "remove", "--dir", es, "DE", "--json"))
    assert done == {"name": "DE", "fingerprint": german, "running": False, "refused": []}
    assert set(load_peers(load_config(es))) == {"ES", "FR"}
    peers = load_config(es).paths.peers
    assert run("node", "peers", "remove", "--dir", es, "DE")[2] == (
        f"error: {peers / 'DE.json'} does not exist: DE is not a peer of ES\n"
    )
    assert "is this node itself" in run("node", "peers", "remove", "--dir", es, "ES")[2]


def test_a_wrong_fingerprint_another_key_and_a_bad_file_are_refused_by_name(
    run: Any, nodes: dict[str, Path], tmp_path: Path
) -> None:
    es = nodes["ES"]
    peers = load_config(es).paths.peers
    run("node", "peers", "export", "--dir", nodes["DE"], "-o", tmp_path)
    file, german = tmp_path / "DE.json", fingerprint(nodes["DE"])
    assert run("node", "peers", "add", "--dir", es, file, "--fingerprint", "0" * 64)[2] == (
        f"error: {file}: its key has fingerprint {german}, and you were told {'0' * 64}\n"
    )
    assert not (peers / "DE.json").exists()
    assert "as you were told" in run("node", "peers", "add", "--dir", es, file, "--fingerprint", german.upper())[1]
    key = SigningKey.generate()
    forged = Peer("DE", Peer.read(file).role, "https://127.0.0.1:8", key.verify_key, Peer.read(file).sealing_key)
    file.write_bytes(forged.publish(key))
    assert run("node", "peers", "add", "--dir", es, file)[2] == (
        f"error: {peers / 'DE.json'} holds another key of DE: if you trust this one, remove it first\n"
    )
    file.write_text("{")
    assert run("node", "peers", "add", "--dir", es, file)[2].startswith(f"error: {file}: ")
    (peers / "DE.json").write_text("{")
    status, out, error = run("node", "peers", "list", "--dir", es)
    assert (status, out.splitlines()[-1]) == (1, "1 peer")
    assert error.startswith(f"refused: {peers / 'DE.json'}: ")
    assert str(peers / "DE.json") in as_json(run("node", "peers", "list", "--dir", es, "--json"), 1)["refused"]


def test_a_node_that_pins_its_peers_pins_the_new_one(run: Any, nodes: dict[str, Path], tmp_path: Path) -> None:
    es, french, german = nodes["ES"], fingerprint(nodes["FR"]), fingerprint(nodes["DE"])
    toml = es / "node.toml"
    before = toml.read_text()
    toml.write_text(before.replace("[peer_fingerprints]\n", f'[peer_fingerprints]\nFR = "{french}"  # by telephone\n'))
    run("node", "peers", "export", "--dir", nodes["DE"], "-o", tmp_path)
    add = ("node", "peers", "add", "--dir", es, tmp_path / "DE.json")
    assert run(*add)[2] == (f"error: {toml} lists [peer_fingerprints]: give --fingerprint, as DE's people told you\n")
    assert run(*add, "--fingerprint", german)[0] == 0
    assert load_config(es).peer_fingerprints == {"DE": german, "FR": french}
    assert "# by telephone" in toml.read_text()
    assert set(load_peers(load_config(es))) == {"DE", "ES", "FR"}
    assert run("node", "peers", "remove", "--dir", es, "DE")[0] == 0
    assert load_config(es).peer_fingerprints == {"FR": french}
    assert "pins FR alone" in run("node", "peers", "remove", "--dir", es, "FR")[2]
    toml.write_text(f'peer_fingerprints = {{ FR = "{french}" }}\n' + before.replace("[peer_fingerprints]\n", ""))
    kept = toml.read_text()
    assert f"{toml}: write the fingerprints as lines" in run(*add, "--fingerprint", german)[2]
    assert toml.read_text() == kept


def test_certificates_are_renewed_with_their_keys(run: Any, nodes: dict[str, Path], tmp_path: Path) -> None:
    """Those of a node and of its operator; also when they ran out. Not those of another authority, nor revoked ones."""
    es, ca = nodes["ES"], Authority.open(tmp_path / "ca")
    paths = load_config(es).paths
    old = ca.renew(paths.tls_certificate.read_bytes(), days=1, now=datetime.now(timezone.utc) - timedelta(days=3))
    write_public(paths.tls_certificate, old)  # of the node's key, and run out
    status, _, error = run("node", "serve", "--dir", es)
    assert status == 1
    assert "`lineup node renew` makes a new one" in error
    ends = as_json(run("node", "renew", "--dir", es, "--authority", tmp_path / "ca", "--days", "30", "--json"))
    assert set(ends) == {str(paths.tls_certificate), str(paths.operator_certificate)}
    for path, end in ends.items():
        certificate = x509.load_pem_x509_certificate(Path(path).read_bytes())
        assert certificate.not_valid_after_utc == datetime.fromisoformat(end)
        assert timedelta(days=29) < certificate.not_valid_after_utc - datetime.now(timezone.utc) < timedelta(days=31)
    fr = load_config(nodes["FR"]).tls
    assert handshake(server_context(load_config(es).tls), client_context(fr))[0].name == "FR"
    assert f"{paths.tls_certificate} is valid until " in run("node", "renew", "--dir", es, "--authority", ca.folder)[1]
    other = run("node", "renew", "--dir", es, "--authority", tmp_path / "other")
    assert (other[0], "which is not the authority in" in other[2]) == (1, True)
    run("node", "revoke", "--authority", ca.folder, "ES")
    assert "was revoked and cannot be renewed" in run("node", "renew", "--dir", es, "--authority", ca.folder)[2]
