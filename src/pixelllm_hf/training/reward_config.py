"""The `reward` part of a recipe."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from pixelllm_hf.training.recipe_values import Positive, RecipePart, Share, Within


@dataclass
class RewardConfig(RecipePart):
    """What captions are rewarded for.

    Args:
        function: `module:function`, called once with the references of all training images and asked as a `Reward` of
            `reward_objective`.
        samples: captions that are written of an image. temperature: that they are drawn at.
        share: of the batches of captions that are rewarded; the others teach as they do otherwise.
        weight: of a rewarded batch's loss.
        max_new_tokens: longest caption.
    """

    function: str = "pixelllm_hf.evaluation.cider:CiderReward"
    samples: Annotated[int, Within(2, 64)] = 5
    temperature: Positive = 1.0
    share: Share = 0.7
    weight: Positive = 1.0
    max_new_tokens: Annotated[int, Within(1, 4096)] = 24
