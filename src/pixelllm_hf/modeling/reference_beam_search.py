"""The reference's beam search (official.md#decoding): its length penalty, its early stop, its order of candidates."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers import GenerationConfig, LogitsProcessorList, PreTrainedModel, StoppingCriteriaList
from transformers.generation.utils import GenerateBeamEncoderDecoderOutput

from .box_ops import after_end, is_one_of, padded_after_end

NEVER = -1e7  # the reference's "negative infinity"


def brevity_penalty(length: int, alpha: float) -> float:
    """Divides the log-probability of a caption whose last token stands at index `length`."""
    return ((5.0 + length) / 6.0) ** alpha


def reference_beam_search(
    model: PreTrainedModel,
    input_ids: Tensor,
    logits_processor: LogitsProcessorList,
    stopping_criteria: StoppingCriteriaList,
    generation_config: GenerationConfig,
    synced_gpus: bool = False,
    *,
    alpha: float = 0.6,
    per_node_beam: int = 2,
    **model_kwargs: Any,
) -> GenerateBeamEncoderDecoderOutput:
    """A decoding loop for `generate(custom_generate=…)`; input_ids (R * beams, 1) hold BOS.

    alpha is the exponent of the length penalty, per_node_beam the candidates kept per beam: 2, or 1 as in the
    referring recipes. `num_beams`, `max_length` (BOS counted) and `num_return_sequences` come from the generation
    config. Unlike the reference, sequences are returned best first.
    """
    beams = generation_config.num_beams
    kept = beams * per_node_beam
    max_length = generation_config.max_length
    ends = generation_config.eos_token_id
    eos = ends[0] if isinstance(ends, (list, tuple)) else ends  # fills what is not written yet
    rows = input_ids.shape[0] // beams
    device = input_ids.device

    live = torch.full((rows, beams, max_length), eos, dtype=torch.long, device=device)
    live[:, :, 0] = input_ids.view(rows, beams)
    live_log_probs = torch.tensor([0.0] + [NEVER] * (beams - 1), device=device).repeat(rows, 1)
    live_parents = torch.full((rows, beams, max_length - 1), -1, dtype=torch.long, device=device)
    done = live.clone()
    done_scores = torch.full((rows, beams), NEVER, device=device)
    done_parents = live_parents.clone()
    is_done = torch.zeros(rows, beams, dtype=torch.bool, device=device)
    row_offset = torch.arange(rows, device=device)[:, None] * beams

    written = 0  # index of the last token written
    while written < max_length - 1:
        flat = live[:, :, : written + 1].flatten(0, 1)
        outputs = model(
            **model.prepare_inputs_for_generation(
                flat,
                next_sequence_length=1 if model_kwargs.get("use_cache") and written else None,
                is_first_iteration=written == 0,
                **model_kwargs,
            ),
            return_dict=True,
        )
        model_kwargs = model._update_model_kwargs_for_generation(outputs, model_kwargs, is_encoder_decoder=True)
        log_probs = logits_processor(flat, outputs.logits[:, -1].float().log_softmax(-1)).view(rows, beams, -1)
        vocab = log_probs.shape[-1]
        candidates, index = (log_probs + live_log_probs[..., None]).flatten(1).topk(min(kept, beams * vocab))
        parent, token = index // vocab, index % vocab
        sequences = _gather(live, parent)
        parents = _gather(live_parents, parent)
        written += 1
        sequences[:, :, written] = token
        parents[:, :, written - 1] = parent + row_offset
        finished = is_one_of(token, ends)

        next_index = (candidates + finished * NEVER).topk(beams).indices
        live, live_parents = _gather(sequences, next_index), _gather(parents, next_index)
        live_log_probs = (candidates + finished * NEVER).gather(1, next_index)

        scores = candidates / brevity_penalty(written, alpha) + ~finished * NEVER
        done_scores, best = torch.cat([done_scores, scores], dim=1).topk(beams)
        done = _gather(torch.cat([done, sequences], dim=1), best)
        done_parents = _gather(torch.cat([done_parents, parents], dim=1), best)
        is_done = torch.cat([is_done, finished], dim=1).gather(1, best)

        if model_kwargs.get("cache") is not None:
            moved = (parent.gather(1, next_index) + row_offset).flatten()
            model_kwargs["cache"] = model._reorder_cache(model_kwargs["cache"], moved)
        # Literally the reference's test: an unfinished slot can never end the search.
        best_live = live_log_probs[:, :1] / brevity_penalty(max_length, alpha)
        worst_done = done_scores.min(dim=1, keepdim=True).values.where(is_done, NEVER)
        if (worst_done > best_live).all():
            break

    none_done = ~is_done.any(dim=1)
    done = torch.where(none_done[:, None, None], live, done)
    done_parents = torch.where(none_done[:, None, None], live_parents, done_parents)
    done_scores = torch.where(none_done[:, None], live_log_probs, done_scores)
    returned = generation_config.num_return_sequences
    sequences = done[:, :returned, : written + 1].flatten(0, 1)
    pad = 0 if generation_config.pad_token_id is None else generation_config.pad_token_id
    return GenerateBeamEncoderDecoderOutput(
        # as the reference does before its second pass
        sequences=padded_after_end(sequences, after_end(sequences, ends), pad),
        sequences_scores=done_scores[:, :returned].flatten(),
        beam_indices=done_parents[:, :returned, :written].flatten(0, 1),
    )


def _gather(values: Tensor, index: Tensor) -> Tensor:
    """values (R,K,L), index (R,J) -> (R,J,L)."""
    return values.gather(1, index[..., None].expand(-1, -1, values.shape[-1]))
