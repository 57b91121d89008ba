"""Settings of one call of the processor, as transformers' processors take them: flat, or grouped by what they are for.

transformers reads these annotations as types, so they are not postponed.
"""

from typing import Any, TypedDict

from transformers.processing_utils import ImagesKwargs, ProcessingKwargs


class PixelLLMImageProcessorKwargs(ImagesKwargs, total=False):  # type: ignore[call-arg]
    """antialias, rounding, max_image_pixels: see `PixelLLMImageProcessor`."""

    antialias: bool
    rounding: str
    max_image_pixels: int


class PixelLLMTextKwargs(TypedDict, total=False):
    """How text prompts become rows.

    padding: "max_length", or to the longest (also if False, as the rows are one array).
    max_length: tokens of a row with padding "max_length", and with truncation the most that a prompt keeps, the end of
    sentence counted; never more than the processor's max_prompt_tokens, which it is by default.
    truncation: cut prompts that are too long instead of refusing them.
    """

    padding: bool | str | None
    max_length: int | None
    truncation: bool | str | None
    return_tensors: str | None


class PixelLLMProcessorKwargs(ProcessingKwargs, total=False):  # type: ignore[call-arg]
    """All that a call takes besides images, places, text and task."""

    text_kwargs: PixelLLMTextKwargs
    images_kwargs: PixelLLMImageProcessorKwargs


# What transformers passes to every processor, used or not.
_ELSEWHERE = ("videos", "audio")

GROUPS = ("text_kwargs", "images_kwargs", "common_kwargs")


def refuse_unknown(settings: dict[str, Any]) -> None:
    """A `TypeError` for a setting that nothing would read; transformers itself only warns, once.

    Drops the empty places of inputs that other models take.
    """
    for name in _ELSEWHERE:
        if settings.get(name) is None:
            settings.pop(name, None)
    known = {
        "text_kwargs": set(PixelLLMTextKwargs.__annotations__),
        # canvas and rounding are the model's: others in one call would put what it finds elsewhere in the image
        "images_kwargs": set(PixelLLMImageProcessorKwargs.__annotations__) - {"rounding", "size"},
    }
    unknown = [name for name in settings if name not in {*GROUPS, *known["text_kwargs"], *known["images_kwargs"]}]
    known["common_kwargs"] = {"return_tensors"}
    for group in GROUPS:
        unknown += [f"{group}[{name!r}]" for name in settings.get(group, {}) if name not in known[group]]
    if unknown:
        raise TypeError(
            f"the processor takes no {', '.join(unknown)}. It takes images, text, boxes, points, task, and as settings "
            f"{', '.join(sorted(known['text_kwargs']))}, and those of the image processor."
        )


__all__ = ["PixelLLMImageProcessorKwargs", "PixelLLMProcessorKwargs", "PixelLLMTextKwargs", "refuse_unknown"]
