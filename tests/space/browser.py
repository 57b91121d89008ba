"""Headless Chromium for the tests of the page: it runs on this machine only, and what it complains about is kept."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")

SCREENSHOTS = Path(__file__).with_name("screenshots")  # git-ignored; to be looked at
PATIENCE_MS = 120_000  # until a condition holds; a busy machine is slow, not wrong
_FLAGS = (
    "--no-sandbox --disable-gpu --disable-background-networking --disable-component-update --disable-sync "
    "--no-first-run"
).split()
_HERE = ("127.0.0.1", "localhost", "")  # "": data: and blob: addresses


@dataclass
class Visit:
    """A page of a visitor, and what went wrong on it."""

    page: Any
    errors: list[str] = field(default_factory=list)
    outside: list[str] = field(default_factory=list)
    left: bool = False

    def listen(self) -> Visit:
        self.page.on("console", lambda message: message.type == "error" and self._complain(message.text))
        self.page.on("pageerror", lambda error: self._complain(str(error)))
        return self

    def leave(self) -> None:
        """Close the page. That it then breaks off what it was fetching is no fault of it."""
        self.left = True
        self.page.context.close()

    def _complain(self, text: str) -> None:
        if not self.left:
            self.errors.append(text)

    def check(self) -> None:
        assert not self.outside, f"the page asked another machine: {self.outside}"
        assert not self.errors, f"the page's console has errors: {self.errors}"


@pytest.fixture(scope="module")  # while it runs, its event loop keeps others from running in this thread
def chromium() -> Iterator[Any]:
    """The running browser; without it the tests that need it are skipped by name."""
    playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright: pip install playwright")
    pytest.importorskip("gradio", reason="needs gradio: pip install pixelllm-hf[demo]")
    path = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if path is None:
        pytest.skip("needs a Chromium, Debian's package chromium for one")
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=path, args=_FLAGS, timeout=PATIENCE_MS)
        yield browser
        browser.close()


@pytest.fixture
def visit(chromium: Any) -> Iterator[Callable[..., Visit]]:
    """visit(url, **context options) opens a page; at the end of the test every page must be free of complaints."""
    visits: list[Visit] = []

    def go(url: str, *, settled: str = "", **options: Any) -> Visit:
        options = {"viewport": {"width": 1100, "height": 900}} | options
        context = chromium.new_context(**options)
        context.set_default_timeout(PATIENCE_MS)
        context.set_default_navigation_timeout(PATIENCE_MS)
        one = Visit(context.new_page()).listen()

        def gate(route: Any) -> None:
            if urlsplit(route.request.url).hostname in _HERE or urlsplit(route.request.url).scheme in (
                "data",
                "blob",
                "file",
            ):
                route.continue_()
            else:
                one.outside.append(route.request.url)
                route.abort()

        context.route("**/*", gate)
        visits.append(one)
        one.page.goto(url)
        if settled:
            one.page.wait_for_selector(settled)
        return one

    yield go
    for one in visits:
        one.leave()
    for one in visits:
        one.check()


def select(page: Any, group: str, label: str) -> None:
    """Choose a radio button: a page that draws itself anew may lose the click, which `check` does not repeat."""
    radio = page.locator(group).get_by_label(label, exact=True)
    for _ in range(10):
        radio.click()
        for _ in range(20):
            if radio.is_checked():
                return
            page.wait_for_timeout(100)
    raise AssertionError(f"{label} of {group} cannot be chosen")


def show_unanswered(page: Any, choose: Callable[[], None]) -> None:
    """Have an image chosen and not asked about, which choosing it does else: the task wants a phrase meanwhile."""
    select(page, "#task", "Find")
    choose()
    page.wait_for_selector("#status:has-text('Write what to find')")
    select(page, "#task", "Describe")


def screenshot(page: Any, name: str) -> None:
    SCREENSHOTS.mkdir(exist_ok=True)
    page.screenshot(path=SCREENSHOTS / f"{name}.png", full_page=True)
