"""A small model with random weights and inputs of the shapes the processor makes."""

from __future__ import annotations

import pytest
import torch

from pixelllm_hf.modeling.configuration_pixelllm import PixelLLMConfig
from pixelllm_hf.modeling.modeling_pixelllm import PixelLLMForGroundedGeneration


@pytest.fixture
def small_model() -> PixelLLMForGroundedGeneration:
    """The test-sized model with random weights; its head is scaled up so that captions differ and scores do not tie."""
    torch.manual_seed(0)
    model = PixelLLMForGroundedGeneration(PixelLLMConfig.for_tests()).eval()
    with torch.no_grad():
        model.language_model.lm_head.weight.mul_(3)
    return model


@pytest.fixture
def small_inputs() -> dict[str, torch.Tensor]:
    """Two images, the second padded, with two prompts and one; three rows of text of different lengths."""
    generator = torch.Generator().manual_seed(1)
    side = 64
    mask = torch.zeros(2, side, side, dtype=torch.bool)
    mask[0] = True
    mask[1, :40] = True
    pixels = torch.rand(2, 3, side, side, generator=generator) * 255 * mask[:, None]
    boxes = torch.tensor([[[0.0, 0, 64, 64], [8, 8, 40, 30]], [[0, 0, 64, 40], [0, 0, 0, 0]]])
    ids = torch.randint(2, 99, (3, 5), generator=generator)
    text_mask = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0], [1, 1, 0, 0, 0]])
    return {
        "pixel_values": pixels,
        "pixel_mask": mask,
        "prompt_boxes": boxes,
        "prompt_mask": torch.tensor([[True, True], [True, False]]),
        "input_ids": ids * text_mask,
        "attention_mask": text_mask,
        "original_sizes": torch.tensor([[128, 128], [80, 128]]),
    }
