"""New certificates for the keys that a node has: one file is put in place of another, and nothing else changes."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path

from cryptography import x509

from nodes.config.schema import load_config, operator_name
from nodes.identity.authority import Authority, AuthorityError
from nodes.identity.identity import IdentityError
from nodes.identity.tls import CertificateError, certified_name
from nodes.private_files import write_public


def renew_certificates(folder: Path, authority: Path, days: int) -> dict[Path, datetime]:
    """Renew the certificates of a node and of its operator, run out or not; gives until when each is valid.

    Raises `AuthorityError` where the authority did not issue one or revoked it, `CertificateError` for a file that is
    no certificate of this node, `IdentityError` if one cannot be written; the others may be renewed then.
    """
    config, issuer = load_config(folder), Authority.open(authority)
    if config.paths.tls_ca.read_bytes() != issuer.ca_file.read_bytes():
        raise AuthorityError(f"{config.name} trusts {config.paths.tls_ca}, which is not the authority in {authority}")
    names = {config.paths.tls_certificate: config.name}
    if config.paths.operator_certificate.exists():
        names[config.paths.operator_certificate] = operator_name(config.name)
    fresh = {}
    for path, name in names.items():
        if (found := certified_name(path)) != name:
            raise CertificateError(f"certificate {path} is for {found!r}, expected {name!r}")
        fresh[path] = issuer.renew(path.read_bytes(), days=days)
    ends = {}
    for path, content in fresh.items():
        try:
            write_public(path, content)
        except OSError as error:
            raise IdentityError(f"{path} cannot be written: {error.strerror}") from error
        ends[path] = x509.load_pem_x509_certificate(content).not_valid_after_utc
    return ends
