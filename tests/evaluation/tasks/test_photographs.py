"""Photographs with phrases (Flickr30k Entities) and with categories (COCO): small folders, answers of known value."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from pixelllm_hf import PixelLLMForGroundedGeneration, PixelLLMProcessor
from pixelllm_hf.evaluation.baselines import CENTRAL, BaselineError, baseline
from pixelllm_hf.evaluation.images import EvaluationDataError
from pixelllm_hf.evaluation.object_detector import Detection
from pixelllm_hf.evaluation.runner import GenerationSettings, evaluate, evaluate_baseline
from pixelllm_hf.evaluation.scene_folder import DataFolder
from pixelllm_hf.evaluation.tasks import task_for
from pixelllm_hf.evaluation.tasks.task import QUICK, EvalSettings
from pixelllm_hf.processing.grounded_results import GroundedCaption, GroundedWord

HOW = EvalSettings(resamples=20, meteor="meteor-approx")
SENTENCES = {
    "1": [
        "[/EN#1/people A man] throws [/EN#2/other a ball] to [/EN#3/animals two brown dogs] .",
        "[/EN#1/people The man] outside .",
    ],
    "2": ["[/EN#4/people A girl] in [/EN#5/scene a park] smiles ."],
}
# xyxy of each entity, in shares of the sides; entity 3 has two boxes, 5 none.
LOCATION_FIELDS = {
    "1": {1: [(0.0, 0.0, 0.5, 1.0)], 2: [(0.5, 0.0, 0.6, 0.2)], 3: [(0.6, 0.5, 0.8, 0.8), (0.7, 0.6, 1.0, 1.0)]},
    "2": {4: [(0.25, 0.2, 0.75, 0.8)]},
}
SIZES = {"1": (40, 20), "2": (20, 20)}


@pytest.fixture(scope="module")
def flickr(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("flickr")
    for name in ("Sentences", "Annotations", "images"):
        (root / name).mkdir()
    for image_id, sentences in SENTENCES.items():
        width, height = SIZES[image_id]
        (root / "Sentences" / f"{image_id}.txt").write_text("\n".join(sentences))
        objects = "".join(
            f"<object><name>{entity}</name><bndbox><xmin>{x0 * width + 1}</xmin><ymin>{y0 * height + 1}</ymin>"
            f"<xmax>{x1 * width}</xmax><ymax>{y1 * height}</ymax></bndbox></object>"
            for entity, boxes in LOCATION_FIELDS[image_id].items()
            for x0, y0, x1, y1 in boxes
        )
        size = f"<size><width>{width}</width><height>{height}</height></size>"
        (root / "Annotations" / f"{image_id}.xml").write_text(f"<annotation>{size}{objects}</annotation>")
        Image.new("RGB", (width, height), (int(image_id) * 40, 0, 0)).save(root / "images" / f"{image_id}.webp")
    (root / "val.txt").write_text("1\n2\n")
    (root / "other.txt").write_text("2\n")
    return root


def located(text: str, places: dict[str, tuple[float, ...] | None], size: tuple[int, int]) -> GroundedCaption:
    """A caption of which these words have boxes, given in shares of the sides."""
    words, position = [], 0
    for piece in text.split():
        word = piece.strip(".,")
        start = text.index(piece, position)
        position = start + len(piece)
        if not word:
            continue
        box: Any = places.get(word)
        if box is not None:
            box = tuple(side * size[i % 2] for i, side in enumerate(box))
        point = None if box is None else ((box[0] + box[2]) / 2, (box[1] + box[3]) / 2)
        words.append(GroundedWord(word, start, start + len(word), point, box))
    return GroundedCaption(text, tuple(words), size)


class Reading:
    """The processor's part in reading given captions, for an oracle."""

    def encode_prompts(self, texts: list[str], **_: Any) -> dict[str, np.ndarray]:
        return {"input_ids": np.zeros((len(texts), 1), np.int64)}


def reader(oracle: Any, images: Any, answer: Any) -> Any:
    class Reader(Reading, oracle):
        def __call__(self, images: Any, **asked: Any) -> dict[str, torch.Tensor]:
            return super().__call__(images, **asked) | {"input_ids": torch.zeros(1, 1, dtype=torch.int64)}

    return Reader(images, answer)


def test_phrases_are_read_from_their_last_word_and_compared_with_the_union_of_their_boxes(flickr: Path, oracle):
    data = DataFolder(flickr, split="val")
    task = task_for("phrases", data)
    images = task.read(data)
    assert [len(image.captions) for image in images] == [2, 1]
    places: dict[str, Any] = {
        "A": (0.9, 0.9, 1.0, 1.0),  # not in the man's box, and not the word that the phrase is read from
        "The": (0.1, 0.1, 0.2, 0.2),
        "man": (0.0, 0.0, 0.5, 1.0),
        "a": (0.5, 0.0, 0.6, 0.2),
        "ball": (0.5, 0.0, 0.6, 0.41),  # IoU just below one half, its centre just outside
        "two": (0.6, 0.5, 0.6, 0.5),  # a point, on the border
        "brown": None,
        "dogs": (0.6, 0.5, 1.0, 1.0),
        "girl": (0.25, 0.2, 0.75, 0.5),  # IoU one half: a hit, as in the protocol
    }

    def answer(image):
        assert all(caption.text.endswith(".") and " ." not in caption.text for caption in image.captions)
        return [located(caption.text, places, SIZES[image.image_id]) for caption in image.captions]

    model = reader(oracle, images, answer)
    result = evaluate(model, model, task, data, settings=HOW, generation=GenerationSettings(batch_size=1)).result
    metrics = result["metrics"]
    assert result["captions"] == 3 and result["phrases"] == metrics["R@1"]["count"] == 5
    assert metrics["R@1"]["value"] == pytest.approx(4 / 5)  # both men, the dogs, the girl
    assert metrics["mean_IoU"]["value"] == pytest.approx((1 + 1 + 0.2 / 0.41 + 1 + 0.5) / 5, abs=1e-4)
    # A man, a ball, two brown dogs, The man, A girl
    assert metrics["point_in_box"]["count"] == 11
    assert metrics["point_in_box"]["value"] == pytest.approx((1 + 1 + 2 + 2 + 1) / 11)
    assert model.asked[0]["options"].keys() == {"input_ids", "query_ids", "query_characters"}, "nothing is searched"


def test_captions_are_read_by_a_model_and_keep_their_words(flickr: Path, small_checkpoint: Path):
    model = PixelLLMForGroundedGeneration.from_pretrained(small_checkpoint).eval()
    processor = PixelLLMProcessor.from_pretrained(small_checkpoint)
    data = DataFolder(flickr, split="val")
    task = task_for("phrases", data)
    one, two = (
        evaluate(model, processor, task, data, settings=QUICK, generation=GenerationSettings(size)) for size in (1, 2)
    )
    assert one is not None and two is not None
    assert [answer["captions"][0]["caption"] for answer in one.answers] == [
        "A man throws a ball to two brown dogs.",
        "A girl in a park smiles.",
    ]
    assert one.result["phrases_without_box"] == 0
    assert one.result["metrics"]["mean_IoU"]["value"] == pytest.approx(
        two.result["metrics"]["mean_IoU"]["value"], rel=1e-3
    )


def test_nouns_of_a_written_caption_count_where_a_reference_has_them(flickr: Path, oracle):
    data = DataFolder(flickr, split="val")
    task = task_for("grounded_caption", data)
    images = task.read(data)
    assert images[0].heads == {"man", "ball", "dogs", "girl"}, "a park has no box"
    said = {
        # the man is right, the ball elsewhere, "brown" no noun, and no girl is in the references
        "1": ("A man, a girl and a brown ball", {"man": (0.0, 0.0, 0.2, 0.2), "ball": (0.0, 0.5, 0.1, 0.6)}),
        "2": ("A girl", {"girl": (0.3, 0.3, 0.5, 0.5)}),
    }
    model = oracle(images, lambda p: [located(*said[p.image_id], SIZES[p.image_id])])
    result = evaluate(model, model, task, data, settings=HOW).result
    assert result["nouns"] == 4
    assert result["metrics"]["noun_in_references"]["value"] == pytest.approx(3 / 4)
    inside = result["metrics"]["noun_point_in_box"]
    assert (inside["value"], inside["count"]) == (pytest.approx(2 / 3), 3)


def test_captions_of_photographs_have_all_their_references(flickr: Path, oracle, said):
    data = DataFolder(flickr, split="val")
    task = task_for("caption", data)
    images = task.read(data)
    assert [len(image.captions) for image in images] == [2, 1]
    model = oracle(images, lambda image: [said(image.captions[-1])])
    metrics = evaluate(model, model, task, data, settings=HOW).result["metrics"]
    assert metrics["BLEU-1"]["value"] == pytest.approx(1) and metrics["CIDEr"]["count"] == 2


def test_any_list_of_the_folder_is_a_split(flickr: Path):
    data = DataFolder(flickr, split="other")
    assert [image.image_id for image in task_for("caption", data).read(data)] == ["2"]
    with pytest.raises(ValueError, match="has no split 'test'; it has other, val"):
        task_for("caption", DataFolder(flickr, split="test")).read(DataFolder(flickr, split="test"))


# --- categories -------------------------------------------------------------------------------------------------

BOXES = {  # image -> category, xywh, crowd, mask
    1: [("dog", (0, 0, 40, 40), 0, True), ("person", (50, 10, 40, 60), 0, True), ("dog", (60, 60, 10, 10), 0, True)],
    2: [
        ("person", (10, 10, 50, 50), 1, False),
        ("hot dog", (0, 0, 32, 32), 0, True),
        ("cup", (40, 0, 30, 0), 0, False),
    ],
}
NUMBERS = {"dog": 1, "person": 2, "hot dog": 3, "cup": 4}


def square(box: tuple[int, ...]) -> list[list[float]]:
    x, y, w, h = box
    return [[x, y, x + w, y, x + w, y + h, x, y + h]]


@pytest.fixture(scope="module")
def coco(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("coco")
    (root / "images").mkdir()
    images, captions = [], []
    annotations: list[dict[str, Any]] = []
    for number, things in BOXES.items():
        Image.new("RGB", (100, 80), (number * 40, 0, 0)).save(root / "images" / f"{number}.png")
        images.append({"id": number, "file_name": f"{number}.png", "width": 100, "height": 80})
        captions.append({"id": number, "image_id": number, "caption": f"caption {number} of it"})
        for name, box, crowd, mask in things:
            record = {"id": len(annotations) + 1, "image_id": number, "category_id": NUMBERS[name], "bbox": list(box)}
            record |= {"iscrowd": crowd} | ({"segmentation": square(box)} if mask else {})
            annotations.append(record)
    categories = [{"id": number, "name": name} for name, number in NUMBERS.items()]
    instances = {"images": images, "annotations": annotations, "categories": categories}
    (root / "instances_val.json").write_text(json.dumps(instances))
    (root / "captions_val.json").write_text(json.dumps({"images": images, "annotations": captions}))
    return root


def test_a_region_is_right_if_its_head_noun_is_the_category_or_a_synonym(coco: Path, oracle, said):
    data = DataFolder(coco, split="val")
    task = task_for("region", data)
    images = task.read(data)
    asked = [[thing.name for thing in image.objects] for image in images]
    assert asked == [["dog", "person"], ["hot dog"]], "neither small boxes nor crowds"
    answers = {"dog": "two brown puppies on grass", "person": "a dog beside a man", "hot dog": "a dog"}
    model = oracle(images, lambda image: [said(answers[thing.name]) for thing in image.objects])
    result = evaluate(model, model, task, data, settings=HOW).result
    assert model.asked[0]["boxes"][0] == [[0, 0, 40, 40], [50, 10, 90, 70]]
    assert result["metrics"]["head_noun"] == pytest.approx(
        {**result["metrics"]["head_noun"], "value": 1 / 3, "count": 3}
    )
    assert result["metrics"]["head_noun_not_person"]["value"] == pytest.approx(1 / 2)


def test_found_boxes_count_under_the_category_that_their_caption_names(coco: Path, oracle, said):
    data = DataFolder(coco, split="val")
    task = task_for("dense", data)
    found = {
        "1": [("a woman", (50, 10, 90, 70), 0.9), ("a dog", (0, 0, 40, 40), 0.8), ("a dog", (0, 0, 40, 38), 0.7)],
        # inside the crowd, which counts neither way; and a name that is no category
        "2": [("people", (12, 12, 30, 30), 0.95), ("a hot dog", (0, 0, 32, 30), 0.5), ("a flower", (0, 0, 9, 9), 0.4)],
    }
    model = oracle(
        task.read(data), lambda p: [said(text, box=box, box_score=score) for text, box, score in found[p.image_id]]
    )
    result = evaluate(model, model, task, data, settings=HOW).result
    assert result["objects"] == 5 and result["detections_without_category"] == 1
    # person 1, hot dog 1, cup without area 0, dog one of two found before a false one
    assert result["metrics"]["AP50"]["value"] == pytest.approx((1 + 1 + 0 + 51 / 101) / 4)


def test_masks_are_asked_of_objects_that_are_alone_of_their_category(coco: Path, oracle, said):
    data = DataFolder(coco, split="val")
    task = task_for("segment", data)
    images = task.read(data)
    assert [[e.text for e in image.expressions] for image in images] == [["person"], ["hot dog"]]

    def answer(image):
        mask = np.zeros((80, 100), bool)
        if image.image_id == "1":
            mask[10:70, 50:70] = True  # half of the person
        else:
            mask[0:32, 0:32] = True
        return [said(image.expressions[0].text, mask, box=(0.0, 0.0, 1.0, 1.0))]

    model = oracle(images, answer)
    metrics = evaluate(model, model, task, data, settings=HOW).result["metrics"]
    assert metrics["seg_gIoU"]["value"] == pytest.approx(0.75, abs=1e-4) and metrics["seg_gIoU"]["count"] == 2


def test_captions_of_coco_are_found_beside_the_instances(coco: Path):
    data = DataFolder(coco, split="val")
    assert [image.captions for image in task_for("caption", data).read(data)] == [
        ("caption 1 of it",),
        ("caption 2 of it",),
    ]
    with pytest.raises(EvaluationDataError, match=r"instances_val.json, but the split is 'test'"):
        task_for("region", DataFolder(coco, split="test")).read(DataFolder(coco, split="test"))


def test_a_task_that_a_folder_has_nothing_for_says_what_it_wants(flickr: Path, coco: Path, scene_folder: Path):
    with pytest.raises(EvaluationDataError, match="needs a folder with Sentences/"):
        task_for("phrases", DataFolder(coco, split="val"))
    with pytest.raises(EvaluationDataError, match="Sentences/"):
        task_for("grounded_caption", DataFolder(scene_folder))
    with pytest.raises(EvaluationDataError, match="holds phrases, of which the tasks are caption, phrases"):
        task_for("dense", DataFolder(flickr, split="val"))


# --- baselines --------------------------------------------------------------------------------------------------


class Detector:
    """Finds what it is told."""

    def __init__(self, *found: Detection):
        self.found = list(found)

    def detect(self, image: Image.Image) -> list[Detection]:
        return self.found


def measured(kind: str, task: str, data: DataFolder, **options: Any) -> dict[str, Any]:
    done = evaluate_baseline(baseline(kind, **options), task_for(task, data), data, settings=HOW)
    return {name: estimate["value"] for name, estimate in done.result["metrics"].items()}


def test_one_fixed_box_and_caption_have_the_numbers_that_they_deserve(flickr: Path):
    data = DataFolder(flickr, split="val")
    numbers = measured("fixed", "phrases", data)
    girl = 0.5 * 0.6 / 0.64
    assert CENTRAL == (0.1, 0.1, 0.9, 0.9) and girl < 0.5
    assert numbers["R@1"] == 0 and numbers["point_in_box"] == pytest.approx((2 + 2 + 2) / 11)
    assert measured("fixed", "caption", data)["BLEU-1"] > 0.4
    assert measured("fixed", "grounded_caption", data)["noun_in_references"] == pytest.approx(1 / 2)


def test_a_teacher_gives_a_phrase_the_box_of_what_its_head_word_names(flickr: Path, coco: Path):
    detector = Detector(
        Detection("person", 0.9, (0.0, 0.0, 0.5, 1.0)),
        Detection("dog", 0.8, (0.6, 0.5, 0.8, 0.8)),
        Detection("dog", 0.7, (0.7, 0.6, 1.0, 1.0)),
        Detection("dog", 0.2, (0.0, 0.0, 1.0, 1.0)),
    )
    data = DataFolder(flickr, split="val")
    numbers = measured("teacher", "phrases", data, detector=detector)
    assert numbers["R@1"] == pytest.approx(3 / 5)  # both men, and the two dogs together
    with pytest.raises(BaselineError, match="says no captions"):
        measured("teacher", "caption", data, detector=detector)
    with pytest.raises(BaselineError, match="--teacher"):
        baseline("teacher")
    detector = Detector(Detection("person", 0.9, (0.5, 0.1, 0.9, 0.9)))
    named = measured("teacher", "region", DataFolder(coco, split="val"), detector=detector, names=["dog"])
    assert named["head_noun"] == pytest.approx(1 / 3), "the nearest detection is the person's for all three boxes"


def test_chance_is_the_same_in_every_run(coco: Path):
    data = DataFolder(coco, split="val")
    for task in ("region", "dense", "segment"):
        first, second = (measured("chance", task, data, names=["dog", "person"]) for _ in range(2))
        assert first == second and all(0 <= value <= 1 for value in first.values() if not np.isnan(value))
