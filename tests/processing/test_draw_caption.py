from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from pixelllm_hf.processing.draw_caption import draw_caption, trace_colour, trace_colours
from pixelllm_hf.processing.grounded_results import GroundedWord

TEXT = "a red ball, a dog."
SPANS = [("a", 0), ("red", 2), ("ball", 6), ("a", 12), ("dog", 14)]


def placed_words(size_wh):
    places = [(0.2, 0.2), (0.25, 0.3), (0.25, 0.3), (0.5, 0.5), (0.8, 0.7)]
    words = []
    for (text, start), (x, y) in zip(SPANS, places, strict=True):
        x, y = x * size_wh[0], y * size_wh[1]
        box = (x - 0.1 * size_wh[0], y - 0.1 * size_wh[1], x + 0.1 * size_wh[0], y + 0.1 * size_wh[1])
        words.append(GroundedWord(text, start, start + len(text), (x, y), box))
    return words


def luminance(colour):
    linear = [(c / 255 / 12.92) if c <= 10 else ((c / 255 + 0.055) / 1.055) ** 2.4 for c in colour]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def test_colours_get_lighter_from_word_to_word():
    values = [luminance(colour) for colour in trace_colours(40)]
    assert values == sorted(values) and values[-1] > 2 * values[0]


@pytest.mark.parametrize("position", np.linspace(0, 1, 11))
def test_every_colour_is_legible_on_the_panel_and_under_dark_letters(position):
    light = luminance(trace_colour(float(position)))
    for dark in ((18, 20, 26), (12, 13, 17)):
        assert (light + 0.05) / (luminance(dark) + 0.05) >= 4.5  # the contrast that WCAG asks of text


@pytest.mark.parametrize("size_wh", [(64, 48), (960, 640), (3000, 2000), (1, 999), (999, 1), (1, 1)])
def test_images_of_any_size_come_out_readable(size_wh):
    drawn = draw_caption(Image.new("RGB", size_wh, "white"), TEXT, placed_words(size_wh), prompt_box=(0, 0, *size_wh))
    assert drawn.mode == "RGB" and 500 <= drawn.width <= 1600 and drawn.height <= 2200


@pytest.mark.parametrize("background", ["white", "black", "violet", "yellow"])
def test_the_last_word_is_marked_in_its_colour_at_its_place_on_any_background(background):
    image = Image.new("RGB", (960, 640), background)
    drawn = draw_caption(image, TEXT, placed_words(image.size))
    assert drawn.getpixel((round(0.8 * 960), round(0.7 * 640))) == trace_colours(5)[-1]


def test_the_caption_stands_below_the_image():
    image = Image.new("RGB", (960, 640), "white")
    drawn = np.asarray(draw_caption(image, TEXT, placed_words(image.size)))
    panel = drawn[640:].reshape(-1, 3)
    for index in (1, 2, 4):  # the words that say something
        assert (panel == trace_colours(5)[index]).all(1).sum() > 200
    empty = np.asarray(draw_caption(image, "", []))
    assert empty.shape[0] > 640 and len(np.unique(empty[700:], axis=0)) == 1


def test_long_captions_get_more_lines_and_nothing_else_moves():
    image = Image.new("RGB", (960, 640), "white")
    short = draw_caption(image, TEXT, placed_words(image.size))
    words = placed_words(image.size)
    long = draw_caption(image, TEXT + " and so on" * 40, words)
    assert long.height > short.height
    np.testing.assert_array_equal(np.asarray(long)[:640], np.asarray(short)[:640])


def test_parts_can_be_left_out():
    image = Image.new("RGB", (960, 640), "white")
    words = placed_words(image.size)
    bare = draw_caption(image, TEXT, words, trace=False, boxes=False, labels=False)
    for part in ("trace", "boxes", "labels"):
        options = {"trace": False, "boxes": False, "labels": False} | {part: True}
        assert draw_caption(image, TEXT, words, **options) != bare


def test_words_without_a_place_appear_in_the_caption_alone():
    image = Image.new("RGB", (960, 640), "white")
    words = [GroundedWord(text, start, start + len(text)) for text, start in SPANS]
    drawn, empty = draw_caption(image, TEXT, words), draw_caption(image, "", [])
    np.testing.assert_array_equal(np.asarray(drawn)[:640], np.asarray(empty)[:640])
    assert not np.array_equal(np.asarray(drawn)[660:690], np.asarray(empty)[660:690])


def test_the_image_of_the_caller_stays_as_it_was():
    image = Image.new("RGB", (960, 640), "white")
    draw_caption(image, TEXT, placed_words(image.size))
    assert image.getcolors() == [(960 * 640, (255, 255, 255))]
