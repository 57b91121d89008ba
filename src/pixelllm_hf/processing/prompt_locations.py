"""What a user may mean by `boxes`, `points` and `text` -> one list of prompts per image, checked."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from .canvas_transform import BoxXYXY, CanvasTransform

LabelledPoint = tuple[float, float, int]


class PromptError(ValueError):
    """A prompt that cannot be used; the message names it and says what to do."""


@dataclass(frozen=True)
class Prompt:
    """One question about one image: a box or points in image pixels (neither: the whole image) and a text."""

    box: BoxXYXY | None
    points: tuple[LabelledPoint, ...] | None
    text: str | None


def gather_prompts(
    boxes: Any, points: Any, text: Any, sizes_wh: Sequence[tuple[int, int]], max_points: int
) -> list[list[Prompt]]:
    """-> per image the list of its `Prompt`s.

    An image has as many prompts as its longest list; lists of one are repeated.
    """
    count = len(sizes_wh)
    box_lists = _per_image("boxes", boxes, count, _is_box)
    point_lists = _per_image("points", points, count, _is_point)
    text_lists = _per_image("text", text, count, lambda item: isinstance(item, str))
    prompts = []
    for i, size_wh in enumerate(sizes_wh):
        image_box = CanvasTransform.fit(size_wh, 1).image_box
        lists: dict[str, list[Any]] = {
            "boxes": [_checked_box(box, image_box, f"box {j} of image {i}") for j, box in enumerate(box_lists[i])],
            "points": [
                _checked_points(item, image_box, max_points, f"points prompt {j} of image {i}")
                for j, item in enumerate(point_lists[i])
            ],
            "text": [_checked_text(item, f"text {j} of image {i}") for j, item in enumerate(text_lists[i])],
        }
        number = max(len(items) for items in lists.values())
        for name, items in lists.items():
            if len(items) not in (1, number):
                raise PromptError(
                    f"image {i} has {number} prompts, but {len(items)} {name}. Give one {name} entry for all of the "
                    "image's prompts or one for each."
                )
        rows = [items * (number // len(items)) for items in lists.values()]
        for j, (box, chosen, _) in enumerate(zip(*rows, strict=True)):
            if box is not None and chosen is not None:
                raise PromptError(
                    f"prompt {j} of image {i} has both a box and points. Pass one of them and None for the other."
                )
        prompts.append([Prompt(*row) for row in zip(*rows, strict=True)])
    return prompts


def _per_image(name: str, given: Any, count: int, is_single: Any) -> list[list[Any]]:
    """One list of entries per image; None stands for one entry None."""
    given = _as_lists(given)
    if given is None or is_single(given):
        if given is not None and name != "text" and count != 1:
            raise PromptError(
                f"{name} of {count} images must be a list per image, but a single one came: {given}. "
                f"Pass [{name} of image 0, {name} of image 1, …], with None for whole images."
            )
        return [[given] for _ in range(count)]
    if not isinstance(given, list):
        raise PromptError(f"{name} must be None or (nested) lists, but a {type(given).__name__} came.")
    flat = all(item is None or is_single(item) for item in given)
    if count == 1 and flat and given:
        return [given]  # the prompts of the only image
    if len(given) != count:
        raise PromptError(
            f"{name} must have one list per image, but there are {count} images and {len(given)} lists. "
            "Give None for an image without."
        )
    lists = []
    for i, item in enumerate(given):
        if item is None or is_single(item):
            lists.append([item])
        elif isinstance(item, list) and item:
            lists.append(item)
        else:
            raise PromptError(
                f"{name} of image {i} must be None or a non-empty list of prompts, but it is {item!r}. "
                "Use None for the whole image."
            )
    return lists


def _as_lists(value: Any) -> Any:
    """Arrays, tensors and tuples at any depth -> lists; numbers and strings as they are."""
    if hasattr(value, "tolist"):
        return value.tolist()
    if isinstance(value, (list, tuple)):
        return [_as_lists(item) for item in value]
    return value


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _is_finite(value: float) -> bool:
    """Also of whole numbers that are larger than any float."""
    try:
        return math.isfinite(value)
    except OverflowError:
        return False


def _is_box(item: Any) -> bool:
    """Numbers only, of whatever count: the count is checked where the error can name the box."""
    return isinstance(item, list) and bool(item) and all(_is_number(value) for value in item)


_is_point = _is_box


def _checked_box(box: Any, image_box: BoxXYXY, name: str) -> BoxXYXY | None:
    """Clipped to the image; a box with nothing in the image is an error."""
    if box is None:
        return None
    if not _is_box(box) or len(box) != 4:
        raise PromptError(f"{name} must be four numbers x0, y0, x1, y1 in pixels of the image, but it is {box!r}.")
    if not all(map(_is_finite, box)):
        raise PromptError(f"{name} must be finite, but it is {box}. Leave it out or use None for the whole image.")
    x0, y0, x1, y1 = (float(value) for value in box)
    if x1 <= x0 or y1 <= y0:
        problem = "x1 <= x0" if x1 <= x0 else "y1 <= y0"
        raise PromptError(
            f"{name} must be xyxy with x0 < x1 and y0 < y1, but it is {box}: {problem}, so it is reversed or empty. "
            "If it is xywh, convert it with pixelllm_hf.xywh_to_xyxy."
        )
    _, _, width, height = image_box
    if x1 <= 0 or y1 <= 0 or x0 >= width or y0 >= height:
        raise PromptError(
            f"{name} must overlap the image of {width:.0f} x {height:.0f} pixels, but it is {box}, outside of it. "
            "Boxes are in pixels of the original, upright image."
        )
    return max(x0, 0.0), max(y0, 0.0), min(x1, width), min(y1, height)


def _checked_points(item: Any, image_box: BoxXYXY, max_points: int, name: str) -> tuple[LabelledPoint, ...] | None:
    if item is None:
        return None
    points = [item] if _is_point(item) else item
    if not isinstance(points, list) or not points:
        raise PromptError(f"{name} must be a point (x, y) or a list of points, but it is {item!r}.")
    if len(points) > max_points:
        raise PromptError(
            f"{name} must have at most {max_points} points, but it has {len(points)}. Leave some out or use a box."
        )
    _, _, width, height = image_box
    checked = []
    for point in points:
        if not _is_point(point) or len(point) not in (2, 3):
            raise PromptError(f"{name} must hold points (x, y) or (x, y, label), but one is {point!r}.")
        x, y, label = (*point, 1) if len(point) == 2 else point
        if not (_is_finite(x) and _is_finite(y) and 0 <= x <= width and 0 <= y <= height):
            raise PromptError(
                f"{name} must lie in the image of {width:.0f} x {height:.0f} pixels, but a point is ({x}, {y})."
            )
        if label not in (0, 1):
            raise PromptError(f"{name}: a label is 1 (inside) or 0 (outside), but it is {label}.")
        checked.append((float(x), float(y), int(label)))
    return tuple(checked)


def _checked_text(text: Any, name: str) -> str | None:
    if text is None:
        return None
    if not isinstance(text, str):
        raise PromptError(f"{name} must be a string or None, but it is {text!r}.")
    if not text.strip():
        raise PromptError(f"{name} is empty. Write something, or use None for the task's own prompt.")
    return text


__all__ = ["Prompt", "PromptError", "gather_prompts"]
