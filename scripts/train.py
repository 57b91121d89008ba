"""Train a PixelLLM on grounded captions, referring expressions and region phrases.

accelerate launch scripts/train.py --config configs/trace_t5_xl.yaml
python scripts/train.py --config configs/smoke.yaml total_steps=50 output_dir=runs/try    # minutes
A killed run continues exactly where its newest checkpoint is when the same command is given again.
"""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from torch import nn

from pixelllm_hf.modeling.model_folder import check_generation
from pixelllm_hf.training.config import ConfigError
from pixelllm_hf.training.dense_companion import WithDenseLabels, with_dense_labels
from pixelllm_hf.training.export import export_dtype, save_folder
from pixelllm_hf.training.feature_cache import CachedFeatureBatches
from pixelllm_hf.training.initial_model import initial_model, load_processor
from pixelllm_hf.training.lora import add_lora
from pixelllm_hf.training.parameter_groups import freeze
from pixelllm_hf.training.recipe import TrainConfig
from pixelllm_hf.training.recipe_command import run_recipe
from pixelllm_hf.training.sources import grounded_batches
from pixelllm_hf.training.trainer import Trainer, start


def main(recipe: TrainConfig) -> None:
    settings, data = recipe.model, recipe.data
    accelerator = start(recipe.run)
    final_dtype = export_dtype(settings.export_dtype)
    model = initial_model(
        settings.init,
        overrides=settings.overrides,
        vision_weights=settings.vision_weights,
        weights=settings.weights,
    )
    check_generation(settings.generation, "model.generation.")
    if unknown := model.generation_config.update(**settings.generation):
        raise ConfigError(f"model.generation has entries that no generation config knows: {sorted(unknown)}.")
    processor = load_processor(settings.processor or settings.init, image_size=model.config.image_size)
    if len(processor.tokenizer) > model.config.get_text_config().vocab_size:
        raise ConfigError(
            f"The tokenizer has {len(processor.tokenizer)} pieces, the model's vocabulary only "
            f"{model.config.get_text_config().vocab_size}. Make a smaller tokenizer, or set "
            "model.overrides.text_config.vocab_size."
        )
    freeze(model, settings.freeze)
    if settings.lora is not None:
        add_lora(model, settings.lora)

    notes: list[str] = []
    common: dict[str, Any] = {
        "processor": processor,
        "seed": recipe.run.seed,
        "processes": accelerator.num_processes,
        "notes": notes,
    }
    with accelerator.main_process_first():
        batches = grounded_batches(data.sources, data, **common)
        held_out = grounded_batches(data.held_out, data, **common) if data.held_out else None
    source: Any = batches
    trained_module: nn.Module = model
    if recipe.dense is not None:
        trained_module, source = with_dense_labels(model, batches, recipe.dense, data.cache_dir)
    elif data.cache_features:
        source = CachedFeatureBatches(batches, model.vision_towers, data.cache_dir, accelerator)
    if accelerator.is_main_process:
        trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
        total = sum(p.numel() for p in model.parameters())
        print(f"{trained / 1e6:.2f} of {total / 1e6:.2f} M parameters train", *notes, sep="\n", flush=True)

    def save(_: nn.Module, folder: Path, final: bool) -> None:
        if final or settings.lora is None:  # a checkpoint of an adapter run is its training state
            dtype = final_dtype if final else export_dtype("float32")
            save_folder(model, folder, processor=processor, dtype=dtype, lora=settings.lora)
            if isinstance(trained_module, WithDenseLabels):
                trained_module.heads.save(folder)

    trainer = Trainer(
        trained_module,
        source,
        accelerator=accelerator,
        run=recipe.run,
        optimizer=recipe.optimizer,
        recipe=recipe,
        save_model=save,
        held_out=held_out,
        evaluate=evaluation(recipe.evaluate, recipe.evaluate_options, model, processor),
        trained_only=settings.lora is not None,
    )
    metrics = trainer.run()
    if accelerator.is_main_process:
        numbers = " · ".join(f"{name} {value:.5g}" for name, value in metrics.items())
        print(f"{numbers} · {Path(recipe.run.output_dir) / 'model'}")


def evaluation(
    name: str | None, options: Mapping[str, Any], model: nn.Module, processor: Any
) -> Callable[[nn.Module, int], Mapping[str, float]] | None:
    """The function that `evaluate: module:function` names, with the processor and its options filled in."""
    if name is None:
        if options:
            raise ConfigError(f"evaluate_options {dict(options)} need evaluate: the function that takes them.")
        return None
    module, _, attribute = name.partition(":")
    try:
        function = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError, ValueError) as error:
        raise ConfigError(f"evaluate names {name!r}, which cannot be imported ({error}).") from error
    try:
        inspect.signature(function).bind(model, processor, **options)
    except TypeError as error:
        raise ConfigError(f"evaluate_options {dict(options)} are no options of {name!r}: {error}.") from error
    return lambda _, step: function(model, processor, **options)


if __name__ == "__main__":
    run_recipe(main, TrainConfig, __doc__)
