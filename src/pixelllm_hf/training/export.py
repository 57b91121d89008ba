"""A trained model as a folder that `from_pretrained` reads."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pixelllm_hf.modeling.modeling_pixelllm import PixelLLMForGroundedGeneration
from pixelllm_hf.safetensors_files import STORED_AS
from pixelllm_hf.training.config import ConfigError
from pixelllm_hf.training.lora import LoraSettings, merged_state_dict, save_adapter
from pixelllm_hf.training.sharding import whole_state_dict


def export_dtype(name: str) -> torch.dtype:
    if name not in STORED_AS:
        raise ConfigError(f"export_dtype must be one of {', '.join(STORED_AS)}, but is {name!r}.")
    return getattr(torch, name)


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
    model.save_pretrained(folder, state_dict=_cast(tensors, dtype, model._keep_in_fp32_modules_strict or ()))
    if lora is not None:
        save_adapter(model, lora, folder / "adapter")
    if processor is not None:
        processor.save_pretrained(folder)


def _cast(tensors: Mapping[str, Tensor], dtype: torch.dtype, in_float32: Collection[str]) -> dict[str, Tensor]:
    """The tensors in dtype, those of the modules in_float32 in float32; tied ones stay one, and are stored once."""
    keep = tuple(f"{name}." for name in in_float32)
    made: dict[Any, Tensor] = {}
    cast = {}
    for name, tensor in tensors.items():
        to = torch.float32 if name.startswith(keep) else dtype
        same = (tensor.data_ptr(), tensor.shape, tensor.stride(), tensor.dtype, to)
        if same not in made:
            made[same] = tensor.detach().to(to) if tensor.is_floating_point() else tensor.detach()
        cast[name] = made[same]
    return cast
