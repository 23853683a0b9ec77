"""The local authority, and real handshakes over loopback sockets: who is let in, and who is not."""

from __future__ import annotations

import os
import ssl
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding

from nodes.config.schema import ConfigError, TlsFiles
from nodes.identity.authority import Authority, AuthorityError, Issued
from nodes.identity.tls import (
    CertificateError,
    check_certificate,
    client_context,
    peer_name,
    reload_revocations,
    server_context,
    server_name,
)
from nodes.private_files import PermissionsRefused, write_private, write_public
from tests.kit.handshakes import assert_refused, handshake

HOST = "https://127.0.0.1:8443"
LONG_AGO = datetime.now(timezone.utc) - timedelta(days=10)


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority.create(tmp_path_factory.mktemp("authority") / "ca")


@pytest.fixture
def files(authority: Authority, tmp_path: Path) -> Callable[..., TlsFiles]:
    """Write an issued certificate to disk; give the files for a context."""

    def write(issued: Issued, issuer: Authority = authority, crl: bool = True) -> TlsFiles:
        stem = tmp_path / os.urandom(4).hex()
        stem.mkdir()
        write_private(stem / "tls.key", issued.key)
        write_public(stem / "tls.pem", issued.certificate)
        return TlsFiles(stem / "tls.key", stem / "tls.pem", issuer.ca_file, issuer.crl_file if crl else None)

    return write


@pytest.fixture
def es(authority: Authority, files: Callable[..., TlsFiles]) -> TlsFiles:
    return files(authority.issue("ES", HOST))


@pytest.fixture
def fr(authority: Authority, files: Callable[..., TlsFiles]) -> TlsFiles:
    return files(authority.issue("FR", HOST))


def test_two_nodes_of_one_authority_learn_each_others_names(es: TlsFiles, fr: TlsFiles) -> None:
    server, client = handshake(server_context(es), client_context(fr))
    assert (server.name, client.name, server.error, client.error) == ("FR", "ES", None, None)


@pytest.mark.parametrize("host", ["127.0.0.1", "es.node.lineup.internal"])
def test_a_node_is_reached_by_its_address_and_by_its_name(es: TlsFiles, fr: TlsFiles, host: str) -> None:
    assert handshake(server_context(es), client_context(fr), host)[1].name == "ES"


@pytest.mark.parametrize(
    ("address", "host"),
    [("https://es.example:1", "es.example"), ("https://[::1]:1", "::1"), ("https://LOCALHOST:1", "localhost")],
)
def test_every_kind_of_address_becomes_an_alternative_name(
    authority: Authority, files: Callable[..., TlsFiles], fr: TlsFiles, address: str, host: str
) -> None:
    es = files(authority.issue("ES", address))
    assert handshake(server_context(es), client_context(fr), host)[0].name == "FR"


def test_an_operator_connects_under_its_own_name(
    authority: Authority, files: Callable[..., TlsFiles], es: TlsFiles
) -> None:
    operator = files(authority.issue_operator("ES"))
    assert handshake(server_context(es), client_context(operator))[0].name == "ES-OPERATOR"


def test_an_operators_certificate_cannot_serve(
    authority: Authority, files: Callable[..., TlsFiles], fr: TlsFiles
) -> None:
    operator = files(authority.issue_operator("ES"))
    context = client_context(fr)
    context.check_hostname = False  # so that only the purpose of the certificate can be the reason
    assert_refused(handshake(server_context(operator), context), "client", "certificate purpose")


def test_a_client_without_a_certificate_is_refused(es: TlsFiles) -> None:
    bare = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    bare.load_verify_locations(cafile=es.ca)
    assert_refused(handshake(server_context(es), bare), "server", "did not return a certificate")


@pytest.mark.parametrize("by", ["server", "client"])
def test_a_certificate_of_another_authority_is_refused(
    by: str, files: Callable[..., TlsFiles], es: TlsFiles, fr: TlsFiles, tmp_path: Path
) -> None:
    # both authorities have the same name: the key must decide
    foreign = Authority.create(tmp_path / "foreign")
    issued = files(foreign.issue("FR" if by == "server" else "ES", HOST), foreign)
    stranger = TlsFiles(issued.key, issued.certificate, es.ca, es.crl)
    server, client = (es, stranger) if by == "server" else (stranger, fr)
    assert_refused(handshake(server_context(server), client_context(client)), by, "certificate verify failed")


def test_the_systems_authorities_are_not_trusted(es: TlsFiles) -> None:
    for context in (server_context(es), client_context(es)):
        assert [x509.load_der_x509_certificate(der) for der in context.get_ca_certs(binary_form=True)] == [
            x509.load_pem_x509_certificate(es.ca.read_bytes())
        ]


@pytest.mark.parametrize("by", ["server", "client"])
def test_an_expired_certificate_is_refused(
    by: str, authority: Authority, files: Callable[..., TlsFiles], es: TlsFiles, fr: TlsFiles
) -> None:
    old = files(authority.issue("FR" if by == "server" else "ES", HOST, days=1, now=LONG_AGO))
    server, client = (es, old) if by == "server" else (old, fr)
    assert_refused(handshake(server_context(server), client_context(client)), by, "certificate has expired")


@pytest.mark.parametrize("by", ["server", "client"])
def test_a_revoked_certificate_is_refused(by: str, files: Callable[..., TlsFiles], tmp_path: Path) -> None:
    issuer = Authority.create(tmp_path / "ca")
    server = files(issuer.issue("ES", HOST), issuer)
    client = files(issuer.issue("FR", HOST), issuer)
    assert handshake(server_context(server), client_context(client))[0].name == "FR"  # control
    issuer.revoke("FR" if by == "server" else "ES")
    assert_refused(handshake(server_context(server), client_context(client)), by, "certificate revoked")
    unchecked = TlsFiles(server.key, server.certificate, server.ca), TlsFiles(client.key, client.certificate, client.ca)
    assert handshake(server_context(unchecked[0]), client_context(unchecked[1]))[0].name == "FR"  # without the list


def test_a_running_server_learns_of_a_revocation_made_in_the_same_second(
    files: Callable[..., TlsFiles], tmp_path: Path
) -> None:
    issuer = Authority.create(tmp_path / "ca")
    es = files(issuer.issue("ES", HOST), issuer)
    fr, de = (files(issuer.issue(name, HOST), issuer) for name in ("FR", "DE"))
    server = server_context(es)
    for name, revoked in (("FR", fr), ("DE", de)):
        client = client_context(revoked)
        assert handshake(server, client)[0].name == name
        issuer.revoke(name)
        reload_revocations(server, es)
        assert_refused(handshake(server, client), "server", "certificate revoked")


def test_a_session_is_not_resumed_past_the_revocation_list(es: TlsFiles, fr: TlsFiles) -> None:
    assert server_context(es).num_tickets == 0


def test_another_node_on_the_same_host_is_refused(
    authority: Authority, files: Callable[..., TlsFiles], fr: TlsFiles
) -> None:
    german = server_context(files(authority.issue("DE", HOST)))
    assert (
        handshake(german, client_context(fr), "127.0.0.1")[1].name == "DE"
    )  # control: the host name alone lets it pass
    assert_refused(handshake(german, client_context(fr), server_name("ES")), "client", "hostname mismatch")


def test_tls_1_2_is_refused(es: TlsFiles, fr: TlsFiles) -> None:
    old = client_context(fr)
    old.minimum_version = old.maximum_version = ssl.TLSVersion.TLSv1_2
    server, client = handshake(server_context(es), old)
    assert isinstance(server.error, ssl.SSLError)
    assert "unsupported protocol" in str(server.error).lower()
    assert client.error is not None


def test_peer_name_wants_exactly_one_common_name() -> None:
    for certificate in (None, {}, {"subject": ()}, {"subject": ((("commonName", "ES"),), (("commonName", "FR"),))}):
        with pytest.raises(CertificateError, match=r"one common name, got [02]"):
            peer_name(certificate)


def test_certificate_files_are_checked_for_name_and_time(authority: Authority, tmp_path: Path) -> None:
    path = tmp_path / "tls.pem"
    write_public(path, authority.issue("ES", HOST, days=1).certificate)
    check_certificate(path, "ES")
    with pytest.raises(CertificateError, match="is for 'ES', expected 'FR'"):
        check_certificate(path, "FR")
    with pytest.raises(CertificateError, match="is valid from"):
        check_certificate(path, "ES", datetime.now(timezone.utc) + timedelta(days=2))
    with pytest.raises(CertificateError, match=r"absent\.pem cannot be used"):
        check_certificate(tmp_path / "absent.pem", "ES")


def test_bad_files_are_named_when_a_context_is_made(
    es: TlsFiles, fr: TlsFiles, authority: Authority, tmp_path: Path
) -> None:
    def context(**change: Path) -> None:
        server_context(replace(es, **change))

    junk = tmp_path / "junk.pem"
    junk.write_text("not PEM")
    for part in ("certificate", "ca", "crl"):
        with pytest.raises(CertificateError, match=r"junk\.pem"):
            context(**{part: junk})
    with pytest.raises(CertificateError, match=r"(?i)key.values.mismatch"):
        context(key=fr.key)
    with pytest.raises(CertificateError, match=r"absent\.key"):
        context(key=tmp_path / "absent.key")
    mixed = tmp_path / "mixed.pem"
    mixed.write_bytes(authority.crl_file.read_bytes() + authority.ca_file.read_bytes())
    with pytest.raises(CertificateError, match="holds a certificate"):
        context(crl=mixed)
    es.key.chmod(0o640)
    with pytest.raises(PermissionsRefused, match="mode 0640, it must be 0600"):
        context()


def test_a_revocation_list_that_has_run_out_is_refused_at_start(files: Callable[..., TlsFiles], tmp_path: Path) -> None:
    issuer = Authority.create(tmp_path / "ca")
    es = files(issuer.issue("ES", HOST), issuer)
    issuer.crl_file.unlink()
    builder = x509.CertificateRevocationListBuilder(issuer.certificate.subject, LONG_AGO, LONG_AGO + timedelta(days=1))
    issuer.crl_file.write_bytes(builder.sign(issuer._key, SHA256()).public_bytes(Encoding.PEM))
    with pytest.raises(CertificateError, match="has run out"):
        server_context(es)


def test_revocations_are_kept_and_counted_once(tmp_path: Path) -> None:
    issuer = Authority.create(tmp_path / "ca")
    first = {issuer.issue("ES", HOST), issuer.issue("ES", HOST)}
    issuer.issue_operator("ES")
    issuer.issue("FR", HOST)
    assert len(issuer.revoke("ES")) == len(first)
    assert issuer.revoke("ES") == ()
    (french,) = Authority.open(issuer.folder).revoke("FR")
    crl = x509.load_pem_x509_crl(issuer.crl_file.read_bytes())
    assert len(crl) == 3
    assert crl.get_revoked_certificate_by_serial_number(french) is not None
    assert crl.is_signature_valid(issuer._key.public_key())
    assert crl.extensions.get_extension_for_class(x509.CRLNumber).value.crl_number == 4
    with pytest.raises(AuthorityError, match="no certificate was ever issued to 'DE'"):
        issuer.revoke("DE")


def test_the_authoritys_key_is_private(authority: Authority, tmp_path: Path) -> None:
    assert (authority.folder / "ca.key").stat().st_mode & 0o777 == 0o600
    issuer = Authority.create(tmp_path / "ca")
    (issuer.folder / "ca.key").chmod(0o644)
    with pytest.raises(PermissionsRefused, match=r"ca\.key has mode 0644, it must be 0600"):
        Authority.open(issuer.folder)


def test_an_authority_is_opened_or_created_never_overwritten(tmp_path: Path) -> None:
    issuer = Authority.open_or_create(tmp_path / "ca")
    assert Authority.open_or_create(tmp_path / "ca").certificate == issuer.certificate
    with pytest.raises(AuthorityError, match="exists already"):
        Authority.create(tmp_path / "ca")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "something").touch()
    with pytest.raises(AuthorityError, match="is not an authority"):
        Authority.open_or_create(tmp_path / "other")
    write_public(issuer.ca_file, Authority.create(tmp_path / "third").ca_file.read_bytes())
    with pytest.raises(AuthorityError, match="is not the key of"):
        Authority.open(tmp_path / "ca")
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]


def test_certificates_are_issued_only_to_names_and_addresses_that_can_be(authority: Authority) -> None:
    for name in ("es", "", "ES-OPERATOR", "A" * 17, "ES\n"):
        with pytest.raises(ConfigError, match="name = "):
            authority.issue(name, HOST)
    with pytest.raises(ConfigError, match="address = "):
        authority.issue("ES", "http://es:1")
    for days in (0, 826):
        with pytest.raises(AuthorityError, match=f"1 to 825 days, got {days}"):
            authority.issue("ES", HOST, days=days)
    assert b"PRIVATE" not in repr(authority.issue("ES", HOST)).encode()
