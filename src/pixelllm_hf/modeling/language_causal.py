"""Any decoder-only language model of transformers: the prompt is a prefix of what it writes."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM
from transformers.cache_utils import Cache, DynamicCache, DynamicLayer

from .language_model import GroundedLanguageModel, full_encoder_mask, make_visual_projection
from .model_output import LayerOutputs
from .prompt_memory import answers_of, packed_memory, unpacked_memory, with_cells

# What is called so where transformers' models keep queries, keys and values apart, and where they do not.
_PROJECTIONS = {
    "q": ("q_proj", "c_attn", "qkv_proj", "query_key_value", "Wqkv"),
    "k": ("k_proj", "c_attn", "qkv_proj", "query_key_value", "Wqkv"),
    "v": ("v_proj", "c_attn", "qkv_proj", "query_key_value", "Wqkv"),
    "o": ("o_proj", "out_proj", r"attn\.c_proj", r"attention\.dense"),
}


class CausalLanguageModel(GroundedLanguageModel):
    """Llama, Qwen, Gemma, GPT-2 and their like as they are, with visual tokens before the words of the prompt.

    What an answer sees of its prompt are the keys and values that each layer made of it, the same at every step:
    `prefill` makes them once, (R,S,layers,2,heads*width), `decode` reads them. A token's position is its number among
    the valid ones before it, whatever padding stands between prompt and answer. Layers with an attention window see
    everything all the same: prompts and answers are shorter than windows.
    """

    def __init__(self, config: Any, visual_width: int):
        super().__init__(config)
        self.body = AutoModelForCausalLM.from_config(config)
        missing = {"inputs_embeds", "attention_mask", "position_ids", "cache"} - set(
            inspect.signature(self.body.base_model.forward).parameters
        )
        if missing or getattr(config, "logit_scale", None) or getattr(config, "logits_scaling", None):
            why = f"it takes no {', '.join(sorted(missing))}" if missing else "it scales its scores"
            raise ValueError(
                f"a text_config of model_type {config.model_type!r} cannot be the language model here: {why}. Llama, "
                "Qwen, Gemma and GPT-2 can, and most that are built like them."
            )
        self.visual_projection = make_visual_projection(visual_width, self.width)

    @property
    def width(self) -> int:
        return self.config.hidden_size

    @property
    def tied_weights(self) -> dict[str, str]:
        tied = self.body.get_expanded_tied_weights_keys(all_submodels=True)
        return {f"body.{name}": f"body.{other}" for name, other in tied.items()}

    def get_input_embeddings(self) -> nn.Module:
        return self.body.get_input_embeddings()

    def set_input_embeddings(self, embeddings: nn.Module) -> None:
        self.body.set_input_embeddings(embeddings)

    def get_output_embeddings(self) -> nn.Module:
        return self.body.get_output_embeddings()

    def set_output_embeddings(self, embeddings: nn.Module) -> None:
        self.body.set_output_embeddings(embeddings)

    def prefill(
        self,
        visual_tokens: Tensor,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        *,
        cells: Tensor | None = None,
        layers: LayerOutputs | None = None,
    ) -> tuple[Tensor, Tensor]:
        """See `GroundedLanguageModel.prefill`; cells are more visual tokens, after the others."""
        visual_tokens = with_cells(visual_tokens, cells)
        embeddings = visual_tokens
        mask = torch.ones(visual_tokens.shape[:2], dtype=torch.bool, device=visual_tokens.device)
        if input_ids is not None:
            words = self.get_input_embeddings()(input_ids)
            embeddings = torch.cat([visual_tokens.to(words.dtype), words], dim=1)
            mask = torch.cat([mask, self.text_mask(input_ids, attention_mask)], dim=1)
        length = embeddings.shape[1]
        seen = mask[:, None, None, :] & torch.ones(length, length, dtype=torch.bool, device=mask.device).tril()
        positions = (mask.cumsum(1) - 1).clamp(min=0)
        cache = DynamicCache()
        output = self._run(embeddings, seen, positions, cache, layers)
        if layers is not None:
            layers.keep("encoder", output)
        kept = [(layer.keys, layer.values) for layer in cache.layers if isinstance(layer, DynamicLayer)]
        if len(kept) != self.config.num_hidden_layers or len({k.shape for pair in kept for k in pair}) != 1:
            raise ValueError(
                f"the layers of {self.config.model_type!r} do not all keep keys and values of one size, so answers "
                "cannot be written behind its prompt. Choose another text_config; Llama, Qwen, Gemma and GPT-2 can."
            )
        return packed_memory(kept), mask

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
        """See `GroundedLanguageModel.decode`. A decoder_mask (R,T) changes nothing: text is padded on the right, where
        no word sees it; nor do the masks, one for each kind of layer, that transformers makes for a static cache."""
        cache, of_text, start = answers_of(cache, use_cache)
        readable = full_encoder_mask(encoder_mask, encoder_states)
        memory = unpacked_memory(encoder_states, self._num_heads)
        cached = Cache(layers=[_PromptLayer(keys, values, of_text, i) for i, (keys, values) in enumerate(memory)])
        steps = torch.arange(decoder_input_ids.shape[1], device=decoder_input_ids.device) + start
        if isinstance(decoder_mask, Tensor) and decoder_mask.ndim == 4:
            text_mask = decoder_mask if decoder_mask.dtype == torch.bool else decoder_mask >= 0
        else:
            fixed = of_text is not None and of_text.is_compileable
            number = of_text.get_max_length() if fixed else start + len(steps)
            text_mask = (torch.arange(number, device=steps.device) <= steps[:, None])[None, None]
        seen = torch.cat(
            [
                readable[:, None, None].expand(-1, -1, len(steps), -1),
                text_mask.expand(len(readable), -1, -1, -1),
            ],
            dim=-1,
        )
        positions = readable.sum(1, keepdim=True) + steps
        output = self._run(self.get_input_embeddings()(decoder_input_ids), seen, positions, cached, layers)
        if layers is not None:
            if layers.hidden_states is not False:
                layers.kept["decoder_hidden_states"] = tuple(output.hidden_states)
            for weights in output.attentions or () if layers.attentions else ():
                cross, own = weights.tensor_split([readable.shape[1]], dim=-1)
                layers.add(cross_attentions=cross, decoder_attentions=own)
        return output.last_hidden_state, cache if use_cache else None

    def logits(self, states: Tensor) -> Tensor:
        """states (…,C) -> scores of the next token (…,V)."""
        scores = self.get_output_embeddings()(states)
        cap = getattr(self.config, "final_logit_softcapping", None)
        return scores if cap is None else cap * (scores / cap).tanh()

    @classmethod
    def lora_pattern(cls, targets: Sequence[str]) -> str:
        return rf"body\.{projection_pattern(targets)}"

    @property
    def _num_heads(self) -> int:
        return getattr(self.config, "num_key_value_heads", None) or self.config.num_attention_heads

    def _run(
        self, embeddings: Tensor, seen: Tensor, positions: Tensor, cache: Cache, layers: LayerOutputs | None
    ) -> Any:
        """The body on embeddings (R,T,C) at positions (R,T), each seeing what seen (R,1,T,K) says."""
        additive = torch.zeros(seen.shape, dtype=embeddings.dtype, device=seen.device)
        additive = additive.masked_fill(~seen, torch.finfo(embeddings.dtype).min)
        asked = {}
        if layers is not None:
            asked = {"output_attentions": layers.attentions, "output_hidden_states": layers.hidden_states is not False}
        with _without_checkpointing(self.body):
            return self.body.base_model(
                inputs_embeds=embeddings,
                attention_mask=additive,
                position_ids=positions,
                cache=cache,
                use_cache=True,
                **asked,
            )


def projection_pattern(targets: Sequence[str]) -> str:
    """The regular expression of the names, within a causal model of transformers, of the projections q, k, v and o of
    its attention."""
    names = sorted({name for target in targets for name in _PROJECTIONS[target]})
    return rf".*\.({'|'.join(names)})"


class _PromptLayer(DynamicLayer):
    """A layer's keys and values (R,heads,S,head_dim) of a prompt, before those of a text that a cache may hold."""

    def __init__(self, keys: Tensor, values: Tensor, of_text: Cache | None, index: int):
        super().__init__()
        self.keys, self.values, self.is_initialized = keys, values, True
        self.of_text, self.index = of_text, index

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        if self.of_text is not None:
            key_states, value_states = self.of_text.update(key_states, value_states, self.index, *args, **kwargs)
        # Under autocast what was kept may have another dtype than what is made now.
        keys, values = self.keys.to(key_states.dtype), self.values.to(value_states.dtype)
        return torch.cat([keys, key_states], dim=2), torch.cat([values, value_states], dim=2)

    def get_seq_length(self) -> int:
        consumed = 0 if self.of_text is None else self.of_text.get_seq_length(self.index)
        return self.keys.shape[2] + consumed


@contextmanager
def _without_checkpointing(body: nn.Module) -> Iterator[None]:
    """transformers' layers drop their cache where they are checkpointed, and here that is where the prompt is."""
    checkpointed = [module for module in body.modules() if getattr(module, "gradient_checkpointing", False)]
    for module in checkpointed:
        module.gradient_checkpointing = False
    try:
        yield
    finally:
        for module in checkpointed:
            module.gradient_checkpointing = True


__all__ = ["CausalLanguageModel", "projection_pattern"]
