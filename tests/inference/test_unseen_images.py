"""Of an image unlike anything that it was taught with the embedded model says little, and nothing twice."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw

from pixelllm_hf import PixelLLMForGroundedGeneration, PixelLLMProcessor, embedded_checkpoint
from pixelllm_hf.evaluation.repetition import repeats

MOST_WORDS = {"caption": 20, "trace": 30, "region": 20}  # the captions that it was taught with have eleven


def noise() -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (240, 320, 3), np.uint8))


def screenshot() -> Image.Image:
    image = Image.new("RGB", (640, 480), (250, 250, 252))
    pen = ImageDraw.Draw(image)
    pen.rectangle((0, 0, 640, 30), fill=(60, 70, 90))
    for y in range(45, 460, 18):
        pen.text((150, y), "an entry of a list, and what it says of itself " * 2, fill=(20, 20, 20))
        pen.rounded_rectangle((12, y, 128, y + 12), 5, fill=(80, 120 + y // 4, 200))
    return image


def drawing() -> Image.Image:
    image = Image.new("RGB", (320, 320), "white")
    pen = ImageDraw.Draw(image)
    for i, colour in enumerate(("red", "blue", "green", "orange")):
        pen.ellipse((20 + 60 * i, 40 + 40 * i, 120 + 60 * i, 110 + 40 * i), fill=colour, outline="black")
    return image


def stripes() -> Image.Image:
    values = (np.indices((240, 320)).sum(0) // 8 % 2 * 255).astype(np.uint8)
    return Image.fromarray(np.stack([values] * 3, -1))


IMAGES = {
    "noise": noise(),
    "black": Image.new("RGB", (320, 240)),
    "yellow": Image.new("RGB", (320, 240), "yellow"),
    "screenshot": screenshot(),
    "drawing": drawing(),
    "stripes": stripes(),
    "one pixel": Image.new("RGB", (1, 1), "red"),
}


@pytest.mark.parametrize("task", ["caption", "trace", "region"])
def test_a_caption_of_an_image_unlike_any_stays_short_and_repeats_nothing(task: str) -> None:
    folder = embedded_checkpoint("photo")
    processor = PixelLLMProcessor.from_pretrained(folder)
    model = PixelLLMForGroundedGeneration.from_pretrained(folder, dtype=torch.float32).eval()
    images = list(IMAGES.values())
    places = {"boxes": [[[0, 0, *image.size]] for image in images]} if task == "region" else {}
    inputs = processor(images=images, task=task, **places)
    with torch.inference_mode():
        output = model.generate(**inputs)
    for name, (caption,) in zip(IMAGES, processor.post_process_grounded_generation(output, inputs), strict=True):
        said = [word.text.lower() for word in caption.words]
        assert 0 < len(said) <= MOST_WORDS[task], (name, caption.text)
        assert not repeats(caption.text), (name, caption.text)
        assert all(one != other for one, other in zip(said, said[1:], strict=False)), (name, caption.text)
