"""Parity of the data side: traces to boxes, boxes to tokens, and images with their annotations on the canvas."""

from __future__ import annotations

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ...data.image_transforms import (
    TrainingView,
    crop_points,
    flip_boxes,
    pad_image,
    resize_masks,
    shorter_side_size,
)
from ...data.trace_alignment import (
    align_by_rank,
    boxes_to_corners,
    boxes_to_pixels,
    sample_trace,
    utterance_boxes,
    utterance_centers,
    valid_utterances,
)
from ...processing.canvas_transform import CanvasTransform, fitted_size
from ...processing.image_processing_pixelllm import resize_pixels
from .golden import Computed, Golden


def data_transforms(golden: Golden) -> Computed:
    computed = Computed()
    for name in sorted({name.split("/")[0] for name in golden.inputs if name.startswith("narr")}):
        computed.add(_narrative(golden.below(f"{name}/"), golden.hparams), f"{name}/")
    computed.add(_localized_narratives(golden.below("ln/"), golden), "ln/")
    computed.add(_detection_transforms(golden.below("det/"), golden), "det/")
    computed.add({"size_rule": _size_rule(golden.outputs["size_rule"])})
    return computed


def _narrative(inputs: dict[str, Tensor], hparams: dict) -> dict[str, np.ndarray]:
    """The offline step: mouse positions, centre and box of every timed utterance."""
    trace, spans = inputs["trace_t_x_y"].numpy(), inputs["utterance_start_end"].numpy()
    sampled = sample_trace(trace[:, 0], trace[:, 1:], spans, samples=hparams["num_samples_per_trace"])
    return {"sampled": sampled, "center": utterance_centers(sampled, spans), "bbox": utterance_boxes(sampled)}


def _localized_narratives(inputs: dict[str, Tensor], golden: Golden) -> dict[str, Tensor]:
    """The online step: a box per token in original pixels, then image and points on the canvas."""
    image = Image.fromarray(inputs["image"].numpy())
    size_hw = (image.height, image.width)
    points = torch.stack([_token_corners(inputs, row, size_hw) for row in range(len(inputs["text_tokens"]))])

    transform = CanvasTransform.fit(image.size, golden.hparams["target_size"])
    width, height = transform.resized_size_wh
    resized = torch.from_numpy(resize_pixels(image, transform.resized_size_wh, antialias=False))
    canvas, mask = pad_image(resized, transform.canvas)
    placed = transform.to_canvas(points)
    final = crop_points(placed, (0, 0, height, width))  # nothing is left to crop: clips to the image
    slots = golden.outputs["ln/labels"].shape[0]  # narratives fill the first slots of a fixed number
    empty = slots - len(points)
    return {
        "points_original_pixels": points,
        "points_resized": placed,
        "points_final": torch.cat([final, final.new_zeros(empty, *final.shape[1:])]),
        "labels": torch.tensor([1] * len(points) + [0] * empty),
        "prompt_boxes": torch.tensor(transform.canvas_box).expand(len(points), 4),
        "size_hw": torch.tensor([height, width]),
        "resized_image": resized.permute(1, 2, 0),
        "canvas": canvas.permute(1, 2, 0),
        "padding_mask": mask,
    }


def _token_corners(inputs: dict[str, Tensor], row: int, size_hw: tuple[int, int]) -> Tensor:
    """(T,2,2) corners of the box of every token of one narrative, in pixels of the original image."""
    said = ["word" if flag else "" for flag in inputs["utterance_valid_text"][row].tolist()]
    tokens = inputs["text_tokens"][row].numpy()
    is_word = tokens > 1  # padding and BOS are 0, EOS is 1
    hits = align_by_rank(is_word, valid_utterances(said, inputs["center"][row].numpy()))
    boxes = np.where((hits >= 0)[:, None], inputs["bbox"][row].numpy()[hits], 0.0)
    return torch.from_numpy(boxes_to_corners(boxes_to_pixels(boxes, size_hw)))


def _detection_transforms(inputs: dict[str, Tensor], golden: Golden) -> dict[str, Tensor]:
    """Boxes, masks and texts through decoding, flip, resize and crop; the crop's random place is the golden one."""
    image = Image.fromarray(golden.inputs["ln/image"].numpy())
    limits = torch.tensor(image.size * 2, dtype=torch.float32)
    boxes = (inputs["boxes_yxyx_norm"][:, [1, 0, 3, 2]] * limits).clamp(min=0).minimum(limits)
    flipped = flip_boxes(boxes, image.width)

    canvas = golden.hparams["target_size"]
    big_wh = fitted_size(image.size, golden.hparams["big_size"])
    transform = CanvasTransform(image.size, big_wh, canvas)
    mirrored = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    masks = resize_masks(inputs["masks"][..., 0].flip(-1), big_wh[::-1])

    top, left = golden.outputs["det/crop_region_yxhw"][:2].tolist()
    height, width = min(big_wh[1], canvas), min(big_wh[0], canvas)
    cropped = TrainingView(transform, (top, left, height, width), flipped=True).boxes(boxes)
    keep = ((cropped[:, 2:] - cropped[:, :2]) > 0).all(-1)
    # The texts of the golden file are numbered tokens, so that their rows show which boxes were kept.
    per_text = golden.outputs["det/crop_text_tokens_kept"].shape[1]
    texts = torch.arange(len(boxes) * per_text).reshape(-1, per_text)
    return {
        "boxes_xyxy_pixels": boxes,
        "hflip_boxes": flipped,
        "flip_resize_boxes": transform.to_canvas(flipped),
        "flip_resize_image": torch.from_numpy(resize_pixels(mirrored, big_wh, antialias=False)).permute(1, 2, 0),
        "flip_resize_masks": masks[..., None],
        "crop_region_yxhw": torch.tensor([top, left, height, width]),
        "crop_boxes": cropped[keep],
        "crop_masks": masks[keep, top : top + height, left : left + width, None],
        "crop_text_tokens_kept": texts[keep],
    }


def _size_rule(rows: Tensor) -> Tensor:
    """Rows (h, w, target) with the sizes that limit the longer side and that ignore it: (n, 7), as in the file."""
    columns = [
        (h, w, target, *reversed(fitted_size((w, h), target)), *shorter_side_size((h, w), target))
        for h, w, target in rows[:, :3].tolist()
    ]
    return torch.tensor(columns, dtype=rows.dtype)


__all__ = ["data_transforms"]
