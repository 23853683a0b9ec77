"""One node is odd: another version, a wrong clock, a certificate that does not hold. It is named, the others answer.

The odd node is a process of its own where it must differ from the others in code or clock.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest
from cryptography import x509

from nodes.identity import identity
from nodes.identity.authority import Authority
from nodes.identity.identity import load_identity
from nodes.identity.tls import CertificateError
from nodes.private_files import write_private, write_public
from nodes.service.operator_api import HolderAnswer
from tests.kit.federation import DE, ES, EU, ROLES, Federation, request
from tests.kit.leaks import captured_logs, leaks, secrets_of
from tests.kit.network import TlsNetwork, assert_clear, assert_healthy
from tests.kit.processes import Processes

pytestmark = pytest.mark.slow

FEDERATION = {"read_timeout_seconds": 5}


def beside(
    federation: Federation, odd: tuple[str, ...], before: str, body: Callable[[TlsNetwork], Awaitable[None]]
) -> None:
    """Run a body while `odd` are processes that run `before` first, and the other nodes are in this process."""
    group = Processes(federation)

    async def run() -> None:
        network = TlsNetwork(federation)
        try:
            await network.start(*(set(ROLES) - set(odd)))
            await body(network)
        finally:
            await network.close()

    with captured_logs() as logs:
        try:
            group.start(*odd, before=before)
            asyncio.run(run())
            for name in list(group.running):
                assert group.stop(name) == 0, group.log(name)
                assert "Traceback" not in group.log(name)
        finally:
            group.close()
    assert leaks(federation, secrets_of(federation, federation.people.hit), logs.text.encode()) == []


async def answers(network: TlsNetwork) -> dict[str, HolderAnswer]:
    """What a search at both holders gives; every node is clear afterwards."""
    report = await network.search(request(network.federation.people.hit))
    await network.settle()
    assert_clear(network)
    assert_healthy(network)
    return report.answers


@pytest.mark.parametrize(("odd", "refused"), [(ES, {ES}), (EU, {ES, DE})], ids=["a holder", "the router"])
def test_a_node_of_another_version_is_refused_by_that_name(odd: str, refused: set[str], federation: Federation) -> None:
    expected = federation.expected(request(federation.people.hit))
    wanted = expected | dict.fromkeys(refused, HolderAnswer("refused", reason="version", by=odd))

    async def body(network: TlsNetwork) -> None:
        assert await answers(network) == wanted

    beside(federation, (odd,), "from protocol import wire; wire.VERSION += 1", body)


def test_a_holders_or_routers_clock_that_is_wrong_is_named(federation: Federation, tmp_path: Path) -> None:
    """Within the skew that the policy allows nobody notices. Last, all clocks are right again: the next query works."""
    expected = federation.expected(request(federation.people.hit))
    wrong, expired = HolderAnswer("refused", reason="clock", by=ES), HolderAnswer("refused", reason="warrant", by=EU)
    before = (
        "import pathlib, sys, time\n"
        f"real, skew = time.time, pathlib.Path({str(tmp_path)!r}) / pathlib.Path(sys.argv[-1]).name\n"
        "time.time = lambda: real() + float(skew.read_text())"
    )

    def set_clocks(**seconds: int) -> None:
        for name in (ES, EU):
            (tmp_path / name).write_text(str(seconds.get(name, 0)))

    async def body(network: TlsNetwork) -> None:
        for clocks, wanted in (
            ({ES: -60, EU: 60}, expected),
            ({ES: -1800}, expected | {ES: wrong}),  # the warrant comes from its future
            ({EU: 7200}, {ES: expired, DE: expired}),
            ({}, expected),
        ):
            set_clocks(**clocks)
            assert await answers(network) == wanted, clocks

    set_clocks()
    beside(federation, (ES, EU), before, body)


@pytest.mark.parametrize(("what", "odd"), [("expired", ES), ("of another authority", EU), ("revoked", ES)])
def test_a_node_whose_certificate_does_not_hold_is_unreachable_until_it_has_another(
    what: str, odd: str, federation: Federation, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, own = federation.folder(odd), Authority.open(federation.root / "authority")
    expected = federation.expected(request(federation.people.hit))
    unreachable = HolderAnswer("unreachable", reason="timeout", by=odd)
    wanted = expected | dict.fromkeys({ES} if odd == ES else {ES, DE}, unreachable)
    address = load_identity(folder).config.address
    if what == "expired":
        issued = own.issue(odd, address, days=1, now=datetime.now(timezone.utc) - timedelta(days=3))
    else:
        issued = (own if what == "revoked" else Authority.create(tmp_path / "other")).issue(odd, address)
    files = {name: (folder / name).read_bytes() for name in ("tls.key", "tls.pem")}

    def install(key: bytes, certificate: bytes) -> None:
        (folder / "tls.key").unlink()
        write_private(folder / "tls.key", key)
        write_public(folder / "tls.pem", certificate)

    async def body() -> None:
        network = TlsNetwork(federation)
        try:
            if what == "expired":
                with pytest.raises(CertificateError, match="is valid from"):  # it does not even start
                    await network.start(odd)
                monkeypatch.setattr(identity, "check_certificate", lambda *_: None)  # but it may run out meanwhile
            await network.start()
            assert await answers(network) == wanted
            await network.kill(odd)
            install(*files.values())
            await network.start(odd)
            assert await answers(network) == expected  # the control
        finally:
            await network.close()

    install(issued.key, issued.certificate)
    if what == "revoked":
        own.refresh({x509.load_pem_x509_certificate(issued.certificate).serial_number})
    try:
        asyncio.run(body())
    finally:
        install(*files.values())
