from __future__ import annotations

import math

import numpy as np
import pytest

from pixelllm_hf.evaluation.object_names import ObjectNames
from pixelllm_hf.evaluation.pointing_game import covered_part, pointing_metrics, score_pointing
from pixelllm_hf.processing.grounded_results import GroundedCaption, GroundedWord

NAMES = ObjectNames({"dog": "dogs", "bus stop": "bus stops"})
BOXES = np.array([[0.0, 0, 10, 10], [20, 20, 40, 30]])


def caption(*words: tuple[str, tuple[float, float] | None]) -> GroundedCaption:
    return GroundedCaption("", tuple(GroundedWord(text, 0, 1, point) for text, point in words), (100, 50))


def test_only_object_words_point_and_several_may_point_at_one_object():
    said = caption(("a", (5, 5)), ("dog", (10, 10)), ("dogs", (1, 1)), ("bus", (90, 40)), ("stop", (60, 40)))
    score = score_pointing(said, BOXES, NAMES)
    assert (score.words, score.on_object, score.objects, score.pointed_at) == (3, 2, 2, 1)


def test_an_object_word_without_a_place_is_on_no_object():
    score = score_pointing(caption(("dog", None)), BOXES, NAMES)
    assert (score.words, score.on_object, score.pointed_at) == (1, 0, 0)


def test_nothing_said_and_nothing_there_are_no_errors():
    empty = score_pointing(caption(), np.zeros((0, 4)), NAMES)
    assert math.isnan(pointing_metrics([empty])["word_on_object"].value)
    assert score_pointing(caption(("dog", (5, 5))), np.zeros((0, 4)), NAMES).on_object == 0


@pytest.mark.parametrize(
    ("boxes", "part"),
    [
        ([[0, 0, 50, 50]], 0.5),
        ([[0, 0, 50, 50], [0, 0, 50, 50]], 0.5),
        ([[0, 0, 50, 50], [25, 0, 75, 50]], 0.75),
        ([[-9, -9, 200, 200]], 1.0),
        ([], 0.0),
    ],
)
def test_the_covered_part_counts_overlaps_once_and_nothing_outside(boxes, part):
    assert covered_part(np.array(boxes, float).reshape(-1, 4), (100, 50)) == pytest.approx(part)


def test_chance_is_what_random_points_reach():
    generator = np.random.default_rng(0)
    points = generator.uniform((0, 0), (100, 50), (4000, 2))
    score = score_pointing(caption(*(("dog", (x, y)) for x, y in points.tolist())), BOXES, NAMES)
    metrics = pointing_metrics([score])
    assert metrics["word_on_object"].value == pytest.approx(metrics["word_on_object_by_chance"].value, abs=0.01)
