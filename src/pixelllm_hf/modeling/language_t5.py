"""Transformers' own T5 as a prefix language model (official.md#t5)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import T5Config, T5Model, UMT5Model
from transformers.cache_utils import Cache, EncoderDecoderCache

from .codebook_targets import TargetTokens
from .configuration_pixelllm import PixelLLMConfig
from .language_model import GroundedLanguageModel, full_encoder_mask, make_visual_projection
from .linear import Linear, with_linear
from .model_output import LayerOutputs
from .t5_steps import T5Steps

# What the reference adds to the scores of masked positions. It swallows the relative-position bias, so a query
# that may see nothing attends to everything uniformly instead of becoming NaN.
MASKED_SCORE = -1e10


class T5PrefixLanguageModel(GroundedLanguageModel):
    """T5 whose encoder reads [visual tokens ; embedded text] and whose decoder writes the caption."""

    # Its positions are distances: a text is the same wherever in a row it stands.
    texts_can_share_rows = True

    def __init__(
        self,
        config: T5Config,
        visual_width: int,
        *,
        masked_states_count: bool = False,
        target_token_ids: Sequence[int] | None = None,
    ):
        """masked_states_count: something reads the states of masked positions, and may be trained through them.
        target_token_ids: the codebook's tokens, which have weights of their own; None for none."""
        super().__init__(config)
        self.body = with_linear((UMT5Model if config.model_type == "umt5" else T5Model)(config))
        # Untied, and no d**-0.5 rescale of the states before it (official.md#t5).
        self.lm_head = Linear(config.d_model, config.vocab_size, bias=False)
        self.target_tokens = None if target_token_ids is None else TargetTokens(target_token_ids, config.d_model)
        self.unscaled_query_width = config.d_kv
        self.visual_projection = make_visual_projection(visual_width, config.d_model)
        self.masked_states_count = masked_states_count
        self._evaluation_attention: str | None = None
        self.train(self.training)

    @classmethod
    def of(cls, config: PixelLLMConfig) -> T5PrefixLanguageModel:
        return cls(
            config.text_config,
            config.prompt_config.output_dim,
            masked_states_count=config.mask_head_config is not None,
            target_token_ids=config.target_token_ids or None,
        )

    @property
    def tied_weights(self) -> dict[str, str]:
        # Whatever `tie_word_embeddings` says, which is about an output layer that is never tied here.
        return {f"body.{side}.embed_tokens.weight": "body.shared.weight" for side in ("encoder", "decoder")}

    @property
    def width(self) -> int:
        return self.config.d_model

    def train(self, mode: bool = True) -> T5PrefixLanguageModel:
        """Where masked states count, training takes plain attention whatever evaluation takes.

        Fused kernels keep the log of a row's summed scores for the way back, which next to `MASKED_SCORE` forgets how
        many scores there were: the gradient of a query that sees nothing would be off by that number.
        """
        super().train(mode)
        if self.masked_states_count and mode and self._evaluation_attention is None:
            self._evaluation_attention = self.body.config._attn_implementation
            self.body.set_attn_implementation("eager")
        elif not mode and self._evaluation_attention is not None:
            self.body.set_attn_implementation(self._evaluation_attention)
            self._evaluation_attention = None
        return self

    def get_input_embeddings(self) -> nn.Module:
        return self.body.get_input_embeddings()

    def set_input_embeddings(self, embeddings: nn.Module) -> None:
        self.body.set_input_embeddings(embeddings)

    def embed_prompt(
        self, visual_tokens: Tensor, input_ids: Tensor | None = None, attention_mask: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """visual_tokens (R,V,C), input_ids (R,L), attention_mask (R,L) -> embeddings (R,V+L,C), mask (R,V+L) bool.

        Visual tokens are used as they are, without scaling (official.md#t5). Without a mask, text is valid where
        its id is not the padding id.
        """
        visual_mask = torch.ones(visual_tokens.shape[:2], dtype=torch.bool, device=visual_tokens.device)
        if input_ids is None:
            return visual_tokens, visual_mask
        words = self._embed(input_ids)
        embeddings = torch.cat([visual_tokens, words.to(visual_tokens.dtype)], dim=1)
        return embeddings, torch.cat([visual_mask, self.text_mask(input_ids, attention_mask)], dim=1)

    def encode(self, embeddings: Tensor, mask: Tensor, *, layers: LayerOutputs | None = None) -> Tensor:
        """embeddings (R,S,C), mask (R,S) bool -> states (R,S,C). Relative positions run over the whole prefix.

        layers: takes what the layers leave.
        """
        pair_mask = None
        if not mask.all():
            pair_mask = _score_mask(mask[:, None, :, None] & mask[:, None, None, :], embeddings.dtype)
        output = self.body.encoder(inputs_embeds=embeddings, attention_mask=pair_mask, **_recorded(layers))
        if layers is not None:
            layers.keep("encoder", output)
        return output.last_hidden_state

    def prefill(
        self,
        visual_tokens: Tensor,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        *,
        cells: Tensor | None = None,
        layers: LayerOutputs | None = None,
    ) -> tuple[Tensor, Tensor]:
        """See `GroundedLanguageModel.prefill`; cells go past the encoder.

        They stand before its states: cross-attention has no positions, and a mask of the text alone is extended to the
        left.
        """
        embeddings, mask = self.embed_prompt(visual_tokens, input_ids, attention_mask)
        states = self.encode(embeddings, mask, layers=layers)
        if cells is None:
            return states, mask
        return torch.cat([cells.to(states.dtype), states], dim=1), F.pad(mask, (cells.shape[1], 0), value=True)

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
        """See `GroundedLanguageModel.decode`.

        Without an encoder_mask T5 has no mask to make of it at every step. What a decoder_mask (R,T) leaves out gets
        uniform attention over everything, as in the reference (official.md#t5).
        A mask of four dimensions is used as it is: (R,1,T,T) bool, which positions see which, or the scores that are
        added.
        """
        words = self._embed(decoder_input_ids)
        if decoder_input_ids.shape[1] == 1 and decoder_mask is None and layers is None and use_cache:
            modules = self.training or _needs_modules(words.device)
            steps = None if modules else T5Steps.of(self.body.decoder, cache)
            if steps is not None and (encoder_mask is None or encoder_mask.shape[1] == encoder_states.shape[1]):
                return steps(words, encoder_mask, cast("EncoderDecoderCache", cache)), cache
        self_mask, cross_mask = decoder_mask, encoder_mask
        if decoder_mask is not None and decoder_mask.ndim == 2:
            valid = decoder_mask.bool()
            causal = torch.ones(valid.shape[1], valid.shape[1], dtype=torch.bool, device=valid.device).tril()
            dtype = encoder_states.dtype
            self_mask = _score_mask(causal & valid[:, None, :, None] & valid[:, None, None, :], dtype)
            readable = full_encoder_mask(encoder_mask, encoder_states)
            cross_mask = _score_mask(valid[:, None, :, None] & readable[:, None, None, :], dtype)
        elif decoder_mask is not None and decoder_mask.dtype == torch.bool:
            self_mask = _score_mask(decoder_mask, encoder_states.dtype)
        output = self.body.decoder(
            inputs_embeds=words,
            attention_mask=self_mask,
            encoder_hidden_states=encoder_states,
            encoder_attention_mask=cross_mask,
            use_cache=use_cache,
            cache=cache,
            **_recorded(layers),
        )
        if layers is not None:
            layers.keep("decoder", output)
        return output.last_hidden_state, output.cache

    def logits(self, states: Tensor) -> Tensor:
        """states (…,C) -> scores of the next token (…,V)."""
        scores = self.lm_head(states)
        return scores if self.target_tokens is None else self.target_tokens.logits(states, scores)

    @classmethod
    def lora_pattern(cls, targets: Sequence[str]) -> str:
        return rf"body\..*\.(SelfAttention|EncDecAttention)\.({'|'.join(targets)})"

    def _embed(self, input_ids: Tensor) -> Tensor:
        words = self.get_input_embeddings()(input_ids)
        return words if self.target_tokens is None else self.target_tokens.embed(input_ids, words)


def _needs_modules(device: torch.device) -> bool:
    """Whether somebody besides asks what the modules compute: gradients, a compiler, mixed precision."""
    return torch.is_grad_enabled() or torch.compiler.is_compiling() or torch.is_autocast_enabled(device.type)


def _recorded(layers: LayerOutputs | None) -> dict[str, Any]:
    """What T5's stacks are to return besides."""
    if layers is None:
        return {}
    return {"output_attentions": layers.attentions, "output_hidden_states": layers.hidden_states}


def _score_mask(keep: Tensor, dtype: torch.dtype) -> Tensor:
    """keep (…) bool -> additive scores: 0 where kept, a huge negative number elsewhere."""
    masked = max(MASKED_SCORE, torch.finfo(dtype).min)
    return torch.zeros(keep.shape, dtype=dtype, device=keep.device).masked_fill(~keep, masked)
