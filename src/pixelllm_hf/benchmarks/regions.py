"""What a further region costs beside the first: the image is seen once, whatever is asked about it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pixelllm_hf.evaluation.bootstrap import Estimate
from pixelllm_hf.modeling.modeling_pixelllm import PixelLLMForGroundedGeneration

from .pairs import median_estimate, timed_in_turn


@dataclass(frozen=True)
class RegionsRow:
    """seconds of one prompt and of all (medians); further: what each prompt beyond the first adds, as a share of the
    first, which sees the image too; equal: every answer is the one that its prompt gets alone."""

    prompts: int
    one: float
    all: float
    further: Estimate
    equal: bool


def compare(
    model: PixelLLMForGroundedGeneration, *, prompts: int, tokens: int, repeats: int, clock: str = "wall"
) -> RegionsRow:
    """Answers of so many tokens to one region and to many regions of a random image."""
    inputs = region_inputs(model, prompts)

    def answer(count: int) -> Tensor:
        boxes = inputs["prompt_boxes"][:, :count]
        given = {**inputs, "prompt_boxes": boxes, "prompt_mask": inputs["prompt_mask"][:, :count]}
        return model.generate(**given, **greedy(tokens)).sequences

    with torch.inference_mode():
        found = timed_in_turn({"one": lambda: answer(1), "all": lambda: answer(prompts)}, repeats, clock)
        features = model.get_image_features(inputs["pixel_values"], inputs["pixel_mask"])
        alone = [_alone(model, inputs, features, row, tokens) for row in range(prompts)]
    one, together = (np.array(found.seconds[way]) for way in ("one", "all"))
    return RegionsRow(
        prompts=prompts,
        one=found.median("one"),
        all=found.median("all"),
        further=median_estimate((together - one) / (prompts - 1) / one),
        equal=bool(torch.equal(torch.cat(alone), found.results["all"])),
    )


def region_inputs(model: PixelLLMForGroundedGeneration, prompts: int) -> dict[str, Tensor]:
    """A random image and so many boxes on it, as the arguments of `encode`, `forward` and `generate`."""
    side = model.config.image_size
    generator = torch.Generator().manual_seed(1)
    corners = torch.rand(1, prompts, 2, 2, generator=generator).sort(dim=2).values * side
    inputs = {
        "pixel_values": torch.rand(1, 3, side, side, generator=generator) * 255,
        "pixel_mask": torch.ones(1, side, side, dtype=torch.bool),
        "prompt_boxes": corners.flatten(2),
        "prompt_mask": torch.ones(1, prompts, dtype=torch.bool),
    }
    return {name: value.to(model.device) for name, value in inputs.items()}


def _alone(model: Any, inputs: dict[str, Tensor], features: Any, row: int, tokens: int) -> Tensor:
    return model.generate(
        image_features=features,
        pixel_mask=inputs["pixel_mask"],
        prompt_boxes=inputs["prompt_boxes"][:, row : row + 1],
        **greedy(tokens),
    ).sequences


def greedy(tokens: int) -> dict[str, Any]:
    """Options of `generate` for answers of exactly so many tokens, whatever the checkpoint's own are."""
    return {
        "min_new_tokens": tokens,
        "max_new_tokens": tokens,
        "num_beams": 1,
        "do_sample": False,
        "max_repeated_tokens": 0,
        "no_repeat_ngram_size": 0,
    }


__all__ = ["RegionsRow", "compare", "greedy", "region_inputs"]
