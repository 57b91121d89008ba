"""A processor and model that answer from a table, for tests of what is done with the answers."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import GenerationConfig

from pixelllm_hf.processing.grounded_results import GroundedCaption


class Oracle:
    """Both model and processor. `answer(image)` gives an image's answers; `asked` records the calls."""

    device = torch.device("cpu")
    config = SimpleNamespace(point_head_config={}, mask_head_config={}, proposal_head_config={})
    generation_config = GenerationConfig()

    def __init__(self, images: Sequence[Any], answer: Callable[[Any], list[GroundedCaption]]):
        self.known = {image.open().tobytes(): image for image in images}
        self.answer = answer
        self.asked: list[dict[str, Any]] = []

    def __call__(self, images: Sequence[Image.Image], **asked: Any) -> dict[str, torch.Tensor]:
        self.asked.append({"images": len(images), **asked})
        self.chosen = [self.known[image.tobytes()] for image in images]
        return {"pixel_values": torch.zeros(len(images))}

    def generate(self, **options: Any) -> list[list[GroundedCaption]]:
        self.asked[-1]["options"] = {name: value for name, value in options.items() if name != "pixel_values"}
        return [self.answer(image) for image in self.chosen]

    def post_process_grounded_generation(self, output: Any, inputs: Mapping[str, Any]) -> Any:
        return output

    post_process_refer = post_process_segment = post_process_region = post_process_grounded_generation

    def post_process_dense(self, output: Any, inputs: Mapping[str, Any], *, every_caption: bool = False) -> Any:
        """Average precision ranks all that was found."""
        assert every_caption
        return output


@pytest.fixture(scope="session")
def oracle() -> type[Oracle]:
    return Oracle


@pytest.fixture(scope="session")
def said() -> Callable[..., GroundedCaption]:
    """(text, mask, further fields of the answer) -> an answer without words."""

    def answer(text: str = "", mask: np.ndarray | None = None, **fields: Any) -> GroundedCaption:
        size = (1, 1) if mask is None else mask.shape[::-1]
        return GroundedCaption(text, (), size, mask=mask, **{"score": 0.5, **fields})

    return answer
