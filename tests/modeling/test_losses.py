from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from pixelllm_hf.conversion.parity.golden import Golden
from pixelllm_hf.conversion.parity.heads import official_point_loss, text_loss
from pixelllm_hf.modeling.losses import has_location, label_loss, point_loss

GOLDEN = Path(__file__).parents[1] / "golden" / "pixelllm" / "losses.safetensors"


@pytest.fixture
def golden() -> Golden:
    return Golden.read(GOLDEN)


def text_inputs(rows: int = 4, vocabulary: int = 11) -> tuple[Tensor, Tensor]:
    """Captions of different lengths that begin with BOS 0 and end with EOS 1."""
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randint(2, vocabulary, (rows, 7), generator=generator)
    tokens[:, 0] = 0
    for row, end in enumerate(range(6, 6 - rows, -1)):
        tokens[row, end], tokens[row, end + 1 :] = 1, 0
    return torch.randn(rows, 7, vocabulary, generator=generator), tokens


@pytest.mark.parametrize(
    ("name", "smoothing", "masked"),
    [("loss_smooth0.1", 0.1, True), ("loss_smooth0.0", 0.0, True), ("loss_nomask_smooth0.1", 0.1, False)],
)
def test_the_text_loss_equals_the_reference(golden, name, smoothing, masked):
    text = golden.below("text/")
    row_mask = text["mask"] if masked else None
    loss = text_loss(
        text["logits"], text["tokens"], row_mask, label_smoothing=smoothing, eos_token_id=1, pad_token_id=0
    )
    torch.testing.assert_close(loss, golden.outputs[f"text/{name}"][0], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("kind", ["l1", "l2", "l1_nonzero"])
def test_the_point_loss_equals_the_reference(golden, kind):
    point = golden.below("point/")
    valid = point["pred_valid"].bool() & point["gt_valid"].bool()[..., None]
    loss = official_point_loss(point["pred"], point["gt"], valid, kind)
    torch.testing.assert_close(loss, golden.outputs[f"point/{kind}"][0], rtol=1e-5, atol=1e-6)


def test_one_place_per_caption_serves_all_its_tokens_as_in_the_reference(golden):
    point = golden.below("point/")
    valid = point["pred_valid"].bool() & point["gt_valid"].bool()[..., None]
    target = point["gt"][:, :, :1]
    loss = point_loss(point["pred"], target, valid & has_location(target))
    torch.testing.assert_close(loss, golden.outputs["point/l1_nonzero_gt_per_caption"][0], rtol=1e-5, atol=1e-6)


def test_the_text_loss_is_the_cross_entropy_with_smoothed_targets_by_hand():
    logits, tokens = text_inputs()
    smoothing, vocabulary = 0.2, logits.shape[-1]
    total, count = 0.0, 0
    for row, ids in enumerate(tokens.tolist()):
        for t, gold in enumerate(ids[1:]):
            if gold > 0:
                wanted = torch.full((vocabulary,), smoothing / (vocabulary - 1))
                wanted[gold] = 1 - smoothing
                total -= (wanted * logits[row, t].log_softmax(-1)).sum()
                count += 1
    loss = text_loss(logits, tokens, label_smoothing=smoothing, eos_token_id=1, pad_token_id=0)
    torch.testing.assert_close(loss, total / count)


def test_padding_and_the_last_position_do_not_count():
    logits, tokens = text_inputs()
    changed = logits.clone()
    changed[:, -1] += 5
    for row, ids in enumerate(tokens.tolist()):
        changed[row, ids.index(1) :, 3] -= 7  # what EOS and padding predict
    losses = [text_loss(x, tokens, label_smoothing=0.1, eos_token_id=1, pad_token_id=0) for x in (logits, changed)]
    assert torch.equal(*losses)


def test_an_empty_caption_does_not_count():
    logits, tokens = text_inputs()
    empty = tokens.clone()
    empty[2] = torch.tensor([0, 1, 0, 0, 0, 0, 0])
    with_empty = text_loss(logits, empty, label_smoothing=0.1, eos_token_id=1, pad_token_id=0)
    without = text_loss(logits[[0, 1, 3]], tokens[[0, 1, 3]], label_smoothing=0.1, eos_token_id=1, pad_token_id=0)
    torch.testing.assert_close(with_empty, without)


def test_masked_rows_get_no_gradient():
    logits, tokens = text_inputs()
    logits.requires_grad_()
    row_mask = torch.tensor([1.0, 0.0, 1.0, 0.0])
    text_loss(logits, tokens, row_mask, label_smoothing=0.1, eos_token_id=1, pad_token_id=0).backward()
    assert logits.grad[[0, 2]].abs().sum() > 0
    assert torch.equal(logits.grad[[1, 3]], torch.zeros_like(logits.grad[[1, 3]]))


def test_a_batch_without_anything_to_learn_costs_zero_and_not_nan():
    logits, tokens = text_inputs()
    logits.requires_grad_()
    points = torch.rand(4, 7, 2, 2, requires_grad=True)
    loss = text_loss(logits, tokens, torch.zeros(4), label_smoothing=0.1, eos_token_id=1, pad_token_id=0)
    loss = loss + point_loss(points, torch.rand(4, 7, 2, 2), torch.zeros(4, 7))
    loss.backward()
    assert loss == 0
    assert not logits.grad.any() and not points.grad.any()


def test_half_precision_logits_are_summed_in_float32():
    logits, tokens = text_inputs()
    halved = logits.bfloat16()
    loss = text_loss(halved, tokens, label_smoothing=0.1, eos_token_id=1, pad_token_id=0)
    assert loss.dtype == torch.float32
    assert torch.equal(loss, text_loss(halved.float(), tokens, label_smoothing=0.1, eos_token_id=1, pad_token_id=0))


def test_tokens_without_a_place_reach_neither_the_point_loss_nor_its_gradient():
    generator = torch.Generator().manual_seed(0)
    pred = torch.rand(2, 5, 2, 2, generator=generator).requires_grad_()
    target = torch.rand(2, 5, 2, 2, generator=generator)
    target[0, 1], target[1, 3] = torch.nan, 0.0
    known = has_location(target)
    assert (~known).nonzero().tolist() == [[0, 1], [1, 3]]
    loss = point_loss(pred, target, known)
    loss.backward()
    torch.testing.assert_close(loss, (pred - target)[known].abs().mean())
    assert pred.grad.isfinite().all()
    assert not pred.grad[~known].any()


def test_an_id_of_zero_is_a_word_where_padding_has_another_id():
    logits = torch.randn(2, 3, 9, generator=torch.Generator().manual_seed(4))
    labels = torch.tensor([[0, 5, 3], [0, 0, 8]])
    found = label_loss(logits, labels, label_smoothing=0.0, eos_token_id=8, pad_token_id=3)
    counted = torch.tensor([[True, True, False], [True, True, True]])
    expected = torch.nn.functional.cross_entropy(logits[counted], labels[counted])
    torch.testing.assert_close(found, expected)


def test_the_criterion_is_the_weighted_sum_of_its_parts(small_model, small_inputs):
    config = small_model.config
    config.text_loss_weight, config.point_loss_weight = 0.5, 0.25
    points = torch.rand(3, 3, 2, 2, generator=torch.Generator().manual_seed(1))
    labels = torch.tensor([[5, 6, 1], [7, 1, -100], [8, 1, -100]])
    out = small_model(**small_inputs, labels=labels, point_labels=points)
    torch.testing.assert_close(out.loss, 0.5 * out.loss_parts["text"] + 0.25 * out.loss_parts["point"])


def test_the_output_has_what_the_language_model_saw_of_every_prompt(small_model, small_inputs):
    tokens = torch.zeros(3, 2, dtype=torch.long)
    out = small_model(**small_inputs, decoder_input_ids=tokens)
    features = small_model.get_image_features(small_inputs["pixel_values"], small_inputs["pixel_mask"])
    asked = {name: small_inputs[name] for name in ("prompt_boxes", "prompt_mask")}
    torch.testing.assert_close(out.visual_tokens, small_model.get_visual_tokens(features, **asked))
    states, mask = out.encoder_last_hidden_state, out.encoder_attention_mask
    again = small_model(encoder_outputs=(states,), attention_mask=mask, decoder_input_ids=tokens)
    assert again.visual_tokens is None
