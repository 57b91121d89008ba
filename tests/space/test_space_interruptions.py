"""What comes in between while an answer is written: errors, other images, visitors who leave, others who wait."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pixelllm_hf.inference import TooSlowError
from pixelllm_hf.space.service import Service

from .browser import Visit, screenshot, show_unanswered
from .made_up import growing, made_up_caption, made_up_image
from .running_demo import SCENE, ask, uploaded

READY = ".lv[data-state='ready']"
CAPTION = made_up_caption()


class SlowService:
    """Stands in for `Service.stream`: a made-up caption, a word whenever a test says `next_word.release()`."""

    def __init__(self) -> None:
        self.next_word = threading.Semaphore(0)
        self.fails_after: int | None = None
        self.begun = 0
        self.broken_off = threading.Event()

    def stream(self, image: Any, request: Any, **options: Any) -> Iterator[list[Any]]:
        self.begun += 1
        try:
            for number, part in enumerate(growing(CAPTION)):
                if number == self.fails_after:
                    raise TooSlowError("the answer took longer than a test allows and was stopped.")
                assert self.next_word.acquire(timeout=300)
                yield [replace(part, image_size=image.size)]
            yield [replace(CAPTION, image_size=image.size)]
        except GeneratorExit:
            self.broken_off.set()
            raise


@pytest.fixture
def slow(monkeypatch: pytest.MonkeyPatch) -> Iterator[SlowService]:
    service = SlowService()
    monkeypatch.setattr(Service, "stream", lambda self, *args, **options: service.stream(*args, **options))
    yield service
    service.next_word.release(1000)  # nothing goes on waiting


@pytest.fixture
def open_image(demo: Any, visit: Callable[..., Visit], tmp_path: Path) -> Callable[[], Any]:
    """A new visitor's page with the made-up image on it."""
    file = tmp_path / "mine.png"
    made_up_image().save(file)

    def go() -> Any:
        page = visit(demo.url, settled="#ask").page
        upload = page.locator("#image input[type=file]").first
        show_unanswered(page, lambda: upload.set_input_files(file))
        return page

    return go


def ask_and_see(page: Any, slow: SlowService, words: int) -> None:
    """Ask, and wait until so many words are on the page, of more that will come."""
    page.click("#ask")
    slow.next_word.release(words)
    page.wait_for_selector(f".lv-writing .lv-text:has-text('{CAPTION.text[: CAPTION.words[words - 1].end]}')")


def is_broken_off(slow: SlowService) -> bool:
    """Whether the answer ends before its last word. A generator can be closed only when it waits for its caller."""
    for _ in CAPTION.words:
        slow.next_word.release()
        if slow.broken_off.wait(5):
            return True
    return False


def answer_on(page: Any) -> str:
    return " ".join(page.locator(".lv-text").all_inner_texts())


def test_a_caption_that_breaks_off_keeps_its_words_and_is_no_longer_being_written(open_image, slow):
    slow.fails_after = 3
    page = open_image()
    ask_and_see(page, slow, 2)
    slow.next_word.release()
    page.wait_for_selector(".toast-body:has-text('longer than a test allows')")
    page.wait_for_selector(READY)
    assert page.locator(".lv-writing").count() == 0, "no caret blinks"
    words = page.locator(".lv-word").all_inner_texts()
    assert words == ["dog"], "what was written stays"
    assert page.locator(".lv-word.lv-lit").count() == 0
    assert "Writing" not in page.locator("#status").inner_text()
    screenshot(page, "space-broken-off")
    slow.fails_after = None
    slow.next_word.release(1000)
    page.click("#ask")
    page.wait_for_selector("#status:has-text('words in')")


def test_another_image_takes_the_place_of_what_is_being_written(open_image, slow):
    page = open_image()
    mine = page.locator(".lv-image").get_attribute("src")
    ask_and_see(page, slow, 2)
    page.get_by_role("button", name="scene").click()
    page.wait_for_function("mine => document.querySelector('.lv-image').getAttribute('src') !== mine", arg=mine)
    scene = page.locator(".lv-image").get_attribute("src")
    assert is_broken_off(slow), "nobody writes on about the image that has gone"
    slow.next_word.release(1000)  # choosing the other one has asked about it
    page.wait_for_selector("#status:has-text('words in')")
    assert page.locator(".lv-image").get_attribute("src") == scene
    assert answer_on(page).startswith("A dog")


def test_a_box_drawn_while_another_answer_is_written_is_asked_about_at_once(open_image, slow):
    page = open_image()
    ask_and_see(page, slow, 2)
    page.click("[data-tool=point]")
    page.locator(".lv-overlay").click()
    page.wait_for_function(
        "() => document.querySelector('#task input:checked').closest('label').innerText.trim() === 'Describe a place'"
    )
    assert is_broken_off(slow)
    slow.next_word.release(1000)
    page.wait_for_selector("#status:has-text('words in')")
    assert slow.begun == 2


def test_a_visitor_who_leaves_in_the_middle_leaves_the_model_free(demo, open_image, monkeypatch):
    real, closed, next_word = Service.stream, threading.Event(), threading.Semaphore(0)

    def slowly(self: Service, *args: Any, **options: Any) -> Iterator[Any]:
        try:
            for results in real(self, *args, **options):
                yield results
                next_word.acquire(timeout=300)
        except GeneratorExit:
            closed.set()
            raise

    monkeypatch.setattr(Service, "stream", slowly)
    page = open_image()
    page.click("#ask")
    page.wait_for_selector(".lv-writing .lv-text")
    page.context.close()
    deadline = time.monotonic() + 120
    while not closed.is_set() and time.monotonic() < deadline:
        time.sleep(3)  # the server looks every ten seconds whether somebody is still there
        next_word.release()
    assert closed.is_set(), "the rest was not written for nobody"
    succeeded, answers = ask(demo.url, "caption", uploaded(demo.url, SCENE.read_bytes(), "scene.jpg"), 1, "")
    assert succeeded and answers[0]["words"]


def test_who_has_to_wait_is_told_how_many_are_before(open_image, slow):
    first, second = open_image(), open_image()
    ask_and_see(first, slow, 1)
    second.click("#ask")
    second.wait_for_function("() => /queue: *1 *\\/ *1/.test(document.querySelector('#status').innerText)")
    screenshot(second, "space-queue")
    slow.next_word.release(1000)
    for page in (first, second):
        page.wait_for_selector("#status:has-text('words in')")
        assert answer_on(page) == CAPTION.text
