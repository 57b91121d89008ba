from __future__ import annotations

import math
import time

import numpy as np
import pytest

from pixelllm_hf.evaluation.batched_assignment import assign_rows
from pixelllm_hf.evaluation.local_bipartite_matching import (
    boxes_of_corners,
    local_bipartite_matching,
    segment_bounds,
)
from pixelllm_hf.evaluation.metric_inputs import MetricInputError


def traces(number, seed=0, longest=60):
    rng = np.random.default_rng(seed)

    def trace(length):
        return np.sort(rng.random((length, 2, 2)), axis=1).reshape(length, 4)

    predictions = [trace(rng.integers(1, longest)) for _ in range(number)]
    targets = [
        np.column_stack([t, np.full(len(t), 0.5)]) for t in (trace(rng.integers(1, longest)) for _ in range(number))
    ]
    return predictions, targets


def allowed(rows, columns, window):
    i, j = np.arange(rows)[:, None], np.arange(columns)
    return ((i - window) * columns <= j * rows) & (j * rows < (i + 1 + window) * columns)


def segments_of(prediction, target):
    short, long = (prediction, target[:, :4]) if len(prediction) <= len(target) else (target[:, :4], prediction)
    for _, first, end, long_first, long_end in segment_bounds(np.array([len(short)]), np.array([len(long)])):
        yield np.abs(short[first:end, None] - long[None, long_first:long_end]).mean(-1)


@pytest.mark.parametrize("window", [0, 1, 2])
def test_every_case_has_the_official_value(golden, window):
    values = golden("lbm")
    cases = values["cases"]
    result = local_bipartite_matching(
        [np.array(c["pred"]) for c in cases], [np.array(c["gt"]) for c in cases], window=window
    )
    expected = [case[f"window{window}"]["value"] for case in cases]
    np.testing.assert_allclose(result.samples, [np.nan if v is None else v for v in expected], atol=2e-6)
    assert result.value == pytest.approx(values["dataset_mean"][f"window{window}"], abs=2e-6)
    assert (result.count, result.skipped) == (values["samples_counted"], len(cases) - values["samples_counted"])


def test_segments_are_the_official_ones(golden):
    for case in golden("lbm")["cases"]:
        expected = case["window0"]["segments"]
        kept, predicted = case["window0"]["gt_rows_kept"], len(case["pred"])
        bounds = segment_bounds(np.array([min(kept, predicted)]), np.array([max(kept, predicted)]))
        assert [[[a, b], [c, d]] for _, a, b, c, d in bounds] == [[s["short"], s["long"]] for s in expected]


def test_bare_matrices_have_the_official_cost_and_columns(golden):
    for case in golden("lbm")["matrices"]:
        costs = np.array(case["D"])
        inside = allowed(*costs.shape, case["window"])
        assert [np.flatnonzero(row).tolist() for row in inside] == case["allowed"]
        columns = assign_rows(np.where(inside, costs, np.inf)[None], np.array([len(costs)]))[0]
        assert costs[range(len(costs)), columns].sum() == pytest.approx(case["cost"], abs=2e-6)


@pytest.mark.parametrize("window", [0, 1])
def test_the_fast_paths_equal_the_general_solver(window):
    predictions, targets = traces(60, seed=3)
    result = local_bipartite_matching(predictions, targets, window=window)
    for value, prediction, target in zip(result.samples, predictions, targets, strict=True):
        costs = []
        for distances in segments_of(prediction, target):
            inside = np.where(allowed(*distances.shape, window), distances, np.inf)
            columns = assign_rows(inside[None], np.array([len(inside)]))[0]
            costs.append(inside[range(len(inside)), columns].mean())
        assert value == pytest.approx(np.mean(costs), abs=1e-12)


def test_a_wider_window_is_never_worse():
    predictions, targets = traces(40, seed=5)
    k0, k1, k2 = (local_bipartite_matching(predictions, targets, window=k).samples for k in range(3))
    assert (k1 <= k0 + 1e-12).all()
    assert (k2 <= k1 + 1e-12).all()


def test_a_sample_does_not_depend_on_its_neighbours():
    predictions, targets = traces(20, seed=7)
    together = local_bipartite_matching(predictions, targets, window=1).samples
    alone = [local_bipartite_matching([p], [t], window=1).value for p, t in zip(predictions, targets, strict=True)]
    np.testing.assert_allclose(together, alone, atol=1e-14)


@pytest.mark.parametrize("window", [0, 1])
def test_it_is_fifty_times_faster_than_a_linear_programme_per_piece(window):
    optimize = pytest.importorskip("scipy.optimize")
    predictions, targets = traces(300, seed=1)

    def programme(distances):
        inside = np.argwhere(allowed(*distances.shape, window))
        rows, columns = distances.shape
        each_row, each_column = np.zeros((rows, len(inside))), np.zeros((columns, len(inside)))
        each_row[inside[:, 0], range(len(inside))] = each_column[inside[:, 1], range(len(inside))] = 1
        costs = distances[tuple(inside.T)]
        return optimize.linprog(costs, each_column, np.ones(columns), each_row, np.ones(rows)).fun / rows

    def seconds(call):
        start = time.perf_counter()
        call()
        return time.perf_counter() - start

    pairs = list(zip(predictions, targets, strict=True))
    some = 20
    slow = seconds(lambda: [programme(d) for p, t in pairs[:some] for d in segments_of(p, t)]) * len(pairs) / some
    fast = min(seconds(lambda: local_bipartite_matching(predictions, targets, window=window)) for _ in range(5))
    assert slow > 50 * fast


def test_whole_image_rows_are_dropped_from_targets_only():
    row, whole = [0.1, 0.1, 0.2, 0.2], [0.0, 0.0, 1.0, 1.0]
    target = np.array([[*row, 0.01], [*whole, 1.0]])
    assert local_bipartite_matching([np.array([row])], [target]).value == pytest.approx(0)
    assert local_bipartite_matching([np.array([whole])], [target]).value > 0


def test_an_empty_trace_is_left_out_and_said():
    trace = np.array([[0.1, 0.1, 0.2, 0.2, 0.01]])
    result = local_bipartite_matching([np.zeros((0, 4)), trace[:, :4]], [trace, trace])
    assert (result.value, result.count, result.skipped) == (0, 1, 1)
    assert math.isnan(local_bipartite_matching([[]], [trace]).value)
    assert math.isnan(local_bipartite_matching([], []).value)


def test_nan_rows_name_their_trace():
    good, bad = np.full((1, 5), 0.5), np.full((1, 5), np.nan)
    with pytest.raises(MetricInputError, match="target 1"):
        local_bipartite_matching([good[:, :4]] * 2, [good, bad])


@pytest.mark.parametrize(
    ("prediction", "window"), [(np.ones((2, 5)), 0), (np.ones((2, 4)), -1), (np.ones((2, 4)), 0.5)]
)
def test_wrong_shapes_and_windows_are_refused(prediction, window):
    with pytest.raises(MetricInputError):
        local_bipartite_matching([prediction], [np.full((2, 5), 0.5)], window=window)


def test_corners_become_sorted_boxes_inside_the_image():
    rows = boxes_of_corners(np.array([[[120.0, 20.0], [50.0, -10.0]]]), (100, 40))
    np.testing.assert_allclose(rows, [[0.5, 0, 1, 0.5, 0.25]])
