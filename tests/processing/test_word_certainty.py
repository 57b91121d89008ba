"""How sure a word's location is, in the user's pixels; words without one are kept, and left out of drawings."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from pixelllm_hf.processing.canvas_transform import CanvasTransform
from pixelllm_hf.processing.dataset_exports import yolo_classes
from pixelllm_hf.processing.grounded_results import GroundedCaption, GroundedWord, spread_of
from pixelllm_hf.processing.grounded_streamer import GroundedStreamer
from pixelllm_hf.processing.processing_pixelllm import PixelLLMProcessor
from pixelllm_hf.processing.processor_folder import ProcessorFolderError
from pixelllm_hf.processing.result_html import result_html

SIZE = (100, 50)
CAPTION = GroundedCaption(
    "A dog and a ball",
    (
        GroundedWord("A", 0, 1, (20.0, 20.0), (10.0, 10.0, 30.0, 30.0), 0.9, (1.0, 2.0, 3.0, 4.0), 0.5),
        GroundedWord("dog", 2, 5, (20.0, 20.0), (10.0, 10.0, 30.0, 30.0), 0.9, (1.0, 2.0, 3.0, 4.0), 0.95),
        GroundedWord("and", 6, 9, (97.0, 3.0), (94.0, 0.0, 100.0, 6.0), 0.9, (40.0, 40.0, 40.0, 40.0), 0.03),
        GroundedWord("ball", 12, 16, (60.0, 40.0), (55.0, 35.0, 65.0, 45.0)),
    ),
    SIZE,
)


def answer(tokenizer, *texts):
    """A made-up answer of a model that says how sure its locations are."""
    rows = [[0, *tokenizer(text, add_special_tokens=False).input_ids, 1] for text in texts]
    longest = max(map(len, rows))
    sequences = torch.tensor([row + [0] * (longest - len(row)) for row in rows])
    dice = torch.Generator().manual_seed(0)
    out = {
        "sequences": sequences,
        "coordinates": torch.rand(*sequences.shape, 2, 2, generator=dice),
        "coordinate_scales": torch.rand(*sequences.shape, 2, 2, generator=dice),
        "visual_probs": torch.rand(*sequences.shape, generator=dice),
    }
    for name in ("coordinates", "coordinate_scales", "visual_probs"):
        out[name][sequences < 2] = torch.nan
    return out


def images():
    return [Image.fromarray(np.zeros((h, w, 3), np.uint8)) for w, h in ((128, 96), (50, 100))]


def test_the_spread_of_a_side_is_that_of_the_point_it_goes_through():
    points = np.array([[[0.5, 0.2], [0.6, 0.9]], [[0.1, 0.3], [0.7, 0.4]], [[np.nan] * 2, [np.nan] * 2]])
    scales = np.array([[[0.01, 0.02], [0.03, 0.04]], [[0.05, 0.06], [0.07, 0.08]], [[9.0] * 2, [9.0] * 2]])
    spread = spread_of(points, scales, CanvasTransform.fit((100, 200), 64))
    assert spread == pytest.approx((5.0, 4.0, 7.0, 8.0))
    assert spread_of(points[2:], scales[2:], CanvasTransform.fit((100, 200), 64)) is None


def test_one_point_has_the_spread_of_its_two_coordinates():
    spread = spread_of(np.array([[[0.5, 0.2]]]), np.array([[[0.1, 0.2]]]), CanvasTransform.fit((10, 10), 64))
    assert spread == pytest.approx((1.0, 2.0, 1.0, 2.0))


def test_words_carry_what_their_tokens_say(processor):
    inputs = processor(images())
    out = answer(processor.tokenizer, "a dog chases", "a ball")
    (result,), (other,) = processor.post_process_grounded_generation(out, inputs)
    tokens = processor.tokenizer.convert_ids_to_tokens(out["sequences"][0].tolist())
    last = max(i for i, token in enumerate(tokens) if token == "ses")  # "chases" has several tokens
    assert result.words[2].text == "chases" and tokens[last - 1] == "▁cha"
    assert result.words[2].visual == pytest.approx(out["visual_probs"][0, last].item())
    of_dog = out["coordinate_scales"][0, tokens.index("▁dog")] * torch.tensor([128, 96])
    assert sorted(result.words[1].spread[::2]) == pytest.approx(sorted(of_dog[:, 0].tolist()))
    assert sorted(other.words[0].spread[1::2]) == pytest.approx(
        sorted((out["coordinate_scales"][1, 1, :, 1] * 100).tolist())
    )


def test_models_that_do_not_say_have_none_of_it(processor):
    out = answer(processor.tokenizer, "a dog", "a ball")
    del out["coordinate_scales"], out["visual_probs"]
    for (result,) in processor.post_process_grounded_generation(out, processor(images())):
        assert {(word.spread, word.visual) for word in result.words} == {(None, None)}
        assert result.placed_words == result.words


def test_streamed_words_are_as_sure_as_those_of_the_finished_answer(processor):
    inputs = processor(images())
    out = answer(processor.tokenizer, "a dog chases a red ball.", "it is a")
    streamer = GroundedStreamer(processor, inputs)
    streamer.put(out["sequences"][:, :1])
    for t in range(1, out["sequences"].shape[1]):
        streamer.put(out["sequences"][:, t])
        streamer.put_certainty(coordinate_scales=out["coordinate_scales"][:, t], visual_probs=out["visual_probs"][:, t])
        streamer.put_location(out["coordinates"][:, t])
    streamer.end()
    streamed = list(streamer.rows())
    for row, (result,) in enumerate(processor.post_process_grounded_generation(out, inputs)):
        assert tuple(word for i, word in streamed if i == row) == result.words
        assert all(word.spread is not None and word.visual is not None for word in result.words)


# --- what is shown ----------------------------------------------------------------------------------------------


def test_words_that_probably_have_no_place_are_kept_and_not_placed():
    assert [word.text for word in CAPTION.words] == [word.text for word in CAPTION.placed_words]
    assert [word.point is not None for word in CAPTION.placed_words] == [True, True, False, True]
    assert CAPTION.placed_words[2].box is None and CAPTION.placed_words[2].visual == 0.03
    assert CAPTION.words[2].point == (97.0, 3.0)
    assert CAPTION.trace == [(20.0, 20.0), (20.0, 20.0), (60.0, 40.0)]
    assert replace_threshold(CAPTION, 0.01).trace[2] == (97.0, 3.0)
    assert replace_threshold(CAPTION, 0.9).trace == [(20.0, 20.0), (60.0, 40.0)]


def replace_threshold(caption, threshold):
    return replace(caption, visual_threshold=threshold)


def test_a_record_keeps_everything():
    record = json.loads(json.dumps(replace_threshold(CAPTION, 0.25).to_dict(), allow_nan=False))
    assert GroundedCaption.from_dict(record) == replace_threshold(CAPTION, 0.25)
    assert record["words"][2]["visual"] == 0.03 and record["words"][2]["spread"] == [40.0] * 4
    assert record["words"][2]["point"] == [97.0, 3.0] and len(record["trace"]) == 3


def test_a_record_of_an_older_version_places_every_word_it_has_a_point_for():
    record = CAPTION.to_dict()
    del record["visual_threshold"]
    for word in record["words"]:
        del word["spread"], word["visual"]
    assert len(GroundedCaption.from_dict(record).trace) == 4


def test_exports_of_places_leave_them_out():
    assert [shape["label"] for shape in CAPTION.to_labelme()["shapes"]] == ["A", "dog", "ball"]
    assert yolo_classes([[CAPTION]]) == ["A", "dog", "ball"]
    said = [one["utterance"] for one in CAPTION.to_localized_narratives()["timed_caption"]]
    assert said == ["A", "dog and", "ball"]
    assert "<name>and</name>" not in CAPTION.to_pascal_voc()


def test_notebooks_show_how_sure_each_word_is():
    html = result_html(CAPTION)
    assert "(40.0, 40.0, 40.0, 40.0)" not in html
    assert html.count("<circle") == 3 and "(1.0, 2.0, 3.0, 4.0)" in html and "0.03" in html
    plain = replace(CAPTION, words=tuple(replace(word, spread=None, visual=None) for word in CAPTION.words))
    assert "±" not in result_html(plain)


def test_drawings_do_not_run_to_words_without_a_place():
    image = Image.new("RGB", SIZE, "white")
    shown = np.asarray(CAPTION.draw(image))
    words = tuple(replace(word, point=None, box=None) if word.text == "and" else word for word in CAPTION.words)
    assert (shown == np.asarray(replace(CAPTION, words=words).draw(image))).all()
    assert (shown != np.asarray(replace_threshold(CAPTION, 0.0).draw(image))).any()


# --- the setting ------------------------------------------------------------------------------------------------


def test_the_processor_says_from_when_on_a_word_has_a_place(processor, tmp_path):
    out = answer(processor.tokenizer, "a dog chases", "a ball")
    processor.visual_threshold = 1.0
    processor.save_pretrained(tmp_path)
    loaded = PixelLLMProcessor.from_pretrained(tmp_path)
    for (result,) in loaded.post_process_grounded_generation(out, loaded(images())):
        assert result.visual_threshold == 1.0 and not result.trace
        assert all(word.point is not None for word in result.words)


@pytest.mark.parametrize("value", ["0.5", True, -0.1, 1.5, math.nan, None])
def test_a_threshold_that_is_no_probability_is_refused(processor, tmp_path, value):
    processor.save_pretrained(tmp_path)
    settings = json.loads((tmp_path / "processor_config.json").read_text())
    (tmp_path / "processor_config.json").write_text(json.dumps(settings | {"visual_threshold": value}))
    with pytest.raises(ProcessorFolderError, match="visual_threshold must be a number of 0 to 1"):
        PixelLLMProcessor.from_pretrained(tmp_path)
