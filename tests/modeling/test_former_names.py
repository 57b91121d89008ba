"""What was saved while the visual projection stood beside the language model loads as if it had been saved today."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from pixelllm_hf import PixelLLMForGroundedGeneration
from pixelllm_hf.modeling.former_names import current_name, current_names

TODAY = "language_model.visual_projection."


def former(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """As they were called."""
    renamed = {name.replace(TODAY, "visual_projection."): tensor for name, tensor in tensors.items()}
    assert len(renamed) == len(tensors) and any(name.startswith("visual_projection.") for name in renamed)
    return renamed


@pytest.fixture
def former_folder(small_checkpoint: Path, tmp_path: Path) -> Path:
    folder = Path(shutil.copytree(small_checkpoint, tmp_path / "former"))
    file = folder / "model.safetensors"
    save_file(former(load_file(file)), file, metadata={"format": "pt"})
    return folder


def assert_same(model: torch.nn.Module, expected: torch.nn.Module) -> None:
    ours, theirs = model.state_dict(), expected.state_dict()
    assert list(ours) == list(theirs)
    assert all(torch.equal(ours[name], tensor) for name, tensor in theirs.items())


def test_a_former_checkpoint_is_the_same_model_and_is_saved_under_the_names_of_today(
    former_folder: Path, small_checkpoint: Path, small_inputs: dict[str, torch.Tensor], tmp_path: Path
):
    expected = PixelLLMForGroundedGeneration.from_pretrained(small_checkpoint).eval()
    model, told = PixelLLMForGroundedGeneration.from_pretrained(former_folder, output_loading_info=True)
    assert not told["missing_keys"] and not told["unexpected_keys"]
    assert_same(model.eval(), expected)
    answer, right = (each.generate(**small_inputs, max_new_tokens=4) for each in (model, expected))
    assert torch.equal(answer.sequences, right.sequences)
    torch.testing.assert_close(answer.coordinates, right.coordinates, rtol=0, atol=0, equal_nan=True)

    model.save_pretrained(tmp_path / "again")
    saved = load_file(tmp_path / "again" / "model.safetensors")
    assert saved.keys() == load_file(small_checkpoint / "model.safetensors").keys()
    assert_same(PixelLLMForGroundedGeneration.from_pretrained(tmp_path / "again"), expected)


def test_a_former_checkpoint_in_shards_loads(former_folder: Path, small_checkpoint: Path, tmp_path: Path):
    expected = PixelLLMForGroundedGeneration.from_pretrained(small_checkpoint)
    PixelLLMForGroundedGeneration.from_pretrained(former_folder).save_pretrained(
        tmp_path / "parts", max_shard_size="50KB"
    )
    for file in (tmp_path / "parts").glob("model-*.safetensors"):
        tensors = load_file(file)
        save_file({n.replace(TODAY, "visual_projection."): t for n, t in tensors.items()}, file, {"format": "pt"})
    index = tmp_path / "parts" / "model.safetensors.index.json"
    index.write_text(index.read_text().replace(TODAY, "visual_projection."))
    assert_same(PixelLLMForGroundedGeneration.from_pretrained(tmp_path / "parts"), expected)


@pytest.mark.parametrize("wrapped", [False, True], ids=["", "within another module"])
def test_a_state_dict_with_former_names_loads_strictly(small_model, wrapped: bool):
    tensors = {name: tensor + 1 for name, tensor in small_model.state_dict().items()}
    module = torch.nn.ModuleDict({"model": small_model}) if wrapped else small_model
    module.load_state_dict({f"model.{name}" if wrapped else name: t for name, t in former(tensors).items()})
    assert all(torch.equal(tensor, tensors[name]) for name, tensor in small_model.state_dict().items())


@pytest.mark.parametrize(
    ("name", "today"),
    [
        ("visual_projection.0.weight", f"{TODAY}0.weight"),
        ("visual_projection.1.bias/exp_avg", f"{TODAY}1.bias/exp_avg"),
        ("model.visual_projection.0.bias", f"model.{TODAY}0.bias"),
        (f"{TODAY}0.weight", f"{TODAY}0.weight"),
        (f"model.{TODAY}0.weight", f"model.{TODAY}0.weight"),
        ("mask_head.adapter.visual_projection_mlp.norm.bias", "mask_head.adapter.visual_projection_mlp.norm.bias"),
    ],
)
def test_names_of_the_projection_alone_change_and_only_once(name: str, today: str):
    assert current_name(name) == today
    assert current_names({name: 1}) == {today: 1}


def test_an_adapter_that_was_saved_with_the_former_projection_loads(small_checkpoint: Path, tmp_path: Path):
    peft = pytest.importorskip("peft")
    settings = peft.LoraConfig(r=2, modules_to_save=["visual_projection"])
    trained = peft.get_peft_model(PixelLLMForGroundedGeneration.from_pretrained(small_checkpoint), settings)
    with torch.no_grad():
        for parameter in trained.parameters():
            if parameter.requires_grad:
                parameter.normal_()
    trained.save_pretrained(tmp_path)
    file = tmp_path / "adapter_model.safetensors"
    tensors = {name.replace(TODAY, "visual_projection."): tensor for name, tensor in load_file(file).items()}
    assert "base_model.model.visual_projection.0.weight" in tensors
    save_file(tensors, file, metadata={"format": "pt"})
    base = PixelLLMForGroundedGeneration.from_pretrained(small_checkpoint)
    assert_same(peft.PeftModel.from_pretrained(base, tmp_path), trained)
    base = PixelLLMForGroundedGeneration.from_pretrained(small_checkpoint)
    base.load_adapter(str(tmp_path))
    assert_same(base, trained.get_base_model())
