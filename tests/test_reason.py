"""Task "reason" from question to masks, the same for both families that can do it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from pixelllm_hf import PixelLLMForGroundedGeneration, PixelLLMProcessor, embedded_checkpoint
from pixelllm_hf.data.scenes import write_scenes
from pixelllm_hf.evaluation.runner import evaluate
from pixelllm_hf.evaluation.scene_folder import VALIDATION_SEED
from pixelllm_hf.evaluation.tasks import TASKS
from pixelllm_hf.evaluation.tasks.task import QUICK
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


def test_the_embedded_model_points_at_what_is_asked_for(tmp_path: Path):
    folder = embedded_checkpoint("tiny-reason")
    model = PixelLLMForGroundedGeneration.from_pretrained(folder).eval()
    assert sum(p.numel() for p in model.parameters()) <= 12e6
    assert sum(file.stat().st_size for file in folder.glob("*.safetensors")) <= 25e6
    processor = PixelLLMProcessor.from_pretrained(folder)
    scenes = write_scenes(tmp_path / "scenes", 12, VALIDATION_SEED)
    found = evaluate(model, processor, TASKS["muse"], scenes, settings=QUICK)
    metrics = {name: estimate["value"] for name, estimate in found.result["metrics"].items()}
    assert metrics["gIoU"] > 0.6 and metrics["right_number"] > 0.8


def test_the_recipe_of_scenes_is_that_of_the_embedded_weights_last_stage():
    root = Path(__file__).parents[1]
    last = root / "src/pixelllm_hf/checkpoints/tiny-reason/provenance/sixth.yaml"
    recipes = [yaml.safe_load(file.read_text()) for file in (root / "configs" / "reason" / "scenes.yaml", last)]
    recipes[0]["model"].pop("sizes")  # which a dry run alone reads, where the start is not here
    assert recipes[0] == recipes[1]
