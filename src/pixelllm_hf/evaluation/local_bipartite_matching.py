"""Local Bipartite Matching (LBM): how well a trace of boxes follows another that may run at a different pace.

Both traces are cut into up to 20 rows of the shorter one and the stretch of the longer one at the same time; within
such a segment every row is matched to a row of its own near the same time. Lower is better.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from pixelllm_hf.evaluation.batched_assignment import assign_rows
from pixelllm_hf.evaluation.metric_inputs import MetricInputError

SEGMENT_ROWS = 20
_CHUNK = 4096  # segments in memory at once


@dataclass(frozen=True)
class LocalBipartiteMatching:
    """`value` is the mean of `samples` (N,) that count; the others, where a trace is empty, are NaN and `skipped`."""

    value: float
    samples: np.ndarray
    window: int
    count: int
    skipped: int
    variant: str

    def to_dict(self) -> dict[str, object]:
        """Numbers for a table."""
        named = {f"LBM_k{self.window}": self.value}
        return {**named, "count": self.count, "skipped": self.skipped, "variant": self.variant}


def local_bipartite_matching(
    predictions: Sequence[np.ndarray], targets: Sequence[np.ndarray], *, window: int = 0
) -> LocalBipartiteMatching:
    """LBM of predicted traces (n,4) against given ones (m,5), boxes xyxy in fractions of the image, one row per word.

    The fifth value of a target row is its area: rows of 1, the whole image, are words without a location and dropped.
    Predicted rows are never dropped; cut them to the words that were generated. `window` k lets a row be matched up to
    k steps of its own pace away. A sample with an empty trace does not count; without any the value is NaN.

    >>> trace = np.array([[0, 0, 0.5, 0.5, 0.25], [0.5, 0.5, 1, 1, 0.25]])
    >>> local_bipartite_matching([trace[:, :4]], [trace]).value
    0.0
    """
    if len(predictions) != len(targets):
        raise MetricInputError(f"{len(predictions)} predicted traces came with {len(targets)} targets.")
    if window < 0 or window != int(window):
        raise MetricInputError(f"the window must be a whole number from 0 on, but is {window}.")
    segments = _Segments(_Rows.of(predictions, 4, "prediction"), _Rows.of(targets, 5, "target").without_whole_images())
    chunks = range(0, len(segments.sample), _CHUNK)
    costs = np.concatenate([np.zeros(0), *(_segment_costs(segments.part(i, i + _CHUNK), window) for i in chunks)])
    number = np.bincount(segments.sample, minlength=len(targets))
    total = np.bincount(segments.sample, costs, minlength=len(targets))
    samples = np.divide(total, number, out=np.full(len(targets), np.nan), where=number > 0)
    count = int((number > 0).sum())
    return LocalBipartiteMatching(
        value=float(np.nanmean(samples)) if count else float("nan"),
        samples=samples,
        window=window,
        count=count,
        skipped=len(targets) - count,
        variant=f"LBM k={window}, mean over samples, empty traces not counted",
    )


def boxes_of_corners(points_xy: np.ndarray, size_wh: tuple[float, float]) -> np.ndarray:
    """Rows for LBM from two corner points per word: (W,2,2) xy pixels -> (W,5) xyxy sorted, in 0..1, and the area.

    A word of several tokens must be reduced to two points first; say how in the table, the official choice is unknown.

    >>> boxes_of_corners(np.array([[[50.0, 20.0], [10.0, 80.0]]]), (100, 100)).round(3).tolist()
    [[0.1, 0.2, 0.5, 0.8, 0.24]]
    """
    points = np.clip(np.asarray(points_xy, np.float64).reshape(-1, 2, 2) / np.asarray(size_wh, np.float64), 0, 1)
    low, high = points.min(axis=1), points.max(axis=1)
    return np.concatenate([low, high, (high - low).prod(axis=1, keepdims=True)], axis=1)


def segment_bounds(shorter: np.ndarray, longer: np.ndarray) -> np.ndarray:
    """lengths (N,) of the shorter and longer traces -> (S,5) of all segments.

    Columns: sample, first row and end in the shorter trace, first row and end in the longer one; neighbours may share
    a row of the longer one. A sample with an empty trace has no segment.

    >>> segment_bounds(np.array([33]), np.array([40])).tolist()
    [[0, 0, 20, 0, 25], [0, 20, 33, 24, 40]]
    """
    number = np.where(longer > 0, -(-shorter // SEGMENT_ROWS), 0)
    sample = np.repeat(np.arange(len(number)), number)
    s = np.arange(len(sample)) - np.repeat(np.cumsum(number) - number, number)
    short, long = shorter[sample], longer[sample]
    first, end = s * SEGMENT_ROWS, np.minimum((s + 1) * SEGMENT_ROWS, short)
    # c = 20 · longer / shorter rows of the longer trace per segment: ⌊s·c⌋ to ⌈(s+1)·c⌉, in whole numbers
    long_first = s * SEGMENT_ROWS * long // short
    long_end = np.minimum(-(-(s + 1) * SEGMENT_ROWS * long // short), long)
    return np.stack([sample, first, end, long_first, long_end], axis=1)


@dataclass(frozen=True)
class _Rows:
    """The rows of all traces in one array; `starts` and `lengths` (N,) tell them apart."""

    values: np.ndarray
    lengths: np.ndarray

    @classmethod
    def of(cls, traces: Sequence[np.ndarray], width: int, name: str) -> _Rows:
        arrays = [np.asarray(trace, np.float64) for trace in traces]
        for i, array in enumerate(arrays):
            if array.size and (array.ndim != 2 or array.shape[1] != width):
                raise MetricInputError(f"{name} {i} must have the shape (rows, {width}), but came with {array.shape}.")
        lengths = np.array([len(array) if array.size else 0 for array in arrays], np.int64)
        values = np.concatenate([np.zeros((0, width)), *(array for array in arrays if array.size)])
        bad = np.flatnonzero(~np.isfinite(values).all(axis=1))
        if bad.size:
            trace = int(np.searchsorted(np.cumsum(lengths), bad[0], side="right"))
            raise MetricInputError(f"{name} {trace} has NaN or infinite values; a word without a location has no row.")
        return cls(values, lengths)

    @property
    def starts(self) -> np.ndarray:
        return np.cumsum(self.lengths) - self.lengths

    def without_whole_images(self) -> _Rows:
        kept = self.values[:, 4] != 1
        trace = np.repeat(np.arange(len(self.lengths)), self.lengths)
        return _Rows(self.values[kept, :4], np.bincount(trace[kept], minlength=len(self.lengths)))


class _Segments:
    """All segments: `rows` rows of `values` from `short_first` on against `columns` rows from `long_first` on."""

    def __init__(self, predictions: _Rows, targets: _Rows):
        self.values = np.concatenate([predictions.values, targets.values])
        swapped = targets.lengths < predictions.lengths  # two equals: the prediction counts as the shorter
        target_starts = targets.starts + len(predictions.values)
        bounds = segment_bounds(
            np.minimum(predictions.lengths, targets.lengths), np.maximum(predictions.lengths, targets.lengths)
        )
        self.sample, first, end, long_first, long_end = bounds.T
        self.short_first = np.where(swapped, target_starts, predictions.starts)[self.sample] + first
        self.long_first = np.where(swapped, predictions.starts, target_starts)[self.sample] + long_first
        self.rows, self.columns = end - first, long_end - long_first

    def part(self, first: int, end: int) -> _Segments:
        part = object.__new__(_Segments)
        part.values = self.values
        for name in ("sample", "short_first", "long_first", "rows", "columns"):
            setattr(part, name, getattr(self, name)[first:end])
        return part


def _segment_costs(segments: _Segments, window: int) -> np.ndarray:
    """Mean matching cost (S,) of every segment."""
    candidates = _Candidates(segments, window)
    if window == 0:  # no column belongs to two rows: every row takes its nearest
        totals = np.add.reduceat(np.minimum.reduceat(candidates.cost, candidates.starts), candidates.first_rows)
    elif window == 1:
        totals = neighbour_matching(*candidates.best(5), candidates.rows)
    else:
        totals = candidates.full_matching()
    return totals / candidates.rows


class _Candidates:
    """All allowed (row, column) pairs of all segments with their distances, as flat arrays sorted by row and column.

    `rows` (S,) of a segment, `first_rows` its first among all R rows, `starts` (R,) of a row's pairs, and of the pairs
    (N,) their `row` among R, `column` within the segment and `cost`.
    """

    def __init__(self, segments: _Segments, window: int):
        self.rows, self.columns = segments.rows, segments.columns
        self.first_rows = np.cumsum(self.rows) - self.rows
        self.segment = np.repeat(np.arange(len(self.rows)), self.rows)
        i = np.arange(len(self.segment)) - self.first_rows[self.segment]
        p, m = self.rows[self.segment], self.columns[self.segment]
        # (i - k) · m / p ≤ j < (i + 1 + k) · m / p in whole numbers
        low = np.maximum(-(-(i - window) * m // p), 0)
        high = np.minimum(-(-(i + 1 + window) * m // p), m)
        number = high - low
        self.starts = np.cumsum(number) - number
        self.row = np.repeat(np.arange(len(self.segment)), number)
        self.column = np.arange(len(self.row)) + np.repeat(low - self.starts, number)
        a = np.repeat(segments.values[segments.short_first[self.segment] + i], number, axis=0)
        b = segments.values[self.column + np.repeat(segments.long_first[self.segment], number)]
        self.cost = np.abs(a - b) @ np.full(4, 0.25)

    def best(self, number: int) -> tuple[np.ndarray, np.ndarray]:
        """Costs and columns (S,P,number) of every row's cheapest columns; inf and -1 where it has fewer."""
        # one key for both: the integer part is the row, the fraction orders its costs
        order = np.argsort(self.row + self.cost * (0.5 / max(1.0, self.cost.max())))
        rank = np.arange(len(order)) - self.starts[self.row[order]]
        kept = rank < number
        order, rank = order[kept], rank[kept]
        return self._tables(order, rank, number)

    def full_matching(self) -> np.ndarray:
        """Total cost (S,) of the cheapest one-to-one matching of every segment."""
        costs, _ = self._tables(np.arange(len(self.cost)), self.column, int(self.columns.max()))
        chosen = assign_rows(costs, self.rows)
        cost = np.take_along_axis(costs, np.maximum(chosen, 0)[..., None], axis=-1)[..., 0]
        return np.where(chosen >= 0, cost, 0).sum(axis=1)

    def _tables(self, pairs: np.ndarray, slot: np.ndarray, slots: int) -> tuple[np.ndarray, np.ndarray]:
        segment = self.segment[self.row[pairs]]
        place = segment, self.row[pairs] - self.first_rows[segment], slot
        shape = len(self.rows), int(self.rows.max()), slots
        costs, columns = np.full(shape, np.inf), np.full(shape, -1)
        costs[place], columns[place] = self.cost[pairs], self.column[pairs]
        return costs, columns


def neighbour_matching(costs: np.ndarray, columns: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Total cost (S,) of the cheapest one-to-one matching when only rows at most two apart can want the same column.

    costs and columns (S,P,K): every row's K cheapest columns. Five are enough: the four neighbours can take four of
    them, so an optimal matching exists within. Rows from `rows[s]` on do not count. Exact, by dynamic programming over
    the choices of the last two rows; unlike an alignment it lets neighbours swap their order.
    """
    counts = np.arange(costs.shape[1]) < rows[:, None]
    # choices first, segments last: minima over the short axes then run along memory
    cost = np.ascontiguousarray(np.where(counts[..., None], costs, 0.0).transpose(1, 2, 0))  # P,K,S
    column = np.ascontiguousarray(np.where(counts[..., None], columns, -1).transpose(1, 2, 0))

    def clash(later: int, earlier: int) -> np.ndarray:  # K,K,S
        mine, theirs = column[later][:, None], column[earlier][None]
        return np.where((mine == theirs) & (mine >= 0), np.inf, 0.0)

    total = np.broadcast_to(cost[0][:, None], (cost.shape[1], *cost.shape[1:]))  # by the last choice, the one before, S
    for i in range(1, len(cost)):
        if i == 1:
            before = total.min(axis=1)[None]
        else:  # choice of row i, of row i - 1, of row i - 2
            before = (total[None] + clash(i, i - 2)[:, None]).min(axis=2)
        total = cost[i][:, None] + clash(i, i - 1) + before
    return total.min(axis=(0, 1))
