"""A small certificate authority for the demo and for tests. In production certificates come from files.

::

    FOLDER/ca.key        its key, mode 0600
    FOLDER/ca.pem        its certificate, P-256
    FOLDER/crl.pem       revocation list, signed, valid for 30 days from the last change
    FOLDER/issued/       every certificate it issued, by serial number
    FOLDER/peers/        public identities of the nodes (`nodes.identity.identity`)

`AuthorityError` (a pets.errors.InputError): a folder that is no authority, or a request it does not grant.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import ipaddress
import os
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta, timezone
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.types import CertificatePublicKeyTypes
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from nodes.config.schema import check_name, operator_name, split_address
from nodes.identity.tls import server_name
from nodes.private_files import read_private, write_private, write_public
from pets.errors import InputError

CA_DAYS = 3650
NODE_DAYS = 365
CRL_DAYS = 30
MAX_DAYS = 825

_CLOCK_SLACK = timedelta(minutes=5)  # so that a certificate is valid at once on a machine whose clock is behind
_SERVER, _CLIENT = ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH


class AuthorityError(InputError):
    """Not an authority, or something it does not do."""


@dataclass(frozen=True)
class Issued:
    """A new key and its certificate, both PEM."""

    key: bytes = field(repr=False)
    certificate: bytes


@dataclass(frozen=True)
class Authority:
    """An authority in a folder; see the module. Times are UTC; `now` defaults to the present."""

    folder: Path
    certificate: x509.Certificate
    _key: ec.EllipticCurvePrivateKey = field(repr=False)

    @property
    def ca_file(self) -> Path:
        """Its certificate, for everybody to pin."""
        return self.folder / "ca.pem"

    @property
    def crl_file(self) -> Path:
        """Its revocation list."""
        return self.folder / "crl.pem"

    @property
    def peers_folder(self) -> Path:
        """Where nodes publish who they are."""
        return self.folder / "peers"

    @classmethod
    def create(cls, folder: Path) -> Authority:
        """A new authority. Raises `AuthorityError` if the folder holds anything."""
        folder = folder.absolute()
        try:
            folder.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(prefix=f".{folder.name}-", dir=folder.parent) as temporary:
                fresh = Path(temporary) / "authority"
                fresh.mkdir()
                _fill(fresh)
                fresh.rename(folder)  # fails on a folder that is not empty
        except OSError as error:
            if error.errno in (errno.ENOTEMPTY, errno.EEXIST):
                raise AuthorityError(f"{folder} exists already and is not empty") from None
            raise AuthorityError(f"{folder} cannot be created: {error.strerror}") from error
        return cls.open(folder)

    @classmethod
    def open(cls, folder: Path) -> Authority:
        """The authority in a folder. Raises `AuthorityError`, `PermissionsRefused`."""
        folder = folder.absolute()
        key_file = folder / "ca.key"
        try:
            certificate = x509.load_pem_x509_certificate((folder / "ca.pem").read_bytes())
            key = load_pem_private_key(read_private(key_file), password=None)
        except (OSError, ValueError) as error:
            raise AuthorityError(f"{folder} is not an authority: {error}") from error
        if not isinstance(key, ec.EllipticCurvePrivateKey) or key.public_key() != certificate.public_key():
            raise AuthorityError(f"{key_file} is not the key of {folder / 'ca.pem'}")
        return cls(folder, certificate, key)

    @classmethod
    def open_or_create(cls, folder: Path) -> Authority:
        """The authority in a folder, created first if there is none."""
        if not (folder / "ca.pem").exists():
            with contextlib.suppress(AuthorityError):  # somebody else was faster, or `open` tells what is wrong
                return cls.create(folder)
        return cls.open(folder)

    def issue(self, name: str, address: str, *, days: int = NODE_DAYS, now: datetime | None = None) -> Issued:
        """A certificate for a node at https://host:port, to serve and to connect; `days`: 1 to 825 from `now` on.

        Raises `ConfigError` for a name or address that cannot be one, `AuthorityError`.
        """
        host, _ = split_address(address)
        alternatives = [_alternative(host), x509.DNSName(server_name(check_name(name)))]
        return self._issue(name, alternatives, (_SERVER, _CLIENT), days, now)

    def issue_operator(self, name: str, *, days: int = NODE_DAYS, now: datetime | None = None) -> Issued:
        """A certificate by which the operator of node `name` talks to it; it cannot serve. Raises as `issue`."""
        return self._issue(operator_name(check_name(name)), [], (_CLIENT,), days, now)

    def renew(self, old: bytes, *, days: int = NODE_DAYS, now: datetime | None = None) -> bytes:
        """A new certificate, PEM, for the name, key and uses of one that this authority issued, run out or not.

        Raises `AuthorityError` for one of another authority, and for one that was revoked.
        """
        try:
            known = x509.load_pem_x509_certificate(old)
            known.verify_directly_issued_by(self.certificate)
        except (ValueError, TypeError, InvalidSignature):
            raise AuthorityError(f"not a certificate of the authority in {self.folder}") from None
        revoked = x509.load_pem_x509_crl(self.crl_file.read_bytes())
        if revoked.get_revoked_certificate_by_serial_number(known.serial_number) is not None:
            raise AuthorityError(f"certificate {known.serial_number:x} was revoked and cannot be renewed")
        (name,) = known.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
        try:
            alternatives = list(known.extensions.get_extension_for_class(x509.SubjectAlternativeName).value)
        except x509.ExtensionNotFound:
            alternatives = []
        usages = list(known.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value)
        return self._certify(str(name.value), known.public_key(), alternatives, usages, days, now)

    def revoke(self, *names: str, now: datetime | None = None) -> tuple[int, ...]:
        """Revoke every certificate issued to these nodes (or `operator_name(node)`), and sign a new revocation list.

        Returns the serial numbers newly revoked. Raises `AuthorityError` if there was never one of these names.
        """
        issued = [x509.load_pem_x509_certificate(path.read_bytes()) for path in (self.folder / "issued").glob("*.pem")]
        wanted = [x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]) for name in names]
        serials = {certificate.serial_number for certificate in issued if certificate.subject in wanted}
        if not serials:
            raise AuthorityError(f"no certificate was ever issued to {names[0]!r}")
        return self.refresh(serials, now=now)

    def refresh(self, serials: set[int] | None = None, *, now: datetime | None = None) -> tuple[int, ...]:
        """Sign a new revocation list, valid for 30 days, with `serials` added. Returns those that were not in it."""
        with _locked(self.folder):
            old = x509.load_pem_x509_crl(self.crl_file.read_bytes())
            added = tuple(sorted((serials or set()) - {entry.serial_number for entry in old}))
            write_public(self.crl_file, _crl(self.certificate, self._key, old, added, now or _now()))
        return added

    def _issue(
        self,
        common_name: str,
        alternatives: Sequence[x509.GeneralName],
        usages: Sequence[x509.ObjectIdentifier],
        days: int,
        now: datetime | None,
    ) -> Issued:
        key = ec.generate_private_key(ec.SECP256R1())
        certificate = self._certify(common_name, key.public_key(), alternatives, usages, days, now)
        return Issued(_key_pem(key), certificate)

    def _certify(
        self,
        common_name: str,
        key: CertificatePublicKeyTypes,
        alternatives: Sequence[x509.GeneralName],
        usages: Sequence[x509.ObjectIdentifier],
        days: int,
        now: datetime | None,
    ) -> bytes:
        if not 1 <= days <= MAX_DAYS:
            raise AuthorityError(f"a certificate is valid for 1 to {MAX_DAYS} days, got {days}")
        start = now or _now()
        builder = (
            _builder(common_name, key, start, days)
            .issuer_name(self.certificate.subject)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_usage(digital_signature=True), critical=True)
            .add_extension(x509.ExtendedKeyUsage(usages), critical=False)
            .add_extension(_authority_identifier(self.certificate), critical=False)
        )
        if alternatives:
            builder = builder.add_extension(x509.SubjectAlternativeName(alternatives), critical=False)
        certificate = builder.sign(self._key, SHA256())
        content = certificate.public_bytes(Encoding.PEM)
        write_public(self.folder / "issued" / f"{certificate.serial_number:040x}.pem", content, overwrite=False)
        return content


def _fill(folder: Path) -> None:
    """Key, certificate, an empty revocation list, and the folders of a new authority."""
    for name in ("issued", "peers"):
        (folder / name).mkdir()
    key, now = ec.generate_private_key(ec.SECP256R1()), _now()
    builder = _builder("Blind Lineup demo authority", key.public_key(), now, CA_DAYS)
    certificate = (
        builder.issuer_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "Blind Lineup demo authority")]))
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(key_cert_sign=True, crl_sign=True), critical=True)
        .sign(key, SHA256())
    )
    write_private(folder / "ca.key", _key_pem(key))
    write_public(folder / "ca.pem", certificate.public_bytes(Encoding.PEM))
    write_public(folder / "crl.pem", _crl(certificate, key, None, (), now))


def _crl(
    certificate: x509.Certificate,
    key: ec.EllipticCurvePrivateKey,
    old: x509.CertificateRevocationList | None,
    added: Sequence[int],
    now: datetime,
) -> bytes:
    # OpenSSL prefers the list with the later time, in whole seconds: two changes within one second must differ too.
    number, time = 1, now - _CLOCK_SLACK
    if old is not None:
        number = old.extensions.get_extension_for_class(x509.CRLNumber).value.crl_number + 1
        time = max(time, old.last_update_utc + timedelta(seconds=1))
    builder = (
        x509.CertificateRevocationListBuilder(issuer_name=certificate.subject)
        .last_update(time)
        .next_update(now + timedelta(days=CRL_DAYS))
        .add_extension(x509.CRLNumber(number), critical=False)
        .add_extension(_authority_identifier(certificate), critical=False)
    )
    for entry in old or ():
        builder = builder.add_revoked_certificate(entry)
    for serial in added:
        builder = builder.add_revoked_certificate(
            x509.RevokedCertificateBuilder().serial_number(serial).revocation_date(now).build()
        )
    return builder.sign(key, SHA256()).public_bytes(Encoding.PEM)


def _builder(common_name: str, key: CertificatePublicKeyTypes, now: datetime, days: int) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)]))
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _CLOCK_SLACK)
        .not_valid_after(now + timedelta(days=days))
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
    )


def _usage(*, digital_signature: bool = False, key_cert_sign: bool = False, crl_sign: bool = False) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=digital_signature,
        key_cert_sign=key_cert_sign,
        crl_sign=crl_sign,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _authority_identifier(certificate: x509.Certificate) -> x509.AuthorityKeyIdentifier:
    subject = certificate.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
    return x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(subject)


def _alternative(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)


def _key_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def _now() -> datetime:
    return datetime.now(timezone.utc)


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)
