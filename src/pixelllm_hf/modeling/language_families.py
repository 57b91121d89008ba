"""Which class is the language model of a text_config."""

from __future__ import annotations

from .configuration_pixelllm import PREFIX_DECODER, T5_FAMILY, PixelLLMConfig
from .language_causal import CausalLanguageModel
from .language_model import GroundedLanguageModel
from .language_prefix_decoder import PrefixDecoderLanguageModel
from .language_t5 import T5PrefixLanguageModel

FAMILIES: dict[str, type[GroundedLanguageModel]] = {
    **dict.fromkeys(T5_FAMILY, T5PrefixLanguageModel),
    PREFIX_DECODER: PrefixDecoderLanguageModel,
}


def make_language_model(config: PixelLLMConfig) -> GroundedLanguageModel:
    """The language model of a config, whose model_type has been checked: one of ours or a decoder-only one."""
    return FAMILIES.get(config.text_config.model_type, CausalLanguageModel).of(config)


__all__ = ["FAMILIES", "make_language_model"]
