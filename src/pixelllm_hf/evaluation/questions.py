"""Images with questions whose answers point at objects: MUSE, ReasonSeg and multi-referring."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pixelllm_hf.data import read_format, read_prepared
from pixelllm_hf.data.mixing import undecoded
from pixelllm_hf.evaluation.annotations import REFS
from pixelllm_hf.evaluation.pictures import EvaluationDataError, Picture, StoredFile
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
class AskedPicture(Picture):
    """An image and what is asked about it. size_hw: that of the masks, pixels."""

    size_hw: tuple[int, int]
    questions: tuple[AskedQuestion, ...]


def read_muse_questions(data: DataFolder) -> list[AskedPicture]:
    """`muse_SPLIT.json`, or `muse.json` of composed scenes, at the top of the folder or in `muse/`."""
    names = [f"muse_{data.split}.json"] if data.split else ["muse.json", "muse_val.json"]
    file = None if data.is_prepared else data.need(*(f"{folder}{name}" for folder in ("muse/", "") for name in names))
    return _asked(data, "muse", file, data.pictures)


def read_reason_seg_questions(data: DataFolder) -> list[AskedPicture]:
    """ReasonSeg's folder; `split` is a folder in it."""
    return _asked(data, "reason_seg", data.folder, data.images or data.folder, split=data.split)


def read_multi_referring(data: DataFolder) -> list[AskedPicture]:
    """A refs file in UNC's layout and its instances, as for referring; expressions are asked for several at once."""
    file, instances = None, None
    if not data.is_prepared:
        file = data.need(*(f"{folder}{name}" for folder in ("refcoco/", "") for name in REFS))
        instances = data.need("refcoco/instances.json", "instances.json")
    return _asked(data, "referring_expressions", file, data.pictures, companion=instances, split=data.split)


def _asked(data: DataFolder, layout: str, file: Path | None, images: Path, **options: Any) -> list[AskedPicture]:
    if data.is_prepared:
        rows = undecoded(read_prepared(data.folder, task="reason", split=data.split))
        known = rows.remove_columns(["image"])
        files: Any = [StoredFile(rows, index) for index in range(len(rows))]
    else:
        assert file is not None
        rows = undecoded(read_format(layout, file, images, task="reason", **options))
        known, files = rows, [Path(image["path"]) for image in rows["image"]]
    pictures = []
    for row, image in zip(known, files, strict=True):
        questions = tuple(AskedQuestion(p["context"], p["target"], tuple(p["targets"])) for p in row["prompts"])
        pictures.append(AskedPicture(row["image_id"], image, (row["height"], row["width"]), questions))
    if not pictures:
        raise EvaluationDataError(f"{file or data.folder} asks nothing about any image.")
    return pictures
