from __future__ import annotations

import pytest
import torch

from pixelllm_hf.modeling.prompt_rows import PromptRows
from pixelllm_hf.modeling.vision_towers import VisionFeatures


def rows_of(mask: list[list[int]], **others: torch.Tensor) -> PromptRows:
    """Prompts whose boxes and texts are numbered, and images whose maps are."""
    prompts = torch.tensor(mask, dtype=torch.bool)
    numbers = torch.arange(prompts.numel()).view_as(prompts).float()
    fused = torch.arange(len(prompts)).float()[:, None, None, None]
    return PromptRows(
        image_features=VisionFeatures(fused=fused, maps={"sam": fused + 10}),
        boxes=numbers[..., None].expand(-1, -1, 4),
        mask=prompts,
        **({"input_ids": numbers[prompts][:, None].long()} | others),
    )


@pytest.mark.parametrize("size", [1, 2, 3, 7])
def test_portions_hold_every_prompt_once_in_order_with_its_image_and_text(size):
    rows = rows_of([[1, 0, 1], [0, 0, 0], [1, 1, 1], [0, 1, 0]])
    seen = []
    for chunk in rows.chunks(size):
        assert 1 <= len(chunk) <= size
        assert torch.equal(chunk.boxes[chunk.prompt_mask][:, :1].long(), chunk.input_ids)
        for image, prompt in chunk.prompt_mask.nonzero().tolist():
            assert chunk.image_features["sam"][image].item() == 10 + chunk.image_features.fused[image].item()
            assert chunk.boxes[image, prompt, 0] // 3 == chunk.image_features.fused[image].item()
        seen += chunk.input_ids[:, 0].tolist()
    assert seen == [0, 2, 6, 7, 8, 10]


def test_a_portion_has_no_images_before_or_after_its_own():
    chunks = list(rows_of([[1, 1], [1, 1], [1, 1]]).chunks(2))
    assert [chunk.image_features.fused.flatten().tolist() for chunk in chunks] == [[0.0], [1.0], [2.0]]


def test_without_a_mask_every_prompt_counts_and_without_prompts_every_image():
    fused = torch.zeros(3, 1, 1, 1)
    assert len(PromptRows(image_features=VisionFeatures(fused=fused), boxes=torch.zeros(3, 2, 4))) == 6
    whole = PromptRows(image_features=VisionFeatures(fused=fused))
    assert [len(chunk) for chunk in whole.chunks(2)] == [2, 1]


def test_rows_of_text_that_are_too_few_are_refused():
    with pytest.raises(ValueError, match="query_ids must have one row per valid prompt.*2 prompts and 1 rows"):
        rows_of([[1, 1]], query_ids=torch.zeros(1, 2, dtype=torch.long))


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("prompt_boxes", lambda boxes: boxes[..., :3]),
        ("prompt_boxes", lambda boxes: boxes[0]),
        ("prompt_boxes", lambda boxes: boxes[:1]),
        ("prompt_mask", lambda mask: torch.cat([mask, torch.zeros_like(mask)], dim=1)),
        ("attention_mask", lambda mask: mask.repeat(1, 3)),
        ("attention_mask", lambda mask: mask[:, :2]),
    ],
)
def test_prompts_of_another_shape_are_refused_by_name(small_model, small_inputs, name, change):
    given = small_inputs | {name: change(small_inputs[name])}
    for call in (small_model.generate, lambda **inputs: small_model(**inputs, labels=torch.ones(3, 2).long())):
        with pytest.raises(ValueError, match=f"{name} must have the shape"):
            call(**given)
