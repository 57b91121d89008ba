"""Which image, prompt and place each row of the model's answer belongs to."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from .canvas_transform import BoxXYXY, CanvasTransform
from .writable_text import from_characters

_PROMPT_KEYS = (
    "original_sizes", "prompt_boxes", "prompt_mask", "prompt_points", "prompt_point_labels", "input_ids",
    "prompt_characters",
)  # fmt: skip


@dataclass(frozen=True)
class PromptSource:
    """What one row of the model's answer was asked; fields as in `GroundedCaption`, places in image pixels.

    found_box, found_score: where the model itself found the object, if nobody named a place.
    """

    image_index: int
    prompt_index: int
    transform: CanvasTransform
    prompt: str | None
    prompt_box: BoxXYXY | None
    prompt_points: tuple[tuple[float, float, int], ...] | None
    found_box: BoxXYXY | None = None
    found_score: float | None = None


def read_sources(
    inputs: Mapping[str, Any],
    outputs: Any,
    num_rows: int,
    *,
    canvas: int,
    decode: Callable[[Any], str],
    rounding: str = "down",
) -> list[PromptSource]:
    """The source of each of `num_rows` rows, from what went into `generate` and, for detections, what came out.

    canvas: its side, used if inputs has no pixel_values; rounding: of sizes on it, as in `fitted_size`.
    decode: ids of a text prompt -> text.
    outputs: may be None where nothing was to be detected.
    """
    sizes, boxes, mask, points, labels, ids, characters = (as_array(entry(inputs, name)) for name in _PROMPT_KEYS)
    if sizes is None:
        raise ValueError("post-processing needs inputs['original_sizes']. Pass what the processor returned.")
    pixels = entry(inputs, "pixel_values")
    canvas = pixels.shape[-1] if pixels is not None else canvas
    detects = bool(as_array(entry(inputs, "detect_objects"))) if boxes is None and points is None else False
    scores = None
    if detects:
        boxes, mask, scores = (
            as_array(entry(outputs, name)) for name in ("prompt_boxes", "prompt_mask", "detection_scores")
        )
        if boxes is None or mask is None:
            raise ValueError(
                "the objects that the model has found are in prompt_boxes and prompt_mask of its output, but there are "
                "none. Pass the whole output of generate; words cannot be streamed while objects are detected."
            )
    if mask is None:
        mask = np.ones((len(sizes), 1 if boxes is None else boxes.shape[1]), dtype=bool)
    prompts = np.argwhere(mask).tolist()
    if not prompts and not num_rows:
        return []
    if num_rows == 0 or not prompts or num_rows % len(prompts):
        raise ValueError(
            f"the answer must have the same number of rows for each of the {len(prompts)} prompts, but it has "
            f"{num_rows}. Pass the inputs that went into generate."
        )
    sources = []
    for row, (i, j) in enumerate(prompts):
        transform = CanvasTransform.fit(sizes[i][::-1], canvas, rounding=rounding)
        text_row = i if detects else row
        prompt = None if ids is None else decode(ids[text_row])
        if characters is not None:
            prompt = from_characters(characters[text_row]).strip()
        source = PromptSource(i, j, transform, prompt, None, None)
        if detects and boxes is not None:
            box = _box_on_image(transform.clip_to_image(transform.to_image(boxes[i, j])))
            score = None if scores is None else float(scores[i, j])
            source = PromptSource(i, j, transform, prompt, None, None, found_box=box, found_score=score)
        elif points is not None and labels is not None and (labels[i, j] >= 0).any():
            chosen = _points_on_image(points[i, j], labels[i, j], transform)
            source = PromptSource(i, j, transform, prompt, None, chosen)
        elif boxes is not None and not np.array_equal(boxes[i, j], np.float32(np.array(transform.canvas_box))):
            source = PromptSource(i, j, transform, prompt, _box_on_image(transform.to_image(boxes[i, j])), None)
        sources += [source] * (num_rows // len(prompts))
    return sources


def entry(values: Any, name: str) -> Any:
    """An entry of a mapping or an attribute; None if there is none."""
    return values.get(name) if isinstance(values, Mapping) else getattr(values, name, None)


def as_array(value: Any) -> np.ndarray | None:
    """Tensors of any device and dtype, arrays and lists -> numpy."""
    if value is None:
        return None
    if hasattr(value, "detach"):
        value = value.detach().cpu()
        return (value.float() if value.is_floating_point() else value).numpy()
    return np.asarray(value)


def _box_on_image(box: np.ndarray) -> BoxXYXY:
    x0, y0, x1, y1 = np.round(box, 2).tolist()  # float32 kept no more digits
    return x0, y0, x1, y1


def _points_on_image(
    points: np.ndarray, labels: np.ndarray, transform: CanvasTransform
) -> tuple[tuple[float, float, int], ...]:
    """points (K,2) canvas pixels, labels (K,) -> ((x, y, label), …) of those that are there, image pixels."""
    there = labels >= 0
    xy = np.round(transform.to_image(points[there]), 2)
    return tuple((x, y, label) for (x, y), label in zip(xy.tolist(), labels[there].tolist(), strict=True))


__all__ = ["PromptSource", "as_array", "entry", "read_sources"]
