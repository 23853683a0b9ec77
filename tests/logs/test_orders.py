"""A supervisor's orders from the command line: made, lodged at a running node, refused, lifted (Article 40(3))."""

from __future__ import annotations

import asyncio
import shutil
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from nodes.logs.of_node import SUPERVISOR_FILE
from nodes.logs.orders import parse_log
from nodes.operator.client import hold, status
from pets.errors import InputError
from tests.kit.commands import lineup
from tests.kit.federation import ES, FR, Federation, found, request
from tests.kit.network import TlsNetwork, running


@pytest.fixture
def federation(tmp_path: Path) -> Federation:
    return found(tmp_path)


@pytest.fixture
def order(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Callable[..., Path]:
    """Makes keys by name, and an order file."""

    def make(log: str, *options: object, name: str = "supervisor") -> Path:
        key, file = tmp_path / name, tmp_path / "order"
        if not key.exists():
            assert lineup(monkeypatch, capsys, "evidence", "key", "-o", key)[0] == 0
            assert stat.S_IMODE(key.stat().st_mode) == 0o600
        result = lineup(monkeypatch, capsys, "evidence", "hold", "--log", log, "--key", key, "-o", file, *options)
        assert result[0] == 0, result
        return file

    return make


@pytest.mark.slow
def test_an_order_lodged_at_a_running_node_is_obeyed_until_it_is_lifted(
    federation: Federation, order: Callable[..., Path], tmp_path: Path
) -> None:
    folder = federation.folder(ES)
    order("0" * 64)  # for the key
    shutil.copy(tmp_path / "supervisor.pem", folder / SUPERVISOR_FILE)

    async def body() -> None:
        async with running(TlsNetwork(federation)) as network:

            async def lodge(file: Path) -> dict[str, Any]:
                return await asyncio.to_thread(hold, folder, file)

            await network.search(request(federation.people.hit, (ES,)))
            await network.settle()
            shown = (await asyncio.to_thread(status, folder))["logs"]
            logs = dict(line.split() for line in shown)
            archive = network.nodes[ES].archive
            assert archive.transcript.held() == ()

            with pytest.raises(InputError, match="not signed by the supervisor"):
                await lodge(order(logs["transcript"], name="somebody"))
            with pytest.raises(InputError, match="a log of another node"):
                await lodge(order("0" * 64))
            with pytest.raises(InputError, match="number 1, expected 0"):
                await lodge(order(logs["transcript"], "--number", 1))
            with pytest.raises(InputError, match="no hold number 0 to lift"):
                await lodge(order(logs["transcript"], "--lift"))
            assert archive.transcript.held() == ()

            first = order(logs["transcript"], "--first", 2, "--last", 4)
            assert await lodge(first) == {"order": "hold", "number": 0}
            with pytest.raises(InputError, match="number 0, expected 1"):
                await lodge(first)
            assert await lodge(order(logs["article-40"])) == {"order": "hold", "number": 0}
            for _ in range(2):
                archive = network.nodes[ES].archive
                assert archive.transcript.held() == (2, 3, 4)
                assert archive.article_forty.held() == (0,)
                await network.kill(ES)
                await network.start(ES)
            assert await lodge(order(logs["transcript"], "--lift")) == {"order": "lift", "number": 0}
            assert network.nodes[ES].archive.transcript.held() == ()

    asyncio.run(body())


def test_without_a_supervisors_key_no_order_is_obeyed(federation: Federation, order: Callable[..., Path]) -> None:
    folder = federation.folder(FR)

    async def body() -> None:
        async with running(TlsNetwork(federation)):
            (line, _) = (await asyncio.to_thread(status, folder))["logs"]
            with pytest.raises(InputError, match=r"no supervisor's key: .*supervisor\.pem does not exist"):
                await asyncio.to_thread(hold, folder, order(line.split()[1]))

    asyncio.run(body())


def test_keys_and_orders_that_cannot_be_made_are_refused_by_name(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    key = tmp_path / "key"
    assert lineup(monkeypatch, capsys, "evidence", "key", "-o", key)[0] == 0
    status, _, error = lineup(monkeypatch, capsys, "evidence", "key", "-o", key)
    assert (status, "key cannot be written: File exists" in error) == (1, True)

    def refused(*options: object, expected: int = 1) -> str:
        args = ("--key", key, "-o", tmp_path / "order", *options)
        status, _, error = lineup(monkeypatch, capsys, "evidence", "hold", *args)
        assert status == expected
        assert not (tmp_path / "order").exists()
        return error

    assert "log 'ab': must be 64" in refused("--log", "ab")
    assert "greater than or equal to 0" in refused("--log", "0" * 64, "--number", -1, expected=2)
    key.chmod(0o644)
    assert "mode 0644, it must be 0600" in refused("--log", "0" * 64)
    key.chmod(0o600)
    key.write_text("no key")
    assert "is not a signing key" in refused("--log", "0" * 64)
    with pytest.raises(InputError):
        parse_log("0" * 63 + "G")
