"""Pages do what they do by the operations of the API and nothing else; the client has every one of them."""

from __future__ import annotations

import ast
import inspect
import re
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest

from nodes.console import app, client
from nodes.console import contracts as c
from nodes.console.api import DOOR, ENDPOINTS, PREFIX, Endpoint
from nodes.console.client import ConsoleClient
from nodes.console.door import Door
from nodes.console.operations import Operations
from nodes.console.oversight import Oversight

CODE = Path(app.__file__).parent
PAGES = sorted(CODE.glob("pages_*.py"))
OPERATIONS = {one.name: one for one in (*ENDPOINTS, *DOOR)}
PARTS: dict[str, type] = {"operations": Operations, "oversight": Oversight, "door": Door}
# What a page may know besides: words, errors, its own machinery.
MAY_IMPORT = re.compile(
    r"__future__|json|datetime|typing|starlette\.responses|pets\.errors|nodes\.casework\.errors|nodes\.operator\.client"
    r"|nodes\.console(\.(contracts|errors|texts|web|pages_\w+))?|nodes\.casework\.review|protocol\.(follow_up|approval|roles)"
)
MAY_NAME = {"VERDICTS", "NodeNotRunning", "IDENTIFIED_FIELDS", "UNIDENTIFIED_FIELDS", "RecallKind", "RefusalReason",
            "PersonRole", "CaseworkError", "Role"}  # fmt: skip


def reached(source: str) -> Iterator[str]:
    """Whatever a page reaches that no operation of the API is."""
    tree = ast.parse(source)
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (name.name for name in node.names if not MAY_IMPORT.fullmatch(name.name))
        if isinstance(node, ast.ImportFrom):
            module = node.module or ""
            if not MAY_IMPORT.fullmatch(module):
                yield module
            elif re.match(r"nodes\.(casework|operator)|protocol", module):
                yield from (f"{module}.{name.name}" for name in node.names if name.name not in MAY_NAME)
        if isinstance(node, ast.Attribute):
            owner = node.value.id if isinstance(node.value, ast.Name) else getattr(node.value, "attr", "")
            if owner in PARTS and f"{owner}.{node.attr}" not in OPERATIONS:
                yield f"{owner}.{node.attr}"
            if node.attr in ("site", "app") or node.attr.startswith("_"):
                yield node.attr


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_a_page_reaches_nothing_but_operations_of_the_api(path: Path) -> None:
    assert list(reached(path.read_text())) == []


@pytest.mark.parametrize(
    "planted",
    ["visit.operations.desk.staff()", "visit.site.accounts.door()", "oversight._look(who)", "import sqlite3",
     "from nodes.casework.desk import CaseDesk", "from nodes.casework.review import outcome",
     "from protocol.roles import Parties", "operations.config.name"],
)  # fmt: skip
def test_control_a_page_that_reaches_further_is_found(planted: str) -> None:
    assert list(reached(planted))


def test_every_operation_is_a_method_that_takes_what_its_path_has() -> None:
    for name, one in OPERATIONS.items():
        part, method = name.split(".")
        taken = list(inspect.signature(getattr(PARTS[part], method)).parameters)[1:]
        wanted = re.findall(r"{(\w+)}", one.path)
        given = (["who"] if one in ENDPOINTS else ["token"] if one.session else []) + wanted
        assert len(taken) == len(given) + (one.body is not None), name


def test_no_operation_has_two_ways() -> None:
    assert len(OPERATIONS) == len(ENDPOINTS) + len(DOOR)


HALF = c.Half("t", "password", "00" * 32, None)
GIVEN: dict[str, Any] = {
    "handle": "olga", "password": "x", "sign": lambda digest, options: "00", "year": 2020, "form": "csv",
    "bundles": [b"x"], "photo": b"x", "reason": "to check", "receiver": "", "reference": "R", "key": c.NewKey("00"),
}  # fmt: skip
FORMS: dict[str, Any] = {
    "First": c.First("t", "alma", "Alma", "x"), "Joining": c.Joining("t", "x"),
    "Wanted": c.Wanted(("gender",), "f", "o"),
    "Release": c.Release("identified", {}), "Refusal": c.Refusal("withdrawn"), "RecallForm": c.RecallForm("r", "w"),
    "Transfer": c.Transfer("r"), "Decided": c.Decided("inconclusive", "n"), "NewPerson": c.NewPerson("h", "n", ()),
    "QueryForm": c.QueryForm("i", 0, ("ES",), "c", "o", 5.0),
}  # fmt: skip
TOLD = {c.Half: HALF, c.SessionToken: c.SessionToken("t"), c.ToSign: c.ToSign("00" * 32, None), c.Done: c.Done(),
        c.Made: c.Made("x"), bool: True}  # fmt: skip


def endpoint_of(method: str, path: str) -> Endpoint:
    for one in OPERATIONS.values():
        if one.method == method and re.fullmatch(PREFIX + re.sub(r"{\w+}", "[^/]+", one.path), path):
            return one
    raise AssertionError(f"the API has no {method} {path}")


def calls_of(made: ConsoleClient, name: str, asked: list[Endpoint]) -> list[str]:
    """The operations that a method of the client asks for."""
    asked.clear()
    method: Callable[..., Any] = getattr(made, name)
    given = [FORMS[str(one.annotation).removeprefix("c.")] if str(one.annotation).startswith("c.") and key != "key"
             else GIVEN.get(key, "ab" * 16)
             for key, one in inspect.signature(method).parameters.items()]  # fmt: skip
    with suppress(msgspec.DecodeError):  # an answer that is not filled in here
        method(*given)
    return [one.name for one in asked]


def test_the_client_has_a_method_for_every_operation() -> None:
    asked: list[Endpoint] = []

    def answer(request: httpx.Request) -> httpx.Response:
        one = endpoint_of(request.method, request.url.path)
        if one.body not in (None, bytes):
            msgspec.json.decode(request.content, type=one.body)  # what the client sends is what the API takes
        asked.append(one)
        told = TOLD.get(one.gives)
        return httpx.Response(200, content=b"x" if one.gives is bytes else msgspec.json.encode(told))

    with ConsoleClient("http://console.invalid", transport=httpx.MockTransport(answer)) as made:
        made.sign_in("olga", "x", GIVEN["sign"])
        public = [name for name, _ in inspect.getmembers(client.ConsoleClient, inspect.isfunction)
                  if not name.startswith("_") and name not in ("call", "close")]  # fmt: skip
        by_method = {name: calls_of(made, name, asked) for name in public}
    assert {name for name, calls in by_method.items() if not calls} == set()
    assert set(OPERATIONS) - {name for calls in by_method.values() for name in calls} == set()
