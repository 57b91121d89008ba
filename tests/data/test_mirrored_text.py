"""Texts of mirrored images: left and right are swapped where they are sides, and only there."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from pixelllm_hf.data import GroundedCollator
from pixelllm_hf.data.grounded_examples import grounded_prompt
from pixelllm_hf.data.image_transforms import Augmentation
from pixelllm_hf.data.mirrored_text import mirrored_prompt, mirrored_text
from pixelllm_hf.training.config import ConfigError
from pixelllm_hf.training.sources import SourceConfig


@pytest.mark.parametrize(
    ("text", "mirrored"),
    [
        ("Two dogs run.", "Two dogs run."),
        ("the LEFT dog", "the RIGHT dog"),
        ("Left hand raised, on his right side", "Right hand raised, on his left side"),
        ("the leftmost and the rightmost cup", "the rightmost and the leftmost cup"),
        ("He looks to the left, then from left to right.", "He looks to the right, then from right to left."),
        ("a man on the far right", "a man on the far left"),
        ("a right-hand glove", "a left-hand glove"),
        ("bright copyright leftovers", "bright copyright leftovers"),
    ],
)
def test_sides_are_swapped_and_swapping_twice_is_nothing(text, mirrored):
    assert mirrored_text(text) == mirrored
    assert mirrored_text(mirrored) == text


@pytest.mark.parametrize(
    "text",
    [
        "A man has left.",
        "the man left the room",
        "It is right behind him.",
        "the one left behind",
        "He tries to right the boat.",
        "the right way up",
        "a right angle",
        "right now",
        'A sign says "stop".',
        "a shirt with the number 7",
        "a player with a number on his left side",
        "A clock on the wall.",
        "They turn clockwise.",
    ],
)
def test_texts_that_may_not_stay_true_are_not_mirrored(text):
    assert mirrored_text(text) is None


def test_all_texts_of_a_prompt_are_mirrored_or_none():
    utterance = {"text": "left", "box": [0.0, 0.0, 9.0, 9.0], "center": [1.0, 1.0]}
    prompt = grounded_prompt("the left", context="where is the left", utterances=[utterance])
    moved = mirrored_prompt(prompt)
    assert (moved["target"], moved["context"], moved["utterances"][0]["text"]) == (
        "the right",
        "where is the right",
        "right",
    )
    assert mirrored_prompt({**prompt, "context": 'what is "it"'}) is None
    assert mirrored_prompt(grounded_prompt("a dog"))["context"] is None


def row(target: str) -> dict:
    """The left half of the image is red; the target's first word is there."""
    pixels = np.zeros((32, 32, 3), np.uint8)
    pixels[:, :16, 0] = 255
    first, *rest = target.split()
    place = {"box": [0.0, 0.0, 16.0, 32.0], "center": [8.0, 16.0]}
    nowhere = {"box": [0.0] * 4, "center": [0.0] * 2}
    said = [{"text": first, **place}, {"text": " ".join(rest), **nowhere}]
    prompt = grounded_prompt(target, utterances=said, point_loss=True)
    size = {"width": 32, "height": 32}
    return {"image": Image.fromarray(pixels), "image_id": "1", **size, "task": "trace", "prompts": [prompt]}


def test_image_places_and_words_are_mirrored_together(tokenizer):
    augmentation = {"trace": Augmentation(flip=1.0, flip_text=True)}
    collate = GroundedCollator(tokenizer, image_size=32, augmentation=augmentation)
    batch = collate([row("square on the left"), row("square that has left")])
    red = batch["pixel_values"][:, 0].mean(1) > 128  # (B, columns)
    assert not red[0, :16].any() and red[0, 16:].all()
    assert red[1, :16].all() and not red[1, 16:].any()
    torch.testing.assert_close(batch["point_labels"][:, 0, :, 0], torch.tensor([[0.5, 1.0], [0.0, 0.5]]))
    texts = [tokenizer.decode(labels[labels >= 0], skip_special_tokens=True) for labels in batch["labels"]]
    assert "right" in texts[0] and "left" not in texts[0]
    assert "left" in texts[1]


def test_without_it_texts_stay_as_in_the_reference(tokenizer):
    collate = GroundedCollator(tokenizer, image_size=32, augmentation={"trace": Augmentation(flip=1.0)})
    labels = collate([row("square on the left")])["labels"][0]
    assert "left" in tokenizer.decode(labels[labels >= 0])


def test_a_recipe_that_swaps_texts_but_never_mirrors_is_refused():
    assert SourceConfig("coco_captions", "a", "b", flip=0.5, flip_text=True).flip_text
    with pytest.raises(ConfigError, match="flip is 0"):
        SourceConfig("coco_captions", "a", "b", flip_text=True)
