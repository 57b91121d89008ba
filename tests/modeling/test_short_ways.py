"""Ways past the two-way transformer: cells of the map for the decoder, what lies in a box for every token."""

from __future__ import annotations

import pytest
import torch

from pixelllm_hf.modeling.configuration_pixelllm import PixelLLMConfig
from pixelllm_hf.modeling.modeling_pixelllm import PixelLLMForGroundedGeneration
from pixelllm_hf.modeling.prompt_feature_extractor import ChannelDropout, MapLinear
from pixelllm_hf.modeling.prompt_pooling import cell_coverage, class_agreement, prompt_weights
from pixelllm_hf.modeling.vision_towers import VisionFeatures

PREFIX_DECODER = {
    "model_type": "pixelllm_prefix_decoder",
    "vocab_size": 99,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "bos_token_id": 2,
    "eos_token_id": 1,
    "decoder_start_token_id": 2,
}
WAYS = {"reads_map": True, "pools_prompt": True}


def model_with(text: str = "t5", **ways: bool) -> PixelLLMForGroundedGeneration:
    torch.manual_seed(0)
    prompt = PixelLLMConfig.for_tests().prompt_config.to_dict() | ways
    sizes = {"text_config": PREFIX_DECODER} if text == "prefix decoder" else {}
    model = PixelLLMForGroundedGeneration(PixelLLMConfig.for_tests(prompt_config=prompt, **sizes)).eval()
    with torch.no_grad():
        model.language_model.lm_head.weight.mul_(3)
    return model


@pytest.fixture(params=["t5", "prefix decoder"])
def model(request) -> PixelLLMForGroundedGeneration:
    return model_with(request.param, **WAYS)


def each_alone(inputs: dict[str, torch.Tensor]) -> list[dict[str, torch.Tensor]]:
    """The valid prompts of small_inputs, each as a call of its own."""
    alone = []
    for row, (image, prompt) in enumerate(inputs["prompt_mask"].nonzero().tolist()):
        length = int(inputs["attention_mask"][row].sum())
        alone.append(
            {
                "pixel_values": inputs["pixel_values"][image : image + 1],
                "pixel_mask": inputs["pixel_mask"][image : image + 1],
                "prompt_boxes": inputs["prompt_boxes"][image : image + 1, prompt : prompt + 1],
                "input_ids": inputs["input_ids"][row : row + 1, :length],
            }
        )
    return alone


def test_while_training_an_image_loses_whole_channels_of_its_map_but_never_plain_numbers():
    dropout = ChannelDropout(0.5, [True] * 60 + [False] * 4)
    seen = dropout.train()(torch.ones(3, 2, 2, 64))
    assert {*seen[..., :60].unique().tolist()} == {0.0, 2.0}
    assert torch.equal(seen, seen[:, :1, :1].expand_as(seen))
    assert torch.equal(seen[..., 60:], torch.ones(3, 2, 2, 4))
    assert not torch.equal(seen[0], seen[1])
    assert torch.equal(dropout.eval()(seen), seen)


def test_what_reads_a_plain_number_starts_larger_than_what_reads_one_feature_of_many():
    linear = MapLinear(400, 64, [True] * 394 + [False] * 6)
    assert linear.weight[:, :394].std().item() == pytest.approx(0.05, rel=0.1)
    assert linear.weight[:, 394:].std().item() == pytest.approx(0.25, rel=0.2)


def test_models_have_neither_way_unless_asked(small_model):
    assert small_model.prompt_pooling is None
    assert not small_model.config.prompt_config.reads_map
    assert not any("prompt_pooling" in name for name in small_model.state_dict())


@pytest.mark.parametrize("beams", [1, 3])
def test_a_caption_does_not_depend_on_its_neighbours(model, small_inputs, beams):
    together = model.generate(**small_inputs, num_beams=beams, max_new_tokens=6, prompt_chunk_size=2)
    for row, alone in enumerate(each_alone(small_inputs)):
        output = model.generate(**alone, num_beams=beams, max_new_tokens=6)
        length = output.sequences.shape[1]
        assert torch.equal(together.sequences[row, :length], output.sequences[0])
        points = together.coordinates[row, :length]
        torch.testing.assert_close(points, output.coordinates[0], atol=1e-4, rtol=1e-4, equal_nan=True)


def test_given_answers_masks_and_detections_come_as_from_a_pass_that_is_told_the_words(small_inputs):
    model = model_with(**WAYS)
    written = model.generate(**small_inputs, max_new_tokens=5, output_masks=True)
    given = model.generate(**small_inputs, query_ids=written.sequences[:, 1:], output_masks=True)
    torch.testing.assert_close(given.coordinates, written.coordinates, atol=1e-5, rtol=1e-5, equal_nan=True)
    torch.testing.assert_close(given.masks, written.masks, atol=1e-4, rtol=1e-4, equal_nan=True)
    found = model.generate(**{name: small_inputs[name] for name in ("pixel_values", "pixel_mask")}, detect_objects=True)
    assert len(found.sequences) == int(found.prompt_mask.sum())


def test_a_mask_is_made_of_the_visual_tokens_and_not_of_cells():
    model = model_with(**WAYS)
    seen = model.get_prompt_features(model.get_image_features(torch.rand(1, 3, 64, 64) * 255))
    assert seen.tokens.shape[1] == model.config.prompt_config.num_tokens
    assert seen.cells.shape[1] == model.config.vision_config.grid_size**2


def test_the_cells_reach_the_decoder_past_the_encoder(small_inputs):
    model = model_with(reads_map=True)
    lengths = []
    model.language_model.body.encoder.register_forward_pre_hook(
        lambda module, args, kwargs: lengths.append(kwargs["inputs_embeds"].shape[1]), with_kwargs=True
    )
    states, mask = model.encode(**{k: v for k, v in small_inputs.items() if k != "original_sizes"})
    cells = model.config.vision_config.grid_size**2
    assert lengths == [6 + 5] and states.shape[1] == mask.shape[1] == cells + 6 + 5
    # A mask of the text alone says the same as that of everything.
    tokens = torch.zeros(3, 1, dtype=torch.long)
    whole = model(encoder_outputs=(states,), attention_mask=mask, decoder_input_ids=tokens).logits
    of_text = model(encoder_outputs=(states,), attention_mask=small_inputs["attention_mask"], decoder_input_ids=tokens)
    torch.testing.assert_close(of_text.logits, whole)


def test_the_cells_are_those_of_the_map_and_not_what_a_prompt_makes_of_it():
    model = model_with(reads_map=True)
    features = model.get_image_features(torch.rand(2, 3, 64, 64) * 255)
    boxes = torch.tensor([[[0.0, 0, 64, 64], [4, 4, 20, 20]], [[0, 0, 9, 9], [0, 0, 64, 64]]])
    cells = model.get_prompt_features(features, prompt_boxes=boxes).cells
    assert torch.equal(cells[0], cells[1]) and torch.equal(cells[2], cells[3]) and not torch.equal(cells[1], cells[2])
    extractor = model.prompt_feature_extractor
    where = model.prompt_encoder.dense_positions(*features.fused.shape[1:3])
    expected = extractor.image_projection_mlp(features.fused[1]) + extractor.image_pe_projection_mlp(where)
    torch.testing.assert_close(cells[2], extractor.map_norm(expected.flatten(0, 1)), atol=1e-5, rtol=1e-5)


def test_cells_are_projected_where_the_language_model_has_another_width(small_inputs):
    text = PixelLLMConfig.for_tests().text_config.to_dict() | {"d_model": 40}
    prompt = PixelLLMConfig.for_tests().prompt_config.to_dict() | WAYS
    model = PixelLLMForGroundedGeneration(PixelLLMConfig.for_tests(text_config=text, prompt_config=prompt)).eval()
    assert model.prompt_feature_extractor.map_projection.out_features == 40
    assert model.generate(**small_inputs, max_new_tokens=3).coordinates.shape[0] == 3


def test_cells_say_where_they_are():
    """On a map without contents they differ by their positions alone."""
    model = model_with(reads_map=True)
    features = model.get_image_features(torch.zeros(1, 3, 64, 64))
    features.fused = torch.zeros_like(features.fused)
    cells = model.get_prompt_features(features).cells[0]
    assert torch.cdist(cells, cells)[~torch.eye(len(cells), dtype=torch.bool)].min() > 1e-2


@pytest.mark.parametrize("text", ["t5", "prefix decoder"])
def test_every_weight_of_both_ways_learns(text, small_inputs):
    model = model_with(text, **WAYS).train()
    labels = torch.randint(3, 99, (3, 4), generator=torch.Generator().manual_seed(3))
    model(**small_inputs, labels=labels).loss.backward()
    for part in (model.prompt_pooling, model.prompt_feature_extractor.map_norm):
        assert all(p.grad is not None and p.grad.any() for p in part.parameters())


def test_a_saved_model_keeps_its_ways(small_inputs, tmp_path):
    model = model_with(**WAYS)
    model.save_pretrained(tmp_path)
    loaded = PixelLLMForGroundedGeneration.from_pretrained(tmp_path).eval()
    assert loaded.config.prompt_config.reads_map and loaded.config.prompt_config.pools_prompt
    tokens = torch.zeros(3, 1, dtype=torch.long)
    torch.testing.assert_close(
        loaded(**small_inputs, decoder_input_ids=tokens).logits, model(**small_inputs, decoder_input_ids=tokens).logits
    )


def test_what_is_pooled_is_what_lies_in_the_box():
    model = model_with(pools_prompt=True)
    plain = model_with()
    plain.load_state_dict({k: v for k, v in model.state_dict().items() if not k.startswith("prompt_pooling")})
    side = model.config.image_size
    cells = model.config.vision_config.grid_size
    features = model.get_image_features(torch.rand(1, 3, side, side) * 255)
    box = torch.tensor([[[0.0, 0.0, 2 * side / cells, side / cells]]])  # two cells of the first row
    with torch.no_grad():
        pooled = model.prompt_pooling.norm(model.prompt_pooling.projection(features.fused[:, 0, :2].mean(1)))
        added = model.get_visual_tokens(features, prompt_boxes=box) - plain.get_visual_tokens(
            features, prompt_boxes=box
        )
    torch.testing.assert_close(added, pooled[:, None].expand_as(added), atol=1e-4, rtol=1e-4)


DETECTING = {
    "image_size": 64,
    "towers": [
        {
            "model_type": "pixelllm_yolox_tower",
            "base_channels": 4,
            "num_classes": 3,
            "output_maps": ["p4", "detections"],
        }
    ],
    "fused_maps": ["yolox.p4"],
    "mask_map": "yolox.p4",
}


def found(*rows: tuple[list[float], float, list[float]]) -> torch.Tensor:
    return torch.tensor([[*box, there, *classes] for box, there, classes in rows])


def test_a_class_agrees_as_far_as_its_surest_detection_coincides_with_the_box():
    detections = found(
        ([0.0, 0.0, 0.5, 0.5], 1.0, [0.64, 0.0, 0.04]),
        ([0.0, 0.0, 0.5, 0.25], 0.5, [0.0, 0.5, 0.5]),
        ([0.5, 0.5, 1.0, 1.0], 1.0, [1.0, 1.0, 1.0]),  # elsewhere
    )
    boxes = torch.tensor([[0.0, 0.0, 0.5, 0.5], [0.2, 0.2, 0.2, 0.2], [0.0, 0.0, 1.0, 1.0]])
    mask = torch.tensor([[True, True, False]])
    agreed = class_agreement(boxes[None], detections[None], mask)
    torch.testing.assert_close(agreed, torch.tensor([[0.8, 0.25, 0.25], [0.0, 0.0, 0.0]]))


def test_each_prompt_is_told_of_the_detections_of_its_own_image():
    here, there = found(([0.0, 0, 1, 1], 1.0, [1.0])), found(([0.0, 0, 1, 1], 1.0, [0.25]))
    whole = torch.tensor([0.0, 0, 1, 1]).expand(2, 2, 4)
    agreed = class_agreement(whole, torch.stack([here, there]), torch.tensor([[True, False], [True, True]]))
    torch.testing.assert_close(agreed, torch.tensor([[1.0], [0.5], [0.5]]))


def test_what_a_detector_says_reaches_the_prompts_tokens_and_is_kept_when_saved(tmp_path):
    torch.manual_seed(0)
    ways = PixelLLMConfig.for_tests().prompt_config.to_dict()
    ways |= {"pools_prompt": True, "pooled_detections": "yolox.detections"}
    model = PixelLLMForGroundedGeneration(PixelLLMConfig.for_tests(vision_config=DETECTING, prompt_config=ways)).eval()
    features = model.get_image_features(torch.rand(1, 3, 64, 64) * 255)
    box = torch.tensor([[[0.0, 0.0, 32.0, 32.0]]])
    before = model.get_visual_tokens(features, prompt_boxes=box)
    certain = features.maps["yolox.detections"].clone()
    certain[0, 0, 0] = torch.tensor([0.0, 0.0, 0.5, 0.5, 1.0, 1.0, 0.0, 0.0])
    told = VisionFeatures(fused=features.fused, maps=features.maps | {"yolox.detections": certain})
    after = model.get_visual_tokens(told, prompt_boxes=box)
    assert not torch.allclose(before, after)
    model.save_pretrained(tmp_path)
    again = PixelLLMForGroundedGeneration.from_pretrained(tmp_path).eval()
    torch.testing.assert_close(again.get_visual_tokens(told, prompt_boxes=box), after)


@pytest.mark.parametrize(
    ("ways", "problem"),
    [
        ({"pools_prompt": True, "pooled_detections": "yolox.boxes"}, r"yolox\.p4, yolox\.detections"),
        ({"pooled_detections": "yolox.detections"}, "pools_prompt"),
    ],
)
def test_detections_that_are_not_there_or_not_pooled_are_refused(ways, problem):
    with pytest.raises(ValueError, match=problem):
        PixelLLMConfig.for_tests(vision_config=DETECTING, prompt_config=ways)


def test_coverage_is_the_share_of_a_box_in_each_cell():
    boxes = torch.tensor([[0.25, 0.0, 0.75, 1.0], [0.0, 0.0, 1.0, 1.0]])
    covered = cell_coverage(boxes, (2, 4))
    assert covered[0].tolist() == [[0.0, 0.25, 0.25, 0.0]] * 2
    assert covered[1].tolist() == [[0.125] * 4] * 2


@pytest.mark.parametrize(
    ("box", "expected"),
    [
        ([0.375, 0.375, 0.375, 0.375], {(1, 1): 1.0}),  # the middle of a cell
        ([0.5, 0.375, 0.5, 0.375], {(1, 1): 0.5, (1, 2): 0.5}),  # between two
        ([0.37, 0.37, 0.38, 0.38], {(1, 1): 1.0}),  # smaller than a cell
        ([0.0, 0.0, 0.0, 0.0], {(0, 0): 1.0}),  # at the border
        ([1.5, -3.0, 2.0, -2.0], {(0, 3): 1.0}),  # beyond it
    ],
)
def test_what_is_smaller_than_a_cell_stands_for_one(box, expected):
    covered = cell_coverage(torch.tensor(box), (4, 4))
    wanted = torch.zeros(4, 4)
    for place, share in expected.items():
        wanted[place] = share
    torch.testing.assert_close(covered, wanted, atol=1e-5, rtol=1e-5)


def test_points_inside_speak_where_a_prompt_has_no_box():
    boxes = torch.tensor([[[0.0, 0, 0, 0], [0, 0, 8, 8], [0, 0, 0, 0]]])
    points = torch.tensor([[[1.0, 1], [5, 1], [7, 7]], [[1, 1], [1, 1], [1, 1]], [[1, 1], [7, 1], [7, 7]]])[None]
    labels = torch.tensor([[[1, 1, 0], [1, 1, 1], [0, 0, -1]]])
    weights = prompt_weights(boxes, points, labels, (4, 4), image_size=8)[0]
    assert weights[0, 0].tolist() == [0.5, 0.0, 0.5, 0.0] and weights[0, 1:].sum() == 0
    torch.testing.assert_close(weights[1], torch.full((4, 4), 1 / 16))
    torch.testing.assert_close(weights.sum((1, 2)), torch.ones(3))  # the last has no point inside


def test_the_whole_image_is_pooled_without_its_padding():
    model = model_with(pools_prompt=True)
    features = model.get_image_features(torch.rand(1, 3, 64, 64) * 255)
    mask = torch.zeros(1, 64, 64, dtype=torch.bool)
    mask[:, :32] = True
    before = model.get_visual_tokens(features, mask)
    seen = []
    model.prompt_pooling.projection.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    model.get_visual_tokens(features, mask)
    torch.testing.assert_close(seen[0], features.fused[:, :2].mean((1, 2)), atol=1e-5, rtol=1e-5)
    assert before.isfinite().all()
