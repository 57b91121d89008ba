"""MDETR's and UNINEXT's referring expressions."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from pixelllm_hf.data.bad_records import AnnotationFileError, BadRecordError, ReadReport
from pixelllm_hf.data.grounded_examples import GROUNDED_FEATURES
from pixelllm_hf.data.grounding_json import read_grounding_json
from pixelllm_hf.data.referring_expressions import read_referring_expressions


def as_mdetr(squares) -> dict:
    """The squares' references as MDETR's fine-tuning files have them: an image record per sentence."""
    coco, refs = json.loads(squares.instances.read_text()), json.loads(squares.refs.read_text())
    images, annotations = [], []
    known = {image["id"]: image for image in coco["images"]}
    things = {thing["id"]: thing for thing in coco["annotations"]}
    for number, ref in enumerate(refs):
        text = ref["sentences"][0]["sent"]
        name = f"COCO_train2014_{ref['image_id']:012d}.png"
        images.append(
            {**known[ref["image_id"]], "id": number, "original_id": ref["image_id"], "file_name": name, "caption": text}
        )
        span = [[0, len(text)]]
        annotations.append({**things[ref["ann_id"]], "id": number, "image_id": number, "tokens_positive": span})
    return {"images": images, "annotations": annotations, "categories": coco["categories"]}


def as_uninext(squares) -> dict:
    content = as_mdetr(squares)
    for image in content["images"]:
        image["expressions"] = [image.pop("caption")]
        del image["original_id"]
    for annotation in content["annotations"]:
        del annotation["tokens_positive"]
    return content


@pytest.mark.parametrize("task", ["refer", "segment"])
@pytest.mark.parametrize("layout", [as_mdetr, as_uninext])
def test_both_layouts_read_like_the_official_references(squares, layout, task):
    rows = read_grounding_json(squares.dump("g.json", layout(squares)), squares.images, task=task)
    official = read_referring_expressions(squares.refs, squares.instances, squares.images, task=task)
    assert rows.features == GROUNDED_FEATURES
    for row, expected in zip(rows, official, strict=True):
        assert (row.pop("image").filename, expected.pop("image")) != ("", None)
        assert row == expected


def test_sentences_about_the_same_image_become_one_row(squares):
    content = as_mdetr(squares)
    again = [{**image, "id": image["id"] + 100, "caption": "it"} for image in content["images"]]
    content["images"] += again
    content["annotations"] += [
        {**thing, "id": thing["id"] + 100, "image_id": thing["image_id"] + 100} for thing in content["annotations"]
    ]
    rows = read_grounding_json(squares.dump("g.json", content), squares.images)
    assert [[prompt["target"] for prompt in row["prompts"]][1] for row in rows] == ["it"] * 4
    assert rows["image_id"][:] == ["1", "2", "3", "4"]


def test_of_a_caption_about_two_objects_each_takes_its_own_words(squares):
    content = as_mdetr(squares)
    content["images"] = content["images"][:1]
    content["images"][0]["caption"] = "a red square and some black"
    first = {**content["annotations"][0], "tokens_positive": [[2, 5], [6, 12]]}
    second = {**first, "id": 9, "bbox": [0, 0, 10, 10], "tokens_positive": [[22, 27]]}
    content["annotations"] = [first, second]
    (row,) = read_grounding_json(squares.dump("g.json", content), squares.images)
    assert [prompt["target"] for prompt in row["prompts"]] == ["red square", "black"]
    assert row["prompts"][1]["object_box"] == [0, 0, 10, 10]


def break_span(content: dict, spans: object) -> None:
    first = content["annotations"][0]
    content["annotations"].append({**first, "id": 9, "tokens_positive": [[0, 3]]})  # its image has two objects now
    first["tokens_positive"] = spans


@pytest.mark.parametrize(
    ("spoil", "dropped"),
    [
        (lambda c: c["images"][0].pop("caption"), {"missing key": 1, "no expressions": 1}),
        (lambda c: c["images"][0].pop("file_name"), {"missing key": 1}),
        (lambda c: c["images"][0].update(width=0), {"malformed size": 1, "missing image": 1}),
        (lambda c: c["images"][0].update(caption="  "), {"empty text": 1, "no expressions": 1}),
        (lambda c: c["images"][0].update(caption=7), {"malformed text": 1, "no expressions": 1}),
        (lambda c: c["images"][0].update(file_name="none.png", original_id=99), {"missing image": 1}),
        (lambda c: c["annotations"][0].pop("bbox"), {"missing key": 1, "no expressions": 1}),
        (lambda c: c["annotations"][0].update(bbox=[1, 2, 0, 4]), {"box without area": 1, "no expressions": 1}),
        (lambda c: c["annotations"][0].update(bbox="box"), {"malformed box": 1, "no expressions": 1}),
        (lambda c: c["annotations"][0].update(image_id=55), {"missing image": 1, "no expressions": 1}),
        (lambda c: c["annotations"][0].update(image_id=[1]), {"malformed record": 1, "no expressions": 1}),
        (lambda c: break_span(c, [[0, 99]]), {"malformed span": 1}),
        (lambda c: break_span(c, "all"), {"malformed span": 1}),
        (lambda c: break_span(c, []), {"malformed span": 1}),
    ],
)
def test_a_record_that_cannot_be_used_is_counted_by_reason(squares, spoil, dropped):
    content = as_mdetr(squares)
    spoil(content)
    path, report = squares.dump("g.json", content), ReadReport()
    with pytest.raises(BadRecordError, match=r"g\.json, "):
        read_grounding_json(path, squares.images)
    rows = read_grounding_json(path, squares.images, on_error="skip", report=report)
    assert report.dropped == dropped
    assert len(rows) == (4 if set(dropped) == {"malformed span"} else 3)


@pytest.mark.parametrize("missing", ["images", "annotations"])
def test_a_file_of_another_layout_is_refused(squares, missing):
    content = as_mdetr(squares)
    del content[missing]
    with pytest.raises(AnnotationFileError, match=rf"g\.json needs a list '{missing}'"):
        read_grounding_json(squares.dump("g.json", content), squares.images, on_error="skip")


def test_a_file_name_does_not_lead_out_of_the_image_folder(squares):
    outside = Path(squares.folder) / "secret.png"
    outside.write_bytes((squares.images / "000000000001.png").read_bytes())
    for name in ("../secret.png", str(outside), "a/../../secret.png"):
        content = as_mdetr(squares)
        content["images"][0].update(file_name=name, original_id=99)
        with pytest.raises(BadRecordError, match="no file for image"):
            read_grounding_json(squares.dump("g.json", content), squares.images)
