"""Task "reason" from question to masks, the same for both families that can do it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pixelllm_hf.inference import Captioner, ModelError, Request

QUESTIONS = ("a red dog", "two cats on the left")


@pytest.fixture(scope="module", params=["small_pixellm", "small_pointing_pixelllm"])
def captioner(request: pytest.FixtureRequest) -> Captioner:
    return Captioner.load(str(request.getfixturevalue(request.param)), "cpu", "auto", {"max_new_tokens": 24})


@pytest.fixture(scope="module")
def images() -> list[Image.Image]:
    noise = np.random.default_rng(0)
    return [Image.fromarray(noise.integers(0, 256, (*hw, 3), dtype=np.uint8)) for hw in ((40, 60), (64, 30))]


def test_answers_have_targets_with_masks_in_their_images(captioner: Captioner, images: list[Image.Image]):
    captioner.require("reason")
    answers = captioner(images, Request("reason", expressions=QUESTIONS))
    assert [[answer.prompt for answer in of_image] for of_image in answers] == [list(QUESTIONS)] * 2
    assert any(answer.targets for of_image in answers for answer in of_image)
    for image, of_image in zip(images, answers, strict=True):
        for answer in of_image:
            assert "SEG" not in answer.text.upper()
            for target in answer.targets:
                assert target.mask is not None and target.mask.shape == image.size[::-1]
                assert target.mask_score is not None and 0 <= target.mask_score <= 1
                assert 0 <= target.start <= target.end <= len(answer.text)
            assert answer.draw(image).width >= image.width


def test_one_image_is_answered_alike_in_any_company(captioner: Captioner, images: list[Image.Image]):
    request = Request("reason", expressions=QUESTIONS[:1])
    (alone,) = captioner(images[:1], request)[0]
    (together,) = captioner(images, request)[0]
    assert alone.text == together.text
    assert [(t.start, t.end) for t in alone.targets] == [(t.start, t.end) for t in together.targets]


def test_a_model_without_a_codebook_is_refused_by_what_it_lacks(small_checkpoint: Path):
    captioner = Captioner.load(str(small_checkpoint), "cpu", "auto", {})
    with pytest.raises(ModelError, match="no segmentation codebook, which task 'reason' needs"):
        captioner.require("reason")
