from __future__ import annotations

import threading
from pathlib import Path

import pytest
from PIL import Image

from pixelllm_hf.inference import Request, TooSlowError
from pixelllm_hf.space.limits import Limits
from pixelllm_hf.space.refusals import RefusedError
from pixelllm_hf.space.service import Service

from .running_demo import SCENE

LIMITS = Limits(new_tokens=24, seconds=300)


@pytest.fixture(scope="module")
def service(small_checkpoint: Path) -> Service:
    return Service.load(["tiny", str(small_checkpoint)], limits=LIMITS, device="cpu")


@pytest.fixture(scope="module")
def image() -> Image.Image:
    return Image.open(SCENE).convert("RGB")


@pytest.mark.parametrize("request_", [Request("caption"), Request("region", boxes=((20.0, 20.0, 120.0, 110.0),))])
def test_streamed_words_grow_into_the_answer_itself(service, image, request_):
    steps = list(service.stream(image, request_))
    assert steps[-1] == service.answer(image, request_)
    counts = [len(step[0].words) for step in steps]
    assert counts == sorted(counts) and counts[0] == 1 and len(counts) > 2
    for step in steps[:-1]:
        for word, final in zip(step[0].words, steps[-1][0].words, strict=False):
            assert step[0].text[word.start : word.end] == word.text == final.text
            assert word.box is None or word.box == pytest.approx(final.box, abs=0.01)


def test_all_tasks_answer_with_a_model_that_has_all_heads(service, image):
    for request in (
        Request("trace"),
        Request("refer", expressions=("a dog", "two cats")),
        Request("segment", expressions=("a dog",)),
        Request("region", points=(((30.0, 30.0),),)),
        Request("dense", max_results=3),
    ):
        results = service.answer(image, request, model="checkpoint")
        assert len(results) == len(request.expressions) or not request.expressions
        assert all(result.image_size == image.size for result in results)
        assert request.task != "segment" or results[0].mask.shape == image.size[::-1]
        assert request.task != "dense" or len(results) <= 3


def test_what_a_model_lacks_is_refused_and_the_other_one_named(service, image, monkeypatch):
    without = {"segment": "mask head", "dense": "detector"}
    monkeypatch.setattr(service._captioners["tiny"], "missing_head", without.get)
    assert service.lacking("tiny") == without
    assert service.lacking("checkpoint") == {"reason": "segmentation codebook"}
    for request in (Request("segment", expressions=("a dog",)), Request("dense")):
        with pytest.raises(RefusedError, match=f"no {without[request.task]}.*Choose checkpoint"):
            service.answer(image, request)
    with pytest.raises(RefusedError, match="Choose another task"):
        alone = Service({"tiny": service._captioners["tiny"]}, LIMITS)
        alone.answer(image, Request("dense"))


def test_a_model_that_is_not_here_is_refused(service):
    for name in ("nobody/nothing", "../checkpoint", 7, ["tiny"]):
        with pytest.raises(RefusedError, match="The models are tiny, checkpoint"):
            service.chosen(name)
    assert service.chosen("") == service.chosen(None) == "tiny"


@pytest.fixture
def running(service, monkeypatch) -> tuple[list[int], list[int]]:
    """An entry for each `generate()` of the first model that runs, and how many there were when each began."""
    now: list[int] = []
    most: list[int] = []
    model = service._captioners["tiny"].model
    generate = model.generate

    def watched(**inputs):
        now.append(1)
        most.append(len(now))
        try:
            return generate(**inputs)
        finally:
            now.pop()

    monkeypatch.setattr(model, "generate", watched)
    return now, most


def test_whoever_breaks_off_leaves_the_model_free_at_once(service, image, running):
    now, _ = running
    stream = service.stream(image, Request("caption"))
    next(stream)
    assert now, "it still writes"
    stream.close()
    assert not now
    assert service.answer(image, Request("caption"))[0].words


def test_an_answer_beyond_its_time_is_stopped_and_said_so(small_checkpoint, image):
    hurried = Service.load([str(small_checkpoint)], limits=Limits(seconds=0.0), device="cpu")
    with pytest.raises(TooSlowError, match="longer than 0 seconds"):
        hurried.answer(image, Request("caption"))
    with pytest.raises(TooSlowError):
        list(hurried.stream(image, Request("caption")))


def test_one_model_answers_one_request_at_a_time(service, image, running):
    _, most = running
    threads = [threading.Thread(target=service.answer, args=(image, Request("caption"))) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == [1, 1, 1]
