from __future__ import annotations

import json

import pytest
from PIL import Image

from pixelllm_hf import GroundedCaption
from pixelllm_hf.space.downloads import FORMATS, drawing, new_file, record_text
from pixelllm_hf.space.refusals import RefusedError

from .made_up import made_up_caption, made_up_image, made_up_object


def test_json_brings_the_answers_back():
    results = [made_up_caption(), made_up_object("ball")]
    text = record_text("JSON", results, "x.png", made_up_image().size)
    assert [GroundedCaption.from_dict(record) for record in json.loads(text)] == results


def test_coco_and_labelme_name_the_image_and_its_size():
    image = made_up_image()
    coco = json.loads(record_text("COCO", [made_up_object("ball")], "x.png", image.size))
    assert coco["images"] == [{"id": 1, "file_name": "x.png", "width": image.width, "height": image.height}]
    assert coco["annotations"][0]["caption"] == made_up_object("ball").text
    labelme = json.loads(record_text("LabelMe", [made_up_object("ball")], "x.png", image.size))
    assert (labelme["imagePath"], labelme["imageWidth"]) == ("x.png", image.width)
    assert labelme["shapes"]


def test_nothing_found_is_a_file_too():
    for form in FORMATS[:-1]:
        json.loads(record_text(form, [], "x.png", (30, 20)))
    assert drawing(Image.new("RGB", (30, 20)), [], as_objects=True, side=640).width == 640


@pytest.mark.parametrize("side", [640, 2000])
@pytest.mark.parametrize("as_objects", [True, False])
def test_a_drawing_is_as_large_as_asked_for(side, as_objects):
    result = made_up_object("ball") if as_objects else made_up_caption()
    drawn = drawing(made_up_image(), [result], as_objects=as_objects, side=side)
    assert drawn.width == side, "the image is wider than high, and the panel is below it"


def test_drawings_beyond_bounds_are_refused():
    for side in (10, 100_000):
        with pytest.raises(RefusedError, match="640 to 3200"):
            drawing(made_up_image(), [made_up_caption()], as_objects=False, side=side)


def test_files_for_download_lie_where_nobody_can_guess(tmp_path):
    paths = {new_file(tmp_path, "x.json") for _ in range(9)}
    assert len(paths) == 9
    assert all(path.is_relative_to(tmp_path) and len(path.parent.name) == 32 for path in paths)
