"""The demo's functions for programs: endpoints of its API and tools of its MCP server.

Gradio reads the types of parameters and results from the signatures, where they must be types and not their names, so
this file does without `from __future__ import annotations`. Docstrings become the tools' descriptions.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypedDict

import gradio as gr

from pixelllm_hf.processing.tasks import TASK_SPECS, TaskSpec

from .gradio_internals import internal
from .limits import checked_request, checked_whole, read_upload, uploaded_file
from .refusals import as_gradio_error
from .service import Service

ANSWERS = "answers"  # the queue of everything that asks a model


class Word(TypedDict):
    """One word and its place, in pixels of the original image; see `GroundedWord`."""

    text: str
    start: int
    end: int
    point: list[float] | None
    box: list[float] | None
    score: float | None
    spread: list[float] | None
    visual: float | None


class Mask(TypedDict):
    """COCO's compressed run lengths."""

    size: list[int]
    counts: str


class Target(TypedDict):
    """What an answer is about: text[start:end] names it."""

    start: int
    end: int
    box: list[float] | None
    box_score: float | None
    mask: Mask | None
    mask_score: float | None


class Answer(TypedDict):
    """The record of a `GroundedCaption`."""

    text: str
    words: list[Word]
    image_size: list[int]
    score: float | None
    prompt: str | None
    prompt_box: list[float] | None
    prompt_points: list[list[float]] | None
    prompt_index: int
    targets: list[Target]
    visual_threshold: float
    box: list[float] | None
    box_score: float | None
    mask: Mask | None
    mask_score: float | None
    trace: list[list[float]]


class Endpoints:
    """Every task as a function of the API and a tool of MCP; their docstrings are what clients read.

    uploads: the folder in which gradio keeps uploaded files.
    """

    def __init__(self, service: Service, uploads: Path):
        self.service, self.uploads = service, uploads

    def caption(self, image: gr.FileData, beams: int | None = None, model: str = "") -> list[Answer]:
        """Describe an image in a short sentence, with the location of every word in pixels of the image.

        Args:
            image: the image, a JPEG, PNG, WebP or GIF.
            beams: width of the beam search, 1 is fastest; the model's own if left out.
            model: name of a model of this demo; empty for the first one.

        Returns:
            one answer, with its words, their points (x, y) and boxes (x0, y0, x1, y1).
        """
        return self._answers(image, "caption", beams=beams, model=model)

    def trace(self, image: gr.FileData, beams: int | None = None, model: str = "") -> list[Answer]:
        """Describe an image in a long caption whose words form a path over the image, like a narrator's pointer.

        Args:
            image: the image, a JPEG, PNG, WebP or GIF.
            beams: width of the beam search, 1 is fastest; the model's own if left out.
            model: name of a model of this demo; empty for the first one.

        Returns:
            one answer; its trace is the points (x, y) of its words in reading order, in pixels.
        """
        return self._answers(image, "trace", beams=beams, model=model)

    def refer(self, image: gr.FileData, expressions: list[str], model: str = "") -> list[Answer]:
        """Find what expressions mean in an image: a box for each.

        Args:
            image: the image, a JPEG, PNG, WebP or GIF.
            expressions: what to find, for example "the red car".
            model: name of a model of this demo; empty for the first one.

        Returns:
            an answer for each expression, with its box (x0, y0, x1, y1) in pixels.
        """
        return self._answers(image, "refer", expressions=expressions, model=model)

    def segment(self, image: gr.FileData, expressions: list[str], model: str = "") -> list[Answer]:
        """Find what expressions mean in an image: a box and a mask for each.

        Args:
            image: the image, a JPEG, PNG, WebP or GIF.
            expressions: what to find, for example "the red car".
            model: name of a model of this demo; empty for the first one.

        Returns:
            an answer for each expression, with its box in pixels and its mask as COCO's compressed run lengths.
        """
        return self._answers(image, "segment", expressions=expressions, model=model)

    def region(
        self,
        image: gr.FileData,
        boxes: list[list[float]] | None = None,
        points: list[list[float]] | None = None,
        beams: int | None = None,
        model: str = "",
    ) -> list[Answer]:
        """Describe places in an image: what is in a box, or at a point.

        Args:
            image: the image, a JPEG, PNG, WebP or GIF.
            boxes: places (x0, y0, x1, y1) in pixels of the image.
            points: places (x, y) in pixels of the image.
            beams: width of the beam search, 1 is fastest; the model's own if left out.
            model: name of a model of this demo; empty for the first one.

        Returns:
            an answer for each box, then for each point.
        """
        return self._answers(image, "region", boxes=boxes, points=points, beams=beams, model=model)

    def dense(
        self,
        image: gr.FileData,
        max_results: int | None = None,
        min_score: float = 0.0,
        beams: int | None = None,
        model: str = "",
    ) -> list[Answer]:
        """Find all objects of an image and describe each.

        Args:
            image: the image, a JPEG, PNG, WebP or GIF.
            max_results: at most so many objects.
            min_score: leave out objects with a lower score, 0 to 1.
            beams: width of the beam search, 1 is fastest; the model's own if left out.
            model: name of a model of this demo; empty for the first one.

        Returns:
            an answer for each object, the surest first, with its box and box_score.
        """
        wanted = {"max_results": max_results, "min_score": min_score}
        return self._answers(image, "dense", beams=beams, model=model, **wanted)

    def reason(
        self, image: gr.FileData, questions: list[str], beams: int | None = None, model: str = ""
    ) -> list[Answer]:
        """Answer questions about an image, with a mask for each thing that an answer names.

        Args:
            image: the image, a JPEG, PNG, WebP or GIF.
            questions: for example "what here can be eaten?".
            beams: width of the beam search, 1 is fastest; the model's own if left out.
            model: name of a model of this demo; empty for the first one.

        Returns:
            an answer for each question; text[start:end] of each of its targets names a thing, whose mask is COCO's
            compressed run lengths.
        """
        return self._answers(image, "reason", expressions=questions, beams=beams, model=model)

    def _answers(self, image: Any, task: str, *, model: Any, beams: Any = None, **prompts: Any) -> list[Any]:
        with as_gradio_error():
            service, limits = self.service, self.service.limits
            request = checked_request(task, limits, **prompts)
            width = None if beams is None else checked_whole(beams, 1, limits.beams, "the beams")
            name = service.chosen(model)
            pixels = read_upload(uploaded_file(image, self.uploads), limits)
            return [result.to_dict() for result in service.answer(pixels, request, model=name, beams=width)]

    def of(self, spec: TaskSpec) -> Callable[..., list[Answer]]:
        """The function of a task; of one that has none above, one that takes whatever is asked about."""
        if (own := getattr(self, spec.name, None)) is not None:
            return own

        def endpoint(
            image: gr.FileData,
            expressions: list[str] | None = None,
            boxes: list[list[float]] | None = None,
            points: list[list[float]] | None = None,
            model: str = "",
        ) -> list[Answer]:
            asked = {"expressions": expressions, "boxes": boxes, "points": points}
            return self._answers(image, spec.name, model=model, **asked)

        endpoint.__doc__ = f"{spec.summary.capitalize()}."
        return endpoint


def add_endpoints(service: Service, uploads: Path) -> None:
    """Offer every task, inside a `gr.Blocks`."""
    endpoints = Endpoints(service, uploads)
    for name, spec in TASK_SPECS.items():
        gr.api(endpoints.of(spec), api_name=name, concurrency_id=ANSWERS)


def tools_answer_in_json(blocks: gr.Blocks) -> None:
    """The MCP tools' texts are JSON. Gradio would write them as Python prints its values, which clients cannot read."""
    from mcp.types import TextContent

    server: Any = internal(blocks, "mcp_server_obj")
    internal(server, "postprocess_output_data")
    server.postprocess_output_data = lambda data, root_url: [
        TextContent(type="text", text=json.dumps(value, ensure_ascii=False)) for value in data
    ]


__all__ = ["ANSWERS", "Answer", "add_endpoints", "tools_answer_in_json"]
