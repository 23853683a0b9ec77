"""A node on a file system that is really full: it says so, releases nothing half, and works again after a restart."""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

import pytest

from nodes.config.schema import operator_name
from nodes.service import node as node_module
from nodes.service.operator_api import HolderAnswer
from tests.kit.federation import DE, ES, EU, FR, Federation, found, request
from tests.kit.leaks import captured_logs, leaks, secrets_of
from tests.kit.network import AsgiNetwork, assert_clear, running

pytestmark = pytest.mark.slow

DISK_BYTES = 8 * 2**20


@pytest.fixture
def small() -> str:
    """Which node lives on a small file system."""
    return ES


@pytest.fixture
def federation(tmp_path: Path, small: str) -> Iterator[Federation]:
    """One node lives on a small file system of its own, in memory."""
    federation = found(tmp_path, read_timeout_seconds=10)
    folder, aside = federation.folder(small), tmp_path / "aside"
    shutil.copytree(folder, aside)
    command = ["mount", "-t", "tmpfs", "-o", f"size={DISK_BYTES},mode=0700", "tmpfs", str(folder)]
    if os.geteuid() or subprocess.run(command, capture_output=True).returncode:
        pytest.skip("no right to mount a small file system")
    try:
        shutil.copytree(aside, folder, dirs_exist_ok=True)
        yield federation
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def write_for_ever(stream: BinaryIO) -> None:
    while True:
        stream.write(bytes(4096))


def fill(folder: Path, room: int) -> Path:
    """Leave `room` bytes."""
    filler = folder / "filler"
    with filler.open("wb", buffering=0) as stream, pytest.raises(OSError, match="No space left"):
        write_for_ever(stream)
    os.truncate(filler, max(0, filler.stat().st_size - room))
    return filler


@pytest.mark.parametrize(("small", "room"), [(ES, 0), (ES, 16384), (ES, 65536), (ES, 131072), (EU, 65536), (FR, 65536)])
def test_a_full_disk_is_named_and_the_next_query_works_once_there_is_room(
    small: str, room: int, federation: Federation, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(node_module, "HEALTH_SECONDS", 0)
    wanted, of_one = request(federation.people.hit, (ES, DE)), request(federation.people.hit, (ES,))
    expected = federation.expected(wanted)
    refused = HolderAnswer("refused", reason="internal", by=small)
    hurt = expected | dict.fromkeys((ES,) if small == ES else (ES, DE), refused)

    async def health(network: AsgiNetwork, name: str) -> tuple[int, dict[str, object]]:
        async with network.client(operator_name(name), name) as client:
            response = await client.get("/health")
            return response.status_code, response.json()

    async def body() -> None:
        async with running(AsgiNetwork(federation)) as network:
            assert isinstance(network, AsgiNetwork)
            assert (await network.search(of_one)).answers == federation.expected(of_one)
            assert await health(network, small) == (200, {"status": "ok", "contradicting_logs": 0, "alarms": []})
            await network.settle()
            filler = fill(federation.folder(small), room)
            answers = (await network.search(wanted)).answers
            await network.settle()
            assert_clear(network)
            assert answers == hurt
            status, report = await health(network, small)
            assert (status, report["status"]) == (503, "degraded")
            assert await health(network, DE) == (200, {"status": "ok", "contradicting_logs": 0, "alarms": []})
            filler.unlink()
            await network.kill(small)
            await network.start(small)
            assert await health(network, small) == (200, {"status": "ok", "contradicting_logs": 0, "alarms": []})
            assert (await network.search(of_one)).answers == federation.expected(of_one)
            await network.settle()

    with captured_logs() as logs:
        asyncio.run(body())
    assert leaks(federation, secrets_of(federation, federation.people.hit), logs.text.encode()) == []


def test_a_log_that_closed_after_a_failed_write_is_degraded_although_there_is_room_again(
    federation: Federation, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(node_module, "HEALTH_SECONDS", 0)

    async def body() -> None:
        network = AsgiNetwork(federation)
        try:
            await network.start(ES)
            node = network.nodes[ES]
            filler = fill(federation.folder(ES), 0)
            log = node.archive.transcript
            while log.usable:
                with suppress(OSError):
                    log.checkpoint(0)
            assert "logs" in node.failing()
            filler.unlink()
            assert node.failing() == ("logs",)
        finally:
            await network.close()

    asyncio.run(body())
