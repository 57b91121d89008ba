"""What happens when something is done on the page."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import gradio as gr

from pixelllm_hf.inference import Request
from pixelllm_hf.processing.grounded_results import GroundedCaption
from pixelllm_hf.processing.grounded_targets import objects_of
from pixelllm_hf.processing.tasks import TASK_SPECS, task_spec

from .downloads import RECORDS, TEXT_SHOWN, drawing, new_file, record_text
from .example_images import ExampleImages
from .limits import checked_request, checked_whole, read_upload, uploaded_file
from .refusals import FOR_VISITORS, RefusedError, as_gradio_error, for_notice
from .service import Service
from .share_link import SharedView, read_query
from .view import ShownImage, build_view, shown_score

logger = logging.getLogger(__name__)

OPENINGS = 6  # examples that are asked about before the page opens
LOCATION_FIELDS = 6  # number fields: a box and a point


@dataclass(frozen=True)
class Answered:
    """What a visitor sees, kept until the session ends: for files and links. results: records, which are small."""

    image: Path
    request: Request
    beams: int
    model: str
    results: tuple[dict[str, Any], ...]


@dataclass(frozen=True)
class Opening:
    """What a visitor finds on the page: an example, and what `answer` gives for it; the example alone if it failed."""

    file: str | None
    view: Any = None
    rows: list[list[Any]] = field(default_factory=list)
    note: str = ""
    answered: Answered | None = None


@dataclass
class Session:
    """One for each session, and the same one in all its listeners, so that a later one stops an answer that is written.

    turn: grows with every new image and place; image: the one that is looked at, None if that is not known.
    unasked: the outputs of `answer` that show it alone, until something is asked about it.
    """

    turn: int = 0
    image: str | None = None
    unasked: tuple[Any, list[list[Any]], str, Answered | None] | None = None

    def looks_at(self, image: Any) -> bool:
        """Whether this image is, as far as is known, the one on the page."""
        return self.image is None or not isinstance(image, dict) or image.get("path") == self.image


class PageEvents:
    """The page's listeners. They get values as the browser sends them (no preprocessing), so they check everything.

    uploads: the folder in which gradio keeps uploaded files.
    """

    def __init__(self, service: Service, examples: ExampleImages, uploads: Path):
        self.service = service
        self.limits = service.limits
        self.examples = examples
        self.uploads = uploads

    # --- choosing and asking ---

    def opening(self) -> Opening:
        """The example whose caption the model is surest of, among the first ones; asked once for all visitors."""
        candidates = [self._answered_example(file) for file in list(self.examples.files.values())[:OPENINGS]]
        return max(candidates, key=_sureness, default=Opening(None))

    def _answered_example(self, file: Path) -> Opening:
        image, visitor = {"path": str(file)}, Session()
        if "caption" in self.service.lacking(None):  # nothing can be asked without a visitor's words
            *_, view = self.show(image, visitor)
            return Opening(str(file), view)
        try:
            *_, shown = self.answer(
                image, "caption", "", *([None] * LOCATION_FIELDS), self.service.beams(None), "", visitor
            )
        except gr.Error as error:  # too slow, say; the page opens all the same
            logger.warning("the example %s has no answer: %s", file.name, error)
            *_, view = self.show(image, visitor)
            shown = view, [], "", None
        return Opening(str(file), *shown)

    def example(self, name: str) -> str:
        """The file of an example."""
        return str(self.examples.files[name])

    def show(self, image: Any, visitor: Session) -> tuple[Any, ...]:
        """A new image -> itself, empty place fields, nothing answered, an empty table and note, the viewer with it.

        One that is refused leaves the page without any.
        """
        visitor.turn += 1
        visitor.unasked = None
        visitor.image = image.get("path") if isinstance(image, dict) else ""
        view, kept = None, gr.skip()
        if image is not None:
            try:
                view = build_view(self._read(image)[1], [], task="caption")
            except FOR_VISITORS as error:
                gr.Warning(for_notice(error))
                visitor.image, kept = "", None
        visitor.unasked = view, [], "", None
        return kept, *([None] * LOCATION_FIELDS), None, [], "", view

    def answer(
        self, image: Any, task: Any, phrase: Any, *rest: Any
    ) -> Iterator[tuple[Any, list[list[Any]], str, Answered | None]]:
        """The controls' values -> view, rows of the table, note and what was answered, growing while it is written."""
        *place, beams, model, visitor = rest
        turn = visitor.turn
        if visitor.looks_at(image):
            visitor.unasked = None
        with as_gradio_error():
            box, point = _places(place)
            asked_phrase = task in TASK_SPECS and task_spec(task).needs_words
            asks_location = _asks_location(task)
            request = checked_request(
                task,
                self.limits,
                expressions=[phrase] if asked_phrase and phrase else None,
                boxes=[box] if asks_location and box else None,
                points=[point] if asks_location and point and not box else None,
            )
            width = checked_whole(beams, 1, self.limits.beams, "the beams")
            name = self.service.chosen(model)
            file, pixels = self._read(image)
            shown, started = ShownImage.of(pixels), time.perf_counter()
            results: list[GroundedCaption] = []
            try:
                with closing(self.service.stream(pixels, request, model=name, beams=width)) as steps:
                    for results in steps:
                        if turn != visitor.turn or not visitor.looks_at(image):
                            if visitor.looks_at(image):  # another place in it was drawn; nobody writes on here
                                yield build_view(shown, results, task=request.task), [], "Broken off.", None
                            elif visitor.unasked is not None:
                                # The last word may have reached the page after the new image; it must not stay.
                                yield visitor.unasked
                            return
                        yield build_view(shown, results, task=request.task, writing=True), [], "Writing …", None
            except Exception:
                if results and visitor.looks_at(image):  # what is there stays, but nobody writes on
                    yield build_view(shown, results, task=request.task), [], "Broken off.", None
                raise
            note = _note(request, results, time.perf_counter() - started)
            answered = Answered(file, request, width, name, tuple(result.to_dict() for result in results))
            yield build_view(shown, results, task=request.task), _rows(results, request.task), note, answered

    def answer_new(self, image: Any, task: Any, phrase: Any, *rest: Any) -> Iterator[tuple[Any, ...]]:
        """`answer` for an image that has just been chosen; a hint where the task wants something of it first."""
        if image is None:  # refused
            return
        wanted = "Draw a box or click a point on the image." if _asks_location(task) else ""
        if task in TASK_SPECS and task_spec(task).needs_words and not phrase:
            wanted = "Write what to find." if task_spec(task).text_is_answer else "Write a question."
        if wanted:
            yield gr.skip(), [], wanted, None
        else:
            yield from self.answer(image, task, phrase, *rest)

    def drawn(self, visitor: Session, event: gr.EventData) -> tuple[Any, ...]:
        """A box or a point from the viewer -> the task and the place fields."""
        visitor.turn += 1
        data = event._data if isinstance(event._data, dict) else {}
        place: list[float | None]
        with as_gradio_error():
            if "box" in data:
                place = [*checked_request("region", self.limits, boxes=[data["box"]]).boxes[0], None, None]
            else:
                points = checked_request("region", self.limits, points=[data.get("point")]).points
                place = [None] * 4 + [*points[0][0]]
        return "region", *(None if number is None else round(number, 1) for number in place)

    def choose_model(self, model: Any, task: Any) -> tuple[Any, str, int, str]:
        """A model -> the tasks that it can do, what it lacks for the others, its own beams, what it has learnt from."""
        with as_gradio_error():
            lacking, beams = self.service.lacking(model), self.service.beams(model)
            taught = self.service.learnt_from(model)
        choices = task_choices(lacking)
        return (
            gr.update(choices=choices, value=choices[0][1] if task in lacking else task),
            lacks(lacking),
            beams,
            taught,
        )

    # --- taking away ---

    def make_file(self, form: Any, side: Any, answered: Answered | None) -> tuple[str, Any, Any]:
        """A format -> the file, its text to copy and its image; what the format does not have is hidden."""
        with as_gradio_error():
            if answered is None:
                raise RefusedError("ask something first; then there is something to take away.")
            results = [GroundedCaption.from_dict(record) for record in answered.results]
            pixels = read_upload(answered.image, self.limits)
            if form in list(RECORDS):
                name = f"{self._stem(answered.image)}{answered.image.suffix}"
                text = record_text(form, results, name, pixels.size)
                file = new_file(self.uploads, f"pixelllm-{form.lower()}.json")
                file.write_text(text, encoding="utf-8")
                if len(text) > TEXT_SHOWN:
                    text = f"{len(text)} letters are too many to show; they are in the file."
                return str(file), gr.update(value=text, visible=True), gr.update(value=None, visible=False)
            if form != "PNG":
                raise RefusedError(f"the formats are {', '.join(RECORDS)} and PNG.")
            length = checked_whole(side, 1, 100_000, "the drawing's length")
            drawn = drawing(pixels, results, as_objects=answered.request.about_objects, side=length)
            file = new_file(self.uploads, "pixelllm.png")
            drawn.save(file)
            return str(file), gr.update(value="", visible=False), gr.update(value=str(file), visible=True)

    def link(self, answered: Answered | None) -> str:
        """The query of the link to what is seen."""
        with as_gradio_error():
            if answered is None:
                raise RefusedError("ask something first; then there is something to link to.")
            example = self.examples.name_of(uploaded_file({"path": str(answered.image)}, self.uploads))
            if example is None:
                raise RefusedError("a link can name an example only: your image is not kept. Take the file instead.")
            request, points = answered.request, answered.request.points
            return SharedView(
                example=example,
                task=request.task,
                prompt=request.expressions[0] if request.expressions else "",
                box=request.boxes[0] if request.boxes else None,
                point=points[0][0] if points else None,
                beams=None if answered.beams == self.service.beams(answered.model) else answered.beams,
                model=answered.model if len(self.service.models) > 1 else "",
            ).query()

    def open_link(self, request: gr.Request) -> tuple[Any, ...]:
        """The address that the page was opened with -> the controls, whether to ask at once, and an empty answer."""
        as_it_is = (gr.skip(),) * (3 + LOCATION_FIELDS + 4) + (None,) + (gr.skip(),) * 4
        try:
            view = read_query(request.query_params.multi_items(), self.limits)
            if view is None:
                return as_it_is
            model = self.service.chosen(view.model)
            lacking = self.service.lacking(model)
            if view.task not in TASK_SPECS or view.task in lacking:
                raise RefusedError("the link asks for a task that is not offered here, so it was not followed.")
            if view.example not in self.examples.files:
                raise RefusedError("the link's image is not one of the examples, so it was not followed.")
        except FOR_VISITORS as error:
            gr.Warning(for_notice(error))
            return as_it_is
        place = [*(view.box or [None] * 4), *(view.point or [None] * 2)]
        task = gr.update(choices=task_choices(lacking), value=view.task)
        file, ask_now, beams = self.example(view.example), time.time(), view.beams or self.service.beams(model)
        taught = self.service.learnt_from(model)
        return file, task, view.prompt, *place, beams, model, lacks(lacking), taught, ask_now, None, [], "", None

    # --- common ---

    def _read(self, image: Any) -> tuple[Path, Any]:
        file = uploaded_file(image, self.uploads)
        return file, read_upload(file, self.limits)

    def _stem(self, image: Path) -> str:
        return self.examples.name_of(image) or "image"


def task_choices(lacking: dict[str, str]) -> list[tuple[str, str]]:
    """(label, task) pairs of what the model can do."""
    return [(spec.label, task) for task, spec in TASK_SPECS.items() if task not in lacking]


def lacks(lacking: dict[str, str]) -> str:
    """Why tasks are absent, in a sentence."""
    return " ".join(
        f"“{TASK_SPECS[task].label}” needs a {head}, which this model does not have." for task, head in lacking.items()
    )


def words_tasks() -> list[str]:
    """The tasks that need words of the visitor."""
    return [task for task, spec in TASK_SPECS.items() if spec.needs_words]


def _asks_location(task: str) -> bool:
    """Whether the task, which may be none of ours, needs a location of the visitor."""
    return task in TASK_SPECS and task_spec(task).needs_locations


def _places(numbers: Sequence[Any]) -> tuple[list[Any] | None, list[Any] | None]:
    """The number fields -> a box and a point; None where all fields are empty."""
    box, point = list(numbers[:4]), list(numbers[4:])
    for place, what in ((box, "a box needs four numbers"), (point, "a point needs two numbers")):
        if None in place and any(number is not None for number in place):
            raise RefusedError(f"{what}, but some of its fields are empty.")
    return (None if None in box else box), (None if None in point else point)


def _sureness(opening: Opening) -> float:
    return -1.0 if opening.answered is None else opening.answered.results[0]["score"] or 0.0


def _rows(results: Sequence[GroundedCaption], task: str) -> list[list[Any]]:
    """Number, text, score and place of each result, or of each thing that an answer names."""
    if task_spec(task).writes_targets:
        things = [thing for result in results if result.targets for thing in objects_of(result)]
        found = [(thing.text, thing.score, thing.bounds if thing.is_placed else None) for thing in things]
    else:
        found = [(result.text, shown_score(result, task), result.location) for result in results]
    rows = []
    for number, (text, score, location) in enumerate(found, 1):
        place = "" if location is None else ", ".join(f"{value:.0f}" for value in location)
        shown = "" if score is None or not math.isfinite(score) else f"{score:.2f}"
        rows.append([number, text, shown, place])
    return rows


def _note(request: Request, results: Sequence[GroundedCaption], seconds: float) -> str:
    if task_spec(request.task).finds_objects:
        found = "Nothing was found" if not results else f"{len(results)} object{'s' * (len(results) > 1)}"
    elif task_spec(request.task).writes_targets:
        count = sum(len(result.targets) for result in results)
        found = f"{count or 'No'} thing{'s' * (count != 1)} found"
    elif task_spec(request.task).text_is_answer:
        found = "Found" if results and results[0].box is not None else "Not found"
    else:
        found = f"{sum(len(result.words) for result in results)} words"
    return f"{found} in {seconds:.1f} s."


__all__ = ["Answered", "PageEvents", "Session", "lacks", "task_choices", "words_tasks"]
