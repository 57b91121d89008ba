"""Learning grounded language from data sources, with auxiliary labels beside it where a recipe has them."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from accelerate import Accelerator
from torch import nn

from pixelllm_hf.training.auxiliary.beside_language import WithAuxiliary, with_auxiliary
from pixelllm_hf.training.build_model import build_model_and_processor, family_of_start
from pixelllm_hf.training.checkpointing import batches_per_step
from pixelllm_hf.training.export import export_dtype, save_folder
from pixelllm_hf.training.feature_cache import CachedFeatureBatches, FeatureMaker, kept_maps
from pixelllm_hf.training.lora import add_lora
from pixelllm_hf.training.objective import Objective
from pixelllm_hf.training.parameter_groups import freeze
from pixelllm_hf.training.recipe_values import ConfigError
from pixelllm_hf.training.sources import grounded_batches

IMAGES_MEASURED = 256  # for the statistics that a fused map is standardised by

if TYPE_CHECKING:
    from pixelllm_hf.training.recipe import TrainConfig


def language_objective(recipe: TrainConfig, accelerator: Accelerator) -> Objective:
    """Captions, regions, expressions, masks and detections, as the sources have them."""
    settings, data = recipe.model, recipe.data
    if not data.sources:
        raise ConfigError("objective language learns from data.sources. Name one at least.")
    final_dtype = export_dtype(settings.export_dtype)
    model, processor = build_model_and_processor(settings)
    towers = getattr(model, "vision_towers", None)
    if towers is None:
        _check_family_without_towers(recipe)
    freeze(model, settings.freeze)
    if settings.lora is not None:
        add_lora(model, settings.lora)

    notes: list[str] = []
    common: dict[str, Any] = {
        "processor": processor,
        "seed": recipe.run.seed,
        "together": batches_per_step(recipe.run, accelerator.num_processes),
        "notes": notes,
        "target_tokens": model.config.target_token_ids or None,
        "collator": family_of_start(settings.init).collator_class,
    }
    with accelerator.main_process_first():
        batches = grounded_batches(data.sources, data, **common)
        held_out = grounded_batches(data.held_out, data, **common) if data.held_out else None
    source: Any = batches
    of_held_out: Any = held_out
    module: nn.Module = model
    if recipe.auxiliary is not None:
        module, source = with_auxiliary(model, batches, recipe.auxiliary, data.cache_dir)
    elif data.cache_features:
        assert towers is not None, "a family without them was refused above"
        maker = FeatureMaker(towers, kept_maps(model.config, batches), accelerator, data.cache_threads)
        source = CachedFeatureBatches(batches, maker, data.cache_dir)
        of_held_out = CachedFeatureBatches(held_out, maker, data.cache_dir) if held_out is not None else None

    if towers is not None and not towers.has_statistics:
        if isinstance(source, CachedFeatureBatches):
            source.measure(IMAGES_MEASURED)
        else:
            first = (batches.batch_at(index) for index in range(-(-IMAGES_MEASURED // data.batch_size)))
            pixels = ((batch["pixel_values"], batch["pixel_mask"]) for batch in first)
            towers.set_statistics(*towers.measure_statistics(pixels))

    def save(folder: Path, final: bool) -> None:
        if final or settings.lora is None:  # a checkpoint of an adapter run is its training state
            dtype = final_dtype if final else export_dtype("float32")
            save_folder(model, folder, processor=processor, dtype=dtype, lora=settings.lora)
            if isinstance(module, WithAuxiliary):
                module.heads.save(folder)

    return Objective(
        module,
        source,
        of_held_out,
        save,
        evaluate=evaluation(recipe.evaluate, recipe.evaluate_options, model, processor),
        trained_only=settings.lora is not None,
        notes=tuple(notes),
        processor=processor,
        grounded=batches,
    )


def _check_family_without_towers(recipe: TrainConfig) -> None:
    """A PixelLM has one tower, and what its language model reads is projected anew in every step."""
    asked = {
        "auxiliary": recipe.auxiliary is not None,
        "data.cache_features": recipe.data.cache_features,
        "data.pack_texts": recipe.data.pack_texts,
        "model.vision_weights": recipe.model.vision_weights is not None,
        f"objective {recipe.objective}": recipe.objective != "language",
    }
    if unfit := [name for name, is_asked in asked.items() if is_asked]:
        raise ConfigError(f"{', '.join(unfit)}: that is for PixelLLMs, but model.init is a PixelLM. Leave it out.")


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
