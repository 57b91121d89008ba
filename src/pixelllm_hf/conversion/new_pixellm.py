"""A PixelLM to be trained: a CLIP tower and a causal language model as published, and everything between them new."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig

from ..families import FAMILIES
from ..modeling.configuration_pixellm import PixelLMCodebookConfig, PixelLMConfig
from ..modeling.modeling_pixellm import PixelLMForReasoningSegmentation
from ..modeling.vision_clip import resize_positions
from ..processing.image_processing_pixelllm import PixelLLMImageProcessor
from ..processing.processing_pixellm import PixelLMProcessor, add_pixellm_tokens
from .pixellm import ReleasedNamesError
from .released_pixellm import CLIP_SIZES, clip_weights, sizes_beside
from .weight_sources import find_weights

_POSITIONS = "vision_model.embeddings.position_embedding.weight"


def new_pixellm(
    language: str,
    clip: str,
    out: Path,
    *,
    image_size: int = 448,
    dtype: torch.dtype = torch.float32,
    config: dict[str, Any] | None = None,
) -> PixelLMConfig:
    """Write the folder `out`, which a recipe of `scripts/train.py` starts from; returns the config.

    language: folder or Hub id of a causal language model of transformers with its tokenizer. clip: likewise of a CLIP,
    whose positions are resized for the canvas, the class's row first as it is in CLIP. config: entries of
    `PixelLMConfig` that differ from the released ones, e.g. another codebook. The rows of new tokens begin at the mean
    of the vocabulary; projectors, neck, codebook and decoder as a model is made with.

    Raises ReleasedNamesError and WeightSourceError for files that are not what they should be, and OSError for a
    language model that cannot be loaded.
    """
    tower, settings = find_weights(clip), dict(config or {})
    tokenizer = AutoTokenizer.from_pretrained(language)
    body = AutoModelForCausalLM.from_pretrained(language, dtype=dtype, use_safetensors=True)
    group_size = PixelLMCodebookConfig(**settings.get("codebook_config", {})).group_size
    ids = add_pixellm_tokens(tokenizer, group_size)
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.unk_token or tokenizer.eos_token
    _add_rows(body, len(tokenizer))
    text = body.config.to_dict() | {"pad_token_id": tokenizer.pad_token_id}
    ours = PixelLMConfig(
        text_config=text,
        vision_config=sizes_beside(tower, CLIP_SIZES) | {"image_size": image_size},
        codebook_token_ids=ids[:group_size],
        image_token_id=ids[-1],
        **settings,
    )
    model = PixelLMForReasoningSegmentation(ours).to(dtype)
    model.language_model.load_state_dict(body.state_dict())
    weights = clip_weights(tower)
    weights[_POSITIONS] = resize_positions(weights[_POSITIONS], ours.grid_size, class_row="first")
    known = model.vision_tower.state_dict()
    if missing := sorted(known.keys() - weights.keys()):
        raise ReleasedNamesError(f"{tower.name} lacks {len(missing)} tensors of a CLIP tower, first {missing[0]!r}.")
    model.vision_tower.load_state_dict({name: weights[name] for name in known})
    model.generation_config = GenerationConfig(
        bos_token_id=text.get("bos_token_id"), eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id
    )
    images = PixelLLMImageProcessor(
        size={"height": image_size, "width": image_size}, rounding=FAMILIES[ours.model_type].rounding
    )
    processor = PixelLMProcessor(images, tokenizer, num_image_tokens=ours.num_image_tokens)
    model.save_pretrained(out)
    processor.save_pretrained(out)
    return ours


@torch.no_grad()
def _add_rows(body: Any, size: int) -> None:
    """Rows of the vocabulary for tokens up to `size`, each the mean of those that were there."""
    before = body.get_input_embeddings().weight.shape[0]
    if size <= before:
        return
    body.resize_token_embeddings(size, mean_resizing=False)
    layers: list[nn.Module | None] = [body.get_input_embeddings(), body.get_output_embeddings()]
    for layer in layers:
        if layer is not None:
            weight = layer.get_parameter("weight")
            weight[before:] = weight[:before].float().mean(0).to(weight.dtype)


__all__ = ["new_pixellm"]
