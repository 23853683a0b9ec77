"""All texts stand in one catalogue, complete and with nothing left over; the vendored script is what it says."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

import pytest

from nodes.console import texts
from nodes.console.app import STATIC
from nodes.console.web import TEMPLATES

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


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_no_page_has_a_text_of_its_own(path: Path) -> None:
    bare = re.sub(r"{%.*?%}|{{.*?}}|{#.*?#}|<code>.*?</code>|<[^>]*>", " ", path.read_text(), flags=re.S)
    bare = bare.replace("&nbsp;", " ").replace("<!doctype html>", " ")
    assert not re.findall(r"[A-Za-z]{2,}", bare)


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
