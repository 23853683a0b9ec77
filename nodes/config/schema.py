"""The configuration of a node, `node.toml`: typed, closed, checked at start.

Units stand in the names of the keys. Relative paths start at the node's folder. A key that is not known is refused, as
is a value outside its limits, with file, line, field, value and limit. A policy may be stricter than its defaults; what
is looser than the floors in `nodes.config.policy` is refused. Names and addresses: `nodes.config.names`.

`ConfigError` (a pets.errors.InputError).
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from decimal import Decimal
from enum import Enum
from pathlib import Path
from typing import Any, get_args, get_type_hints

import msgspec

from nodes.config.casework import CaseworkConfig
from nodes.config.cluster import ClusterConfig
from nodes.config.console import ConsoleConfig
from nodes.config.names import NAME_PATTERN, Purpose, Role, check_name, check_node, operator_name, split_address
from nodes.config.policy import (
    LAW_MINIMUM_THRESHOLD,
    MAX_CANDIDATES,
    MAX_RELEASES,
    MAX_RUNGS,
    MAX_SKEW_SECONDS,
    MAX_WARRANT_SECONDS,
    MAX_WINDOW_DAYS,
    NATIONAL_LAW_PURPOSES,
    NationalLaw,
    PolicyConfig,
)
from nodes.config.preparations import Preparations
from nodes.config.values import ConfigError, Section, within
from pets.errors import InputError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

__all__ = [
    "FILE", "LAW_MINIMUM_THRESHOLD", "MAX_CANDIDATES", "MAX_RELEASES", "MAX_RUNGS", "MAX_SEALED_DAYS",
    "MAX_SKEW_SECONDS", "MAX_WARRANT_SECONDS", "MAX_WINDOW_DAYS", "NAME_PATTERN", "NATIONAL_LAW_PURPOSES",
    "ConfigError", "Limits", "Listen", "NationalLaw", "NodeConfig", "Paths", "PolicyConfig", "Preparations",
    "Purpose", "Retention", "Role", "Storage", "TlsFiles", "check_name", "check_node", "load_config", "operator_name",
    "split_address",
]  # fmt: skip

FILE = "node.toml"
MAX_SEALED_DAYS = 1095


class Listen(Section, frozen=True):
    """Where the service listens, which may differ from the address others use."""

    host: str
    port: int

    def __post_init__(self) -> None:
        within("listen.port", self.port, 1, 65535)


@dataclass(frozen=True)
class TlsFiles:
    """PEM files of one side. `ca`: the only authority trusted. `crl`: its revocation list, None to check none."""

    key: Path
    certificate: Path
    ca: Path
    crl: Path | None = None


class Paths(Section, frozen=True):
    """Files and folders of the node. `tls_crl`: None checks no revocation list."""

    signing_key: Path
    sealing_key: Path
    tls_key: Path
    tls_certificate: Path
    tls_ca: Path
    operator_key: Path
    operator_certificate: Path
    peers: Path
    logs: Path
    tls_crl: Path | None = None


class Storage(Section, frozen=True):
    """The database: a SQLite `file` or a PostgreSQL `url`; its key: in `key_file` or in the variable `key_env`.

    `rows`: the folder of the templates; FILE.rows beside an SQLite file, else store.rows in the node's folder.
    """

    file: Path | None = None
    url: str | None = None
    rows: Path | None = None
    key_file: Path | None = None
    key_env: str | None = None

    def __post_init__(self) -> None:
        if (self.file is None) == (self.url is None):
            raise ConfigError("storage.file", self.file, "give either storage.file (SQLite) or storage.url")
        if self.file is not None and "?" in str(self.file):  # in SQLite's URLs it ends the name of the file
            raise ConfigError("storage.file", self.file, "must not contain a question mark, nor may its folders")
        if self.url is not None and not re.match(r"postgresql(\+psycopg)?://", self.url):
            raise ConfigError("storage.url", self.url, "must begin with postgresql://; for SQLite use storage.file")
        if self.url is not None and re.search("//[^/@]*:[^/]*@|password=", self.url):
            raise ConfigError("storage.url", self.url, "must not contain a password: use PGPASSFILE or PGPASSWORD")
        if (self.key_file is None) == (self.key_env is None):
            raise ConfigError("storage.key_file", self.key_file, "give either storage.key_file or storage.key_env")
        if self.key_env is not None and not re.fullmatch("[A-Z_][A-Z0-9_]*", self.key_env):
            raise ConfigError("storage.key_env", self.key_env, "must be the name of an environment variable")

    @property
    def database_url(self) -> str:
        """For `nodes.store.GalleryStore`."""
        return self.url or f"sqlite:///{self.file}"


class Limits(Section, frozen=True):
    """What a node spends. `threads`: None takes every processor this process may use."""

    threads: int | None = None
    connect_timeout_seconds: int = 10
    read_timeout_seconds: int = 30
    query_timeout_seconds: int = 300
    shutdown_timeout_seconds: int = 30
    concurrent_queries: int = 8

    def __post_init__(self) -> None:
        if self.threads is not None:
            within("limits.threads", self.threads, 1, 256)
        within("limits.connect_timeout_seconds", self.connect_timeout_seconds, 1, 120)
        within("limits.read_timeout_seconds", self.read_timeout_seconds, 1, 600)
        within("limits.query_timeout_seconds", self.query_timeout_seconds, 10, 3600)
        within("limits.shutdown_timeout_seconds", self.shutdown_timeout_seconds, 1, 600)
        within("limits.concurrent_queries", self.concurrent_queries, 1, 256)


class Retention(Section, frozen=True):
    """How long a node keeps what the law sets no time for. Logs and evidence go after three years (Article 40(3)).

    `sealed_days`: what it sealed for audits on site: a requester the probe, a holder its confirmation block.
    """

    sealed_days: int = 180

    def __post_init__(self) -> None:
        within("retention.sealed_days", self.sealed_days, 1, MAX_SEALED_DAYS)


class NodeConfig(Section, frozen=True):
    """A node. `address`: https://host:port, as the others reach it.

    `peer_fingerprints`: name -> fingerprint of its verify key, 64 hexadecimal digits. If any is given, only those
    peers are accepted, with those keys.
    """

    name: str
    role: Role
    address: str
    listen: Listen
    paths: Paths
    storage: Storage
    limits: Limits = msgspec.field(default_factory=Limits)
    policy: PolicyConfig = msgspec.field(default_factory=PolicyConfig)
    retention: Retention = msgspec.field(default_factory=Retention)
    preparations: Preparations = msgspec.field(default_factory=Preparations)
    casework: CaseworkConfig = msgspec.field(default_factory=CaseworkConfig)
    console: ConsoleConfig = msgspec.field(default_factory=ConsoleConfig)
    cluster: ClusterConfig = msgspec.field(default_factory=ClusterConfig)
    peer_fingerprints: dict[str, str] = msgspec.field(default_factory=dict)

    def __post_init__(self) -> None:
        check_node(self.name, self.role)
        split_address(self.address)
        for name, fingerprint in self.peer_fingerprints.items():
            check_name(name, "peer_fingerprints")
            if not re.fullmatch("[0-9a-f]{64}", fingerprint):
                raise ConfigError(f"peer_fingerprints.{name}", fingerprint, "must be 64 lower-case hexadecimal digits")
        self.preparations.check(self.role)
        if self.casework.url is not None and self.casework.url == self.storage.url:
            raise ConfigError("casework.url", "…", "must be another database than storage.url")
        if self.role is Role.HOLDER:
            self._check_searched()

    def _check_searched(self) -> None:
        """A purpose that finds nobody whoever is held would always answer: no hit."""
        policy = self.policy
        for purpose in policy.purposes:
            if not policy.searched(purpose):
                limit = f"{purpose.value}, one of policy.purposes, searches none of these"
                raise ConfigError("policy.categories", policy.categories, limit)

    @property
    def state(self) -> str | None:
        """The member state's code, which a requester's or holder's name begins with; None for the router."""
        return None if self.role is Role.ROUTER else self.name[:2]

    @property
    def tls(self) -> TlsFiles:
        """What the service presents and trusts."""
        return TlsFiles(self.paths.tls_key, self.paths.tls_certificate, self.paths.tls_ca, self.paths.tls_crl)

    @property
    def operator_tls(self) -> TlsFiles:
        """What the command line presents to its own node."""
        paths = self.paths
        return TlsFiles(paths.operator_key, paths.operator_certificate, paths.tls_ca, paths.tls_crl)


def load_config(folder: Path) -> NodeConfig:
    """Read and check FOLDER/node.toml. Raises `ConfigError`, and `InputError` for a file that is no TOML."""
    folder = folder.absolute()
    path = folder / FILE
    try:
        text = path.read_text("utf-8")
        raw = tomllib.loads(text, parse_float=Decimal)
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:  # not TOML (says the line), not UTF-8, a number too long, depth
        raise InputError(f"{path} is not TOML: {error}") from error

    def path_in_folder(kind: type, value: Any) -> Any:
        if kind is not Path or not isinstance(value, str) or not value:
            raise ValueError("must be a path")
        return folder / value

    try:
        config = msgspec.convert(raw, NodeConfig, dec_hook=path_in_folder)
        if config.storage.url is not None and config.storage.rows is None:
            beside = msgspec.structs.replace(config.storage, rows=folder / "store.rows")
            return msgspec.structs.replace(config, storage=beside)
        return config
    except msgspec.ValidationError as error:
        problem = _config_error(str(error), raw)
    except ConfigError as error:
        problem = error
    line = _line(text, problem.field)
    raise ConfigError(problem.field, problem.value, problem.limit, f"{path}{f', line {line}' if line else ''}: ")


def _config_error(message: str, raw: dict[str, Any]) -> ConfigError:
    """Turn msgspec's `Expected … - at `$.policy.purposes[0]`` into field, value and limit."""
    reason, _, place = message.partition(" - at `")
    keys = re.sub(r"\[.*", "", place.rstrip("`").lstrip("$.")).split(".") if place else []
    if named := re.fullmatch(r"Object (contains unknown|missing required) field `(.*)`", reason):
        table, keys = keys, [*keys, named[2]]
        known = _type(table)
        reason = f"unknown key; allowed here: {', '.join(known.__struct_fields__)}"
        if named[1] == "missing required":
            reason = "must be given"
    else:
        kinds = (_type(keys), *get_args(_type(keys)))
        for kind in kinds:
            if isinstance(kind, type) and issubclass(kind, Enum) and reason.startswith("Invalid enum"):
                reason += f"; allowed: {', '.join(item.value for item in kind)}"
    value: Any = raw
    for key in keys:
        value = value.get(key) if isinstance(value, dict) else None
    return ConfigError(".".join(keys), value, reason)


def _type(keys: Iterable[str]) -> Any:
    kind: Any = NodeConfig
    for key in keys:
        kind = get_type_hints(kind)[key]
    return kind


def _line(text: str, field: str) -> int | None:
    """The line of a field, None if it cannot be told, as in nested inline tables."""
    table, _, key = field.rpartition(".")
    current = ""
    for number, line in enumerate(text.splitlines(), 1):
        if header := re.match(r"\s*\[([^\[\]]+)\]\s*(#|$)", line):
            current = header[1].strip()
            if current == field:
                return number
        elif current == table and re.match(rf"""\s*["']?{re.escape(key)}["']?\s*=""", line):
            return number
    return None
