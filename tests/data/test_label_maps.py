from __future__ import annotations

import json
import re

import numpy as np
import pytest
from PIL import Image

from pixelllm_hf.data import AnnotationFileError, BadRecordError, ReadReport, read_format
from pixelllm_hf.data.label_maps import class_names
from pixelllm_hf.processing.mask_codec import decode_rle

VALUES = np.zeros((20, 30), np.uint8)
VALUES[2:8, 3:9], VALUES[10:15, 4:20], VALUES[0, 0] = 1, 2, 3


@pytest.fixture
def maps(tmp_path):
    (tmp_path / "maps" / "training").mkdir(parents=True)
    (tmp_path / "images" / "training").mkdir(parents=True)
    Image.new("RGB", (30, 20)).save(tmp_path / "images" / "training" / "a.jpg")

    def read(format: str, classes: str, values=VALUES, **options):
        Image.fromarray(values).save(tmp_path / "maps" / "training" / "a.png")
        (tmp_path / "classes").write_text(classes)
        given = {"companion": tmp_path / "classes", "split": "training", **options}
        return read_format(format, tmp_path / "maps", tmp_path / "images", **given)

    read.folder = tmp_path
    return read


def asked(rows) -> dict[str, np.ndarray]:
    """Name -> mask of all targets of the only image."""
    (row,) = rows
    for prompt in row["prompts"]:
        names = [target["name"] for target in prompt["targets"]]
        assert 1 <= len(names) <= 3 and prompt["target"].count("{seg}") == len(names)
        assert re.split(", | and ", prompt["context"].removeprefix("Can you segment the ")[: -len(" in this image?")])
        assert all(name in prompt["context"] and name in prompt["target"] for name in names)
    return {target["name"]: decode_rle(target["mask"]) for prompt in row["prompts"] for target in prompt["targets"]}


ADE = "Idx\tRatio\tTrain\tVal\tName\n"
ADE += "".join(
    f"{k}\t0.1\t9\t9\t{name}\n" for k, name in enumerate(("wall", "door;double door", "windowpane, window"), 1)
)


def test_ade20k_counts_its_classes_from_one_and_zero_is_nothing(maps):
    found = asked(maps("ade20k", ADE))
    assert set(found) == {"wall", "door", "windowpane"}
    for value, name in enumerate(("wall", "door", "windowpane"), 1):
        assert np.array_equal(found[name], value == VALUES)


def test_coco_stuff_counts_from_zero_and_leaves_its_subdivisions_out(maps):
    values = VALUES.copy()
    values[19] = 255
    found = asked(maps("coco_stuff", "0: unlabeled\n1: person\n2: bicycle\n3: wall-brick\n4: sky-other\n", values))
    assert set(found) == {"person", "bicycle"}
    assert np.array_equal(found["person"], values == 0) and np.array_equal(found["bicycle"], values == 1)


def test_mapillary_reads_its_config_and_leaves_out_what_has_no_label(maps):
    labels = [{"readable": name} for name in ("Bird", "Road", "Traffic Light", "Unlabeled")]
    found = asked(maps("mapillary", json.dumps({"labels": labels})))
    assert set(found) == {"bird", "road", "traffic light"}
    assert np.array_equal(found["traffic light"], VALUES == 2)


def test_a_plain_list_of_names_will_do(maps, tmp_path):
    assert set(asked(maps("ade20k", "wall\ndoor\nwindow\n"))) == {"wall", "door", "window"}
    assert set(asked(maps("ade20k", '["wall", "door", "window"]'))) == {"wall", "door", "window"}


def test_maps_with_a_palette_or_sixteen_bits_hold_the_same_numbers(maps):
    plain = asked(maps("ade20k", ADE))
    image = Image.fromarray(VALUES, mode="P")
    image.putpalette([200, 10, 10] * 256)
    for other in (image, Image.fromarray(VALUES.astype(np.uint16))):
        rows = maps("ade20k", ADE)
        other.save(maps.folder / "maps" / "training" / "a.png")
        rows = read_format(
            "ade20k", maps.folder / "maps", maps.folder / "images", companion=maps.folder / "classes", split="training"
        )
        assert all(np.array_equal(mask, plain[name]) for name, mask in asked(rows).items())


def test_questions_about_an_image_are_always_the_same(maps):
    first, second = maps("ade20k", ADE), maps("ade20k", ADE, streaming=True)
    assert first[0]["prompts"] == next(iter(second))["prompts"]


def test_values_without_a_name_and_maps_without_a_class_are_counted(maps):
    report = ReadReport()
    assert len(maps("ade20k", "wall\n", report=report, on_error="skip")) == 1
    assert dict(report.dropped) == {"unknown category": 2}
    report = ReadReport()
    assert not len(maps("ade20k", ADE, np.zeros((20, 30), np.uint8), report=report))
    assert dict(report.dropped) == {"image without objects": 1}
    with pytest.raises(BadRecordError, match="no class has this value"):
        maps("ade20k", "wall\n")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda f: (f / "maps/training/a.png").write_bytes(b"no PNG"), "cannot be read"),
        (lambda f: Image.new("RGB", (30, 20)).save(f / "maps/training/a.png"), "colours of the mode 'RGB'"),
        (lambda f: (f / "images/training/a.jpg").unlink(), "no file for image"),
        (lambda f: Image.new("RGB", (20, 30)).save(f / "images/training/a.jpg"), "another shape"),
    ],
)
def test_a_bad_map_or_image_is_named(maps, damage, message):
    maps("ade20k", ADE)
    damage(maps.folder)
    given = {"companion": maps.folder / "classes", "split": "training", "check_images": True}
    with pytest.raises(BadRecordError, match=message):
        list(read_format("ade20k", maps.folder / "maps", maps.folder / "images", **given))


def test_folders_and_lists_that_do_not_fit_are_refused(maps, tmp_path):
    with pytest.raises(AnnotationFileError, match="no split 'val'; it has training"):
        maps("ade20k", ADE, split="val")
    with pytest.raises(AnnotationFileError, match="holds no PNG"):
        maps("ade20k", ADE, split=None)
    with pytest.raises(ValueError, match="needs 'classes'"):
        maps("ade20k", ADE, companion=None)
    for content, message in (("", "names no class"), ('{"a": 1}', "a list of labels"), ("[null]", "must be a string")):
        (tmp_path / "list").write_text(content)
        with pytest.raises(AnnotationFileError, match=message):
            class_names(tmp_path / "list")
