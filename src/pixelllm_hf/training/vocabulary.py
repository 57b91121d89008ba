"""A model with another vocabulary: what it knows of words goes along with their pieces."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from pixelllm_hf.training.recipe_values import ConfigError


@torch.no_grad()
def change_vocabulary(model: PreTrainedModel, old: Any, new: Any) -> int:
    """Move the rows of a model's words to where tokenizer `new` has their pieces; how many were there already.

    A piece that tokenizer `old` lacks starts as the mean of the pieces that it spelt it with, in the embeddings and in
    the output layer. Raises ConfigError where the model's vocabulary is too small for `new`.
    """
    size = model.config.get_text_config().vocab_size
    if len(new) > size:
        raise ConfigError(
            f"the tokenizer has {len(new)} pieces, the model's vocabulary only {size}. Make a smaller tokenizer, or "
            "enlarge the vocabulary first (resize_token_embeddings)."
        )
    known = old.get_vocab()
    kept = 0
    sources: list[list[int]] = []
    for piece, _ in sorted(new.get_vocab().items(), key=lambda item: item[1]):
        kept += piece in known
        text = new.convert_tokens_to_string([piece])
        sources.append([known[piece]] if piece in known else old(text, add_special_tokens=False)["input_ids"])
    for layer in (model.get_input_embeddings(), model.get_output_embeddings()):
        moved = layer.weight.clone()
        for row, ids in enumerate(sources):
            moved[row] = _mean(layer.weight, ids)
        layer.weight.copy_(moved)
    return kept


def _mean(rows: Tensor, ids: list[int]) -> Tensor:
    return rows[ids].mean(0) if ids else rows.mean(0)
