"""The commands of operators: what they print, as JSON too, their exit status, and one clear line when they refuse."""

from __future__ import annotations

import io
from datetime import date, datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cryptography import x509
from rich.console import Console

from nodes.cli.node import print_report
from nodes.config.schema import load_config
from nodes.config.storage import holder_store
from nodes.identity.authority import Authority
from nodes.identity.tls import client_context, server_context
from nodes.service.operator_api import HolderAnswer, SearchReport
from nodes.store import Category, Status, UnknownReference
from pets.templates import quantise_rows
from protocol.release import Released
from protocol.terms import SYNTHETIC_MODEL
from tests.kit.commands import COMMANDS, as_json, enrol
from tests.kit.handshakes import assert_refused, handshake


def test_the_commands_are_those_of_the_readme() -> None:
    assert set(COMMANDS) == {
        *(
            f"lineup {name}"
            for name in (
                "embed",
                "match",
                "prepare",
                "demo",
                "query",
                "enroll",
                "forget",
                "contest",
                "calibrate",
                "bench",
            )
        ),
        *(
            f"lineup node {name}"
            for name in (
                "init",
                "serve",
                "status",
                "health",
                "expire",
                "hold",
                "statistics",
                "renew",
                "revoke",
                "outage",
            )
        ),
        *(f"lineup node peers {name}" for name in ("add", "export", "list", "remove")),
        *(f"lineup node impact {name}" for name in ("lodge", "show", "template")),
        *(f"lineup store {name}" for name in ("backup", "restore", "rekey", "compact")),
        *(f"lineup gallery {name}" for name in ("list", "log", "show")),
        *(f"lineup cluster {name}" for name in ("drain", "start", "status")),
        *(f"lineup console {name}" for name in ("demo", "key", "sign")),
        *(f"lineup evidence {name}" for name in ("export", "key", "hold")),
        *("lineup verify", "lineup audit"),
        *(f"lineup case person {name}" for name in ("add", "close", "list")),
        *(
            f"lineup case {name}"
            for name in (
                "open",
                "approve",
                "list",
                "show",
                "review",
                "decide",
                "outcome",
                "confirm",
                "request",
                "requests",
                "release",
                "refuse",
                "pause",
                "resume",
                "view",
                "views",
                "authorise",
                "recall",
                "recalls",
                "delete",
                "onward",
                "export",
                "report",
            )
        ),
    }


@pytest.mark.parametrize("name", sorted(set(COMMANDS) - {"lineup demo", "lineup node serve", "lineup console demo"}))
def test_every_command_but_demos_and_servers_speaks_json(name: str) -> None:
    assert "--json" in {option for parameter in COMMANDS[name].params for option in parameter.opts}


@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_every_command_and_every_option_is_explained(name: str, run: Any) -> None:
    command = COMMANDS[name]
    assert command.help
    for parameter in command.params:
        assert parameter.help or parameter.hidden, parameter.name
    status, out, _ = run(*name.split()[1:], "--help")
    assert status == 0
    assert "Usage" in out


def test_the_gallery_is_listed_and_a_subject_shown(run: Any, folder: Path) -> None:
    first, second, third = enrol(run, folder)
    assert run("contest", "--dir", folder, second)[0] == 0
    listed = as_json(run("gallery", "list", "--dir", folder, "--json"))
    assert [one["reference"] for one in listed] == [first, second, third]
    assert [one["contested"] for one in listed] == [False, True, False]
    status, out, _ = run("gallery", "list", "--dir", folder)
    assert status == 0
    today = datetime.now(timezone.utc).date()
    line = f"{second}  suspect, enrolled {today}, until {listed[1]['retain_until']}, CONTESTED"
    assert out.splitlines()[1] == line
    assert out.splitlines()[-1] == "3 subjects"
    shown = as_json(run("gallery", "show", "--dir", folder, second, "--json"))
    (event,) = shown.pop("history")
    assert event.endswith("UTC: contested")
    assert shown.pop("photo_names") == []
    assert shown == listed[1]
    assert shown["enrolled"].startswith(str(today))
    status, out, _ = run("gallery", "show", "--dir", folder, first)
    assert status == 0
    assert {"contested: no", "photo: no", "quality: not known"} < set(out.splitlines())
    assert run("forget", "--dir", folder, first)[0] == 0
    status, _, error = run("gallery", "show", "--dir", folder, first)
    assert status == 1
    assert first in error


def test_a_backup_is_restored_and_the_key_changed_from_the_command_line(run: Any, folder: Path) -> None:
    references, file = enrol(run, folder), folder.parent / "backup.db"
    made = as_json(run("store", "backup", "--dir", folder, file, "--json"))
    cases, rows = Path(f"{file}.casework"), Path(f"{file}.rows")
    size = sum(path.stat().st_size for path in rows.rglob("*") if path.is_file())
    assert size > 0
    assert made == {
        "file": str(file), "bytes": file.stat().st_size, "in_postgresql": [],
        "beside": {str(rows): size, str(cases): cases.stat().st_size},
    }  # fmt: skip
    assert run("store", "backup", "--dir", folder, file) == (
        1, "", f"error: {file} exists already; a copy never overwrites a file\n",
    )  # fmt: skip
    assert run("forget", "--dir", folder, references[0])[0] == 0
    assert run("store", "restore", "--dir", folder)[2] == "error: name the backup to restore\n"
    restored = as_json(run("store", "restore", "--dir", folder, file, "--json"))
    assert restored == {
        "subjects": 2, "forgotten_again": 1, "expired": 0, "lost": [], "refuses_until": None, "aside": []
    }  # fmt: skip
    assert as_json(run("store", "compact", "--dir", folder, "--json")) == {"left_out": 1}
    assert run("store", "compact", "--dir", folder)[1] == "0 places of erased rows left out\n"
    changed = as_json(run("store", "rekey", "--dir", folder, "--json"))
    assert (changed["subjects"], changed["sealed_files"]) == (2, 0)
    status, _, error = run("store", "restore", "--dir", folder, file)
    assert status == 1
    assert "encrypted under key" in error
    (folder / "store.db").unlink()
    status, _, error = run("store", "restore", "--dir", folder, file, "--old-key", changed["old_key"])
    assert status == 1
    assert "give --yes" in error
    status, out, error = run("store", "restore", "--dir", folder, file, "--old-key", changed["old_key"], "--yes")
    assert status == 0
    assert "2 subjects restored, 1 of the backup forgotten again" in out
    assert "lost: what was forgotten and answered" in error
    assert "UTC are refused" in error


def test_a_revoked_node_is_on_the_list_with_its_operator(run: Any, folder: Path, tmp_path: Path) -> None:
    authority = tmp_path / "ca"
    args = ("--name", "FR", "--role", "requester", "--address", "https://127.0.0.1:8", "--authority", authority)
    run("node", "init", "--dir", tmp_path / "fr", *args)
    es, fr = load_config(folder).tls, load_config(tmp_path / "fr").tls
    assert handshake(server_context(es), client_context(fr))[0].name == "FR"  # the control
    revoked = as_json(run("node", "revoke", "--authority", authority, "FR", "--json"))["revoked"]
    crl = x509.load_pem_x509_crl((authority / "crl.pem").read_bytes())
    assert {f"{entry.serial_number:x}" for entry in crl} == set(revoked)
    assert len(revoked) == 2
    assert_refused(handshake(server_context(es), client_context(fr)), "server", "certificate revoked")
    assert as_json(run("node", "revoke", "--authority", authority, "FR", "--json"))["revoked"] == []
    assert run("node", "revoke", "--authority", authority, "PT")[2] == (
        "error: no certificate was ever issued to 'PT'\n"
    )
    assert run("node", "revoke", "--authority", tmp_path / "none", "FR")[0] == 1


def test_the_revocation_list_is_signed_anew_before_it_runs_out(run: Any, folder: Path, tmp_path: Path) -> None:
    before = x509.load_pem_x509_crl((tmp_path / "ca" / "crl.pem").read_bytes())
    assert as_json(run("node", "revoke", "--authority", tmp_path / "ca", "--json"))["revoked"] == []
    after = x509.load_pem_x509_crl((tmp_path / "ca" / "crl.pem").read_bytes())
    assert after.next_update_utc is not None
    assert before.next_update_utc is not None
    assert after.next_update_utc >= before.next_update_utc
    assert after.last_update_utc > before.last_update_utc
    assert Authority.open(tmp_path / "ca").crl_file.exists()


def test_a_contested_mark_is_set_and_comes_off_only_on_a_decision(run: Any, folder: Path) -> None:
    reference = enrol(run, folder)[0]
    assert as_json(run("contest", "--dir", folder, reference, "--json")) == {
        "reference": reference, "contested": True,
    }  # fmt: skip
    for wrong in (("--clear",), ("--authority", "decision 1")):
        status, _, error = run("contest", "--dir", folder, reference, *wrong)
        assert status == 2
        assert "go together" in error
    status, out, _ = run("contest", "--dir", folder, reference, "--clear", "--authority", "AEPD 17/2026")
    assert (status, out) == (0, f"{reference} is not contested\n")
    assert "not contested" in run("contest", "--dir", folder, reference, "--clear", "--authority", "AEPD 18/2026")[2]
    assert "no subject has reference" in run("contest", "--dir", folder, "ES-0")[2]


def test_forgetting_says_which_reference_is_unknown(run: Any, folder: Path) -> None:
    references = enrol(run, folder)
    status, out, error = run("forget", "--dir", folder, references[0], "ES-typo")
    assert status == 1
    assert f"deleted {references[0]}" in out
    assert error == "not here: ES-typo\n"
    receipts = as_json(run("forget", "--dir", folder, references[1], "--json"))
    assert [receipt["reference"] for receipt in receipts] == [references[1]]
    with holder_store(folder) as store, pytest.raises(UnknownReference):
        store.subject(references[0])


def test_what_is_past_its_time_is_deleted_at_a_stopped_node(run: Any, folder: Path) -> None:
    with holder_store(folder) as store:
        store.enrol_many(
            quantise_rows(np.load(folder.parent / "three.npy"), name="three"),
            category=Category.SUSPECT,
            status=Status.IDENTIFIED,
            retain_until=date(2020, 1, 1),
            model=SYNTHETIC_MODEL,
        )
    assert as_json(run("node", "expire", "--dir", folder, "--json")) == {
        "subjects": 3, "log_entries": 0, "evidence_files": 0, "sealed_files": 0,
    }  # fmt: skip


def test_a_query_has_one_probe(run: Any, folder: Path) -> None:
    """No bulk call: a file of three templates is refused before the node is asked (R 20(1))."""
    reason = ("--case", "C-1", "--offence", "robbery", "--max-penalty-years", "5", "--officer", "A", "--approver", "B")
    args = ("--name", "FR", "--role", "requester", "--address", "https://127.0.0.1:8", "--authority")
    run("node", "init", "--dir", folder.parent / "fr", *args, folder.parent / "ca")
    probe = folder.parent / "three.npy"
    status, _, error = run("query", "--dir", folder.parent / "fr", probe, "--holders", "DE", *reason)
    assert status == 1
    assert "holds 3 templates; a query has one probe" in error


@pytest.mark.parametrize("command", ["status", "health"])
def test_a_node_that_does_not_run_is_named_with_its_address(command: str, run: Any, folder: Path) -> None:
    status, out, error = run("node", command, "--dir", folder)
    assert (status, out) == (1, "")
    assert error.startswith("error: ES does not answer at https://127.0.0.1:9")


@pytest.mark.parametrize("name", ["probe[/b].jpg", "probe[red].jpg"])
def test_a_photo_may_be_called_anything(name: str) -> None:
    """The answer is printed: it took a warrant and a quota."""
    text = io.StringIO()
    answers = {
        "ES": HolderAnswer("candidates", (Released("ES-1"),), "0.55"),
        "DE": HolderAnswer("refused", reason="quota"),
    }
    print_report(SearchReport("FR-1", ("00",), answers, 0.1, 0.2), name, Console(file=text, width=200))
    assert name in text.getvalue()
    assert "ES-1" in text.getvalue()
