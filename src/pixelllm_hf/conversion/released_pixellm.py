"""A released PixelLM as a folder of ours: weights, configuration, tokenizer and processor.

The release lacks CLIP's own weights, which come from their checkpoint (openai/clip-vit-large-patch14-336), and says the
language model's sizes alone; what is always the same of PixelLM is `PixelLMConfig`'s default.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AutoTokenizer, GenerationConfig

from ..families import FAMILIES
from ..modeling.configuration_pixellm import PixelLMCodebookConfig, PixelLMConfig
from ..modeling.modeling_pixellm import PixelLMForReasoningSegmentation
from ..processing.image_processing_pixelllm import PixelLLMImageProcessor
from ..processing.processing_pixellm import PixelLMProcessor, add_pixellm_tokens
from .pixellm import ReleasedNamesError, convert_pixellm
from .weight_sources import WeightSource, find_weights

_OF_LLAMA = (
    "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads",
    "max_position_embeddings", "rms_norm_eps", "rope_theta", "hidden_act",
)  # fmt: skip
CLIP_SIZES = (
    "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "patch_size", "projection_dim",
    "layer_norm_eps", "hidden_act",
)  # fmt: skip


def convert_release(
    released: str,
    clip: str,
    out: Path,
    *,
    dtype: torch.dtype = torch.bfloat16,
    lora_scale: float = 2.0,
    class_row: str = "last",
    config: Mapping[str, Any] | None = None,
) -> PixelLMConfig:
    """Write the folder `out`, which `from_pretrained` reads; returns the config.

    released: folder, file or Hub id of the checkpoint with LLaVA's names; beside the weights lie config.json and the
    tokenizer. clip: likewise of CLIP. lora_scale, class_row: see `convert_pixellm`. config: entries of `PixelLMConfig`
    that differ from the released ones, e.g. another codebook.

    Raises ReleasedNamesError and WeightSourceError for files that are not what they should be.
    """
    source, tower = find_weights(released), find_weights(clip)
    tokenizer = AutoTokenizer.from_pretrained(source.folder)
    settings = dict(config or {})
    side = settings.pop("image_size", 448)
    group_size = PixelLMCodebookConfig(**settings.get("codebook_config", {})).group_size
    ids = add_pixellm_tokens(tokenizer, group_size)
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.unk_token  # as released
    text = {"model_type": "llama", "vocab_size": len(tokenizer)} | sizes_beside(source, _OF_LLAMA)
    for name in ("pad_token_id", "bos_token_id", "eos_token_id"):
        text[name] = getattr(tokenizer, name)
    ours = PixelLMConfig(
        text_config=text,
        vision_config=sizes_beside(tower, CLIP_SIZES) | {"image_size": side},
        codebook_token_ids=ids[:group_size],
        image_token_id=ids[-1],
        **settings,
    )
    weights = convert_pixellm(_read(source), ours, clip=clip_weights(tower), lora_scale=lora_scale, class_row=class_row)
    with torch.device("meta"):
        model = PixelLMForReasoningSegmentation(ours)
    model.load_state_dict({name: tensor.to(dtype) for name, tensor in weights.items()}, assign=True)
    model.generation_config = GenerationConfig(
        bos_token_id=text["bos_token_id"], eos_token_id=text["eos_token_id"], pad_token_id=text["pad_token_id"]
    )
    images = PixelLLMImageProcessor(size={"height": side, "width": side}, rounding=FAMILIES[ours.model_type].rounding)
    processor = PixelLMProcessor(images, tokenizer, num_image_tokens=ours.num_image_tokens)
    if (reason := processor.misfit(ours)) is not None:
        raise ReleasedNamesError(f"the tokenizer of {released} does not fit its weights: {reason}.")
    model.save_pretrained(out)
    processor.save_pretrained(out)
    return ours


def sizes_beside(source: WeightSource, names: tuple[str, ...]) -> dict[str, Any]:
    """What the config beside the weights says of these."""
    file = source.folder / "config.json"
    try:
        settings = json.loads(file.read_text(encoding="utf-8"))
        settings = settings.get("vision_config") or settings
        return {name: settings[name] for name in names if settings.get(name) is not None}
    except (OSError, ValueError, AttributeError) as error:
        raise ReleasedNamesError(
            f"{file} must say the sizes of the model that {source.name} has the weights of, but it cannot be read "
            f"({error}). Copy it from where the weights came from."
        ) from error


def _read(source: WeightSource) -> dict[str, Tensor]:
    tensors = {name: source.read(name) for name in source.tensors}
    source.close()
    return tensors


def clip_weights(tower: WeightSource) -> dict[str, Tensor]:
    """Of the image's side of a CLIP; its text side has no place here."""
    weights = {name: tower.read(name) for name in tower.tensors if name.startswith("vision_model.")}
    tower.close()
    if not weights:
        raise ReleasedNamesError(
            f"{tower.name} has no vision_model.…, e.g. it has {next(iter(tower.tensors), 'nothing')!r}. Give a CLIP in "
            "transformers' layout, as openai/clip-vit-large-patch14-336."
        )
    return weights


__all__ = ["CLIP_SIZES", "clip_weights", "convert_release", "sizes_beside"]
