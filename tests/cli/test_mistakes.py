"""What people do wrong at the command line: each is told what is wrong and how to go on, in one line."""

from __future__ import annotations

import json
import socket
import subprocess
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from nodes.cli import __main__ as start
from nodes.cli.demo_photos import demo_photos
from nodes.cli.node import print_report
from nodes.config.storage import holder_store
from nodes.service.operator_api import REFUSALS, HolderAnswer, SearchReport
from nodes.verify.page import print_report as print_checks
from nodes.verify.report import Check, Report
from pets.synthetic import synthetic_templates
from protocol.messages import ABORT_CODES
from tests.kit.commands import as_json, enrol, lineup
from tests.kit.federation import assess
from tests.kit.preloaded import preloaded

REASON = ("--case", "C-1", "--offence", "robbery", "--max-penalty-years", "5", "--officer", "A", "--approver", "B")


def error_of(result: tuple[int, str, str], status: int = 1) -> str:
    assert result[0] == status, result
    assert result[1] == ""
    assert result[2].startswith("error: ")
    assert result[2].count("\n") == 1
    return result[2]


@pytest.mark.slow
def test_a_photo_is_enrolled_with_the_number_that_a_hit_will_name(run: Any, folder: Path) -> None:
    photo = demo_photos().tom_hanks
    assert run("enroll", "--dir", folder, photo)[0] == 0
    known = as_json(run("enroll", "--dir", folder, photo, "--json"))
    assert known["already_enrolled"] == 1
    reference = known["photos"][str(photo)]
    status, out, _ = run("enroll", "--dir", folder, photo)
    assert status == 0
    assert out.splitlines()[0] == f"{reference}  {photo}"
    assert f"deleted {reference}" in run("forget", "--dir", folder, reference)[1]


def test_a_photo_without_a_template_is_named_once(run: Any, folder: Path, tmp_path: Path) -> None:
    (tmp_path / "text.jpg").write_text("no image")
    status, _, error = run("enroll", "--dir", folder, tmp_path / "text.jpg")
    assert status == 1
    assert error.startswith(f"{tmp_path / 'text.jpg'} is not a JPEG, PNG,")


def test_templates_of_a_second_model_are_not_enrolled(run: Any, folder: Path) -> None:
    """With them the node could not start any more."""
    enrol(run, folder)
    error = error_of(run("enroll", "--dir", folder, demo_photos().tom_hanks))
    assert "faces of two models cannot be compared: nothing was enrolled" in error
    with holder_store(folder) as store:
        assert len(store.models()) == 1
        assert store.count() == 3


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--retain-until", "2020-01-01"), "the last day they are searched, 2020-01-01, has passed"),
        (("--category", "missing"), "category 'missing' is not allowed at this node; allowed: "),
        (("photo.jpg",), "three.npy holds templates: enrol it with a separate command, without photos"),
    ],
)
def test_what_cannot_be_enrolled_is_refused_before_anything_is(
    options: tuple[str, ...], words: str, run: Any, folder: Path
) -> None:
    assert words in error_of(run("enroll", "--dir", folder, folder.parent / "three.npy", *options))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--purpose", "FUN"), "INVESTIGATION"),
        (("--subject", "witness"), "suspect"),
        (("--aim", "guess"), "verify"),
        (("--threshold", "0,55"), "--threshold must be a decimal number such as 0.55, got '0,55'"),
        (("--threshold", "1.5"), "threshold must lie strictly between 0 and 1, got 1.5"),
        (("--max-candidates", "100"), "99"),
    ],
)
def test_a_query_with_a_bad_option_names_it_and_what_it_may_be(
    options: tuple[str, ...], words: str, run: Any, folder: Path
) -> None:
    result = run("query", "--dir", folder, "probe.jpg", "--holders", "DE", *REASON, *options)
    assert words in error_of(result, 2)


def test_a_node_that_was_not_started_is_told_apart_from_a_certificate_that_was_refused(
    run: Any, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "; is `lineup node serve` running" in error_of(run("node", "status", "--dir", folder))

    def refused(*_: object, **__: object) -> None:
        raise httpx.ConnectError("[SSL: CERTIFICATE_VERIFY_FAILED] certificate verify failed: certificate revoked")

    monkeypatch.setattr(httpx.Client, "request", refused)
    assert error_of(run("node", "status", "--dir", folder)).endswith("certificate revoked\n")


def test_only_a_requester_is_asked_to_query(run: Any, folder: Path) -> None:
    result = run("query", "--dir", folder, "probe.jpg", "--holders", "DE", *REASON)
    assert error_of(result) == "error: ES is a holder; only a requester can ask\n"


def test_a_refusal_says_what_to_change_and_every_answer_its_query(capsys: pytest.CaptureFixture[str]) -> None:
    from nodes.cli.node import output

    refused = HolderAnswer("refused", reason="threshold", by="ES"), HolderAnswer("refused", reason="quota", by="EU")
    answers = dict(zip(("ES", "DE"), refused, strict=True))
    print_report(SearchReport("FR-1", ("00" * 16, "11" * 16), answers, 0.1, 0.2), "probe.jpg", output)
    out = capsys.readouterr().out
    assert "REFUSED  ES  threshold, by ES: its policy asks for a higher threshold (--threshold); " in out
    assert (
        "REFUSED  DE  quota, by EU, not DE: this state's searches or preparations of the day are used up there" in out
    )
    assert f"query {'11' * 16}" in out
    assert set(REFUSALS) == {*ABORT_CODES, "false-refusal"}


def test_a_narrow_terminal_cuts_nothing_that_must_be_compared(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from rich.console import Console

    fingerprint = "0123456789abcdef" * 4
    check = Check("identity", "Each party is known", "design 1", "not-checkable", (f"compare {fingerprint}",))
    print_checks(Report((check,), ()), [], Console(width=60))
    shown = "".join(line.split("│")[-2].strip() for line in capsys.readouterr().out.splitlines() if "│" in line)
    assert fingerprint in shown


def test_the_status_shows_the_whole_identity_of_a_log(run: Any, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = f"transcript {'ab' * 32}"
    report = {"name": "ES", "draining": False, "peers": ["ES", "EU"], "logs": [log], "contradicting_logs": []}
    monkeypatch.setattr("nodes.operator.client.status", lambda _: report)
    assert run("node", "status", "--dir", folder)[1].splitlines() == [
        "name                ES",
        "draining            no",
        "peers               EU",  # a node is none of its own peers
        f"logs                {log}",
        "contradicting logs  none",
    ]


def test_plain_health_says_all_that_its_json_says(run: Any, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    report: dict[str, Any] = {"status": "ok", "contradicting_logs": 0, "alarms": []}
    monkeypatch.setattr("nodes.operator.client.health", lambda _: report)
    assert run("node", "health", "--dir", folder) == (0, "ok\n", "")  # control
    report |= {
        "status": "degraded",
        "failing": ["store"],
        "contradicting_logs": 2,
        "release_limit": ["FR is refused until 2026-12-24"],
        "running_out": ["revocation list es/crl.pem ends on 2026-12-01"],
        "alarms": ["the clock of FR is 300 s ahead of this node's, limit 120 s"],
    }
    status, out, _ = run("node", "health", "--dir", folder)
    assert status == 1
    assert out.splitlines() == [
        "degraded, store",
        "contradicting logs: 2 (`lineup node status` names them)",
        "release limit: FR is refused until 2026-12-24",
        "running out: revocation list es/crl.pem ends on 2026-12-01",
        "alarm: the clock of FR is 300 s ahead of this node's, limit 120 s",
    ]
    assert json.loads(run("node", "health", "--dir", folder, "--json")[1]) == report


def test_an_order_for_no_entries_is_not_signed(run: Any, tmp_path: Path) -> None:
    run("evidence", "key", "-o", tmp_path / "key")
    hold = ("evidence", "hold", "--log", "ab" * 32, "--key", tmp_path / "key", "-o", tmp_path / "order")
    assert "the last entry, 2, comes before the first, 5" in error_of(run(*hold, "--first", 5, "--last", 2))
    assert "'--number': Input should be greater than or equal to 0" in error_of(run(*hold, "--number", -1), 2)
    assert not (tmp_path / "order").exists()
    assert run(*hold)[0] == 0


def test_a_file_that_cannot_be_written_is_named(run: Any, tmp_path: Path) -> None:
    run("evidence", "key", "-o", tmp_path / "key")
    missing = tmp_path / "missing" / "order"
    result = run("evidence", "hold", "--log", "ab" * 32, "--key", tmp_path / "key", "-o", missing)
    assert error_of(result) == f"error: {missing} cannot be written: No such file or directory\n"
    result = run("evidence", "hold", "--log", "ab" * 32, "--key", tmp_path / "key", "-o", tmp_path)
    assert error_of(result) == f"error: {tmp_path} cannot be written: Is a directory\n"


def test_evidence_of_a_folder_that_does_not_exist(run: Any, tmp_path: Path) -> None:
    result = run("evidence", "export", "--dir", tmp_path / "no", "--query", "00" * 16, "-o", tmp_path / "x")
    assert error_of(result) == f"error: {tmp_path / 'no'} is not a node's folder: it does not exist\n"


def test_a_result_is_never_written_in_the_place_of_a_device_or_a_link(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """It once removed /dev/stdout, which is a link."""
    np.save(tmp_path / "g.npy", synthetic_templates(3, 64, 5))
    (tmp_path / "target").write_text("mine")
    (tmp_path / "link").symlink_to(tmp_path / "target")
    args = ("match", "--gallery", tmp_path / "g.npy", "--probe", tmp_path / "g.npy", "--threshold", "0.5")
    for place in (tmp_path / "link", tmp_path):
        error = error_of(lineup(monkeypatch, capsys, *args, "--json", place), 2)
        assert error == f"error: --json {place} is a folder, a device or a link; name a file\n"
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "target").read_text() == "mine"


def test_output_that_is_no_terminal_has_whole_lines_and_no_bar(run: Any, tmp_path: Path) -> None:
    photo = demo_photos().tom_hanks
    status, out, error = run("embed", photo, "-o", tmp_path / "x.npy", "--json")
    assert status == 0
    told = json.loads(out)
    assert (told["file"], told["templates"], told["photos"], told["batch"]) == (str(tmp_path / "x.npy"), 1, 1, 1)
    assert told["photos_per_second"] > 0
    lines = error.splitlines()
    assert len(lines) == 2
    assert lines[0].startswith("1 photo, model detector ")
    assert lines[1] == f"wrote 1 template to {tmp_path / 'x.npy'}"


def test_an_interruption_while_it_loads_leaves_no_traceback(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(name: str, *_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("builtins.__import__", interrupted)
    with pytest.raises(SystemExit) as ended:
        start.main()
    monkeypatch.undo()
    assert ended.value.code == 130
    assert capsys.readouterr() == ("", "")


def test_an_interrupted_command_says_so(run: Any, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("nodes.operator.client.health", interrupted)
    assert run("node", "health", "--dir", folder) == (130, "", "interrupted\n")


@pytest.mark.slow
def test_a_taken_port_ends_a_node_with_one_clear_line_and_it_was_never_ready(run: Any, tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        args = ("--name", "PT", "--role", "holder", "--address", f"https://{address}", "--authority", tmp_path / "ca")
        assert run("node", "init", "--dir", tmp_path / "pt", *args)[0] == 0
        assess(tmp_path / "pt")
        command = [str(preloaded().program), "node", "serve", "--dir", str(tmp_path / "pt")]
        ended = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    *log, last = ended.stderr.splitlines()
    assert (ended.returncode, ended.stdout) == (1, "")
    assert last.startswith(f"error: PT cannot listen on {address}: another program has the port")
    messages = [json.loads(line)["message"] for line in log]
    assert messages[0].startswith("starting")
    assert "ready" not in messages
