from __future__ import annotations

import pytest
import torch

from pixelllm_hf.modeling.configuration_heads import PixelLLMProposalHeadConfig, PixelLLMTowerProposalConfig
from pixelllm_hf.modeling.configuration_pixelllm import PixelLLMConfig
from pixelllm_hf.modeling.modeling_pixelllm import PixelLLMForGroundedGeneration
from pixelllm_hf.modeling.tower_proposals import TowerProposalHead

MAPS = ["p4", "detections"]
YOLOX = {"model_type": "pixelllm_yolox_tower", "base_channels": 4, "num_classes": 3, "output_maps": MAPS}
TOWER = {"model_type": "pixelllm_tower_proposals"}
SIZE_HW = (100, 100)


def found(*rows: tuple[list[float], float, list[float]]) -> torch.Tensor:
    """One image's cells of (box in shares of the canvas, object, classes)."""
    return torch.tensor([[*box, there, *classes] for box, there, classes in rows])[None]


def config(**proposals) -> PixelLLMConfig:
    vision = {"image_size": 64, "towers": [YOLOX], "fused_maps": ["yolox.p4"], "mask_map": "yolox.p4"}
    return PixelLLMConfig.for_tests(vision_config=vision, proposal_head_config=TOWER | proposals)


@pytest.fixture
def model() -> PixelLLMForGroundedGeneration:
    """One that finds something: weights of a detector that has learnt nothing are sure of nothing."""
    torch.manual_seed(0)
    return PixelLLMForGroundedGeneration(config(detection_score_threshold=0.0, max_detections=4)).eval()


def test_boxes_come_best_first_in_canvas_pixels_whatever_their_class():
    cells = found(
        ([0.1, 0.1, 0.5, 0.5], 0.5, [0.2, 0.8, 0.0]),  # 0.4
        ([0.1, 0.1, 0.5, 0.49], 0.9, [0.9, 0.0, 0.0]),  # 0.81, the same object under another name
        ([0.6, 0.5, 1.2, 0.9], 0.6, [0.0, 0.0, 1.0]),  # 0.6, beyond the canvas
        ([0.0, 0.8, 0.1, 0.9], 0.1, [0.1, 0.1, 0.1]),  # too unsure
        ([0.3, 0.8, 0.3, 0.9], 0.9, [0.9, 0.1, 0.1]),  # no area
    )
    output = TowerProposalHead(PixelLLMTowerProposalConfig(max_detections=3), 100)(cells, SIZE_HW)
    assert output.num_detections.tolist() == [2]
    torch.testing.assert_close(output.boxes[0], torch.tensor([[10.0, 10, 50, 49], [60, 50, 100, 90], [0, 0, 0, 0]]))
    torch.testing.assert_close(output.scores[0], torch.tensor([0.81, 0.6, 0.0]))


def test_boxes_end_at_the_image_where_its_size_is_told():
    head = TowerProposalHead(PixelLLMTowerProposalConfig(), 100)
    boxes = head(found(([0.1, 0.1, 0.9, 0.9], 1.0, [1.0])), torch.tensor([[50, 80]])).boxes
    assert boxes[0, 0].tolist() == [10, 10, 80, 50]


def test_no_more_boxes_come_than_are_asked_for():
    cells = found(*(([i / 10, 0.0, i / 10 + 0.1, 0.1], 1.0 - i / 20, [1.0]) for i in range(8)))
    head = TowerProposalHead(PixelLLMTowerProposalConfig(max_detections=5), 100)
    assert head(cells, SIZE_HW).scores[0].tolist() == pytest.approx([1.0, 0.95, 0.9, 0.85, 0.8])
    few = TowerProposalHead(PixelLLMTowerProposalConfig(pre_nms_topk=2), 100)(cells, SIZE_HW)
    assert few.num_detections.tolist() == [2]


def test_images_without_objects_have_no_detection():
    head = TowerProposalHead(PixelLLMTowerProposalConfig(), 100)
    output = head(found(([0.1, 0.1, 0.9, 0.9], 0.0, [1.0])), SIZE_HW)
    assert output.num_detections.tolist() == [0] and not output.boxes.any()


def test_every_box_is_captioned_and_scored_as_it_was_found(model):
    pixels = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(1)) * 255
    output = model.generate(pixel_values=pixels, detect_objects=True, max_new_tokens=4)
    features = model.get_image_features(pixels)
    found = model.proposal_head(model.proposal_head.reads(features), (64, 64))
    number = int(found.num_detections.max())
    assert 0 < number <= 4
    torch.testing.assert_close(output.prompt_boxes, found.boxes[:, :number])
    torch.testing.assert_close(output.detection_scores, found.scores[:, :number])
    assert len(output.sequences) == int(found.num_detections.sum())
    alone = model.generate(pixel_values=pixels[1:], prompt_boxes=output.prompt_boxes[1:, :1], max_new_tokens=4)
    row = int(output.prompt_mask[0].sum())
    assert torch.equal(output.sequences[row, : alone.sequences.shape[1]], alone.sequences[0])


@pytest.mark.parametrize("beams", [1, 2])
def test_scores_may_count_how_likely_the_captions_are(beams):
    torch.manual_seed(0)
    asked = config(detection_score_threshold=0.0, max_detections=4, multiply_caption_score=True)
    model = PixelLLMForGroundedGeneration(asked).eval()
    pixels = torch.rand(1, 3, 64, 64) * 255
    output = model.generate(pixel_values=pixels, detect_objects=True, max_new_tokens=4, num_beams=beams)
    assert output.detection_scores[0].diff().le(0).all() and output.detection_scores.max() < 1


def test_captions_of_what_was_found_are_learnt_with_a_head_that_learns_nothing(model):
    boxes = torch.tensor([[[4.0, 4, 30, 30], [30, 30, 60, 60]], [[0, 0, 64, 64], [0, 0, 0, 0]]])
    labels = torch.randint(3, 99, (2, 2, 4))
    output = model.train()(pixel_values=torch.rand(2, 3, 64, 64) * 255, object_boxes=boxes, object_labels=labels)
    assert output.loss_parts["detection"] == 0 and output.loss_parts["text"] > 0
    output.loss.backward()
    assert model.language_model.lm_head.weight.grad.any()
    proposals = model.proposal_head.losses(
        model.proposal_head.reads(model.get_image_features(torch.zeros(2, 3, 64, 64))), (64, 64), boxes
    ).proposals
    assert torch.equal(proposals[0, :2], boxes[0]) and torch.equal(proposals[1, 0], boxes[1, 0])


def test_it_has_no_weights_and_is_saved_as_what_it_is(model, tmp_path):
    assert not any(name.startswith("proposal_head") for name in model.state_dict())
    model.save_pretrained(tmp_path)
    loaded = PixelLLMForGroundedGeneration.from_pretrained(tmp_path).eval()
    assert isinstance(loaded.proposal_head, TowerProposalHead)
    assert loaded.proposal_head.config.max_detections == 4
    pixels = torch.rand(1, 3, 64, 64) * 255
    torch.testing.assert_close(
        loaded.generate(pixel_values=pixels, detect_objects=True, max_new_tokens=3).prompt_boxes,
        model.generate(pixel_values=pixels, detect_objects=True, max_new_tokens=3).prompt_boxes,
    )


def test_proposals_from_maps_that_no_tower_gives_are_refused():
    with pytest.raises(ValueError, match=r"yolox\.p4, yolox\.detections"):
        config(maps=["yolox.p4", "yolox.nothing"])
    with pytest.raises(ValueError, match="Supported as proposal_head_config are: pixelllm_proposal_head, pixelllm_tow"):
        PixelLLMConfig.for_tests(proposal_head_config={"model_type": "nonsense"})


def test_a_proposal_head_without_a_kind_is_the_official_one():
    assert isinstance(
        PixelLLMConfig.for_tests(proposal_head_config={}).proposal_head_config, PixelLLMProposalHeadConfig
    )
    assert isinstance(PixelLLMConfig.photo().proposal_head_config, PixelLLMTowerProposalConfig)


CONVERSIONS = {
    "loaded": lambda folder: PixelLLMForGroundedGeneration.from_pretrained(folder, dtype="bfloat16"),
    "converted": lambda folder: PixelLLMForGroundedGeneration.from_pretrained(folder).to(torch.bfloat16),
}


@pytest.mark.parametrize("conversion", CONVERSIONS)
@torch.no_grad()
def test_what_is_detected_does_not_move_in_half_precision(model, tmp_path, conversion):
    model.save_pretrained(tmp_path)
    half = CONVERSIONS[conversion](tmp_path).eval()
    assert half.dtype == torch.bfloat16 and half.vision_towers.yolox.stem[0].weight.dtype == torch.float32
    pixels = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(1)) * 255
    exact, found = (m.generate(pixel_values=pixels, detect_objects=True, max_new_tokens=2) for m in (model, half))
    assert len(exact.prompt_boxes[0]) > 1
    torch.testing.assert_close(found.prompt_boxes, exact.prompt_boxes)
    torch.testing.assert_close(found.detection_scores, exact.detection_scores)
    features = half.get_image_features(pixels)
    assert features.fused.dtype == features["yolox.p4"].dtype == torch.bfloat16
    assert features["yolox.detections"].dtype == torch.float32
