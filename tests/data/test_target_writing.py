from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from pixelllm_hf.data.collator import GroundedCollator
from pixelllm_hf.data.grounded_examples import grounded_prompt, grounded_row, grounded_target
from pixelllm_hf.data.image_transforms import Augmentation
from pixelllm_hf.data.mirrored_text import mirrored_prompt
from pixelllm_hf.data.target_writing import write_targets
from pixelllm_hf.data.tokenizer_training import train_tokenizer
from pixelllm_hf.processing.mask_codec import encode_rle
from pixelllm_hf.processing.target_tokens import add_target_tokens, target_token_ids

ANSWER = "you can eat a Red apple {seg}, and here a pear {seg}."


@pytest.fixture(scope="module")
def tokenizer():
    made = train_tokenizer(["you can eat a red apple and here a pear", "what can be eaten left right"])
    assert add_target_tokens(made, 2) == target_token_ids(made) == [len(made) - 2, len(made) - 1]
    return made


def words(tokenizer, ids) -> list[str]:
    return tokenizer.convert_ids_to_tokens(list(ids))


def test_every_placeholder_becomes_the_groups_tokens_behind_the_words_before_it(tokenizer):
    answer = write_targets(tokenizer, ANSWER, ["a red apple", "pear"], target_token_ids(tokenizer))
    assert words(tokenizer, answer.ids) == (
        "▁you ▁can ▁eat ▁a ▁red ▁apple [SEG0] [SEG1] , ▁and ▁here ▁a ▁pear [SEG0] [SEG1] .".split()
    )
    assert answer.target_of_token == [-1, -1, -1, 0, 0, 0, 0, 0, -1, -1, -1, -1, 1, 1, 1, -1]
    assert answer.group_ends == [8, 15]


def test_the_words_of_an_answer_are_tokenized_as_if_it_pointed_at_nothing(tokenizer):
    answer = write_targets(tokenizer, ANSWER, [None, None], target_token_ids(tokenizer))
    plain = tokenizer("you can eat a Red apple, and here a pear.", add_special_tokens=False)["input_ids"]
    group = set(target_token_ids(tokenizer))
    assert [token for token in answer.ids if token not in group] == plain
    assert {index for index in answer.target_of_token if index >= 0} == {0, 1}


@pytest.mark.parametrize(("text", "kept"), [("{seg}", ""), ("{seg} {seg} here", "▁here"), ("here{seg}", "▁here")])
def test_placeholders_may_stand_anywhere(tokenizer, text, kept):
    answer = write_targets(tokenizer, text, [None] * text.count("{seg}"), target_token_ids(tokenizer))
    assert answer.ids.count(target_token_ids(tokenizer)[0]) == text.count("{seg}")
    assert "".join(word for word in words(tokenizer, answer.ids) if "SEG" not in word) == kept


def test_as_many_targets_as_placeholders_are_asked_for(tokenizer):
    with pytest.raises(ValueError, match="1 times for 2 targets"):
        write_targets(tokenizer, "a pear {seg}", [None, None], [1])


def test_a_tokenizer_without_target_tokens_says_how_to_get_them():
    with pytest.raises(ValueError, match=r"tokens \[SEG0\]"):
        GroundedCollator(train_tokenizer(["a pear"]), image_size=64, prompt_choice="first")([row()])


def test_a_model_may_write_targets_with_fewer_tokens_than_the_tokenizer_has(tokenizer):
    first = target_token_ids(tokenizer)[:1]
    batch = GroundedCollator(tokenizer, image_size=64, target_tokens=first, prompt_choice="first")([row()])
    assert words(tokenizer, batch["labels"][0][3:9].tolist()) == "▁a ▁red ▁apple [SEG0] , ▁and".split()


def row(*, width: int = 32, height: int = 16):
    """An apple on the left and a pear on the right, each a box that is its mask."""
    pixels = np.zeros((height, width, 3), np.uint8)
    targets = []
    for name, (x0, x1) in {"a red apple": (2, 10), "a pear": (20, 30)}.items():
        mask = np.zeros((height, width), bool)
        mask[4:12, x0:x1] = True
        targets.append(grounded_target(name, box=[x0, 4, x1, 12], mask=encode_rle(mask)))
    prompts = [
        grounded_prompt(ANSWER, context="what can be eaten", targets=targets),
        grounded_prompt("you can eat", context="what can be eaten"),
    ]
    made = grounded_row(None, "1", (width, height), "reason", prompts)
    return {**made, "image": Image.fromarray(pixels)}


def test_targets_become_masks_on_the_canvas_and_their_words_may_learn_their_boxes(tokenizer):
    batch = GroundedCollator(tokenizer, image_size=64, max_prompts=2, region_points=True, prompt_choice="first")(
        [row()]
    )
    masks = batch["target_mask_labels"]
    assert masks.shape == (2, 64, 64) and masks[0, 8:24, 4:20].all() and int(masks[0].sum()) == 16 * 16
    placed = ~batch["point_labels"][0].isnan().flatten(1).any(1)
    assert words(tokenizer, batch["labels"][0][placed].tolist()) == (
        "▁a ▁red ▁apple [SEG0] [SEG1] ▁a ▁pear [SEG0] [SEG1]".split()
    )
    torch.testing.assert_close(
        batch["point_labels"][0, 6], torch.tensor([[2 / 32, 4 / 16], [10 / 32, 12 / 16]]), atol=1e-3, rtol=0
    )
    assert batch["labels"][1].max() < target_token_ids(tokenizer)[0]


def test_boxes_of_targets_are_not_learnt_unless_asked_for(tokenizer):
    batch = GroundedCollator(tokenizer, image_size=64, max_prompts=2)([row()])
    assert bool(batch["point_labels"].isnan().all())


def test_a_target_that_truncation_cuts_has_no_mask(tokenizer):
    batch = GroundedCollator(tokenizer, image_size=64, max_text_tokens=15, prompt_choice="first")([row()])
    assert batch["labels"].shape == (1, 14)
    assert len(batch["target_mask_labels"]) == 1


def test_a_mirrored_image_has_mirrored_targets(tokenizer):
    mirror = {"reason": Augmentation(flip=1.0)}
    batch = GroundedCollator(tokenizer, image_size=32, augmentation=mirror, prompt_choice="first")([row()])
    assert batch["target_mask_labels"][0, 4:12, 22:30].all()


def test_names_of_targets_change_sides_with_the_text():
    prompt = grounded_prompt("here {seg}", context="the left pear?", targets=[grounded_target("the left pear")])
    assert mirrored_prompt(prompt)["targets"][0]["name"] == "the right pear"
