from __future__ import annotations

import pytest
import torch

from pixelllm_hf.data.tokenizer_training import train_tokenizer
from pixelllm_hf.modeling.configuration_pixelllm import PixelLLMConfig
from pixelllm_hf.modeling.modeling_pixelllm import PixelLLMForGroundedGeneration
from pixelllm_hf.training.recipe_values import ConfigError
from pixelllm_hf.training.vocabulary import change_vocabulary


def model_of(vocab_size: int) -> PixelLLMForGroundedGeneration:
    torch.manual_seed(0)
    text = PixelLLMConfig.for_tests().text_config.to_dict() | {"vocab_size": vocab_size}
    return PixelLLMForGroundedGeneration(PixelLLMConfig.for_tests(text_config=text))


def test_words_of_both_tokenizers_keep_their_weights_and_new_ones_begin_as_what_they_were_spelt_with():
    old, new = train_tokenizer(["a red car"]), train_tokenizer(["a car", "some tree"])
    model = model_of(128)
    before = model.get_input_embeddings().weight.clone(), model.get_output_embeddings().weight.clone()
    kept = change_vocabulary(model, old, new)
    assert kept == len(set(old.get_vocab()) & set(new.get_vocab()))
    for rows, layer in zip(before, (model.get_input_embeddings(), model.get_output_embeddings()), strict=True):
        moved = layer.weight
        assert torch.equal(moved[new.convert_tokens_to_ids("▁car")], rows[old.convert_tokens_to_ids("▁car")])
        spelt = old("tree", add_special_tokens=False)["input_ids"]
        torch.testing.assert_close(moved[new.convert_tokens_to_ids("▁tree")], rows[spelt].mean(0))


def test_a_tokenizer_that_does_not_fit_is_refused():
    tokenizer = train_tokenizer(["a car"])
    with pytest.raises(ConfigError, match=f"has {len(tokenizer)} pieces"):
        change_vocabulary(model_of(len(tokenizer) - 1), tokenizer, tokenizer)
