"""Which of transformers' decoding modes keep one state per token, whose lengths count, and what ends an answer."""

from __future__ import annotations

import operator
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from transformers import GenerationConfig
from transformers.cache_utils import Cache
from transformers.generation.configuration_utils import GenerationMode

_KEPT_MODES = (
    GenerationMode.GREEDY_SEARCH,
    GenerationMode.SAMPLE,
    GenerationMode.BEAM_SEARCH,
    GenerationMode.BEAM_SAMPLE,
)
# Entries of the generation config that ask for a mode of which no loop of this model keeps the states.
_SETTINGS_OF_MODES = {
    GenerationMode.CONTRASTIVE_SEARCH: "penalty_alpha",
    GenerationMode.DOLA_GENERATION: "dola_layers",
    GenerationMode.GROUP_BEAM_SEARCH: "num_beam_groups",
    GenerationMode.CONSTRAINED_BEAM_SEARCH: "constraints or force_words_ids",
}
_ASSISTED = ("use_mtp", "prompt_lookup_num_tokens", "assistant_early_exit", "token_healing")
PER_STEP_OUTPUTS = ("output_scores", "output_logits", "output_attentions", "output_hidden_states")
# On a cache that a beam search has filled: it belongs to the beams, and not to the sequences that were chosen.
OF_BEAMS = "of_beam_search"
_LEAST = {
    "num_beams": 1,
    "num_return_sequences": 1,
    "prompt_chunk_size": 1,
    "max_repeated_tokens": 0,
    "max_repeated_targets": 0,
}
# A caller's `max_length` counts BOS and a given beginning, `max_new_tokens` does not; transformers prefers the latter.
_EITHER_LENGTH = (("max_length", "max_new_tokens"), ("min_length", "min_new_tokens"))


def refuse_unkept_modes(config: GenerationConfig, options: Mapping[str, Any]) -> None:
    """Raise a ValueError that names what asks for decoding without one state per token.

    config: resolved; options: the other keywords of `generate`.
    """
    asked = [name for name in ("assistant_model", "custom_generate") if options.get(name) is not None]
    asked += [name for name in _ASSISTED if getattr(config, name, None)]
    mode = config.get_generation_mode() if not asked else None
    if mode is not None and mode not in _KEPT_MODES:
        asked.append(_SETTINGS_OF_MODES.get(mode, str(mode)))
    if config.cache_implementation == "paged":
        asked.append("cache_implementation='paged'")
    if asked:
        raise ValueError(
            f"{', '.join(asked)} cannot be used here: a word's location is read from the state that has consumed it, "
            "and this way of decoding does not keep one state per token. Leave it out; greedy decoding, sampling and "
            "beam search keep them, and query_ids reads the locations of a text that was written in any other way."
        )
    if config.guidance_scale not in (None, 1, 1.0):
        raise ValueError(
            "guidance_scale runs decoder-only models a second time, and this model reads its prompt in an encoder. "
            "Leave it out."
        )
    if config.prefill_chunk_size is not None:
        raise ValueError("prefill_chunk_size is for long prompts of decoder-only models. Leave it out.")


def check_counts(config: GenerationConfig, own: Mapping[str, Any]) -> None:
    """Raise a ValueError for numbers of beams, answers and the like that no search can have.

    config: resolved; own: the options that are not transformers'.
    """
    for name, least in _LEAST.items():
        value = own.get(name, getattr(config, name, None))
        if value is None:
            continue
        try:
            count = operator.index(value)
        except TypeError:
            count = least - 1
        if count < least:
            raise ValueError(f"{name} must be a whole number of at least {least}, but it is {value!r}.")


def prefer_callers_length(
    resolved: GenerationConfig, given: GenerationConfig | None, kwargs: Mapping[str, Any], own: GenerationConfig
) -> GenerationConfig:
    """`resolved`, in which a length that the caller gives is not overruled by the other kind in the model's own config.

    given: the caller's config, in which what equals the model's `own` was not chosen by the caller; kwargs: the
    caller's keywords, which come before it.
    """
    for length, new_tokens in _EITHER_LENGTH:
        rank = {name: _rank(name, given, kwargs, own) for name in (length, new_tokens)}
        if rank[length] > rank[new_tokens]:
            setattr(resolved, new_tokens, None)
    return resolved


def _rank(name: str, given: GenerationConfig | None, kwargs: Mapping[str, Any], own: GenerationConfig) -> int:
    """How close to the caller a setting comes from: 2 a keyword, 1 the given config, 0 the model's own config."""
    if kwargs.get(name) is not None:
        return 2
    return int(given is not None and getattr(given, name) not in (None, getattr(own, name)))


def check_beginning(beginning: Tensor | None, mask: Tensor | None, start: int, cache: Cache | None, rows: int) -> None:
    """Raise unless decoder_input_ids (R,T), or none, can be gone on from.

    mask: a decoder_attention_mask (R,T); start: the id of BOS; cache: what has consumed a part of them, of `rows` rows.
    """
    if mask is not None and not bool((mask > 0).all()):
        raise ValueError(
            "decoder_attention_mask leaves positions out, but every answer of a call must begin with as many tokens. "
            "Leave the mask out, and give beginnings of several lengths in a call each."
        )
    if beginning is not None:
        if not beginning.shape[1]:
            raise ValueError("decoder_input_ids are empty. Leave them out, or give each answer a token to begin with.")
        begins = beginning[:, 0] == start
        if bool(begins.any()) and not bool(begins.all()):
            raise ValueError(
                f"decoder_input_ids must begin with BOS (id {start}) in every row or in none, but rows "
                f"{(~begins).nonzero().flatten().tolist()} do not. Put it before all of them."
            )
    if getattr(cache, OF_BEAMS, False):
        raise ValueError(
            "the cache is that of a beam search: it has read the beams, not the sequences that came out of them. Leave "
            "it out, or write the beginning with num_beams=1."
        )
    if cache is None or not (consumed := int(cache.get_seq_length())):
        return
    given = 0 if beginning is None else beginning.shape[1] + int(not bool((beginning[:, 0] == start).all()))
    if given <= consumed:
        raise ValueError(
            f"the cache has consumed {consumed} tokens, so decoder_input_ids must be all of these and at least one "
            f"more, but they are {given}. Pass the sequences that came with the cache."
        )
    kept = getattr(cache, "self_attention_cache", cache).layers[0].keys.shape[0]
    if kept != rows:
        raise ValueError(
            f"the cache is that of {kept} sequences, but {rows} are to be written. Decode with as many beams and "
            "returned sequences as before."
        )


def end_ids(config: GenerationConfig) -> list[int]:
    """The ids that end what is written; none if nothing does."""
    return [] if config.eos_token_id is None else torch.as_tensor(config.eos_token_id).flatten().tolist()


def pad_id(config: GenerationConfig, model_config: Any) -> int | None:
    """The id behind the end of the shorter rows."""
    if config.pad_token_id is not None:
        return config.pad_token_id
    return next(iter(end_ids(config)), model_config.text_config.pad_token_id)


__all__ = [
    "OF_BEAMS",
    "PER_STEP_OUTPUTS",
    "check_beginning",
    "check_counts",
    "end_ids",
    "pad_id",
    "prefer_callers_length",
    "refuse_unkept_modes",
]
