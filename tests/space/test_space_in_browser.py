"""The page with real answers: what lights up with what, on large and small screens. Screenshots are kept to look at."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

import pytest
from PIL import Image

from .browser import Visit, screenshot, select, show_unanswered
from .running_demo import LIMITS, SCENE, image_bytes

SCENE_SIZE = (300, 216)
READY = ".lv[data-state='ready']"
# Whether the viewer has an image of this size, answered or not.
SHOWS = "size => document.querySelector('.lv-overlay').getAttribute('viewBox') === `0 0 ${size[0]} ${size[1]}`"


@pytest.fixture
def open_scene(demo: Any, visit: Callable[..., Visit]) -> Callable[..., Any]:
    """open_scene(query, **context options) -> the page with the example image and no answer yet."""

    def go(query: str = "", **options: Any) -> Any:
        page = visit(f"{demo.url}{query}", settled="#ask", **options).page
        show_unanswered(page, page.get_by_role("button", name="scene").click)
        return page

    return go


def ask(page: Any, task: str, note: str, *, phrase: str = "") -> None:
    """Choose a task, ask, and wait for the whole answer, of which the status line says `note` (a pattern)."""
    select(page, "#task", task)
    if phrase:
        page.fill("#phrase textarea", phrase)
    page.click("#ask")
    page.wait_for_function("note => new RegExp(note).test(document.querySelector('#status').innerText)", arg=note)
    page.wait_for_selector(READY)


def choose_model_with_all_heads(page: Any) -> None:
    page.get_by_role("button", name="Place, beams, model").click()
    page.locator("#model input").click()
    page.get_by_role("option", name="checkpoint").click()
    page.locator("#task").get_by_label("Describe everything", exact=True).wait_for()


def on_screen(page: Any, x: float, y: float) -> tuple[float, float]:
    page.locator(".lv-frame").scroll_into_view_if_needed()
    frame = page.locator(".lv-frame").bounding_box()
    return frame["x"] + x * frame["width"] / SCENE_SIZE[0], frame["y"] + y * frame["height"] / SCENE_SIZE[1]


def locations_of(page: Any) -> list[list[float]]:
    """The points of the words, in the image's pixels, as they are drawn."""
    return page.eval_on_selector_all(".lv-places [data-x]", "dots => dots.map(dot => [+dot.dataset.x, +dot.dataset.y])")


def test_the_page_opens_with_an_answered_example_and_thumbnails_of_all(demo, visit):
    page = visit(demo.url, settled="#ask").page
    page.wait_for_function(SHOWS, arg=SCENE_SIZE)
    assert page.locator(f"{READY} .lv-word").count() >= 3 and "words in" in page.locator("#status").inner_text()
    for name in ("coffee", "scene"):
        thumbnail = page.get_by_role("button", name=name).locator("img")
        assert thumbnail.evaluate("image => image.complete && image.naturalWidth > 1")
    page.click("#ask")  # what is shown is what is asked about
    page.wait_for_selector("#status:has-text('words in')")


@pytest.mark.parametrize("way", ["example", "upload"])
def test_choosing_an_image_starts_the_answer(demo, visit, tmp_path, way):
    page = visit(demo.url, settled="#ask").page
    if way == "example":
        page.get_by_role("button", name="coffee").click()
        size = [480, 320]
    else:
        Image.open(SCENE).crop((0, 0, 200, 216)).save(tmp_path / "mine.png")
        page.locator("#image input[type=file]").first.set_input_files(tmp_path / "mine.png")
        size = [200, 216]
    page.wait_for_function(SHOWS, arg=size)
    page.wait_for_selector(f"{READY} .lv-word")
    page.wait_for_selector("#status:has-text('words in')")


def test_on_a_phone_the_answer_comes_before_the_options_and_asking_brings_it_into_sight(demo, visit):
    page = visit(demo.url, settled="#ask", viewport={"width": 390, "height": 780}, has_touch=True, is_mobile=True).page
    tops = [page.locator(name).bounding_box()["y"] for name in ("#examples", "#viewer", "#task", "#ask")]
    assert tops == sorted(tops)
    divider = page.locator("footer .divider").all()
    assert divider and not any(dot.is_visible() for dot in divider), "nothing stands before it that it would divide"
    page.locator("#ask").scroll_into_view_if_needed()
    assert page.locator(".lv-stage").evaluate("stage => stage.getBoundingClientRect().top") < 0
    page.locator("#ask").tap()
    page.wait_for_function("() => document.querySelector('.lv-stage').getBoundingClientRect().top >= 0")


def test_the_caption_streams_in_and_every_word_lights_up_as_it_is_written(open_scene):
    page = open_scene()
    page.evaluate("""() => {
        window.seen = { lengths: [], lit: [], glows: 0 };
        const image = document.querySelector('.lv-image');
        new MutationObserver(() => { window.seen.reloaded = true; }).observe(image, { attributeFilter: ['src'] });
        new MutationObserver(() => {
            if (document.querySelector('.lv').dataset.state !== 'writing') return;
            const text = document.querySelector('.lv-text');
            const length = text ? text.textContent.length : 0;
            if (length && window.seen.lengths.at(-1) !== length) window.seen.lengths.push(length);
            const lit = document.querySelector('.lv-word.lv-lit');
            if (!lit || window.seen.lit.at(-1) === lit.dataset.word) return;
            window.seen.lit.push(lit.dataset.word);
            if (document.querySelector(`.lv-glow [data-word="${lit.dataset.word}"]`)) window.seen.glows += 1;
        }).observe(document.querySelector('.lv'), { childList: true, subtree: true, attributes: true });
    }""")
    page.click("#ask")
    page.wait_for_selector("#status:has-text('words in')")
    page.wait_for_selector(READY)
    seen = page.evaluate("() => window.seen")
    assert len(seen["lengths"]) >= 3 and seen["lengths"] == sorted(seen["lengths"]), "the text grows word by word"
    assert seen["lit"] == sorted(seen["lit"], key=int) and len(seen["lit"]) >= 3
    assert seen["glows"] == len(seen["lit"]), "a lit word's location glows on the image"
    assert "reloaded" not in seen
    assert page.locator(".lv-word.lv-lit").count() == 0, "afterwards all is calm"


def test_words_and_places_of_a_real_caption_light_up_each_other(open_scene):
    page = open_scene()
    ask(page, "Describe", "words in")
    words = page.locator(".lv-word")
    places = locations_of(page)
    assert words.count() == len(places) >= 3
    for number in (0, words.count() - 1):
        words.nth(number).hover()
        page.wait_for_selector(f".lv-glow .lv-tag-text:has-text('{number + 1} ')", state="attached")
    page.mouse.move(*on_screen(page, *places[-1]))
    page.wait_for_selector(".lv-word.lv-lit")
    lit = page.locator(".lv-word.lv-lit, .lv-word.lv-near").evaluate_all("nodes => nodes.map(n => +n.dataset.number)")
    assert len(places) in lit, "the word whose location is pointed at, and those whose place is there too"
    screenshot(page, "space-caption")


def test_a_region_is_drawn_and_described_and_stays_marked(open_scene):
    page = open_scene()
    page.click("[data-tool=box]")
    page.mouse.move(*on_screen(page, 40, 30))
    page.mouse.down()
    page.mouse.move(*on_screen(page, 200, 180), steps=4)
    page.mouse.up()
    page.wait_for_selector("#status:has-text('words in')")
    page.wait_for_selector(f"{READY} .lv-word")
    marked = page.locator(".lv-prompts rect.lv-line")
    box = [float(marked.get_attribute(name)) for name in ("x", "y", "width", "height")]
    assert box == pytest.approx([40, 30, 160, 150], abs=1.5)
    page.click("[data-tool=point]")
    page.mouse.click(*on_screen(page, 220, 120))
    page.wait_for_selector(f"{READY} .lv-prompts .lv-cross", state="attached")
    assert page.locator(".lv-prompts rect").count() == 0
    screenshot(page, "space-region")


def test_a_phrase_that_is_found_is_an_object_linked_both_ways(open_scene):
    page = open_scene()
    ask(page, "Find", "Found in", phrase="the duck")
    assert "the duck" in page.locator(".lv-object .lv-text").inner_text()
    x, y, width, height = (
        float(page.locator(".lv-objects rect.lv-line").get_attribute(name)) for name in ("x", "y", "width", "height")
    )
    page.mouse.move(*on_screen(page, x + width / 2, y + height / 2))
    page.wait_for_selector(".lv-object.lv-lit")
    screenshot(page, "space-refer")
    page.mouse.move(1, 1)
    page.wait_for_selector(".lv-object:not(.lv-lit)")
    page.locator(".lv-number").hover()
    page.wait_for_selector(".lv-glow [data-answer='0']", state="attached")


def test_masks_and_all_objects_of_a_model_with_all_heads_are_shown(open_scene):
    page = open_scene()
    choose_model_with_all_heads(page)
    ask(page, "Find and cut out", "Found in", phrase="a red cat")
    assert page.locator(".lv-object").count() == 1
    ask(page, "Describe everything", "objects? in|Nothing was found in")
    note = page.locator("#status").inner_text()
    count = page.locator(".lv-object").count()
    assert note.startswith(f"{count} object") if count else note.startswith("Nothing was found")
    assert page.locator(".lv-objects .lv-shape").count() == count
    if count:
        last = page.locator(".lv-number").last
        last.scroll_into_view_if_needed()
        last.hover()
        page.wait_for_selector(f".lv-glow [data-answer='{count - 1}']", state="attached")
    screenshot(page, "space-dense")


def blank(size: tuple[int, int]) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", size).save(buffer, "PNG")
    return buffer.getvalue()


def oversized() -> bytes:
    return blank((80, 60)) + b"\0" * LIMITS.upload_bytes


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("notes.png", b"these are words", "not an image in a known format"),
        ("large.png", oversized(), "exceeds|too large|maximum"),
        ("wide.png", blank((2000, 1001)), "million pixels"),
    ],
)
def test_a_file_that_cannot_be_taken_is_refused_and_the_next_one_is_shown(
    demo, visit, tmp_path, name, content, message
):
    one = visit(demo.url, settled="#ask")
    page = one.page
    bad, good = tmp_path / name, tmp_path / "good.png"
    bad.write_bytes(content)
    good.write_bytes(image_bytes((200, 120)))
    page.locator("#image input[type=file]").first.set_input_files(bad)
    page.wait_for_function(
        "rule => new RegExp(rule, 'i').test([...document.querySelectorAll('.toast-body')].map(n => n.innerText))",
        arg=message,
    )
    screenshot(page, f"space-refused-{bad.stem}")
    page.reload()
    page.wait_for_selector("#ask")
    page.locator("#image input[type=file]").first.set_input_files(good)
    page.wait_for_function(SHOWS, arg=[200, 120])
    one.errors = [text for text in one.errors if "status of 413" not in text]  # the browser reports the refusal itself


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("width", [360, 1280])
def test_the_page_fits_phones_and_desks_in_both_themes(open_scene, theme, width):
    phone = {"has_touch": True, "is_mobile": True} if width < 500 else {}
    page = open_scene(f"?__theme={theme}", viewport={"width": width, "height": 800}, **phone)
    ask(page, "Describe", "words in")
    assert page.evaluate("() => document.documentElement.scrollWidth") <= width
    assert page.evaluate("() => document.body.classList.contains('dark')") is (theme == "dark")
    word = page.locator(".lv-word").nth(1)
    word.scroll_into_view_if_needed()
    if phone:
        word.tap()
    else:
        word.click()
    page.wait_for_selector(".lv-glow .lv-shape", state="attached")
    screenshot(page, f"space-{width}-{theme}")


def test_the_image_is_made_for_the_page_and_not_the_visitors_file(demo, visit, tmp_path):
    file = tmp_path / "mine.png"
    Image.open(io.BytesIO(image_bytes((200, 120)))).save(file)
    page = visit(demo.url, settled="#ask").page
    page.locator("#image input[type=file]").first.set_input_files(file)
    page.wait_for_function(SHOWS, arg=[200, 120])
    assert page.locator(".lv-image").get_attribute("src").startswith("data:image/jpeg;base64,")
