"""What the processor gives: tensors by name, whose boxes and points stay float32 wherever they are sent."""

from __future__ import annotations

from typing import Any

import torch
from transformers.feature_extraction_utils import BatchFeature

# Canvas pixels. bfloat16 has 8 bits for them: at 500 it knows even numbers only, which are 10 pixels of a large image.
GEOMETRY = ("prompt_boxes", "prompt_points")


class PixelLLMInputs(BatchFeature):
    """The inputs of `generate` and `forward`, and of post-processing after it."""

    def to(self, *args: Any, **kwargs: Any) -> PixelLLMInputs:
        """To a device, a dtype or both, as `Tensor.to`; changes and returns itself.

        Only pixel_values take the dtype. Boxes and points stay float32, or what is reported and looked at would be
        another place.
        """
        kept = {name: self.data[name] for name in GEOMETRY if isinstance(self.data.get(name), torch.Tensor)}
        super().to(*args, **kwargs)
        self.data |= {name: places.to(self.data[name].device) for name, places in kept.items()}
        return self

    def half(self) -> PixelLLMInputs:
        """`to(torch.float16)`."""
        return self.to(torch.float16)

    def bfloat16(self) -> PixelLLMInputs:
        """`to(torch.bfloat16)`."""
        return self.to(torch.bfloat16)


__all__ = ["GEOMETRY", "PixelLLMInputs"]
