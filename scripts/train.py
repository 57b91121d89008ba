"""Train a PixelLLM: language from grounded data, or what comes before it (towers, prompt tokens, masks).

accelerate launch scripts/train.py --config configs/pixelllm/trace.yaml
python scripts/train.py --config configs/smoke.yaml total_steps=50 output_dir=runs/try    # minutes
With --dry_run it only says what would train, how long and with how much memory.
A killed run continues exactly where its newest checkpoint is when the same command is given again.
"""

from __future__ import annotations

from pixelllm_hf.training.auxiliary.objective import masks_objective, prompt_tokens_objective, towers_objective
from pixelllm_hf.training.box_masks_objective import box_masks_objective
from pixelllm_hf.training.dry_run import describe
from pixelllm_hf.training.language_objective import language_objective
from pixelllm_hf.training.recipe import TrainConfig
from pixelllm_hf.training.recipe_command import run_recipe
from pixelllm_hf.training.reward_objective import reward_objective
from pixelllm_hf.training.sharding import summary
from pixelllm_hf.training.text_objective import text_objective
from pixelllm_hf.training.trainer import Trainer, start

OBJECTIVES = {
    "language": language_objective,
    "reward": reward_objective,
    "text": text_objective,
    "towers": towers_objective,
    "prompt_tokens": prompt_tokens_objective,
    "masks": masks_objective,
    "box_masks": box_masks_objective,
}


def main(recipe: TrainConfig) -> None:
    accelerator = start(recipe.run)
    objective = OBJECTIVES[recipe.objective](recipe, accelerator)
    if accelerator.is_main_process:
        sizes = [(p.numel(), p.requires_grad) for p in objective.module.parameters()]
        trained, total = sum(size for size, trains in sizes if trains), sum(size for size, _ in sizes)
        print(f"{trained / 1e6:.2f} of {total / 1e6:.2f} M parameters train", *objective.notes, sep="\n", flush=True)
    trainer = Trainer(
        objective.module,
        objective.batches,
        accelerator=accelerator,
        run=recipe.run,
        optimizer=recipe.optimizer,
        recipe=recipe,
        save_model=lambda _, folder, final: objective.save(folder, final),
        held_out=objective.held_out,
        evaluate=objective.evaluate,
        trained_only=objective.trained_only,
    )
    if trainer.sharded:
        print(summary(objective.module, accelerator.num_processes), flush=True)
    metrics = trainer.run()
    if accelerator.is_main_process:
        print(objective.summary(metrics, recipe.run.output_dir))


if __name__ == "__main__":
    run_recipe(main, TrainConfig, __doc__, describe)
