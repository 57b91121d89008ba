"""Teach the prompt tokens of a model what is where, before language reads them.

accelerate launch scripts/pretrain_prompt.py --config configs/tiny_prompt_tokens.yaml
python scripts/pretrain_prompt.py --config configs/tiny_prompt_tokens.yaml total_steps=50 output_dir=runs/try
"""

from __future__ import annotations

from pathlib import Path

from torch import nn

from pixelllm_hf.training.export import export_dtype, save_folder
from pixelllm_hf.training.initial_model import initial_model, load_processor
from pixelllm_hf.training.label_heads import LabelHeads
from pixelllm_hf.training.prompt_pretraining import PromptLabeller, PromptPretrainConfig
from pixelllm_hf.training.recipe_command import run_recipe
from pixelllm_hf.training.token_heads import TokenHeads
from pixelllm_hf.training.trainer import Trainer, start
from pixelllm_hf.training.vision_pretraining import dense_batches


def main(recipe: PromptPretrainConfig) -> None:
    accelerator = start(recipe.run)
    final_dtype = export_dtype(recipe.export_dtype)
    model = initial_model(recipe.model)
    processor = load_processor(recipe.model, image_size=model.config.image_size)
    with accelerator.main_process_first():
        train, held_out, labels = dense_batches(
            recipe.data, recipe.run.seed, canvas=model.config.image_size, cells=recipe.label_cells
        )
    heads = TokenHeads.for_model(model, labels, recipe.task)
    labeller = PromptLabeller(model, heads)

    def save(_: nn.Module, folder: Path, final: bool) -> None:
        save_folder(model, folder, processor=processor, dtype=final_dtype if final else export_dtype("float32"))
        LabelHeads(None, heads).save(folder)

    trainer = Trainer(
        labeller,
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
        accuracy = metrics.get("eval_object_accuracy", metrics.get("object_accuracy", float("nan")))
        print(
            f"step {int(metrics['step'])} · {len(labels.class_names)} classes · object accuracy {accuracy:.4f} · "
            f"{Path(recipe.run.output_dir) / 'model'}"
        )


if __name__ == "__main__":
    run_recipe(main, PromptPretrainConfig, __doc__)
