"""What the metrics share: refusing bad input, and counting every image or expression once."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np


class MetricInputError(ValueError):
    """Predictions and references that cannot be compared."""


def first_of_each(records: Iterable[Mapping[str, Any]], key: str = "image_id") -> list[Mapping[str, Any]]:
    """The records without those whose `key` was seen before: several processes pad with repeated images.

    >>> first_of_each([{"image_id": 4, "x": 1}, {"image_id": 4, "x": 2}, {"image_id": 7, "x": 3}])
    [{'image_id': 4, 'x': 1}, {'image_id': 7, 'x': 3}]
    """
    first: dict[Any, Mapping[str, Any]] = {}
    for record in records:
        first.setdefault(field(record, key, "record"), record)
    return list(first.values())


def to_original_xywh(
    boxes_xyxy: np.ndarray, input_size_hw: tuple[float, float], original_size_hw: tuple[float, float]
) -> np.ndarray:
    """Boxes (N,4) xyxy in pixels of the resized image as xywh in pixels of the original one, clipped to it.

    A box wholly outside ends with a side of zero.

    >>> to_original_xywh(np.array([[-5.0, 0.0, 10.0, 30.0]]), (20, 20), (40, 40)).tolist()
    [[0.0, 0.0, 20.0, 40.0]]
    """
    height, width = original_size_hw
    scale = np.array([width / input_size_hw[1], height / input_size_hw[0]] * 2)
    corners = np.clip(np.asarray(boxes_xyxy, np.float64).reshape(-1, 4) * scale, 0, [width, height] * 2)
    corners[:, 2:] -= corners[:, :2]
    return corners


def boxes_array(boxes: Any, what: str) -> np.ndarray:
    """Boxes (N,4) float64, finite, or a `MetricInputError` naming the first bad one."""
    try:
        array = np.asarray(boxes, np.float64)
    except (TypeError, ValueError) as error:
        raise MetricInputError(f"{what} must be boxes of four numbers each ({error}).") from error
    if array.size == 0:
        return array.reshape(0, 4)
    if array.ndim != 2 or array.shape[1] != 4:
        raise MetricInputError(f"{what} must have the shape (N, 4), but came with {array.shape}.")
    bad = np.flatnonzero(~np.isfinite(array).all(axis=1))
    if bad.size:
        raise MetricInputError(f"{what} must be finite, but box {bad[0]} is {array[bad[0]].tolist()}.")
    return array


def field(record: Mapping[str, Any], key: str, what: str) -> Any:
    """`record[key]`, or a `MetricInputError` that shows the record."""
    if key not in record:
        raise MetricInputError(
            f"every {what} needs the key {key!r}, but one has only {sorted(record)}: {_short(record)}."
        )
    return record[key]


def caption_pairs(hypotheses: Sequence[str], references: Sequence[Sequence[str]]) -> tuple[list[str], list[list[str]]]:
    """One hypothesis and at least one reference per sample, as lists; anything else raises `MetricInputError`."""
    if isinstance(hypotheses, str) or isinstance(references, str):
        raise MetricInputError("hypotheses must be a list of captions and references a list of lists, not a string.")
    hypotheses, samples = list(hypotheses), [[r] if isinstance(r, str) else list(r) for r in references]
    if len(hypotheses) != len(samples):
        raise MetricInputError(
            f"there must be one hypothesis per sample, but {len(hypotheses)} came with references of "
            f"{len(samples)} samples."
        )
    for i, (hypothesis, sample) in enumerate(zip(hypotheses, samples, strict=True)):
        if not sample:
            raise MetricInputError(f"sample {i} has no reference; leave it out (an empty string counts as one).")
        if not all(isinstance(text, str) for text in [hypothesis, *sample]):
            raise MetricInputError(f"captions must be strings, but sample {i} is {_short([hypothesis, *sample])}.")
    return hypotheses, samples


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 200 else text[:197] + "..."
