"""The model's output is one of transformers' in every respect."""

from __future__ import annotations

import torch
from transformers.modeling_outputs import Seq2SeqLMOutput

from pixelllm_hf.modeling.model_output import PixelLLMOutput


def test_values_are_entries_and_none_is_an_attribute_alone() -> None:
    for kind in (PixelLLMOutput, Seq2SeqLMOutput):
        output = kind(loss=None, logits=torch.ones(1), encoder_last_hidden_state=torch.zeros(2))
        assert list(output) == ["logits", "encoder_last_hidden_state"] and output.loss is None
        output.loss = torch.ones(())
        assert list(output)[-1] == "loss" and len(output.to_tuple()) == 3
        output.decoder_attentions = None
        assert output.decoder_attentions is None and "decoder_attentions" not in output
        output.note = None
        assert output.note is None and "note" not in output
