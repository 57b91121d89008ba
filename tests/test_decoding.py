"""Whoever asks a checkpoint without saying how to write gets what `generate` writes, with its own beams and length."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from pixelllm_hf import PixelLLMForGroundedGeneration, PixelLLMProcessor, embedded_checkpoint
from pixelllm_hf.cli import OK, main
from pixelllm_hf.decoding import LONGEST, decoding_options
from pixelllm_hf.evaluation.images import CaptionedImage
from pixelllm_hf.evaluation.runner import answers_of
from pixelllm_hf.evaluation.tasks import TASKS
from pixelllm_hf.inference import Captioner, Request
from pixelllm_hf.processing.image_reading import read_image
from pixelllm_hf.publishing.examples import draw_examples

EXAMPLE = Path(__file__).parents[1] / "demo" / "examples" / "gull.jpg"
BEAMS, LENGTH = 3, 7


@pytest.fixture(scope="module")
def searching(small_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The small model with beams and a length of its own."""
    folder = tmp_path_factory.mktemp("searching") / "checkpoint"
    shutil.copytree(small_checkpoint, folder)
    file = folder / "generation_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"num_beams": BEAMS, "max_new_tokens": LENGTH}))
    return folder


def generated(checkpoint: Path, **options: int) -> str:
    processor = PixelLLMProcessor.from_pretrained(checkpoint)
    model = PixelLLMForGroundedGeneration.from_pretrained(checkpoint, dtype=torch.float32).eval()
    inputs = processor(images=str(EXAMPLE))
    with torch.inference_mode():
        output = model.generate(**inputs, **options)
    return processor.post_process_grounded_generation(output, inputs)[0][0].text


def by_pipeline(checkpoint: Path, folder: Path) -> str:
    from transformers import pipeline

    describe = pipeline("grounded-captioning", model=str(checkpoint), device="cpu", dtype="float32")
    return describe(str(EXAMPLE))[0]["generated_text"]


def by_command(checkpoint: Path, folder: Path) -> str:
    out = folder / "caption.jsonl"
    assert main(["caption", str(EXAMPLE), "--model", str(checkpoint), "--device", "cpu", "--json", str(out)]) == OK
    return json.loads(out.read_text())["text"]


def by_annotation(checkpoint: Path, folder: Path) -> str:
    pytest.importorskip("pyarrow", reason="needs pyarrow")
    from pixelllm_hf.inference.annotation_shards import read_annotations

    (folder / "images").mkdir()
    shutil.copy(EXAMPLE, folder / "images")
    words = ["annotate", "--dataset", folder / "images", "--out", folder / "shards", "--model", checkpoint]
    assert main([str(word) for word in [*words, "--device", "cpu"]]) == OK
    (annotated,) = read_annotations(folder / "shards")
    return annotated.results[0].text


def by_evaluation(checkpoint: Path, folder: Path) -> str:
    captioner = Captioner.load(str(checkpoint), "cpu", "auto", {})
    image = CaptionedImage("1", EXAMPLE, ("a man",), None)
    ((_, answers),) = answers_of(captioner.model, captioner.processor, TASKS["caption"], [image])
    return answers[0].text


def by_page(checkpoint: Path, folder: Path) -> str:
    """What the page opens with, which also programs are answered that name no beams."""
    pytest.importorskip("gradio", reason="needs gradio: pip install pixelllm-hf[demo]")
    from pixelllm_hf.space.example_images import ExampleImages
    from pixelllm_hf.space.limits import Limits
    from pixelllm_hf.space.page_events import PageEvents
    from pixelllm_hf.space.service import Service

    (folder / "offered").mkdir()
    shutil.copy(EXAMPLE, folder / "offered")
    service = Service.load([str(checkpoint)], limits=Limits(), device="cpu")
    events = PageEvents(service, ExampleImages.collect(folder / "offered", folder / "served"), folder)
    answered = events.opening().answered
    assert answered is not None
    image = read_image(str(EXAMPLE)).pixels
    (unsaid,) = service.answer(image, Request("caption"))
    assert unsaid.text == answered.results[0]["text"]
    return unsaid.text


def by_published_example(checkpoint: Path, folder: Path) -> str:
    ((example, _),) = draw_examples(checkpoint, [EXAMPLE], folder / "drawn")
    return example.caption


WAYS = [by_pipeline, by_command, by_annotation, by_evaluation, by_page, by_published_example]


def test_the_small_models_own_beams_and_length_make_a_difference(searching: Path) -> None:
    own = generated(searching)
    assert own != generated(searching, num_beams=1)
    assert own != generated(searching, max_new_tokens=LONGEST)


@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.__name__)
def test_every_way_writes_what_generate_writes(
    way: Callable[[Path, Path], str], searching: Path, tmp_path: Path
) -> None:
    assert way(searching, tmp_path) == generated(searching)


@pytest.mark.parametrize("way", [by_pipeline, by_command, by_evaluation, by_page], ids=lambda way: way.__name__)
def test_every_way_captions_a_photograph_like_the_embedded_model_itself(
    way: Callable[[Path, Path], str], tmp_path: Path
) -> None:
    checkpoint = embedded_checkpoint("photo")
    assert way(checkpoint, tmp_path) == generated(checkpoint)


def test_what_is_asked_for_goes_before_what_the_checkpoint_has() -> None:
    own = SimpleNamespace(max_new_tokens=40, max_length=None, num_beams=3)
    assert decoding_options(own, num_beams=None) == {"max_new_tokens": 40}
    assert decoding_options(own, num_beams=1, max_new_tokens=9) == {"num_beams": 1, "max_new_tokens": 9}


def test_a_checkpoint_without_a_length_writes_more_than_twenty_tokens() -> None:
    bare = SimpleNamespace(max_new_tokens=None, max_length=None, num_beams=None)
    assert decoding_options(bare) == {"max_new_tokens": LONGEST}
    for given in ({"max_new_tokens": 5}, {"max_length": 5}):
        assert decoding_options(bare, **given) == given
    assert decoding_options(SimpleNamespace(max_new_tokens=None, max_length=30, num_beams=None)) == {}
