"""Boxes to masks: SAM's own task, taught to the towers."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from pixelllm_hf.modeling.configuration_pixelllm import PixelLLMConfig
from pixelllm_hf.modeling.modeling_pixelllm import PixelLLMForGroundedGeneration
from pixelllm_hf.training.auxiliary.batches import image_batches
from pixelllm_hf.training.auxiliary.cell_heads import CellTaskConfig
from pixelllm_hf.training.auxiliary.heads import AuxiliaryHeads
from pixelllm_hf.training.auxiliary.masks import ImageObjects, MaskBatches, MaskLearner, MaskTaskConfig
from pixelllm_hf.training.auxiliary.token_heads import TokenTaskConfig
from pixelllm_hf.training.config import ConfigError


def batches_of(squares: SimpleNamespace, folder: Path, *, flip: bool = False, **task: Any) -> tuple[MaskBatches, Any]:
    train, _, labels = image_batches(
        (str(squares.instances), str(squares.images)),
        None,
        held_out_fraction=0.2,
        cache_dir=str(folder),
        canvas=64,
        cells=8,
        batch_size=4,
        seed=0,
        flip=flip,
    )
    return MaskBatches(
        train, ImageObjects.read(str(squares.instances)), MaskTaskConfig(mask_cells=32, **task), seed=0
    ), labels


def learner_of(labels: Any) -> MaskLearner:
    torch.manual_seed(0)
    model = PixelLLMForGroundedGeneration(PixelLLMConfig.for_tests())
    return MaskLearner(model, heads_of(model, labels))


def heads_of(model: PixelLLMForGroundedGeneration, labels: Any) -> AuxiliaryHeads:
    return AuxiliaryHeads.for_model(
        model, labels, cells=CellTaskConfig(), tokens=TokenTaskConfig(1, 2), cells_weight=0.4
    )


def test_masks_are_those_of_the_boxes_they_come_with(squares: SimpleNamespace, tmp_path: Path) -> None:
    batches, _ = batches_of(squares, tmp_path, box_noise=0.0)
    batch = batches.batch_at(0)
    rows = batches.batches.rows_at(0)
    assert len(batch["object_boxes"]) == len(batch["object_masks"]) == len(batch["image_of_row"]) > 0
    coco = json.loads(squares.instances.read_text())
    for box, mask, image in zip(batch["object_boxes"], batch["object_masks"], batch["image_of_row"], strict=True):
        there = mask.nonzero().float() * 2  # cells of 2 canvas pixels
        tight = torch.cat([there.amin(0).flip(0), there.amax(0).flip(0) + 2])
        assert (tight - box).abs().max() <= 2, "the squares fill their boxes, up to a cell on either side"
        record = coco["images"][rows[image]]
        scale = 64 / max(record["width"], record["height"])
        known = [np.array(a["bbox"]) * scale for a in coco["annotations"] if a["image_id"] == record["id"]]
        assert any(np.allclose([x, y, x + w, y + h], box, atol=1e-4) for x, y, w, h in known)


def test_an_image_shows_no_more_objects_than_asked_and_others_next_time(
    squares: SimpleNamespace, tmp_path: Path
) -> None:
    batches, _ = batches_of(squares, tmp_path, objects_per_image=1)
    first, again = batches.batch_at(0), batches.batch_at(0)
    assert first["image_of_row"].tolist() == [0, 1, 2, 3]
    assert all(torch.equal(first[name], again[name]) for name in first), "a batch is a function of its number"
    image = int(batches.batches.rows_at(0)[0])
    shown = set()
    for index in range(60):
        if image in (rows := batches.batches.rows_at(index).tolist()):
            shown.add(batches.batch_at(index)["object_masks"][rows.index(image)].numpy().tobytes())
    assert len(shown) == len(batches.objects.of_row[image])


def test_boxes_move_with_the_noise_and_stay_boxes(squares: SimpleNamespace, tmp_path: Path) -> None:
    exact, moved = (batches_of(squares, tmp_path, box_noise=noise)[0].batch_at(1) for noise in (0.0, 0.8))
    assert not torch.equal(exact["object_boxes"], moved["object_boxes"])
    assert (moved["object_boxes"][:, 2:] >= moved["object_boxes"][:, :2]).all()


def test_only_towers_and_mask_decoder_learn_and_the_gate_is_closed(squares: SimpleNamespace, tmp_path: Path) -> None:
    batches, labels = batches_of(squares, tmp_path)
    learner = learner_of(labels)
    learner(**batches.batch_at(0)).loss.backward()
    learnt = {name for name, p in learner.model.named_parameters() if p.grad is not None and p.grad.any()}
    assert {".".join(name.split(".")[:2]) for name in learnt if not name.startswith("vision")} == {"mask_head.decoder"}
    assert any(name.startswith("vision_towers.sam") for name in learnt)
    assert learner.model.mask_head.adapter.alpha.eq(0).all()


def test_a_few_images_can_be_learnt_by_heart(squares: SimpleNamespace, tmp_path: Path) -> None:
    batches, labels = batches_of(squares, tmp_path)
    learner, batch = learner_of(labels), batches.batch_at(0)
    optimizer = torch.optim.Adam([p for p in learner.parameters() if p.requires_grad], 3e-3)
    before = float(learner(**batch).loss_parts["mask_iou"])
    for _ in range(160):
        output = learner(**batch)
        optimizer.zero_grad()
        output.loss.backward()
        optimizer.step()
    assert before < 0.2 and output.loss_parts["mask_iou"] > 0.75


def test_what_cannot_be_taught_is_refused(squares: SimpleNamespace, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="mirrors images but not their masks"):
        batches_of(squares, tmp_path, flip=True)
    _, labels = batches_of(squares, tmp_path)
    config = PixelLLMConfig.for_tests(mask_head_config=None)
    model = PixelLLMForGroundedGeneration(config)
    with pytest.raises(ConfigError, match="without a mask head"):
        MaskLearner(model, heads_of(model, labels))


def test_the_result_is_a_whole_model_with_other_towers(train_a_part: Callable[..., Any], tmp_path: Path) -> None:
    printed, changed = train_a_part("masks", masks={"mask_cells": 32})
    assert "mask iou" in printed
    assert changed == {"vision_towers", "mask_head"}
    assert (tmp_path / "run" / "model" / "cell_heads.safetensors").is_file()
