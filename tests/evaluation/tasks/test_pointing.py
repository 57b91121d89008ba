from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from pixelllm_hf.data import prepare_format
from pixelllm_hf.evaluation.questions import AskedImage, AskedQuestion
from pixelllm_hf.evaluation.runner import CannotDoError, GenerationSettings, evaluate
from pixelllm_hf.evaluation.scene_folder import DataFolder
from pixelllm_hf.evaluation.target_iou import TargetIoU
from pixelllm_hf.evaluation.tasks import TASKS, task_for
from pixelllm_hf.evaluation.tasks.pointing import PointingAnswer
from pixelllm_hf.evaluation.tasks.task import QUICK, EvalSettings
from pixelllm_hf.inference import Captioner
from pixelllm_hf.processing.canvas_transform import CanvasTransform
from pixelllm_hf.processing.grounded_results import GroundedCaption
from pixelllm_hf.processing.mask_codec import encode_rle
from pixelllm_hf.processing.mask_resizing import logits_on_image, masks_on_image

MUSE, MULTIREFER, REASONSEG = TASKS["muse"], TASKS["multirefer"], TASKS["reasonseg"]
HEIGHT, WIDTH = 24, 32
COUNTS = ("counts", "released_counts")


def square(x: int, y: int = 2, side: int = 6) -> np.ndarray:
    mask = np.zeros((HEIGHT, WIDTH), bool)
    mask[y : y + side, x : x + side] = True
    return mask


def question(*masks: np.ndarray, ignored: np.ndarray | None = None) -> AskedQuestion:
    away = None if ignored is None else encode_rle(ignored)
    return AskedQuestion("what?", "…", tuple({"name": "x", "mask": encode_rle(m), "ignored": away} for m in masks))


def answer(*masks: np.ndarray, sure: float = 9.0) -> PointingAnswer:
    """As a model gives it whose canvas has the image's pixels."""
    logits = torch.full((len(masks), WIDTH, WIDTH), -sure)
    for one, mask in zip(logits, masks, strict=True):
        one[:HEIGHT][torch.from_numpy(mask)] = sure
    caption = GroundedCaption("here", (), (WIDTH, HEIGHT))
    return PointingAnswer(caption, logits, CanvasTransform.fit((WIDTH, HEIGHT), WIDTH))


def scored(task, *pairs: tuple[AskedQuestion, PointingAnswer], settings=QUICK) -> dict[str, float]:
    """One image a pair."""
    images = [AskedImage(str(i), Path("x"), (HEIGHT, WIDTH), (asked,)) for i, (asked, _) in enumerate(pairs)]
    records = [task.record(image, [given]) for image, (_, given) in zip(images, pairs, strict=True)]
    return {name: estimate.value for name, estimate in task.score(images, records, settings).metrics.items()}


def test_right_answers_score_one_in_whatever_order_they_come():
    left, right = square(0), square(20)
    numbers = scored(MUSE, (question(left, right), answer(right, left)), (question(), answer()))
    assert numbers["gIoU"] == pytest.approx(1, abs=1e-4) and numbers["cIoU"] == pytest.approx(1)
    assert numbers["right_number"] == 1 and numbers["empty_accuracy"] == 1
    assert "gIoU_many" not in numbers and numbers["gIoU_few"] == numbers["gIoU"]


def test_a_target_too_few_or_too_many_scores_zero_and_is_no_right_number():
    left, right = square(0), square(20)
    for asked, given in ((question(left, right), answer(left)), (question(left), answer(left, right))):
        numbers = scored(MUSE, (asked, given))
        assert numbers["gIoU"] == pytest.approx(0.5, abs=1e-4) and numbers["right_number"] == 0


def test_many_targets_are_counted_apart_and_something_for_nothing_is_wrong():
    four = [square(x) for x in (0, 8, 16, 24)]
    numbers = scored(
        MUSE, (question(*four), answer(*four)), (question(four[0]), answer()), (question(), answer(four[0]))
    )
    assert numbers["gIoU_many"] == pytest.approx(1, abs=1e-4) and numbers["gIoU_few"] == 0
    assert numbers["empty_accuracy"] == 0 and numbers["gIoU"] == pytest.approx(4 / 6, abs=1e-4)


def test_the_numbers_are_those_of_the_meter():
    pairs = [
        (question(square(0), square(10)), answer(square(2), square(11), square(20))),
        (question(square(3)), answer(square(5))),
        (question(square(3), square(9), square(15), square(21)), answer(square(8, 4))),
    ]
    meter = TargetIoU()
    for asked, given in pairs:
        meter.add_question(given.on_image((HEIGHT, WIDTH)), asked.masks((HEIGHT, WIDTH)))
    numbers, expected = scored(MUSE, *pairs), meter.to_dict()
    for name in ("gIoU", "cIoU", "gIoU_few", "cIoU_few", "gIoU_many", "cIoU_many", "right_number"):
        assert numbers[name] == pytest.approx(expected[name], abs=1e-4), name


def test_the_released_meter_is_an_option_and_favours_a_confident_false_positive():
    wrong = (question(square(0)), answer(square(0), square(20)))
    assert "gIoU_released" not in scored(MUSE, wrong)
    numbers = scored(MUSE, wrong, settings=EvalSettings(resamples=0, released_meter=True))
    assert numbers["gIoU"] == pytest.approx(0.5, abs=1e-4) and numbers["gIoU_released"] == pytest.approx(1, abs=1e-4)


def test_multi_referring_keeps_the_order_of_the_expressions():
    left, right = square(0), square(20)
    assert scored(MULTIREFER, (question(left, right), answer(right, left)))["gIoU"] == 0
    assert scored(MULTIREFER, (question(left, right), answer(left)))["gIoU"] == pytest.approx(0.5, abs=1e-4)
    assert scored(MULTIREFER, (question(left), answer(left, right)))["gIoU"] == pytest.approx(0.5, abs=1e-4)
    assert scored(MULTIREFER, (question(left, right), answer()))["gIoU"] == 0


def test_the_masks_of_an_answer_are_one_for_reasonseg_and_ignored_pixels_do_not_count():
    left, right = square(0), square(20)
    asked = question(left | right, ignored=square(10))
    assert scored(REASONSEG, (asked, answer(left, right)))["gIoU"] == pytest.approx(1, abs=1e-4)
    assert scored(REASONSEG, (asked, answer(left, right, square(10))))["gIoU"] == pytest.approx(1, abs=1e-4)
    assert scored(REASONSEG, (asked, answer(left)))["gIoU"] == pytest.approx(0.5, abs=1e-4)
    assert scored(REASONSEG, (asked, answer()))["gIoU"] == 0


def test_intervals_draw_images():
    pairs = [(question(square(0)), answer(square(0))), (question(square(0)), answer(square(20)))] * 4
    images = [AskedImage(str(i), Path("x"), (HEIGHT, WIDTH), (asked,)) for i, (asked, _) in enumerate(pairs)]
    records = [MUSE.record(image, [given]) for image, (_, given) in zip(images, pairs, strict=True)]
    estimate = MUSE.score(images, records, EvalSettings()).metrics["gIoU"]
    assert estimate.low < estimate.value < estimate.high and estimate.count == 8


def test_masks_are_where_logits_on_the_image_are_above_zero():
    logits = torch.randn(3, 8, 8, generator=torch.Generator().manual_seed(0))
    sizes = {"canvas_size": 64, "resized_size_hw": (40, 64), "image_size_hw": (25, 40)}
    assert torch.equal(masks_on_image(logits, **sizes), logits_on_image(logits, **sizes) > 0)


# --- data -----------------------------------------------------------------------------------------------------


def test_the_questions_of_scenes_are_read_from_their_files_and_from_prepared_rows(scene_folder: Path, tmp_path: Path):
    images = MUSE.read(DataFolder(scene_folder))
    assert len(images) == 8 and all(image.questions for image in images)
    prepare_format("muse", scene_folder / "muse" / "muse.json", scene_folder / "images", tmp_path / "rows")
    for image, same in zip(images, MUSE.read(DataFolder(tmp_path / "rows")), strict=True):
        assert image.open().size == same.open().size == image.size_hw[::-1]
        assert [q.text for q in image.questions] == [q.text for q in same.questions]
        for one, other in zip(image.questions, same.questions, strict=True):
            assert torch.equal(one.masks(image.size_hw), other.masks(image.size_hw))


def test_expressions_of_a_refs_file_are_read_several_at_once(scene_folder: Path):
    images = MULTIREFER.read(DataFolder(scene_folder))
    assert max(len(q.targets) for image in images for q in image.questions) > 1
    assert all(q.text.startswith("What is the ") for image in images for q in image.questions)


def test_reasonseg_asks_the_first_question_of_an_image(tmp_path: Path):
    (tmp_path / "val").mkdir()
    Image.new("RGB", (WIDTH, HEIGHT)).save(tmp_path / "val" / "1.jpg")
    shapes = [
        {"label": label, "points": [[x, 2], [x + 5, 2], [x + 5, 7], [x, 7]]}
        for label, x in (("target", 1), ("ignore", 20))
    ]
    record = {"text": ["First?", "Second?"], "is_sentence": True, "shapes": shapes}
    (tmp_path / "val" / "1.json").write_text(json.dumps(record))
    data = DataFolder(tmp_path, split="val")
    ((asked,),) = (image.questions for image in task_for("reasonseg", data).read(data))
    assert asked.text == "First?" and asked.masks((HEIGHT, WIDTH)).unique().tolist() == [0, 1, 255]


# --- models ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("checkpoint", ["small_pixellm", "small_pointing_pixelllm"])
def test_any_model_that_writes_targets_is_measured(request, checkpoint: str, scene_folder: Path):
    captioner = Captioner.load(str(request.getfixturevalue(checkpoint)), "cpu", "auto", {})
    results = []
    for size in (1, 3):
        generation = GenerationSettings(batch_size=size, max_new_tokens=12)
        evaluation = evaluate(captioner.model, captioner.processor, MUSE, scene_folder, generation=generation, limit=3)
        results.append([asked for line in json.loads(json.dumps(evaluation.answers)) for asked in line["questions"]])
    for alone, beside in zip(*results, strict=True):  # an answer does not depend on its neighbours
        assert {**alone, **dict.fromkeys(COUNTS)} == {**beside, **dict.fromkeys(COUNTS)}
        np.testing.assert_allclose(alone["counts"], beside["counts"], atol=30)
    assert evaluation.result["written_targets"] > 0 and evaluation.result["questions"] > 3
    assert 0 <= evaluation.result["metrics"]["gIoU"]["value"] <= 1
    assert {"right_number", "cIoU"} <= set(evaluation.result["metrics"])


def test_a_model_without_a_codebook_is_refused(small_checkpoint: Path, scene_folder: Path):
    captioner = Captioner.load(str(small_checkpoint), "cpu", "auto", {})
    with pytest.raises(CannotDoError, match="codebook"):
        evaluate(captioner.model, captioner.processor, MUSE, scene_folder, limit=1)
