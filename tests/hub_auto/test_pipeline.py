"""`pipeline("grounded-captioning")` and transformers' own image-text pipeline with our model."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from pixelllm_hf import GroundedCaptioningPipeline, PromptError
from pixelllm_hf.processing.grounded_results import GroundedCaption
from pixelllm_hf.processing.mask_codec import decode_rle
from pixelllm_hf.processing.tasks import task_spec

TASK = "grounded-captioning"
WORD_KEYS = {"text", "start", "end", "point", "box", "score", "spread", "visual"}


@pytest.fixture(scope="module")
def pipe(small_checkpoint: Path) -> GroundedCaptioningPipeline:
    from transformers import pipeline

    return pipeline(TASK, model=str(small_checkpoint), device="cpu", max_new_tokens=6)


@pytest.fixture(scope="module")
def images() -> list[Image.Image]:
    generator = np.random.default_rng(1)
    sizes = [(48, 64), (90, 50), (30, 30)]
    return [Image.fromarray(generator.integers(0, 256, (*size, 3), dtype=np.uint8)) for size in sizes]


def same(one: Any, other: Any) -> bool:
    """Equal records up to the rounding that batches of another size bring."""
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list):
        return len(one) == len(other) and all(map(same, one, other))
    return one == pytest.approx(other, abs=1e-2) if isinstance(one, float) else one == other


def test_an_image_gives_one_record_that_can_be_written_as_json(pipe, images):
    (record,) = pipe(images[0])
    beside = {name: value for name, value in record.items() if name != "generated_text"}
    assert GroundedCaption.from_dict(beside).to_dict() == beside
    assert record["generated_text"] == record["text"] and record["image_size"] == [64, 48]
    assert json.loads(json.dumps(record)) == record
    assert record["words"]
    for word in record["words"]:
        assert set(word) == WORD_KEYS
        assert record["generated_text"][word["start"] : word["end"]] == word["text"]
        x, y = word["point"]
        assert 0 <= x <= 64 and 0 <= y <= 48  # pixels of the original image
        assert len(word["box"]) == 4


def test_every_kind_of_image_gives_the_same_answer(pipe, images, tmp_path):
    image = images[0]
    path = tmp_path / "image.png"
    image.save(path)
    array = np.asarray(image)
    expected = pipe(image)
    kinds = [
        str(path),
        path,
        path.read_bytes(),
        array,
        torch.from_numpy(array.copy()).permute(2, 0, 1),
        {"image": path},
    ]
    for kind in kinds:
        assert same(pipe(kind), expected)


def test_a_batch_gives_what_single_images_give(pipe, images):
    one_by_one = [pipe(image) for image in images]
    assert same(pipe(images), one_by_one)
    assert same(pipe(tuple(images), batch_size=2), one_by_one)
    assert same(pipe(images, batch_size=8), one_by_one)


def test_a_batch_array_is_a_list_of_images(pipe, images):
    array = np.stack([np.asarray(images[0]), np.asarray(images[0])[::-1]])
    assert same(pipe(array), [pipe(array[0]), pipe(array[1])])


def test_an_empty_list_has_no_answers(pipe):
    assert pipe([]) == []


def test_a_generator_is_read_no_further_than_answers_are_taken(pipe, images):
    read = []

    def endless() -> Iterator[Any]:
        while True:
            read.append(len(read))
            yield images[len(read) % 2]

    answers = iter(pipe(endless(), batch_size=2))
    first = next(answers)
    assert len(read) <= 4
    assert same(first, pipe(images[1]))
    assert same(next(answers), pipe(images[0]))


@pytest.mark.parametrize("kind", ["column", "rows", "stream of a column", "stream of rows"])
def test_a_data_set_is_answered_row_by_row(pipe, images, kind):
    from datasets import Dataset, Image as ImageFeature

    data = Dataset.from_dict({"image": images}).cast_column("image", ImageFeature())
    source = data if "rows" in kind else data["image"]
    if "stream" in kind:
        streamed = data.to_iterable_dataset()
        source = streamed if "rows" in kind else streamed["image"]
    answers = pipe(source, batch_size=2)
    assert not isinstance(answers, list)
    assert same(list(answers), pipe(images))
    if "stream" not in kind:
        assert len(answers) == len(images)


def test_images_read_by_other_processes_give_the_same_answers(pipe, images, tmp_path):
    paths = []
    for i, image in enumerate(images):
        paths.append(tmp_path / f"{i}.png")
        image.save(paths[-1])
    assert same(pipe(paths, batch_size=2, num_workers=1), pipe(paths))


def test_boxes_of_one_image_give_a_record_each(pipe, images):
    boxes = [[4, 6, 40, 30], [10, 10, 20, 40]]
    records = pipe(images[0], boxes=boxes)
    assert [record["prompt_box"] for record in records] == boxes
    assert {record["prompt"] for record in records} == {"an object of"}
    assert same(pipe(images[0], boxes=boxes[0]), records[:1])


def test_points_are_in_the_record(pipe, images):
    (record,) = pipe(images[0], points=[[12, 20]])
    assert record["prompt_points"] == [[12, 20, 1]]


def test_places_of_a_list_come_for_each_image_or_in_its_record(pipe, images):
    boxes = [[[4, 6, 40, 30]], None, [[1, 2, 20, 20], [3, 4, 9, 30]]]
    expected = pipe(images, boxes=boxes, batch_size=3)
    assert [len(records) for records in expected] == [1, 1, 2]
    assert [record.get("prompt_box") for records in expected for record in records] == [boxes[0][0], None, *boxes[2]]
    records = [{"image": image, "boxes": box} for image, box in zip(images, boxes, strict=True)]
    assert same(pipe(records, batch_size=2), expected)


def test_a_prompt_goes_to_every_image_or_each_has_its_own(pipe, images):
    assert [r[0]["prompt"] for r in pipe(images[:2], prompt="a dog")] == ["a dog", "a dog"]
    assert [r[0]["prompt"] for r in pipe(images[:2], prompt=["a dog", "two cats"], batch_size=2)] == [
        "a dog",
        "two cats",
    ]


def test_the_task_chooses_the_words(pipe, images):
    assert pipe(images[0], task="trace")[0]["prompt"].lower() == "a long image caption:"
    assert pipe(images[0])[0]["prompt"].lower() == "a photo of"


def test_referring_gives_the_box_of_each_expression(pipe, images):
    records = pipe(images[0], prompt=["a dog", "two red cats"], task="refer")
    assert [record["generated_text"] for record in records] == ["a dog", "two red cats"]
    for record in records:
        assert len(record["box"]) == 4
        assert 0 <= record["score"] <= 1  # how likely the expression is; a detection has a box_score
        assert record["mask"] is None


ASKED = {
    "caption": {},
    "region": {"boxes": [[4, 4, 30, 40]]},
    "refer": {"text": ["a dog", "two red cats"]},
    "segment": {"text": ["a dog"]},
    "dense": {},
}


@pytest.mark.parametrize("task", ASKED)
def test_a_record_says_all_that_the_processor_says(pipe, images, task):
    asked = ASKED[task]
    inputs = pipe.processor(images[0], task=task, **asked)
    output = pipe.model.generate(**inputs, max_new_tokens=6)
    (results,) = task_spec(task).results(pipe.processor, output, inputs)
    records = pipe(images[0], task=task, prompt=asked.get("text"), boxes=asked.get("boxes"))
    expected = [{"generated_text": result.text, **result.to_dict()} for result in results]
    assert same(records, expected)


def test_segmenting_gives_a_mask_of_the_whole_image(pipe, images):
    (record,) = pipe(images[0], prompt="a dog", task="segment")
    assert decode_rle(record["mask"]).shape == (48, 64)
    assert isinstance(record["mask_score"], float)
    assert json.loads(json.dumps(record)) == record


def test_describing_everything_gives_the_best_objects_first(pipe, images):
    found = pipe(images[:2], task="dense", batch_size=2)
    assert len(found) == 2
    for records in found:
        scores = [record["box_score"] for record in records]
        assert scores == sorted(scores, reverse=True)
        assert all(len(record["box"]) == 4 for record in records)
    (fewer, _) = pipe(images[:2], task="dense", batch_size=2, max_results=1)
    assert same(fewer, found[0][:1])
    assert pipe(images[0], task="dense", min_score=1.1) == []


def test_generation_options_come_by_name_or_together_and_at_any_time(small_checkpoint, pipe, images):
    from transformers import pipeline

    expected = pipe(images[0], max_new_tokens=3)
    assert same(pipe(images[0], generate_kwargs={"max_new_tokens": 3}), expected)
    short = pipeline(TASK, model=pipe.model, processor=pipe.processor, device="cpu", max_new_tokens=3)
    assert same(short(images[0]), expected)
    several = pipe(images[0], num_beams=3, num_return_sequences=2)
    assert len(several) == 2


def test_words_are_streamed_as_they_are_in_the_record(pipe, images):
    streamed = list(pipe.stream(images[0]))
    (record,) = pipe(images[0])
    assert [word["text"] for word in streamed] == [word["text"] for word in record["words"]]
    assert [word["point"] for word in streamed] == [pytest.approx(word["point"]) for word in record["words"]]


def test_words_about_a_place_are_streamed_too(pipe, images):
    streamed = list(pipe.stream(images[0], boxes=[[4, 6, 40, 30]]))
    (record,) = pipe(images[0], boxes=[[4, 6, 40, 30]])
    assert [word["text"] for word in streamed] == [word["text"] for word in record["words"]]


@pytest.mark.parametrize(
    ("images_of", "options", "message"),
    [
        (lambda images: images, {}, "streamed for one image at a time"),
        (lambda images: images[0], {"prompt": "a dog", "task": "refer"}, "'refer' come all at once"),
        (lambda images: images[0], {"task": "dense"}, "'dense' come all at once"),
        (lambda images: images[0], {"num_beams": 2}, "streamer"),
    ],
)
def test_what_is_not_written_word_by_word_is_not_streamed(pipe, images, images_of, options, message):
    with pytest.raises(ValueError, match=message):
        list(pipe.stream(images_of(images), **options))


def test_a_streamer_of_ones_own_is_given_the_tokens_of_a_call(pipe, images):
    from transformers.generation.streamers import BaseStreamer

    class Collector(BaseStreamer):
        def __init__(self):
            self.tokens, self.ended = [], False

        def put(self, value):
            self.tokens.append(value.reshape(-1))

        def end(self):
            self.ended = True

    collector = Collector()
    (record,) = pipe(images[0], streamer=collector)
    assert collector.ended
    said = pipe.tokenizer or pipe.processor.tokenizer
    assert said.decode(torch.cat(collector.tokens), skip_special_tokens=True) == record["generated_text"]


def test_an_image_that_cannot_be_read_is_named_also_in_a_stream(pipe, images, tmp_path):
    from pixelllm_hf import ImageError

    missing = tmp_path / "missing.png"
    with pytest.raises((ImageError, OSError), match=r"missing\.png"):
        pipe([images[0], missing])
    answers = iter(pipe(iter([images[0], missing])))
    assert next(answers)
    with pytest.raises((ImageError, OSError), match=r"missing\.png"):
        next(answers)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"max_new_token": 3}, TypeError, "max_new_token came"),
        ({"max_new_tokens": 3, "generate_kwargs": {"max_new_tokens": 4}}, TypeError, "Leave one of them out"),
        ({"task": "captions"}, PromptError, "unknown task 'captions'"),
        ({"max_results": 3}, TypeError, "task='dense'"),
        ({"task": "refer"}, PromptError, "needs an expression"),
        ({"task": "dense", "boxes": [[0, 0, 9, 9]]}, PromptError, "takes no boxes"),
    ],
)
def test_a_mistake_is_named(pipe, images, arguments, error, message):
    with pytest.raises(error, match=message):
        pipe(images[0], **arguments)


def test_places_beside_a_stream_are_refused(pipe, images):
    with pytest.raises(PromptError, match="come with each of them"):
        pipe(iter(images), boxes=[[0, 0, 9, 9]])


def test_places_for_another_number_of_images_are_refused(pipe, images):
    with pytest.raises(PromptError, match="there are 2 images and 1 entries"):
        pipe(images[:2], boxes=[None])


def test_a_record_without_an_image_is_refused(pipe):
    with pytest.raises(PromptError, match="needs an image under 'image'"):
        pipe({"photo": "a.png"})


def test_without_a_model_the_embedded_one_answers():
    from transformers import pipeline

    import pixelllm_hf

    pipe = pipeline(TASK, device="cpu")
    assert pipe.model.name_or_path == str(pixelllm_hf.default_checkpoint())
    assert isinstance(pipe, GroundedCaptioningPipeline)


@pytest.mark.parametrize("name", ["image-text-to-text", "image-to-text"])  # the second is a name of the first now
def test_transformers_own_pipeline_gives_plain_captions(small_checkpoint, pipe, images, name, monkeypatch):
    from transformers import logging, pipeline

    # transformers passes its remark about the old name in a form that logging cannot print.
    monkeypatch.setattr(logging.get_logger("transformers.pipelines"), "warning", lambda *args, **kwargs: None)
    plain = pipeline(name, model=str(small_checkpoint), device="cpu", max_new_tokens=6)
    (answer,) = plain(images[0], text="A photo of ", return_full_text=False)
    assert answer["generated_text"] == pipe(images[0])[0]["generated_text"]


def test_transformers_own_pipeline_takes_several_images(small_checkpoint, pipe, images):
    from transformers import pipeline

    plain = pipeline("image-text-to-text", model=str(small_checkpoint), device="cpu", max_new_tokens=6)
    answers = plain(images[:2], text=["A photo of ", "an object of "], return_full_text=False)
    expected = pipe(images[:2], prompt=["A photo of ", "an object of "])
    assert [answer["generated_text"] for answer in answers] == [records[0]["generated_text"] for records in expected]


@pytest.fixture(scope="module")
def plain(small_checkpoint: Path) -> Any:
    """transformers' own pipeline of images and text."""
    from transformers import pipeline

    return pipeline("image-text-to-text", model=str(small_checkpoint), device="cpu", max_new_tokens=6)


def test_transformers_pipeline_answers_a_chat_as_it_answers_image_and_text(plain, pipe, images):
    chat = [{"role": "user", "content": [{"type": "image", "image": images[0]}, {"type": "text", "text": "a dog "}]}]
    (answer,) = plain(text=chat)
    assert answer["generated_text"][-1]["role"] == "assistant"
    (beside,) = plain(images[0], text="a dog ", return_full_text=False)
    words = answer["generated_text"][-1]["content"]
    assert words == beside["generated_text"] == pipe(images[0], prompt="a dog ")[0]["generated_text"]


def test_transformers_pipeline_says_that_it_needs_a_text(plain, images, tmp_path):
    images[0].save(tmp_path / "image.png")
    chat = [{"role": "user", "content": [{"type": "image", "image": images[0]}]}]
    for ask, what in (
        (lambda: plain(images[0]), "text"),
        (lambda: plain(text=chat), "has no text"),
        (lambda: plain(str(tmp_path / "image.png")), "there is no image. Pass one with the text"),
    ):
        with pytest.raises(ValueError, match=what):
            ask()


def test_open_files_are_single_images(pipe, images, tmp_path):
    images[0].save(tmp_path / "image.png")
    with open(tmp_path / "image.png", "rb") as stream:
        (record,) = pipe(stream)
        ((again,),) = pipe([stream])
        assert not stream.closed
    assert record == again == pipe(images[0])[0]
