"""A run that was begun while the visual projection stood beside the language model goes on exactly."""

from __future__ import annotations

from pathlib import Path

import torch
from accelerate import Accelerator
from safetensors.torch import load_file, save_file

from pixelllm_hf.modeling.configuration_pixelllm import PixelLLMConfig
from pixelllm_hf.modeling.modeling_pixelllm import PixelLLMForGroundedGeneration
from pixelllm_hf.training import checkpointing
from pixelllm_hf.training.build_model import build_model
from pixelllm_hf.training.config import OptimizerConfig, RunConfig
from pixelllm_hf.training.trainer import Trainer

TODAY = "language_model.visual_projection."


class Captions:
    """Batch number i."""

    def batch_at(self, index: int) -> dict[str, torch.Tensor]:
        generator = torch.Generator().manual_seed(index)
        return {
            "pixel_values": torch.rand(2, 3, 64, 64, generator=generator) * 255,
            "labels": torch.randint(2, 99, (2, 4), generator=generator),
        }


def trained(folder: Path, **run: object) -> Trainer:
    torch.manual_seed(0)
    model = PixelLLMForGroundedGeneration(PixelLLMConfig.for_tests(mask_head_config=None, proposal_head_config=None))
    config = RunConfig(output_dir=str(folder), total_steps=4, cpu=True, progress=False, **run)  # type: ignore[arg-type]
    optimizer = OptimizerConfig(learning_rate=1e-3, ema_decay=0.9, muon=True, muon_parts=["visual_projection"])
    trainer = Trainer(model, Captions(), accelerator=Accelerator(cpu=True), run=config, optimizer=optimizer)
    trainer.run()
    return trainer


def with_former_names(file: Path) -> None:
    tensors = load_file(file)
    renamed = {name.replace(TODAY, "visual_projection."): tensor for name, tensor in tensors.items()}
    assert renamed.keys() != tensors.keys()
    save_file(renamed, file, metadata={"format": "pt"})


def test_a_former_run_goes_on_exactly(tmp_path: Path) -> None:
    whole = trained(tmp_path / "whole")
    trained(tmp_path / "parts", stop_at=2)
    state = checkpointing.list_checkpoints(tmp_path / "parts")[-1] / checkpointing.STATE_FOLDER
    for name in ("weights", "optimizer", "weight_average"):
        with_former_names(state / f"{name}.safetensors")
    second = trained(tmp_path / "parts")
    weights, expected = second.bare_model.state_dict(), whole.bare_model.state_dict()
    assert all(torch.equal(weights[name], tensor) for name, tensor in expected.items())
    assert whole.average and second.average
    assert all(torch.equal(second.average.means[name], mean) for name, mean in whole.average.means.items())


def test_a_recipe_may_lay_former_weights_over_a_model(tmp_path: Path) -> None:
    model = build_model("for_tests")
    weight = torch.full_like(model.get_parameter("language_model.visual_projection.0.weight"), 0.5)
    save_file({"visual_projection.0.weight": weight}, tmp_path / "weights.safetensors")
    model = build_model("for_tests", weights=[str(tmp_path / "weights.safetensors")])
    assert torch.equal(model.get_parameter("language_model.visual_projection.0.weight"), weight)
