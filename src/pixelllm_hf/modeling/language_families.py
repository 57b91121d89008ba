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


def language_family(config: PixelLLMConfig) -> type[GroundedLanguageModel]:
    """The class that a config's text_config, which has been checked, is made with: one of ours or the decoder-only."""
    return FAMILIES.get(config.text_config.model_type, CausalLanguageModel)


__all__ = ["FAMILIES", "language_family"]
