"""The state of every token that a model writes or is given, at no extra pass.

A decoder state belongs to the token it has consumed, and predicts the next one. The recorder keeps these states while
any of transformers' decoding loops runs and sorts them afterwards along the beams.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import torch
from torch import Tensor
from transformers import GenerationConfig
from transformers.cache_utils import Cache
from transformers.generation import GenerationMixin
from transformers.utils import ModelOutput

from .decoding_modes import prefer_callers_length

_SCORES_AT_ONCE = 2**17


class StateRecorder:
    """Collects, pass by pass, the decoder state that has consumed each token and that token's log-probability.

    Entries stand at the token's position in the sequence, whether a pass consumed one token, the caller's beginning of
    an answer, or the whole row again without a cache. Log-probabilities of several steps are computed at once, as long
    as their scores stay in the caches of a processor: with a small vocabulary that saves most of their time, beyond the
    caches it would multiply it.

    on_states: is told the states (rows,C) that each written token's location is read from, of which the token was
    consumed or, where `predicting`, predicted; those of given tokens it does not see.
    """

    def __init__(self, on_states: Callable[[Tensor], None] | None = None, *, predicting: bool = False):
        self.on_states, self.predicting = on_states, predicting
        self.num_consumed = 0  # positions that have an entry
        self._num_given = 1  # tokens that stood there before the first was written; BOS is one
        self._states: list[Tensor] = []  # chunks (rows, positions, C)
        self._log_probs: list[Tensor] = []  # chunks (rows, positions)
        self._unscored: list[tuple[Tensor, Tensor]] = []  # per step scores (rows, 1, V) of its tokens (rows, 1)
        self._tokens: Tensor | None = None  # being consumed, (rows, T)
        self._start = 0  # position of the first of them
        self._logits: Tensor | None = None  # of the last step, (rows, 1, V)
        self._parents: Tensor | None = None  # the beams that the last step's rows were re-ordered from

    def before_step(self, tokens: Tensor, start: int) -> None:
        """tokens (rows,T) are about to be consumed, the first of them at position `start`."""
        self._tokens, self._start = tokens, start

    def after_step(self, states: Tensor, logits: Tensor) -> None:
        """states (rows,T,C) and logits (rows,T,V) of the step."""
        assert self._tokens is not None
        if self._logits is None:
            self._begin(states, logits)
        elif self._start + self._tokens.shape[1] > self.num_consumed:  # else a process that waits for others
            if logits.shape[1] > 1:  # without a cache the whole row was run again
                self._unscored.append((logits[:, -2:-1], _newest(self._tokens)))
            else:
                scores = self._logits if self._parents is None else self._logits[self._parents]
                self._unscored.append((scores, self._tokens))
            if len(self._unscored) * logits.shape[0] * logits.shape[-1] >= _SCORES_AT_ONCE:
                self._score()
            if self.on_states is not None:
                self.on_states((self._states[-1] if self.predicting else states)[:, -1])
            self._states.append(_newest(states))
            self.num_consumed += 1
        self._logits, self._parents = _newest(logits), None

    def _begin(self, states: Tensor, logits: Tensor) -> None:
        """The first pass. What a given cache has consumed before it, and the first token of it, came from nothing."""
        assert self._tokens is not None
        rows, start = len(states), self._start
        if start:
            self._states.append(states.new_full((rows, start, states.shape[-1]), torch.nan))
        self._states.append(states)
        self._log_probs.append(torch.full((rows, start + 1), torch.nan, device=logits.device))
        if self._tokens.shape[1] > 1:
            self._log_probs.append(log_probs_of(logits[:, :-1], self._tokens[:, 1:]))
        self.num_consumed = self._num_given = start + self._tokens.shape[1]

    def _score(self) -> None:
        if self._unscored:
            scores, tokens = zip(*self._unscored, strict=True)
            self._log_probs.append(log_probs_of(torch.cat(scores, dim=1), torch.cat(tokens, dim=1)))
            self._unscored.clear()

    def reorder(self, parents: Tensor) -> None:
        """parents (rows,): the row that each row of the next step continues."""
        self._parents = parents

    def gather(self, sequences: Tensor, beam_indices: Tensor | None) -> tuple[Tensor, Tensor]:
        """-> states (R,T,C) and log-probabilities (R,T) of the tokens of sequences (R,T); NaN where none was recorded.

        beam_indices (R,written tokens) names the row that each written token was chosen in, -1 after the row's end;
        None if rows never moved. The last token of a row that a limit cut has a log-probability but no state.
        """
        num_tokens = sequences.shape[1]
        self._score()
        states, log_probs = torch.cat(self._states, dim=1).float(), torch.cat(self._log_probs, dim=1)
        steps = min(self.num_consumed, num_tokens)
        last_rows = torch.arange(len(sequences), device=sequences.device)
        if beam_indices is not None:
            # A token is consumed by the row that the next one is chosen in; beams share what they were given.
            steps = min(steps, beam_indices.shape[1] + self._num_given - 1)
            places = torch.arange(steps, device=sequences.device)
            rows = beam_indices.long()[:, (places - self._num_given + 1).clamp(min=0)]
            last_rows = rows[:, -1].clamp(min=0)
            ended = rows < 0
            states = states[rows.clamp(min=0), places].masked_fill(ended[..., None], torch.nan)
            log_probs = log_probs[rows.clamp(min=0), places].masked_fill(ended, torch.nan)
        else:
            states, log_probs = states[:, :steps], log_probs[:, :steps]
        if self.num_consumed == num_tokens - 1 and self._logits is not None:  # every row goes on to the last token
            log_probs = torch.cat([log_probs, log_probs_of(self._logits[last_rows], sequences[:, -1:])], dim=1)
        states = torch.nn.functional.pad(states, (0, 0, 0, num_tokens - states.shape[1]), value=torch.nan)
        missing = num_tokens - log_probs.shape[1]
        return states, torch.nn.functional.pad(log_probs, (0, missing), value=torch.nan)


def states_of_locations(states: Tensor, location_state: str) -> Tensor:
    """States (R,T,C) that have consumed tokens -> those that the tokens' locations are read from, in the same places.

    "consumed": the same; "predicting": each token's is the one before its own. The first token, BOS, has no location.
    """
    if location_state == "consumed":
        return states
    return torch.cat([states[:, :1], states[:, :-1]], dim=1)


def _newest(values: Tensor) -> Tensor:
    """(rows,T,…) -> (rows,1,…). With a cache there is only one, and even a slice costs something at every step."""
    return values if values.shape[1] == 1 else values[:, -1:]


def log_probs_of(logits: Tensor, tokens: Tensor) -> Tensor:
    """logits (…,V), tokens (…) -> (…) float32."""
    losses = torch.nn.functional.cross_entropy(logits.flatten(0, -2).float(), tokens.flatten(), reduction="none")
    return -losses.view(tokens.shape)


# A context variable and not an attribute: one model may generate in several threads at once.
_recorder: ContextVar[StateRecorder | None] = ContextVar("pixelllm_state_recorder", default=None)


def current_recorder() -> StateRecorder | None:
    """The recorder of the `generate()` call that is running in this context, if any."""
    return _recorder.get()


@contextmanager
def recording(recorder: StateRecorder) -> Iterator[None]:
    """Make `recorder` the current one."""
    token = _recorder.set(recorder)
    try:
        yield
    finally:
        _recorder.reset(token)


class TokenStatesMixin(GenerationMixin):
    """`generate()` whose loops tell the current recorder of every step.

    `prepare_inputs_for_generation` is the model's own and calls `before_step`; `recorded_states` names the entry of
    its output that has the state of every consumed token.
    """

    recorded_states = "decoder_states"

    def _prepare_generation_config(
        self, generation_config: GenerationConfig | None, **kwargs: Any
    ) -> tuple[GenerationConfig, dict[str, Any]]:
        resolved, rest = super()._prepare_generation_config(generation_config, **kwargs)
        return prefer_callers_length(resolved, generation_config, kwargs, self.generation_config), rest

    def init_continuous_batching(self, *args: Any, **kwargs: Any) -> Any:
        """Refused by name, for `generate_batch` as well: requests are text alone there, and states are not kept."""
        raise ValueError(
            "continuous batching (generate_batch) cannot be used here: its requests have no images, and it does not "
            "keep one state per token, from which locations are read. Call generate with several images or prompts."
        )

    def _update_model_kwargs_for_generation(
        self, outputs: ModelOutput, model_kwargs: dict[str, Any], *args: Any, **kwargs: Any
    ) -> dict[str, Any]:
        recorder = current_recorder()
        if recorder is not None:
            recorder.after_step(outputs[self.recorded_states], outputs.logits)
        return super()._update_model_kwargs_for_generation(outputs, model_kwargs, *args, **kwargs)

    def _reorder_cache(self, cache: Cache, beam_idx: Tensor) -> Cache:
        recorder = current_recorder()
        if recorder is not None:
            recorder.reorder(beam_idx)
        # What the beams of a prompt see of it is one and the same, and the largest part of the cache.
        getattr(cache, "self_attention_cache", cache).reorder_cache(beam_idx)
        return cache


__all__ = [
    "StateRecorder",
    "TokenStatesMixin",
    "current_recorder",
    "log_probs_of",
    "recording",
    "states_of_locations",
]
