"""`[console]` of node.toml: where people reach the console, and how long they stay signed in."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import urlsplit

from nodes.config.values import ConfigError, Section, within

FILE = "console.db"  # in the node's folder
LOOPBACK = ("localhost", "127.0.0.1", "::1")


class ConsoleConfig(Section, frozen=True):
    """`enabled`: `lineup node serve` starts the console beside the node, as a process of its own.

    `origin`: what stands in the browser's address bar; passkeys are bound to its host, which must be a name.

    Without `certificate` and `key` the console speaks HTTP and listens on loopback only: for a proxy that ends TLS, or
    for a browser on the same machine. `behind_proxy`: a proxy on this machine says in X-Forwarded-For who asks, for the
    rate limits. `session_minutes`: without a click; `session_hours`: in all. `lock_after`: failed
    log-ins in a row, which shut an account for `lock_minutes`.
    """

    enabled: bool = False
    host: str = "127.0.0.1"
    port: int = 8450
    origin: str = ""
    certificate: Path | None = None
    key: Path | None = None
    behind_proxy: bool = False
    session_minutes: int = 20
    session_hours: int = 10
    lock_after: int = 5
    lock_minutes: int = 15

    def __post_init__(self) -> None:
        within("console.port", self.port, 1, 65535)
        within("console.session_minutes", self.session_minutes, 1, 120)
        within("console.session_hours", self.session_hours, 1, 24)
        within("console.lock_after", self.lock_after, 3, 20)
        within("console.lock_minutes", self.lock_minutes, 1, 1440)
        if (self.certificate is None) != (self.key is None):
            raise ConfigError("console.certificate", self.certificate, "give both console.certificate and console.key")
        if self.certificate is None and self.host not in LOOPBACK:
            raise ConfigError("console.host", self.host, "must be loopback unless console.certificate is given")
        parts = urlsplit(self.url)
        if (
            parts.scheme not in ("http", "https")
            or not parts.hostname
            or self.url != f"{parts.scheme}://{parts.netloc}"
        ):
            raise ConfigError("console.origin", self.origin, "must be https://name or https://name:port")
        if parts.scheme == "http" and parts.hostname != "localhost":
            raise ConfigError("console.origin", self.origin, "must begin with https://, except http://localhost")

    @property
    def url(self) -> str:
        """The origin, scheme://host:port."""
        return self.origin or f"{'https' if self.certificate else 'http'}://localhost:{self.port}"

    @property
    def relying_party(self) -> str:
        """The host's name, which passkeys are bound to."""
        return urlsplit(self.url).hostname or ""

    @property
    def secure(self) -> bool:
        """Whether browsers reach it over TLS."""
        return self.url.startswith("https:")
