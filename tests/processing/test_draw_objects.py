from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from pixelllm_hf.processing.draw_objects import OBJECT_COLOURS, draw_objects, object_colour
from pixelllm_hf.processing.grounded_results import GroundedCaption, draw_results

SIZE = (960, 640)


def thing(text, box=None, mask_box=None, **fields):
    mask = None
    if mask_box is not None:
        mask = np.zeros(SIZE[::-1], bool)
        mask[mask_box[1] : mask_box[3], mask_box[0] : mask_box[2]] = True
    return GroundedCaption(text, (), SIZE, box=box, mask=mask, **fields)


def luminance(colour):
    linear = [(c / 255 / 12.92) if c <= 10 else ((c / 255 + 0.055) / 1.055) ** 2.4 for c in colour]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def as_dichromats_see(colour, kind):
    """Viénot, Brettel and Mollon's simulation, linear light."""
    to_lms = np.array([[17.8824, 43.5161, 4.11935], [3.45565, 27.1554, 3.86714], [0.0299566, 0.184309, 1.46709]])
    missing = {
        "protan": [[0, 2.02344, -2.52581], [0, 1, 0], [0, 0, 1]],
        "deutan": [[1, 0, 0], [0.494207, 0, 1.24827], [0, 0, 1]],
    }[kind]
    lms = np.array(missing) @ to_lms @ (np.array(colour) / 255) ** 2.2
    return np.clip(np.linalg.inv(to_lms) @ lms, 0, 1) ** (1 / 2.2) * 255


@pytest.mark.parametrize("colour", OBJECT_COLOURS)
def test_every_colour_is_legible_on_the_panel_and_under_dark_letters(colour):
    for dark in ((18, 20, 26), (12, 13, 17)):
        assert (luminance(colour) + 0.05) / (luminance(dark) + 0.05) >= 4.5  # the contrast that WCAG asks of text


@pytest.mark.parametrize("kind", ["protan", "deutan"])
def test_neighbouring_colours_differ_for_the_colour_blind(kind):
    seen = [as_dichromats_see(colour, kind) for colour in OBJECT_COLOURS]
    for i in range(len(seen)):
        assert np.abs(seen[i] - seen[i - 1]).max() > 40


@pytest.mark.parametrize("background", ["white", "black", "orange", "gray"])
def test_a_box_has_its_colour_and_a_dark_edge_on_any_background(background):
    drawn = np.asarray(draw_objects(Image.new("RGB", SIZE, background), [thing("it", (200.0, 200.0, 600.0, 500.0))]))
    assert tuple(drawn[350, 200]) == object_colour(0)
    assert drawn[350, 190:200].sum(1).min() < 0.75 * drawn[350, 100].sum() + 30


def test_a_mask_is_tinted_within_and_the_rest_is_darker():
    image = Image.new("RGB", SIZE, (200, 200, 200))
    bare = np.asarray(draw_objects(image, [thing("it", (200.0, 200.0, 600.0, 500.0))])).astype(int)
    drawn = np.asarray(draw_objects(image, [thing("it", None, (200, 200, 600, 500))])).astype(int)
    assert drawn[350, 400][2] < bare[350, 400][2] - 40, "orange has no blue"
    assert (drawn[100, 100] < bare[100, 100] - 20).all()
    plain = np.asarray(draw_objects(image, [thing("it", None, (200, 200, 600, 500))], masks=False))
    assert (plain[350, 400] == plain[100, 100]).all()


def test_small_objects_lie_over_large_ones():
    image = Image.new("RGB", SIZE)
    small, large = thing("a", None, (300, 300, 400, 400)), thing("b", None, (100, 100, 900, 600))
    small = GroundedCaption("a", (), SIZE, box=(300.0, 300.0, 400.0, 400.0), mask=small.mask)
    large = GroundedCaption("b", (), SIZE, box=(100.0, 100.0, 900.0, 600.0), mask=large.mask)
    for objects in ([small, large], [large, small]):
        drawn = np.asarray(draw_objects(image, objects, boxes=False, labels=False))
        first, second = drawn[350, 350].astype(int), drawn[500, 500].astype(int)
        colour = np.array(object_colour(objects.index(small)))
        assert np.abs(first - colour).sum() < np.abs(second - colour).sum()


@pytest.mark.parametrize("size_wh", [(64, 48), (3000, 2000), (1, 999), (999, 1), (1, 1)])
def test_images_of_any_size_come_out_readable(size_wh):
    mask = np.ones(size_wh[::-1], bool)
    objects = [
        GroundedCaption(f"thing {i}", (), size_wh, box=(0.0, 0.0, *map(float, size_wh)), mask=mask) for i in range(3)
    ]
    drawn = draw_objects(Image.new("RGB", size_wh, "white"), objects)
    assert drawn.mode == "RGB" and 500 <= drawn.width <= 1600 and drawn.height <= 2200


def test_a_hundred_objects_in_one_place_can_be_drawn():
    objects = [thing(f"a very long description of object {i}", (400.0, 300.0, 430.0, 330.0)) for i in range(100)]
    drawn = draw_objects(Image.new("RGB", SIZE), objects)
    assert drawn.width == 960 and drawn.height > 2000


def test_images_without_objects_say_so():
    image = Image.new("RGB", SIZE, "white")
    nothing = draw_results(image, [])
    assert nothing.height > 640 and len(np.unique(np.asarray(nothing)[640:].reshape(-1, 3), axis=0)) > 2
    assert (np.asarray(nothing)[:640] == np.asarray(nothing)[0, 0]).all()


def test_objects_without_a_place_or_with_an_empty_mask_are_only_listed():
    image = Image.new("RGB", SIZE, "white")
    for objects in ([thing("it")], [thing("it", None, (5, 5, 5, 5))]):
        drawn = np.asarray(draw_objects(image, objects))
        assert (drawn[:640] == drawn[0, 0]).all() and drawn[660:].max() > 200


def test_the_image_of_the_caller_stays_as_it_was():
    image = Image.new("RGB", SIZE, "white")
    draw_objects(image, [thing("it", (5.0, 5.0, 50.0, 50.0), (5, 5, 50, 50))])
    assert image.getcolors() == [(960 * 640, (255, 255, 255))]


def test_the_answer_stands_below_with_its_phrases_in_the_colours_of_their_masks():
    from pixelllm_hf.processing.draw_objects import _Mark, _sentence_pieces, object_colour
    from pixelllm_hf.processing.drawing_canvas import PAPER

    text = "The dog barks, the ball, does not."
    marks = [_Mark(None, str(i + 1), object_colour(i), None, None) for i in range(3)]
    pieces = list(_sentence_pieces(marks, text, [(0, 7), (15, 23), (15, 23)]))
    said = [piece.text for piece in pieces]
    assert said == ["1", "The", "dog", "barks,", "2", "the", "ball", "3", ",", "does", "not."]
    assert [piece.text for piece in pieces if piece.glued and piece.gap == 0] == [","]
    assert [piece.colour for piece in pieces if piece.text in ("dog", "ball")] == [object_colour(0), object_colour(1)]
    assert [piece.text for piece in pieces if piece.colour == PAPER] == ["barks,", ",", "does", "not."]
