"""All texts stand in one catalogue, complete and with nothing left over; the vendored script is what it says."""

from __future__ import annotations

import ast
import hashlib
import inspect
import re
from pathlib import Path
from string import Formatter
from types import ModuleType
from typing import get_args

import pytest

from nodes.casework import errors as casework
from nodes.casework.contents import Aim, Depicted
from nodes.casework.deletion import PURPOSES
from nodes.casework.refusals import REFUSALS, THINGS
from nodes.casework.review import VERDICTS, Outcome
from nodes.config.names import Purpose
from nodes.console import errors as console
from nodes.console import texts
from nodes.console.app import STATIC
from nodes.console.web import TEMPLATES, words_of
from nodes.logs.entries import Kind
from nodes.service.operator_api import AnswerStatus
from nodes.store.handling import Act
from nodes.verify.report import CheckStatus
from pets.errors import InputError
from protocol.approval import PersonRole
from protocol.follow_up import IDENTIFIED_FIELDS, DeletionReason, RecallKind, RefusalReason
from protocol.messages import ABORT_CODES
from protocol.roles import Role

CODE = Path(texts.__file__).parent
PAGES = sorted(TEMPLATES.glob("*.html"))


def used() -> set[str]:
    found: set[str] = set()
    for path in PAGES:
        found |= set(re.findall(r"\bt\([\"']([a-z0-9.-]+)[\"']\)", path.read_text()))
    for path in CODE.glob("*.py"):
        found |= set(re.findall(r"\"((?:nav|start|field|done|problem|sign)\.[a-z-]+)\"", path.read_text()))
        found -= {path.name for path in PAGES}
        found |= set(re.findall(r"(?<!visit\.)\btext\(\"([a-z.-]+)\"\)", path.read_text()))
    return found


def test_every_text_that_is_used_is_there_and_the_other_way_round() -> None:
    assert used() - set(texts.TEXTS) == set()
    left = {key for key in texts.TEXTS if key not in used() and not key.startswith(("sign.", "field."))}
    assert left == set()


JINJA = r"{%.*?%}|{{.*?}}|{#.*?#}"
SHOWN = re.compile(r"\b(?:aria-label|alt|title|placeholder|label|summary|data-no-\w+)=(\"[^\"]*\"|'[^']*')")
COMMAND = "lineup console sign --key FILE"
# In an expression: what is looked up, compared or joined, and is not shown.
KEYS = re.compile(
    r"""\bt\("[^"]*"(?:\ ~\ \w+)?\)|\bt\('[^']*'\)|\["[^"]*"\]|[=!]=\ "[^"]*"|\bin\ \([^)]*\)|"[^"]*"\ in\ \w
    |(?:selectattr|map|sort|replace)\([^)]*\)|\bparts\.\w+\([^{]*\)|\bfield\([^{]*\)""",
    re.X,
)


def literals(page: str) -> list[str]:
    """Words of a template that the catalogue does not have: between tags, in attributes that are read out, and in
    expressions."""
    page = page.replace("<!doctype html>", " ").replace(COMMAND, " ")
    found = [word for shown in SHOWN.findall(page) for word in re.findall(r"[A-Za-z]{2,}", re.sub(JINJA, " ", shown))]
    outside = re.sub(r"<(?:[^<>{]|{(?![{%#])|" + JINJA + ")*>", " ", page, flags=re.S)
    found += re.findall(r"[A-Za-z]{2,}", re.sub(JINJA, " ", outside, flags=re.S))
    for expression in re.findall(r"{{(.*?)}}", outside, flags=re.S):
        found += re.findall(r"[\"'][^\"']*[A-Za-z]{2,}[^\"']*[\"']", KEYS.sub(" ", expression))
    for macro in re.findall(r"parts\.(?:field|area|choose)\((.*?)\) }}", page, flags=re.S):
        found += re.findall(r", \"[^\"]* [^\"]*\"", macro)  # a label or hint with a blank
    return found


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_no_page_has_a_text_of_its_own(path: Path) -> None:
    assert literals(path.read_text()) == []


@pytest.mark.parametrize(
    "planted",
    ["<p>Planted</p>", '<img alt="A face">', '<a title="{{ x }} more">', '{{ "Planted" if x else t("a") }}',
     '<b>{{ t("a") }} and</b>', '{{ parts.field("a", "The name") }}', "<td>{{ 'yes' if x }}</td>"],
)  # fmt: skip
def test_control_a_planted_text_is_found(planted: str) -> None:
    assert literals(planted)


def told(path: Path) -> list[int]:
    """Lines that refuse something, or answer plainly, in words of their own."""
    words = (ast.Constant, ast.JoinedStr)
    lines = []
    for node in ast.walk(ast.parse(path.read_text())):
        call = node.exc if isinstance(node, ast.Raise) else node
        if not isinstance(call, ast.Call):
            continue
        name = getattr(call.func, "id", getattr(call.func, "attr", ""))
        speaks = isinstance(node, ast.Raise) or name in ("PlainTextResponse", "__init__")
        if speaks and any(isinstance(one, words) and " " in ast.unparse(one) for one in call.args):
            lines.append(node.lineno)
    return lines


@pytest.mark.parametrize(
    "path", sorted(set(CODE.glob("*.py")) - set(CODE.glob("client*.py"))), ids=lambda path: path.name
)
def test_no_handler_has_a_text_of_its_own(path: Path) -> None:
    assert told(path) == []  # the client is for programs


def test_control_a_planted_refusal_is_found(tmp_path: Path) -> None:
    planted = tmp_path / "planted.py"
    planted.write_text('raise InputError(f"no such {x}")\nPlainTextResponse("not here")\nraise InputError(text("a"))\n')
    assert told(planted) == [1, 2]


def said(path: str, pattern: str) -> set[str]:
    """Words that stand in the code as values, by a pattern with one group."""
    return set(re.findall(pattern, (CODE.parent / path).read_text()))


SHOWN_WORDS: dict[str, set[str]] = {
    "outcome": set(get_args(Outcome)), "verdict": set(VERDICTS), "person's role": set(get_args(PersonRole)),
    "node's role": {role.value for role in Role}, "depicted": set(get_args(Depicted)), "aim": set(get_args(Aim)),
    "recall": set(get_args(RecallKind)), "deletion": set(get_args(DeletionReason)),
    "refusal": set(get_args(RefusalReason)), "field": set(IDENTIFIED_FIELDS), "code": set(ABORT_CODES),
    "purpose": {purpose.value for purpose in Purpose}, "answer": set(get_args(AnswerStatus)),
    "progress": {"preparing", "searching", "answered", "waiting"}, "peer": {"up", "down", "unknown"},
    "state of a query": {"draft", "approved", "running", "review", "done", "failed", "stopped", "node not running"},
    "state of a request": {"waiting", "paused", "released", "refused", "deleted"},
    "health": {"ok", "degraded", "not running"},
    "act": set(get_args(Act)), "log": set(get_args(Kind)), "purpose of a look": set(PURPOSES),
    "verdict of a check": set(get_args(CheckStatus)), "status": {"identified", "unidentified"},
    "key": {"ed25519", "webauthn"}, "direction": {"sent", "received"},
    "component of quality": said("casework/quality.py", r'        "([a-z -]+)": '),
    "what happened at the door": said("console/accounts.py", r'_note\(session, [^,]+, "([a-z ]+)"'),
}  # fmt: skip


@pytest.mark.parametrize("words", SHOWN_WORDS.values(), ids=SHOWN_WORDS)
def test_every_word_of_the_protocol_that_a_page_shows_is_in_the_catalogue(words: set[str]) -> None:
    assert words
    assert words - set(texts.NAMES) == set()


CASEWORK = Path(inspect.getfile(casework)).parent
BUILT = {"StatementRefused", "UnknownThing", "Unsuitable"}  # whose classes name the key
REFUSING = {
    one.__name__ for one in vars(casework).values() if isinstance(one, type) and issubclass(one, casework.CaseworkError)
} - BUILT


def refusals(source: str) -> list[tuple[str | None, set[str]]]:
    """Every refusal of casework that a person may be shown: the key of its words, None for one that brings its own
    words; and the names of its values."""
    found: list[tuple[str | None, set[str]]] = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Call) and getattr(node.func, "id", getattr(node.func, "attr", "")) in REFUSING:
            first = node.args[0] if node.args else None
            key = first.value if isinstance(first, ast.Constant) else None
            values = {keyword.arg or "" for keyword in node.keywords}
            found.append((key if key in REFUSALS and len(node.args) == 1 else None, values))
    return found


@pytest.mark.parametrize("path", sorted({*CASEWORK.glob("*.py"), *CODE.glob("*.py")}), ids=lambda path: path.name)
def test_every_refusal_of_casework_has_its_words_and_values_in_the_catalogue(path: Path) -> None:
    for key, values in refusals(path.read_text()):
        assert key is not None
        assert {name for _, name, _, _ in Formatter().parse(REFUSALS[key]) if name} == values, key


def test_what_is_unknown_has_its_name_in_the_catalogue() -> None:
    named = {
        kind for path in (*CASEWORK.glob("*.py"), *CODE.glob("*.py"))
        for kind in re.findall(r"UnknownThing\(\"([^\"]*)\"", path.read_text())
    }  # fmt: skip
    assert named == set(THINGS)


def test_control_a_refusal_in_words_of_its_own_is_found() -> None:
    planted = "raise CaseRefused('no such thing')\nraise FourEyes(f'{a} b')\nraise NoReason('look-reason')\n"
    assert [key for key, _ in refusals(planted)] == [None, None, "look-reason"]


def test_no_words_of_a_refusal_are_left_over() -> None:
    used = {key for path in (*CASEWORK.glob("*.py"), *CODE.glob("*.py")) for key, _ in refusals(path.read_text())}
    assert set(REFUSALS) - used == {"unknown", "unsuitable", "statement"}  # which their classes name


def test_a_page_shows_a_refusal_in_the_words_of_the_catalogue(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(REFUSALS, "query-state", "Die Suche ist {state}.")
    assert words_of(casework.AlreadyLocked("query-state", state="review")) == ("Die Suche ist under review.", "")
    # what has no text in the catalogue is marked as the program's own words
    assert words_of(InputError("a damaged image")) == ("", "a damaged image")


def kinds(module: ModuleType, base: type) -> set[type]:
    return {one for _, one in inspect.getmembers(module, inspect.isclass)
            if issubclass(one, base) and one.__module__ == module.__name__}  # fmt: skip


def test_every_kind_of_refusal_has_a_text() -> None:
    told = kinds(casework, casework.CaseworkError) | kinds(console, console.ConsoleError)
    told -= {casework.CaseworkError, console.ConsoleError}
    assert {one.__name__ for one in told} - set(texts.KINDS) == set()


def test_every_page_says_that_a_candidate_is_not_identified() -> None:
    base = (TEMPLATES / "base.html").read_text()
    assert base.count('t("banner")') == 2
    for path in PAGES:
        text = path.read_text()
        whole = path.name not in ("base.html", "parts.html", "progress.html", "quotas.html")
        assert not whole or '{% extends "base.html" %}' in text


def test_the_vendored_script_is_what_its_file_of_hashes_says() -> None:
    folder = STATIC / "vendor"
    digest, name = (folder / "SHA256SUMS").read_text().split()
    assert hashlib.sha256((folder / name).read_bytes()).hexdigest() == digest
    assert "Zero-Clause BSD" in (folder / "htmx.LICENSE").read_text()
