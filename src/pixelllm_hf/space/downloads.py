"""Answers as files to take away: JSON, COCO, labelme, or a drawing."""

from __future__ import annotations

import json
import secrets
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from pixelllm_hf.processing.grounded_results import GroundedCaption, draw_results
from pixelllm_hf.processing.result_exports import coco_annotations, labelme_record

from .refusals import RefusedError

SIDES = (640, 3200)  # shortest and longest longer side of a drawing, in pixels
TEXT_SHOWN = 200_000  # letters; what is longer is only in the file


def _json(results: Sequence[GroundedCaption], name: str, size_wh: tuple[int, int]) -> Any:
    return [result.to_dict() for result in results]


def _coco(results: Sequence[GroundedCaption], name: str, size_wh: tuple[int, int]) -> Any:
    return coco_annotations([results], [1], [name], [size_wh])


def _labelme(results: Sequence[GroundedCaption], name: str, size_wh: tuple[int, int]) -> Any:
    return labelme_record(results, name, image_size=size_wh)


RECORDS: dict[str, Callable[[Sequence[GroundedCaption], str, tuple[int, int]], Any]] = {
    "JSON": _json,
    "COCO": _coco,
    "LabelMe": _labelme,
}
FORMATS = (*RECORDS, "PNG")


def record_text(form: str, results: Sequence[GroundedCaption], name: str, size_wh: tuple[int, int]) -> str:
    """The text of a format of `RECORDS`. name: of the image; size_wh: its width and height."""
    return json.dumps(RECORDS[form](results, name, size_wh), ensure_ascii=False, indent=1)


def drawing(image: Image.Image, results: Sequence[GroundedCaption], *, as_objects: bool, side: int) -> Image.Image:
    """The image with its answers, the longer side so many pixels.

    as_objects: all results together as objects; else the words of the first one.
    """
    low, high = SIDES
    if not low <= side <= high:
        raise RefusedError(f"a drawing may be {low} to {high} pixels long, but {side} were asked for.")
    if as_objects or not results:
        return draw_results(image, results, min_side=side, max_side=side)
    return results[0].draw(image, min_side=side, max_side=side)


def new_file(folder: Path, name: str) -> Path:
    """A path in a fresh folder within `folder` that nobody can guess."""
    inside = folder / secrets.token_hex(16)
    inside.mkdir(parents=True)
    return inside / name


__all__ = ["FORMATS", "RECORDS", "SIDES", "TEXT_SHOWN", "drawing", "new_file", "record_text"]
