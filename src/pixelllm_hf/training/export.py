"""A trained model as a folder that `from_pretrained` reads."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pixelllm_hf.modeling.modeling_pixelllm import PixelLLMForGroundedGeneration
from pixelllm_hf.training.config import ConfigError
from pixelllm_hf.training.lora import LoraSettings, merged_state_dict, save_adapter
from pixelllm_hf.training.sharding import whole_state_dict

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def export_dtype(name: str) -> torch.dtype:
    if name not in DTYPES:
        raise ConfigError(f"export_dtype must be one of {', '.join(DTYPES)}, but is {name!r}.")
    return DTYPES[name]


def save_folder(
    model: PixelLLMForGroundedGeneration,
    folder: Path,
    *,
    processor: Any = None,
    dtype: torch.dtype = torch.float32,
    lora: LoraSettings | None = None,
) -> None:
    """Write config, weights and processor. With adapters the weights are merged, and `adapter/` has them alone.

    dtype is that of the stored tensors alone: the config keeps the model's own, so a model trained in float32 loads in
    float32 from a file of half the size. The modules that compute locations are always stored in float32.
    """
    tensors = merged_state_dict(model) if lora is not None else whole_state_dict(model)
    keep = tuple(f"{name}." for name in model._keep_in_fp32_modules_strict or ())
    tensors = {name: _cast(t, torch.float32 if name.startswith(keep) else dtype) for name, t in tensors.items()}
    model.save_pretrained(folder, state_dict=tensors)
    if lora is not None:
        save_adapter(model, lora, folder / "adapter")
    if processor is not None:
        processor.save_pretrained(folder)


def _cast(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    return tensor.detach().to(dtype) if tensor.is_floating_point() else tensor.detach()
