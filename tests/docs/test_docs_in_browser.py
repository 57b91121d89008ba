"""The built documentation in a browser, from the disk and from a server: search finds, titles break between words."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from ..space.browser import Visit


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *args: Any) -> None:
        pass


@pytest.fixture(params=["disk", "server"])
def site(request: pytest.FixtureRequest, build: tuple[Path, str]) -> Iterator[str]:
    """The address of the built pages."""
    if request.param == "disk":
        yield build[0].as_uri()
        return
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(build[0])))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()


def test_search_finds_a_page_by_a_word_of_it(site: str, visit: Callable[..., Visit]):
    page = visit(f"{site}/index.html").page
    page.locator(".md-search__input").click()  # reads the index
    page.wait_for_function("() => /start/.test(document.querySelector('.md-search-result__meta').textContent)")
    page.keyboard.type("on_error")
    page.wait_for_selector(".md-search-result__item")
    found = page.locator(".md-search-result__link").first.get_attribute("href")
    assert ".html" in found


def test_long_titles_break_between_their_parts_and_stay_within_a_phone(
    build: tuple[Path, str], visit: Callable[..., Visit]
):
    page = visit(f"{build[0].as_uri()}/reference/processing.html", viewport={"width": 360, "height": 800}).page
    assert page.evaluate("() => document.documentElement.scrollWidth") <= 360
    # The last letter of every line of a title, unless it is the title's last one.
    ends = page.evaluate("""() => [...document.querySelectorAll('.doc-object-name')].flatMap((name) => {
        const ends = [];
        const walker = document.createTreeWalker(name, NodeFilter.SHOW_TEXT);
        let last = null;
        for (let node; (node = walker.nextNode()); ) for (let i = 0; i < node.length; i++) {
            const range = document.createRange();
            range.setStart(node, i);
            range.setEnd(node, i + 1);
            const { top } = range.getBoundingClientRect();
            if (last && top > last.top + 4) ends.push(last.letter);
            last = { top, letter: node.data[i] };
        }
        return ends;
    })""")
    assert len(ends) > 3, "some are too long for a line"
    assert set(ends) <= {".", "_"}
