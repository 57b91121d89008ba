"""Teach a model SAM's own task, boxes to masks, through its towers; what the towers knew is kept beside it.

accelerate launch scripts/pretrain_masks.py --config configs/tiny_masks.yaml
python scripts/pretrain_masks.py --config configs/tiny_masks.yaml total_steps=50 output_dir=runs/try
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import nn

from pixelllm_hf.training.export import export_dtype, save_folder
from pixelllm_hf.training.initial_model import initial_model, load_processor
from pixelllm_hf.training.label_heads import LabelHeads
from pixelllm_hf.training.mask_pretraining import MaskBatches, MaskLearner, MaskPretrainConfig, PictureObjects
from pixelllm_hf.training.recipe_command import run_recipe
from pixelllm_hf.training.trainer import Trainer, start
from pixelllm_hf.training.vision_pretraining import dense_batches


def main(recipe: MaskPretrainConfig) -> None:
    accelerator = start(recipe.run)
    final_dtype = export_dtype(recipe.export_dtype)
    model = initial_model(recipe.model)
    processor = load_processor(recipe.model, image_size=model.config.image_size)
    data, task, seed = recipe.data, recipe.task, recipe.run.seed
    vision: Any = model.config.vision_config
    with accelerator.main_process_first():
        train, held_out, labels = dense_batches(
            data, seed, canvas=model.config.image_size, cells=vision.grid_size * task.dense.sub_cells
        )
    heads = LabelHeads.for_model(
        model,
        labels,
        dense=task.dense,
        tokens=None if task.token_heads is None else task.tokens,
        dense_file=task.dense_heads,
        token_file=task.token_heads,
        dense_weight=task.dense_weight,
        token_weight=task.token_weight,
    )
    objects = PictureObjects.read(data.instances)
    held_out_objects = PictureObjects.read(data.eval_instances) if data.eval_instances else objects
    learner = MaskLearner(model, heads)

    def save(_: nn.Module, folder: Path, final: bool) -> None:
        save_folder(model, folder, processor=processor, dtype=final_dtype if final else export_dtype("float32"))
        heads.save(folder)

    trainer = Trainer(
        learner,
        MaskBatches(train, objects, task, seed=seed),
        accelerator=accelerator,
        run=recipe.run,
        optimizer=recipe.optimizer,
        recipe=recipe,
        save_model=save,
        held_out=MaskBatches(held_out, held_out_objects, task, seed=seed),
    )
    metrics = trainer.run()
    if accelerator.is_main_process:
        overlap = metrics.get("eval_mask_iou", metrics.get("mask_iou", float("nan")))
        print(f"step {int(metrics['step'])} · mask IoU {overlap:.4f} · {Path(recipe.run.output_dir) / 'model'}")


if __name__ == "__main__":
    run_recipe(main, MaskPretrainConfig, __doc__)
