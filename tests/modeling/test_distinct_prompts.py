from __future__ import annotations

import torch

from pixelllm_hf.modeling.prompt_rows import distinct_prompts


def test_distinct_prompts_keep_the_first_of_equal_ones() -> None:
    a, b, none = [0.0, 0, 5, 5], [1.0, 1, 2, 2], [0.0, 0, 0, 0]
    boxes = torch.tensor([[a, b, a, none], [b, b, a, a]])
    mask = torch.tensor([[True, True, True, False], [True, True, True, True]])
    kept, rows = distinct_prompts(boxes, mask)
    assert kept.tolist() == [[True, True, False, False], [True, False, True, False]]
    assert rows.tolist() == [0, 1, 0, 2, 2, 3, 3]


def test_sharing_equal_prompts_changes_no_answer(small_model, small_inputs) -> None:
    """Two images with repeated places against the same places asked one by one."""
    whole, part, none = [0.0, 0, 64, 64], [8.0, 8, 30, 40], [0.0, 0, 0, 0]
    boxes = torch.tensor([[whole, part, whole], [whole, whole, none]])
    mask = boxes.amax(-1) > 0
    pixels = {name: small_inputs[name] for name in ("pixel_values", "pixel_mask")}
    features = small_model.get_image_features(**pixels)
    together = small_model.get_visual_tokens(features, prompt_boxes=boxes, prompt_mask=mask)
    alone = [
        small_model.get_visual_tokens(
            small_model.get_image_features(**{name: value[i : i + 1] for name, value in pixels.items()}),
            prompt_boxes=boxes[i : i + 1, n : n + 1],
        )
        for i, n in mask.nonzero().tolist()
    ]
    torch.testing.assert_close(together, torch.cat(alone), atol=1e-4, rtol=1e-4)


def test_an_image_with_equal_prompts_is_extracted_once(small_model, small_inputs, monkeypatch) -> None:
    seen = []
    extractor = small_model.prompt_feature_extractor
    extract = extractor.forward
    monkeypatch.setattr(extractor, "forward", lambda *args: seen.append(int(args[-1].sum())) or extract(*args))
    boxes = torch.tensor([0.0, 0, 64, 64]).expand(2, 5, 4)
    features = small_model.get_image_features(small_inputs["pixel_values"], small_inputs["pixel_mask"])
    assert small_model.get_visual_tokens(features, prompt_boxes=boxes).shape[0] == 10
    assert seen == [2]
