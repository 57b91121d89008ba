"""A cache that is handed back or handed in."""

from __future__ import annotations

import logging
import warnings

import pytest
import torch
from transformers.cache_utils import DynamicCache, EncoderDecoderCache

WAYS = [{}, {"num_beams": 3}, {"num_beams": 3, "reference_beam_search": True}, {"cache_implementation": "static"}]


def test_a_step_with_a_cache_goes_on_where_the_last_one_ended(small_model, small_inputs):
    tokens = torch.randint(2, 99, (3, 6), generator=torch.Generator().manual_seed(2))
    whole = small_model(**small_inputs, decoder_input_ids=tokens).decoder_states
    first = small_model(**small_inputs, decoder_input_ids=tokens[:, :4], use_cache=True)
    assert isinstance(first.cache, EncoderDecoderCache)
    step = small_model(**small_inputs, decoder_input_ids=tokens[:, 4:], use_cache=True, cache=first.cache)
    assert step.cache is first.cache
    torch.testing.assert_close(step.decoder_states, whole[:, 4:], atol=1e-4, rtol=0)


def test_generate_fills_the_cache_it_is_given(small_model, small_inputs):
    options = dict(max_new_tokens=6, do_sample=False)
    expected = small_model.generate(**small_inputs, **options)
    cache = EncoderDecoderCache(DynamicCache(), DynamicCache())
    output = small_model.generate(**small_inputs, **options, cache=cache)
    assert output.cache is cache
    assert cache.get_seq_length() > 1
    assert torch.equal(output.sequences, expected.sequences)
    torch.testing.assert_close(output.coordinates, expected.coordinates, equal_nan=True)


@pytest.mark.parametrize("way", WAYS, ids=str)
def test_decoding_says_nothing_about_former_names(small_model, small_inputs, monkeypatch, way):
    said: list[str] = []
    monkeypatch.setattr(logging.Logger, "warning_once", lambda self, message, *args, **kwargs: said.append(message))
    with warnings.catch_warnings():
        warnings.simplefilter("error", FutureWarning)
        small_model.generate(**small_inputs, max_new_tokens=4, **way)
    assert not [message for message in said if "past_key_values" in message]


@pytest.mark.parametrize("way", [{"num_beams": 3}, {"num_beams": 2, "do_sample": True}], ids=str)
def test_what_a_beam_search_leaves_in_its_cache_is_no_beginning(small_model, small_inputs, way):
    first = small_model.generate(**small_inputs, max_new_tokens=4, **way)
    with pytest.raises(ValueError, match="the cache is that of a beam search"):
        small_model.generate(
            **small_inputs, decoder_input_ids=first.sequences, cache=first.cache, max_new_tokens=8, **way
        )
