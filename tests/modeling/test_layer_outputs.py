"""Attention and hidden states of the language model, and labels beside decoder inputs, as users of transformers ask."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from pixelllm_hf.modeling.configuration_pixelllm import PixelLLMConfig
from pixelllm_hf.modeling.modeling_pixelllm import PixelLLMForGroundedGeneration

LABELS = torch.tensor([[5, 6, 7, 1], [8, 9, 1, -100], [10, 11, 12, 1]])
SHIFTED = torch.tensor([[0, 5, 6, 7], [0, 8, 9, 1], [0, 10, 11, 12]])  # BOS and all labels but the last
ALL = {"output_attentions": True, "output_hidden_states": True}
PREFIX_DECODER = {
    "model_type": "pixelllm_prefix_decoder", "vocab_size": 99, "hidden_size": 32, "num_hidden_layers": 3,
    "num_attention_heads": 4, "intermediate_size": 48, "dropout_rate": 0.0, "bos_token_id": 97, "eos_token_id": 98,
    "decoder_start_token_id": 97,
}  # fmt: skip


@pytest.fixture(params=["t5", "prefix decoder"])
def model(request: pytest.FixtureRequest) -> PixelLLMForGroundedGeneration:
    """A small model of either family of language models that gives its attention."""
    torch.manual_seed(0)
    sizes = {"text_config": PREFIX_DECODER, "mask_head_config": None} if request.param == "prefix decoder" else {}
    model = PixelLLMForGroundedGeneration(PixelLLMConfig.for_tests(**sizes))
    with torch.no_grad():
        for name, weight in model.language_model.named_parameters():  # so that attention is not nearly uniform
            if weight.ndim > 1 and "shared" not in name:
                weight.mul_(4)
    model.eval().set_attn_implementation("eager")  # in this order: training has an attention of its own
    return model


@torch.no_grad()
def test_attention_of_every_layer_is_a_distribution_over_what_can_be_seen(model, small_inputs):
    output = model(**small_inputs, decoder_input_ids=SHIFTED, **ALL)
    (rows, tokens), memory = SHIFTED.shape, 6 + small_inputs["input_ids"].shape[1]
    together = 2.0 if model.config.text_config.model_type == "t5" else 1.0  # one look at both, or one at each
    for own, cross in zip(output.decoder_attentions, output.cross_attentions, strict=True):
        assert own.shape == (rows, 4, tokens, tokens) and cross.shape == (rows, 4, tokens, memory)
        assert (own.triu(1) == 0).all(), "a token sees a later one"
        assert (cross[2, ..., 8:] == 0).all(), "padding of the prompt is seen"
        total = own.sum(-1) + cross.sum(-1)
        torch.testing.assert_close(total, torch.full_like(total, together))
    for weights in output.encoder_attentions:
        assert weights.shape == (rows, 4, memory, memory)
        torch.testing.assert_close(weights.sum(-1), torch.ones(rows, 4, memory))


@torch.no_grad()
def test_hidden_states_begin_with_the_words_and_end_with_the_states_of_the_output(model, small_inputs):
    output = model(**small_inputs, labels=LABELS, **ALL)
    torch.testing.assert_close(output.decoder_hidden_states[-1], output.decoder_states, rtol=0, atol=0)
    assert len(output.decoder_hidden_states) == len(output.decoder_attentions) + 1
    assert {states.shape for states in output.encoder_hidden_states} == {(3, 11, 32)}


@torch.no_grad()
def test_asking_for_layers_changes_no_answer(model, small_inputs):
    silent, asked = model(**small_inputs, labels=LABELS), model(**small_inputs, labels=LABELS, **ALL)
    for name, value in silent.items():
        if isinstance(value, torch.Tensor):
            torch.testing.assert_close(asked[name], value, rtol=0, atol=0)
    assert silent.decoder_attentions is None and silent.encoder_hidden_states is None


@torch.no_grad()
def test_what_a_layer_of_the_prefix_decoder_attends_to_is_what_it_uses():
    torch.manual_seed(0)
    config = PixelLLMConfig.for_tests(text_config=PREFIX_DECODER, mask_head_config=None)
    attention = PixelLLMForGroundedGeneration(config).eval().language_model.layers[0].attention
    x, mask = torch.randn(2, 5, 32) * 5, torch.rand(2, 1, 5, 5) > 0.3
    mask[..., 0] = True
    keys, values = attention.keys_values(x)
    additive = torch.zeros(mask.shape).masked_fill(~mask, torch.finfo(torch.float32).min)
    for seen in (mask, additive, None):
        used = attention.out((attention.weights(x, keys, seen) @ values).transpose(1, 2).flatten(2))
        torch.testing.assert_close(used, attention(x, keys, values, seen))


@pytest.mark.parametrize("mode", [{}, {"num_beams": 3, "num_return_sequences": 2}])
def test_generate_gives_the_attention_of_every_written_token(model, small_inputs, mode):
    plain = model.generate(**small_inputs, max_new_tokens=4, **mode)
    output = model.generate(**small_inputs, max_new_tokens=4, **mode, **ALL)
    assert torch.equal(output.sequences, plain.sequences)
    torch.testing.assert_close(output.coordinates, plain.coordinates, equal_nan=True)
    steps = output.sequences.shape[1] - 1
    assert len(output.decoder_attentions) == len(output.cross_attentions) == len(output.decoder_hidden_states) == steps
    assert output.cross_attentions[0][0].shape == (3 * mode.get("num_beams", 1), 4, 1, 11)
    assert output.encoder_attentions[0].shape == (3, 4, 11, 11) and output.encoder_hidden_states


@torch.no_grad()
def test_fused_attention_has_no_weights_to_give_and_all_else(small_model, small_inputs):
    assert small_model.config._attn_implementation == "sdpa"
    output = small_model(**small_inputs, labels=LABELS, **ALL)
    assert output.decoder_attentions is None and output.cross_attentions is None and output.encoder_attentions is None
    assert len(output.decoder_hidden_states) == len(output.encoder_hidden_states) == 3


def test_decoder_inputs_beside_labels_give_the_same_loss_of_the_text(small_model, small_inputs):
    alone = small_model(**small_inputs, labels=LABELS)
    both = small_model(**small_inputs, labels=LABELS, decoder_input_ids=SHIFTED)
    assert both.logits.shape[:2] == LABELS.shape
    torch.testing.assert_close(both.loss, alone.loss)
    other = LABELS.clone()
    other[0, 3] = 50
    changed = small_model(**small_inputs, labels=other, decoder_input_ids=SHIFTED)
    assert (changed.loss - both.loss).abs() > 1e-3, "the loss follows the labels"


def test_places_are_learnt_of_labels_that_the_decoder_consumes(small_model, small_inputs):
    points = torch.rand(*LABELS.shape, 2, 2)
    points[LABELS == 1] = torch.nan  # EOS has no location
    alone = small_model(**small_inputs, labels=LABELS, point_labels=points)
    both = small_model(**small_inputs, labels=LABELS, point_labels=points, decoder_input_ids=SHIFTED)
    torch.testing.assert_close(both.loss_parts["point"], alone.loss_parts["point"])


def test_decoder_inputs_of_another_length_than_the_labels_are_refused(small_model, small_inputs):
    with pytest.raises(ValueError, match=r"as many as the labels, but the shapes are \(3, 5\) and \(3, 4\)"):
        small_model(**small_inputs, labels=LABELS, decoder_input_ids=torch.zeros(3, 5, dtype=torch.long))


def test_words_of_t5_survive_a_round_trip_whatever_the_config_says_of_ties(tmp_path: Path):
    torch.manual_seed(0)
    config = PixelLLMConfig.for_tests(tie_word_embeddings=False)
    model = PixelLLMForGroundedGeneration(config)
    model.save_pretrained(tmp_path)
    loaded, report = PixelLLMForGroundedGeneration.from_pretrained(tmp_path, output_loading_info=True)
    assert not report["missing_keys"]
    for name, weight in model.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], weight), name
