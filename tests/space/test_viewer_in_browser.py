from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest
from PIL import Image

from .browser import Visit, screenshot
from .made_up import LOCATION_FIELDS, SIZE, made_up_answer, made_up_caption, made_up_image, made_up_object, made_up_word

pytest.importorskip("gradio", reason="needs gradio: pip install pixelllm-hf[demo]")

SCRIPT = '<img src=x onerror="window.harmed=1"><script>window.harmed=1</script>`${window.harmed=1}` {{value}}'


def views() -> dict[str, Any]:
    from pixelllm_hf.space.view import build_view

    image = made_up_image()
    region = made_up_caption("a dog", prompt_box=(100.0, 290.0, 350.0, 490.0))
    hostile = replace(
        made_up_caption(SCRIPT, prompt=SCRIPT),
        words=(
            made_up_word(SCRIPT.split(" ")[0], 0, LOCATION_FIELDS["dog"]),
            made_up_word(SCRIPT, 0, LOCATION_FIELDS["ball"]),
        ),
    )
    boxed = replace(hostile, box=LOCATION_FIELDS["dog"])  # type: ignore[call-arg]
    emoji = replace(made_up_caption("😀🐕 a dog"), words=(made_up_word("dog", 5, LOCATION_FIELDS["dog"]),))
    narrow = replace(
        made_up_caption("post"), words=(made_up_word("post", 0, (0, 100, 12, 300)),), image_size=(12, 1200)
    )
    return {
        "caption": build_view(image, [made_up_caption()], task="caption"),
        "objects": build_view(
            image, [made_up_object(name, mask=name != "meadow") for name in LOCATION_FIELDS], task="dense"
        ),
        "region": build_view(image, [region], task="region"),
        "hostile": build_view(image, [hostile, boxed], task="refer"),
        "emoji": build_view(image, [emoji], task="caption"),
        "narrow": build_view(Image.new("RGB", (12, 1200), "white"), [narrow], task="caption"),
        "many": build_view(image, [made_up_object(name) for name in LOCATION_FIELDS] * 20, task="dense"),
        "reason": build_view(image, [made_up_answer()], task="reason"),
        "none": build_view(image, [], task="dense"),
        "nothing": None,
    }


@pytest.fixture(scope="module")
def viewer_page() -> Iterator[Any]:
    from .viewer_page import ViewerPage

    page = ViewerPage(views())
    blocks = page.launch()
    yield page
    blocks.close(verbose=False)


@pytest.fixture
def open_page(viewer_page: Any, visit: Callable[..., Visit]) -> Callable[..., Any]:
    """open_page("caption", **context options) -> the page with that view."""

    def go(name: str = "", query: str = "", **options: Any) -> Any:
        page = visit(viewer_page.url + query, settled=".lv", **options).page
        if name:
            show(page, name)
        return page

    return go


def show(page: Any, name: str) -> None:
    page.click(f"#show-{name}")
    page.wait_for_selector(".lv[data-state='ready'] .lv-answer")


def word(page: Any, text: str) -> Any:
    return page.locator(".lv-word").filter(has_text=text)


def lit_words(page: Any) -> list[str]:
    return page.eval_on_selector_all(".lv-word.lv-lit", "nodes => nodes.map(node => node.textContent)")


def wait_for_lit(page: Any, text: str) -> None:
    page.wait_for_function(
        "text => { const lit = [...document.querySelectorAll('.lv-word.lv-lit')].map(n => n.textContent);"
        " return lit.length === (text ? 1 : 0) && (!text || lit[0] === text); }",
        arg=text,
    )


def on_screen(page: Any, x: float, y: float, size: tuple[int, int] = SIZE) -> tuple[float, float]:
    """Where a point of the image is on the screen, for an image without a letterbox."""
    frame = page.locator(".lv-frame").bounding_box()
    return frame["x"] + x * frame["width"] / size[0], frame["y"] + y * frame["height"] / size[1]


def pixel_on_screen(page: Any) -> float:
    """How many of the image's pixels one of the screen's is."""
    return SIZE[0] / page.locator(".lv-frame").bounding_box()["width"]


def submitted(page: Any) -> dict[str, list[float]]:
    field = page.locator("#submitted textarea, #submitted input").first
    page.wait_for_function("() => document.querySelector('#submitted textarea, #submitted input').value")
    return json.loads(field.input_value())


# --- words and places ---


def test_a_word_that_is_pointed_at_lights_up_its_box_and_point(open_page):
    page = open_page("caption")
    assert page.locator(".lv-glow .lv-shape").count() == 0
    word(page, "ball").hover()
    glow = page.locator(".lv-glow .lv-shape")
    glow.wait_for(state="attached")
    box = [float(glow.locator("rect.lv-box.lv-line").get_attribute(name)) for name in ("x", "y", "width", "height")]
    assert box == [420, 420, 80, 80]
    halo = glow.locator("[data-x]").first
    assert [float(halo.get_attribute(name)) for name in ("data-x", "data-y")] == [460, 460]
    assert lit_words(page) == ["ball"]
    assert "box 420, 420 – 500, 500" in page.locator(".lv-detail").inner_text()
    page.mouse.move(5, 5)
    wait_for_lit(page, "")
    assert page.locator(".lv-glow .lv-shape").count() == 0
    screenshot(page, "viewer-caption")


def test_the_glow_covers_the_thing_on_the_screen(open_page):
    page = open_page("caption")
    word(page, "dog").hover()
    glow = page.locator(".lv-glow rect.lv-mask")
    glow.wait_for(state="attached")
    seen = glow.bounding_box()
    left, top = on_screen(page, *LOCATION_FIELDS["dog"][:2])
    right, bottom = on_screen(page, *LOCATION_FIELDS["dog"][2:])
    found = [seen["x"], seen["y"], seen["x"] + seen["width"], seen["y"] + seen["height"]]
    assert found == pytest.approx([left, top, right, bottom], abs=1)


@pytest.mark.parametrize(("place", "text"), [((225, 390), "dog"), ((460, 455), "ball"), ((830, 100), "tree")])
def test_pointing_at_the_image_lights_up_the_word(open_page, place, text):
    page = open_page("caption")
    page.mouse.move(*on_screen(page, *place))
    wait_for_lit(page, text)
    page.mouse.move(*on_screen(page, 500, 40))
    wait_for_lit(page, "")


def test_places_are_numbered_like_the_words_and_can_be_hidden(open_page):
    page = open_page("caption")
    numbers = page.eval_on_selector_all(".lv-word", "nodes => nodes.map(node => node.dataset.number)")
    dots = page.eval_on_selector_all(".lv-places .lv-dot-number", "nodes => nodes.map(node => node.textContent)")
    assert numbers == dots == ["1", "2", "3"]
    page.click("[data-places]")
    assert page.locator(".lv-places").is_hidden()
    page.click("[data-places]")
    assert page.locator(".lv-places").is_visible()


def test_a_picked_word_stays_lit_until_escape(open_page):
    page = open_page("caption")
    word(page, "tree").click()
    page.mouse.move(5, 5)
    wait_for_lit(page, "tree")
    assert word(page, "tree").get_attribute("aria-pressed") == "true"
    page.keyboard.press("Escape")
    wait_for_lit(page, "")


def test_what_was_picked_in_an_earlier_answer_is_forgotten(open_page):
    page = open_page("caption")
    word(page, "dog").click()
    wait_for_lit(page, "dog")
    show(page, "region")
    wait_for_lit(page, "")


def test_words_after_an_emoji_are_cut_at_their_letters(open_page):
    page = open_page("emoji")
    assert page.locator(".lv-text").evaluate("node => node.firstChild.textContent") == "😀🐕 a "
    word(page, "dog").hover()
    wait_for_lit(page, "dog")


# --- objects ---


def test_objects_in_the_list_and_in_the_image_light_up_each_other(open_page):
    page = open_page("objects")
    assert page.locator(".lv-object").count() == 4
    assert page.locator(".lv-objects .lv-mask").count() == 3
    page.locator(".lv-object .lv-number").nth(2).hover()
    page.wait_for_selector(".lv-glow .lv-shape[data-answer='2']", state="attached")
    page.mouse.move(*on_screen(page, 225, 390))  # the dog lies within the meadow
    page.wait_for_selector(".lv-object.lv-lit[data-answer='0']")
    assert page.locator(".lv-object.lv-lit").count() == 1
    screenshot(page, "viewer-objects")
    page.mouse.move(*on_screen(page, 125, 305))  # within the dog's box, but not in its mask
    page.wait_for_selector(".lv-object.lv-lit[data-answer='3']")
    assert page.locator(".lv-object.lv-lit").count() == 1


def test_an_object_far_down_the_list_comes_into_sight_without_moving_the_page(open_page):
    page = open_page("many")
    assert page.locator(".lv-object").count() == 80
    page.locator(".lv-answers").evaluate("list => { list.scrollTop = list.scrollHeight; }")
    before = page.evaluate("() => window.scrollY")
    page.mouse.move(*on_screen(page, 460, 460))
    page.wait_for_selector(".lv-object.lv-lit[data-answer='1']")
    row, list_box = page.locator(".lv-object.lv-lit").bounding_box(), page.locator(".lv-answers").bounding_box()
    assert list_box["y"] - 1 <= row["y"] <= list_box["y"] + list_box["height"]
    assert page.evaluate("() => window.scrollY") == before


def test_a_page_without_objects_says_so(open_page):
    page = open_page()
    page.click("#show-none")
    page.wait_for_selector(".lv-note:has-text('Nothing was found.')")
    page.click("#show-nothing")
    page.wait_for_selector(".lv-placeholder:has-text('No image yet.')")
    assert page.locator(".lv-frame").is_hidden()


# --- drawing ---


@pytest.mark.parametrize("width", [1400, 700, 360])
def test_a_box_dragged_with_the_mouse_comes_in_pixels_of_the_original(open_page, width):
    page = open_page("caption", viewport={"width": width, "height": 900})
    page.click("[data-tool=box]")
    page.mouse.move(*on_screen(page, 340, 500))
    page.mouse.down()
    page.mouse.move(*on_screen(page, 200, 350), steps=3)
    page.wait_for_selector(".lv-drawing rect", state="attached")
    page.mouse.move(*on_screen(page, 110, 290))
    page.mouse.up()
    box = submitted(page)["box"]
    assert box == pytest.approx([110, 290, 340, 500], abs=pixel_on_screen(page))


def test_a_drag_that_leaves_the_image_ends_at_its_border(open_page):
    page = open_page("caption")
    page.click("[data-tool=box]")
    page.mouse.move(*on_screen(page, 450, 300))
    page.mouse.down()
    page.mouse.move(2, 2, steps=3)
    page.mouse.up()
    assert submitted(page)["box"] == pytest.approx([0, 0, 450, 300], abs=pixel_on_screen(page))


def test_a_click_in_point_mode_is_a_point_and_in_box_mode_nothing(open_page):
    page = open_page("caption")
    page.click("[data-tool=box]")
    page.mouse.click(*on_screen(page, 460, 460))
    page.wait_for_selector(".lv-hint:has-text('too small')")
    page.click("[data-tool=point]")
    page.mouse.click(*on_screen(page, 700, 200))
    assert submitted(page)["point"] == pytest.approx([700, 200], abs=pixel_on_screen(page))


def test_a_finger_draws_a_box_and_taps_a_word(open_page):
    page = open_page("caption", viewport={"width": 390, "height": 800}, has_touch=True, is_mobile=True)
    word(page, "ball").tap()
    wait_for_lit(page, "ball")
    page.touchscreen.tap(*on_screen(page, 225, 390))
    wait_for_lit(page, "dog")
    page.locator("[data-tool=box]").tap()
    finger = page.context.new_cdp_session(page)
    for kind, place in [("touchStart", (110, 290)), ("touchMove", (200, 400)), ("touchMove", (340, 500))]:
        x, y = on_screen(page, *place)
        finger.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": [{"x": x, "y": y}]})
    finger.send("Input.dispatchTouchEvent", {"type": "touchEnd", "touchPoints": []})
    assert submitted(page)["box"] == pytest.approx([110, 290, 340, 500], abs=pixel_on_screen(page))
    assert page.evaluate("() => window.scrollY") == 0


def test_keys_draw_a_box(open_page):
    page = open_page("caption")
    page.click("[data-tool=box]")
    page.focus(".lv-overlay")
    for key in ["ArrowLeft", "ArrowUp", "Enter", *["ArrowRight"] * 2, *["ArrowDown"] * 2, "Enter"]:
        page.keyboard.press(key)
    step = SIZE[0] / 40
    x, y = SIZE[0] / 2, SIZE[1] / 2
    assert submitted(page)["box"] == pytest.approx([x - step, y - step, x + step, y + step])


def test_beside_a_narrow_image_there_is_nothing_to_point_at(open_page):
    page = open_page("narrow")
    frame = page.locator(".lv-frame").bounding_box()
    assert page.locator(".lv-image").bounding_box() == frame
    assert page.locator(".lv-image").evaluate("node => getComputedStyle(node).objectFit") == "contain"
    shown_width = frame["height"] * 12 / 1200  # the image is in the middle of the frame
    assert shown_width < frame["width"] / 2
    page.click("[data-tool=point]")
    page.mouse.click(frame["x"] + 3, frame["y"] + frame["height"] / 2)
    page.mouse.click(frame["x"] + frame["width"] / 2, frame["y"] + frame["height"] / 4)
    assert submitted(page)["point"] == pytest.approx([6, 300], abs=1200 / frame["height"])
    page.click("[data-tool=look]")
    page.mouse.move(frame["x"] + frame["width"] / 2, frame["y"] + frame["height"] / 6)
    wait_for_lit(page, "post")


def test_what_was_asked_about_stays_drawn(open_page):
    page = open_page("region")
    drawn = page.locator(".lv-prompts rect.lv-line")
    assert [float(drawn.get_attribute(name)) for name in ("x", "y", "width", "height")] == [100, 290, 250, 200]


# --- while the model writes ---


def test_words_stream_in_and_light_up_without_anything_being_made_anew(open_page, viewer_page):
    page = open_page()
    page.click("#show-stream")
    page.wait_for_selector(".lv-note:has-text('Looking')")
    page.evaluate("""() => {
        window.lost = 0;
        const image = document.querySelector('.lv-image');
        image.kept = true;
        new MutationObserver(() => { window.reloaded = true; }).observe(image, { attributeFilter: ['src'] });
        new MutationObserver(records => { for (const record of records) window.lost += record.removedNodes.length; })
            .observe(document.querySelector('.lv-answers'), { childList: true, subtree: true });
    }""")
    caption = made_up_caption()
    newest = ""
    for part in caption.words:
        viewer_page.next_word.release()
        page.wait_for_selector(f".lv-writing .lv-text:has-text('{caption.text[: part.end]}')")
        newest = part.text if part.box else newest
        wait_for_lit(page, newest)
        if part.text == "with":
            screenshot(page, "viewer-streaming")
    viewer_page.next_word.release()
    page.wait_for_selector(".lv[data-state='ready']")
    wait_for_lit(page, "")
    assert page.locator(".lv-writing").count() == 0
    words = page.eval_on_selector_all(".lv-word", "nodes => nodes.map(node => node.textContent)")
    assert words == ["dog", "ball", "tree"]
    assert page.evaluate("() => document.querySelector('.lv-image').kept")
    assert not page.evaluate("() => window.reloaded")
    assert page.evaluate("() => window.lost") == 0
    page.wait_for_function("text => document.querySelector('.lv-live').textContent === text", arg=caption.text)


def test_a_drag_goes_on_while_words_stream_in(open_page, viewer_page):
    page = open_page()
    page.click("#show-stream")
    page.wait_for_selector(".lv-note:has-text('Looking')")
    page.click("[data-tool=box]")
    page.mouse.move(*on_screen(page, 100, 100))
    page.mouse.down()
    page.mouse.move(*on_screen(page, 200, 200), steps=2)
    viewer_page.next_word.release()
    page.wait_for_selector(".lv-writing .lv-text:has-text('A')")
    page.mouse.move(*on_screen(page, 300, 250), steps=2)
    page.mouse.up()
    assert submitted(page)["box"] == pytest.approx([100, 100, 300, 250], abs=pixel_on_screen(page))
    viewer_page.next_word.release(len(made_up_caption().words))
    page.wait_for_selector(".lv[data-state='ready']")


# --- playing the trace ---


def watch_trace(page: Any) -> None:
    page.evaluate("""() => {
        window.seen = { words: [], places: new Set() };
        new MutationObserver(() => {
            const dot = document.querySelector('.lv-pointer [data-x]');
            if (dot) window.seen.places.add(`${dot.dataset.x} ${dot.dataset.y}`);
            const lit = document.querySelector('.lv-word.lv-lit');
            const text = lit && lit.textContent;
            if (text && window.seen.words.at(-1) !== text) window.seen.words.push(text);
        }).observe(document.querySelector('.lv'), { childList: true, subtree: true, attributes: true });
    }""")


def test_the_pointer_goes_along_the_words_and_can_be_paused(open_page):
    page = open_page("caption")
    watch_trace(page)
    page.click("[data-play]")
    page.wait_for_function("() => window.seen.words.length >= 1 && window.seen.places.size > 1")
    page.click("[data-play]")
    assert page.locator("[data-play]").get_attribute("aria-label") == "Play"
    still = page.evaluate(
        """() => new Promise(done => {
            const where = () => document.querySelector('.lv-pointer [data-x]').dataset.x;
            const before = where();
            requestAnimationFrame(() => requestAnimationFrame(() => done(where() === before)));
        })"""
    )
    assert still
    page.click("[data-play]")
    page.wait_for_function("() => !document.querySelector('.lv-pointer').children.length")
    assert page.evaluate("() => window.seen.words") == ["dog", "ball", "tree"]
    assert page.evaluate("() => window.seen.places.size") > 3  # places between the words too


def test_the_pointer_jumps_for_those_who_want_less_motion(open_page):
    page = open_page("caption", reduced_motion="reduce")
    watch_trace(page)
    page.click("[data-play]")
    page.wait_for_function("() => window.seen.words.length === 3 && !document.querySelector('.lv-pointer').firstChild")
    assert page.evaluate("() => [...window.seen.places]") == ["225 390", "460 460", "740 275"]


def test_an_answer_without_places_cannot_be_played(open_page):
    page = open_page("caption")
    assert page.locator("[data-play]").is_enabled()
    page.click("#show-none")
    page.wait_for_selector(".lv-note:has-text('Nothing')")
    assert page.locator("[data-play]").is_disabled()


# --- keys and readers ---


def test_every_word_can_be_reached_by_keys(open_page):
    page = open_page("objects")
    assert page.locator(".lv-answers [tabindex='0']").count() == 1
    page.focus("[data-play]")
    page.keyboard.press("Tab")
    focused = "() => document.activeElement.getAttribute('aria-label')"
    assert page.evaluate(focused).startswith("1: a dog, box 120, 300 to 330, 480")
    page.wait_for_selector(".lv-glow .lv-shape[data-answer='0']", state="attached")
    page.keyboard.press("ArrowRight")
    assert page.evaluate(focused) == "dog, at 225, 390, 90 %"
    wait_for_lit(page, "dog")
    page.keyboard.press("ArrowDown")
    assert page.evaluate(focused).startswith("2: a ball")
    page.keyboard.press("End")
    assert page.evaluate(focused).startswith("meadow")
    page.keyboard.press("ArrowUp")
    page.keyboard.press("ArrowUp")
    assert page.evaluate(focused).startswith("2: a ball") or page.evaluate(focused).startswith("3: a tree")
    page.keyboard.press("Home")
    page.keyboard.press("Enter")
    assert page.evaluate("() => document.activeElement.getAttribute('aria-pressed')") == "true"
    assert page.locator(".lv-answers [tabindex='0']").count() == 1


def test_every_control_has_a_name(open_page):
    page = open_page("objects")
    for control in page.locator(".lv button, .lv [role=button], .lv [role=img]").all():
        assert (control.get_attribute("aria-label") or control.inner_text()).strip()


# --- looks ---


CONTRAST = """([selector, pseudo]) => {
    const pen = Object.assign(document.createElement('canvas'), { width: 1, height: 1 }).getContext('2d');
    const paint = colours => {
        pen.clearRect(0, 0, 1, 1);
        for (const colour of colours) { pen.fillStyle = colour; pen.fillRect(0, 0, 1, 1); }
        return [...pen.getImageData(0, 0, 1, 1).data].slice(0, 3);
    };
    const light = rgb => rgb.map(v => v / 255).map(v => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
        .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
    const grounds = node => node ? [...grounds(node.parentElement), getComputedStyle(node).backgroundColor] : ['white'];
    return [...document.querySelectorAll(selector)].filter(node => node.textContent.trim()).map(node => {
        const ground = grounds(node);
        const [a, b] = [light(paint(ground)), light(paint([...ground, getComputedStyle(node, pseudo).color]))];
        return (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
    });
}"""


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_letters_stand_out_from_their_ground(open_page, theme):
    page = open_page(query=f"?__theme={theme}")
    for name in ("caption", "objects"):
        show(page, name)
        page.locator(".lv-word").first.hover()
        wait_for_lit(page, "dog")
        parts = [[part, ""] for part in (".lv-text", ".lv-word", ".lv-detail", ".lv-button", ".lv-number", ".lv-score")]
        for part in [*parts, [".lv-word[data-number]", "::after"]]:
            contrasts = page.evaluate(CONTRAST, part)
            assert all(contrast >= 4.5 for contrast in contrasts), (name, part, contrasts)
        assert page.evaluate(CONTRAST, [".lv-text", ""])
        screenshot(page, f"viewer-{name}-{theme}")
    assert page.evaluate("() => document.body.classList.contains('dark')") is (theme == "dark")


@pytest.mark.parametrize("name", ["caption", "objects", "narrow", "hostile"])
def test_a_phone_has_nothing_to_scroll_sideways(open_page, name):
    page = open_page(name, viewport={"width": 360, "height": 740}, has_touch=True, is_mobile=True)
    assert page.evaluate("() => document.documentElement.scrollWidth") <= 360
    for control in page.locator(".lv button").all():
        box = control.bounding_box()
        assert box["x"] >= 0 and box["x"] + box["width"] <= 360 and box["height"] >= 32
    screenshot(page, f"viewer-phone-{name}")


# --- harm ---


def test_script_in_a_text_is_only_text(open_page):
    page = open_page("hostile")
    assert page.locator(".lv-caption .lv-text").evaluate("node => node.textContent") == SCRIPT
    page.locator(".lv-word").first.hover()
    page.wait_for_selector(".lv-glow .lv-tag-text", state="attached")
    page.locator(".lv-number").first.hover()
    page.wait_for_selector(".lv-glow .lv-shape[data-answer='1']", state="attached")
    assert page.locator(".lv-answers img, .lv-answers script, .lv-overlay img, .lv-live img").count() == 0
    assert page.evaluate("() => window.harmed") is None


@pytest.mark.parametrize("size", [{"width": 1280, "height": 720}, {"width": 390, "height": 780}])
def test_a_long_list_of_objects_and_the_image_are_seen_together(open_page, size):
    page = open_page("many", viewport=size)
    page.wait_for_function("() => document.querySelector('.lv-stage').getBoundingClientRect().top >= 0")
    page.locator(".lv").evaluate("viewer => viewer.scrollIntoView()")
    last = page.locator(".lv-number").last
    last.evaluate("number => { const list = number.closest('.lv-answers'); list.scrollTop = list.scrollHeight; }")
    for part in (page.locator(".lv-frame"), last):
        box = part.bounding_box()
        assert box["y"] >= 0 and box["y"] + box["height"] <= size["height"]


def test_a_phrase_and_its_mask_light_up_together(open_page: Callable[..., Any]):
    page = open_page("reason")
    assert page.locator(".lv-answer").count() == 1
    assert [node.inner_text() for node in page.locator(".lv-word").all()] == ["The dog", "the ball"]
    assert page.locator(".lv-objects .lv-mask").count() == 2
    word(page, "the ball").hover()
    wait_for_lit(page, "the ball")
    assert page.locator(".lv-glow .lv-mask").count() == 1
    page.mouse.move(*on_screen(page, 225, 390))
    wait_for_lit(page, "The dog")
    page.mouse.move(*on_screen(page, 125, 305))  # in the dog's box, beside its mask
    wait_for_lit(page, "")
