"""The whole official model in ours, and what its decoding does differently from transformers'."""

from __future__ import annotations

import re
from typing import Any

import torch
from torch import Tensor

from ...modeling.language_t5 import MASKED_SCORE
from ...modeling.modeling_pixelllm import PixelLLMForGroundedGeneration
from ..scenic import convert_pixelllm
from ..scenic_hparams import ScenicLora, pixelllm_config
from .golden import Golden


def official_model(golden: Golden) -> PixelLLMForGroundedGeneration:
    """The model of a golden file with all its heads and its LoRA, in evaluation mode."""
    from peft import inject_adapter_in_model

    config = pixelllm_config(golden.hparams)
    if config.mask_head_config is not None:  # the file's texts are as long as they all are
        config.mask_head_config.text_length = golden.inputs["text_tokens"].shape[-1]
        config.mask_head_config.prompt_length = golden.inputs["context_tokens"].shape[-1]
    model: Any = _ReferenceMasking(config)
    if lora := ScenicLora.from_hparams(golden.hparams["model"]["text_decoder_args"]):
        model = inject_adapter_in_model(lora.peft_config(), model)
    model.load_state_dict(convert_pixelllm(golden.params))
    return model.eval()


def decoding_options(golden: Golden, name: str, *, per_node_beam: int) -> dict[str, Any]:
    """Options of `generate()` for the golden file's decoding called `greedy` or `beamK`."""
    model = golden.hparams["model"]
    options: dict[str, Any] = {"no_immediate_repetition": True}
    if match := re.fullmatch(r"beam(\d+)", name):
        beams = int(match[1])
        options = {
            "num_beams": beams,
            "num_return_sequences": beams,
            "reference_beam_search": True,
            "reference_per_node_beam": per_node_beam,
        }
    return {
        # The reference never writes the last place of its buffer, which it fills with EOS.
        "max_length": golden.inputs["text_tokens"].shape[-1] - 1,
        "do_sample": False,
        "decoder_start_token_id": model["begin_token_id"],
        "eos_token_id": model["end_token_id"],
        "pad_token_id": 0,
        "output_scores": True,
        "prompt_chunk_size": 1000,
        **options,
    }


class _ReferenceMasking(PixelLLMForGroundedGeneration):
    """Decodes with the one mask of the reference that ours leaves out.

    The reference lets nobody look at a token whose next one is padding (official.md#t5). In a caption that is its end
    alone, which nobody looks at anyway; but random weights also write the padding id in the middle of a caption.
    """

    def prepare_inputs_for_generation(self, input_ids: Tensor, *args: Any, **kwargs: Any) -> dict[str, Any]:
        inputs = super().prepare_inputs_for_generation(input_ids, *args, **kwargs)
        mask = _hidden_before_padding(input_ids)
        return inputs | {"decoder_attention_mask": mask[:, :, -inputs["decoder_input_ids"].shape[1] :]}

    def _read_again(self, sequences: Tensor, encoder_states: Tensor, encoder_mask: Tensor) -> Tensor:
        mask = _hidden_before_padding(sequences)
        return self.language_model.decode(sequences, encoder_states, encoder_mask, decoder_mask=mask)[0]

    def _filled(self, *states_and_masks: Any) -> tuple[Tensor, Tensor]:
        without_cache: Any = (*states_and_masks[:-1], None)  # a step with the cache would know no mask
        return super()._filled(*without_cache)


def _hidden_before_padding(tokens: Tensor) -> Tensor:
    """tokens (R,T) so far -> additive mask (R,1,T,T): causal, and blind to tokens that padding follows."""
    seen = torch.cat([tokens[:, 1:] > 0, torch.ones_like(tokens[:, :1], dtype=torch.bool)], dim=1)
    length = tokens.shape[1]
    keep = torch.ones(length, length, dtype=torch.bool).tril() & seen[:, None, None, :]
    return torch.zeros(keep.shape).masked_fill(~keep, MASKED_SCORE)


def filled(sequences: Tensor, length: int, eos: int) -> Tensor:
    """The reference's buffer of `length` tokens: EOS again and again after the end."""
    ended = (sequences == eos).cumsum(-1) > 0
    sequences = sequences.masked_fill(ended, eos)
    return torch.nn.functional.pad(sequences, (0, length - sequences.shape[-1]), value=eos)


def without_repeated_end(tokens: Tensor, eos: int) -> Tensor:
    """Zeros after the first EOS: what the reference's second pass reads (official.md#decoding)."""
    return tokens.masked_fill((tokens == eos).cumsum(-1) > 1, 0)


def greedy_score(output: Any, eos: int) -> Tensor:
    """The reference's score of a greedy caption: mean log-probability over its tokens, EOS left out of the count."""
    sequences = output.sequences
    log_probs = torch.stack([score.float().log_softmax(-1) for score in output.scores], dim=1)  # R,T-1,V
    picked = log_probs.gather(-1, sequences[:, 1:, None]).squeeze(-1)
    ended_before = ((sequences[:, :-1] == eos).cumsum(-1)) > 0
    words = ((sequences == eos).cumsum(-1) == 0).sum(-1) - 1
    return picked.masked_fill(ended_before, 0.0).sum(-1) / words.clamp(min=1)


__all__ = ["decoding_options", "filled", "greedy_score", "official_model", "without_repeated_end"]
