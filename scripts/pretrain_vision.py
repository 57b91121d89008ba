"""Teach the two vision towers to name what they see, cell by cell, before they meet language.

accelerate launch scripts/pretrain_vision.py --config configs/tiny_vision.yaml
python scripts/pretrain_vision.py --config configs/tiny_vision.yaml total_steps=50 warmup_steps=5 output_dir=runs/try
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import nn

from pixelllm_hf.training.dense_heads import DenseHeads
from pixelllm_hf.training.initial_model import initial_model
from pixelllm_hf.training.label_heads import LabelHeads
from pixelllm_hf.training.recipe_command import run_recipe
from pixelllm_hf.training.trainer import Trainer, start
from pixelllm_hf.training.vision_pretraining import (
    DenseLabeller,
    VisionPretrainConfig,
    dense_batches,
    save_vision_towers,
)

WEIGHTS_FILE = "vision_towers.safetensors"


def main(recipe: VisionPretrainConfig) -> None:
    accelerator = start(recipe.run)
    whole = initial_model(recipe.model, overrides=recipe.model_overrides, vision_weights=recipe.vision_weights)
    towers, config = whole.vision_towers, whole.config
    del whole  # the language model need not stay in memory
    vision: Any = config.vision_config
    cells = vision.grid_size * recipe.task.sub_cells
    with accelerator.main_process_first():
        train, held_out, labels = dense_batches(recipe.data, recipe.run.seed, canvas=config.image_size, cells=cells)
    heads = DenseHeads.for_model(vision, labels, recipe.task)
    model = DenseLabeller(towers, heads)

    def save(_: nn.Module, folder: Path, final: bool) -> None:
        save_vision_towers(towers, folder / WEIGHTS_FILE, labels.class_names)
        LabelHeads(heads).save(folder)
        config.save_pretrained(folder)

    trainer = Trainer(
        model,
        train,
        accelerator=accelerator,
        run=recipe.run,
        optimizer=recipe.optimizer,
        recipe=recipe,
        save_model=save,
        held_out=held_out,
    )
    metrics = trainer.run()
    if accelerator.is_main_process:
        accuracy = metrics.get("eval_fused_foreground_accuracy", metrics.get("fused_foreground_accuracy", float("nan")))
        print(
            f"step {int(metrics['step'])} · {len(labels.class_names)} classes · foreground accuracy {accuracy:.4f} · "
            f"{Path(recipe.run.output_dir) / 'model' / WEIGHTS_FILE}"
        )


if __name__ == "__main__":
    run_recipe(main, VisionPretrainConfig, __doc__)
