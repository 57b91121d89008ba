"""LoRA on the language model: targets, scale, what trains, merging."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from pixelllm_hf.modeling.configuration_pixelllm import PixelLLMConfig
from pixelllm_hf.modeling.modeling_pixelllm import PixelLLMForGroundedGeneration
from pixelllm_hf.training.export import save_folder
from pixelllm_hf.training.lora import LoraSettings, add_lora
from pixelllm_hf.training.parameter_groups import freeze

SETTINGS = LoraSettings(rank=3)


def model_and_inputs() -> tuple[PixelLLMForGroundedGeneration, dict[str, torch.Tensor]]:
    torch.manual_seed(0)
    model = PixelLLMForGroundedGeneration(PixelLLMConfig.for_tests()).eval()
    inputs = {"pixel_values": torch.rand(2, 3, 64, 64) * 255, "decoder_input_ids": torch.tensor([[0, 5, 6], [0, 7, 8]])}
    return model, inputs


def test_q_and_v_of_all_three_attentions_are_adapted() -> None:
    model, _ = model_and_inputs()
    adapted = add_lora(model, SETTINGS)
    # two encoder layers with one attention, two decoder layers with two; q and v each
    assert len(adapted) == 2 * (2 + 4)
    assert all(name.startswith("language_model.") and name[-2:] in (".q", ".v") for name in adapted)
    assert sum("EncDecAttention" in name for name in adapted) == 4


def test_of_the_language_model_only_adapters_train() -> None:
    model, _ = model_and_inputs()
    freeze(model, ["prompt_encoder", "vision_towers.sam"])
    add_lora(model, SETTINGS)
    trained = {name for name, p in model.named_parameters() if p.requires_grad}
    assert {name.split(".")[0] for name in trained} == {
        "vision_towers",
        "prompt_feature_extractor",
        "language_model",
        "point_head",
        "mask_head",
        "proposal_head",
    }
    assert all("lora_" in name or "visual_projection" in name for name in trained if name.startswith("language_model."))
    assert "language_model.visual_projection.0.weight" in trained
    assert not any(name.startswith("vision_towers.sam") for name in trained)


def test_fresh_adapters_change_nothing_and_the_scale_is_two() -> None:
    model, inputs = model_and_inputs()
    with torch.no_grad():
        before = model(**inputs).logits
        add_lora(model, SETTINGS)
        assert torch.equal(model(**inputs).logits, before)
    layer = model.get_submodule("language_model.body.encoder.block.0.layer.0.SelfAttention.q")
    torch.nn.init.normal_(layer.lora_B["default"].weight)
    expected = 2 * layer.lora_B["default"].weight @ layer.lora_A["default"].weight
    torch.testing.assert_close(layer.get_delta_weight("default"), expected)


def test_an_exported_model_is_plain_and_answers_alike(tmp_path: Path) -> None:
    model, inputs = model_and_inputs()
    for name in add_lora(model, SETTINGS):
        torch.nn.init.normal_(model.get_submodule(name).lora_B["default"].weight, std=0.3)
    save_folder(model, tmp_path, lora=SETTINGS)
    plain = PixelLLMForGroundedGeneration.from_pretrained(tmp_path).eval()
    with torch.no_grad():
        torch.testing.assert_close(plain(**inputs).logits, model(**inputs).logits, atol=1e-5, rtol=1e-5)
    adapter = load_file(tmp_path / "adapter" / "adapter_model.safetensors")
    assert len(adapter) == 2 * 12 and all("lora_" in name for name in adapter)
    assert (tmp_path / "adapter" / "adapter_config.json").is_file()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_export_keeps_places_in_float32(tmp_path: Path, dtype: torch.dtype) -> None:
    model, _ = model_and_inputs()
    save_folder(model, tmp_path, dtype=dtype)
    saved = load_file(tmp_path / "model.safetensors")
    places = ("point_head.", "prompt_encoder.")
    assert {t.dtype for name, t in saved.items() if name.startswith(places)} == {torch.float32}
    assert {t.dtype for name, t in saved.items() if name.startswith("vision_towers.")} == {dtype}
    loaded = PixelLLMForGroundedGeneration.from_pretrained(tmp_path)
    assert loaded.point_head.norm.weight.dtype == torch.float32
    assert torch.equal(loaded.point_head.norm.weight, model.point_head.norm.weight)
