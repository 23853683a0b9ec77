"""Debian's Chromium driven by Playwright, and four nodes that run with their consoles."""

from __future__ import annotations

import os
import re
import shutil
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from nodes.cli.demo_console import Staged, stage
from nodes.console.server import close_site, open_site
from nodes.console.web import Site
from pets.faces import FaceModel
from tests.kit.console import Turned, cheap_passwords, no_limits, served
from tests.kit.processes import Nodes

# The first has no windows, menus and graphics of its own to keep up, which cost as much as the pages.
PROGRAMS = ("chromium-headless-shell", "chromium", "chromium-browser")
CHROMIUM = next((path for name in PROGRAMS if (path := shutil.which(name))), None)
SHOTS = os.environ.get("LINEUP_SCREENSHOTS")
NARROW = 375  # pixels: a telephone
SERIOUS = ("serious", "critical")
RECORD = {"First names": "Planted-Ana", "Family names": "Planted-Garcia", "Criminal case number": "M-17"}


def needs_chromium() -> str:
    """Where Chromium is; skips the test, saying so, where it is not."""
    if CHROMIUM is None:
        pytest.skip("no chromium: the tests in a browser are skipped (apt-get install chromium-headless-shell)")
    return CHROMIUM


@contextmanager
def chromium() -> Iterator[Any]:
    """A browser."""
    from playwright.sync_api import sync_playwright

    path = needs_chromium()
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield browser
        browser.close()


@dataclass
class Running:
    """Four nodes, and the consoles of three. `clock`: of Spain's console alone."""

    staged: Staged
    sites: dict[str, Site] = field(default_factory=dict)
    clock: Turned = field(default_factory=Turned)

    def folder(self, name: str) -> Path:
        return self.staged.root / name


@contextmanager
def running(root: Path) -> Iterator[Running]:
    """Small galleries with the demo's photos; the nodes as processes, the consoles in this one."""
    with cheap_passwords(), ExitStack() as stack:
        made = Running(stage(root, "cpu", Console(stderr=True, quiet=True), people=200))
        toml = root / "FR" / "node.toml"
        text, changed = re.subn(r"(?m)^ready = \d+", "ready = 0", toml.read_text())
        assert changed == 1
        toml.write_text(text)  # nothing is prepared that no test asks for
        group = Nodes(made.folder)
        stack.callback(group.close)
        group.start()
        load = cache(lambda: FaceModel.load(None, "cpu"))
        for name in ("FR", "ES", "EU"):
            site = made.sites[name] = open_site(root / name, load)
            stack.callback(close_site, site)
            site.limits = no_limits()
            if name == "ES":
                site.operations.desk.office = replace(site.operations.desk.office, clock=made.clock)
            stack.enter_context(served(site))
        yield made


@dataclass
class Person:
    """Somebody at a browser of their own. `seen`: pages whose accessibility was looked at, by whomever."""

    page: Any
    origin: str
    key: Path | None
    seen: set[str] = field(default_factory=set)

    def sign_in(self, handle: str, password: str) -> None:
        page = self.page
        page.goto(f"{self.origin}/sign-in")
        page.get_by_label("Handle").fill(handle)
        page.get_by_label("Password").fill(password)
        page.get_by_role("button", name="Continue").click()
        page.wait_for_url(re.compile("/sign-in/key"))
        self.show_key()
        page.wait_for_url(f"{self.origin}/")

    def show_key(self) -> None:
        """By the key file, or by the passkey."""
        if self.key is not None:
            self.page.get_by_label("Choose the key file").set_input_files(self.key)
        else:
            self.page.get_by_role("button", name="Use the passkey").click()

    def sign(self) -> None:
        """On the page on which a decision is signed."""
        self.check("sign")
        with self.page.expect_navigation():
            self.show_key()

    def go(self, button: Any) -> None:
        """Click what leads to a page, and wait until it is there.

        A click alone is over when the answer begins to come: who then counts sees half a page, or the one before.
        """
        with self.page.expect_navigation():
            button.click()

    def check(self, name: str) -> None:
        """Nothing serious by axe-core, the banner stands there, nothing runs off the page.

        Both wide and light, and narrow and dark. A screenshot of each where they are wanted, and the page as it prints.
        A page that somebody came by before is not looked at again, but for its banner.
        """
        page, usual = self.page, self.page.viewport_size
        assert page.locator(".banner").inner_text() == "Candidate, not identified"
        if name in self.seen:
            return
        dark = page.evaluate("matchMedia('(prefers-color-scheme: dark)').matches")
        for width, scheme in ((usual["width"], "light"), (NARROW, "dark")):
            page.set_viewport_size({**usual, "width": width})
            page.emulate_media(color_scheme=scheme)
            bad = [(one["id"], one["impact"], [node["html"][:120] for node in one["nodes"]]) for one in violations(page)
                   if one["impact"] in SERIOUS]  # fmt: skip
            assert not bad, (name, width, bad)
            assert page.evaluate("document.documentElement.scrollWidth") <= width, (name, width)
            if SHOTS:
                page.screenshot(path=f"{SHOTS}/{name}-{scheme}.png", full_page=True)
        page.set_viewport_size(usual)
        page.emulate_media(color_scheme="dark" if dark else "light")
        if SHOTS:
            page.pdf(path=f"{SHOTS}/{name}.pdf")
        self.seen.add(name)


def violations(page: Any) -> list[dict[str, Any]]:
    """What axe-core finds. It is loaded once a page, and what it finds in order stays in the browser: that is long."""
    from axe_playwright_python.sync_playwright import Axe

    if not page.evaluate("'axe' in window"):
        page.evaluate(Axe().axe_script)
    found: list[dict[str, Any]] = page.evaluate("axe.run({resultTypes: ['violations']}).then(all => all.violations)")
    return found


class People:
    """Everybody at a browser of their own, signed in when first asked for."""

    def __init__(self, browser: Any, nodes: Running) -> None:
        self.browser, self.nodes = browser, nodes
        self.known: dict[str, Person] = {}
        self.seen: set[str] = set()

    def __call__(self, node: str, handle: str, **context: Any) -> Person:
        name = f"{node}-{handle}"
        if name not in self.known:
            person = self.visitor(node, **context)
            person.key = self.nodes.staged.keys / f"{name}.key"
            person.sign_in(handle, self.nodes.staged.password)
            self.known[name] = person
        return self.known[name]

    def visitor(self, node: str, **context: Any) -> Person:
        page = self.browser.new_context(viewport={"width": 1100, "height": 800}, **context).new_page()
        page.set_default_timeout(20_000)
        page.on("pageerror", lambda error: pytest.fail(f"script error: {error}"))
        page.on("console", lambda said: pytest.fail(said.text) if "Content Security" in said.text else None)
        return Person(page, self.nodes.staged.address(node), None, self.seen)


def passkey(people: People, node: str, handle: str) -> Person:
    """An administrator invites a person again, who comes with a passkey of a software authenticator."""
    admin = people(node, "alma")
    admin.page.goto(f"{admin.origin}/staff")
    show(admin, "to invite again", "Show staff list and door")
    admin.go(admin.page.get_by_role("row", name=re.compile(f"^{handle}")).get_by_role("button", name="Invite again"))
    token = admin.page.locator("[data-invitation]").inner_text()
    admin.check("staff")
    person = people.visitor(node)
    page = person.page
    session = page.context.new_cdp_session(page)
    session.send("WebAuthn.enable")
    session.send("WebAuthn.addVirtualAuthenticator", {"options": {
        "protocol": "ctap2", "transport": "internal", "hasUserVerification": True, "isUserVerified": True,
        "automaticPresenceSimulation": True}})  # fmt: skip
    page.goto(f"{person.origin}/join")
    person.check("join")
    page.get_by_label("One-time token").fill(token)
    page.get_by_label("New password").fill("passkey-Password-99")
    person.go(page.get_by_role("button", name="Continue"))
    person.check("join-key")
    page.get_by_role("button", name="Make a passkey").click()
    page.wait_for_url(f"{person.origin}/")
    person.go(page.get_by_role("button", name="Sign out"))
    person.sign_in(handle, "passkey-Password-99")
    return person


def show(person: Person, reason: str, button: str) -> None:
    """Give the reason that a look needs."""
    form = person.page.locator("form", has=person.page.get_by_role("button", name=button))
    form.get_by_label("Why do you look").fill(reason)
    person.go(form.get_by_role("button", name=button))


def refused(person: Person, kind: str) -> None:
    assert person.page.locator(f"[role=alert][data-kind={kind}]").count() == 1, person.page.locator("main").inner_text()
    person.check(f"refused-{kind}")


def open_query(person: Person, photo: Any, case: str = "2026/0417", authorisation: str = "TJ Paris 26-331") -> str:
    page = person.page
    page.goto(f"{person.origin}/queries/new")
    person.check("new")
    page.get_by_label("Photo").set_input_files(photo)
    page.get_by_role("button", name="Upload").click()
    page.wait_for_url("**/queries/new/*")
    assert page.locator("svg rect").count() >= 1
    person.check("describe")
    page.get_by_label("Case number").fill(case)
    page.get_by_label("Offence").fill("armed robbery")
    page.get_by_label("Judicial authorisation").fill(authorisation)
    page.get_by_role("button", name="Put up for approval").click()
    page.wait_for_url(re.compile(r"/queries/[0-9a-f]{32}$"))
    return str(page.url.rsplit("/", 1)[1])


def approve(person: Person, query: str) -> None:
    page = person.page
    page.goto(f"{person.origin}/queries/{query}")
    form = page.locator("form", has=page.get_by_role("button", name="Look and go on to sign"))
    form.get_by_label("Why do you look").fill("to approve the launch")
    person.go(form.get_by_role("button"))
    person.sign()


def review(person: Person, query: str, verdict: str, row: int = 0) -> str:
    """Lock a decision on a candidate; gives its ID."""
    page = person.page
    page.goto(f"{person.origin}/review/{query}")
    person.check("review")
    text = page.locator("main").inner_text()
    assert not re.search(r"\bscore:|\brank:", text)
    person.go(page.get_by_role("link", name="Compare").nth(row))
    page.get_by_label("Why do you look").fill("to review")
    person.go(page.get_by_role("button", name="Show side by side"))
    assert page.locator("img.photo").count() == 2
    person.check("candidate")
    page.get_by_label(verdict, exact=True).check()
    page.get_by_label("Features compared").fill("ears and brows compared")
    person.go(page.get_by_role("button", name="Lock my decision"))
    assert page.url.endswith(f"/review/{query}")
    return query


def reload_until(person: Person, text: str, seconds: float = 90) -> None:
    """Show the page anew until it says so. It is asked for without being shown meanwhile, which costs little."""
    page, deadline = person.page, time.monotonic() + seconds
    while text not in page.locator("main").inner_text():
        assert time.monotonic() < deadline, f"{text!r} never came: {page.locator('main').inner_text()}"
        if text in page.request.get(page.url).text():
            page.reload()
        else:
            page.wait_for_timeout(300)


def ask(officer: Person) -> None:
    officer.page.get_by_label("Category of the offence").fill("robbery")
    officer.page.get_by_label("Facts").fill("Planted: seen at the bank")
    officer.go(officer.page.get_by_role("button", name="Go on to sign"))


def release(lena: Person, request: str) -> None:
    page = lena.page
    page.goto(f"{lena.origin}/core-data/{request}")
    lena.check("request")
    page.get_by_label("Why do you look").fill("to decide")
    lena.go(page.get_by_role("button", name="Show facts and data"))
    assert "seen at the bank" in page.locator("main").inner_text()
    fill_release(lena)
    lena.sign()


def fill_release(lena: Person) -> None:
    for label, value in RECORD.items():
        lena.page.get_by_label(label).fill(value)
    release = lena.page.locator("form", has=lena.page.get_by_label("Family names"))
    lena.go(release.get_by_role("button", name="Go on to sign"))
