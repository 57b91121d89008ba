"""Settings of a call, flat and in groups, as users of transformers' processors pass them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from pixelllm_hf import PixelLLMProcessor, PromptError

IMAGE = Image.radial_gradient("L").convert("RGB").resize((300, 200))


@pytest.fixture(scope="module")
def processor(small_checkpoint: Path) -> PixelLLMProcessor:
    return PixelLLMProcessor.from_pretrained(small_checkpoint)


def assert_same(one: Any, other: Any) -> None:
    assert one.keys() == other.keys()
    for name, value in one.items():
        torch.testing.assert_close(torch.as_tensor(value), torch.as_tensor(other[name]))


def test_settings_mean_the_same_flat_and_in_groups(processor: PixelLLMProcessor):
    flat = processor(IMAGE, text="a dog", antialias=False, padding="max_length", max_length=30)
    grouped = processor(
        IMAGE,
        text="a dog",
        text_kwargs={"padding": "max_length", "max_length": 30},
        images_kwargs={"antialias": False},
        common_kwargs={"return_tensors": "pt"},
    )
    assert_same(flat, grouped)
    plain = processor(IMAGE, text="a dog")
    assert not torch.equal(plain["pixel_values"], flat["pixel_values"])
    assert flat["input_ids"].shape == (1, 30)


def test_a_setting_given_twice_is_refused(processor: PixelLLMProcessor):
    with pytest.raises(ValueError, match="antialias was passed two times"):
        processor(IMAGE, antialias=True, images_kwargs={"antialias": False})


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"antialiaz": True}, "antialiaz"),
        ({"size": {"height": 64, "width": 64}}, "size"),  # of the canvas, which is the model's
        ({"images_kwargs": {"maximum": 3}}, r"images_kwargs\['maximum'\]"),
        ({"text_kwargs": {"add_special_tokens": True}}, r"text_kwargs\['add_special_tokens'\]"),
        ({"common_kwargs": {"padding": True}}, r"common_kwargs\['padding'\]"),
    ],
)
def test_a_setting_that_nothing_reads_is_refused(processor: PixelLLMProcessor, settings: dict, named: str):
    with pytest.raises(TypeError, match=f"takes no {named}"):
        processor(IMAGE, **settings)


@pytest.mark.parametrize(
    "settings",
    [
        {"do_rescale": True, "rescale_factor": 1 / 255},
        {"do_normalize": True, "image_mean": [0.5] * 3, "image_std": [0.5] * 3},
        {"do_center_crop": True, "crop_size": {"height": 32, "width": 32}},
        {"do_resize": False},
        {"do_pad": False},
        {"do_convert_rgb": False},
        {"resample": Image.Resampling.NEAREST},
        {"resample": 3},
        {"pad_size": {"height": 999, "width": 999}},
        {"data_format": "channels_last"},
        {"input_data_format": "channels_last"},
        {"device": "cuda"},
    ],
    ids=lambda settings: next(iter(settings)),
)
def test_images_the_model_was_not_made_for_are_refused(processor: PixelLLMProcessor, settings: dict):
    named = f"{next(iter(settings))}=.* cannot be had: the model takes whole RGB images"
    for given in (settings, {"images_kwargs": settings}):
        with pytest.raises(ValueError, match=named):
            processor(IMAGE, **given)
    with pytest.raises(ValueError, match=named):
        processor.image_processor(IMAGE, **settings)


def test_settings_that_say_what_is_done_anyway_change_nothing(processor: PixelLLMProcessor):
    said = {"do_resize": True, "do_pad": True, "do_convert_rgb": True, "do_normalize": False, "resample": 2}
    assert_same(processor(IMAGE), processor(IMAGE, **said, data_format="channels_first", device="cpu"))


def test_rows_of_one_length_differ_in_padding_alone(processor: PixelLLMProcessor):
    plain = processor(IMAGE, text=["a dog"])
    long = processor(IMAGE, text=["a dog"], padding="max_length", max_length=40)
    real = long["attention_mask"].bool()
    assert torch.equal(long["input_ids"][real], plain["input_ids"][0])
    assert (long["input_ids"][~real] == processor.tokenizer.pad_token_id).all()
    assert processor(IMAGE, padding="max_length")["input_ids"].shape == (1, processor.max_prompt_tokens)


def test_a_prompt_that_is_too_long_is_refused_or_cut_before_its_end_of_sentence(processor: PixelLLMProcessor):
    text = "a dog and two red cats " * 3
    for settings in ({}, {"truncation": False}):
        with pytest.raises(PromptError, match=r"may have 9 tokens \(max_length\)"):
            processor(IMAGE, text=text, padding="max_length", max_length=9, **settings)
    whole = processor(IMAGE, text=text)["input_ids"][0]
    cut = processor(IMAGE, text=text, truncation=True, max_length=9)["input_ids"][0]
    assert cut.tolist() == [*whole[:8].tolist(), processor.tokenizer.eos_token_id]
    assert len(processor(IMAGE, text=text * 30, truncation=True)["input_ids"][0]) == processor.max_prompt_tokens


def test_without_a_kind_of_tensor_arrays_come(processor: PixelLLMProcessor):
    for kind in (None, "np"):
        assert all(isinstance(value, np.ndarray) for value in processor(IMAGE, return_tensors=kind).values())
    assert all(isinstance(value, torch.Tensor) for value in processor(IMAGE).values())
    assert isinstance(processor(text="a dog", text_kwargs={"return_tensors": "np"})["input_ids"], np.ndarray)


def test_settings_of_the_tokenizer_are_those_of_its_prompts(processor: PixelLLMProcessor, small_checkpoint: Path):
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(small_checkpoint, padding="max_length", max_length=21)
    other = PixelLLMProcessor(processor.image_processor, tokenizer)
    assert other(IMAGE)["input_ids"].shape == (1, 21)
    assert other(IMAGE, padding="longest")["input_ids"].shape[1] < 21
