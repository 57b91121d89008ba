"""What the page does besides answering, in a browser: keyboard, mistakes, files, links."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from PIL import Image

from .browser import Visit, select, show_unanswered
from .running_demo import image_bytes

SIDES = ("left", "top", "right", "bottom")
READY = ".lv[data-state='ready']"


@pytest.fixture
def open_page(demo: Any, visit: Callable[..., Visit]) -> Callable[..., Any]:
    """Opens the demo; with `example` it shows this image, and nothing is asked about it yet."""

    def go(query: str = "", *, example: str = "", **options: Any) -> Any:
        page = visit(f"{demo.url}{query}", settled="#ask", **options).page
        if example:
            show_unanswered(page, page.get_by_role("button", name=example).click)
        return page

    return go


def choose(page: Any, task: str) -> None:
    select(page, "#task", task)


def answered(page: Any, note: str) -> None:
    page.wait_for_selector(f"#status:has-text('{note}')")


def caption_of(page: Any) -> str:
    return " ".join(page.locator(".lv-text").first.inner_text().split())


def fill_box(page: Any, box: tuple[int, int, int, int]) -> None:
    page.get_by_role("button", name="Place, beams, model").click()
    wanted = {page.locator(f"#box-{side} input"): str(v) for side, v in zip(SIDES, box, strict=True)}
    for _ in range(40):  # gradio makes the fields while the accordion opens, and again
        for field, value in wanted.items():
            if field.input_value() != value:
                field.fill(value)
                field.blur()
        page.wait_for_timeout(500)  # a moment in which nothing takes the numbers back, and the page learns of them
        if all(field.input_value() == value for field, value in wanted.items()):
            return
    raise AssertionError(f"the fields do not keep {box}")


def test_a_box_can_be_given_by_keyboard_alone(open_page):
    page = open_page(example="scene")
    choose(page, "Describe a place")
    fill_box(page, (10, 10, 120, 110))
    page.locator("#ask").focus()
    page.keyboard.press("Enter")
    answered(page, "words in")


def test_an_uploaded_image_is_asked_for_a_phrase(open_page, tmp_path):
    page = open_page()
    file = tmp_path / "mine.png"
    file.write_bytes(image_bytes((200, 120)))
    show_unanswered(page, lambda: page.locator("#image input[type=file]").first.set_input_files(file))
    page.wait_for_selector("#phrase", state="hidden")
    choose(page, "Find")
    page.fill("#phrase textarea", "the <b>duck</b>")
    page.keyboard.press("Enter")
    answered(page, "Found in")
    assert "the <b>duck</b>" in page.locator(".lv-answers").inner_text(), "what looks like markup is text"


def test_mistakes_are_told_and_leave_the_page_usable(open_page):
    page = open_page()
    page.get_by_role("button", name="Remove Image").click()
    page.wait_for_selector(".lv[data-state='empty']")
    page.click("#ask")
    page.wait_for_selector("text=an image is needed")
    show_unanswered(page, page.get_by_role("button", name="scene").click)
    choose(page, "Find")
    page.click("#ask")
    page.wait_for_selector("text=write what to find")
    page.fill("#phrase textarea", "the duck")
    page.click("#ask")
    answered(page, "Found in")


@pytest.mark.parametrize("form", ["JSON", "COCO", "LabelMe", "PNG"])
def test_answers_can_be_taken_away(open_page, tmp_path, form):
    page = open_page(example="scene")
    page.click("#ask")
    answered(page, "words in")
    page.get_by_role("button", name="Take it with you").click()
    select(page, "#format", form)
    page.click("#make-file")
    page.wait_for_selector("#file a[download]")
    with page.expect_download() as download:
        page.locator("#file a[download]").first.click()
    saved = tmp_path / download.value.suggested_filename
    download.value.save_as(saved)
    if form == "PNG":
        assert Image.open(saved).width == 1600
        page.wait_for_selector("#drawing img")
    else:
        content = json.loads(saved.read_text())
        assert caption_of(page).split()[3] in saved.read_text()
        assert page.locator("#text").is_visible()
        assert form != "COCO" or content["images"][0]["file_name"] == "scene.jpg"


def test_a_link_shows_the_same_again(open_page):
    page = open_page(example="scene")
    choose(page, "Describe a place")
    fill_box(page, (10, 10, 120, 110))
    page.click("#ask")
    answered(page, "words in")
    page.get_by_role("button", name="Take it with you").click()
    page.click("#make-link")
    page.wait_for_function("() => document.querySelector('#link textarea, #link input').value.startsWith('http')")
    link = page.locator("#link textarea, #link input").first.input_value()
    query = link.partition("/?")[2]
    assert "example=scene" in query and "box=10%2C10%2C120%2C110" in query
    other = open_page(f"?{query}")
    other.wait_for_selector(".lv-prompts rect", state="attached")  # the opening caption has none
    answered(other, "words in")
    assert caption_of(other) == caption_of(page)
    assert other.locator("#task").get_by_label("Describe a place").is_checked()


@pytest.mark.parametrize(
    "query", ["?example=nobody", "?file=/etc/passwd", "?picture=" + "0" * 64, "?example=scene&task=x"]
)
def test_a_link_that_cannot_be_followed_says_so(open_page, query):
    page = open_page(query)
    page.wait_for_selector(".toast-body")
    assert page.locator(f"{READY} .lv-word").count() >= 3, "the page is as it opens without a link"
