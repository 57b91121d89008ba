"""Which configs are language models that a PixelLLM can be made of, and that of our own, the prefix decoder."""

import copy
from typing import Any

from huggingface_hub.dataclasses import strict
from transformers import PreTrainedConfig
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES


@strict
class PixelLLMPrefixDecoderConfig(PreTrainedConfig):
    """GIT-style text head (official.md#prefix-decoder): one BERT stack over [visual tokens ; prompt ; text], causal.

    The defaults are the released sizes with the ids of BERT's uncased vocabulary.

    Args:
        max_position_embeddings: longest prompt and longest text, each counted from 0.
        dropout_rate: of embeddings, attention probabilities and sublayer outputs.
        visual_norm_eps, embedding_norm_eps, attention_norm_eps, mlp_norm_eps: the reference mixes them.
        bos_token_id, eos_token_id, pad_token_id: [CLS], [SEP] and [PAD]; the text begins with BOS, which is no padding.
    """

    model_type = "pixelllm_prefix_decoder"
    base_config_key = "text_config"

    vocab_size: int = 30522
    hidden_size: int = 768
    num_hidden_layers: int = 6
    num_attention_heads: int = 12
    intermediate_size: int = 3072
    max_position_embeddings: int = 1024
    dropout_rate: float = 0.1
    visual_norm_eps: float = 1e-5
    embedding_norm_eps: float = 1e-8
    attention_norm_eps: float = 1e-5
    mlp_norm_eps: float = 1e-12
    pad_token_id: int = 0
    bos_token_id: int = 101
    eos_token_id: int | list[int] | None = 102
    decoder_start_token_id: int = 101
    tie_word_embeddings: bool = False
    initializer_range: float = 0.02


PREFIX_DECODER = PixelLLMPrefixDecoderConfig.model_type
T5_FAMILY = ("t5", "mt5", "umt5")
_NEVER_SAY_SO = ("gpt_neox", "gpt_neox_japanese")  # decoders whose configs have an is_decoder, and leave it False
_OF_A_LANGUAGE_MODEL = {"attn_config", "ffn_config"}  # parts that a config of a language model alone may have


def is_language_model(text: PreTrainedConfig) -> bool:
    """Whether a PixelLLM can be made of it: an encoder-decoder of T5's family, our prefix decoder, or what
    transformers' `AutoModelForCausalLM` makes, if it writes and all its layers attend."""
    return text.model_type in (*T5_FAMILY, PREFIX_DECODER) or (
        text.model_type in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
        and (getattr(text, "is_decoder", True) is not False or text.model_type in _NEVER_SAY_SO)
        and set(getattr(text, "layer_types", None) or ()) <= {"full_attention", "sliding_attention"}
    )


def check_language_type(text: Any) -> None:
    """Raise a ValueError that names what is supported where no config, or dict, of this type is a language model."""
    model_type = text.get("model_type") if isinstance(text, dict) else getattr(text, "model_type", None)
    if model_type not in (None, *T5_FAMILY, PREFIX_DECODER, *MODEL_FOR_CAUSAL_LM_MAPPING_NAMES):
        raise ValueError(_unsupported(model_type))


def language_config(text: Any) -> Any:
    """A text_config whose answers have a token to begin with and one to be padded with; as given where it says both.

    Raises a ValueError that names what is supported where no language model can be made of it.
    """
    if not is_language_model(text):
        raise ValueError(_unsupported(text.model_type))
    if (inner := text.get_text_config()) is not text:
        raise ValueError(
            f"model_type {text.model_type!r} is a model of several parts. Give the config of its language model, of "
            f"model_type {inner.model_type!r}, as text_config."
        )
    if parts := set(type(text).sub_configs) - _OF_A_LANGUAGE_MODEL:
        raise ValueError(
            f"model_type {text.model_type!r} has several parts ({', '.join(sorted(parts))}), and none of them "
            "is a language model by itself. Choose another text_config: llama, qwen3, gemma2 and gpt2 are some."
        )
    start, pad = (getattr(text, name, None) for name in ("decoder_start_token_id", "pad_token_id"))
    if start is not None and pad is not None:
        return text
    if text.model_type in T5_FAMILY:
        if pad is None and start is None:
            raise ValueError(
                "text_config says neither decoder_start_token_id nor pad_token_id, and T5 starts with either. Set "
                "both; released T5s have 0."
            )
        start = pad if start is None else start  # as T5 is trained
    else:
        begin, ends = (getattr(text, name, None) for name in ("bos_token_id", "eos_token_id"))
        ends = ends if isinstance(ends, list) else [ends]
        start = start if start is not None else begin if begin is not None else ends[0]
        pad = pad if pad is not None else ends[0] if ends[0] is not None else start
        if start is None:
            raise ValueError("text_config says neither bos_token_id nor eos_token_id, and an answer starts with one.")
    text = copy.deepcopy(text)  # it is the caller's
    text.decoder_start_token_id, text.pad_token_id = start, pad
    return text


def _unsupported(model_type: str) -> str:
    return (
        f"model_type {model_type!r} is no language model that a PixelLLM can be made of. Supported as text_config are: "
        f"{', '.join((*T5_FAMILY, PREFIX_DECODER))}, and decoder-only models of transformers, as llama, qwen3, gemma2 "
        "or gpt2."
    )


__all__ = [
    "PREFIX_DECODER",
    "T5_FAMILY",
    "PixelLLMPrefixDecoderConfig",
    "check_language_type",
    "is_language_model",
    "language_config",
]
