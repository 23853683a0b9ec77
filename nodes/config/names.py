"""Names and addresses of nodes, the roles that go with the names, and the purposes that a query names."""

from __future__ import annotations

import ipaddress
import re
from enum import Enum
from urllib.parse import urlsplit

from nodes.config.values import ConfigError
from protocol.roles import Role as Role

NAME_PATTERN = "[A-Z0-9-]{1,16}"
_OPERATOR = "-OPERATOR"

FOLLOW_UP = "follow-up"  # in a node's folder: what its evidence holds of the follow-up (`nodes.evidence.followed_up`)


class Purpose(str, Enum):
    """Why a query may be asked (Article 20(1)); the last two only with national law (Article 29)."""

    PREVENTION = "PREVENTION"
    DETECTION = "DETECTION"
    INVESTIGATION = "INVESTIGATION"
    MISSING_PERSON = "MISSING-PERSON"
    REMAINS = "REMAINS"


def check_name(name: str, field: str = "name") -> str:
    """Return the name of a node, or raise `ConfigError`."""
    if not re.fullmatch(NAME_PATTERN, name):
        raise ConfigError(field, name, "must be 1 to 16 capital letters, digits and hyphens, such as ES")
    if name.endswith(_OPERATOR):
        raise ConfigError(field, name, f"must not end in {_OPERATOR}, which marks the certificates of operators")
    return name


def check_node(name: str, role: Role) -> None:
    """Raise `ConfigError` unless `name` suits `role`: warrants and quotas take a state's code from it."""
    check_name(name)
    if role is Role.REQUESTER and not re.fullmatch("[A-Z]{2}", name):
        raise ConfigError("name", name, "a requester's name must be its state's code of two letters, such as FR")
    if role is Role.HOLDER and not re.fullmatch("[A-Z]{2}(-.+)?", name):
        raise ConfigError("name", name, "a holder's name must begin with its state's code, such as ES or ES-2")


def operator_name(name: str) -> str:
    """The common name in the certificate of a node's operator."""
    return name + _OPERATOR


def split_address(address: str) -> tuple[str, int]:
    """Host and port of https://host:port. Raises `ConfigError`."""
    limit = "must be https://host:port with a port from 1 to 65535 and nothing else, such as https://es.example:8443"
    try:
        parts = urlsplit(address)
        host, port = parts.hostname or "", parts.port
    except ValueError:
        raise ConfigError("address", address, limit) from None
    shown = f"[{host}]" if ":" in host else host
    if not port or not _is_host(host) or address.lower() != f"https://{shown}:{port}":
        raise ConfigError("address", address, limit)
    return host, port


def _is_host(host: str) -> bool:
    if re.fullmatch(r"(?=.{1,253}$)[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?(\.[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?)*", host):
        return True
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return "%" not in host  # a zone means something on one machine only
