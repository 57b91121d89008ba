from __future__ import annotations

import base64
import io
import json
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from pixelllm_hf.processing.grounded_targets import GroundedTarget
from pixelllm_hf.processing.mask_codec import polygons_to_mask
from pixelllm_hf.space.outlines import mask_outlines, simplify_ring
from pixelllm_hf.space.view import IMAGE_BYTES, IMAGE_SIDE, MOST_ANSWERS, ShownImage, build_view

from .made_up import SIZE, made_up_answer, made_up_caption, made_up_image, made_up_object, made_up_word


def shown_pixels(url: str) -> Image.Image:
    head, _, data = url.partition(",")
    assert head == "data:image/jpeg;base64"
    return Image.open(io.BytesIO(base64.b64decode(data)))


def disc(width: int, height: int, x: float, y: float, radius: float) -> np.ndarray:
    rows, columns = np.mgrid[:height, :width]
    return (columns + 0.5 - x) ** 2 + (rows + 0.5 - y) ** 2 <= radius**2


def overlap(one: np.ndarray, other: np.ndarray) -> float:
    return float((one & other).sum() / (one | other).sum())


def test_a_view_is_json_and_names_places_in_pixels_of_the_original():
    view = build_view(made_up_image(), [made_up_caption(), made_up_object("ball", mask=True)], task="dense")
    assert json.loads(json.dumps(view, allow_nan=False)) == view
    assert view["size"] == list(SIZE) and view["task"] == "dense" and view["writing"] is False
    dog = view["answers"][0]["words"][1]
    assert dog == {
        "text": "dog", "start": 2, "end": 5, "point": [225.0, 390.0], "box": [120.0, 300.0, 330.0, 480.0], "mask": None,
        "score": 0.9, "spread": None, "visual": None,
    }  # fmt: skip
    ball = view["answers"][1]
    assert ball["box"] == [420.0, 420.0, 500.0, 500.0]
    assert ball["score"] == 0.75  # the detector's
    assert overlap(polygons_to_mask(ball["mask"], SIZE[::-1]), disc(*SIZE, 460, 460, 40)) > 0.95


def test_what_is_not_finite_is_left_out():
    nan = float("nan")
    word = made_up_word("dog", 2, (nan, 1.0, 2.0, 3.0), score=nan)
    caption = replace(
        made_up_caption(), words=(word,), score=float("inf"), prompt_points=((nan, 1.0, 1), (5.0, 6.0, 0))
    )
    answer = build_view(made_up_image(), [caption], task="caption")["answers"][0]
    json.dumps(answer, allow_nan=False)
    assert answer["score"] is None
    assert answer["words"][0]["box"] is answer["words"][0]["point"] is answer["words"][0]["score"] is None
    assert answer["prompt_points"] == [[5.0, 6.0, 0]]


@pytest.mark.parametrize("size_wh", [(3000, 2000), (1, 4000), (4000, 1), (1280, 1280), (7, 5)])
def test_the_shown_image_is_of_bounded_size_and_the_same_shape(size_wh):
    noise = np.random.default_rng(0).integers(0, 256, (size_wh[1], size_wh[0], 3), dtype=np.uint8)
    shown = ShownImage.of(Image.fromarray(noise))
    assert shown.size == size_wh
    assert len(shown.url) <= IMAGE_BYTES * 4 / 3 + 100
    width, height = shown_pixels(shown.url).size
    assert max(width, height) <= IMAGE_SIDE
    scale = max(width, height) / max(size_wh)
    assert abs(width - size_wh[0] * scale) <= 1 and abs(height - size_wh[1] * scale) <= 1


def test_only_pixels_of_an_image_are_shown():
    exif = Image.Exif()
    exif[0x010E] = "taken at home"
    stored = io.BytesIO()
    made_up_image((90, 60)).save(stored, format="JPEG", exif=exif, comment=b"a secret")
    image = Image.open(io.BytesIO(stored.getvalue()))
    assert image.getexif() and b"a secret" in stored.getvalue()
    shown = ShownImage.of(image)
    content = base64.b64decode(shown.url.partition(",")[2])
    assert b"a secret" not in content and b"taken at home" not in content


@pytest.mark.parametrize("mode", ["RGBA", "LA", "PA", "P", "L", "1", "I;16", "CMYK", "F"])
def test_images_of_all_modes_are_shown(mode):
    image = made_up_image((60, 40))
    image = image.convert("P").convert("PA") if mode == "PA" else Image.new(mode, (60, 40))
    assert shown_pixels(ShownImage.of(image).url).size == (60, 40)


def test_what_is_transparent_is_shown_white():
    shown = shown_pixels(ShownImage.of(Image.new("RGBA", (20, 20), (255, 0, 0, 0))).url)
    assert min(shown.getpixel((10, 10))) > 250


def test_the_same_image_has_the_same_address_so_that_the_page_keeps_it():
    assert ShownImage.of(made_up_image()).url == ShownImage.of(made_up_image()).url


def test_an_answer_to_another_image_is_refused():
    with pytest.raises(ValueError, match="900 x 600 pixels, but this one is 90 x 60"):
        build_view(made_up_image((90, 60)), [made_up_caption()], task="caption")


def test_long_answers_are_cut_and_left_out_ones_are_counted():
    text = "dog " * 3000
    words = tuple(made_up_word("dog", 4 * i, (1, 2, 3, 4)) for i in range(3000))
    view = build_view(
        made_up_image(), [replace(made_up_caption(), text=text, words=words)] * (MOST_ANSWERS + 7), task="dense"
    )
    assert view["left_out"] == 7 and len(view["answers"]) == MOST_ANSWERS
    answer = view["answers"][0]
    assert len(answer["text"]) == 4000
    assert all(answer["text"][word["start"] : word["end"]] == word["text"] for word in answer["words"])
    assert len(json.dumps(view)) < 10_000_000


def test_an_outline_follows_the_mask_through_its_parts():
    mask = disc(700, 500, 150, 200, 90) | disc(700, 500, 520, 300, 120)
    mask[20:60, 400:680] = True
    outlines = mask_outlines(mask)
    assert len(outlines) == 3
    assert overlap(polygons_to_mask(outlines, (500, 700)), mask) > 0.97


def test_an_outline_has_the_corners_of_a_rectangle_within_two_cells():
    mask = np.zeros((300, 300), bool)
    mask[40:200, 60:260] = True
    (outline,) = mask_outlines(mask)
    points = np.reshape(outline, (-1, 2))
    for corner in [(60, 40), (260, 40), (260, 200), (60, 200)]:
        assert np.abs(points - corner).sum(axis=1).min() < 4
    assert points.min(axis=0).tolist() >= [60, 40] and points.max(axis=0).tolist() <= [260, 200]


def test_holes_are_filled_and_an_empty_mask_has_no_outline():
    ring = disc(200, 200, 100, 100, 80) & ~disc(200, 200, 100, 100, 40)
    assert overlap(polygons_to_mask(mask_outlines(ring), (200, 200)), disc(200, 200, 100, 100, 80)) > 0.95
    assert mask_outlines(np.zeros((50, 60), bool)) == []


def test_a_thin_or_tiny_mask_in_a_large_image_keeps_an_outline():
    for rows, columns in [(slice(1000, 1001), slice(0, 4000)), (slice(5, 6), slice(7, 8))]:
        mask = np.zeros((3000, 4000), bool)
        mask[rows, columns] = True
        outlines = mask_outlines(mask)
        y = np.concatenate([outline[1::2] for outline in outlines])
        assert outlines and abs(y - rows.start).max() < 20


def test_a_frayed_mask_costs_bounded_space():
    noise = np.random.default_rng(1).random((1500, 2000)) < 0.6
    outlines = mask_outlines(noise)
    assert 1 <= len(outlines) <= 16
    assert max(len(outline) for outline in outlines) <= 2 * 300


def test_a_simplified_ring_stays_within_the_tolerance():
    angles = np.linspace(0, 2 * np.pi, 400, endpoint=False)
    ring = np.stack([50 * np.cos(angles), 30 * np.sin(3 * angles) + 40 * np.sin(angles)], axis=1)
    simple = simplify_ring(ring, 0.5)
    assert 3 <= len(simple) < 120
    ends = np.roll(simple, -1, axis=0)
    along = ends - simple
    share = ((ring[:, None] - simple) * along).sum(-1) / (along**2).sum(-1)
    nearest = simple + np.clip(share, 0, 1)[..., None] * along
    assert np.linalg.norm(ring[:, None] - nearest, axis=-1).min(axis=1).max() <= 0.5 + 1e-9


def test_a_ring_keeps_three_corners_whatever_the_tolerance():
    assert len(simplify_ring(np.array([[0.0, 0.0], [4.0, 0.0], [4.0, 4.0], [0.0, 4.0]]), 1e6)) == 3


def test_several_targets_of_an_answer_are_its_words_whatever_the_task():
    both = replace(
        made_up_caption(),
        targets=(
            GroundedTarget(0, 5, (120.0, 300.0, 330.0, 480.0), 0.75, disc(*SIZE, 225, 390, 80), 0.5),
            GroundedTarget(11, 17, (420.0, 420.0, 500.0, 500.0)),
        ),
    )
    (answer,) = build_view(made_up_image(), [both], task="refer")["answers"]
    dog, ball = answer["words"]
    assert (dog["text"], dog["box"], dog["score"]) == ("A dog", [120.0, 300.0, 330.0, 480.0], 0.75)
    assert overlap(polygons_to_mask(dog["mask"], SIZE[::-1]), disc(*SIZE, 225, 390, 80)) > 0.95
    assert (ball["text"], ball["point"], ball["mask"]) == ("a ball", [460.0, 460.0], None)
    assert answer["box"] is answer["mask"] is None


def test_words_that_probably_have_no_place_come_without_one():
    words = made_up_caption().words
    unsure = tuple(replace(w, visual=0.2 if w.text == "dog" else 0.9, spread=(1.0, 2.0, 3.0, 4.0)) for w in words)
    (answer,) = build_view(made_up_image(), [replace(made_up_caption(), words=unsure)], task="caption")["answers"]
    dog = next(word for word in answer["words"] if word["text"] == "dog")
    ball = next(word for word in answer["words"] if word["text"] == "ball")
    assert dog["point"] is dog["box"] is None and dog["visual"] == 0.2
    assert ball["box"] and ball["visual"] == 0.9 and ball["spread"] == [1.0, 2.0, 3.0, 4.0]


def test_phrases_that_point_are_words_with_masks():
    (answer,) = build_view(made_up_image(), [made_up_answer()], task="reason")["answers"]
    assert answer["mask"] is None and answer["box"] is None
    dog, ball, tree = answer["words"]
    assert [word["text"] for word in (dog, ball, tree)] == ["The dog", "the ball", "the tree"]
    assert answer["text"][ball["start"] : ball["end"]] == "the ball"
    assert dog["box"] == pytest.approx(made_up_object("dog").box, abs=1) and dog["score"] == 0.9
    assert overlap(polygons_to_mask(ball["mask"], SIZE[::-1]), made_up_answer().targets[1].mask) > 0.95
    assert tree["mask"] is tree["box"] is tree["point"] is None  # a mask without a pixel


def test_of_targets_with_one_phrase_the_first_has_it():
    answer = made_up_answer()
    twice = replace(answer, targets=(answer.targets[0], replace(answer.targets[1], start=0, end=7)))
    first, second = build_view(made_up_image(), [twice], task="reason")["answers"][0]["words"]
    assert (first["text"], first["start"], first["end"]) == ("The dog", 0, 7)
    assert (second["text"], second["start"], second["end"]) == ("", 7, 7) and second["mask"]
