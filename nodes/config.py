"""The configuration of a node, `node.toml`: typed, closed, checked at start.

Units stand in the names of the keys. Relative paths start at the node's folder. A key that is not known is refused, as
is a value outside its limits, with file, line, field, value and limit. A policy may be stricter than its defaults; what
is looser than the floors below is refused.

`ConfigError` (a pets.errors.InputError).
"""

from __future__ import annotations

import ipaddress
import re
import sys
from collections.abc import Iterable
from decimal import Decimal
from enum import Enum
from pathlib import Path
from typing import Any, get_args, get_type_hints
from urllib.parse import urlsplit

import msgspec

from nodes.store.errors import CategoryNotAllowed
from nodes.store.subjects import DEFAULT_CATEGORIES, Category, check_categories
from nodes.tls import TlsFiles
from pets.errors import InputError
from pets.params import PRESETS

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

FILE = "node.toml"
NAME_PATTERN = "[A-Z0-9-]{1,16}"

# The floors: no configuration may be looser. 0.30 is this project's figure and stands where law will set one: it is the
# loosest threshold that any node accepts. 99 is the largest cap the protocol has.
LAW_MINIMUM_THRESHOLD = Decimal("0.30")
MAX_CANDIDATES = 99
MAX_RUNGS = 9
MAX_WARRANT_SECONDS = 24 * 3600
MAX_SKEW_SECONDS = 600
MAX_SEALED_DAYS = 1095

_OPERATOR = "-OPERATOR"
_MAX_QUOTA = 1_000_000
_SECRET_FIELDS = ("storage.url",)  # somebody may have put a password there: never repeated in a message


class ConfigError(InputError):
    """A value that a node does not start with. `where`: file and line, once known."""

    def __init__(self, field: str, value: object, limit: str, where: str = "") -> None:
        self.field, self.value, self.limit = field, value, limit
        shown = "…" if field in _SECRET_FIELDS else _shown(value)
        super().__init__(f"{where}{field} = {shown}: {limit}")


class Role(str, Enum):
    """What a node does in a query."""

    REQUESTER = "requester"
    HOLDER = "holder"
    ROUTER = "router"


class Purpose(str, Enum):
    """Why a query may be asked (Article 20(1)); the last two only with national law (Article 29)."""

    PREVENTION = "PREVENTION"
    DETECTION = "DETECTION"
    INVESTIGATION = "INVESTIGATION"
    MISSING_PERSON = "MISSING-PERSON"
    REMAINS = "REMAINS"


NATIONAL_LAW_PURPOSES = {Purpose.MISSING_PERSON: Category.MISSING, Purpose.REMAINS: Category.REMAINS}
# What these purposes look at, and no other does (Article 29). Who has remains to name looks among the missing too.
_SEARCHED = {
    Purpose.MISSING_PERSON: frozenset({Category.MISSING}),
    Purpose.REMAINS: frozenset({Category.REMAINS, Category.MISSING}),
}
_ORDINARY = frozenset(Category) - frozenset().union(*_SEARCHED.values())


class _Section(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    pass


class Listen(_Section, frozen=True):
    """Where the service listens, which may differ from the address others use."""

    host: str
    port: int

    def __post_init__(self) -> None:
        _within("listen.port", self.port, 1, 65535)


class Paths(_Section, frozen=True):
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


class Storage(_Section, frozen=True):
    """The database: a SQLite `file` or a PostgreSQL `url`; its key: in `key_file` or in the variable `key_env`."""

    file: Path | None = None
    url: str | None = None
    key_file: Path | None = None
    key_env: str | None = None

    def __post_init__(self) -> None:
        if (self.file is None) == (self.url is None):
            raise ConfigError("storage.file", self.file, "give either storage.file (SQLite) or storage.url")
        if self.file is not None and "?" in str(self.file):  # in SQLite's URLs it ends the name of the file
            raise ConfigError("storage.file", self.file, "must hold no question mark, nor may the folders it is in")
        if self.url is not None and not re.match(r"postgresql(\+psycopg)?://", self.url):
            raise ConfigError("storage.url", self.url, "must begin with postgresql://; for SQLite use storage.file")
        if self.url is not None and re.search("//[^/@]*:[^/]*@|password=", self.url):
            raise ConfigError("storage.url", self.url, "must hold no password: use PGPASSFILE or PGPASSWORD")
        if (self.key_file is None) == (self.key_env is None):
            raise ConfigError("storage.key_file", self.key_file, "give either storage.key_file or storage.key_env")
        if self.key_env is not None and not re.fullmatch("[A-Z_][A-Z0-9_]*", self.key_env):
            raise ConfigError("storage.key_env", self.key_env, "must be the name of an environment variable")

    @property
    def database_url(self) -> str:
        """For `nodes.store.GalleryStore`."""
        return self.url or f"sqlite:///{self.file}"


class Limits(_Section, frozen=True):
    """What a node spends. `threads`: None takes every processor this process may use."""

    threads: int | None = None
    connect_timeout_seconds: int = 10
    read_timeout_seconds: int = 30
    query_timeout_seconds: int = 300
    shutdown_timeout_seconds: int = 30
    body_limit_mib: int = 64
    concurrent_queries: int = 8

    def __post_init__(self) -> None:
        if self.threads is not None:
            _within("limits.threads", self.threads, 1, 256)
        _within("limits.connect_timeout_seconds", self.connect_timeout_seconds, 1, 120)
        _within("limits.read_timeout_seconds", self.read_timeout_seconds, 1, 600)
        _within("limits.query_timeout_seconds", self.query_timeout_seconds, 10, 3600)
        _within("limits.shutdown_timeout_seconds", self.shutdown_timeout_seconds, 1, 600)
        _within("limits.body_limit_mib", self.body_limit_mib, 1, 1024)
        _within("limits.concurrent_queries", self.concurrent_queries, 1, 256)


class Retention(_Section, frozen=True):
    """How long a node keeps what the law sets no time for. Logs and evidence go after three years (Article 40(3)).

    `sealed_days`: what it sealed for audits on site: a requester the probe, a holder its confirmation block.
    """

    sealed_days: int = 180

    def __post_init__(self) -> None:
        _within("retention.sealed_days", self.sealed_days, 1, MAX_SEALED_DAYS)


class NationalLaw(_Section, frozen=True):
    """Citations of the national law that permits to hold and search these (Article 19(1), Article 29)."""

    victim: str | None = None
    missing: str | None = None
    remains: str | None = None

    @property
    def citations(self) -> dict[Category, str]:
        """Those that are given, for `nodes.store.GalleryStore`."""
        given = {Category.VICTIM: self.victim, Category.MISSING: self.missing, Category.REMAINS: self.remains}
        return {category: text for category, text in given.items() if text}


class PolicyConfig(_Section, frozen=True):
    """What a node serves; without a word about `states` it serves nobody. `nodes.policy` applies it.

    `max_rungs`: thresholds a query may visit, the first included. `require_seed`: refuse queries whose ciphertexts no
    audit could recompute. Quotas are per state and UTC day (Article 23(1)).
    """

    states: tuple[str, ...] = ()
    purposes: tuple[Purpose, ...] = (Purpose.PREVENTION, Purpose.DETECTION, Purpose.INVESTIGATION)
    minimum_threshold: Decimal = LAW_MINIMUM_THRESHOLD
    max_candidates: int = 10
    minimum_ladder_step: Decimal = Decimal("0.02")
    max_rungs: int = MAX_RUNGS
    presets: tuple[str, ...] = tuple(PRESETS)
    require_seed: bool = True
    quota_identified_per_day: int = 1000
    quota_unidentified_per_day: int = 1000
    max_warrant_age_seconds: int = MAX_WARRANT_SECONDS
    clock_skew_seconds: int = 120
    categories: tuple[Category, ...] = tuple(sorted(DEFAULT_CATEGORIES))
    national_law: NationalLaw = msgspec.field(default_factory=NationalLaw)

    def __post_init__(self) -> None:
        for state in self.states:
            if not re.fullmatch("[A-Z]{2}", state):
                raise ConfigError("policy.states", state, "each must be a state's code of two capital letters")
        for preset in self.presets:
            if preset not in PRESETS:
                raise ConfigError("policy.presets", preset, f"each must be one of {', '.join(PRESETS)}")
        for field in ("states", "purposes", "presets", "categories"):
            _once(f"policy.{field}", getattr(self, field))
        self._check_numbers()
        self._check_national_law()

    def searched(self, purpose: Purpose) -> frozenset[Category]:
        """The categories held here that a query of this purpose looks at (Article 29)."""
        return frozenset(self.categories) & _SEARCHED.get(purpose, _ORDINARY)

    def _check_numbers(self) -> None:
        floor = LAW_MINIMUM_THRESHOLD
        if not self.minimum_threshold.is_finite() or not floor <= self.minimum_threshold < 1:
            raise ConfigError(
                "policy.minimum_threshold", self.minimum_threshold, f"must be at least {floor} (the floor) and below 1"
            )
        if not self.minimum_ladder_step.is_finite() or not Decimal("0.001") <= self.minimum_ladder_step < 1:
            raise ConfigError("policy.minimum_ladder_step", self.minimum_ladder_step, "must be from 0.001 to below 1")
        _within("policy.max_candidates", self.max_candidates, 1, MAX_CANDIDATES)
        _within("policy.max_rungs", self.max_rungs, 1, MAX_RUNGS)
        _within("policy.quota_identified_per_day", self.quota_identified_per_day, 0, _MAX_QUOTA)
        _within("policy.quota_unidentified_per_day", self.quota_unidentified_per_day, 0, _MAX_QUOTA)
        _within("policy.max_warrant_age_seconds", self.max_warrant_age_seconds, 60, MAX_WARRANT_SECONDS)
        _within("policy.clock_skew_seconds", self.clock_skew_seconds, 0, MAX_SKEW_SECONDS)

    def _check_national_law(self) -> None:
        citations = self.national_law.citations
        try:
            check_categories(self.categories, citations)
        except CategoryNotAllowed as error:
            raise ConfigError("policy.categories", self.categories, f"{error}, in [policy.national_law]") from None
        for purpose, category in NATIONAL_LAW_PURPOSES.items():
            if purpose in self.purposes and category not in citations:
                limit = f"{purpose.value} needs a citation of national law: policy.national_law.{category.value}"
                raise ConfigError("policy.purposes", self.purposes, limit)


class NodeConfig(_Section, frozen=True):
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
    peer_fingerprints: dict[str, str] = {}

    def __post_init__(self) -> None:
        check_node(self.name, self.role)
        split_address(self.address)
        for name, fingerprint in self.peer_fingerprints.items():
            check_name(name, "peer_fingerprints")
            if not re.fullmatch("[0-9a-f]{64}", fingerprint):
                raise ConfigError(f"peer_fingerprints.{name}", fingerprint, "must be 64 lower-case hexadecimal digits")
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
        return msgspec.convert(raw, NodeConfig, dec_hook=path_in_folder)
    except msgspec.ValidationError as error:
        problem = _config_error(str(error), raw)
    except ConfigError as error:
        problem = error
    line = _line(text, problem.field)
    raise ConfigError(problem.field, problem.value, problem.limit, f"{path}{f', line {line}' if line else ''}: ")


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


def _within(field: str, value: int, low: int, high: int) -> None:
    if not low <= value <= high:
        raise ConfigError(field, value, f"must be from {low} to {high}")


def _once(field: str, values: tuple[object, ...]) -> None:
    if len(set(values)) != len(values):
        raise ConfigError(field, values, "each value once")


def _shown(value: object) -> str:
    if isinstance(value, Enum):
        return repr(value.value)
    if isinstance(value, (tuple, list)):
        return f"[{', '.join(_shown(item) for item in value)}]"
    text = str(value) if isinstance(value, (Decimal, Path)) else repr(value)
    return text if len(text) <= 200 else text[:200] + "…"


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
