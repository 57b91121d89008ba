"""Images whose objects have names that the model never learnt."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image, ImageDraw

from pixelllm_hf.data.scenes import ObjectLibrary
from pixelllm_hf.evaluation.images import EvaluationDataError
from pixelllm_hf.evaluation.row_images import read_referred, read_scenes
from pixelllm_hf.evaluation.runner import evaluate
from pixelllm_hf.evaluation.scene_folder import DataFolder, composed_folder
from pixelllm_hf.evaluation.seen_classes import SeenClasses
from pixelllm_hf.evaluation.tasks import TASKS
from pixelllm_hf.evaluation.tasks.task import QUICK
from pixelllm_hf.processing.grounded_results import GroundedCaption, GroundedWord

TRAINED = SeenClasses(frozenset({"car", "fish", "star"}), "three")


@pytest.fixture(scope="module")
def strange(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DataFolder]:
    """Scenes of cut-outs of which some names were trained, some end with a trained one, and some are new."""
    objects = tmp_path_factory.mktemp("cutouts")
    for i, name in enumerate(["car", "race_car", "badger", "onion"]):
        image = Image.new("RGBA", (60, 40))
        ImageDraw.Draw(image).ellipse((2, 2, 57, 37), fill=(60 * i, 90, 200, 255))
        image.save(objects / f"{name}.png")
    with composed_folder(12, 7, objects=objects) as folder:
        yield DataFolder(folder, trained=TRAINED)


def test_an_object_counts_under_the_longest_name_that_its_own_ends_with():
    names = SeenClasses(frozenset({"bus", "bus stop", "stop"}))
    assert [names.counted_as(n) for n in ("green bus", "old bus stop", "full stop", "busy street", "Bus")] == [
        "bus",
        "bus stop",
        "stop",
        None,
        "bus",
    ]
    assert TRAINED.report(["race car", "car", "badger", "car"]) == {
        "source": "three",
        "counted": {"car": ["car", "race car"]},
        "not_counted": ["badger"],
    }


def test_names_are_read_from_a_file_or_are_those_of_the_built_in_cut_outs(tmp_path: Path):
    (tmp_path / "names.txt").write_text(" Race  car\n\nfish\n")
    read = SeenClasses.read(tmp_path / "names.txt")
    assert read.names == {"race car", "fish"} and read.source == "names.txt"
    assert SeenClasses.read("builtin").names == set(ObjectLibrary.builtin().names)
    (tmp_path / "names.txt").write_text("\n")
    with pytest.raises(EvaluationDataError, match="has no name"):
        SeenClasses.read(tmp_path / "names.txt")


def test_an_oracle_that_knows_the_trained_names_alone_is_perfect_in_naming(strange: DataFolder, oracle, said):
    images = TASKS["caption"].read(strange)
    assert {"car"} < set().union(*(p.names for p in images)), "cars and others, or else the seed shows nothing"

    def answer(image: Any) -> list[GroundedCaption]:
        return [said("a car" if "car" in image.names else "something")]

    model = oracle(images, answer)
    metrics = evaluate(model, model, TASKS["caption"], strange, settings=QUICK).result["metrics"]
    with_car = sum("car" in image.names for image in images)
    for name in ("object_f1", "object_precision", "object_recall"):
        assert metrics[name]["value"] == 1 and metrics[name]["count"] == with_car < len(images), name


def test_a_trained_name_that_is_not_there_is_wrong(strange: DataFolder, oracle, said):
    images = TASKS["caption"].read(strange)
    model = oracle(images, lambda image: [said("a star and a car")])
    metrics = evaluate(model, model, TASKS["caption"], strange, settings=QUICK).result["metrics"]
    with_car = sum("car" in image.names for image in images)
    assert metrics["object_precision"]["value"] == pytest.approx(with_car / (2 * len(images)))


def test_places_are_measured_on_all_objects_whatever_they_are_called(strange: DataFolder, oracle):
    scenes = read_scenes(strange)
    total = sum(len(scene.names) for scene in scenes)

    def answer(scene: Any) -> list[GroundedCaption]:
        """A star on every object, and one on none."""
        centers = [*(((x0 + x1) / 2, (y0 + y1) / 2) for x0, y0, x1, y1 in scene.boxes), (-1.0, -1.0)]
        words = tuple(GroundedWord("star", 0, 4, center) for center in centers)
        return [GroundedCaption("star", words, scene.open().size, score=0.5)]

    model = oracle(scenes, answer)
    metrics = evaluate(model, model, TASKS["trace"], strange, settings=QUICK, limit=len(scenes)).result["metrics"]
    assert metrics["object_recall"]["value"] == 0
    assert metrics["word_on_object"]["value"] == pytest.approx(total / (total + len(scenes)))
    assert metrics["object_pointed_at"]["value"] == 1 and metrics["object_pointed_at"]["count"] == total
    assert 0 < metrics["word_on_object_by_chance"]["value"] < 0.9


def test_scenes_of_trained_names_alone_have_no_such_metrics(scene_folder: Path, oracle, said):
    scenes = read_scenes(DataFolder(scene_folder))
    model = oracle(scenes, lambda scene: [said("a dog")])
    result = evaluate(model, model, TASKS["trace"], scene_folder, settings=QUICK, limit=len(scenes)).result
    assert "word_on_object" not in result["metrics"]


def test_expressions_of_trained_names_are_also_counted_apart(strange: DataFolder, oracle, said):
    images = read_referred(strange)

    def answer(image: Any) -> list[GroundedCaption]:
        """Finds what has a trained name."""
        results = []
        for e in image.expressions:
            x, y, w, h = e.box
            results.append(said(e.text, box=(x, y, x + w, y + h) if e.is_seen_class else (0.0, 0.0, 1.0, 1.0)))
        return results

    model = oracle(images, answer)
    result = evaluate(model, model, TASKS["refer"], strange).result
    known, number = result["expressions_with_trained_name"], result["expressions"]
    assert 0 < known < number
    instances = json.loads((strange.folder / "instances.json").read_text())
    categories = {category["id"]: category["name"] for category in instances["categories"]}
    refs = json.loads((strange.folder / "refcoco" / "refs.json").read_text())
    assert known == sum(len(r["sentences"]) for r in refs if categories[r["category_id"]] in ("car", "race car"))
    assert result["metrics"]["P@0.5_trained_name"]["value"] == 1
    assert result["metrics"]["P@0.5"]["value"] == pytest.approx(known / number)


def test_only_regions_with_a_trained_name_are_asked_about(strange: DataFolder):
    phrases = [region.phrase for image in TASKS["region"].read(strange) for region in image.regions]
    assert phrases and all(phrase.split()[-1] == "car" for phrase in phrases)
    assert any("race" in phrase for phrase in phrases)
    skipped = sum(image.skipped for image in TASKS["region"].read(strange))
    everything = TASKS["region"].read(DataFolder(strange.folder))
    images_left = {image.image_id for image in TASKS["region"].read(strange)}
    assert skipped == sum(len(p.regions) for p in everything if p.image_id in images_left) - len(phrases)
