from __future__ import annotations

import numpy as np
import pytest

from pixelllm_hf.evaluation.bootstrap import ratio_of_sums, resampled


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


def test_a_corpus_number_that_is_a_ratio_has_the_interval_of_one():
    numerators, denominators = np.array([1.0, 0, 2, 5]), np.array([1.0, 1, 4, 5])
    ratio = ratio_of_sums(numerators, denominators)
    values = {"ratio": ratio.value, "twice": 2 * ratio.value}

    def statistic(weights: np.ndarray) -> list[float]:
        value = (weights @ numerators) / (weights @ denominators)
        return [value, 2 * value]

    both = resampled(values, statistic, 4, count=11)
    assert [both["ratio"].low, both["ratio"].high] == pytest.approx([ratio.low, ratio.high])
    assert both["twice"].high == 2 * both["ratio"].high and both["ratio"].count == 11


def test_without_resamples_there_is_a_value_and_no_interval():
    estimates = [
        ratio_of_sums(np.array([1, 2]), np.ones(2), resamples=0),
        resampled({"x": 1.5}, lambda weights: [0.0], 2, count=2, resamples=0)["x"],
    ]
    for estimate in estimates:
        assert estimate.value == 1.5 and np.isnan([estimate.low, estimate.high]).all()
