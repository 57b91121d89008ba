"""Parity of PixelLM's codebook, light pixel decoder, losses, matcher and meters."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ...evaluation.mask_matching import match_masks
from ...evaluation.target_iou import TargetIoU, giou_of_images, intersection_and_union, iou_of, paired_targets
from ...modeling.codebook_decoder import CodebookPixelDecoder, resize_logits
from ...modeling.codebook_losses import (
    codebook_mask_losses,
    contested_pixels,
    mask_cross_entropy,
    mask_dice,
    target_refinement,
)
from ...modeling.codebook_targets import TargetProjection, find_token_groups
from ...modeling.configuration_pixellm import PixelLMCodebookConfig, PixelLMConfig
from ...modeling.feature_pyramid import map_neck
from ...modeling.mask_head import MaskMLP
from ...modeling.modeling_pixellm import PixelLMFeatures, PixelLMForReasoningSegmentation
from ...modeling.target_masks import mask_scores
from ...modeling.vision_clip import patch_mask, resize_positions
from ..pixellm import codebook_weights
from .golden import Computed, Golden


def codebook_config(hparams: Mapping[str, Any]) -> PixelLMCodebookConfig:
    return PixelLMCodebookConfig(
        num_scales=hparams["image_feature_scale_num"],
        tokens_per_scale=hparams["seg_token_num"],
        hidden_size=hparams["transformer_dim"],
        num_hidden_layers=hparams["transformer_depth"],
        num_attention_heads=hparams["num_heads"],
        intermediate_size=hparams["mlp_dim"],
        attention_downsample_rate=hparams["attention_downsample_rate"],
        layer_norm_eps=hparams["layer_norm_2d_eps"],
        transformer_layer_norm_eps=hparams["layer_norm_eps"],
    )


def pixel_decoder(golden: Golden) -> Computed:
    """The neck and the decoder, every level looked into, and masks at the original size."""
    inputs, config = golden.inputs, codebook_config(golden.hparams)
    neck, decoder = _neck(golden), _decoder(golden, config)
    levels = neck(inputs["image_features"])
    seen: dict[str, list[Tensor]] = {"source": [], "positions": [], "tokens": [], "tokens_out": [], "cells": []}
    for transformer in decoder.transformer:
        transformer.register_forward_hook(lambda _, given, output: _keep(seen, given, output))
    upscaled: list[Tensor] = []
    decoder.output_upscaling.register_forward_hook(lambda _, given, output: upscaled.append(output))
    finer: list[Tensor] = []
    decoder.upsample_2x.register_forward_hook(lambda _, given, output: finer.append(output))
    targets = inputs["target_embeddings"]
    of_target = torch.zeros(len(targets), dtype=torch.long)
    maps = [level[None].permute(0, 2, 3, 1) for level in levels]
    output = decoder(maps, targets, of_target)

    side = golden.hparams["grid"]
    values: dict[str, Any] = {"neck": levels, "low_res": output.logits[:, None]}
    dense = decoder.no_mask_embed.weight[..., None, None].expand(len(targets), -1, side, side)
    values |= {"dense_prompt": dense, "dense_pe": _as_map(seen["positions"][0], side)}
    # The official decoder makes a filter and a score of each of its mask tokens and reads the first; the others are
    # made only here.
    filters, scores = _unread_parts(golden, config)
    for level, tokens in enumerate(seen["tokens_out"]):
        grid = side * (2 if level else 1)
        of_tokens = torch.stack([mlp(tokens[:, 1 + i]) for i, mlp in enumerate(filters)], dim=1)
        # every target has its own map in the official code; here those of an image share level 0's
        source = _as_map(seen["source"][level], grid).expand(len(targets), -1, -1, -1)
        values |= {
            f"level{level}/transformer_src_in": source,
            f"level{level}/transformer_pos": _as_map(seen["positions"][level], grid).expand(len(targets), -1, -1, -1),
            f"level{level}/tokens_in": seen["tokens"][level],
            f"level{level}/tokens_out": tokens,
            f"level{level}/keys_out": seen["cells"][level],
            f"level{level}/all_masks": torch.einsum("kmc,kchw->kmhw", of_tokens, upscaled[level]),
            f"level{level}/mask": output.level_logits[level][:, None],
            f"level{level}/iou": scores(tokens[:, 0])[:, :1],
        }
    values["level1/upsampled_src"] = finer[0].expand(len(targets), -1, -1, -1)
    masks = original_size_logits(
        output.logits, golden.hparams["vision_input_size"], inputs["clip_resize"], inputs["original_size"]
    )
    values |= {"postprocessed": masks[:, None], "mask_scores": mask_scores(masks)}
    return Computed(values)


def token_fusion(golden: Golden) -> Computed:
    """Which states are read, and what a group's states become, with the released constants and with other scales."""
    inputs, hparams = golden.inputs, golden.hparams
    projection = _projection(golden, codebook_config(hparams))
    states = inputs["last_hidden_state"]
    rows, positions = _predicting(golden)
    counts = torch.bincount(rows, minlength=len(states))
    index = torch.full((len(states), int(counts.max()) * positions.shape[1]), -1)
    for row in range(len(states)):
        own = positions[rows == row].flatten()
        index[row, : len(own)] = own
    values: dict[str, Any] = {"hidden_index": index, "projected": projection.text_hidden_fcs(states)}
    values["fused_embeddings"] = projection(states[rows[:, None], positions])
    with torch.no_grad():
        projection.token_scales.copy_(inputs["multiseg_scalar_alt"])
    values["spec_fused_alt"] = projection(states[rows[:, None], positions])
    return Computed(values)


def segmentation_head(golden: Golden) -> Computed:
    """From the language model's states to losses: 2 images, 3 questions, 5 targets."""
    inputs, hparams, config = golden.inputs, golden.hparams, codebook_config(golden.hparams)
    neck, decoder, projection = _neck(golden), _decoder(golden, config), _projection(golden, config)
    rows, positions = _predicting(golden)
    targets = projection(inputs["last_hidden_state"][rows[:, None], positions])
    first_questions = inputs["offset"].tolist()
    side = hparams["grid"]
    values: dict[str, Any] = {"ce_loss": inputs["ce_loss"] * hparams["ce_loss_weight"]}
    logits, masks, counts = [], [], []
    for image in range(len(first_questions) - 1):
        questions = range(first_questions[image], first_questions[image + 1])
        counts.append([hparams["targets_per_question"][question] for question in questions])
        own = targets[(rows >= questions.start) & (rows < questions.stop)]
        maps = [
            neck(inputs[f"image_features_level{level}"][image].T.unflatten(1, (side, side))[None]).permute(0, 2, 3, 1)
            for level in range(config.num_scales)
        ]
        low = decoder(maps, own, torch.zeros(len(own), dtype=torch.long)).logits
        full = original_size_logits(
            low, hparams["vision_input_size"], inputs["clip_resize"][image], inputs["original_size"][image]
        )
        values |= {f"low_res_{image}": low[:, None], f"pred_masks_{image}": full}
        logits.append(full)
        masks.append(inputs[f"gt_masks_{image}"])
    plain = codebook_mask_losses(logits, masks, counts, refinement_alpha=1.0)
    refined = codebook_mask_losses(logits, masks, counts, refinement_alpha=2.0)
    values["mask_bce_loss"] = hparams["bce_loss_weight"] * plain["cross_entropy"]
    values["mask_dice_loss"] = hparams["dice_loss_weight"] * plain["dice"]
    values["mask_loss"] = values["mask_bce_loss"] + values["mask_dice_loss"]
    values["loss"] = values["ce_loss"] + values["mask_loss"]
    overlap = refined["cross_entropy"] - plain["cross_entropy"]
    values["mask_overlap_loss"] = hparams["bce_loss_weight"] * overlap
    return Computed(values)


def losses(golden: Golden) -> Computed:
    """Each loss, the refinement's map, and the gradient of their weighted sum."""
    computed = Computed()
    empty = torch.zeros(0, 4, 4)
    nothing = {"bce": mask_cross_entropy(empty, empty), "dice": mask_dice(empty, empty)}
    computed.add(nothing | {"overlap": target_refinement(empty, empty, [])}, "empty/")
    for case in ("multi", "single", "identical"):
        inputs = golden.below(f"{case}/")
        counts = inputs["targets_per_question"].tolist()
        logits, masks = inputs["logits"].requires_grad_(), inputs["targets"]
        entropy, dice = mask_cross_entropy(logits, masks), mask_dice(logits, masks)
        overlap = target_refinement(logits, masks, counts)
        hparams = golden.hparams
        total = hparams["bce_weight"] * (entropy + overlap) + hparams["dice_weight"] * dice
        (gradient,) = torch.autograd.grad(total, logits)
        contested = contested_pixels(logits, counts)
        first_of = np.cumsum([0, *counts[:-1]])
        by_probability = [
            ((part.sigmoid().sum(0, keepdim=True) >= 2).float() + 1).expand_as(part)
            for part in logits.detach().split(counts)
        ]
        weights = torch.cat(by_probability)
        pixels = F.binary_cross_entropy_with_logits(logits.detach(), masks, reduction="none") * weights
        values = {"bce": entropy, "dice": dice, "overlap": overlap, "spec_refinement_alpha2": entropy + overlap}
        values |= {
            "grad_2bce_0p5dice_2overlap": gradient,
            "spec_alpha_map": 1.0 + contested[torch.as_tensor(first_of)].float(),
            "spec_refinement_alpha2_probsum": pixels.flatten(1).mean(1).sum() / len(pixels),
        }
        computed.add(values, f"{case}/")
    return computed


def matcher(golden: Golden) -> Computed:
    """Costs and pairs, at the golden points."""
    computed = Computed()
    for case in ("equal", "more_gt", "more_pred"):
        inputs = golden.below(f"{case}/")
        found = match_masks(inputs["pred_logits"], inputs["gt_masks"], inputs["point_coords"][0])
        values = {"cost": found.cost, "cost_bce": found.cross_entropy, "cost_dice": found.dice}
        values |= {"pred_index": torch.as_tensor(found.predicted), "gt_index": torch.as_tensor(found.annotated)}
        computed.add(values, f"{case}/")
    return computed


def meters(golden: Golden) -> Computed:
    """Referring, and MUSE as released and as it should be."""
    inputs = golden.inputs
    images = range(sum(name.startswith("referring/gt_masks_") for name in inputs))
    values: dict[str, Any] = {}
    counts, meter = [], TargetIoU()
    for image in images:
        logits, masks = inputs[f"referring/pred_logits_{image}"], inputs[f"referring/gt_masks_{image}"]
        meter.add_question(logits, masks, matched=True)
        counts += [intersection_and_union(*pair) for pair in paired_targets(logits, masks, matched=True)]
    values["referring/per_mask_intersection_union"] = torch.stack(counts)
    values |= {"referring/giou": meter.giou, "referring/ciou": meter.ciou}

    for name, released in (("official", True), ("thresholded", False)):
        meter = TargetIoU()
        numbers: list[list[tuple[int, int]]] = []
        ious: list[float] = []
        for image in images:
            numbers.append([])
            for question, (logits, masks) in enumerate(_questions(golden, image)):
                numbers[-1].append((len(logits), len(masks)))
                meter.add_question(logits, masks, released=released)
                both = [intersection_and_union(*pair) for pair in paired_targets(logits, masks, released=released)]
                ious += [float(iou_of(area[0, 1], area[1, 1])) for area in both]
                if len(logits) and len(masks):
                    found = match_masks(logits, masks)
                    values[f"muse/pred_index_{image}_{question}"] = torch.as_tensor(found.predicted)
                    values[f"muse/gt_index_{image}_{question}"] = torch.as_tensor(found.annotated)
        values |= {f"muse/{name}_ciou": meter.ciou, f"muse/{name}_giou": giou_of_images(numbers, ious)}
        values["muse/spec_giou_per_target"] = meter.giou
    return Computed(values)


def multimodal_inputs(golden: Golden) -> Computed:
    """Resized positions, padding masks, projected features, and text with the image's tokens in it."""
    inputs, hparams = golden.inputs, golden.hparams
    side, of_tokens, width = hparams["grid"], hparams["lm_grid"], hparams["hidden_size"]
    model = _small_model(golden)
    pixel_mask = torch.zeros(len(inputs["clip_resize"]), *[side * hparams["patch_size"]] * 2, dtype=torch.bool)
    for mask, (height, right) in zip(pixel_mask, inputs["clip_resize"].tolist(), strict=True):
        mask[:height, :right] = True
    patches = patch_mask(pixel_mask, side)
    maps = [inputs[f"vit_hidden_minus{layer}"][:, 1:].unflatten(1, (side, side)) for layer in (2, 11)]
    features = PixelLMFeatures(model.project_image_tokens(maps[0]), patch_mask(patches, of_tokens).flatten(1))

    # the official code puts the image's tokens in the place of one; here the text has a placeholder for each
    ids, keep, labels = (
        _spread(inputs[name], inputs["input_ids"] == hparams["image_token_index"], of_tokens**2, fill)
        for name, fill in (("input_ids", model.config.image_token_id), ("attention_mask", 1), ("labels", -100))
    )
    embeddings, mask, _ = model.embed(ids, keep, features, torch.arange(len(ids)))
    values = {
        "resized_position_embedding_weight": resize_positions(
            inputs["position_embedding_weight"], side, class_row="last"
        ),
        "vit_attention_mask": torch.nn.functional.pad(patches.flatten(1), (1, 0), value=True).float(),
        "inputs_embeds": embeddings,
        "attention_mask": mask.long(),
        "labels": labels,
    }
    for level, image_map in enumerate(maps):
        values[f"decoder_feature_level{level}"] = model.out_mm_projector(image_map).flatten(1, 2)
    assert embeddings.shape[-1] == width
    return Computed(values)


def _small_model(golden: Golden) -> PixelLMForReasoningSegmentation:
    """A model with the golden projectors and words; its tower and the rest of its language model are not run."""
    hparams, params = golden.hparams, golden.params
    words = params["embed_tokens.weight"]
    config = PixelLMConfig.for_tests(
        vision_config=dict(
            hidden_size=hparams["vision_width"],
            intermediate_size=8,
            num_hidden_layers=2,
            num_attention_heads=2,
            patch_size=hparams["patch_size"],
            image_size=hparams["grid"] * hparams["patch_size"],
        ),
        text_config=dict(
            model_type="llama",
            vocab_size=len(words) + 1,
            hidden_size=hparams["hidden_size"],
            intermediate_size=8,
            num_hidden_layers=1,
            num_attention_heads=2,
            num_key_value_heads=2,
        ),
        image_token_grid=hparams["lm_grid"],
        image_token_id=len(words),
        codebook_token_ids=(20, 21, 22, 23),
    )
    model = PixelLMForReasoningSegmentation(config).eval()
    for name in ("mm_projector", "out_mm_projector"):
        getattr(model, name).load_state_dict(_below(golden, f"{name}."))
    with torch.no_grad():
        model.get_input_embeddings().weight[: len(words)].copy_(words)
    return model


def _spread(values: Tensor, where: Tensor, count: int, fill: int) -> Tensor:
    """values (R,T) with the one at `where` (R,T) replaced by `count` times fill."""
    rows = []
    for row, place in zip(values, where.int().argmax(1).tolist(), strict=True):
        rows.append(torch.cat([row[:place], row.new_full((count,), fill), row[place + 1 :]]))
    return torch.stack(rows)


def original_size_logits(logits: Tensor, canvas: int, valid_hw: Tensor, original_hw: Tensor) -> Tensor:
    """logits (K,h,w) of the whole canvas -> (K,H,W) of the image, by way of the canvas, as released."""
    height, width = valid_hw.tolist()
    full = resize_logits(logits, (canvas, canvas))
    return resize_logits(full[..., :height, :width], original_hw.tolist())


def _questions(golden: Golden, image: int) -> list[tuple[Tensor, Tensor]]:
    sides = []
    for masks, count in (("pred_logits", "pred_per_question"), ("gt_masks", "gt_per_question")):
        counts = golden.inputs[f"muse/{count}_{image}"].tolist()
        sides.append(golden.inputs[f"muse/{masks}_{image}"].split(counts))
    return list(zip(*sides, strict=True))


def _predicting(golden: Golden) -> tuple[Tensor, Tensor]:
    """The K groups' rows (K,) and the positions (K,G) of the states that predict their tokens.

    The one placeholder of the image became several tokens in the states.
    """
    ids, hparams = golden.inputs["input_ids"], golden.hparams
    groups = find_token_groups(ids, hparams["seg_token_idx"])
    inserted = golden.inputs["last_hidden_state"].shape[1] - ids.shape[1]
    return groups.row, groups.positions + inserted - 1


def _neck(golden: Golden) -> torch.nn.Module:
    hparams = golden.hparams
    neck = map_neck(hparams["hidden_size"], hparams["transformer_dim"])
    neck.load_state_dict(codebook_weights(golden.params)["image_feature_neck"])
    return neck


def _decoder(golden: Golden, config: PixelLMCodebookConfig) -> CodebookPixelDecoder:
    decoder = CodebookPixelDecoder(config).eval()
    weights = codebook_weights(golden.params)["mask_decoder"]
    weights["level_scales"] = _scales(golden, "multiscale_scalar", decoder.level_scales)
    decoder.load_state_dict(weights)
    return decoder


def _projection(golden: Golden, config: PixelLMCodebookConfig) -> TargetProjection:
    projection = TargetProjection(config, golden.hparams["hidden_size"])
    weights = codebook_weights(golden.params)["target_projection"]
    weights["token_scales"] = _scales(golden, "multiseg_scalar", projection.token_scales)
    projection.load_state_dict(weights)
    return projection


def _scales(golden: Golden, name: str, constants: Tensor) -> Tensor:
    """Scales of a golden file that has some, else the constants that the released model computes with."""
    if f"{name}.0" not in golden.params:
        return constants.detach()
    return torch.stack([golden.params[f"{name}.{index}"] for index in range(len(constants))])


def _unread_parts(golden: Golden, config: PixelLMCodebookConfig) -> tuple[list[MaskMLP], MaskMLP]:
    """The filter of every mask token, and the head of scores, of which the official model reads only one filter."""
    hparams, prefix = golden.hparams, "model.mask_decoder."
    width, masks = config.hidden_size, hparams["num_multimask_outputs"] + 1
    filters = []
    for index in range(masks):
        filters.append(MaskMLP(width, width, width // 8, 3))
        filters[-1].load_state_dict(_below(golden, f"{prefix}output_hypernetworks_mlps.{index}."))
    scores = MaskMLP(width, hparams["iou_head_hidden_dim"], masks, hparams["iou_head_depth"])
    scores.load_state_dict(_below(golden, f"{prefix}iou_prediction_head."))
    return filters, scores


def _below(golden: Golden, prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in golden.params.items() if name.startswith(prefix)}


def _keep(seen: dict[str, list[Tensor]], given: tuple, output: tuple[Tensor, Tensor]) -> None:
    for name, value in zip(seen, (*given[:3], *output), strict=True):
        seen[name].append(value)


def _as_map(cells: Tensor, side: int) -> Tensor:
    """(B,hw,C) -> (B,C,h,w)."""
    return cells.transpose(1, 2).unflatten(2, (side, side))


CHECKS: dict[str, Callable[[Golden], Computed]] = {
    "pixel_decoder": pixel_decoder,
    "token_fusion": token_fusion,
    "segmentation_head": segmentation_head,
    "losses": losses,
    "matcher": matcher,
    "meters": meters,
    "multimodal_inputs": multimodal_inputs,
}

__all__ = ["CHECKS"]
