"""An image and answers about it that no model gave."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from pixelllm_hf.processing.grounded_results import GroundedCaption, GroundedWord
from pixelllm_hf.processing.grounded_targets import GroundedTarget

SIZE = (900, 600)
# What is where: name, box. The dog lies within the meadow.
LOCATION_FIELDS = {
    "dog": (120, 300, 330, 480),
    "ball": (420, 420, 500, 500),
    "tree": (640, 90, 840, 460),
    "meadow": (0, 280, 900, 600),
}


def made_up_image(size: tuple[int, int] = SIZE) -> Image.Image:
    image = Image.new("RGB", SIZE, (158, 205, 240))
    draw = ImageDraw.Draw(image)
    draw.rectangle(LOCATION_FIELDS["meadow"], fill=(120, 178, 92))
    draw.ellipse(LOCATION_FIELDS["tree"], fill=(45, 110, 60))
    draw.rounded_rectangle(LOCATION_FIELDS["dog"], 60, fill=(139, 90, 50))
    draw.ellipse(LOCATION_FIELDS["ball"], fill=(200, 40, 40))
    return image.resize(size)


def made_up_word(text: str, start: int, box: tuple[float, ...] | None, score: float | None = 0.9) -> GroundedWord:
    point = None if box is None else ((box[0] + box[2]) / 2, (box[1] + box[3]) / 2)
    return GroundedWord(text, start, start + len(text), point, box, score)  # type: ignore[arg-type]


def made_up_caption(text: str = "A dog with a ball, near a tree.", **fields: Any) -> GroundedCaption:
    """Its nouns have locations; "A", "with" and the like have none."""
    words, start = [], 0
    for chunk in text.split(" "):
        name = chunk.strip(",.")
        words.append(made_up_word(name, start, LOCATION_FIELDS.get(name)))
        start += len(chunk) + 1
    return GroundedCaption(text, tuple(words), SIZE, score=0.8, **fields)


def made_up_object(name: str, *, mask: bool = False) -> GroundedCaption:
    box = tuple(float(value) for value in LOCATION_FIELDS[name])
    pixels = None
    if mask:
        rows, columns = np.mgrid[: SIZE[1], : SIZE[0]]
        x, y, rx, ry = (box[0] + box[2]) / 2, (box[1] + box[3]) / 2, (box[2] - box[0]) / 2, (box[3] - box[1]) / 2
        pixels = ((columns - x) / rx) ** 2 + ((rows - y) / ry) ** 2 <= 1
    caption = made_up_caption(f"a {name}")
    return replace(caption, box=box, box_score=0.75, mask=pixels, mask_score=0.9 if mask else None)  # type: ignore[arg-type,call-arg]


def made_up_answer() -> GroundedCaption:
    """Three phrases that point: two with masks, one whose mask has no pixel."""
    text, targets = "The dog can bark, the ball and the tree cannot.", []
    for name in ("dog", "ball", "tree"):
        mask = made_up_object(name, mask=True).mask
        start = text.index(f"he {name}") - 1
        empty = name == "tree"
        targets.append(
            GroundedTarget(
                start,
                start + len(name) + 4,
                mask=np.zeros_like(mask) if empty else mask,
                mask_score=0.0 if empty else 0.9,
            )
        )
    return GroundedCaption(text, (), SIZE, score=0.8, prompt="what can bark?", targets=tuple(targets))


def growing(caption: GroundedCaption) -> Iterator[GroundedCaption]:
    """The caption word by word, as it streams in."""
    for number in range(1, len(caption.words) + 1):
        words = caption.words[:number]
        yield replace(caption, text=caption.text[: words[-1].end], words=words, score=None)
