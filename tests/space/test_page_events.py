"""The page's listeners, called as gradio calls them, with a model that gives made-up answers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from PIL import Image

from pixelllm_hf import GroundedCaption
from pixelllm_hf.inference import Request, TooSlowError
from pixelllm_hf.space.example_images import ExampleImages
from pixelllm_hf.space.limits import Limits
from pixelllm_hf.space.service import Service

from .made_up import growing, made_up_answer, made_up_caption, made_up_image, made_up_object

gr = pytest.importorskip("gradio", reason="needs gradio: pip install pixelllm-hf[demo]")

NO_LOCATION = [None] * 6
CAPTION = made_up_caption()


class MadeUpCaptioner:
    """A model that sees a ball, or writes a caption; after `fails_after` words its time is up."""

    beams, longest, folder = 1, 96, Path("nowhere")
    fails_after: int | None = None
    surest_width: int | None = None

    def missing_head(self, task: str) -> str | None:
        return None

    def __call__(self, images: Sequence[Any], request: Request, **options: Any) -> list[list[GroundedCaption]]:
        if request.task == "reason":
            return [[replace(made_up_answer(), prompt=request.expressions[0])]]
        about_objects = request.task in ("refer", "segment", "dense")
        return [[made_up_object("ball", mask=request.task == "segment")] if about_objects else [CAPTION]]

    def stream(self, image: Any, request: Request, **options: Any) -> Iterator[list[GroundedCaption]]:
        for number, part in enumerate(growing(CAPTION)):
            if number == self.fails_after:
                raise TooSlowError("the answer took too long.")
            yield [replace(part, image_size=image.size)]
        yield [replace(CAPTION, image_size=image.size, score=0.99 if image.width == self.surest_width else 0.8)]


@pytest.fixture
def captioner() -> MadeUpCaptioner:
    return MadeUpCaptioner()


@pytest.fixture
def events(captioner: MadeUpCaptioner, tmp_path: Path) -> Any:
    from pixelllm_hf.space.page_events import PageEvents

    uploads = tmp_path / "uploads"
    (tmp_path / "images").mkdir()
    made_up_image().save(tmp_path / "images" / "meadow.png")
    examples = ExampleImages.collect(tmp_path / "images", uploads / "offered")
    service = Service({"tiny": captioner, "org/big": captioner}, Limits())  # type: ignore[dict-item]
    return PageEvents(service, examples, uploads)


def upload(events: Any, name: str = "mine.png") -> dict[str, str]:
    """Gradio's record of an image that a visitor has sent."""
    file = events.uploads / name
    made_up_image().rotate(180).save(file)
    return {"path": str(file)}


def visitor() -> Any:
    from pixelllm_hf.space.page_events import Session

    return Session()


def example(events: Any) -> dict[str, str]:
    return {"path": str(events.examples.files["meadow"])}


def answers(
    events: Any,
    image: Any,
    task: str,
    phrase: str = "",
    place: Sequence[Any] = NO_LOCATION,
    beams: int = 1,
    model: str = "",
) -> list[tuple[Any, ...]]:
    """All that the page is told, one after the other."""
    return list(events.answer(image, task, phrase, *place, beams, model, visitor()))


def opened(events: Any, query: str) -> tuple[Any, ...]:
    from starlette.datastructures import QueryParams

    return events.open_link(SimpleNamespace(query_params=QueryParams(query.removeprefix("?"))))


# --- answers ---


def test_an_answer_grows_and_is_kept_when_it_is_whole(events):
    told = answers(events, upload(events), "caption")
    assert [view["writing"] for view, *_ in told] == [True] * (len(told) - 1) + [False]
    texts = [view["answers"][0]["text"] for view, *_ in told]
    assert texts == sorted(texts, key=len) and texts[-1] == CAPTION.text
    *_, (_, rows, note, answered) = told
    assert rows[0][:3] == [1, CAPTION.text, "0.80"] and "words in" in note
    assert [GroundedCaption.from_dict(record) for record in answered.results] == [CAPTION]


def test_an_answer_that_breaks_off_is_told_to_be_over_before_the_error_is(events, captioner):
    captioner.fails_after = 3
    told = []
    with pytest.raises(gr.Error, match="took too long"):
        for step in events.answer(upload(events), "caption", "", *NO_LOCATION, 1, "", visitor()):
            told.append(step)
    (before, *_), (after, rows, note, answered) = told[-2:]
    assert before["writing"] and not after["writing"]
    assert after["answers"] == before["answers"], "the words stay"
    assert (rows, note, answered) == ([], "Broken off.", None), "half an answer is not taken away or linked to"


def test_an_answer_that_fails_before_its_first_word_changes_nothing(events, captioner):
    captioner.fails_after = 0
    with pytest.raises(gr.Error, match="took too long"):
        next(events.answer(upload(events), "caption", "", *NO_LOCATION, 1, "", visitor()))


@pytest.mark.parametrize("change", ["image", "place", "cleared"])
def test_an_answer_ends_when_its_visitor_looks_elsewhere(events, change):
    who, mine = visitor(), upload(events)
    events.show(mine, who)
    told = events.answer(mine, "caption", "", *NO_LOCATION, 1, "", who)
    assert next(told)[0]["writing"]
    if change == "place":
        events.drawn(who, SimpleNamespace(_data={"point": [5, 6]}))
        ((view, *rest),) = told
        assert (view["writing"], *rest) == (False, [], "Broken off.", None)
    else:
        *_, answered, rows, note, view = events.show(None if change == "cleared" else example(events), who)
        assert list(told) == [(view, rows, note, answered)], "a word that was on its way does not stay on the page"
    if change == "image":
        *_, (_, _, _, answered) = events.answer(example(events), "caption", "", *NO_LOCATION, 1, "", who)
        assert answered is not None, "a question about the new one is answered"


def test_a_question_that_waited_while_another_image_came_is_not_answered(events):
    who, mine = visitor(), upload(events)
    *_, answered, rows, note, view = events.show(example(events), who)
    assert list(events.answer(mine, "caption", "", *NO_LOCATION, 1, "", who)) == [(view, rows, note, answered)]


@pytest.mark.parametrize(
    ("place", "rule"),
    [([1, 2, None, 4, None, None], "a box needs four numbers"), ([None] * 4 + [5, None], "a point needs two numbers")],
)
def test_half_a_place_is_refused(events, place, rule):
    with pytest.raises(gr.Error, match=rule):
        answers(events, upload(events), "region", place=place)


# --- scores ---


@pytest.mark.parametrize(
    ("task", "box_score", "expected"), [("dense", 0.75, 0.75), ("segment", None, 0.9), ("refer", None, None)]
)
def test_an_objects_score_is_about_the_object_and_never_about_the_phrase(task, box_score, expected):
    from pixelllm_hf.space.view import build_view, shown_score

    made = made_up_object("ball", mask=task == "segment")
    thing = replace(made, targets=(replace(made.targets[0], box_score=box_score),), score=0.001)
    assert shown_score(thing, task) == expected
    (answer,) = build_view(made_up_image(), [thing], task=task)["answers"]
    assert answer["score"] == expected
    scores = {word["score"] for word in answer["words"]}
    assert scores == ({0.9} if task == "dense" else {None}), "the words of a phrase are the visitor's"


# --- links ---


@pytest.mark.parametrize(
    ("task", "phrase", "place", "beams", "model"),
    [
        ("caption", "", NO_LOCATION, 1, "tiny"),
        ("trace", "", NO_LOCATION, 4, "org/big"),
        ("region", "", [10.5, 20.0, 300.0, 400.0, None, None], 2, "tiny"),
        ("region", "", [None] * 4 + [33.3, 44.0], 1, "tiny"),
        ("refer", "the ball & <b>bone</b>", NO_LOCATION, 1, "org/big"),
        ("segment", "der Ball, rot", NO_LOCATION, 1, "tiny"),
        ("dense", "", NO_LOCATION, 3, "tiny"),
    ],
)
def test_a_link_sets_everything_as_it_was_and_asks_again(events, task, phrase, place, beams, model):
    *_, (_, _, _, answered) = answers(events, example(events), task, phrase, place, beams, model)
    query = events.link(answered)
    assert "example=meadow" in query
    file, chosen, prompt, *rest, ask_now, view, rows, note, kept = opened(events, query)
    assert (chosen["value"], prompt, rest[:6], rest[6], rest[7]) == (task, phrase, place, beams, model)
    assert ask_now, "a change of it asks"
    assert (view, rows, note, kept) == (None, [], "", None), "the answer that the page opens with is not about this"
    assert Image.open(file).convert("RGB").tobytes() == made_up_image().tobytes()


def test_no_link_is_made_to_an_image_of_a_visitor_and_nothing_of_it_is_kept(events, tmp_path):
    *_, (_, _, _, answered) = answers(events, upload(events), "caption")
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(gr.Error, match="your image is not kept"):
        events.link(answered)
    assert sorted(tmp_path.rglob("*")) == before


def test_there_is_nothing_to_link_to_before_an_answer(events):
    with pytest.raises(gr.Error, match="ask something first"):
        events.link(None)


def test_an_address_without_a_link_changes_nothing(events):
    controls = list(opened(events, "?__theme=dark"))
    assert controls.pop(13) is None, "nothing is asked"
    assert all(control == gr.skip() for control in controls)


# --- what the page opens with, and images that are chosen ---


def test_the_page_opens_with_the_example_that_the_model_is_surest_of(events, captioner):
    made_up_image((90, 60)).save(events.uploads / "offered" / "small.png")
    events.examples.files["small"] = events.uploads / "offered" / "small.png"
    captioner.surest_width = 90
    opening = events.opening()
    assert Path(opening.file).name == "small.png"
    assert opening.view["size"] == [90, 60] and opening.view["answers"][0]["text"] == CAPTION.text
    assert not opening.view["writing"] and "words in" in opening.note and opening.answered is not None


def test_the_page_opens_with_an_example_even_if_the_model_is_too_slow_for_it(events, captioner):
    captioner.fails_after = 0
    opening = events.opening()
    assert Path(opening.file).name == "meadow.png" and opening.view["answers"] == [] and opening.answered is None


def test_without_examples_the_page_opens_empty(events):
    events.examples.files.clear()
    opening = events.opening()
    assert (opening.file, opening.view) == (None, None)


@pytest.mark.parametrize(
    ("task", "phrase", "hint"),
    [("region", "", "Draw a box"), ("refer", "", "Write what to find"), ("segment", "", "Write what to find")],
)
def test_an_image_that_is_chosen_waits_for_what_the_task_needs(events, task, phrase, hint):
    ((view, rows, note, answered),) = events.answer_new(example(events), task, phrase, *NO_LOCATION, 1, "", visitor())
    assert (view, rows, answered) == (gr.skip(), [], None) and hint in note


@pytest.mark.parametrize(("task", "phrase"), [("caption", ""), ("trace", ""), ("dense", ""), ("refer", "the ball")])
def test_an_image_that_is_chosen_is_asked_about(events, task, phrase):
    *_, (view, _, _, answered) = events.answer_new(example(events), task, phrase, *NO_LOCATION, 1, "", visitor())
    assert view["answers"] and answered.request.task == task


def test_an_image_that_is_refused_leaves_the_page_without_any(events, monkeypatch):
    told = []
    monkeypatch.setattr(gr, "Warning", told.append)
    file = events.uploads / "notes.png"
    file.write_text("words")
    kept, *_, view = events.show({"path": str(file)}, visitor())
    assert (kept, view) == (None, None) and "not an image" in told[0]
    assert list(events.answer_new(None, "caption", "", *NO_LOCATION, 1, "", visitor())) == []


def test_a_question_is_answered_with_phrases_that_have_masks(events):
    from pixelllm_hf.space.page_events import task_choices, words_tasks

    assert ("Ask", "reason") in task_choices({}) and "reason" in words_tasks()
    *_, (view, rows, note, answered) = events.answer(
        upload(events), "reason", "what can bark?", *NO_LOCATION, 1, "tiny", visitor()
    )
    (answer,) = view["answers"]
    assert [word["text"] for word in answer["words"] if word["mask"]] == ["The dog", "the ball"]
    assert [row[:3] for row in rows] == [[1, "The dog", "0.90"], [2, "the ball", "0.90"], [3, "the tree", "0.00"]]
    assert note.startswith("3 things found") and answered.request.expressions == ("what can bark?",)
    file, *_ = events.make_file("PNG", 800, answered)
    assert Image.open(file).width == 800


def test_a_question_that_is_empty_is_asked_for(events):
    (_, _, hint, _) = list(events.answer_new(upload(events), "reason", "", *NO_LOCATION, 1, "tiny", visitor()))[-1]
    assert hint == "Write a question."
    with pytest.raises(gr.Error, match="write a question"):
        list(events.answer(upload(events), "reason", "", *NO_LOCATION, 1, "tiny", visitor()))


def test_a_page_whose_model_can_only_be_asked_opens_unasked(events, captioner, monkeypatch):
    monkeypatch.setattr(MadeUpCaptioner, "missing_head", lambda self, task: None if task == "reason" else "point head")
    opening = events.opening()
    assert opening.file and opening.answered is None and opening.view["answers"] == []
    choice, note, *_ = events.choose_model("tiny", "caption")
    assert choice["value"] == "reason" and [task for _, task in choice["choices"]] == ["reason"]
    assert "needs a point head" in note


def test_choosing_a_model_brings_its_own_beams_and_what_it_has_learnt_from(events, captioner, tmp_path, monkeypatch):
    (tmp_path / "README.md").write_text("# Big\n\n## Training data\n\nCats. Dogs, too.\n")
    big = MadeUpCaptioner()
    monkeypatch.setattr(big, "folder", tmp_path, raising=False)
    monkeypatch.setattr(big, "beams", 99, raising=False)
    events.service._captioners["org/big"] = big
    *_, beams, taught = events.choose_model("org/big", "caption")
    assert beams == events.limits.beams, "its own, as far as they are allowed here"
    assert taught == "What **org/big** has learnt from: Cats. Dogs, too."
    *_, beams, taught = events.choose_model("tiny", "caption")
    assert beams == 1 and "its card does not say" in taught
