from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import LlamaConfig, T5Config

from pixelllm_hf import PixelLLMConfig, PixelLLMForGroundedGeneration

peft = pytest.importorskip("peft")


def t5(layers: int = 2, width: int = 32) -> T5Config:
    return T5Config(
        vocab_size=40, d_model=width, d_kv=8, d_ff=16, num_layers=layers, num_heads=4, decoder_start_token_id=0
    )


def llama(layers: int = 2, width: int = 32) -> LlamaConfig:
    return LlamaConfig(
        vocab_size=40, hidden_size=width, intermediate_size=16, num_hidden_layers=layers, num_attention_heads=4,
        bos_token_id=2, eos_token_id=1,
    )  # fmt: skip


def model_of(text: Any) -> PixelLLMForGroundedGeneration:
    torch.manual_seed(0)
    return PixelLLMForGroundedGeneration(PixelLLMConfig.for_tests(text_config=text))


@pytest.fixture(scope="module")
def adapters(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """LoRAs of models with two layers, whose second matrices are not zero."""
    folders = {}
    for name, text in (("t5", t5()), ("llama", llama())):
        adapted = peft.get_peft_model(model_of(text), peft.LoraConfig(r=2, modules_to_save=["point_head"]))
        with torch.no_grad():
            for parameter in adapted.parameters():
                if parameter.requires_grad:
                    parameter.normal_()
        folders[name] = tmp_path_factory.mktemp(name)
        adapted.save_pretrained(folders[name])
    return folders


@pytest.mark.parametrize(
    ("kind", "text", "said"),
    [
        ("t5", t5(3), r"it lacks \d+ weights .*block\.2\."),
        ("t5", t5(1), r"no place for \d+ of its weights, e\.g\. language_model.*block\.1\..*lora_[AB]"),
        ("t5", t5(width=48), r"has shape \(2, 32\) where the model's has \(2, 48\)"),
        ("llama", llama(3), r"it lacks \d+ weights .*layers\.2\."),
        ("llama", llama(1), r"no place for \d+ of its weights, e\.g\. .*layers\.1\."),
        ("llama", t5(), r"no place for|it lacks|of another width"),
    ],
)
def test_a_lora_for_another_base_is_refused_by_name(adapters: dict[str, Path], kind: str, text: Any, said: str):
    with pytest.raises(ValueError, match="a LoRA for another base: .*" + said):
        peft.PeftModel.from_pretrained(model_of(text), adapters[kind])


def test_transformers_own_loading_refuses_it_too_and_leaves_the_model_without(
    adapters: dict[str, Path], tmp_path: Path
):
    for text, said in (
        (t5(3), "it lacks"),
        (t5(1), "no place for"),
        (t5(width=48), "another width"),
        (llama(), "no pl"),
    ):
        model = model_of(text)
        with pytest.raises(ValueError, match=f"LoRA for another base: .*{said}"):
            model.load_adapter(str(adapters["t5"]))
        assert not any(".lora_" in name or "modules_to_save" in name for name in model.state_dict())
    model_of(llama()).save_pretrained(tmp_path / "base")
    folder = shutil.copytree(adapters["t5"], tmp_path / "adapter")
    settings = json.loads((folder / "adapter_config.json").read_text())
    settings["base_model_name_or_path"] = str(tmp_path / "base")
    (folder / "adapter_config.json").write_text(json.dumps(settings))
    with pytest.raises(ValueError, match="LoRA for another base"):
        PixelLLMForGroundedGeneration.from_pretrained(folder)


def test_transformers_own_loading_takes_the_right_lora(adapters: dict[str, Path]):
    model = model_of(t5())
    model.load_adapter(str(adapters["t5"]))
    expected = peft.PeftModel.from_pretrained(model_of(t5()), adapters["t5"]).get_base_model().state_dict()
    assert all(torch.equal(tensor, expected[name]) for name, tensor in model.state_dict().items())


def test_a_second_adapter_for_another_base_is_refused_and_the_first_goes_on(adapters: dict[str, Path], tmp_path: Path):
    other = peft.get_peft_model(model_of(t5(3)), peft.LoraConfig(r=2))
    other.save_pretrained(tmp_path)
    model = peft.PeftModel.from_pretrained(model_of(t5()), adapters["t5"])
    with pytest.raises(ValueError, match="another base"):
        model.load_adapter(str(tmp_path), adapter_name="deeper")
    assert model.active_adapter == "default"


def test_the_right_lora_is_loaded_whole(adapters: dict[str, Path]):
    model = peft.PeftModel.from_pretrained(model_of(t5()), adapters["t5"])
    model.load_adapter(adapters["t5"], adapter_name="again")
    stored = load_file(adapters["t5"] / "adapter_model.safetensors")
    lora = {name: tensor for name, tensor in stored.items() if ".lora_" in name}
    loaded = dict(model.named_parameters())
    assert len(lora) == 2 * 2 * 3 * 2  # matrices, projections, attentions, layers
    for adapter in ("default", "again"):
        for name, tensor in lora.items():
            assert torch.equal(loaded[re.sub(r"(lora_[AB])", rf"\1.{adapter}", name)], tensor)


def test_a_cut_adapter_file_is_refused(adapters: dict[str, Path], tmp_path: Path):
    file = "adapter_model.safetensors"
    stored = load_file(adapters["t5"] / file)
    removed = next(name for name in stored if "decoder.block.1" in name and "lora_B" in name)
    save_file({name: tensor for name, tensor in stored.items() if name != removed}, tmp_path / file)
    (tmp_path / "adapter_config.json").write_text((adapters["t5"] / "adapter_config.json").read_text())
    with pytest.raises(ValueError, match="it lacks 1 weights"):
        peft.PeftModel.from_pretrained(model_of(t5()), tmp_path)


def test_weights_without_adapters_are_loaded_as_ever():
    adapted = peft.get_peft_model(model_of(t5()), peft.LoraConfig(r=2))
    plain = {name: tensor for name, tensor in adapted.state_dict().items() if ".lora_" not in name}
    assert adapted.load_state_dict(plain, strict=False).unexpected_keys == []
    adapted.load_state_dict(adapted.state_dict())
