"""Mutual TLS between nodes: version 1.3, one pinned authority, revocation lists, and who the other side is.

A node's certificate has the node's name as its only common name, and two kinds of alternative names: the host of its
address, and `server_name(name)`. A client passes the latter as the server's name (httpx: the request extension
`sni_hostname`), so that the handshake itself ends with the node that was meant, before a byte of the request is sent:
several nodes may share a host, and a host name alone would accept any of them. The server learns the client from
`peer_name`. Extended key usage keeps an operator's certificate from serving.

Sessions are not resumed: a resumed one would not look at the revocation list again.

`CertificateError` (a pets.errors.InputError): files that cannot be used, or a certificate without one name.
"""

from __future__ import annotations

import ssl
from collections.abc import Mapping
from datetime import datetime, timedelta, timezone
from pathlib import Path

from cryptography import x509
from cryptography.x509.oid import NameOID

from nodes.config.schema import NodeConfig, TlsFiles
from nodes.private_files import check_private
from pets.errors import InputError

WARN_AHEAD = timedelta(days=7)


class CertificateError(InputError):
    """A certificate, key or revocation list that cannot be used."""


def server_context(files: TlsFiles) -> ssl.SSLContext:
    """For listening: TLS 1.3 or later, the client must show a certificate. Raises `CertificateError`."""
    context = _context(ssl.PROTOCOL_TLS_SERVER, files)
    context.verify_mode = ssl.CERT_REQUIRED
    context.num_tickets = 0
    return context


def client_context(files: TlsFiles) -> ssl.SSLContext:
    """For connecting: TLS 1.3 or later, the server's name is checked. Raises `CertificateError`."""
    return _context(ssl.PROTOCOL_TLS_CLIENT, files)


def reload_revocations(context: ssl.SSLContext, files: TlsFiles) -> None:
    """Read the revocation list again; the newest one counts in every later handshake of `context`.

    Connections that stand already are not cut. Raises `CertificateError`.
    """
    if files.crl is None:
        return
    _check_crl(files.crl)
    try:
        context.load_verify_locations(cafile=files.crl)
    except (OSError, ssl.SSLError) as error:
        raise CertificateError(f"revocation list {files.crl} cannot be used: {error}") from error


def reload_certificate(context: ssl.SSLContext, files: TlsFiles, name: str) -> None:
    """Present the certificate as it is on disk now, in every later handshake of `context`.

    Raises `CertificateError` unless it is valid, `name`'s, and of the key in its file; then the old one stays.
    """
    check_certificate(files.certificate, name)
    try:
        context.load_cert_chain(files.certificate, files.key)
    except (OSError, ssl.SSLError) as error:
        raise CertificateError(f"certificate {files.certificate} with key {files.key}: {error}") from error


def server_name(name: str) -> str:
    """The host name that stands for a node whatever its address: ES -> es.node.lineup.internal."""
    return f"{name.lower()}.node.lineup.internal"


def peer_name(certificate: Mapping[str, object] | None) -> str:
    """The node or operator that a verified certificate, as `getpeercert()` gives it, stands for.

    Raises `CertificateError` without a certificate, and unless it has exactly one common name.
    """
    subject = (certificate or {}).get("subject", ())
    assert isinstance(subject, tuple)
    return _one_name([value for part in subject for kind, value in part if kind == "commonName"], "the other side")


def check_certificate(path: Path, name: str, now: datetime | None = None) -> None:
    """Raise `CertificateError` unless a certificate file is valid today and its common name is `name`."""
    certificate = _certificate(path)
    found = certified_name(path)
    if found != name:
        raise CertificateError(f"certificate {path} is for {found!r}, expected {name!r}")
    start, end = certificate.not_valid_before_utc, certificate.not_valid_after_utc
    if not start <= (now or datetime.now(timezone.utc)) <= end:
        raise CertificateError(
            f"certificate {path} is valid from {start:%Y-%m-%d %H:%M} to {end:%Y-%m-%d %H:%M} UTC; "
            "`lineup node renew` makes a new one"
        )


def certified_name(path: Path) -> str:
    """The one common name in a certificate file. Raises `CertificateError`."""
    common = _certificate(path).subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    return _one_name([str(part.value) for part in common], str(path))


def _certificate(path: Path) -> x509.Certificate:
    try:
        return x509.load_pem_x509_certificate(path.read_bytes())
    except (OSError, ValueError) as error:
        raise CertificateError(f"certificate {path} cannot be used: {error}") from error


def running_out(config: NodeConfig, now: datetime) -> list[str]:
    """What of a node's certificates, authority and revocation list ends within `WARN_AHEAD`, a line each; what to do.

    A file that cannot be read is passed over: other checks tell of it.
    """
    files = config.tls
    renew = f"`lineup node renew --dir DIR --authority FOLDER` renews both certificates of {config.name}"
    ends = [
        (f"certificate {files.certificate}", _end(files.certificate), renew),
        (f"operator's certificate {config.paths.operator_certificate}", _end(config.paths.operator_certificate), renew),
        (f"authority {files.ca}", _end(files.ca), "found a new one: all nodes need certificates of it"),
    ]
    if files.crl is not None:
        sign = "`lineup node revoke --authority FOLDER`, without a name, signs a fresh one for 30 days"
        ends.append((f"revocation list {files.crl}", _end(files.crl), sign))
    return [
        f"{what} {'ends' if end > now else 'ended'} on {end:%Y-%m-%d %H:%M} UTC: {remedy}"
        for what, end, remedy in ends
        if end is not None and end - now <= WARN_AHEAD
    ]


def _end(path: Path) -> datetime | None:
    try:
        content = path.read_bytes()
        if b"X509 CRL" in content:
            return x509.load_pem_x509_crl(content).next_update_utc
        return x509.load_pem_x509_certificate(content).not_valid_after_utc
    except (OSError, ValueError):
        return None


def _context(protocol: ssl._SSLMethod, files: TlsFiles) -> ssl.SSLContext:
    context = ssl.SSLContext(protocol)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.verify_flags |= ssl.VerifyFlags.VERIFY_X509_STRICT
    try:
        check_private(files.key)
        context.load_verify_locations(cafile=files.ca)
    except (OSError, ssl.SSLError) as error:
        raise CertificateError(f"TLS key {files.key} or authority {files.ca} cannot be used: {error}") from error
    try:
        context.load_cert_chain(files.certificate, files.key)
    except (OSError, ssl.SSLError) as error:
        raise CertificateError(f"certificate {files.certificate} with key {files.key}: {error}") from error
    if files.crl is not None:
        reload_revocations(context, files)
        context.verify_flags |= ssl.VerifyFlags.VERIFY_CRL_CHECK_LEAF
    return context


def _check_crl(path: Path) -> None:
    try:
        content = path.read_bytes()
        crl = x509.load_pem_x509_crl(content)
    except (OSError, ValueError) as error:
        raise CertificateError(f"revocation list {path} cannot be used: {error}") from error
    if b"CERTIFICATE-----" in content:  # OpenSSL would trust it as an authority
        raise CertificateError(f"revocation list {path} holds a certificate")
    end = crl.next_update_utc
    if end is None or end <= datetime.now(timezone.utc):
        raise CertificateError(f"revocation list {path} has run out ({end}): every connection would be refused")


def _one_name(names: list[str], where: str) -> str:
    if len(names) != 1:
        raise CertificateError(f"{where}: a certificate must have one common name, got {len(names)}")
    return names[0]
