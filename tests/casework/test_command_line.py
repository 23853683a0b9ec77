"""A whole case on the command line, with nodes as processes: the fallback where there is no browser."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.kit.commands import as_json
from tests.kit.commands import run as run
from tests.kit.federation import ES, EU, FR, found
from tests.kit.processes import processes
from tests.kit.ring import RING

SECONDS = 60.0


def test_a_case_runs_on_the_command_line(tmp_path: Path, run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    federation = found(tmp_path / "nodes")
    probe = tmp_path / "probe.npy"
    unit = federation.people.hit.astype(np.float32)
    np.save(probe, (unit / np.linalg.norm(unit)).reshape(-1))
    keys = tmp_path / "keys"
    keys.mkdir(mode=0o700)

    def lineup(*args: object, node: str = FR, who: str = "", status: int = 0) -> Any:
        key = ("--key", keys / who) if who else ()
        return as_json(run(*args, "--dir", federation.folder(node), *key, "--json"), status)

    def until(condition: Any) -> Any:
        deadline = time.monotonic() + SECONDS
        while not (seen := condition()):
            assert time.monotonic() < deadline
            time.sleep(0.2)
        return seen

    french = {"olga": "officer", "anton": "approver", "rita": "reviewer", "remo": "reviewer"}
    spanish = {"lena": "releaser", "dora": "data-protection"}
    for node, handle, role in [*((FR, *one) for one in french.items()), *((ES, *one) for one in spanish.items())]:
        lineup(
            "case", "person", "add", handle, "--name", handle, "--roles", role, "--new-key", keys / handle, node=node
        )
    with processes(federation, FR, ES, EU):
        case = ("--case", "C-1", "--offence", "robbery", "--max-penalty-years", 5)
        refused = run("query", "--dir", federation.folder(FR), probe, "--holders", ES, *case, "--officer", "A",
                      "--approver", "B")  # fmt: skip
        assert refused[0] == 1
        assert "a second person approves" in refused[2]
        assert RING.preset.startswith("n4096") or pytest.skip("the command line asks with the default preset")
        query = lineup("case", "open", probe, "--holders", ES, *case, who="olga")["query"]
        lineup("case", "approve", query, who="anton")
        until(lambda: lineup("case", "show", query, who="olga")["candidates"] == 1)
        (candidate,) = (one["id"] for one in lineup("case", "review", query, who="rita"))
        for who in ("rita", "remo"):
            lineup("case", "decide", candidate, "same", "--note", "ears", who=who)
        for who in ("rita", "remo"):
            lineup("case", "confirm", candidate, who=who)
        request = lineup("case", "request", candidate, "--facts", "seen", "--offence-category", "robbery", who="olga")[
            "request"
        ]
        until(lambda: lineup("case", "requests", node=ES, who="lena"))
        lineup("case", "pause", request, "--reason", "a judge is asked", node=ES, who="lena")
        lineup("case", "resume", request, node=ES, who="lena")
        record = tmp_path / "record.json"
        record.write_text(json.dumps({"first-names": "Ana", "date-of-birth": "1980-02-03"}))
        lineup("case", "release", request, "--record", record, node=ES, who="lena")
        until(lambda: lineup("case", "requests", who="olga")[0]["state"] == "released")
        seen = lineup(
            "case", "view", f"core-data:{request}", "--reason", "the file", "--purpose", "core-data", who="olga"
        )
        assert seen["record"]["first-names"] == "Ana"
        lineup("case", "recall", seen["reference"], "--why", "another person", node=ES, who="dora")
        until(lambda: all(one["answered"] for one in lineup("case", "recalls", node=ES, who="dora")))
        attempt = lineup("case", "show", query, who="olga")["attempts"][0]
        bundles = []
        for node in (FR, ES, EU):
            bundles.append(tmp_path / f"{node}.bundle")
            lineup("evidence", "export", "--query", attempt, "-o", bundles[-1], node=node)
    report = as_json(run("verify", *bundles, "--trust", federation.root / "authority" / "peers", "--json"))
    own = {check["id"]: check["status"] for check in report["checks"] if check["status"] != "not-checkable"}
    wanted = ("launch-approval", "two-reviewers", "core-data", "core-data-clock", "recall", "follow-up-log")
    assert {own[rule] for rule in wanted} == {"pass"}
