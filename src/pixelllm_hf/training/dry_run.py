"""What a recipe would do, said without doing it: no weights, no pixels and no step."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from pixelllm_hf.processing.tasks import TASK_SPECS
from pixelllm_hf.training.box_masks_objective import BoxMasks
from pixelllm_hf.training.build_model import PRESETS, model_config, new_model
from pixelllm_hf.training.lora import add_lora
from pixelllm_hf.training.memory_estimate import Sizes, activation_bytes, state_bytes
from pixelllm_hf.training.optimizers import learning_rate_factor
from pixelllm_hf.training.parameter_groups import configured_groups, freeze
from pixelllm_hf.training.recipe_values import ConfigError
from pixelllm_hf.training.sources import SourceConfig, SourceRows, read_source_cached
from pixelllm_hf.training.text_objective import Writer

if TYPE_CHECKING:
    from pixelllm_hf.training.recipe import ModelSettings, TrainConfig

DEVICES = (1, 8, 64)
# What an objective changes in what trains.
_LEARNERS: dict[str, Callable[[Any], Any]] = {
    "language": lambda model: model,
    "reward": lambda model: model,
    "text": Writer,
    "box_masks": BoxMasks,
}
ENGINES = {"ddp": "DDP", "fsdp2": "FSDP2", "zero3": "ZeRO-3"}


def describe(recipe: TrainConfig) -> str:
    """Parameter groups, schedule, batches, epochs and memory of a recipe that learns from `data.sources`, as text.

    What is wrong with the recipe is the `ConfigError` that training would raise; what it starts from and is not here
    yet is told first. Sources whose annotations lie here are read, as training does, to count their images.
    """
    if recipe.objective not in _LEARNERS:
        raise ConfigError(
            f"a dry run tells of recipes of objective {', '.join(_LEARNERS)}, but this one's is {recipe.objective!r}."
        )
    if not recipe.data.sources:
        raise ConfigError(f"objective {recipe.objective} learns from data.sources. Name one at least.")
    model = meta_model(recipe)
    parts = (_parameters(model), _groups(model, recipe), _schedule(recipe), _batches(recipe), _epochs(recipe))
    told = ["\n".join(lines) for lines in (_missing(recipe.model), *parts, _memory(model, recipe))]
    return "\n\n".join(text for text in told if text)


def meta_model(recipe: TrainConfig) -> Any:
    """The recipe's model, frozen and adapted as in training, without memory for its weights."""
    settings = recipe.model
    start = _start(settings)
    with torch.device("meta"):
        model = new_model(start, model_config(start, settings.overrides))
    freeze(model, settings.freeze)
    if settings.lora is not None:
        add_lora(model, settings.lora)
    with torch.device("meta"):
        _LEARNERS[recipe.objective](model)
    return model


def _start(settings: ModelSettings) -> str:
    """What has the sizes of the model that the recipe starts from."""
    here = settings.init in PRESETS or Path(settings.init).is_dir()
    return settings.init if here or settings.sizes is None else settings.sizes


def _missing(settings: ModelSettings) -> Iterator[str]:
    """What training starts from and would stop without."""
    if (sizes := _start(settings)) != settings.init:
        yield f"not here yet: {settings.init}, from which training starts; what follows has the sizes of {sizes}"
    for file in [*([settings.vision_weights] if settings.vision_weights else []), *settings.weights]:
        if not Path(file).is_file():
            yield f"not here yet: {file}, weights that training lays over the model"


def _parameters(model: Any) -> Iterator[str]:
    trained: Counter[str] = Counter()
    frozen: Counter[str] = Counter()
    for name, parameter in model.named_parameters():
        words = name.split(".")
        part = ".".join(words[: 2 if words[0] in ("vision_towers", "mask_head") else 1])
        (trained if parameter.requires_grad else frozen)[part] += parameter.numel()
    yield f"{'part':<28}{'trained':>16}{'frozen':>16}"
    for part in dict.fromkeys([*trained, *frozen]):
        yield f"{part:<28}{trained[part]:>16,}{frozen[part]:>16,}"
    yield f"{'all':<28}{trained.total():>16,}{frozen.total():>16,}"


def _groups(model: Any, recipe: TrainConfig) -> Iterator[str]:
    groups = configured_groups(model, recipe.optimizer)
    yield f"{'optimizer group':<28}{'tensors':>16}{'parameters':>16}   e.g."
    for group in sorted(groups, key=lambda group: (group["base_lr"], group["weight_decay"])):
        name = f"lr {group['base_lr']:.3g} decay {group['weight_decay']:g}"
        yield (
            f"{name:<28}{len(group['names']):>16,}{sum(p.numel() for p in group['params']):>16,}   {group['names'][0]}"
        )


def _schedule(recipe: TrainConfig) -> Iterator[str]:
    run = recipe.run
    yield f"schedule: {run.total_steps:,} steps, {run.warmup_steps:,} of them warm-up, then a cosine to zero"
    marks = {0, run.warmup_steps, *(run.total_steps * quarter // 4 for quarter in (1, 2, 3, 4))}
    for step in sorted(marks):
        factor = learning_rate_factor(step, warmup_steps=run.warmup_steps, total_steps=run.total_steps)
        yield f"  step {step:>9,}: {recipe.optimizer.learning_rate * factor:.3g}"


def _batches(recipe: TrainConfig) -> Iterator[str]:
    run, size = recipe.run, recipe.data.batch_size
    yield f"{'devices':>7}  images a step{'images in all':>18}"
    for devices in _devices():
        images = devices * size * run.gradient_accumulation
        told = f"{images} = {devices} x {size} x {run.gradient_accumulation} accumulated"
        yield f"{devices:>7}  {told}{images * run.total_steps:>18,}"


def _devices() -> list[int]:
    """Those of the table, and as many as this launch has."""
    return sorted({*DEVICES, int(os.environ.get("WORLD_SIZE", "1"))})


def _epochs(recipe: TrainConfig) -> Iterator[str]:
    sources, data, run = recipe.data.sources, recipe.data, recipe.run
    weights = sum(source.weight for source in sources)
    yield f"{'source':<28}{'images':>16}{'share':>10}   epochs on {', '.join(map(str, _devices()))} devices"
    for source in sources:
        share = source.weight / weights
        images, why = _images_of(source, data.cache_dir)
        if images is None:
            yield f"{source.name:<28}{'?':>16}{share:>10.1%}   {why}"
            continue
        drawn = [n * data.batch_size * run.gradient_accumulation * run.total_steps * share for n in _devices()]
        yield f"{source.name:<28}{images:>16,}{share:>10.1%}   {', '.join(f'{n / images:.2f}' for n in drawn)}"


def _images_of(source: SourceConfig, cache_dir: str | None) -> tuple[int | None, str]:
    try:
        rows, _ = read_source_cached(source, cache_dir)
    except ConfigError as error:
        return None, f"cannot be counted: {' '.join(str(error).split())[:160]}"
    return len(SourceRows(source.name, rows, group_by_image=source.group_by_image, limit=source.limit)), ""


def _captions_of(source: SourceConfig, model: Any) -> int:
    """Prompts of an image that reach the language model; of the objects to find only some are captioned."""
    detector, spec = getattr(model.config, "proposal_head_config", None), TASK_SPECS.get(source.task or "")
    if spec is not None and spec.finds_objects and detector is not None:
        return min(source.max_prompts, detector.num_caption_proposals)
    return source.max_prompts


def _memory(model: Any, recipe: TrainConfig) -> Iterator[str]:
    data, half = recipe.data, recipe.run.mixed_precision != "no"
    sizes = Sizes.of(model)
    activations = activation_bytes(
        model,
        images=data.batch_size,
        prompts=max(_captions_of(source, model) for source in data.sources),
        text=data.max_text_tokens,
        context=data.max_context_tokens,
        half=half,
        checkpointing=recipe.run.gradient_checkpointing,
    )
    averaged = recipe.optimizer.ema_decay is not None
    yield (
        f"memory a device in GiB, estimated: states and {activations / 2**30:.1f} of activations "
        f"({data.batch_size} images, longest texts, {'' if recipe.run.gradient_checkpointing else 'no '}checkpointing)"
    )
    yield f"{'devices':>7}" + "".join(f"{name:>10}" for name in ENGINES.values())
    for devices in _devices():
        needs = [state_bytes(sizes, e, devices, half=half, averaged=averaged) + activations for e in ENGINES]
        yield f"{devices:>7}" + "".join(f"{need / 2**30:>10.1f}" for need in needs)
