"""Parity of the box decoder: pyramid, proposals, detections, losses and gradients."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ...modeling.centernet import CenterPredictions, candidate_boxes, cell_centers, select_proposals
from ...modeling.configuration_heads import PixelLLMProposalHeadConfig
from ...modeling.detection_losses import center_targets, distance_loss, heatmap_losses
from ...modeling.detection_ops import roi_align
from ...modeling.proposal_head import ProposalHead, ProposalHeadLoss
from ..scenic import convert_module, restore_module
from ..scenic_hparams import proposal_head_config
from .golden import Computed, Golden, range_of

# Scores this close may change places when they are computed in another order.
_EQUAL_SCORES = 1e-5


def box_decoder(golden: Golden) -> Computed:
    """Every step with one stage of box heads, then the other settings of the file with the same weights."""
    inputs, computed = golden.inputs, Computed()
    image, size_hw = inputs["image_embeddings"], inputs["image_shape_hw"]
    one_stage = _head(golden)
    with torch.no_grad():
        maps = one_stage.fpn(image)
        predictions = one_stage.proposal_generator(maps)
        computed.add({f"fpn_{level}": image_map for level, image_map in enumerate(maps)})
        computed.add(_by_level(predictions))
        # The coarsest level is one cell, whose GroupNorm compares two numbers; its range would be that of two images.
        for name in ("heatmap_logits", "box_regs"):
            computed.ranges[f"{name}_4"] = range_of(golden.outputs[f"{name}_0"])
        boxes, scores = candidate_boxes(predictions, one_stage.config.pre_nms_topk)
        computed.add(_settled(golden, {"boxes": boxes, "scores": scores}, "pre_nms_"))
        boxes, scores = _proposals(one_stage.config, boxes, scores, size_hw)
        proposals = _settled(golden, {"boxes": boxes, "scores": scores}, "proposal_")
        computed.add(proposals)
        boxes = proposals["proposal_boxes"]
        computed.add({"roi_features": roi_align(maps, boxes, one_stage.config.strides, one_stage.config.roi_size)})

        cascade = _head(golden, roi_matching_threshold=(0.6, 0.7, 0.8))
        tight = _head(golden, **golden.hparams["stage1_tight"])
        for name, head in (("stage1", one_stage), ("cascade3", cascade), ("stage1_tight", tight)):
            if f"{name}/box_deltas_last" in golden.outputs:
                last = head.roi_heads(maps, boxes, size_hw)[-1]
                computed.add({"box_deltas_last": last.offsets, "class_logits_last": last.class_logits}, f"{name}/")
            detections = head(image, size_hw)
            assert detections.boxes is not None and detections.scores is not None
            values = {"boxes": detections.boxes, "scores": detections.scores}
            computed.add(_settled(golden, values, f"{name}/detection_"))
            computed.add({"num_detections": detections.num_detections}, f"{name}/")
            # There is one class, and every slot is of it, padding included.
            computed.add({"detection_classes": torch.ones_like(detections.scores)}, f"{name}/")
        values = dict(zip(("boxes", "scores"), candidate_boxes(predictions, tight.config.pre_nms_topk), strict=True))
        boxes, scores = _proposals(tight.config, **values, size_hw=size_hw)
        computed.add(_settled(golden, {"boxes": boxes, "scores": scores}, "stage1_tight/proposal_"))
    _training(golden, one_stage, computed)
    return computed


def _head(golden: Golden, **overrides: Any) -> ProposalHead:
    """The head with the official weights, of as many stages as it has thresholds."""
    head = ProposalHead(
        proposal_head_config({**golden.hparams, **overrides}), golden.inputs["image_embeddings"].shape[-1]
    ).eval()
    stages = len(head.roi_heads.box_head)
    weights = convert_module("box_decoder", golden.params)
    unused = tuple(f"roi_heads.box_head.{k}." for k in range(stages, 3))
    head.load_state_dict({name: value for name, value in weights.items() if not name.startswith(unused)})
    return head


def _proposals(
    config: PixelLLMProposalHeadConfig, boxes: Tensor, scores: Tensor, size_hw: Tensor
) -> tuple[Tensor, Tensor]:
    return select_proposals(
        boxes, scores, size_hw, iou_threshold=config.proposal_nms_threshold, count=config.post_nms_topk
    )


def _by_level(predictions: CenterPredictions) -> dict[str, Tensor]:
    cells = [height * width for height, width in predictions.level_shapes]
    values = {}
    for name, flat in (("heatmap_logits", predictions.logits[..., None]), ("box_regs", predictions.distances)):
        for level, values_of_level in enumerate(flat.split(cells, dim=1)):
            values[f"{name}_{level}"] = values_of_level.unflatten(1, predictions.level_shapes[level])
    return values


def _settled(golden: Golden, values: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """Boxes and scores with equal scores in the golden file's order; any other order stays and shows as an error."""
    boxes, scores = values["boxes"].clone(), values["scores"].clone()
    wanted_boxes, wanted_scores = golden.outputs[f"{prefix}boxes"], golden.outputs[f"{prefix}scores"]
    if boxes.shape == wanted_boxes.shape:
        for image in range(len(boxes)):
            for slot, wanted in enumerate(wanted_boxes[image]):
                equal = (scores[image, slot:] - wanted_scores[image, slot]).abs() < _EQUAL_SCORES
                distance = (boxes[image, slot:] - wanted).abs().amax(-1).masked_fill(~equal, torch.inf)
                other = slot + int(distance.argmin())
                for tensor in (boxes[image], scores[image]):
                    tensor[[slot, other]] = tensor[[other, slot]]
    return {f"{prefix}boxes": boxes, f"{prefix}scores": scores}


def _training(golden: Golden, head: ProposalHead, computed: Computed) -> None:
    """Losses and gradients; every proposal and every true box is kept, so nothing depends on chance."""
    inputs = golden.inputs
    image, size_hw, gt_boxes = inputs["image_embeddings"], inputs["image_shape_hw"], inputs["gt_boxes"]
    gt_classes = inputs["gt_classes"].long()
    head.train()
    output, values = training_values(head, image, size_hw, gt_boxes, gt_classes)
    assert output.loss is not None and output.proposals is not None
    index, classes = head.match_captions(output.proposals, gt_boxes, gt_classes)
    computed.add(values | {"matched_idx": index, "matched_class": classes, "total_loss": output.loss}, "train/")

    output.loss.backward()
    gradients = {name: p.grad for name, p in head.named_parameters() if p.grad is not None}
    computed.add(restore_module("box_decoder", golden.params, gradients), "train/grad/")


def training_values(
    head: ProposalHead, image: Tensor, size_hw: Any, gt_boxes: Tensor, gt_classes: Tensor
) -> tuple[ProposalHeadLoss, dict[str, Any]]:
    """The head's losses, and what the reference reports of one training step."""
    output = head.losses(image, size_hw, gt_boxes, gt_classes)
    assert output.loss_parts is not None and output.proposals is not None
    parts, proposals = output.loss_parts, output.proposals
    _, classes = head.match_captions(proposals, gt_boxes, gt_classes)
    with torch.no_grad():
        maps = head.fpn(image)
        numbers = _center_losses(head.proposal_generator(maps), gt_boxes, head.config)
        sizes = torch.as_tensor(size_hw, dtype=torch.float32).expand(len(image), 2)
        (stage,) = head.roi_heads(maps, proposals, sizes)
    # Of the one stage the threshold is that of captions, so what is matched for these is what was trained on.
    is_box = (proposals[..., 2:] > proposals[..., :2]).all(-1)
    is_object = (classes > 0) & is_box
    right = is_object & (stage.class_logits.argmax(-1) == classes)
    return output, {
        "last_proposals": proposals,
        "pos_loss": parts["center_positive"],
        "neg_loss": parts["center_negative"],
        "reg_loss": parts["distance"],
        "hm_norm": numbers["hm_norm"],
        "reg_norm": numbers["reg_norm"],
        "stage0_roi_cls_loss": parts["roi_class"],
        "stage0_roi_reg_loss": parts["roi_box"],
        "stage0_num_proposals": proposals.shape[1],
        "stage0_num_valid_proposals": is_box.sum() / len(proposals),
        "stage0_num_positives_per_img_scalar": is_object.sum() / len(proposals),
        "stage0_foreground_accuracy_scalar": right.sum() / (is_object.sum() + 1e-4),
    }


def proposal_losses(golden: Golden) -> dict[str, Tensor]:
    """The part of `losses` that is of detections: targets of every cell, and the losses of the proposals."""
    inputs, hparams = golden.below("det/"), golden.hparams
    logits = [value for name, value in sorted(inputs.items()) if name.startswith("heatmap_logits_")]
    distances = [value for name, value in sorted(inputs.items()) if name.startswith("box_regs_")]
    shapes = [(level.shape[1], level.shape[2]) for level in logits]
    predictions = CenterPredictions(
        torch.cat([level.flatten(1) for level in logits], dim=1),
        torch.cat([level.flatten(1, 2) for level in distances], dim=1),
        *cell_centers(shapes, hparams["strides"]),
        shapes,
    )
    values = _center_losses(predictions, inputs["gt_boxes"], proposal_head_config(hparams))
    return {f"det/{name}": value for name, value in values.items()}


def _center_losses(
    predictions: CenterPredictions, gt_boxes: Tensor, config: PixelLLMProposalHeadConfig
) -> dict[str, Tensor]:
    cells = [height * width for height, width in predictions.level_shapes]
    targets = center_targets(gt_boxes, predictions.centers, predictions.strides, config.level_ranges, cells)
    positive, negative, centers = heatmap_losses(predictions.logits, targets.heatmap)
    distance, regressing = distance_loss(predictions.distances, targets.distances)
    return {
        "gt_heatmap": targets.heatmap[..., None],
        "gt_regs": targets.distances,
        "pos_loss": positive,
        "neg_loss": negative,
        "reg_loss": distance,
        "hm_norm": centers,
        "reg_norm": regressing,
        "total_loss": config.center_loss_weight * (positive + negative) + config.distance_loss_weight * distance,
    }


__all__ = ["box_decoder", "proposal_losses", "training_values"]
