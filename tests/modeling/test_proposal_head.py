from __future__ import annotations

from pathlib import Path

import pytest
import torch

from pixelllm_hf.conversion.parity.golden import Golden
from pixelllm_hf.conversion.scenic import convert_module, restore_module
from pixelllm_hf.conversion.scenic_hparams import proposal_head_config
from pixelllm_hf.modeling.configuration_heads import PixelLLMProposalHeadConfig
from pixelllm_hf.modeling.proposal_head import ProposalHead

GOLDEN = Path(__file__).parents[1] / "golden" / "pixelllm" / "box_decoder.safetensors"
SIZE_HW = (128, 128)


@pytest.fixture
def golden() -> Golden:
    return Golden.read(GOLDEN)


def official_head(golden: Golden, **overrides) -> ProposalHead:
    head = ProposalHead(proposal_head_config({**golden.hparams, **overrides}), 30).eval()
    weights = convert_module("box_decoder", golden.params)
    unused = tuple(f"roi_heads.box_head.{k}." for k in range(len(head.roi_heads.box_head), 3))
    head.load_state_dict({name: value for name, value in weights.items() if not name.startswith(unused)})
    return head


def small_config(**overrides) -> PixelLLMProposalHeadConfig:
    sizes = dict(
        pyramid_channels=16,
        pyramid_input_size=32,
        tower_channels=32,
        num_tower_layers=1,
        tower_groups=8,
        post_nms_topk=40,
        post_nms_topk_train=60,
        roi_hidden_sizes=(64, 64),
        roi_samples=48,
        max_detections=10,
    )
    return PixelLLMProposalHeadConfig(**(sizes | overrides))


@pytest.mark.parametrize(("name", "thresholds"), [("stage1", (0.6,)), ("cascade3", (0.6, 0.7, 0.8))])
def test_detections_equal_the_reference(golden, name, thresholds):
    head = official_head(golden, roi_matching_threshold=thresholds)
    with torch.no_grad():
        output = head(golden.inputs["image_embeddings"], golden.inputs["image_shape_hw"])
    expected = {key.removeprefix(f"{name}/"): value for key, value in golden.outputs.items() if key.startswith(name)}
    torch.testing.assert_close(output.boxes, expected["detection_boxes"], rtol=1e-4, atol=1e-3)
    torch.testing.assert_close(output.scores, expected["detection_scores"], rtol=1e-4, atol=1e-5)
    assert output.num_detections.tolist() == expected["num_detections"].tolist()


def test_losses_proposals_and_gradients_equal_the_reference(golden):
    head, inputs = official_head(golden), golden.inputs
    output = head.losses(inputs["image_embeddings"], SIZE_HW, inputs["gt_boxes"], inputs["gt_classes"])
    torch.testing.assert_close(output.loss, golden.outputs["train/total_loss"][0], rtol=1e-5, atol=0)
    torch.testing.assert_close(output.proposals, golden.outputs["train/last_proposals"], rtol=1e-4, atol=1e-3)
    index, classes = head.match_captions(output.proposals, inputs["gt_boxes"], inputs["gt_classes"].long())
    assert torch.equal(index, golden.outputs["train/matched_idx"].long())
    assert torch.equal(classes, golden.outputs["train/matched_class"].long())
    output.loss.backward()
    gradients = {name: p.grad for name, p in head.named_parameters() if p.grad is not None}
    for name, gradient in restore_module("box_decoder", golden.params, gradients).items():
        if (expected := golden.outputs.get(f"train/grad/{name}")) is not None:
            torch.testing.assert_close(gradient, expected, rtol=1e-3, atol=1e-5)


def test_an_image_does_not_depend_on_its_neighbours(golden):
    head, maps = official_head(golden), golden.inputs["image_embeddings"]
    together, alone = head(maps, SIZE_HW), head(maps[1:], SIZE_HW)
    torch.testing.assert_close(together.boxes[1:], alone.boxes, rtol=1e-4, atol=1e-3)


def test_boxes_end_at_their_own_image(golden):
    boxes = official_head(golden)(golden.inputs["image_embeddings"], torch.tensor([[128, 60], [50, 128]])).boxes
    assert boxes[0, :, 2].max() == 60 and boxes[1, :, 3].max() == 50
    assert boxes.min() >= 0


def test_a_box_of_class_zero_is_no_object(golden):
    head, maps, boxes = official_head(golden), golden.inputs["image_embeddings"], golden.inputs["gt_boxes"]
    classes = torch.tensor([[1, 0, 1, 1], [1, 1, 0, 0]])
    zeroed = boxes * classes[..., None]
    assert torch.equal(head.losses(maps, SIZE_HW, boxes, classes).loss, head.losses(maps, SIZE_HW, zeroed).loss)


@pytest.mark.parametrize("rows", [0, 2])
def test_images_without_objects_can_be_trained_on(rows):
    torch.manual_seed(0)
    head = ProposalHead(small_config(), 12)
    output = head.losses(torch.randn(2, 10, 10, 12), (160, 160), torch.zeros(2, rows, 4))
    output.loss.backward()
    assert output.loss.isfinite()
    assert output.loss_parts["distance"] == 0 and output.loss_parts["roi_box"] == 0
    index, classes = head.match_captions(output.proposals, torch.zeros(2, rows, 4), torch.zeros(2, rows).long())
    assert not index.any() and not classes.any()


def test_a_head_learns_to_find_the_objects_of_three_images():
    torch.manual_seed(0)
    head = ProposalHead(small_config(detection_score_threshold=0.4), 12)
    boxes = torch.tensor([[[20.0, 24, 60, 70], [90, 90, 140, 120]], [[64, 8, 150, 50], [0] * 4], [[0] * 4, [0] * 4]])
    maps = torch.randn(3, 10, 10, 12) * 0.1
    for image, of_image in zip(maps, boxes, strict=True):
        for x1, y1, x2, y2 in (of_image / 16).round().int().tolist():
            image[y1:y2, x1:x2] += torch.randn(12)
    optimizer = torch.optim.Adam(head.parameters(), lr=4e-3)
    for _ in range(160):
        optimizer.zero_grad()
        head.losses(maps, (160, 160), boxes).loss.backward()
        optimizer.step()
    output = head.eval()(maps, (160, 160))
    assert output.num_detections.tolist() == [2, 1, 0]
    found = output.boxes[0, :2][output.boxes[0, :2, 0].argsort()]
    # Half a cell: which corner is worst differs between processors.
    torch.testing.assert_close(found, boxes[0], rtol=0, atol=8.0)
    torch.testing.assert_close(output.boxes[1, 0], boxes[1, 0], rtol=0, atol=8.0)


def test_half_precision_maps_go_through_a_head_of_float32():
    torch.manual_seed(0)
    head, maps = ProposalHead(small_config(), 12), torch.randn(1, 10, 10, 12).bfloat16()
    torch.testing.assert_close(head(maps, (160, 160)).boxes, head(maps.float(), (160, 160)).boxes)


@pytest.mark.parametrize(
    ("overrides", "rule"),
    [
        ({"strides": (8, 16, 32, 64)}, "five powers of 2"),
        ({"strides": (8, 16, 32, 64, 256)}, "five powers of 2"),
        ({"strides": (7, 14, 28, 56, 112)}, "five powers of 2"),
        ({"level_ranges": ((0, 40),)}, "each of 5 levels"),
        ({"roi_matching_thresholds": ()}, "1 to 3"),
    ],
)
def test_a_config_whose_parts_do_not_fit_is_refused(overrides, rule):
    with pytest.raises(ValueError, match=rule):
        ProposalHead(small_config(**overrides), 12)


def test_sizes_that_are_not_one_per_image_are_refused():
    head = ProposalHead(small_config(), 12)
    with pytest.raises(ValueError, match="2 images"):
        head(torch.randn(2, 10, 10, 12), torch.tensor([[160, 160]] * 3))
