"""PASCAL VOC's folder of XML files."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
from PIL import Image

from pixelllm_hf.data import AnnotationFileError, BadRecordError, ReadReport, read_format
from pixelllm_hf.data.mixing import undecoded


def thing(name: str, *sides: object, rest: str = "") -> str:
    box = "".join(f"<{key}>{side}</{key}>" for key, side in zip(("xmax", "xmin", "ymax", "ymin"), sides, strict=True))
    part = "<part><name>head</name><bndbox><xmin>1</xmin></bndbox></part>"
    return f"<object><name>{name}</name><bndbox>{box}</bndbox>{rest}{part}</object>"


def xml(name: str, *objects: str) -> str:
    size = "<size><width>40</width><height>30</height><depth>3</depth></size>"
    return f"<annotation><filename>{name}</filename>{size}{''.join(objects)}</annotation>"


@pytest.fixture
def voc(tmp_path: Path) -> SimpleNamespace:
    """Two images: two dogs, one of them difficult, and a table; a cat."""
    root = tmp_path / "VOC2012"
    for folder in ("Annotations", "ImageSets/Main", "JPEGImages"):
        (root / folder).mkdir(parents=True)
    for name in ("2008_1", "2008_2"):
        Image.new("RGB", (40, 30)).save(root / "JPEGImages" / f"{name}.jpg")
    hard = thing("dog", 40, 31, 30, 21, rest="<difficult>1</difficult>")
    objects = {
        "2008_1": [thing("dog", 10, 1, 20, 1, rest="<difficult>0</difficult>"), hard, thing("diningtable", 9, 9, 9, 9)],
        "2008_2": [thing("cat", 12.5, 3.5, 20, 10)],
    }
    for name, things in objects.items():
        (root / "Annotations" / f"{name}.xml").write_text(xml(f"{name}.jpg", *things))
    (root / "ImageSets" / "Main" / "val.txt").write_text("2008_2\n")
    (root / "ImageSets" / "Main" / "cat_val.txt").write_text("2008_1 -1\n2008_2  1\n")

    def read(**options):
        return undecoded(read_format("pascal_voc", root, root / "JPEGImages", **options))

    return SimpleNamespace(root=root, read=read)


@pytest.mark.parametrize("task", ["region", "dense"])
def test_objects_have_names_as_one_says_them_and_edges_from_pixel_zero(voc, task):
    report = ReadReport()
    rows = voc.read(task=task, report=report)
    assert [[(p["target"], p["box"]) for p in row["prompts"]] for row in rows] == [
        [("dog", [0, 0, 10, 20]), ("dining table", [8, 8, 9, 9])],
        [("cat", [2.5, 9, 12.5, 20])],
    ]
    assert report.dropped == {"difficult": 1}


def test_a_name_that_a_difficult_object_has_too_asks_for_none(voc):
    report = ReadReport()
    rows = voc.read(task="refer", report=report)
    assert [[p["target"] for p in row["prompts"]] for row in rows] == [["dining table"], ["cat"]]
    assert report.dropped == {"ambiguous name": 1, "difficult": 1}


def test_a_split_is_a_list_of_images_in_image_sets(voc):
    assert [row["image_id"] for row in voc.read(split="val")] == ["2008_2"]
    with pytest.raises(AnnotationFileError, match="no split 'train'; it has cat_val, val"):
        voc.read(split="train")
    with pytest.raises(BadRecordError, match=r"cat_val\.txt, line 1: .*list of images alone"):
        voc.read(split="cat_val")


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        ("<object><bndbox/></object>", "missing key"),
        ("<object><name> </name></object>", "empty text"),
        (thing("dog", 1, 20, 3, 9), "box without area"),
        (thing("dog", "one", 20, 3, 9), "malformed number"),
        (thing("dog", 30, 20, 19, 9, rest="<difficult>maybe</difficult>"), "malformed record"),
    ],
)
def test_a_bad_object_is_dropped_without_its_neighbours(voc, bad, reason):
    path = voc.root / "Annotations" / "2008_2.xml"
    path.write_text(path.read_text().replace("</annotation>", f"{bad}</annotation>"))
    report = ReadReport()
    assert len(voc.read(split="val", on_error="skip", report=report)[0]["prompts"]) == 1
    assert report.dropped == {reason: 1}
    with pytest.raises(BadRecordError, match=r"2008_2\.xml, object 1"):
        voc.read(split="val")


def test_bad_files_and_images_without_objects_are_counted(voc):
    (voc.root / "Annotations" / "2008_1.xml").write_text("<annotation>")
    (voc.root / "Annotations" / "2008_2.xml").write_text(xml("2008_2.jpg"))
    (voc.root / "Annotations" / "2008_3.xml").write_text(xml("2008_3.jpg"))
    report = ReadReport()
    assert len(voc.read(on_error="skip", report=report)) == 0
    assert report.dropped == {"not XML": 1, "image without objects": 1, "missing image": 1}
