"""Where a training starts: a preset or a checkpoint, with pre-trained parts laid over it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import load_file

from pixelllm_hf.families import FAMILIES, Family, UnknownFamilyError, family_of_folder
from pixelllm_hf.modeling.configuration_pixelllm import PixelLLMConfig
from pixelllm_hf.modeling.configuration_pixellm import PixelLMConfig
from pixelllm_hf.modeling.former_names import current_names
from pixelllm_hf.modeling.model_folder import check_generation
from pixelllm_hf.modeling.modeling_pixelllm import PixelLLMForGroundedGeneration
from pixelllm_hf.modeling.task_generation import OWN_OPTIONS
from pixelllm_hf.training.config import ConfigError

if TYPE_CHECKING:
    from pixelllm_hf.training.recipe import ModelSettings

PRESETS = ("tiny", "photo", "for_tests", "t5_xl", "bert", PixelLMConfig.model_type)


def model_config(name: str, overrides: dict[str, Any] | None = None) -> Any:
    """The config of a preset or of a checkpoint folder; `overrides` merge into it, nested parts too."""
    if name in PRESETS:
        family = family_of_start(name).config_class
        values = (family() if name == family.model_type else getattr(family, name)()).to_dict()
    elif Path(name).is_dir():
        values = family_of_start(name).config_class.from_pretrained(name).to_dict()
    else:
        raise ConfigError(f"model must be one of {', '.join(PRESETS)} or a checkpoint folder, but is {name!r}.")
    merged = _merged(values, overrides or {}, "model.overrides")
    try:
        return family_of_start(name).config_class(**merged)
    except Exception as error:  # of a type that only the library of strict dataclasses has
        raise ConfigError(f"model.overrides make no model: {' '.join(str(error).split())}") from error


def family_of_start(init: str) -> Family:
    """Whose model a preset or a checkpoint folder is; presets are PixelLLMs, but for that called as its family. A
    `ConfigError` for none of ours."""
    if init in PRESETS and init in FAMILIES:
        return FAMILIES[init]
    try:
        has_config = init not in PRESETS and (Path(init) / "config.json").is_file()
        return family_of_folder(init) if has_config else FAMILIES[PixelLLMConfig.model_type]
    except UnknownFamilyError as error:
        raise ConfigError(str(error)) from error


def new_model(init: str, config: Any) -> Any:
    """A model of the family of `init` with random weights; a `ConfigError` where its parts do not go together."""
    try:
        return family_of_start(init).model_class(config)
    except ValueError as error:
        raise ConfigError(f"model.init and model.overrides make no model: {' '.join(str(error).split())}") from error


def build_model(
    init: str,
    *,
    overrides: dict[str, Any] | None = None,
    vision_weights: str | None = None,
    weights: list[str] | None = None,
) -> PixelLLMForGroundedGeneration:
    """The model a run starts from, in float32.

    init: preset (random weights) or checkpoint folder. vision_weights: a file of a recipe of objective `towers`.
    weights: further safetensors files with names of the whole model, e.g. converted backbones; laid over in order.
    """
    config = model_config(init, overrides)
    if init in PRESETS:
        model = new_model(init, config)
    else:
        model = family_of_start(init).model_class.from_pretrained(init, config=config, dtype=torch.float32)
    for file in [*([vision_weights] if vision_weights else []), *(weights or [])]:
        _load_partial_weights(model, file, whole="vision_towers." if file == vision_weights else None)
    return model


def build_model_and_processor(settings: ModelSettings) -> tuple[PixelLLMForGroundedGeneration, Any]:
    """The model that a recipe starts from and its processor, whose words fit."""
    model = build_model(
        settings.init,
        overrides=settings.overrides,
        vision_weights=settings.vision_weights,
        weights=settings.weights,
    )
    check_generation(settings.generation, "model.generation.")
    others = model.generation_config.update(**settings.generation)  # those that transformers does not know
    if unknown := sorted(others.keys() - OWN_OPTIONS.keys()):
        raise ConfigError(f"model.generation has entries that no generation config knows: {unknown}.")
    for name, value in others.items():
        setattr(model.generation_config, name, value)
    processor = load_processor(
        settings.processor or settings.init,
        image_size=model.config.image_size,
        family=family_of_start(settings.init),
    )
    if len(processor.tokenizer) > model.config.get_text_config().vocab_size:
        raise ConfigError(
            f"The tokenizer has {len(processor.tokenizer)} pieces, the model's vocabulary only "
            f"{model.config.get_text_config().vocab_size}. Make a smaller tokenizer, or set "
            "model.overrides.text_config.vocab_size."
        )
    return model, processor


def _load_partial_weights(model: PixelLLMForGroundedGeneration, file: str, *, whole: str | None) -> None:
    try:
        tensors = current_names(load_file(file))
    except Exception as error:
        raise ConfigError(
            f"The weights file {file!r} cannot be read ({error}); run the training that makes it, or correct the path."
        ) from error
    own = model.state_dict()
    for name, tensor in tensors.items():
        if name not in own or own[name].shape != tensor.shape:
            expected = tuple(own[name].shape) if name in own else "no such tensor"
            raise ConfigError(
                f"{file!r} does not fit the model: {name!r} has shape {tuple(tensor.shape)}, the model {expected}. "
                "Use weights that were made with the same preset."
            )
    if whole and (missing := [name for name in own if name.startswith(whole) and name not in tensors]):
        raise ConfigError(f"{file!r} lacks {len(missing)} tensors of {whole[:-1]}, e.g. {missing[0]!r}; make it again.")
    model.load_state_dict(tensors, strict=False)


def _merged(values: dict[str, Any], overrides: dict[str, Any], where: str) -> dict[str, Any]:
    merged = dict(values)
    for key, value in overrides.items():
        if key not in values:
            raise ConfigError(f"{where} has no setting {key!r}; it has {', '.join(sorted(map(str, values)))}.")
        old = values[key]
        if isinstance(value, dict) and isinstance(old, dict):
            value = _merged(old, value, f"{where}.{key}")
        elif isinstance(value, dict) and key == "towers":  # a list whose entries have names
            parts = _merged({part["name"]: part for part in old}, value, f"{where}.{key}")
            value = list(parts.values())
        merged[key] = value
    return merged


def load_processor(folder: str, *, image_size: int, family: Family = FAMILIES[PixelLLMConfig.model_type]) -> Any:
    """The processor of a family in a folder, or a new one for this canvas around the folder's tokenizer."""
    from transformers import AutoTokenizer

    if folder in PRESETS:
        raise ConfigError(
            f"The preset {folder!r} has no tokenizer. Set model.processor to a folder with one, "
            "for instance made by scripts/train_tokenizer.py."
        )
    if not Path(folder).is_dir():
        raise ConfigError(f"model.processor must be a folder with a tokenizer or a processor, but {folder!r} is none.")
    if (Path(folder) / "processor_config.json").is_file():
        processor = family.processor_class.from_pretrained(folder)
        if processor.image_processor.canvas != image_size:
            raise ConfigError(
                f"The processor in {folder!r} is for a canvas of {processor.image_processor.canvas} pixels, the model "
                f"for {image_size}. Give a processor of that size, or a folder with the tokenizer alone."
            )
        return processor
    size = {"height": image_size, "width": image_size}
    images = family.image_processor_class(size=size, rounding=family.rounding)
    return family.processor_class(images, AutoTokenizer.from_pretrained(folder))
