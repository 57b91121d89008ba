"""Where answers that point begin: the light decoder as the mask decoder that a model has already."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import nn

from pixelllm_hf.modeling.configuration_pixelllm import PixelLLMConfig
from pixelllm_hf.modeling.configuration_towers import FUSED
from pixelllm_hf.modeling.modeling_pixelllm import PixelLLMForGroundedGeneration
from pixelllm_hf.training.recipe_values import ConfigError


@torch.no_grad()
def with_codebook(
    model: PixelLLMForGroundedGeneration, codebook: dict[str, Any], *, segmentation_head: str = "codebook"
) -> PixelLLMForGroundedGeneration:
    """The model with a codebook head of this config in the place of its heads of masks and detections.

    What both have keeps its weights. Each scale of the light decoder begins as the mask head's two-way transformer with
    its tokens and filters, and the necks hand on the map that masks were made of; `output_upscaling`, `upsample_2x` and
    the codebook are new. With segmentation_head "sam" the mask head itself stays, and its decoder makes the masks.
    Raises ConfigError unless the mask head has the sizes of the codebook.
    """
    old = model.mask_head
    if old is None:
        raise ConfigError("the light decoder begins as a mask head's, but this model has none.")
    config = model.config.to_dict() | {"proposal_head_config": None, "codebook_config": codebook}
    config |= {"segmentation_head": segmentation_head}
    if segmentation_head == "codebook":
        config["mask_head_config"] = None
    made = PixelLLMForGroundedGeneration(PixelLLMConfig(**config))
    made.generation_config = copy.deepcopy(model.generation_config)
    kept = {name: tensor for name, tensor in model.state_dict().items() if name in made.state_dict()}
    made.load_state_dict(kept, strict=False)
    if made.codebook_head.decoder is None:
        return made
    decoder, prompts = made.codebook_head.decoder, model.prompt_encoder
    try:
        for transformer in decoder.transformer:
            transformer.load_state_dict(old.decoder.transformer.state_dict())
        decoder.output_hypernetworks_mlps[0].load_state_dict(old.decoder.output_hypernetworks_mlps[0].state_dict())
        decoder.iou_token.load_state_dict(old.decoder.iou_token.state_dict())
        decoder.mask_tokens.load_state_dict(old.decoder.mask_tokens.state_dict())
    except RuntimeError as error:
        raise ConfigError(
            f"the codebook must have the sizes of the model's mask head, {model.config.mask_head_config.hidden_size} "
            f"wide: {' '.join(str(error).split())[:300]}"
        ) from error
    decoder.no_mask_embed.weight.copy_(prompts.no_mask.reshape(1, -1))
    for positions in (decoder.pe_layer, getattr(decoder, "pe1", None)):
        if positions is not None:
            positions.load_state_dict(prompts.pe_layer.state_dict())
    for name, neck in made.codebook_head.necks.items():
        _hand_on(neck, _channels_of_mask_map(made.config, int(name)))
    return made


def _channels_of_mask_map(config: PixelLLMConfig, channels: int) -> slice:
    """Where a map of so many channels has those of the map that masks are made of; all of it otherwise."""
    vision = config.vision_config
    shapes, start = vision.map_shapes, 0
    if channels != vision.feature_channels or vision.mask_map == FUSED:
        return slice(0, channels)
    for name in vision.fused_maps:
        if name == vision.mask_map:
            return slice(start, start + shapes[name][0])
        start += shapes[name][0]
    return slice(0, channels)


def _hand_on(neck: nn.Module, chosen: slice) -> None:
    """Two convolutions that begin by passing on the chosen channels, and a little of their neighbourhood."""
    first, second = (convolution.get_parameter("weight") for convolution in neck.children())
    width = min(first.shape[0], chosen.stop - chosen.start)
    first.mul_(0.1)
    first[range(width), range(chosen.start, chosen.start + width), 0, 0] += 1.0
    second.mul_(0.1)
    middle = second[..., 1, 1]
    middle[range(len(middle)), range(len(middle))] += 1.0


__all__ = ["with_codebook"]
