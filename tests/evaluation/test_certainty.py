"""Calibration curves, their numbers and fits, on made-up words whose truth is known."""

from __future__ import annotations

import numpy as np
import pytest

from pixelllm_hf.evaluation.certainty import (
    WordCertainties,
    best_logistic,
    best_scale_factor,
    certainty_metrics,
    logit,
    spread_curve,
    visual_curve,
)


def words(images=40, *, scale=1.0, slope=1.0, bias=0.0, seed=0) -> list[WordCertainties]:
    """Errors drawn from the Laplace distributions that are predicted, and places as probable as is said; but for
    spreads divided by `scale`, and logits from which `bias` and then `slope` have to be brought back."""
    dice, made = np.random.default_rng(seed), []
    for _ in range(images):
        true = dice.gamma(2.0, 0.05, (12, 4))
        probs = dice.beta(0.7, 0.7, 30)
        said = 1 / (1 + np.exp(-(logit(probs) - bias) / slope))
        made.append(WordCertainties(dice.exponential(true), true / scale, said, dice.random(30) < probs))
    return made


def test_numbers_of_a_calibrated_model_are_those_of_the_definitions():
    metrics = certainty_metrics(words(300), threshold=0.5, resamples=50)
    assert metrics["error_per_spread"].value == pytest.approx(1.0, abs=0.03)
    assert metrics["errors_within_spread"].value == pytest.approx(1 - np.exp(-1), abs=0.02)
    assert metrics["visual_ECE"].value < 0.02
    assert metrics["spread_rank_correlation"].value > 0.3 and metrics["visual_AUC"].value > 0.8
    assert all(estimate.low <= estimate.value <= estimate.high for estimate in metrics.values())


def test_a_model_that_is_too_sure_of_itself_is_told():
    metrics = certainty_metrics(words(300, scale=3.0, slope=0.3), threshold=0.5, resamples=0)
    assert metrics["error_per_spread"].value == pytest.approx(3.0, abs=0.1)
    assert metrics["errors_within_spread"].value < 0.4 and metrics["visual_ECE"].value > 0.08


def test_the_metrics_by_hand():
    image = WordCertainties.of(
        [[0.1, 0.2, 0.3, 0.4]], [[0.2, 0.2, 0.2, 0.2]], [0.9, 0.8, 0.1, 0.6], [True, False, False, True]
    )
    metrics = {name: m.value for name, m in certainty_metrics([image], threshold=0.7, resamples=0).items()}
    assert metrics["error_per_spread"] == pytest.approx(1.0 / 0.8)
    assert metrics["errors_within_spread"] == 0.5
    assert metrics["visual_accuracy"] == 0.5 and metrics["visual_majority"] == 0.5
    assert metrics["shown_words_with_place"] == 0.5 and metrics["words_with_place_shown"] == 0.5
    assert metrics["visual_AUC"] == 0.75
    assert metrics["visual_ECE"] == pytest.approx((0.1 + 0.8 + 0.1 + 0.4) / 4)


def test_what_a_model_does_not_predict_is_not_measured():
    nothing = WordCertainties.of([], [], [], [])
    assert certainty_metrics([nothing, nothing], threshold=0.5) == {}
    assert spread_curve([nothing]) == visual_curve([nothing]) == spread_curve([]) == []
    unsure = WordCertainties.of([], [], [0.5], [True])
    assert set(certainty_metrics([unsure, nothing], threshold=0.5, resamples=5)) == {
        "visual_accuracy", "visual_majority", "shown_words_with_place", "words_with_place_shown", "visual_ECE",
    }  # fmt: skip


def test_the_curves_lie_on_the_diagonal_where_a_model_is_calibrated():
    spread, visual = spread_curve(words(300)), visual_curve(words(300))
    assert [point["spread"] for point in spread] == sorted(point["spread"] for point in spread)
    assert all(point["error"] == pytest.approx(point["spread"], rel=0.12) for point in spread)
    assert all(point["placed"] == pytest.approx(point["visual"], abs=0.05) for point in visual)
    assert sum(point["count"] for point in spread) == 300 * 12 * 4 and sum(point["count"] for point in visual) == 9000


def test_a_probability_of_one_belongs_to_the_last_bin():
    (point,) = visual_curve([WordCertainties.of([], [], [1.0, 0.95], [True, False])])
    assert point == {"visual": pytest.approx(0.975), "placed": 0.5, "count": 2}


@pytest.mark.parametrize("scale", [0.5, 1.0, 4.0])
def test_the_scale_factor_brings_spreads_back(scale):
    assert best_scale_factor(words(200, scale=scale)) == pytest.approx(scale, rel=0.05)


@pytest.mark.parametrize(("slope", "bias"), [(1.0, 0.0), (0.3, 0.0), (2.5, -1.0), (1.0, 2.0)])
def test_slope_and_bias_bring_probabilities_back(slope, bias):
    found = best_logistic(words(400, slope=slope, bias=bias))
    assert found == (pytest.approx(slope, rel=0.1), pytest.approx(bias, abs=0.15))


def test_labels_that_can_be_told_apart_have_a_finite_slope():
    image = WordCertainties.of([], [], [0.1] * 50 + [0.9] * 50, [False] * 50 + [True] * 50)
    slope, bias = best_logistic([image])
    assert 1 < slope < 10 and abs(bias) < 1e-6


def test_calibration_without_anything_to_learn_from_says_so():
    nothing = WordCertainties.of([], [], [0.5, 0.7], [True, True])
    with pytest.raises(ValueError, match="no word has both a box and a spread"):
        best_scale_factor([nothing])
    with pytest.raises(ValueError, match="words with and without a location, but 2 of 2"):
        best_logistic([nothing])
