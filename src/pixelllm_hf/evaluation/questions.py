"""Images with questions whose answers point at objects: MUSE, ReasonSeg and multi-referring."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pixelllm_hf.evaluation.images import EvaluationDataError, EvaluationImage
from pixelllm_hf.evaluation.row_images import images_of
from pixelllm_hf.evaluation.scene_folder import DataFolder
from pixelllm_hf.evaluation.target_iou import IGNORED
from pixelllm_hf.processing.mask_codec import decode_rle


@dataclass(frozen=True, eq=False)
class AskedQuestion:
    """targets: in the order of the answer, each with its name and its mask and ignored pixels as run lengths."""

    text: str
    answer: str
    targets: tuple[Mapping[str, Any], ...]

    def masks(self, size_hw: tuple[int, int]) -> Tensor:
        """(G,H,W) uint8: 1 inside, 0 outside, 255 where neither counts."""
        masks = torch.zeros(len(self.targets), *size_hw, dtype=torch.uint8)
        for mask, target in zip(masks, self.targets, strict=True):
            mask[torch.from_numpy(decode_rle(target["mask"], size_hw))] = 1
            if target["ignored"]:
                mask[torch.from_numpy(decode_rle(target["ignored"], size_hw))] = IGNORED
        return masks


@dataclass(frozen=True, eq=False)
class AskedImage(EvaluationImage):
    """An image and what is asked about it. size_hw: that of the masks, pixels."""

    size_hw: tuple[int, int]
    questions: tuple[AskedQuestion, ...]


def read_questions(data: DataFolder, task: str) -> list[AskedImage]:
    """What a task that points asks about the images of a folder; see `DataFolder.source` for where it is looked for."""
    images = []
    for image_id, file, (width, height), prompts in images_of(data.rows_of_source(task, "reason")):
        questions = tuple(AskedQuestion(p["context"], p["target"], tuple(p["targets"])) for p in prompts)
        images.append(AskedImage(image_id, file, (height, width), questions))
    if not images:
        raise EvaluationDataError(f"{data.folder} asks nothing about any image.")
    return images
