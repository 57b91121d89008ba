"""What the page shows of some answers: plain JSON of bounded size, in pixels of the original image."""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from PIL import Image

from pixelllm_hf.processing.grounded_results import GroundedCaption, GroundedWord
from pixelllm_hf.processing.grounded_targets import objects_of
from pixelllm_hf.processing.tasks import task_spec

from .outlines import mask_outlines

IMAGE_SIDE = 1280  # longest side of the image on the page; a screen has rarely more for it
IMAGE_BYTES = 600_000  # of the JPEG; a noisy image is made smaller until it fits
MOST_ANSWERS = 100
MOST_WORDS = 400
MOST_LETTERS = 4000
_JPEG_QUALITY = 88


@dataclass(frozen=True)
class ShownImage:
    """An image as the page shows it. Make it once where the same image gets many views, as while streaming.

    url: a data URI of a JPEG that was encoded here, so nothing but pixels of what a visitor sent reaches the page.
    size: (width, height) of the original in pixels, which all places refer to.
    """

    url: str
    size: tuple[int, int]

    @classmethod
    def of(cls, image: Image.Image) -> ShownImage:
        """image: the original, as it went into the processor (turned upright already). Transparency turns white."""
        # Pasted, not converted: a conversion takes the file's comments and profiles along, and saving writes them.
        shown = Image.new("RGB", image.size, "white")
        if image.has_transparency_data:
            with_alpha = image.convert("RGBA")
            shown.paste(with_alpha, mask=with_alpha)
        else:
            shown.paste(image.convert("RGB"))
        scale = min(1.0, IMAGE_SIDE / max(shown.size))
        while True:
            encoded = _jpeg(shown, scale)
            if len(encoded) <= IMAGE_BYTES:
                break
            scale *= 0.7
        return cls("data:image/jpeg;base64," + base64.b64encode(encoded).decode("ascii"), image.size)


def build_view(
    image: Image.Image | ShownImage,
    results: Sequence[GroundedCaption],
    *,
    task: str,
    writing: bool = False,
) -> dict[str, Any]:
    """The value of `LinkedViewer`: an image and its answers.

    results: of this image, in the order they are to be listed; fewer and shorter ones while the model still writes.
    -> {"image", "size" [w, h], "task", "writing", "answers": [{"text", "score", "box", "mask", "prompt",
    "prompt_box", "prompt_points", "words": [{"text", "start", "end", "point", "box", "mask", "score", "spread",
    "visual"}]}], "left_out"}. Words that probably have no location come without point and box.
    Where an answer writes targets, or has several, its words are their phrases, each with a mask. A mask is a list of
    outlines [x0, y0, x1, y1, ...], or None; an answer's score is that of `shown_score`.
    What is not finite is None. left_out: how many answers beyond the first hundred are not in it.
    """
    shown = image if isinstance(image, ShownImage) else ShownImage.of(image)
    for i, result in enumerate(results):
        if tuple(result.image_size) != tuple(shown.size):
            raise ValueError(
                f"result {i} belongs to an image of {result.image_size[0]} x {result.image_size[1]} pixels, but this "
                f"one is {shown.size[0]} x {shown.size[1]}. Pass the image that went into the processor."
            )
    return {
        "image": shown.url,
        "size": [int(side) for side in shown.size],
        "task": task,
        "writing": bool(writing),
        "answers": [_answer(result, task) for result in results[:MOST_ANSWERS]],
        "left_out": max(0, len(results) - MOST_ANSWERS),
    }


def shown_score(result: GroundedCaption, task: str) -> float | None:
    """How sure the model is of an answer: the detector of its box, the mask head of its mask, else of what it wrote."""
    if result.box_score is not None:
        return result.box_score
    return result.mask_score if result.mask_score is not None or _is_given(task) else result.score


def _answer(result: GroundedCaption, task: str) -> dict[str, Any]:
    text = result.text[:MOST_LETTERS]
    words = [_word(word, task) for word in result.placed_words[:MOST_WORDS] if word.end <= len(text)]
    about_phrases = task_spec(task).writes_targets or len(result.targets) > 1
    if about_phrases:
        words = _phrases(result, len(text))
    return {
        "text": text,
        "score": _number(shown_score(result, task), digits=4),
        "box": None if about_phrases else _numbers(result.box),
        "mask": None if about_phrases or result.mask is None else mask_outlines(result.mask),
        "prompt": None if result.prompt is None else result.prompt[:MOST_LETTERS],
        "prompt_box": _numbers(result.prompt_box),
        "prompt_points": None
        if result.prompt_points is None
        else [[*point, int(label)] for x, y, label in result.prompt_points if (point := _numbers((x, y))) is not None],
        "words": words,
    }


def _phrases(result: GroundedCaption, letters: int) -> list[dict[str, Any]]:
    """The targets of an answer as words that have masks. Of several with the same phrase the first one has it."""
    phrases: list[dict[str, Any]] = []
    if not result.targets:
        return phrases
    done = 0
    for target, thing in zip(result.targets[:MOST_ANSWERS], objects_of(result), strict=False):
        start, end = (target.start, target.end) if target.start >= done else (done, done)
        if end > letters:
            break
        done = end
        x0, y0, x1, y1 = thing.bounds if thing.is_placed else (0.0, 0.0, 0.0, 0.0)
        is_seen = x0 < x1 and y0 < y1  # and is no mask without a pixel
        phrases.append(
            {
                "text": result.text[start:end],
                "start": start,
                "end": end,
                "point": _numbers(((x0 + x1) / 2, (y0 + y1) / 2)) if is_seen else None,
                "box": _numbers((x0, y0, x1, y1)) if is_seen else None,
                "mask": mask_outlines(target.mask) if is_seen and target.mask is not None else None,
                "score": _number(target.score, digits=4),
            }
        )
    return phrases


def _word(word: GroundedWord, task: str) -> dict[str, Any]:
    return {
        "text": word.text,
        "start": int(word.start),
        "end": int(word.end),
        "point": _numbers(word.point),
        "box": _numbers(word.box),
        "mask": None,
        "score": None if _is_given(task) else _number(word.score, digits=4),
        "spread": _numbers(word.spread),
        "visual": _number(word.visual, digits=4),
    }


def _is_given(task: str) -> bool:
    """The text comes from the visitor: how likely it is says nothing."""
    return task_spec(task).text_is_answer


def _numbers(values: Sequence[float] | None) -> list[float] | None:
    """Rounded to a hundredth of a pixel; None if one of them is not finite."""
    if values is None:
        return None
    numbers = [_number(value, digits=2) for value in values]
    return None if None in numbers else numbers  # type: ignore[return-value]


def _number(value: float | None, *, digits: int) -> float | None:
    return None if value is None or not math.isfinite(value) else round(float(value), digits)


def _jpeg(image: Image.Image, scale: float) -> bytes:
    if scale < 1:
        size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
        image = image.resize(size, Image.Resampling.LANCZOS, reducing_gap=2.0)
    buffer = io.BytesIO()
    image.save(buffer, format="JPEG", quality=_JPEG_QUALITY)
    return buffer.getvalue()


__all__ = ["ShownImage", "build_view", "shown_score"]
