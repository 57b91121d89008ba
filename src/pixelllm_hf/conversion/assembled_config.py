"""What the model is that published parts make."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from transformers import AutoConfig

from ..modeling.configuration_language import T5_FAMILY
from ..modeling.configuration_pixelllm import PixelLLMConfig
from ..modeling.configuration_towers import PixelLLMEva02TowerConfig, PixelLLMSamTowerConfig
from .published_part import EVA02, SAM, AssemblyError, Part
from .source_sizes import eva02_tower_sizes, mask_decoder_sizes, sam_tower_sizes
from .weight_sources import WeightSource, WeightSourceError

MASK_DECODER = "mask_head.decoder."
# What tells language models of equal shapes apart.
_LANGUAGE_SETTINGS = (
    *("model_type", "d_model", "d_kv", "d_ff", "num_layers", "num_decoder_layers", "num_heads", "vocab_size"),
    *("feed_forward_proj", "relative_attention_num_buckets", "relative_attention_max_distance", "layer_norm_epsilon"),
    # of decoder-only ones, where another config has none of them
    *("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads"),
    *("head_dim", "hidden_act", "rms_norm_eps", "rope_parameters", "tie_word_embeddings"),
)


def language_config(source: WeightSource) -> Any:
    if not (source.folder / "config.json").is_file():
        raise AssemblyError(f"{source.folder} has no config.json, which says what the language model is. Copy it too.")
    try:
        language = AutoConfig.from_pretrained(source.folder)
    except Exception as error:  # what others wrote is met with many types of errors
        told = " ".join(str(error).split())[:400]
        raise AssemblyError(f"{source.folder / 'config.json'} cannot be read: {told}") from error
    if getattr(language, "quantization_config", None):
        raise AssemblyError(
            f"{source.folder} has the quantized weights of a language model. Give those that they were made of."
        )
    return language


def output_factor(language: Any) -> float:
    """What the first T5 multiplies its states by before the output layer; later ones do not."""
    scaled = language is not None and getattr(language, "scale_decoder_outputs", False)
    return language.d_model**-0.5 if scaled else 1.0


def paper_config(
    parts: Mapping[str, Part], language: Any, image_size: int, heads: Sequence[str], backbones: Sequence[Any] = ()
) -> PixelLLMConfig:
    """backbones: configs of further towers, which stand before SAM's."""
    sam = sam_tower_sizes(parts[SAM].shapes("vision_towers.tower."))
    towers: list[Any] = list(backbones)
    if EVA02 in parts:
        eva02 = eva02_tower_sizes(parts[EVA02].shapes("vision_towers.tower."))
        towers.insert(0, {"model_type": PixelLLMEva02TowerConfig.model_type, **eva02})
    decoder = parts[SAM].shapes(MASK_DECODER)
    prompt_shape = parts[SAM].shapes("prompt_encoder.").get("no_mask_embed.weight", (1, 256))
    try:
        return PixelLLMConfig(
            vision_config={
                "image_size": image_size,
                "towers": [*towers, {"model_type": PixelLLMSamTowerConfig.model_type, "frozen": True, **sam}],
            },
            prompt_config={"embed_dim": prompt_shape[-1]},
            text_config=_settings(language),
            mask_head_config=(mask_decoder_sizes(decoder) if decoder else {}) if "mask" in heads else None,
            proposal_head_config={} if "dense" in heads else None,
        )
    except WeightSourceError:
        raise
    except ValueError as error:
        raise AssemblyError(f"the parts make no model: {' '.join(str(error).split())}") from error


def _settings(language: Any) -> dict[str, Any]:
    settings = language.to_dict()
    for name in ("architectures", "dtype", "transformers_version", "task_specific_params", "_name_or_path"):
        settings.pop(name, None)
    if language.model_type in T5_FAMILY:
        # the output layer of a PixelLLM with a T5 is one of its own, and its states are not scaled before it
        settings |= {"tie_word_embeddings": False, "scale_decoder_outputs": False}
    return settings


def with_language(config: PixelLLMConfig, language: Any) -> PixelLLMConfig:
    wanted = config.text_config
    ours = AutoConfig.for_model(**_settings(language))
    differing = [
        f"{name} is {getattr(ours, name, None)!r} and not {getattr(wanted, name, None)!r}"
        for name in _LANGUAGE_SETTINGS
        if getattr(ours, name, None) != getattr(wanted, name, None)
    ]
    if differing:
        raise AssemblyError(f"the language model is not the config's: {'; '.join(differing)}.")
    dropout = {"dropout_rate": wanted.dropout_rate} if hasattr(wanted, "dropout_rate") else {}
    return PixelLLMConfig(**config.to_dict() | {"text_config": _settings(language) | dropout})
