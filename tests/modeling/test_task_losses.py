"""Losses of masks and detections through `forward`, and models with and without these heads."""

from __future__ import annotations

import copy

import pytest
import torch

from pixelllm_hf.conversion.parity.heads import text_loss
from pixelllm_hf.modeling.box_ops import points_to_boxes
from pixelllm_hf.modeling.configuration_pixelllm import PixelLLMConfig
from pixelllm_hf.modeling.mask_losses import mask_loss
from pixelllm_hf.modeling.modeling_pixelllm import PixelLLMForGroundedGeneration

LABELS = torch.tensor([[5, 6, 7, 1], [9, 8, 1, -100], [12, 1, -100, -100]])
MASKS = (torch.arange(64)[:, None] > torch.tensor([10, 30, 50])[:, None, None]).expand(3, 64, 64).float()
OBJECT_BOXES = torch.tensor([[[4.0, 4, 36, 36], [30, 34, 62, 60]], [[10, 4, 50, 36], [0, 0, 0, 0]]])
OBJECT_LABELS = torch.tensor([[[5, 6, 1], [7, 8, 1]], [[9, 1, -100], [-100, -100, -100]]])


@pytest.fixture
def model(small_model) -> PixelLLMForGroundedGeneration:
    with torch.no_grad():
        small_model.mask_head.adapter.alpha.normal_()
    return small_model


@pytest.fixture
def images(small_inputs) -> dict[str, torch.Tensor]:
    named = {name: small_inputs[name] for name in ("pixel_values", "pixel_mask")}
    return named | {name: small_inputs[name][:2] for name in ("input_ids", "attention_mask")}


# --- masks ------------------------------------------------------------------------------------------------------


def test_the_mask_loss_is_that_of_the_masks_of_the_predicted_boxes(model, small_inputs):
    output = model(**small_inputs, labels=LABELS, mask_labels=MASKS)
    assert set(output.loss_parts) == {"text", "mask"}
    torch.testing.assert_close(output.loss, output.loss_parts["text"] + output.loss_parts["mask"])
    assert output.logits.shape == (3, 5, 99) and output.coordinates.shape == (3, 5, 2, 2)
    # By hand: the states of captions and prompts padded to what the mask head reads.
    ids, mask = (torch.nn.functional.pad(small_inputs[name], (0, 7)) for name in ("input_ids", "attention_mask"))
    padded = model(
        **{**small_inputs, "input_ids": ids, "attention_mask": mask},
        labels=torch.nn.functional.pad(LABELS, (0, 7), value=-100),
    )
    last = torch.tensor([3, 2, 1])
    sizes = torch.tensor([[64.0, 64], [64, 64], [64, 40]])[:, None]
    points = padded.coordinates[range(3), last] * sizes
    boxes = points_to_boxes(points[:, None], torch.ones(3, 1, dtype=torch.bool))
    features = model.get_image_features(small_inputs["pixel_values"], small_inputs["pixel_mask"])
    visual = model.get_visual_tokens(
        features, None, small_inputs["prompt_boxes"], None, None, small_inputs["prompt_mask"]
    )
    of_row = torch.tensor([0, 0, 1])
    predicted = model.predict_masks(features, visual, padded.decoder_states, boxes, of_row)
    parts = mask_loss(predicted.logits, predicted.iou_predictions, MASKS, pixel_mask=small_inputs["pixel_mask"][of_row])
    torch.testing.assert_close(output.loss_parts["mask"], sum(parts.values()))


def test_rows_without_a_mask_or_a_word_leave_the_mask_loss_alone(model, small_inputs):
    keep = torch.tensor([1, 0, 1])
    first = model(**small_inputs, labels=LABELS, mask_labels=MASKS, mask_loss_mask=keep).loss_parts["mask"]
    changed = MASKS.clone()
    changed[1] = 0
    second = model(**small_inputs, labels=LABELS, mask_labels=changed, mask_loss_mask=keep).loss_parts["mask"]
    torch.testing.assert_close(first, second)
    empty = LABELS.clone()
    empty[1] = torch.tensor([1, -100, -100, -100])  # its box would be nowhere
    torch.testing.assert_close(model(**small_inputs, labels=empty, mask_labels=MASKS).loss_parts["mask"], first)


def test_no_row_with_a_mask_is_a_loss_of_zero(model, small_inputs):
    output = model(**small_inputs, labels=LABELS, mask_labels=MASKS, mask_loss_mask=torch.zeros(3))
    assert output.loss_parts["mask"] == 0
    output.loss.backward()


def test_masks_of_another_shape_are_refused(model, small_inputs):
    with pytest.raises(ValueError, match=r"mask_labels must be \(3, 64, 64\).*\(2, 64, 64\)"):
        model(**small_inputs, labels=LABELS, mask_labels=MASKS[:2])
    with pytest.raises(ValueError, match="mask_labels need labels"):
        model(**small_inputs, decoder_input_ids=LABELS.clamp(min=0), mask_labels=MASKS)


def test_the_mask_loss_reaches_the_adapter_and_the_text_but_not_the_box_nor_frozen_parts(model, small_inputs):
    model.train().requires_grad_(True)
    for frozen in (model.mask_head.decoder, model.prompt_encoder, model.vision_towers.sam):
        frozen.requires_grad_(False)
    model(**small_inputs, labels=LABELS, mask_labels=MASKS).loss_parts["mask"].backward()
    reached = {name for name, p in model.named_parameters() if p.grad is not None and p.grad.abs().sum() > 0}
    assert {"mask_head.adapter.alpha", "mask_head.adapter.output_tokens.weight"} <= reached
    assert any(name.startswith("language_model.body.decoder") for name in reached)
    assert any(name.startswith("prompt_feature_extractor") for name in reached)
    assert not any(name.startswith(("point_head", "mask_head.decoder", "prompt_encoder")) for name in reached)
    assert not any(name.startswith("vision_towers.sam") for name in reached)


def test_training_takes_the_exact_gradient_of_states_that_see_nothing(model, small_inputs):
    """Only masks read them; a fused kernel gives another gradient."""
    weight = model.language_model.body.decoder.block[0].layer[0].SelfAttention.v.weight

    def gradient() -> torch.Tensor:
        weight.grad = None
        model(**small_inputs, labels=LABELS, mask_labels=MASKS).loss_parts["mask"].backward()
        return weight.grad

    model.language_model.body.set_attn_implementation("eager")
    exact = gradient()
    model.language_model.body.set_attn_implementation("sdpa")
    torch.testing.assert_close(model.train() and gradient(), exact)
    assert model.language_model.body.config._attn_implementation == "eager"
    model.eval()
    assert model.language_model.body.config._attn_implementation == "sdpa"


def test_without_a_mask_head_training_leaves_attention_as_it_is():
    plain = PixelLLMForGroundedGeneration(PixelLLMConfig.for_tests(mask_head_config=None)).train()
    assert plain.language_model.body.config._attn_implementation == "sdpa"


# --- detections -------------------------------------------------------------------------------------------------


def test_proposals_that_match_an_object_get_its_caption(model, images):
    points = torch.rand(2, 2, 3, 2, 2)
    torch.manual_seed(0)
    output = model(**images, object_boxes=OBJECT_BOXES, object_labels=OBJECT_LABELS, point_labels=points)
    assert set(output.loss_parts) == {"detection", "text", "point"}
    parts = output.loss_parts
    torch.testing.assert_close(output.loss, parts["detection"] + parts["text"] + 0.1 * parts["point"])
    # True boxes are among the proposals, so each caption counts at least once.
    torch.manual_seed(0)
    fused = model.get_image_features(images["pixel_values"], images["pixel_mask"]).fused
    found = model.proposal_head.losses(fused, (64, 64), OBJECT_BOXES)
    torch.testing.assert_close(parts["detection"], found.loss)
    boxes = found.proposals[:, :6]
    index, classes = model.proposal_head.match_captions(boxes, OBJECT_BOXES, torch.tensor([[1, 1], [1, 0]]))
    prompts = classes > 0
    of_image = prompts.nonzero()[:, 0]
    labels = OBJECT_LABELS[torch.arange(2)[:, None], index][prompts]
    text = {name: images[name][of_image] for name in ("input_ids", "attention_mask")}
    by_hand = model(**{**images, **text}, prompt_boxes=boxes, prompt_mask=prompts, labels=labels)
    torch.testing.assert_close(parts["text"], by_hand.loss_parts["text"])
    tokens = torch.nn.functional.pad(labels, (1, 0)).clamp(min=0)
    again = text_loss(output.logits, tokens, label_smoothing=0.1, eos_token_id=1, pad_token_id=0)
    torch.testing.assert_close(parts["text"], again)


@pytest.mark.parametrize("slots", [0, 2])
def test_images_without_objects_train_the_detector_alone(model, images, slots):
    model.train()
    output = model(
        **images,
        object_boxes=torch.zeros(2, slots, 4),
        object_labels=torch.full((2, slots, 3), -100),
        point_labels=torch.zeros(2, slots, 3, 2, 2),
    )
    assert output.loss_parts["text"] == 0 and output.loss_parts["point"] == 0
    assert output.loss_parts["detection"] > 0
    output.loss.backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())
    assert model.language_model.lm_head.weight.grad is not None


def test_the_detection_loss_reaches_the_detector_and_the_towers(model, images):
    model.train()
    model(**images, object_boxes=OBJECT_BOXES, object_labels=OBJECT_LABELS).loss_parts["detection"].backward()
    reached = {name.split(".")[0] for name, p in model.named_parameters() if p.grad is not None}
    assert reached == {"proposal_head", "vision_towers"}


def test_objects_need_a_caption_each(model, images):
    with pytest.raises(ValueError, match="need object_labels with a caption for each"):
        model(**images, object_boxes=OBJECT_BOXES, object_labels=OBJECT_LABELS[:, :1])
    with pytest.raises(ValueError, match="there are none"):
        model(**images, object_boxes=OBJECT_BOXES)


def test_flags_of_generate_may_travel_through_forward(model, small_inputs):
    flags = {"output_masks": torch.tensor(True), "detect_objects": torch.tensor(False), "query_ids": LABELS}
    torch.testing.assert_close(
        model(**small_inputs, **flags, labels=LABELS).loss, model(**small_inputs, labels=LABELS).loss
    )


# --- models and checkpoints -------------------------------------------------------------------------------------


def test_a_saved_model_gives_bit_equal_masks_and_detections(model, small_inputs, images, tmp_path):
    model.save_pretrained(tmp_path)
    loaded = copy.deepcopy(PixelLLMForGroundedGeneration.from_pretrained(tmp_path).eval())
    for inputs, options in (
        (small_inputs, {"query_ids": LABELS.clamp(min=0), "output_masks": True}),
        (images, {"detect_objects": True, "max_new_tokens": 4}),
    ):
        ours, theirs = (m.generate(**inputs, **options) for m in (model, loaded))
        for name in ("sequences", "coordinates", "masks", "prompt_boxes", "detection_scores"):
            if name in ours:
                assert torch.equal(ours[name].nan_to_num(), theirs[name].nan_to_num()), name


def test_a_checkpoint_without_heads_loads_as_it_was_saved(tmp_path):
    config = PixelLLMConfig.for_tests(mask_head_config=None, proposal_head_config=None)
    PixelLLMForGroundedGeneration(config).save_pretrained(tmp_path)
    loaded, report = PixelLLMForGroundedGeneration.from_pretrained(tmp_path, output_loading_info=True)
    assert loaded.mask_head is None and loaded.proposal_head is None
    assert not report["missing_keys"] and not report["unexpected_keys"]


def test_heads_that_a_checkpoint_lacks_start_as_in_a_new_model(tmp_path):
    bare = PixelLLMConfig.for_tests(mask_head_config=None, proposal_head_config=None)
    PixelLLMForGroundedGeneration(bare).save_pretrained(tmp_path)
    loaded = PixelLLMForGroundedGeneration.from_pretrained(tmp_path, config=PixelLLMConfig.for_tests())
    assert all(p.isfinite().all() for p in loaded.parameters())
    assert (loaded.mask_head.adapter.alpha == 0).all()
    assert 0.5 < loaded.mask_head.decoder.mask_tokens.weight.std() < 1.5
    assert (loaded.mask_head.decoder.output_upscaling[1].weight == 1).all()
    generator, (box_head,) = loaded.proposal_head.proposal_generator, loaded.proposal_head.roi_heads.box_head
    assert (generator.agn_hm.bias == -4.6).all() and (generator.bbox_pred.bias == 8).all()
    assert all((scale == 1).all() for scale in generator.scales)
    assert 0.005 < generator.bbox_pred.weight.std() < 0.02
    assert box_head.bbox_pred.weight.abs().max() < 0.01
    assert 0.5 < box_head.fc1.weight.std() * box_head.fc1.in_features**0.5 < 1.5


def test_the_detector_stays_in_float32_when_the_model_is_loaded_in_bfloat16(model, images, small_inputs, tmp_path):
    model.save_pretrained(tmp_path)
    loaded = PixelLLMForGroundedGeneration.from_pretrained(tmp_path, dtype=torch.bfloat16)
    assert {p.dtype for p in loaded.proposal_head.parameters()} == {torch.float32}
    assert loaded.mask_head.decoder.iou_token.weight.dtype == torch.bfloat16
    out = loaded.generate(**images, detect_objects=True, max_new_tokens=3)
    assert out.prompt_boxes.dtype == out.detection_scores.dtype == torch.float32
    out = loaded.generate(**small_inputs, query_ids=LABELS.clamp(min=0), output_masks=True)
    assert out.masks.dtype == out.mask_scores.dtype == out.boxes.dtype == torch.float32


def test_widths_that_do_not_meet_in_the_mask_decoder_are_refused():
    with pytest.raises(ValueError, match="must have one width, but they have 24, 16 and 16"):
        PixelLLMForGroundedGeneration(PixelLLMConfig.for_tests(mask_head_config={"hidden_size": 24}))


@torch.no_grad()
def test_the_prefix_decoder_makes_masks_and_captions_of_detections_too(small_inputs, images):
    torch.manual_seed(0)
    text = {"model_type": "pixelllm_prefix_decoder", "vocab_size": 99, "hidden_size": 32, "num_hidden_layers": 2}
    ids = {"bos_token_id": 2, "decoder_start_token_id": 2, "eos_token_id": 1, "pad_token_id": 0}
    config = PixelLLMConfig.for_tests(text_config={**text, **ids, "num_attention_heads": 4, "intermediate_size": 48})
    model = PixelLLMForGroundedGeneration(config).eval()
    model.mask_head.adapter.alpha.normal_()
    queries = LABELS.clamp(min=0)
    together = model.generate(**small_inputs, query_ids=queries, output_masks=True)
    assert (together.sequences[:, 0] == 2).all()
    alone = model.generate(
        pixel_values=small_inputs["pixel_values"][1:],
        pixel_mask=small_inputs["pixel_mask"][1:],
        input_ids=small_inputs["input_ids"][2:, :2],
        query_ids=queries[2:, :2],
        output_masks=True,
    )
    torch.testing.assert_close(alone.masks[0], together.masks[2], atol=1e-4, rtol=1e-4)
    assert len(model.generate(**images, detect_objects=True, max_new_tokens=3).sequences)
    assert model(**small_inputs, labels=LABELS, mask_labels=MASKS).loss_parts["mask"] > 0


# --- learning ---------------------------------------------------------------------------------------------------


def test_four_masks_are_learnt_by_heart():
    torch.manual_seed(0)
    model = PixelLLMForGroundedGeneration(PixelLLMConfig.for_tests(label_smoothing=0.0)).train()
    pixels = torch.rand(4, 3, 64, 64) * 255
    boxes = torch.tensor([[8.0, 8, 40, 40], [20, 24, 60, 56], [0, 30, 30, 64], [30, 0, 64, 30]])
    labels = torch.tensor([[5, 6, 1], [7, 8, 1], [9, 1, -100], [10, 11, 1]])
    points = (boxes.view(4, 1, 2, 2) / 64).expand(4, 3, 2, 2)
    points = points.masked_fill((labels <= 1)[..., None, None], torch.nan)
    masks = torch.zeros(4, 64, 64, dtype=torch.bool)
    for mask, (x1, y1, x2, y2) in zip(masks, boxes.int().tolist(), strict=True):
        mask[y1:y2, x1:x2] = True
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3)
    for _ in range(100):
        output = model(pixel_values=pixels, labels=labels, point_labels=points, mask_labels=masks)
        optimizer.zero_grad()
        output.loss.backward()
        optimizer.step()
    out = model.eval().generate(pixel_values=pixels, query_ids=labels.clamp(min=0), output_masks=True)
    ours = torch.nn.functional.interpolate(out.masks[:, None], size=(64, 64), mode="bilinear")[:, 0] > 0
    overlap = (ours & masks).sum((1, 2)) / (ours | masks).sum((1, 2))
    assert (overlap > 0.85).all()
    torch.testing.assert_close(out.mask_scores, overlap, atol=0.1, rtol=0)


def test_the_objects_of_four_images_are_learnt_by_heart():
    torch.manual_seed(0)
    model = PixelLLMForGroundedGeneration(PixelLLMConfig.for_tests(label_smoothing=0.0)).train()
    boxes = torch.tensor(
        [
            [[4.0, 4, 36, 36], [30, 34, 62, 60]],
            [[10, 20, 50, 60], [0, 0, 0, 0]],
            [[2, 30, 30, 62], [32, 2, 62, 30]],
            [[0, 0, 0, 0], [0, 0, 0, 0]],
        ]
    )
    labels = torch.tensor(
        [[[5, 6, 1], [7, 8, 1]], [[9, 1, -100], [-100] * 3], [[10, 11, 1], [5, 12, 1]], [[-100] * 3] * 2]
    )
    pixels = torch.rand(4, 3, 64, 64) * 60
    for image, of_image in zip(pixels, boxes.int().tolist(), strict=True):
        for x1, y1, x2, y2 in of_image:
            image[:, y1:y2, x1:x2] += torch.rand(3, 1, 1) * 180
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3)
    for _ in range(120):
        output = model(pixel_values=pixels, object_boxes=boxes, object_labels=labels)
        optimizer.zero_grad()
        output.loss.backward()
        optimizer.step()
    out = model.eval().generate(pixel_values=pixels, detect_objects=True, max_new_tokens=4)
    assert out.prompt_mask.sum(1).tolist() == [2, 1, 2, 0]
    found = {
        tuple(caption): box
        for caption, box in zip(out.sequences[:, 1:].tolist(), out.prompt_boxes[out.prompt_mask], strict=True)
    }
    for caption, box in zip(labels.flatten(0, 1).tolist(), boxes.flatten(0, 1), strict=True):
        if caption[0] > 0:
            caption = tuple(max(token, 0) for token in caption)
            torch.testing.assert_close(found[caption], box, atol=4.0, rtol=0)
