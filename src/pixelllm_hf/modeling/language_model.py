"""What every language family offers, and what the heads, `forward` and `generate` ask of it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from transformers.cache_utils import Cache

from .configuration_pixelllm import PixelLLMConfig
from .linear import Linear
from .losses import IGNORE_INDEX
from .model_output import LayerOutputs


class GroundedLanguageModel(nn.Module):
    """A language model that reads [visual tokens ; text] of a prompt and writes an answer to it.

    `project_visual` makes visual tokens those that it and the heads read. `prefill` makes of R prompts a memory,
    (R,S,…) and a mask (R,S), whose rows may be repeated, selected and sorted like any others; nothing else looks into
    it. `decode` consumes tokens of answers, all at once or step by step with a cache that holds answers alone, and
    gives the state of every consumed token. `logits` makes of states the scores of the next tokens.

    width: of the states. padding_id: the id that is no word, None where no id is only that. tied_weights: names of
    weights that are others, by the name of the other, as transformers' `_tied_weights_keys`.
    """

    # How wide queries `q` are that attention does not scale, so that they start smaller instead; None where it does.
    unscaled_query_width: int | None = None
    # Whether a text is the same wherever in a row it stands: several may share one, behind a mask of four dimensions.
    texts_can_share_rows = False

    visual_projection: nn.Module

    def __init__(self, config: Any):
        super().__init__()
        self.config = config

    @property
    def width(self) -> int:
        raise NotImplementedError

    @property
    def tied_weights(self) -> dict[str, str]:
        return {}

    @classmethod
    def of(cls, config: PixelLLMConfig) -> GroundedLanguageModel:
        """The language model of a whole model's config, with new weights."""
        family: Any = cls  # every family is made of these two
        return family(config.text_config, config.prompt_config.output_dim)

    @classmethod
    def seen_width(cls, config: PixelLLMConfig) -> int:
        """How wide visual tokens and cells are where the language model and the heads of a whole model read them."""
        return config.text_config.hidden_size

    @property
    def padding_id(self) -> int | None:
        pad, ends = self.config.pad_token_id, self.config.eos_token_id
        return None if pad in (ends if isinstance(ends, list) else [ends]) else pad

    def project_visual(self, visual_tokens: Tensor) -> Tensor:
        """Visual tokens (R,V,visual_width) as `prefill` and the heads take them, (R,V,seen_width)."""
        return self.visual_projection(visual_tokens)

    def get_input_embeddings(self) -> nn.Module:
        raise NotImplementedError

    def set_input_embeddings(self, embeddings: nn.Module) -> None:
        raise NotImplementedError

    def get_output_embeddings(self) -> nn.Module:
        return self.lm_head

    def set_output_embeddings(self, embeddings: nn.Module) -> None:
        self.lm_head = embeddings

    def prefill(
        self,
        visual_tokens: Tensor,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        *,
        cells: Tensor | None = None,
        layers: LayerOutputs | None = None,
    ) -> tuple[Tensor, Tensor]:
        """visual_tokens (R,V,C), input_ids (R,L), attention_mask (R,L), cells (R,N,C) of the image's map -> what
        `decode` reads of the prompt, (R,S,…), and which of it is valid, (R,S) bool.

        Without a mask, text is valid where its id is not the padding id. layers: takes what the layers leave.
        """
        raise NotImplementedError

    def decode(
        self,
        decoder_input_ids: Tensor,
        encoder_states: Tensor,
        encoder_mask: Tensor | None,
        *,
        decoder_mask: Tensor | None = None,
        cache: Cache | None = None,
        use_cache: bool = False,
        layers: LayerOutputs | None = None,
    ) -> tuple[Tensor, Cache | None]:
        """decoder_input_ids (R,T), encoder_states (R,S,…) from `prefill`, encoder_mask (R,S) -> states (R,T,C) and the
        cache. Without an encoder_mask all of the memory is valid.

        State t has consumed token t and predicts token t+1. decoder_mask (R,T) marks the positions that take part; what
        others leave is for the mask head alone. A mask of four dimensions says what answers see of answers. layers: as
        in `prefill`.
        """
        raise NotImplementedError

    def logits(self, states: Tensor) -> Tensor:
        """states (…,C) -> scores of the next token (…,V)."""
        return self.get_output_embeddings()(states)

    @classmethod
    def lora_pattern(cls, targets: Sequence[str]) -> str:
        """The regular expression of the names, within this module, of the projections q, k, v and o of its attention
        that are to be adapted."""
        raise NotImplementedError

    def text_mask(self, input_ids: Tensor, attention_mask: Tensor | None) -> Tensor:
        """Which tokens of a prompt count, (R,L) bool."""
        return (input_ids != self.config.pad_token_id) if attention_mask is None else attention_mask.bool()


def make_visual_projection(visual_width: int, width: int, eps: float = 1e-5) -> nn.Sequential:
    """From visual tokens to a language model `width` wide."""
    return nn.Sequential(Linear(visual_width, width), nn.LayerNorm(width, eps=eps))


def full_encoder_mask(mask: Tensor | None, states: Tensor) -> Tensor:
    """Which positions of a memory (R,S,…) are valid, (R,S) bool; all of them without a mask.

    A mask of the text alone is extended by the visual tokens before it, which are always valid.
    """
    if mask is None:
        return torch.ones(states.shape[:2], dtype=torch.bool, device=states.device)
    missing = states.shape[1] - mask.shape[1]
    if missing == 0:
        return mask.bool()
    if missing < 0:
        raise ValueError(
            f"attention_mask covers {mask.shape[1]} positions but encoder_outputs has only {states.shape[1]}."
        )
    return torch.cat([mask.new_ones(mask.shape[0], missing), mask], dim=1).bool()


def packed_texts(labels: Tensor, segments: Tensor, *, start: int, padding: int) -> tuple[Tensor, Tensor]:
    """Several texts in one decoder row, each blind to the others.

    labels and segments (R,T) -> tokens that the decoder consumes (R,T), and which of them see which (R,1,T,T) bool.

    A text of n labels is consumed as the start token and its first n - 1 labels. The state that has consumed a label is
    the next one of the row, and the last label of a text has none.
    """
    first = torch.ones_like(segments, dtype=torch.bool)
    first[:, 1:] = segments[:, 1:] != segments[:, :-1]
    before = torch.nn.functional.pad(labels[:, :-1], (1, 0), value=start)
    tokens = before.masked_fill(before == IGNORE_INDEX, padding).masked_fill(first, start)
    causal = torch.ones(labels.shape[1], labels.shape[1], dtype=torch.bool, device=labels.device).tril()
    return tokens, ((segments[:, :, None] == segments[:, None, :]) & causal)[:, None]


__all__ = ["GroundedLanguageModel", "full_encoder_mask", "make_visual_projection", "packed_texts"]
