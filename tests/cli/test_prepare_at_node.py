"""`lineup prepare --dir` and what `lineup node status` says of preparations, as operators meet them."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import msgspec
import pytest

from nodes.service.operator_api import (
    HolderAnswer,
    Line,
    PrepareReport,
    PrepareRequest,
    Progress,
    Supplies,
    WaitingTold,
)
from protocol.terms import SYNTHETIC_MODEL
from tests.kit.federation import DIM, ES, EU, FR, found, people
from tests.kit.network import TlsNetwork, running
from tests.kit.ring import RING

MADE = PrepareReport(2, 2, 3.25)
SOME = PrepareReport(1, 2, 3.25, {"ES": HolderAnswer("refused", reason="capacity", by="ES")})


@pytest.fixture
def requester(tmp_path: Path, run: Any) -> Path:
    args = ("--name", "FR", "--role", "requester", "--address", "https://127.0.0.1:9", "--authority", tmp_path / "ca")
    assert run("node", "init", "--dir", tmp_path / "fr", *args)[0] == 0
    return tmp_path / "fr"


@pytest.fixture
def node(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """A node that answers what the test says, and what it was asked."""
    seen: dict[str, Any] = {"answer": MADE}

    def prepare(folder: Path, request: PrepareRequest, told: Any) -> PrepareReport:
        told(Progress("preparing", 10, 100, 0, 2))
        seen["request"] = request
        answer: PrepareReport = seen["answer"]
        return answer

    monkeypatch.setattr("nodes.operator.client.prepare", prepare)
    return seen


def test_the_node_is_asked_for_what_was_said(run: Any, requester: Path, node: dict[str, Any]) -> None:
    status, out, err = run("prepare", "--dir", requester, "--holders", "es, DE", "-n", 2, "--dim", 128)
    assert (status, err) == (0, "")
    assert out == "2 preparations of 2 now wait for searches of ES, DE, made in 3.25 s\n"
    assert node["request"] == PrepareRequest(("ES", "DE"), 2, 128, SYNTHETIC_MODEL)


def test_who_refused_is_named_with_what_helps_and_the_status_is_1(
    run: Any, requester: Path, node: dict[str, Any]
) -> None:
    node["answer"] = SOME
    status, out, _ = run("prepare", "--dir", requester, "--holders", "ES", "-n", 2, "--dim", 128)
    assert status == 1
    first, second = out.splitlines()
    assert first.startswith("1 preparation of 2 now waits for searches of ES")
    assert second.startswith("REFUSED     ES  capacity, by ES: it is busy, shutting down, or as many preparations wait")
    status, out, _ = run("prepare", "--dir", requester, "--holders", "ES", "-n", 2, "--dim", 128, "--json")
    assert status == 1
    assert json.loads(out)["refused"]["ES"]["reason"] == "capacity"


@pytest.mark.parametrize(
    ("options", "status", "message"),
    [
        ([], 2, "give either --gallery with -o, or --dir with --holders"),
        (["--gallery", "g.npy", "--dir", "fr"], 2, "give either --gallery with -o, or --dir with --holders"),
        (["--gallery", "g.npy"], 2, "say with -o where to write"),
        (["--dir", "FOLDER"], 2, "name those who will be asked"),
        (
            ["--dir", "FOLDER", "--holders", "ES", "-n", "0"],
            2,
            "'-n' / '--count': Input should be greater than",
        ),
        (["--dir", "FOLDER", "--holders", "ES", "--dim", "9"], 1, "9"),
        (["--dir", "FOLDER", "--holders", "ES", "--dim", "128", "--preset", "n1024"], 2, "n1024"),
        (["--dir", "FOLDER", "--holders", "E" * 100, "--dim", "128"], 1, "cannot be asked for"),
        (["--dir", "FOLDER", "--holders", "ES", "--dim", "128"], 1, "is `lineup node serve` running"),
    ],
)
def test_a_mistake_is_one_clear_line(run: Any, requester: Path, options: list[str], status: int, message: str) -> None:
    given = [str(requester) if item == "FOLDER" else item for item in options]
    got, out, error = run("prepare", *given)
    assert (got, out) == (status, "")
    assert message in error.replace("\n", " ")
    assert "Traceback" not in error


def test_only_a_requester_prepares(run: Any, folder: Path) -> None:
    _, _, error = run("prepare", "--dir", folder, "--holders", "DE", "--dim", 128)
    assert error == "error: ES is a holder; only a requester can ask\n"


def told(**changes: Any) -> dict[str, Any]:
    one = WaitingTold("ab" * 16, "FR", ("DE", "ES"), "2026-05-04T10:00:00+00:00", "2026-05-05T10:00:00+00:00",
                      60.0, 30_000_000, False)  # fmt: skip
    values: dict[str, Any] = {
        "waiting": (one, msgspec.structs.replace(one, made="2026-05-04T10:01:00+00:00", age_seconds=1.0)),
        "being_made": 1, "made": 5, "spent": 2, "expired": 1, "dropped": 0, "refused": 3, "per_day": 43200,
        "quota_per_day": 50,
    }  # fmt: skip
    supplies: dict[str, Any] = msgspec.to_builtins(Supplies(**values | changes))
    return supplies


def test_the_status_says_for_whom_since_when_how_large_and_whether_it_is_enough(
    run: Any, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    report: dict[str, Any] = {"name": "ES", "peers": ["EU", "ES"], "draining": False, "preparations": told()}
    monkeypatch.setattr("nodes.operator.client.status", lambda _: dict(report))
    lines = run("node", "status", "--dir", folder)[1].splitlines()
    assert lines[1:] == [
        "peers               EU",
        "draining            no",
        "preparations        2 wait for FR to search DE, ES: 60.0 MB in memory, the oldest made 2026-05-04 10:00, "
        "until 2026-05-05 10:00 UTC",
        "preparations        since the start 5 made, 2 used, 1 too old, 0 dropped, 3 refused; 1 being made",
        "preparations        at the pace of the last ones this node makes 43,200 a day; its policy grants 50 searches "
        "a day",
    ]
    report["preparations"] = told(waiting=(), limit_per_day=500, today={"FR": 7})
    assert "begun today: 7 with FR; the limit is 500 a state" in run("node", "status", "--dir", folder)[1]
    report["preparations"] = told(waiting=(), per_day=40)
    lines = run("node", "status", "--dir", folder)[1].splitlines()
    assert lines[3] == "preparations        none waits"
    assert lines[5].endswith("makes 40 a day; its policy grants 50 searches a day: TOO FEW")
    report["latencies"] = {"searches": {"count": 1000, "p50": 0.412, "p95": 2.0, "p99": 31.25}, "preparations": None}
    assert run("node", "status", "--dir", folder)[1].splitlines()[-2:] == [
        "search seconds      p50 0.41, p95 2.00, p99 31.25, of the last 1,000",
        "preparation seconds none since the start",
    ]
    report["preparations"] = told(per_day=None)
    assert "pace" not in run("node", "status", "--dir", folder)[1]
    assert json.loads(run("node", "status", "--dir", folder, "--json")[1])["preparations"]["made"] == 5


@pytest.mark.slow
def test_over_tls_the_lines_come_while_the_node_works(tmp_path: Path) -> None:
    from nodes.operator.client import prepare, status
    from pets.errors import InputError

    federation = found(tmp_path, people(rows=130))
    heard: list[Progress] = []
    wish = PrepareRequest((ES,), 3, DIM, SYNTHETIC_MODEL, RING.preset)

    async def body() -> None:
        async with running(TlsNetwork(federation)) as network:
            report = await asyncio.to_thread(prepare, federation.folder(FR), wish, heard.append)
            assert (report.made, report.refused) == (3, {})
            assert heard
            assert heard[-1].of == 3 * RING.n
            supplies = (await asyncio.to_thread(status, federation.folder(FR)))["preparations"]
            assert len(supplies["waiting"]) == 3
            wrong = msgspec.structs.replace(wish, holders=("XX",))
            with pytest.raises(InputError, match="XX is not a holder among the peers of FR"):
                await asyncio.to_thread(prepare, federation.folder(FR), wrong, heard.append)
            await network.settle()

    asyncio.run(body())


@pytest.mark.slow
def test_when_the_operator_interrupts_it_no_more_are_begun(tmp_path: Path) -> None:
    from nodes.operator.client import prepare

    federation = found(tmp_path, people(rows=130))
    for name in (ES, EU):
        federation.configure(name, ready=100)
    wish = PrepareRequest((ES,), 50, DIM, SYNTHETIC_MODEL, RING.preset)

    class InterruptedHere(Exception):
        pass

    def interrupt(_: Progress) -> None:
        raise InterruptedHere  # as Ctrl-C does, which asyncio would take for its own

    async def body() -> None:
        async with running(TlsNetwork(federation)) as network:
            with pytest.raises(InterruptedHere):
                await asyncio.to_thread(prepare, federation.folder(FR), wish, interrupt)
            await network.settle(30)
            made = network.nodes[FR].pool.counts.made
            assert made < 20
            assert len(network.nodes[ES].pool.standing()) == made, "what was begun is not broken off"

    asyncio.run(body())


def test_lines_are_small_and_an_unknown_key_is_refused() -> None:
    assert msgspec.json.encode(Line()) == b"{}"
    with pytest.raises(msgspec.ValidationError):
        msgspec.json.decode(b'{"reports": 1}', type=Line)
