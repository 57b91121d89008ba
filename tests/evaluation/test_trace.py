from __future__ import annotations

import math

import numpy as np
import pytest
from PIL import Image

from pixelllm_hf.evaluation.images import EvaluationScene
from pixelllm_hf.evaluation.object_names import ObjectNames
from pixelllm_hf.evaluation.trace import location_error, score_scene, trace_metrics
from pixelllm_hf.processing.grounded_results import GroundedCaption, GroundedWord

NAMES = ObjectNames({"dog": "dogs", "cat": "cats", "apple": "apples"})
SIZE = (300, 400)  # the diagonal is 500


def caption(*words: tuple[str, tuple[float, float] | None]) -> GroundedCaption:
    placed = tuple(GroundedWord(text, 0, len(text), point) for text, point in words)
    return GroundedCaption(" ".join(text for text, _ in words), placed, SIZE)


def scene(**objects: list[tuple[float, float, float, float]]) -> EvaluationScene:
    pairs = [(name, box) for name, boxes in objects.items() for box in boxes]
    return EvaluationScene(
        "1", Image.new("RGB", SIZE), tuple(n for n, _ in pairs), np.array([b for _, b in pairs], float).reshape(-1, 4)
    )


def test_a_perfect_caption_scores_perfectly():
    said = caption(("a", (5, 5)), ("dog", (50, 50)), ("two", None), ("apples", (200, 200)))
    metrics = trace_metrics(
        [score_scene(said, scene(dog=[(0, 0, 100, 100)], apple=[(150, 150, 180, 250), (220, 150, 250, 250)]), NAMES)]
    )
    assert metrics["object_f1"].value == 1
    assert metrics["point_in_box"].value == 1 and metrics["point_in_box"].count == 2
    assert metrics["center_error_percent"].value == 0


def test_f1_is_the_mean_over_scenes_and_not_pooled():
    there = scene(dog=[(0, 0, 9, 9)], cat=[(0, 0, 9, 9)])
    half = score_scene(caption(("dog", (1, 1)), ("apple", (1, 1))), there, NAMES)  # one of two said, one of two there
    whole = score_scene(caption(("dog", (1, 1))), scene(dog=[(0, 0, 9, 9)]), NAMES)
    assert half.f1 == 0.5
    assert trace_metrics([half, whole])["object_f1"].value == 0.75


def test_a_name_said_twice_or_seen_twice_counts_once_in_f1():
    said = caption(("dog", (1, 1)), ("dog", (1, 1)))
    assert score_scene(said, scene(dog=[(0, 0, 9, 9), (20, 0, 29, 9)]), NAMES).f1 == 1


def test_words_for_absent_things_have_no_place_to_be_compared_with():
    score = score_scene(caption(("cat", (1, 1))), scene(dog=[(0, 0, 9, 9)]), NAMES)
    assert score.f1 == 0 and score.mentions == ()


def test_the_centre_error_is_in_percent_of_the_diagonal():
    score = score_scene(caption(("dog", (53, 54))), scene(dog=[(0, 0, 100, 100)]), NAMES)
    assert trace_metrics([score])["center_error_percent"].value == pytest.approx(1.0)


def test_a_word_without_a_place_is_outside_and_a_diagonal_away():
    (mention,) = score_scene(caption(("dog", None)), scene(dog=[(0, 0, 100, 100)]), NAMES).mentions
    assert not mention.inside and mention.error == 1


def test_a_singular_name_may_mean_any_of_several_but_is_told_apart():
    there = scene(dog=[(0, 0, 10, 10), (100, 100, 200, 200)])
    (mention,) = score_scene(caption(("dog", (120, 150))), there, NAMES).mentions
    assert mention.inside and mention.error == pytest.approx(30 / 500) and not mention.single
    metrics = trace_metrics([score_scene(caption(("dog", (120, 150))), there, NAMES)])
    assert metrics["point_in_box_single"].count == 0 and math.isnan(metrics["point_in_box_single"].value)


def test_a_containing_box_goes_before_a_nearer_centre():
    boxes = np.array([[0.0, 0, 100, 100], [85, 45, 89, 55]])
    assert location_error((84.0, 50.0), boxes, plural=False) == (True, 34.0)


def test_a_plural_is_compared_with_the_box_around_all():
    boxes = np.array([[0.0, 0, 10, 10], [90, 0, 100, 10]])
    assert location_error((50.0, 5.0), boxes, plural=True) == (True, 0.0)
    assert location_error((50.0, 5.0), boxes, plural=False)[0] is False


def test_the_border_is_inside():
    assert location_error((10.0, 10.0), np.array([[0.0, 0, 10, 10]]), plural=False)[0] is True
