"""Several texts of an image in one decoder row."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from pixelllm_hf.data.collator import GroundedCollator
from pixelllm_hf.data.grounded_examples import grounded_prompt, grounded_row
from pixelllm_hf.data.packed_labels import pack_labels
from pixelllm_hf.data.tokenizer_training import train_tokenizer
from pixelllm_hf.modeling.configuration_pixelllm import PixelLLMConfig
from pixelllm_hf.modeling.modeling_pixelllm import PixelLLMForGroundedGeneration

TEXTS = ("a red square", "a square", "a red car and a blue square")


def rows(**prompt: Any) -> list[dict[str, Any]]:
    """Two images with three and two texts."""
    boxes = [[4.0, 4, 40, 30], [10.0, 0, 30, 60], [0.0, 0, 64, 64]]
    prompts = [
        grounded_prompt(text, object_box=box, point_loss=True, **prompt) for text, box in zip(TEXTS, boxes, strict=True)
    ]
    made = [grounded_row(None, name, (64, 48), "caption", kept) for name, kept in (("a", prompts), ("b", prompts[1:]))]
    image = Image.fromarray(np.random.default_rng(0).integers(0, 255, (48, 64, 3), np.uint8))
    return [{**row, "image": image} for row in made]


def collated(rows: list[dict[str, Any]], **settings: Any) -> dict[str, torch.Tensor]:
    collate = GroundedCollator(
        train_tokenizer(TEXTS, max_pieces=99),
        image_size=64,
        max_prompts=8,
        contexts={"caption": ["what is here?"]},
        object_points="all",
        **settings,
    )
    return collate(rows)


@pytest.fixture(scope="module")
def model() -> PixelLLMForGroundedGeneration:
    torch.manual_seed(0)
    return PixelLLMForGroundedGeneration(PixelLLMConfig.for_tests()).eval()


def test_a_packed_row_says_of_every_text_what_a_row_of_its_own_says(model: PixelLLMForGroundedGeneration) -> None:
    alone, packed = collated(rows()), collated(rows(), pack=True)
    assert len(alone["labels"]) == 5 and len(packed["labels"]) == 2
    with torch.no_grad():
        one, together = model(**alone), model(**packed)
    for name in ("text", "point"):
        torch.testing.assert_close(together.loss_parts[name], one.loss_parts[name], rtol=1e-4, atol=1e-4)
    segments, text = packed["label_segments"], 0
    for row, count in enumerate((3, 2)):
        for segment in range(count):
            here = (segments[row] == segment).nonzero()[:, 0]
            torch.testing.assert_close(together.logits[row, here], one.logits[text, : len(here)], rtol=1e-4, atol=1e-4)
            text += 1


def test_prompts_about_other_boxes_keep_their_own_rows() -> None:
    made = rows()
    made[0]["prompts"][1] = {**made[0]["prompts"][1], "box": [0.0, 0, 32, 32]}
    packed = collated(made, pack=True)
    assert packed["prompt_mask"].tolist() == [[True, True], [True, False]]
    assert packed["label_segments"].amax(1).tolist() == [1, 0, 1]


def test_a_text_that_was_cut_before_its_end_gives_its_last_word_no_place_of_the_next_text() -> None:
    labels = torch.tensor([[5, 6], [7, 1]])
    points = torch.rand(2, 2, 2, 2)
    packed = pack_labels({"labels": labels, "point_labels": points}, [2])
    assert packed["labels"].tolist() == [[5, 6, 7, 1]]
    assert packed["point_labels"].isfinite().flatten(2).all(-1).tolist() == [[True, False, True, False]]


def test_segments_are_of_the_labels_shape(model: PixelLLMForGroundedGeneration) -> None:
    packed = collated(rows(), pack=True)
    with pytest.raises(ValueError, match="same shape"):
        model(**{**packed, "label_segments": packed["label_segments"][:, :-1]})


def test_a_language_model_that_counts_from_the_start_takes_one_text_a_row() -> None:
    config = PixelLLMConfig.for_tests(
        text_config={
            "model_type": "pixelllm_prefix_decoder",
            "vocab_size": 99,
            "hidden_size": 24,
            "num_hidden_layers": 1,
            "num_attention_heads": 2,
            "intermediate_size": 24,
        }
    )
    with pytest.raises(ValueError, match="T5"):
        PixelLLMForGroundedGeneration(config)(**collated(rows(), pack=True))
