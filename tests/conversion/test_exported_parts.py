"""The parts that see give in other runtimes what they give here."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from pixelllm_hf import PixelLLMConfig, PixelLLMForGroundedGeneration
from pixelllm_hf.conversion.exported_parts import (
    ExportError,
    PromptPart,
    exported,
    onnx_differences,
    program_differences,
    write_onnx,
)


def made(**prompt) -> PixelLLMForGroundedGeneration:
    torch.manual_seed(0)
    settings = PixelLLMConfig.for_tests().prompt_config.to_dict() | prompt
    return PixelLLMForGroundedGeneration(PixelLLMConfig.for_tests(prompt_config=settings)).eval()


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


def test_what_cannot_be_exported_is_said_before_anything_is_written(tmp_path: Path):
    with pytest.raises(ExportError, match="evaluation"):
        write_onnx(made().train(), tmp_path / "parts")
    assert not (tmp_path / "parts").exists()
