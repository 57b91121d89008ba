"""Parity of the mask head and of the loss of masks."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from ...modeling.configuration_heads import PixelLLMMaskHeadConfig
from ...modeling.mask_head import MaskHead
from ...modeling.mask_losses import mask_loss
from ..scenic import convert_module
from ..scenic_hparams import mask_head_config
from .golden import Computed, Golden

# The reference's names of the parts of its mask loss.
LOSS_NAMES = {"focal": "mask_focal_loss", "dice": "mask_dice_loss", "iou": "mask_iou_pred_loss"}


def official_mask_head(config: PixelLLMMaskHeadConfig, params: Mapping[str, Tensor], width: int) -> MaskHead:
    """The head with the official weights; visual tokens and text states have the same width in all golden files."""
    head = MaskHead(config, width, width).eval()
    weights: dict[str, Tensor] = {}
    for part in ("adapter", "decoder"):
        prefix = f"mask_{part}/"
        flat = {name.removeprefix(prefix): value for name, value in params.items() if name.startswith(prefix)}
        weights |= {f"{part}.{name}": value for name, value in convert_module(f"mask_{part}", flat).items()}
    head.load_state_dict(weights)
    return head


def mask_adapter_decoder(golden: Golden) -> Computed:
    """Adapter, then decoder with one mask and with several; prompts are (B,N,…), every one valid."""
    inputs = golden.inputs
    images, prompts, _, width = inputs["text_feats"].shape
    head = official_mask_head(mask_head_config(golden.hparams, golden.hparams), golden.params, width)
    box_tokens, visual, states = (
        inputs[name].flatten(0, 1) for name in ("sparse_embedding", "visual_features", "text_feats")
    )
    adapted = head.adapter(box_tokens, visual, states)
    of_row = torch.arange(images).repeat_interleave(prompts)
    image = inputs["image_embeddings"], inputs["image_pe"], inputs["dense_prompt_embedding"]
    values = {"adapted_sparse": adapted}
    for name, several in (("single", False), ("multi", True)):
        output = head.decoder(*image, adapted, of_row, multimask_output=several)
        values |= {f"masks_{name}": output.logits, f"iou_{name}": output.iou_predictions}
    return Computed({name: value.unflatten(0, (images, prompts)) for name, value in values.items()})


def mask_losses(golden: Golden) -> dict[str, Tensor]:
    """The mask part of `losses`, for one proposal a prompt and for all of them."""
    inputs = golden.below("mask/")
    prompts = inputs["gt_valid"].shape[1]
    values: dict[str, Tensor] = {}
    for name, proposals in (("single", slice(0, 1)), ("multi", slice(None))):
        parts = mask_loss(
            inputs["pred_masks"].flatten(0, 1)[:, proposals],
            inputs["pred_ious"].flatten(0, 1)[:, proposals],
            inputs["gt_masks"].flatten(0, 1)[..., 0],
            pixel_mask=inputs["padding_mask"].repeat_interleave(prompts, dim=0),
            row_mask=inputs["gt_valid"].flatten(),
        )
        values |= {f"mask/{name}/{LOSS_NAMES[part]}": loss for part, loss in parts.items()}
        values[f"mask/{name}/mask_loss"] = sum_of(parts)
    return values


def sum_of(parts: Mapping[str, Tensor]) -> Tensor:
    return torch.stack(list(parts.values())).sum()


__all__ = ["LOSS_NAMES", "mask_adapter_decoder", "mask_losses", "official_mask_head", "sum_of"]
