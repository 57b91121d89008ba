"""What an interrupted run has left in its file of records, and whether it asked the same question."""

from __future__ import annotations

import json
import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pixelllm_hf.files import atomic_path
from pixelllm_hf.inference import Request
from pixelllm_hf.processing.tasks import task_spec

from .errors import UsageError

if TYPE_CHECKING:
    from pixelllm_hf.processing.grounded_results import GroundedCaption

_NEAR = 0.51  # pixels: prompts are clipped to the image and come back rounded


@dataclass
class Earlier:
    """done: the images whose answers are whole, by their names in the records; lines: those answers, in order."""

    done: set[str]
    lines: list[bytes]
    is_whole: bool


def read_earlier(path: Path, request: Request) -> Earlier:
    """The records of a file that `--json` wrote; failed images, and the last one if its answers are not whole, are
    asked again.

    A `UsageError` if these records answer another question.
    """
    prompts = _prompts(request)
    lines = path.read_bytes().split(b"\n")
    half = lines.pop()  # empty after a whole line
    of_image: dict[str, list[int]] = defaultdict(list)
    asked: dict[str, set[int]] = defaultdict(set)
    for number, line in enumerate(lines):
        record = _record(line, path, number + 1)
        if "error" in record:
            continue
        name, result = record["image"], record["result"]
        if not _same_question(result, request, prompts):
            raise UsageError(
                f"the answer about {name} in {path} is to another question. Repeat the command that was interrupted, "
                "give --json another name, or leave --resume out."
            )
        of_image[name].append(number)
        asked[name].add(result.prompt_index)
    finds = task_spec(request.task).finds_objects  # any number of answers
    done = {name for name in of_image if finds or asked[name] == set(range(len(prompts)))}
    kept = sorted(number for name in done for number in of_image[name])
    return Earlier(done, [lines[i] for i in kept], is_whole=not half and len(kept) == len(lines))


def rewrite(path: Path, earlier: Earlier) -> None:
    """Leave nothing in the file but the answers that are whole."""
    with atomic_path(path) as temporary:
        temporary.write_bytes(b"".join(line + b"\n" for line in earlier.lines))


def _record(line: bytes, path: Path, number: int) -> dict[str, Any]:
    """{"error"}, or {"image", "result"}."""
    from pixelllm_hf.processing.grounded_results import GroundedCaption

    try:
        record = json.loads(line)
        if isinstance(record["error"] if "error" in record else record["image"], str):
            if "error" in record:
                return record
            return {"image": record.pop("image"), "result": GroundedCaption.from_dict(record)}
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError, OverflowError):
        pass
    raise UsageError(
        f"--resume goes on with records that --json has written, but line {number} of {path} is none. "
        "Give --json another name, or leave --resume out."
    )


def _same_question(result: GroundedCaption, request: Request, prompts: Sequence[str]) -> bool:
    index = result.prompt_index
    spec = task_spec(request.task)
    if spec.finds_objects:
        return result.box is not None and result.prompt_box is None and _letters(result.prompt) == _letters(prompts[0])
    if not 0 <= index < len(prompts) or _letters(result.prompt) != _letters(prompts[index]):
        return False
    if spec.writes_targets:
        return result.prompt_box is None and result.prompt_points is None
    has_mask = result.mask is not None
    if result.targets and not spec.about_objects:
        return False
    if has_mask != (spec.wants_masks and result.box is not None):
        return False
    if result.box is not None and not spec.about_objects:
        return False
    boxes = [*request.boxes, *[None] * len(request.points)] or [None] * len(prompts)
    points = [*[None] * len(request.boxes), *request.points] or [None] * len(prompts)
    return _same_box(result, boxes[index]) and _same_points(result, points[index])


def _same_box(result: GroundedCaption, box: Sequence[float] | None) -> bool:
    if box is None:
        return result.prompt_box is None
    width, height = result.image_size
    clipped = [min(max(v, 0), side) for v, side in zip(box, (width, height) * 2, strict=True)]
    return _near(clipped, result.prompt_box or (0, 0, width, height))  # the whole image is no box


def _same_points(result: GroundedCaption, points: Sequence[Sequence[float]] | None) -> bool:
    if points is None or result.prompt_points is None:
        return points is None and result.prompt_points is None
    return _near([v for xy in points for v in xy], [v for point in result.prompt_points for v in point[:2]])


def _near(first: Sequence[float], second: Sequence[float]) -> bool:
    if len(first) != len(second):
        return False
    return all(math.isclose(a, b, rel_tol=1e-4, abs_tol=_NEAR) for a, b in zip(first, second, strict=True))


def _letters(text: str | None) -> str:
    """Without blanks, which do not all come back."""
    return "".join((text or "").split())


def _prompts(request: Request) -> list[str]:
    """What the model is told for each prompt of the request."""
    told = [task_spec(request.task).prompt(text) for text in request.expressions or (request.text,)]
    return told * max(len(request.boxes) + len(request.points), 1)
