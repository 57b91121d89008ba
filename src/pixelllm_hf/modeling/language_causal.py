"""Any decoder-only language model of transformers: the prompt is a prefix of what it writes."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import AutoModelForCausalLM
from transformers.cache_utils import Cache, DynamicCache, DynamicLayer

from .configuration_pixelllm import PixelLLMConfig
from .language_model import GroundedLanguageModel, full_encoder_mask, make_visual_projection
from .linear import with_linear
from .model_output import LayerOutputs
from .prompt_memory import answers_of, packed_memory, unpacked_memory, with_cells

# What is called so where transformers' models keep queries, keys and values apart, and where they do not.
_PROJECTIONS = {
    "q": ("q_proj", "c_attn", "qkv_proj", "query_key_value", "Wqkv"),
    "k": ("k_proj", "c_attn", "qkv_proj", "query_key_value", "Wqkv"),
    "v": ("v_proj", "c_attn", "qkv_proj", "query_key_value", "Wqkv"),
    "o": ("o_proj", "out_proj", r"attn\.c_proj", r"(?:self_)?(?:attention|attn)\.dense"),
}


class CausalLanguageModel(GroundedLanguageModel):
    """Llama, Qwen, Gemma, GPT-2 and their like as they are, with visual tokens before the words of the prompt.

    What an answer sees of its prompt are the keys and values that each layer made of it, the same at every step:
    `prefill` makes them once, (R,S,layers,2,heads,width), `decode` reads them. While it learns, prompt and answer go
    through the layers in one pass. A token's position is its number among the valid ones before it, whatever padding
    stands between prompt and answer; windows of attention count positions.
    """

    def __init__(self, config: Any, visual_width: int):
        super().__init__(config)
        # A published config names the dtype of its weights; here it is that of the whole model.
        self.body = with_linear(AutoModelForCausalLM.from_config(config, dtype=torch.get_default_dtype()))
        if why := _unlike_others(self.body):
            raise ValueError(
                f"a text_config of model_type {config.model_type!r} cannot be the language model here: {why}. Llama, "
                "Qwen, Gemma and GPT-2 can, and most that are built like them."
            )
        self.visual_projection = make_visual_projection(visual_width, self.width)

    @property
    def width(self) -> int:
        return word_width(self.config)

    @classmethod
    def seen_width(cls, config: PixelLLMConfig) -> int:
        return word_width(config.text_config)

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
        """See `GroundedLanguageModel.prefill`; cells are more visual tokens, after the others.

        While it learns nothing is computed here: what `decode` reads are the embeddings themselves, (R,S,C).
        """
        visual_tokens = with_cells(visual_tokens, cells)
        embeddings = visual_tokens
        mask = torch.ones(visual_tokens.shape[:2], dtype=torch.bool, device=visual_tokens.device)
        if input_ids is not None:
            words = self.get_input_embeddings()(input_ids)
            embeddings = torch.cat([visual_tokens.to(words.dtype), words], dim=1)
            mask = torch.cat([mask, self.text_mask(input_ids, attention_mask)], dim=1)
        if self.training and torch.is_grad_enabled() and layers is None:
            return embeddings, mask
        return self._keys_values(embeddings, mask, layers), mask

    def _keys_values(self, embeddings: Tensor, mask: Tensor, layers: LayerOutputs | None = None) -> Tensor:
        """The keys and values (R,S,layers,2,heads,width) that the layers make of a prompt (R,S,C), mask (R,S) bool."""
        positions, cache = _positions(mask), DynamicCache()
        output = self._run(embeddings, _prefix_mask(mask), positions, positions, cache, layers)
        if layers is not None:
            layers.keep("encoder", output)
        kept = [(layer.keys, layer.values) for layer in cache.layers if isinstance(layer, DynamicLayer)]
        if len(kept) != self.config.num_hidden_layers or len({k.shape for pair in kept for k in pair}) != 1:
            raise ValueError(
                f"the layers of {self.config.model_type!r} do not all keep keys and values of one size, so answers "
                "cannot be written behind its prompt. Choose another text_config; Llama, Qwen, Gemma and GPT-2 can."
            )
        return packed_memory(kept)

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
        readable = full_encoder_mask(encoder_mask, encoder_states)
        words = self.get_input_embeddings()(decoder_input_ids)
        if encoder_states.ndim == 3 and cache is None and not use_cache and layers is None:
            return self._in_one_pass(encoder_states, readable, words, decoder_mask), None
        if encoder_states.ndim == 3:
            encoder_states = self._keys_values(encoder_states, readable)
        cache, of_text, start = answers_of(cache, use_cache)
        memory = unpacked_memory(encoder_states)
        cached = Cache(layers=[_PromptLayer(keys, values, of_text, i) for i, (keys, values) in enumerate(memory)])
        steps = torch.arange(words.shape[1], device=words.device) + start
        fixed = of_text is not None and of_text.is_compileable
        number = of_text.get_max_length() if fixed else start + len(steps)
        seen, positions, of_keys = _behind(readable, _text_mask(decoder_mask, steps, number), steps)
        output = self._run(words, seen, positions, of_keys, cached, layers)
        if layers is not None:
            if layers.hidden_states is not False:
                layers.kept["decoder_hidden_states"] = tuple(output.hidden_states)
            for weights in output.attentions or () if layers.attentions else ():
                cross, own = weights.tensor_split([readable.shape[1]], dim=-1)
                layers.add(cross_attentions=cross, decoder_attentions=own)
        return output.last_hidden_state, cache if use_cache else None

    def _in_one_pass(self, prompt: Tensor, valid: Tensor, words: Tensor, decoder_mask: Tensor | None) -> Tensor:
        """The states (R,T,C) of words behind prompts (R,S,C), of which valid (R,S) counts. Every layer runs once and
        leaves nothing by the side, as checkpointing and sharding want it."""
        steps = torch.arange(words.shape[1], device=words.device)
        seen, positions, of_keys = _behind(valid, _text_mask(decoder_mask, steps, len(steps)), steps)
        before = F.pad(_prefix_mask(valid), (0, len(steps)), value=False)
        whole = torch.cat([prompt.to(words.dtype), words], dim=1)
        positions = torch.cat([_positions(valid), positions], dim=1)
        output = self._run(whole, torch.cat([before, seen], dim=2), positions, of_keys, None, None)
        return output.last_hidden_state[:, prompt.shape[1] :]

    def logits(self, states: Tensor) -> Tensor:
        """states (…,C) -> scores of the next token (…,V)."""
        scores = self.get_output_embeddings()(states)
        scores = scores * (getattr(self.config, "logit_scale", None) or 1.0)  # Cohere's
        scores = scores / (getattr(self.config, "logits_scaling", None) or 1.0)  # Granite's
        cap = getattr(self.config, "final_logit_softcapping", None)
        return scores if cap is None else cap * (scores / cap).tanh()

    @classmethod
    def lora_pattern(cls, targets: Sequence[str]) -> str:
        return rf"body\.{projection_pattern(targets)}"

    def _run(
        self,
        embeddings: Tensor,
        seen: Tensor,
        positions: Tensor,
        of_keys: Tensor,
        cache: Cache | None,
        layers: LayerOutputs | None,
    ) -> Any:
        """The body on embeddings (R,T,C) at positions (R,T), each seeing of the keys at of_keys (R,K) what seen
        (R,1,T,K) says."""
        asked = {}
        if layers is not None:
            asked = {"output_attentions": layers.attentions, "output_hidden_states": layers.hidden_states is not False}
        with nullcontext() if cache is None else _without_checkpointing(self.body):
            return self.body.base_model(
                inputs_embeds=embeddings,
                attention_mask=self._masks(seen, positions, of_keys, embeddings.dtype),
                position_ids=positions,
                cache=cache,
                use_cache=cache is not None,
                **asked,
            )

    def _masks(self, seen: Tensor, positions: Tensor, of_keys: Tensor, dtype: torch.dtype) -> Any:
        """What is added to the scores of attention, (R,1,T,K); where only some layers have a window, by their kind."""
        window, kinds = (getattr(self.config, name, None) for name in ("sliding_window", "layer_types"))
        everything = _additive(seen, dtype)
        if window is None or of_keys.shape[1] <= window or (kinds and "sliding_attention" not in kinds):
            return everything
        near = positions[:, None, :, None] - of_keys[:, None, None, :] < window
        within = _additive(seen & near, dtype)
        return {"full_attention": everything, "sliding_attention": within} if kinds else within


def word_width(config: Any) -> int:
    """How wide the words of a causal model are, where they go in and where they come out."""
    return getattr(config, "word_embed_proj_dim", None) or config.hidden_size  # OPT's may be another than its layers'


def _unlike_others(body: Any) -> str:
    """Why a causal model of transformers cannot be run as the others are, "" if it can."""
    needed = {"inputs_embeds", "attention_mask", "position_ids", "cache"}
    if missing := needed - set(inspect.signature(body.base_model.forward).parameters):
        return f"it takes no {', '.join(sorted(missing))}"
    output = body.get_output_embeddings()
    apart = [part for part in body.children() if part is not body.base_model and part is not output]
    if output not in body.children() or any(True for part in apart for _ in part.parameters()):
        return "more than one layer makes its scores"
    if body.config.model_type in _MASKS_OF_THEIR_OWN:
        return "it does not take what its words see of each other"
    return next((why for setting, why in _OF_FEW if getattr(body.config, setting, None)), "")


_MASKS_OF_THEIR_OWN = ("ctrl",)
_OF_FEW = (
    ("alibi", "it counts distances itself, padding among them"),
    ("hidden_size_per_layer_input", "each of its layers looks words up, which visual tokens are not"),
    ("num_kv_shared_layers", "some of its layers keep no keys and values of their own"),
    ("kv_lora_rank", "its keys and values are not equally wide"),
)


def _positions(valid: Tensor) -> Tensor:
    """The numbers of the valid ones (R,T) bool of each row; padding has that of the last before it."""
    return (valid.cumsum(1) - 1).clamp(min=0)


def _prefix_mask(valid: Tensor) -> Tensor:
    """What the tokens of a prompt see of it: the valid ones (R,S) bool that are not behind them, (R,1,S,S) bool."""
    length = valid.shape[1]
    return valid[:, None, None, :] & torch.ones(length, length, dtype=torch.bool, device=valid.device).tril()


def _text_mask(given: Any, steps: Tensor, number: int | Tensor) -> Tensor:
    """What the tokens of a text at steps (T,) see of `number` tokens of it, (R|1,1,T,K) bool; as given where it is."""
    if isinstance(given, Tensor) and given.ndim == 4:
        return given if given.dtype == torch.bool else given >= 0
    return (torch.arange(number, device=steps.device) <= steps[:, None])[None, None]


def _behind(valid: Tensor, text_mask: Tensor, steps: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Of texts behind prompts, of which valid (R,S) counts: what their tokens see of both (R,1,T,S+K), where they are
    (R,T), and where what they see is (R,S+K). text_mask: see `_text_mask`."""
    prompts = valid[:, None, None].expand(-1, -1, len(steps), -1)
    seen = torch.cat([prompts, text_mask.expand(len(valid), -1, -1, -1)], dim=-1)
    before = valid.sum(1, keepdim=True)
    of_text = before + torch.arange(text_mask.shape[-1], device=valid.device)
    return seen, before + steps, torch.cat([_positions(valid), of_text], dim=1)


def _additive(seen: Tensor, dtype: torch.dtype) -> Tensor:
    return torch.zeros(seen.shape, dtype=dtype, device=seen.device).masked_fill(~seen, torch.finfo(dtype).min)


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
