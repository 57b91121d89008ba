"""The parts that see give in other runtimes what they give here."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from pixelllm_hf import (
    PixelLLMConfig,
    PixelLLMForGroundedGeneration,
    PixelLMConfig,
    PixelLMForReasoningSegmentation,
)
from pixelllm_hf.conversion.exported_parts import (
    ExportError,
    PromptPart,
    exported,
    onnx_differences,
    program_differences,
    set_difference,
    write_onnx,
)

DETECTING = {
    "image_size": 64,
    "towers": [
        {
            "model_type": "pixelllm_yolox_tower", "name": "yolox", "base_channels": 4, "num_classes": 3,
            "output_maps": ["p4", "detections"],
        }
    ],
    "fused_maps": ["yolox.p4"],
    "mask_map": "yolox.p4",
}  # fmt: skip


def made(*, vision: dict[str, Any] | None = None, **prompt: Any) -> PixelLLMForGroundedGeneration:
    torch.manual_seed(0)
    settings: dict[str, Any] = {"prompt_config": PixelLLMConfig.for_tests().prompt_config.to_dict() | prompt}
    settings |= {} if vision is None else {"vision_config": vision}
    return PixelLLMForGroundedGeneration(PixelLLMConfig.for_tests(**settings)).eval()


def test_the_prompt_part_gives_what_the_model_gives():
    model = made(reads_map=True, pools_prompt=True)
    side = model.config.image_size
    boxes = torch.tensor([[0.1, 0.2, 0.7, 0.9], [0.0, 0.0, 1.0, 0.5]]) * side
    with torch.no_grad():
        features = model.get_image_features(torch.rand(2, 3, side, side) * 255)
        tokens, cells = PromptPart(model)(features.fused, boxes)
        expected = model.get_prompt_features(features, prompt_boxes=boxes[:, None])
    torch.testing.assert_close(tokens, expected.tokens)
    torch.testing.assert_close(cells, expected.cells)


def test_exported_programs_and_onnx_files_take_any_number_of_rows(tmp_path: Path):
    model = made(reads_map=True, pools_prompt=True)
    assert max(program_differences(model, exported(model)).values()) < 1e-5
    differences = write_onnx(model, tmp_path / "parts")
    assert set(differences) == {"fused_map", "visual_tokens", "cells"} and max(differences.values()) < 1e-4
    with torch.no_grad():
        model.prompt_feature_extractor.output_tokens.weight += 1.0
    assert onnx_differences(model, tmp_path / "parts")["visual_tokens"] > 1e-2  # the check sees another model


def test_models_that_pool_detections_are_exported_with_them(tmp_path: Path):
    model = made(vision=DETECTING, reads_map=True, pools_prompt=True, pooled_detections="yolox.detections")
    assert model.prompt_pooling is not None and model.prompt_pooling.classes is not None
    side = model.config.image_size
    boxes = torch.tensor([[0.1, 0.2, 0.7, 0.9], [0.0, 0.0, 1.0, 0.5]]) * side
    with torch.no_grad():
        model.prompt_pooling.classes.weight.normal_()
        features = model.get_image_features(torch.rand(2, 3, side, side) * 255)
        tokens, _ = PromptPart(model)(features.fused, boxes, features["yolox.detections"])
        torch.testing.assert_close(tokens, model.get_prompt_features(features, prompt_boxes=boxes[:, None]).tokens)
        without = PromptPart(model)(features.fused, boxes, torch.zeros_like(features["yolox.detections"]))[0]
    assert not torch.allclose(tokens, without)
    assert max(program_differences(model, exported(model)).values()) < 1e-4
    differences = write_onnx(model, tmp_path / "parts")
    assert set(differences) == {"fused_map", "detections", "visual_tokens", "cells"}
    assert max(differences.values()) < 1e-4


def test_what_a_pixellm_sees_is_exported_and_its_questions_are_left_to_the_language_model(tmp_path: Path):
    torch.manual_seed(0)
    model = PixelLMForReasoningSegmentation(PixelLMConfig.for_tests()).eval()
    assert max(program_differences(model, exported(model)).values()) < 1e-5
    differences = write_onnx(model, tmp_path / "parts")
    assert set(differences) == {"image_tokens", "token_mask", "level_map_0", "level_map_1"}
    assert max(differences.values()) < 1e-4 and differences["token_mask"] == 0
    assert [file.name for file in (tmp_path / "parts").iterdir()] == ["vision.onnx"]


def test_detections_are_compared_without_their_order_and_a_changed_one_is_seen():
    cells = torch.rand(2, 2, 3, 5, generator=torch.Generator().manual_seed(0))
    turned = cells.flatten(1, 2).flip(1).reshape(cells.shape)
    assert set_difference(turned.numpy(), cells.numpy()) == 0
    turned[1, 0, 0, 2] += 0.5
    assert set_difference(turned.numpy(), cells.numpy()) > 0.1


def test_what_cannot_be_exported_is_said_before_anything_is_written(tmp_path: Path):
    with pytest.raises(ExportError, match="evaluation"):
        write_onnx(made().train(), tmp_path / "parts")
    quantized = made()
    quantized.hf_quantizer = object()
    with pytest.raises(ExportError, match="not quantized"):
        write_onnx(quantized, tmp_path / "parts")
    assert not (tmp_path / "parts").exists()
