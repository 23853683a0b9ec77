"""`[console]` of node.toml: safe by default, and what is not safe is refused with field, value and limit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from nodes.config.console import ConsoleConfig
from nodes.config.schema import ConfigError


def test_without_certificates_only_loopback_is_listened_on() -> None:
    settings = ConsoleConfig()
    assert (settings.host, settings.url, settings.relying_party) == ("127.0.0.1", "http://localhost:8450", "localhost")
    assert not settings.secure
    files: dict[str, Any] = {"certificate": Path("c.pem"), "key": Path("k.pem")}
    assert ConsoleConfig(host="0.0.0.0", origin="https://console.fr.example", **files).secure


@pytest.mark.parametrize(
    ("field", "values"),
    [
        ("console.host", {"host": "0.0.0.0"}),
        ("console.host", {"host": "10.0.0.1"}),
        ("console.certificate", {"certificate": Path("c.pem")}),
        ("console.origin", {"origin": "http://console.fr.example"}),
        ("console.origin", {"origin": "https://console.fr.example/path"}),
        ("console.origin", {"origin": "console.fr.example"}),
        ("console.port", {"port": 0}),
        ("console.session_minutes", {"session_minutes": 1000}),
        ("console.lock_after", {"lock_after": 1000}),
    ],
)
def test_what_is_not_safe_is_refused(field: str, values: dict[str, Any]) -> None:
    with pytest.raises(ConfigError) as refused:
        ConsoleConfig(**values)
    assert refused.value.field == field


def test_behind_tls_cookies_are_for_this_host_alone_and_never_sent_in_the_clear() -> None:
    from starlette.responses import Response

    from nodes.console.security import Forms

    forms = Forms(ConsoleConfig(origin="https://console.fr.example"), "FR")
    response = Response()
    forms.set(response, forms.session_cookie, "x")
    cookie = response.headers["set-cookie"]
    assert cookie.startswith("__Host-lineup-FR=x")
    assert "Secure" in cookie
