from __future__ import annotations

from itertools import permutations

import numpy as np
import pytest

from pixelllm_hf.evaluation.batched_assignment import assign_rows


def cheapest(costs):
    rows, columns = costs.shape
    return min(sum(costs[i, c] for i, c in enumerate(chosen)) for chosen in permutations(range(columns), rows))


@pytest.mark.parametrize("seed", range(8))
def test_the_assignment_is_the_cheapest_of_all(seed):
    rng = np.random.default_rng(seed)
    costs = rng.random((20, 4, 6)) * rng.choice([1, 100])
    forbidden = rng.random(costs.shape) < 0.4
    forbidden[:, range(4), rng.permutation(6)[:4]] = False
    costs[forbidden] = np.inf
    rows = rng.integers(1, 5, 20)
    columns = assign_rows(costs, rows)
    for problem, chosen, number in zip(costs, columns, rows, strict=True):
        assert len(set(chosen[:number])) == number
        assert (chosen[number:] == -1).all()
        assert problem[range(number), chosen[:number]].sum() == pytest.approx(cheapest(problem[:number]))


def test_ties_still_give_every_row_a_column_of_its_own():
    assert sorted(assign_rows(np.ones((1, 5, 5)), np.array([5]))[0].tolist()) == [0, 1, 2, 3, 4]


def test_scipy_agrees_on_problems_of_full_size():
    scipy = pytest.importorskip("scipy.optimize")
    costs = np.random.default_rng(0).random((10, 20, 45))
    for problem, chosen in zip(costs, assign_rows(costs, np.full(10, 20)), strict=True):
        rows, columns = scipy.linear_sum_assignment(problem)
        assert problem[range(20), chosen].sum() == pytest.approx(problem[rows, columns].sum())


def test_no_problems_are_no_assignments():
    assert assign_rows(np.zeros((0, 3, 3)), np.zeros(0, int)).shape == (0, 3)
