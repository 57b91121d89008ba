"""Results as YOLO labels, Pascal VOC files and supervision's detections, read back."""

from __future__ import annotations

import sys
from types import ModuleType, SimpleNamespace
from xml.etree import ElementTree

import numpy as np
import pytest

from pixelllm_hf import GroundedCaption, GroundedWord, to_supervision, yolo_classes
from pixelllm_hf.processing.dataset_exports import pascal_voc_annotation, yolo_labels
from pixelllm_hf.processing.mask_codec import polygons_to_mask

SIZE = (64, 48)


def disc(x, y, radius):
    rows, columns = np.mgrid[: SIZE[1], : SIZE[0]]
    return (columns - x) ** 2 + (rows - y) ** 2 < radius**2


DOG = GroundedCaption("a dog", (), SIZE, box=(10.0, 5.0, 30.5, 25.0), box_score=0.75, score=0.001)
ROUND = GroundedCaption("a ball", (), SIZE, box=(10.0, 5.0, 30.0, 25.0), mask=disc(20, 15, 10), mask_score=0.5)
PARTS = GroundedCaption("cats", (), SIZE, mask=disc(10, 10, 5) | disc(50, 30, 8) | disc(30, 40, 4) | disc(55, 8, 3))
CAPTION = GroundedCaption(
    "A red ball",
    (
        GroundedWord("A", 0, 1),
        GroundedWord("red", 2, 5, (10.0, 20.0), (5.0, 10.0, 15.0, 30.0), 0.5),
        GroundedWord("ball", 6, 10, (30.5, 20.25), (30.5, 20.25, 30.5, 20.25)),
    ),
    SIZE,
)


def test_yolo_boxes_and_outlines_come_back_in_pixels():
    classes = yolo_classes([[DOG, ROUND], [], [DOG]])
    assert classes == ["a dog", "a ball"]
    dog, ball = yolo_labels([DOG, ROUND], classes, image_size=SIZE)
    number, x, y, w, h = map(float, dog.split())
    assert (number, x * 64, y * 48, w * 64, h * 48) == pytest.approx((0, 20.25, 15, 20.5, 20), abs=1e-3)
    number, *outline = map(float, ball.split())
    polygon = np.reshape(outline, (-1, 2)) * SIZE
    assert number == 1
    np.testing.assert_array_equal(polygons_to_mask([np.rint(polygon).ravel().tolist()], SIZE[::-1]), ROUND.mask)


def test_the_parts_of_a_yolo_outline_are_joined_without_filling_anything_else():
    (line,) = PARTS.to_yolo(["cats"])
    polygon = np.rint(np.reshape([float(v) for v in line.split()[1:]], (-1, 2)) * SIZE)
    # the even-odd rule, by counting crossings of a ray from the middle of every pixel
    rows, columns = np.mgrid[: SIZE[1], : SIZE[0]] + 0.5
    inside = np.zeros(SIZE[::-1], bool)
    for (x0, y0), (x1, y1) in zip(polygon, np.roll(polygon, -1, axis=0), strict=True):
        if y0 != y1:
            crosses = (rows >= min(y0, y1)) & (rows < max(y0, y1))
            inside ^= crosses & (x0 + (rows - y0) * (x1 - x0) / (y1 - y0) > columns)
    np.testing.assert_array_equal(inside, PARTS.mask)


def test_words_of_a_caption_are_objects_and_boxes_of_no_area_no_labels():
    assert yolo_classes([[CAPTION]]) == ["red", "ball"]
    assert [line.split()[0] for line in CAPTION.to_yolo(["red", "ball"])] == ["0"]
    with pytest.raises(ValueError, match="'ball' is not among"):
        CAPTION.to_yolo(["red"])


def test_yolo_labels_stay_within_the_image():
    far = GroundedCaption("it", (), SIZE, box=(-10.0, 40.0, 70.0, 60.0))
    x, y, w, h = map(float, far.to_yolo(["it"])[0].split()[1:])
    assert (x - w / 2, x + w / 2, y + h / 2) == pytest.approx((0, 1, 1))


def test_voc_boxes_are_whole_pixels_counted_from_one():
    root = ElementTree.fromstring(pascal_voc_annotation([DOG, PARTS], "sub/a.jpg", image_size=SIZE))
    assert (root.findtext("folder"), root.findtext("filename")) == ("sub", "a.jpg")
    assert [root.findtext(f"size/{side}") for side in ("width", "height", "depth")] == ["64", "48", "3"]
    dog, cats = (
        [int(entry.findtext(f"bndbox/{side}")) for side in ("xmin", "ymin", "xmax", "ymax")]
        for entry in root.iter("object")
    )
    assert dog == [11, 6, 31, 25]
    rows, columns = PARTS.mask.any(1).nonzero()[0], PARTS.mask.any(0).nonzero()[0]
    assert cats == [columns[0] + 1, rows[0] + 1, columns[-1] + 1, rows[-1] + 1]
    assert [entry.findtext("name") for entry in root.iter("object")] == ["a dog", "cats"]


def test_voc_files_stay_xml_and_within_the_image_whatever_comes():
    odd = GroundedCaption("<a> & \x00\x0b'\"😀", (), SIZE, box=(64.0, 48.0, 64.0, 48.0))
    root = ElementTree.fromstring(odd.to_pascal_voc("a&b.jpg"))
    assert root.findtext("object/name") == "<a> & \ufffd\ufffd'\"😀"
    assert [
        root.findtext(f"object/bndbox/{side}") for side in ("xmin", "ymin", "xmax", "ymax")
    ] == "64 48 64 48".split()


@pytest.fixture
def supervision(monkeypatch: pytest.MonkeyPatch):
    """The package, or one that keeps what it is given."""
    try:
        import supervision
    except ImportError:
        module = ModuleType("supervision")
        kind = type("Detections", (SimpleNamespace,), {"empty": staticmethod(lambda: "empty")})
        setattr(module, "Detections", kind)  # noqa: B010 (the module has no such attribute to mypy)
        monkeypatch.setitem(sys.modules, "supervision", module)
        supervision = module
    return supervision


def test_detections_have_boxes_masks_scores_and_names(supervision):
    found = to_supervision([DOG, ROUND, DOG])
    assert isinstance(found, supervision.Detections)
    np.testing.assert_allclose(found.xyxy, [DOG.box, ROUND.box, DOG.box])
    np.testing.assert_allclose(found.confidence, [0.75, 0.5, 0.75])
    assert found.class_id.tolist() == [0, 1, 0]
    assert found.data["class_name"].tolist() == ["a dog", "a ball", "a dog"]
    np.testing.assert_array_equal(found.mask[1], ROUND.mask)
    assert found.mask.shape == (3, 48, 64) and not found.mask[0].any()
    assert DOG.to_supervision().mask is None
    words = CAPTION.to_supervision()
    assert words.data["class_name"].tolist() == ["red", "ball"] and np.isnan(words.confidence).tolist() == [False, True]


def test_nothing_found_is_an_empty_detection(supervision):
    assert type(to_supervision([])) is type(supervision.Detections.empty())


def test_without_supervision_it_is_said_what_to_install(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "supervision", None)
    with pytest.raises(ImportError, match=r'pip install "pixelllm_hf\[supervision\]"'):
        DOG.to_supervision()
