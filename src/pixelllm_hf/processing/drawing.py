"""Draw a grounded caption."""

from __future__ import annotations

from typing import Any

from PIL import Image


def draw_caption(image: Image.Image, text: str, words: Any, prompt_box: Any = None, prompt_points: Any = None):
    raise NotImplementedError
