"""A model that is ready to answer."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pixelllm_hf.decoding import decoding_options, longest, own_beams
from pixelllm_hf.extras import MissingExtraError, explain
from pixelllm_hf.families import family_of_folder
from pixelllm_hf.processing.tasks import task_spec

from .device import cpu_is_faster_in, find_device
from .errors import ModelError, first_lines
from .model_source import ModelSource
from .request import Request

if TYPE_CHECKING:
    from pixelllm_hf.processing.grounded_results import GroundedCaption, GroundedWord


@dataclass
class Captioner:
    """A model with its processor: images in, results out.

    generation: options of `generate` for answers that are written; None, and what is not in it, is the model's own.
    """

    model: Any
    processor: Any
    generation: dict[str, Any]

    @classmethod
    def load(
        cls,
        name: str | ModelSource,
        device: str,
        dtype: str,
        generation: dict[str, Any],
        *,
        revision: str | None = None,
    ) -> Captioner:
        """From a folder, a hub id (its revision), or the embedded model. What is wrong is a `ModelError`."""
        found = name if isinstance(name, ModelSource) else ModelSource.find(name, revision)
        import torch
        from transformers.utils import logging

        logging.disable_progress_bar()
        logging.set_verbosity_error()  # remarks for programmers, at every call of generate()
        chosen = find_device(device)
        try:
            family = family_of_folder(found.folder)
            processor = family.processor_class.from_pretrained(found.folder)
            model, loaded = family.model_class.from_pretrained(
                found.folder,
                dtype=dtype if dtype == "auto" else getattr(torch, dtype),
                output_loading_info=True,
            )
        except (OSError, ValueError, RuntimeError, ImportError) as error:
            raise ModelError(f"the model {found.name!r} cannot be loaded: {_reason(error)}") from error
        if loaded["missing_keys"]:
            missing = sorted(loaded["missing_keys"])
            raise ModelError(
                f"the model {found.name!r} lacks {len(missing)} weights, the first is {missing[0]}. "
                "Is every file of the checkpoint there?"
            )
        if (reason := _misfit(model, processor)) is not None:
            raise ModelError(
                f"the parts of the model {found.name!r} do not fit: {reason}. Copy or save them all again."
            )
        # "auto" is what the weights are stored in, but for half precision on a processor that is slower with it;
        # quantized weights have what they were quantized for
        widens = dtype == "auto" and chosen.type == "cpu" and getattr(model, "hf_quantizer", None) is None
        if widens and not cpu_is_faster_in(str(model.dtype).removeprefix("torch.")):
            model = model.float()
        return cls(model.to(chosen).eval(), processor, generation)

    def require(self, task: str) -> None:
        """A `ModelError` if the model has no head for the task."""
        missing = self.missing_head(task)
        if missing:
            raise ModelError(
                f"the model {self.model.name_or_path!r} has no {missing}, which task {task!r} needs. "
                "Choose one that has it with --model."
            )

    def unreadable_expressions(self, request: Request) -> tuple[dict[str, str], list[str]]:
        """The expressions or questions of which this model can read nothing, and why; and what to tell of those read
        in part."""
        import warnings

        from PIL import Image

        from pixelllm_hf.processing.writable_text import UnwritableTextWarning

        unread, told, blank = {}, [], Image.new("RGB", (8, 8))
        for expression in dict.fromkeys(request.expressions):
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always", UnwritableTextWarning)
                try:
                    inputs = self.processor(images=blank, task=request.task, text=expression)
                except ValueError as error:
                    unread[expression] = first_lines(error)
                    continue
            messages = [str(one.message) for one in caught if one.category is UnwritableTextWarning]
            if "query_ids" in inputs and inputs["query_ids"].shape[1] == 1:  # the end alone
                unread[expression] = " ".join(messages) or f"the model can read nothing of {expression!r}."
            else:
                told += messages
        return unread, told

    def missing_head(self, task: str) -> str | None:
        """What the model lacks for the task, in words; None if nothing."""
        return task_spec(task).missing_head(self.model.config)

    @property
    def folder(self) -> Path:
        """Where the model was read from."""
        return Path(self.model.name_or_path)

    @property
    def beams(self) -> int:
        """How many beams the model searches with where nobody says; 1 is greedy."""
        return own_beams(self.model.generation_config)

    @property
    def longest(self) -> int:
        """New tokens of the longest text that it writes where nobody says."""
        return longest(self.model.generation_config)

    def __call__(
        self, images: list[Any], request: Request, *, seconds: float | None = None, **options: Any
    ) -> list[list[GroundedCaption]]:
        """Per image the results of its prompts, or of the objects that were found.

        options: of `generate`, before those of `generation`. seconds: what writing longer than this is stopped, and a
        `TooSlowError`; finding objects and making masks is not interrupted.
        """
        import torch

        inputs, on_device = self._inputs(images, request)
        stop = self._stop(seconds)
        with torch.inference_mode():
            output = self.model.generate(**on_device, **self._writing(request, options), stopping_criteria=[stop])
        stop.check()
        return self._results(output, inputs, request)

    def stream(
        self, image: Any, request: Request, *, seconds: float | None = None, **options: Any
    ) -> Iterator[list[GroundedCaption]]:
        """The answer to a request with one prompt while it is written: longer by a word each time, in the end whole.

        Scores and what stands between the words are known in the end. Whoever breaks off waits until the model has
        stopped, which is after the token it is writing. Greedy decoding or sampling; else as for calling.
        """
        import torch

        inputs, on_device = self._inputs([image], request)
        stop, outputs, finished = self._stop(seconds), [], threading.Event()

        def generate(**given: Any) -> None:
            try:
                with torch.inference_mode():
                    outputs.append(self.model.generate(**given))
            finally:
                finished.set()

        size_wh = tuple(reversed(inputs["original_sizes"][0].tolist()))
        words: list[GroundedWord] = []
        written = self.processor.streamer(on_device).stream(
            generate, **self._writing(request, options), stopping_criteria=[stop]
        )
        try:
            for word in written:
                words.append(word)
                yield [_unfinished(words, size_wh, self.processor.visual_threshold)]
            stop.check()
            yield self._results(outputs[0], inputs, request)[0]
        finally:
            stop.now = True
            if words:  # it has begun
                finished.wait()

    def _writing(self, request: Request, options: dict[str, Any]) -> dict[str, Any]:
        """What `generate` is told of how to write; nothing where nothing is written."""
        if not task_spec(request.task).is_written:
            return {}
        return decoding_options(self.model.generation_config, **(self.generation | options))

    def _inputs(self, images: list[Any], request: Request) -> tuple[Any, dict[str, Any]]:
        """What the processor makes of it, here and on the model's device."""
        inputs = self.processor(images=images, task=request.task, **_prompts(request, len(images)))
        return inputs, {name: value.to(self.model.device) for name, value in inputs.items()}

    def _results(self, output: Any, inputs: Any, request: Request) -> list[list[GroundedCaption]]:
        spec = task_spec(request.task)
        limits = {"max_results": request.max_results, "min_score": request.min_score} if spec.finds_objects else {}
        return spec.results(self.processor, output, inputs, **limits)

    @staticmethod
    def _stop(seconds: float | None) -> Any:
        from .stop_writing import StopWriting

        return StopWriting(seconds)


def _unfinished(words: Sequence[GroundedWord], size_wh: tuple[int, int], threshold: float) -> GroundedCaption:
    """The words so far, with blanks where other characters will be."""
    from pixelllm_hf.processing.grounded_results import GroundedCaption

    text = ""
    for word in words:
        text = text.ljust(word.start) + word.text
    return GroundedCaption(text, tuple(words), size_wh, visual_threshold=threshold)


def _prompts(request: Request, count: int) -> dict[str, Any]:
    """The processor's arguments: the same prompts for each of `count` images."""
    boxes = [list(box) for box in request.boxes] + [None] * len(request.points)
    points = [None] * len(request.boxes) + [[list(xy) for xy in group] for group in request.points]
    return {
        "boxes": [boxes] * count if request.boxes else None,
        "points": [points] * count if request.points else None,
        **_texts(request, count),
    }


def _texts(request: Request, count: int = 1) -> dict[str, Any]:
    return {"text": [list(request.expressions)] * count if request.expressions else request.text}


def _reason(error: Exception) -> str:
    """What stood against loading a model; of a package that is not installed the extra that brings it."""
    if isinstance(error, ModuleNotFoundError):
        try:
            explain(error, "it")
        except MissingExtraError as extra:
            return first_lines(extra)
    return first_lines(error)


def _misfit(model: Any, processor: Any) -> str | None:
    """Why a processor is not the model's, or why the model cannot begin a text; None if all is well."""
    config, decoding = model.config, model.generation_config
    begins = decoding.decoder_start_token_id is not None or decoding.bos_token_id is not None
    if config.is_encoder_decoder and not begins:
        return "generation_config.json says of no token that a text begins with it (decoder_start_token_id)"
    return processor.misfit(config)
