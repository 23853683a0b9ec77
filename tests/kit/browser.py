"""Debian's Chromium driven by Playwright, and four nodes that run with their consoles."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from nodes.cli.demo import serving
from nodes.cli.demo_console import Staged, stage
from nodes.console.server import close_site, open_site
from nodes.console.web import Site
from pets.faces import FaceModel
from tests.kit.console import Turned, no_limits, served

CHROMIUM = next((path for name in ("chromium", "chromium-browser") if (path := shutil.which(name))), None)
SHOTS = os.environ.get("LINEUP_SCREENSHOTS")
SERIOUS = ("serious", "critical")


def needs_chromium() -> str:
    """Where Chromium is; skips the test, saying so, where it is not."""
    if CHROMIUM is None:
        pytest.skip("no chromium on this machine: the tests in a browser are skipped (apt-get install chromium)")
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


@contextmanager
def running(root: Path) -> Iterator[Running]:
    """Small galleries with the demo's photos; the nodes as processes, the consoles in this one."""
    made = Running(stage(root, "cpu", Console(stderr=True, quiet=True), people=200))
    with serving(root, Console(quiet=True)), ExitStack() as stack:
        for name in ("FR", "ES", "EU"):
            site = made.sites[name] = open_site(root / name, lambda: FaceModel.load(None, "cpu"))
            stack.callback(close_site, site)
            site.limits = no_limits()
            if name == "ES":
                site.operations.desk.office = replace(site.operations.desk.office, clock=made.clock)
            stack.enter_context(served(site))
        yield made


@dataclass
class Person:
    """Somebody at a browser of their own. `seen`: pages whose accessibility was looked at."""

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
        before = self.page.url
        self.show_key()
        self.page.wait_for_function("before => location.href !== before", arg=before)

    def check(self, name: str) -> None:
        """Nothing serious by axe-core, the banner stands there; a screenshot where they are wanted."""
        from axe_playwright_python.sync_playwright import Axe

        page = self.page
        assert page.locator(".banner").inner_text() == "Candidate, not identified"
        found = Axe().run(page).response["violations"]
        bad = [(one["id"], one["impact"], [node["html"][:120] for node in one["nodes"]]) for one in found
               if one["impact"] in SERIOUS]  # fmt: skip
        assert not bad, (name, bad)
        self.seen.add(name)
        if SHOTS:
            page.screenshot(path=f"{SHOTS}/{name}.png", full_page=True)
