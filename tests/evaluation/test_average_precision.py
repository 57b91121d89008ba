from __future__ import annotations

import numpy as np
import pytest

from pixelllm_hf.evaluation.average_precision import NamedBox, average_precision


def box(name: str, x: float, score: float = 1.0, crowd: bool = False) -> NamedBox:
    return NamedBox(name, (x, 0.0, 10.0, 10.0), score, crowd)


def test_a_perfect_detector_has_one_and_a_silent_one_none():
    known = [[box("dog", 0), box("cat", 20)], [box("dog", 5)]]
    assert average_precision(known, known).value == pytest.approx(1)
    assert average_precision([[], []], known).value == 0
    assert np.isnan(average_precision([[box("dog", 0)]], [[]]).value), "nothing is annotated"


def test_a_box_is_found_once_and_by_the_surest():
    known = [[box("dog", 0), box("dog", 30)]]
    found = [[box("dog", 0, 0.9), box("dog", 1, 0.8), box("dog", 30, 0.7)]]
    # hits 1, 0, 1: precision is 1 up to recall 1/2 and 2/3 above
    assert average_precision(found, known).value == pytest.approx((51 + 50 * 2 / 3) / 101)


def test_names_count_apart_and_those_that_are_not_annotated_do_not():
    known = [[box("dog", 0), box("cat", 30)]]
    found = [[box("dog", 0), box("dog", 30), box("bear", 60)]]
    assert average_precision(found, known).value == pytest.approx(1 / 2)


def test_what_lies_in_a_crowd_counts_neither_way():
    crowd = NamedBox("dog", (20.0, 0.0, 100.0, 10.0), crowd=True)
    found = [[box("dog", 40, 0.9), box("dog", 60, 0.8), box("dog", 0, 0.7)]]
    assert average_precision(found, [[box("dog", 0), crowd]]).value == pytest.approx(1)
    assert average_precision(found, [[box("dog", 0)]]).value == pytest.approx(1 / 3)


def test_redrawing_images_is_measuring_their_copies():
    rng = np.random.default_rng(0)

    def image(number: int) -> list[NamedBox]:
        return [
            box(str(rng.choice(["dog", "cat"])), float(rng.integers(8) * 7), float(rng.random())) for _ in range(number)
        ]

    known, found = [image(3) for _ in range(5)], [image(5) for _ in range(5)]
    weights = np.array([2, 0, 1, 0, 3])
    often = np.repeat(np.arange(5), weights)
    again = average_precision([found[i] for i in often], [known[i] for i in often])
    assert average_precision(found, known).redrawn(weights) == pytest.approx(again.value, abs=1e-9)
