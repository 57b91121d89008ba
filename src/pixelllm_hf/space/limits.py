"""What the demo takes: images and requests from strangers, checked and bounded before any work is done."""

from __future__ import annotations

import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image, UnidentifiedImageError

from pixelllm_hf.inference import Request
from pixelllm_hf.processing.image_reading import ImageTooLargeError, UnreadableImageError, read_image
from pixelllm_hf.processing.tasks import TASK_SPECS, task_spec

from .refusals import RefusedError

# What browsers show. Others are refused by their first bytes: of some, Pillow starts other programs (EPS).
IMAGE_FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF")


@dataclass(frozen=True)
class Limits:
    """upload_bytes, pixels: of an image. prompts: boxes, points or expressions of a request. letters: of a text.

    seconds: writing an answer longer than this is stopped. new_tokens: longest text. objects: most of an image.
    """

    upload_bytes: int = 10 << 20
    pixels: int = 24_000_000
    prompts: int = 8
    letters: int = 300
    beams: int = 8
    new_tokens: int = 96
    objects: int = 50
    seconds: float = 60.0


def uploaded_file(payload: Any, folder: Path) -> Path:
    """The file that gradio's record of an upload names; only one in `folder`, where uploads are kept, is taken."""
    path = payload.get("path") if isinstance(payload, Mapping) else None
    if not isinstance(path, str) or not path:
        raise RefusedError("an image is needed. Upload one, or choose an example.")
    try:
        file = Path(path).resolve()
        known = file.is_relative_to(folder.resolve()) and file.is_file()
    except (OSError, ValueError):  # too long a name, a zero in it
        known = False
    if not known:
        raise RefusedError("this image is not here, or not any longer. Upload it again.")
    return file


def read_upload(file: Path, limits: Limits) -> Image.Image:
    """-> upright, RGB, of its original size."""
    try:
        with open(file, "rb") as stream:
            content = stream.read(limits.upload_bytes + 1)
    except OSError as error:
        raise RefusedError("this image is not here any longer. Upload it again.") from error
    if len(content) > limits.upload_bytes:
        raise RefusedError(f"an image may have {limits.upload_bytes >> 20} MB, but this one has more. Make it smaller.")
    too_large = f"an image may have {limits.pixels / 1e6:.0f} million pixels, but this one has more. Scale it down."
    try:
        image = Image.open(io.BytesIO(content), formats=IMAGE_FORMATS)
        return read_image(image, max_pixels=limits.pixels, name="the image").pixels
    except (ImageTooLargeError, Image.DecompressionBombError) as error:
        raise RefusedError(too_large) from error
    except UnidentifiedImageError as error:
        raise RefusedError("this file is not an image in a known format. Send a JPEG, PNG, WebP or GIF.") from error
    except UnreadableImageError:
        raise
    except Exception as error:  # Pillow's plugins raise nearly anything on broken headers
        raise RefusedError("this image has a broken header. Save it again as JPEG or PNG.") from error


def checked_request(
    task: Any,
    limits: Limits,
    *,
    expressions: Any = None,
    boxes: Any = None,
    points: Any = None,
    max_results: Any = None,
    min_score: Any = None,
) -> Request:
    """The request of a task. expressions: texts; boxes: (x0, y0, x1, y1) each; points: (x, y) each; None for none.

    Whether a place lies in the image is for the processor to say.
    """
    if task not in list(TASK_SPECS):  # of any type
        raise RefusedError(f"the tasks are {', '.join(TASK_SPECS)}, but {_short(task)} came.")
    texts = tuple(_text(text, limits) for text in _items(expressions, "expressions", limits))
    places = tuple(_numbers(box, 4, "a box is x0, y0, x1, y1") for box in _items(boxes, "boxes", limits))
    single = tuple((_numbers(point, 2, "a point is x, y"),) for point in _items(points, "points", limits))
    spec = task_spec(task)
    if spec.needs_words and not texts:
        wanted = "what to find, for example “the red car”" if spec.text_is_answer else "a question"
        raise RefusedError(f"write {wanted}.")
    if spec.needs_locations and not places and not single:
        raise RefusedError("draw a box or click a point on the image, or give its numbers.")
    if len(places) + len(single) > limits.prompts:
        raise RefusedError(f"at most {limits.prompts} boxes and points can be asked about at once.")
    most = limits.objects if max_results is None else checked_whole(max_results, 1, limits.objects, "the results")
    return Request(
        task,
        boxes=places,  # type: ignore[arg-type]
        points=single,  # type: ignore[arg-type]
        expressions=texts,
        max_results=most if spec.finds_objects else None,
        min_score=None if min_score is None else _fraction(min_score),
    )


def checked_whole(value: Any, low: int, high: int, what: str) -> int:
    """A whole number within bounds."""
    if not _is_number(value) or value != int(value) or not low <= value <= high:
        raise RefusedError(f"{what} must be a whole number from {low} to {high}, but {_short(value)} came.")
    return int(value)


def _items(value: Any, what: str, limits: Limits) -> Sequence[Any]:
    if value is None:
        return ()
    if not isinstance(value, (list, tuple)):
        raise RefusedError(f"the {what} must be a list, but {_short(value)} came.")
    if len(value) > limits.prompts:
        raise RefusedError(f"at most {limits.prompts} {what} can be asked about at once, but {len(value)} came.")
    return value


def _text(value: Any, limits: Limits) -> str:
    if not isinstance(value, str) or not value.strip():
        raise RefusedError(f"an expression must be a text, for example “the red car”, but {_short(value)} came.")
    if len(value) > limits.letters:
        raise RefusedError(f"a text may have {limits.letters} letters, but this one has {len(value)}. Shorten it.")
    try:
        value.encode()
    except UnicodeEncodeError as error:  # half of a pair of surrogates
        raise RefusedError("this text is not valid Unicode. Type it again.") from error
    return value


def _numbers(value: Any, count: int, rule: str) -> tuple[float, ...]:
    if not isinstance(value, (list, tuple)) or len(value) != count or not all(map(_is_number, value)):
        raise RefusedError(f"{rule}, {count} numbers in pixels of the image, but {_short(value)} came.")
    return tuple(float(number) for number in value)


def _fraction(value: Any) -> float:
    if not _is_number(value) or not 0 <= value <= 1:
        raise RefusedError(f"a score is a number from 0 to 1, but {_short(value)} came.")
    return float(value)


def _is_number(value: Any) -> bool:
    try:
        return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
    except OverflowError:  # a whole number beyond all floats
        return False


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:60] + "…"


__all__ = ["IMAGE_FORMATS", "Limits", "checked_request", "checked_whole", "read_upload", "uploaded_file"]
