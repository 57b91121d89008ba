from __future__ import annotations

import numpy as np
import pytest

from pixelllm_hf.evaluation.bootstrap import ratio_of_sums


def test_the_value_is_the_ratio_of_the_sums():
    assert ratio_of_sums(np.array([1, 0, 2]), np.array([1, 1, 4])).value == 0.5


def test_the_interval_holds_the_value_and_repeats_exactly():
    values = np.random.default_rng(0).random(200)
    first, second = (ratio_of_sums(values, np.ones(200)) for _ in range(2))
    assert first == second
    assert first.low < first.value < first.high


def test_the_interval_of_a_mean_is_about_two_standard_errors():
    values = np.random.default_rng(1).normal(size=400)
    estimate = ratio_of_sums(values, np.ones(400), resamples=8000)
    assert (estimate.high - estimate.low) / 2 == pytest.approx(1.96 * values.std() / 20, rel=0.06)


def test_scenes_without_weight_change_nothing_but_the_spread():
    assert ratio_of_sums(np.array([1, 0]), np.array([2, 0])).value == 0.5


def test_nothing_to_count_is_nan_and_not_an_error():
    estimate = ratio_of_sums(np.zeros(3), np.zeros(3))
    assert np.isnan(estimate.value) and estimate.count == 0
