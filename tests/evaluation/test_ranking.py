from __future__ import annotations

import numpy as np
import pytest

from pixelllm_hf.evaluation.ranking import ranking_auc


def test_the_area_is_the_share_of_pairs_in_the_right_order():
    draw = np.random.default_rng(0)
    scores = [draw.integers(0, 6, size=n) / 5 for n in (3, 5, 1, 7)]  # with ties
    right = [draw.random(len(row)) < row + 0.2 for row in scores]
    flat, hits = np.concatenate(scores), np.concatenate(right)
    pairs = [(g > b) + (g == b) / 2 for g in flat[hits] for b in flat[~hits]]
    estimate = ranking_auc(scores, right, resamples=50)
    assert estimate is not None and estimate.count == 16
    assert estimate.value == pytest.approx(np.mean(pairs))
    assert estimate.low < estimate.value < estimate.high <= 1


def test_a_redrawn_set_without_wrong_answers_does_not_spoil_the_interval():
    estimate = ranking_auc([[0.9], [0.8], [0.1, 0.85]], [[True], [True], [False, True]], resamples=50)
    assert estimate is not None and estimate.low == estimate.high == 1


@pytest.mark.parametrize("hits", [[True, True], [False, False]])
def test_without_right_and_wrong_answers_there_is_no_order(hits):
    assert ranking_auc([[0.1, 0.2]], [hits]) is None
