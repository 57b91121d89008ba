"""Results in the formats of others, read back by pycocotools and by this package's readers."""

from __future__ import annotations

import json
from contextlib import redirect_stdout
from io import StringIO

import numpy as np
import pytest
from PIL import Image

from pixelllm_hf.data import read_coco_captions, read_localized_narratives
from pixelllm_hf.data.coco_instances import read_coco_instances
from pixelllm_hf.processing.grounded_results import GroundedCaption, GroundedWord
from pixelllm_hf.processing.mask_codec import polygons_to_mask, segmentation_to_mask
from pixelllm_hf.processing.result_exports import (
    coco_annotations,
    coco_results,
    image_id_of,
    labelme_record,
    narrative_records,
)

SIZE = (64, 48)


def disc(x, y, radius):
    rows, columns = np.mgrid[: SIZE[1], : SIZE[0]]
    return (columns - x) ** 2 + (rows - y) ** 2 < radius**2


DOG = GroundedCaption("a dog", (), SIZE, box=(10.0, 5.0, 30.5, 25.0), box_score=0.75, mask=disc(20, 15, 10))
TWO_PARTS = GroundedCaption("two cats", (), SIZE, box=(0.0, 0.0, 64.0, 48.0), mask=disc(10, 10, 5) | disc(50, 30, 8))
BALL = GroundedCaption("a ball", (), SIZE, score=0.5, prompt_box=(1.0, 2.0, 11.0, 22.0))
CAPTION = GroundedCaption(
    "A red ball, it seems.",
    (
        GroundedWord("A", 0, 1),
        GroundedWord("red", 2, 5, (10.0, 20.0), (5.0, 10.0, 15.0, 30.0)),
        GroundedWord("ball", 6, 10, (30.5, 20.25), (30.5, 20.25, 30.5, 20.25)),
        GroundedWord("it", 12, 14),
        GroundedWord("seems", 15, 20, (32.0, 24.0), (0.0, 0.0, 64.0, 48.0)),
    ),
    SIZE,
    score=0.25,
)


@pytest.fixture
def images(tmp_path):
    folder = tmp_path / "images"
    folder.mkdir()
    for name in ("7.png", "9.png"):
        Image.new("RGB", SIZE).save(folder / name)
    return folder


@pytest.fixture
def annotation_file(tmp_path):
    def write(**options):
        record = coco_annotations([[DOG, TWO_PARTS], [BALL]], [7, 9], ["7.png", "9.png"], **options)
        (tmp_path / "out.json").write_text(json.dumps(record))
        return tmp_path / "out.json"

    return write


def quiet(work):
    """pycocotools prints."""
    with redirect_stdout(StringIO()):
        return work()


@pytest.mark.parametrize("polygons", [False, True])
def test_pycocotools_reads_the_annotations_back(annotation_file, polygons):
    api = pytest.importorskip("pycocotools.coco")
    coco = quiet(lambda: api.COCO(str(annotation_file(polygons=polygons))))
    assert coco.getImgIds() == [7, 9] and [c["name"] for c in coco.loadCats(coco.getCatIds())] == ["object"]
    dog, cats = coco.loadAnns(coco.getAnnIds(imgIds=[7]))
    for annotation, result in ((dog, DOG), (cats, TWO_PARTS)):
        np.testing.assert_array_equal(coco.annToMask(annotation).astype(bool), result.mask)
        assert annotation["area"] == result.mask.sum() and annotation["caption"] == result.text
    assert dog["bbox"] == [10, 5, 20.5, 20] and dog["score"] == 0.75
    (ball,) = coco.loadAnns(coco.getAnnIds(imgIds=[9]))
    assert ball["bbox"] == [1, 2, 10, 20] and ball["area"] == 200


def test_pycocotools_scores_the_results_as_perfect(annotation_file, tmp_path):
    api = pytest.importorskip("pycocotools.coco")
    evaluator = pytest.importorskip("pycocotools.cocoeval")
    truth = quiet(lambda: api.COCO(str(annotation_file())))
    results = coco_results([[DOG, TWO_PARTS], []], [7, 9])
    (tmp_path / "results.json").write_text(json.dumps(results))
    found = quiet(lambda: truth.loadRes(str(tmp_path / "results.json")))
    for kind in ("bbox", "segm"):
        evaluation = evaluator.COCOeval(truth, found, kind)
        evaluation.params.imgIds = [7]
        quiet(lambda e=evaluation: (e.evaluate(), e.accumulate(), e.summarize()))
        assert evaluation.stats[0] == pytest.approx(1.0)


@pytest.mark.parametrize("polygons", [False, True])
def test_our_reader_of_instances_reads_the_annotations_back(annotation_file, images, polygons):
    first, second = read_coco_instances(annotation_file(polygons=polygons), images)
    assert (first["width"], first["height"]) == SIZE
    for row, result in zip(first["objects"], (DOG, TWO_PARTS), strict=True):
        assert tuple(row["box"]) == result.box
        segmentation = row["polygons"] if polygons else row["rle"]
        np.testing.assert_array_equal(segmentation_to_mask(segmentation, SIZE[::-1]), result.mask)
    assert tuple(second["objects"][0]["box"]) == BALL.prompt_box


def test_captions_of_whole_images_are_captions_to_coco(images, tmp_path):
    assert CAPTION.to_coco(9) == {"image_id": 9, "caption": CAPTION.text}
    record = coco_annotations([[CAPTION], [CAPTION, CAPTION]], [7, 9], ["7.png", "9.png"])
    (tmp_path / "captions.json").write_text(json.dumps(record))
    rows = read_coco_captions(tmp_path / "captions.json", images)
    assert [[p["target"] for p in row["prompts"]] for row in rows] == [[CAPTION.text], [CAPTION.text] * 2]


def test_images_without_results_keep_their_place_in_the_annotations():
    record = coco_annotations([[], [DOG]], [1, 2], ["a.png", "b.png"], [(10, 20), SIZE])
    assert record["images"][0] == {"id": 1, "file_name": "a.png", "width": 10, "height": 20}
    assert [a["image_id"] for a in record["annotations"]] == [2]
    with pytest.raises(ValueError, match="'a.png'.*sizes_wh"):
        coco_annotations([[], [DOG]], [1, 2], ["a.png", "b.png"])


def test_empty_masks_survive():
    empty = GroundedCaption("it", (), SIZE, mask=np.zeros(SIZE[::-1], bool))
    annotation = coco_annotations([[empty]], [1], ["a.png"], polygons=True)["annotations"][0]
    assert annotation["bbox"] == [0, 0, 0, 0] and annotation["area"] == 0
    assert not segmentation_to_mask(annotation["segmentation"], SIZE[::-1]).any()
    assert empty.to_labelme()["shapes"] == []


def test_a_mask_without_a_box_gets_the_smallest_one_around_it():
    alone = GroundedCaption("it", (), SIZE, mask=disc(20, 15, 3))
    assert alone.to_coco()["bbox"] == [18, 13, 5, 5]


@pytest.mark.parametrize("result", [DOG, TWO_PARTS, BALL, CAPTION])
def test_every_export_is_plain_json(result):
    for record in (result.to_coco(3), result.to_labelme("a.png"), result.to_dict()):
        assert json.loads(json.dumps(record)) == record


def test_labelme_polygons_fill_to_the_same_mask():
    record = json.loads(json.dumps(labelme_record([DOG, TWO_PARTS], "a.png", image_size=SIZE)))
    assert (record["imageWidth"], record["imageHeight"], record["imagePath"]) == (*SIZE, "a.png")
    assert [shape["shape_type"] for shape in record["shapes"]] == ["polygon"] * 3
    assert [shape["label"] for shape in record["shapes"]] == ["a dog", "two cats", "two cats"]
    dog, *cats = record["shapes"]
    assert dog["group_id"] is None and {shape["group_id"] for shape in cats} == {1}
    for shapes, result in (([dog], DOG), (cats, TWO_PARTS)):
        polygons = [np.ravel(shape["points"]).tolist() for shape in shapes]
        np.testing.assert_array_equal(polygons_to_mask(polygons, SIZE[::-1]), result.mask)


def test_labelme_has_rectangles_for_boxes_and_points_for_points():
    assert BALL.to_labelme()["shapes"][0]["points"] == [[1, 2], [11, 22]]
    words = CAPTION.to_labelme()["shapes"]
    assert [(s["label"], s["shape_type"]) for s in words] == [
        ("red", "rectangle"),
        ("ball", "point"),
        ("seems", "rectangle"),
    ]
    assert words[1]["points"] == [[30.5, 20.25]] and words[0]["description"] == CAPTION.text
    asked = GroundedCaption("it", (), SIZE, prompt_points=((3.0, 4.0, 1), (5.0, 6.0, 0)))
    (shape,) = asked.to_labelme()["shapes"]
    assert shape["shape_type"] == "point" and shape["points"] == [[3, 4]]


def test_our_reader_of_narratives_gets_the_words_places_back(images, tmp_path):
    lines = narrative_records([[CAPTION], [DOG, CAPTION]], [7, 9])
    assert [(line["image_id"], line["annotator_id"]) for line in lines] == [("7", 0), ("9", 1)], "DOG has no words"
    (tmp_path / "out.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    row = read_localized_narratives(tmp_path / "out.jsonl", images)[0]
    (prompt,) = row["prompts"]
    assert prompt["target"] == CAPTION.text
    utterances = prompt["utterances"]
    assert [u["text"] for u in utterances] == ["A red", "ball it", "seems"], "words without a location go with others"
    for utterance, word in zip(utterances, (CAPTION.words[i] for i in (1, 2, 4)), strict=True):
        assert utterance["box"] == pytest.approx(word.box, abs=1e-4)
        assert utterance["center"] == pytest.approx(word.point, abs=1e-4)


def test_a_caption_without_places_is_no_narrative():
    with pytest.raises(ValueError, match="'a dog' has none"):
        DOG.to_localized_narratives(1)
    single = GroundedCaption("ball", (CAPTION.words[2],), SIZE)
    assert sum(map(len, single.to_localized_narratives(1)["traces"])) == 2, "readers want two points"


def test_numbers_that_do_not_fit_are_noticed():
    with pytest.raises(ValueError, match="image_ids.*1 for the results of 2"):
        coco_results([[DOG], [DOG]], [1])
    with pytest.raises(TypeError, match=r"pass \[results\]"):
        coco_results([DOG], [1])


def test_the_number_in_a_file_name_is_its_id():
    assert image_id_of("photos/000000000790.jpg") == 790 and image_id_of("cat.7.png") == "cat.7"


@pytest.mark.parametrize(
    ("scores", "exported"),
    [
        ({"box_score": 0.75, "mask_score": 0.5, "score": 0.0003}, 0.75),
        ({"mask_score": 0.5, "score": 0.0003}, 0.5),
        ({"score": 0.0003}, None),
    ],
)
def test_an_objects_score_is_that_of_its_box_or_mask_and_never_of_the_users_phrase(scores, exported):
    thing = GroundedCaption("a dog", (), SIZE, box=(1.0, 2.0, 3.0, 4.0), mask=disc(20, 15, 10), **scores)
    (annotation,) = coco_annotations([[thing]], [1], ["a.png"])["annotations"]
    assert annotation.get("score") == exported
    assert thing.to_coco()["score"] == (1.0 if exported is None else exported)
    assert BALL.to_coco()["score"] == 0.5, "here the model wrote the text"
