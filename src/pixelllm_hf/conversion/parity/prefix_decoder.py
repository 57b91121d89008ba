"""Parity of the GIT-style text head."""

from __future__ import annotations

from typing import Any

from ...modeling.language_prefix_decoder import PrefixDecoderLanguageModel
from ..scenic import convert_module
from ..scenic_hparams import prefix_decoder_config
from .golden import Computed, Golden
from .heads import decode, encode


def bert_text_head(golden: Golden) -> Computed:
    """With a prompt beside the visual tokens, and without one."""
    visual, tokens = golden.inputs["visual_features"], golden.inputs["text_tokens"]
    model: Any = PrefixDecoderLanguageModel(prefix_decoder_config(golden.hparams), visual.shape[-1]).eval()
    model.load_state_dict(convert_module("textual", golden.params))
    computed = Computed()
    for prefix, context in (("", golden.inputs["context_tokens"]), ("no_context/", None)):
        states, logits = decode(model, tokens, *encode(model, visual, context))
        computed.add({"text_feats": states, "logits": logits}, prefix)
    return computed


__all__ = ["bert_text_head"]
