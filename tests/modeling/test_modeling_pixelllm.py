from __future__ import annotations

import copy

import pytest
import torch

from pixelllm_hf.modeling.configuration_pixelllm import PixelLLMConfig
from pixelllm_hf.modeling.modeling_pixelllm import PixelLLMForGroundedGeneration


def labels_for(rows: int, tokens: int = 6) -> tuple[torch.Tensor, torch.Tensor]:
    """Random captions that end with EOS, the last one shorter, and a place for some of their tokens."""
    generator = torch.Generator().manual_seed(2)
    labels = torch.randint(2, 99, (rows, tokens), generator=generator)
    labels[:, -1] = 1
    labels[-1, 3], labels[-1, 4:] = 1, -100
    points = torch.rand(rows, tokens, 2, 2, generator=generator)
    points[:, 0] = torch.nan
    points[(labels == 1) | (labels == -100)] = torch.nan
    return labels, points


def test_losses_come_as_parts_and_weighted_total(small_model, small_inputs):
    labels, points = labels_for(3)
    output = small_model(**small_inputs, labels=labels, point_labels=points)
    parts = output.loss_parts
    assert set(parts) == {"text", "point"}
    torch.testing.assert_close(output.loss, parts["text"] + 0.1 * parts["point"])
    assert output.logits.shape == (3, 7, 99)
    assert output.coordinates.shape == (3, 7, 2, 2)


def test_the_last_token_of_a_caption_that_was_cut_takes_no_part_in_attention(small_model, small_inputs):
    labels, _ = labels_for(3)
    labels[0, -1] = 7  # no room was left for EOS
    tokens = torch.nn.functional.pad(labels.clamp(min=0), (1, 0))
    following = torch.nn.functional.pad(tokens[:, 1:], (0, 1))  # the reference's rule, official.md#t5
    assert not following[0, -1] and following[0, :-1].all()
    expected = small_model(**small_inputs, decoder_input_ids=tokens, decoder_attention_mask=following > 0)
    trained = small_model(**small_inputs, labels=labels)
    torch.testing.assert_close(trained.decoder_states, expected.decoder_states)
    plain = small_model(**small_inputs, decoder_input_ids=tokens)
    torch.testing.assert_close(trained.decoder_states[0, :-1], plain.decoder_states[0, :-1])
    assert not torch.allclose(trained.decoder_states[0, -1], plain.decoder_states[0, -1], atol=1e-3)


def test_the_point_loss_is_in_canvas_pixels_of_the_unpadded_image(small_model, small_inputs):
    labels, points = labels_for(3)
    output = small_model(**small_inputs, labels=labels, point_labels=points)
    sizes = torch.tensor([[64.0, 64], [64, 64], [64, 40]])[:, None, None]
    error = ((output.coordinates[:, 1:] - points) * sizes).abs().mean((-2, -1))
    torch.testing.assert_close(output.loss_parts["point"], error[error.isfinite()].mean())


def test_rows_without_text_loss_leave_the_text_loss_alone(small_model, small_inputs):
    labels, _ = labels_for(3)
    changed = labels.clone()
    changed[1, :-1] = (labels[1, :-1] + 5) % 90 + 2
    keep = torch.tensor([1.0, 0.0, 1.0])
    first = small_model(**small_inputs, labels=labels, text_loss_mask=keep).loss_parts["text"]
    second = small_model(**small_inputs, labels=changed, text_loss_mask=keep).loss_parts["text"]
    torch.testing.assert_close(first, second)


def test_a_saved_model_gives_bit_equal_answers_and_keeps_every_buffer(small_model, small_inputs, tmp_path):
    small_model.save_pretrained(tmp_path)
    loaded = PixelLLMForGroundedGeneration.from_pretrained(tmp_path).eval()
    for name, value in small_model.state_dict().items():
        assert torch.equal(value, loaded.state_dict()[name]), name
    assert dict(small_model.named_buffers()).keys() == dict(loaded.named_buffers()).keys()
    for name, value in small_model.named_buffers():
        assert torch.equal(value, loaded.get_buffer(name)), name
    labels, _ = labels_for(3)
    # Loaded weights are views of a file whose alignment decides how a matrix product is summed; a copy is aligned.
    loaded = copy.deepcopy(loaded)
    assert torch.equal(small_model(**small_inputs, labels=labels).logits, loaded(**small_inputs, labels=labels).logits)


def test_places_stay_in_float32_when_the_model_is_loaded_in_bfloat16(small_model, small_inputs, tmp_path):
    small_model.save_pretrained(tmp_path)
    loaded = PixelLLMForGroundedGeneration.from_pretrained(tmp_path, dtype=torch.bfloat16)
    assert {p.dtype for p in loaded.point_head.parameters()} == {torch.float32}
    assert loaded.prompt_encoder.pe_layer.positional_encoding_gaussian_matrix.dtype == torch.float32
    assert loaded.language_model.lm_head.weight.dtype == torch.bfloat16
    assert loaded.generate(**small_inputs, max_new_tokens=4).coordinates.dtype == torch.float32


def test_places_stay_in_float32_when_the_model_is_made_in_bfloat16(small_model, small_inputs):
    made = PixelLLMForGroundedGeneration._from_config(small_model.config, dtype=torch.bfloat16)
    assert {p.dtype for p in made.point_head.parameters()} == {torch.float32}
    assert {value.dtype for value in made.prompt_encoder.state_dict().values()} == {torch.float32}
    assert made.language_model.lm_head.weight.dtype == torch.bfloat16
    assert made.generate(**small_inputs, max_new_tokens=4).coordinates.dtype == torch.float32


def test_features_of_an_image_can_be_used_again(small_model, small_inputs):
    labels, _ = labels_for(3)
    features = small_model.get_image_features(small_inputs["pixel_values"], small_inputs["pixel_mask"])
    rest = {k: v for k, v in small_inputs.items() if k != "pixel_values"}
    torch.testing.assert_close(
        small_model(**rest, image_features=features, labels=labels).logits,
        small_model(**small_inputs, labels=labels).logits,
    )


@pytest.mark.parametrize(
    "takes_part", [None, torch.tensor([[1, 1, 1, 1], [1, 1, 1, 0], [1, 1, 0, 0]])], ids=["all tokens", "some"]
)
@torch.no_grad()
def test_encoder_states_without_a_mask_are_all_valid(small_model, takes_part):
    states = torch.randn(3, 7, small_model.config.text_config.d_model, generator=torch.Generator().manual_seed(1))
    tokens = torch.tensor([[0, 5, 9, 7], [0, 8, 4, 1], [0, 6, 1, 0]])
    given = dict(encoder_outputs=(states,), decoder_input_ids=tokens, decoder_attention_mask=takes_part)
    free = small_model(**given).decoder_states
    masked = small_model(**given, attention_mask=torch.ones(3, 7, dtype=torch.long)).decoder_states
    torch.testing.assert_close(free, masked)


def test_without_a_prompt_the_whole_unpadded_image_is_meant(small_model, small_inputs):
    pixels = {k: small_inputs[k] for k in ("pixel_values", "pixel_mask")}
    boxes = torch.tensor([[[0.0, 0, 64, 64]], [[0, 0, 64, 40]]])
    ids = torch.zeros(2, 1, dtype=torch.long)
    torch.testing.assert_close(
        small_model(**pixels, decoder_input_ids=ids).logits,
        small_model(**pixels, prompt_boxes=boxes, decoder_input_ids=ids).logits,
    )


def test_rows_of_text_must_match_the_prompts(small_model, small_inputs):
    with pytest.raises(ValueError, match="3 prompts and 2 rows"):
        small_model(**{**small_inputs, "input_ids": small_inputs["input_ids"][:2]}, labels=labels_for(3)[0])


def test_four_samples_are_learnt_by_heart():
    torch.manual_seed(0)
    model = PixelLLMForGroundedGeneration(PixelLLMConfig.for_tests(label_smoothing=0.0)).train()
    pixels = torch.rand(4, 3, 64, 64) * 255
    labels, points = labels_for(4)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for _ in range(250):
        output = model(pixel_values=pixels, labels=labels, point_labels=points)
        optimizer.zero_grad()
        output.loss.backward()
        optimizer.step()
    assert output.loss_parts["text"] < 0.05
    assert output.loss_parts["point"] < 2.0  # of 64 pixels
    out = model.eval().generate(pixel_values=pixels, max_new_tokens=8)
    assert torch.equal(out.sequences[:3, 1:7], labels[:3])


def test_gradient_checkpointing_changes_no_gradient(small_model, small_inputs):
    labels, points = labels_for(3)
    gradients = []
    for checkpointing in (False, True):
        if checkpointing:
            small_model.gradient_checkpointing_enable()
        small_model.train().zero_grad()
        small_model(**small_inputs, labels=labels, point_labels=points).loss.backward()
        gradients.append(small_model.vision_towers.sam.patch_embed.proj.weight.grad.clone())
    torch.testing.assert_close(*gradients)


def test_learnt_tokens_start_apart_from_each_other():
    model = PixelLLMForGroundedGeneration(PixelLLMConfig.for_tests())
    assert model.prompt_feature_extractor.output_tokens.weight.std() > 0.8
    assert model.prompt_encoder.point_embeddings[0].weight.std() > 0.5


@pytest.mark.parametrize("side", [32, 96])
def test_pixels_of_another_canvas_are_refused(small_model, small_inputs, side):
    pixels = {"pixel_values": torch.zeros(2, 3, side, side), "pixel_mask": torch.ones(2, side, side, dtype=torch.bool)}
    with pytest.raises(ValueError, match=r"pixel_values must be \(images, 3, 64, 64\)"):
        small_model.generate(**small_inputs | pixels, max_new_tokens=2)


def test_pixels_that_are_no_tensor_are_refused(small_model, small_inputs):
    with pytest.raises(ValueError, match="pixel_values must be a tensor, but a ndarray came"):
        small_model.generate(**small_inputs | {"pixel_values": small_inputs["pixel_values"].numpy()})
