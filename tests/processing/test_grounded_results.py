from __future__ import annotations

import json

import pytest
from PIL import Image

from pixelllm_hf.processing.grounded_results import GroundedCaption, GroundedWord

CAPTION = GroundedCaption(
    text="a red ball.",
    words=(
        GroundedWord("a", 0, 1),
        GroundedWord("red", 2, 5, (10.0, 20.0), (5.0, 10.0, 15.0, 30.0), 0.5),
        GroundedWord("ball", 6, 10, (30.5, 20.25), (30.5, 20.25, 30.5, 20.25), None),
    ),
    image_size=(64, 48),
    score=0.25,
    prompt="A photo of",
    prompt_points=((1.0, 2.0, 1), (3.0, 4.0, 0)),
    prompt_index=2,
)


def test_a_caption_survives_json():
    record = json.loads(json.dumps(CAPTION.to_dict()))
    assert GroundedCaption.from_dict(record) == CAPTION
    assert record["trace"] == [[10.0, 20.0], [30.5, 20.25]]
    assert record["words"][1]["box"] == [5.0, 10.0, 15.0, 30.0]
    assert all(record["text"][w["start"] : w["end"]] == w["text"] for w in record["words"])
    assert GroundedWord.from_dict(record["words"][1]) == CAPTION.words[1]


def test_unknown_fields_are_refused():
    with pytest.raises(ValueError, match="no colour"):
        GroundedWord.from_dict({"text": "a", "start": 0, "end": 1, "colour": 3})


def test_results_cannot_be_changed():
    with pytest.raises(AttributeError):
        CAPTION.text = "other"  # type: ignore[misc]


def test_drawing_needs_the_image_of_the_caption(tmp_path):
    Image.new("RGB", (64, 48)).save(tmp_path / "a.png")
    assert CAPTION.draw(tmp_path / "a.png").size == CAPTION.draw(Image.new("RGB", (64, 48))).size
    with pytest.raises(ValueError, match="64 x 48 pixels, but this one is 48 x 64"):
        CAPTION.draw(Image.new("RGB", (48, 64)))
