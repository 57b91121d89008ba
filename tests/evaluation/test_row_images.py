from __future__ import annotations

import gzip
import json
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from pixelllm_hf.data.bad_records import BadRecordError
from pixelllm_hf.data.scenes import ObjectLibrary, compose_scene
from pixelllm_hf.evaluation.row_images import (
    read_captioned,
    read_categorised,
    read_described,
    read_referred,
    read_scenes,
)
from pixelllm_hf.evaluation.scene_folder import DataFolder, EvaluationDataError


def test_expressions_know_whether_another_object_of_their_class_is_there(scene_folder: Path):
    images = read_referred(DataFolder(scene_folder))
    assert any(e.has_distractor for p in images for e in p.expressions), "or else the seed shows nothing"
    for image in images:
        objects = compose_scene(123, int(image.image_id) - 1, ObjectLibrary.builtin()).objects
        alike = Counter(obj.name for obj in objects)
        boxes = {(x0, y0, x1 - x0, y1 - y0): obj.name for obj in objects for x0, y0, x1, y1 in [obj.box_xyxy]}
        for expression in image.expressions:
            name = boxes[expression.box]  # type: ignore[index]
            assert name in expression.text and expression.has_distractor == (alike[name] > 1)


def test_expressions_count_from_one(scene_folder: Path):
    numbers = [e.id for p in read_referred(DataFolder(scene_folder)) for e in p.expressions]
    assert numbers == list(range(1, len(numbers) + 1))


def test_all_objects_are_described_and_all_images_captioned(scene_folder: Path):
    for index, (described, captioned) in enumerate(
        zip(read_described(DataFolder(scene_folder)), read_captioned(DataFolder(scene_folder)), strict=True)
    ):
        scene = compose_scene(123, index, ObjectLibrary.builtin())
        assert len(described.regions) == len(scene.objects) and described.size_wh == scene.image.size
        assert all(obj.name in region.phrase for obj, region in zip(scene.objects, described.regions, strict=True))
        assert captioned.names == {obj.name for obj in scene.objects}
        assert captioned.captions == (scene.short_caption, *(n.caption for n in scene.narratives))


def test_a_file_of_several_splits_wants_one_named(scene_folder: Path, tmp_path: Path):
    refs = json.loads((scene_folder / "refcoco" / "refs.json").read_text())
    refs[0]["split"] = "testA"
    (tmp_path / "refs.json").write_text(json.dumps(refs))
    (tmp_path / "instances.json").write_bytes((scene_folder / "instances.json").read_bytes())
    with pytest.raises(EvaluationDataError, match="testA"):
        read_referred(DataFolder(tmp_path, images=scene_folder / "images"))
    images = read_referred(DataFolder(tmp_path, images=scene_folder / "images", split="testA"))
    assert len(images) == 1 and len(images[0].expressions) == len(refs[0]["sentences"])


def test_the_dense_captioning_layout_of_grit_is_read(scene_folder: Path, tmp_path: Path):
    image = {"id": 2, "file_name": "000000000002.jpg", "width": 30, "height": 20}
    empty = {**image, "id": 3, "file_name": "000000000003.jpg"}
    annotation = {"id": 1, "image_id": 2, "bbox": [1, 2, 3, 4], "caption": " a dog ", "category_id": 1}
    (tmp_path / "grit_test.json").write_text(json.dumps({"images": [image, empty], "annotations": [annotation]}))
    first, second = read_described(DataFolder(tmp_path, images=scene_folder / "images"))
    assert [(r.box, r.phrase) for r in first.regions] == [((1, 2, 3, 4), "a dog")]
    assert second.regions == (), "an image without objects can only have wrong detections, and stays"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda ref: ref.update(ann_id=-7), "annotation -7 is unknown"),
        (lambda ref: ref.pop("sentences"), "no 'sentences'"),
        (lambda ref: ref.update(image_id=-7), "has no image -7"),
    ],
)
def test_a_bad_reference_is_named(scene_folder: Path, tmp_path: Path, change: Any, message: str):
    refs = json.loads((scene_folder / "refcoco" / "refs.json").read_text())
    change(refs[3])
    (tmp_path / "refs.json").write_text(json.dumps(refs))
    (tmp_path / "instances.json").write_bytes((scene_folder / "instances.json").read_bytes())
    with pytest.raises(BadRecordError, match=message):
        read_referred(DataFolder(tmp_path, images=scene_folder / "images"))


def test_a_folder_without_the_files_of_a_task_is_named(tmp_path: Path):
    for read in (read_referred, read_described, read_captioned):
        with pytest.raises(FileNotFoundError, match="has no"):
            read(DataFolder(tmp_path))  # type: ignore[operator]


def test_files_are_opened_as_in_training(scene_folder: Path, tmp_path: Path):
    copy = tmp_path / "scenes"
    shutil.copytree(scene_folder, copy)
    readers: list[Any] = [read_referred, read_captioned, read_described]
    expected = [list(map(vars, read(DataFolder(scene_folder)))) for read in readers]
    for path in copy.rglob("*.json"):
        path.write_bytes(gzip.compress(b"\xef\xbb\xbf" + path.read_bytes()))
    about = json.loads(gzip.decompress((copy / "visual_genome" / "image_data.json").read_bytes()).decode("utf-8-sig"))
    for record in about:
        record["id"] = record.pop("image_id")  # as version 1.0 has it
    (copy / "visual_genome" / "image_data.json").write_text("\n".join(map(json.dumps, about)))
    for read, originals in zip(readers, expected, strict=True):
        for copied, other in zip(map(vars, read(DataFolder(copy))), originals, strict=True):
            assert {**copied, "file": copied["file"].name} == {**other, "file": other["file"].name}


@pytest.mark.parametrize(
    ("file", "change"),
    [
        ("instances.json", lambda content: content["annotations"][0].pop("category_id")),
        ("instances.json", lambda content: content["annotations"][0].update(category_id=[1])),
        ("instances.json", lambda content: content["categories"][0].update(name=None)),
        ("captions.json", lambda content: content["annotations"][0].update(caption=None)),
        ("captions.json", lambda content: content["images"].insert(0, 7)),
        ("visual_genome/region_descriptions.json", lambda content: content[0]["regions"][0].update(x="1")),
        ("visual_genome/region_descriptions.json", lambda content: content[0].update(regions=None)),
        ("visual_genome/image_data.json", lambda content: content[0].update(width=float("nan"))),
        ("refcoco/refs.json", lambda content: content[0].update(sentences=[7])),
        ("refcoco/instances.json", lambda content: content["annotations"].insert(0, None)),
    ],
)
def test_a_bad_value_is_named_with_its_file(scene_folder: Path, tmp_path: Path, file: str, change: Any):
    copy = tmp_path / "scenes"
    shutil.copytree(scene_folder, copy)
    content = json.loads((copy / file).read_text())
    change(content)
    (copy / file).write_text(json.dumps(content))
    with pytest.raises(BadRecordError, match=Path(file).name):
        for read in (read_referred, read_captioned, read_described, read_scenes):
            read(DataFolder(copy))  # type: ignore[operator]


def test_every_layout_that_training_reads_can_be_named(scene_folder: Path):
    images = scene_folder / "images"
    regions, about = (scene_folder / "visual_genome" / name for name in ("region_descriptions.json", "image_data.json"))
    named = DataFolder(regions, images=images, format="visual_genome", companion=about)
    assert list(map(vars, read_described(named))) == list(map(vars, read_described(DataFolder(scene_folder))))
    objects = DataFolder(scene_folder / "instances.json", images=images, format="coco_instances")
    assert objects.kind == "categories" and len(read_categorised(objects)) == 8
    with pytest.raises(EvaluationDataError, match="serves region, dense, refer, segment, reason, and not 'caption'"):
        read_captioned(objects)
    with pytest.raises(EvaluationDataError, match="--companion"):
        read_described(DataFolder(regions, images=images, format="visual_genome"))
    with pytest.raises(EvaluationDataError, match="the format must be one of"):
        DataFolder(regions, format="visual_genom")
