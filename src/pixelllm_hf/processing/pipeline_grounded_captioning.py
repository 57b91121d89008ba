"""`pipeline("grounded-captioning")`: images in, captions with a location for every word out, as plain records."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Sized
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from PIL import Image
from torch.utils.data import DataLoader, Dataset, IterableDataset
from transformers.generation import GenerationConfig
from transformers.pipelines.base import Pipeline

from .code_export import PIPELINE_TASK, export_code
from .image_reading import is_open_file, is_tensor
from .prompt_locations import PromptError
from .tasks import task_spec

# What post-processing reads of the model's output and of its inputs; the rest need not leave the accelerator.
_ANSWERS = (
    "sequences", "coordinates", "coordinate_scales", "visual_probs", "token_log_probs", "boxes", "box_scores", "masks",
    "mask_scores", "prompt_boxes", "prompt_mask", "detection_scores", "row_of_target", "target_positions",
    "mask_logits", "incomplete",
)  # fmt: skip
_HEAVY_INPUTS = ("pixel_values", "pixel_mask")
_OWN_GENERATION_OPTIONS = (
    "no_immediate_repetition", "reference_beam_search", "reference_beam_alpha", "reference_per_node_beam",
    "max_repeated_tokens", "max_repeated_targets", "complete_groups", "prompt_chunk_size", "streamer",
)  # fmt: skip


# One image, although some of these can be iterated; tensors and open files are others.
_SINGLE = (str, bytes, bytearray, memoryview, os.PathLike, Image.Image, np.ndarray, Mapping)


@dataclass(frozen=True)
class Question:
    """An image and what is asked about it, in the processor's terms; None: the whole image, the task's own words."""

    image: Any
    boxes: Any = None
    points: Any = None
    text: Any = None


class GroundedCaptioningPipeline(Pipeline):
    """Images -> records of captions whose words have locations, in pixels of the original image.

    `pipe(image)` gives a list with a record for each prompt (one, if nothing else is asked for); `pipe([a, b])` a
    list of these lists; a generator, a data set or its column is read as the answers are taken. A record is

        {"generated_text": str, **GroundedCaption.to_dict()}

    with "words": [{"text", "start", "end", "point": [x, y], "box": [x0, y0, x1, y1], "score", "spread", "visual"}, …],
    "score", "prompt", "prompt_box" and "prompt_points", "targets" with "box", "mask" (compressed COCO run lengths) and
    their scores, and those of the only target beside them; what a task has not is None. It can be written as JSON as it
    is.
    """

    _load_processor = True
    _load_image_processor = False
    _load_feature_extractor = False
    _load_tokenizer = False
    _pipeline_calls_generate = True
    _default_generation_config = GenerationConfig(max_new_tokens=96)

    def __call__(  # type: ignore[override]
        self,
        images: Any,
        *,
        boxes: Any = None,
        points: Any = None,
        prompt: Any = None,
        batch_size: int | None = None,
        num_workers: int | None = None,
        **options: Any,
    ) -> Any:
        """Records for one image, a list of them for many.

        Args:
            images: a path, Pillow image, array, tensor, the bytes of a file or an open file; or a record with "image"
                and, if wanted, "boxes", "points" and "prompt". Or many of these: a list or tuple, a batch array, a
                generator, a data set or its column.
            boxes, points, prompt: as the processor's boxes, points and text. With a list of images, boxes, points
                and a list of prompts have an entry for each; what comes as a stream has them in its records.
            batch_size: images that go through the model at once; num_workers: processes that read them.
            options: task ("caption", "trace", "region", "refer", "segment", "dense", "reason"; by default the model's
                own: of a PixelLLM "caption", and "region" where boxes or points are, of a PixelLM "reason"),
                generate_kwargs and any generation option by its own name, and for "dense" max_results and min_score.
        """
        settings = [self._preprocess_params, self._forward_params, self._postprocess_params]
        preprocess, forward, postprocess = (
            {**own, **given} for own, given in zip(settings, self._sanitize_parameters(**options), strict=True)
        )
        questions, many = _questions(images, boxes, points, prompt)
        answers = Answers(
            questions,
            partial(self.preprocess, **preprocess),
            lambda inputs: self.postprocess(self.forward(inputs, **forward), **postprocess),
            batch_size=batch_size or self._batch_size or 1,
            num_workers=num_workers if num_workers is not None else self._num_workers or 0,
        )
        if many == "stream":
            return answers
        return list(answers) if many == "list" else next(iter(answers))

    def _sanitize_parameters(
        self,
        task: str | None = None,
        generate_kwargs: Mapping[str, Any] | None = None,
        max_results: int | None = None,
        min_score: float | None = None,
        **generation: Any,
    ) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
        known = {*vars(GenerationConfig()), *_OWN_GENERATION_OPTIONS, "generation_config"}
        if unknown := sorted(set(generation) - known):
            raise TypeError(
                f"the pipeline takes boxes, points, prompt, task, batch_size, num_workers, max_results, min_score and "
                f"generation options, but {', '.join(unknown)} came. What goes to generate unseen belongs into "
                "generate_kwargs."
            )
        twice = sorted(set(generation) & set(generate_kwargs or {}))
        if twice:
            raise TypeError(f"{', '.join(twice)} came by name and in generate_kwargs. Leave one of them out.")
        if task is not None:
            task_spec(task)  # a misspelt task is an error now, not at the first image of a stream
        of_task = {} if task is None else {"task": task}
        forward = {**(generate_kwargs or {}), **generation}
        limits = {"max_results": max_results, "min_score": min_score}
        given = {name: value for name, value in limits.items() if value is not None}
        if given and not (task and task_spec(task).finds_objects):
            raise TypeError(f"{', '.join(given)} choose among the objects of task='dense', but the task is {task!r}.")
        return of_task, {"generate_kwargs": forward} if forward else {}, of_task | given

    def preprocess(self, questions: Sequence[Question], task: str | None = None) -> dict[str, Any]:  # type: ignore[override]
        """What `generate` takes for a batch of questions."""
        texts = [question.text for question in questions]
        spec = task_spec(task or self.processor.default_task)
        if (missing := spec.missing_head(self.model.config)) is not None:
            raise PromptError(f"the model has no {missing}, which task {spec.name!r} needs. Load one that has it.")
        if task is None and spec.region_task is not None:
            # Within a batch some may ask about places and others not; the words of either task fit any place.
            located = [question.boxes is not None or question.points is not None for question in questions]
            asked = [spec.region_task if there else spec.name for there in located]
            texts = [task_spec(name).default if text is None else text for text, name in zip(texts, asked, strict=True)]
        return dict(
            self.processor(
                images=[question.image for question in questions],
                boxes=_or_none([question.boxes for question in questions]),
                points=_or_none([question.points for question in questions]),
                text=_or_none(texts),
                task=spec.name,
                return_tensors="pt",
            )
        )

    def _forward(  # type: ignore[override]
        self, inputs: dict[str, Any], generate_kwargs: Mapping[str, Any] | None = None
    ) -> dict[str, Any]:
        options = self._prepare_generate_kwargs(dict(generate_kwargs or {}), return_dict_in_generate=True)
        output = self.model.generate(**inputs, **options)
        answers = {name: output.get(name) for name in _ANSWERS}
        if output.get("targets") is not None:  # a plain dictionary goes to another device as it is
            answers["targets"] = dict(output["targets"])
        return {
            "outputs": {name: value for name, value in answers.items() if value is not None},
            "inputs": {name: value for name, value in inputs.items() if name not in _HEAVY_INPUTS},
        }

    def postprocess(  # type: ignore[override]
        self, model_outputs: Mapping[str, Any], task: str | None = None, **limits: Any
    ) -> list[list[dict[str, Any]]]:
        """Per image of a batch its records."""
        spec = task_spec(task or self.processor.default_task)
        results = spec.results(self.processor, model_outputs["outputs"], model_outputs["inputs"], **limits)
        return [[{"generated_text": result.text, **result.to_dict()} for result in of_image] for of_image in results]

    def stream(
        self, image: Any, *, boxes: Any = None, points: Any = None, prompt: Any = None, **options: Any
    ) -> Iterator[dict[str, Any]]:
        """The words of one image's caption while they are written, each as in a record; scores are not known yet.

        Greedy decoding or sampling. Breaking off leaves the model writing to its end in a thread.
        """
        preprocess, forward, _ = self._sanitize_parameters(**options)
        questions, many = _questions(image, boxes, points, prompt)
        if many:
            raise PromptError("words are streamed for one image at a time, but several came. Call once for each.")
        asked = {**self._preprocess_params, **preprocess}
        task = asked.get("task") or self.processor.default_task
        if not task_spec(task).streams:
            raise PromptError(f"answers of task {task!r} come all at once and cannot be streamed. Call instead.")
        inputs = self.preprocess(list(questions), **asked)
        inputs = self._ensure_tensor_on_device(inputs, device=self.device)
        generate_kwargs = {**self._forward_params, **forward}.get("generate_kwargs", {})
        words = self.processor.streamer(inputs)
        for word in words.stream(self.model.generate, **self._prepare_generate_kwargs(dict(generate_kwargs))):
            yield word.to_dict()

    def save_pretrained(self, save_directory: str | os.PathLike, **kwargs: Any) -> None:
        """Model, processor and the code of both and of this pipeline: loads with `trust_remote_code` anywhere."""
        self.model.save_pretrained(save_directory, **kwargs)
        self.processor.save_pretrained(save_directory, **kwargs)
        export_code(
            save_directory,  # type: ignore[arg-type]
            config=type(self.model.config),
            model=type(self.model),
            processor=type(self.processor),
            image_processor=type(self.processor.image_processor),
            pipeline=type(self),
        )


class Answers:
    """Iterating asks batch after batch and gives the records of image after image; nothing is kept.

    It may be iterated as often as `questions` can. Its length is known if theirs is.
    """

    def __init__(
        self,
        questions: Any,
        collate: Callable[[Sequence[Question]], dict[str, Any]],
        answer: Callable[[dict[str, Any]], list[list[dict[str, Any]]]],
        *,
        batch_size: int,
        num_workers: int,
    ):
        self._questions = questions
        self._answer = answer
        sized = isinstance(questions, Dataset) and isinstance(questions, Sized)
        self._loader = DataLoader(
            questions if sized else _Stream(questions),
            batch_size=batch_size,
            # Every further process would read a stream from its beginning.
            num_workers=num_workers if sized else min(num_workers, 1),
            collate_fn=collate,
        )

    def __iter__(self) -> Iterator[list[dict[str, Any]]]:
        for inputs in self._loader:
            yield from self._answer(inputs)

    def __len__(self) -> int:
        return len(self._questions)


class _Stream(IterableDataset):
    def __init__(self, questions: Iterable[Question]):
        self._questions = questions

    def __iter__(self) -> Iterator[Question]:
        return iter(self._questions)


class _Indexed(Dataset):
    """Images that can be had by number, each asked what `ask(number, image)` says."""

    def __init__(self, images: Any, ask: Callable[[int, Any], Question]):
        self._images = images
        self._ask = ask

    def __len__(self) -> int:
        return len(self._images)

    def __getitem__(self, index: int) -> Question:
        if index >= len(self):  # ends a plain loop
            raise IndexError(index)
        return self._ask(index, self._images[index])


def _questions(images: Any, boxes: Any, points: Any, prompt: Any) -> tuple[Any, str]:
    """The questions, and how the answers are given: "" for one, "list" or "stream"."""
    if images is None:
        raise PromptError("expected an image or many, but None came.")
    if getattr(images, "ndim", 0) == 4:  # a batch array
        images = [images[i] for i in range(len(images))]
    many = isinstance(images, Iterable) or hasattr(images, "__getitem__")
    if (
        isinstance(images, _SINGLE) or is_tensor(images) or is_open_file(images) or not many
    ):  # the reader refuses what is odd
        return [_question(images, boxes, points, prompt)], ""
    if isinstance(images, (list, tuple)):
        given = {"boxes": boxes, "points": points, "prompt": prompt}
        columns = {name: _column(name, values, len(images)) for name, values in given.items()}
        return _Indexed(images, lambda i, image: _question(image, *(column[i] for column in columns.values()))), "list"
    if boxes is not None or points is not None or not (prompt is None or isinstance(prompt, str)):
        raise PromptError(
            "boxes, points and several prompts for a stream of images come with each of them, as in "
            "{'image': image, 'boxes': [[x0, y0, x1, y1]], 'prompt': 'text'}, but they came beside it."
        )
    if isinstance(images, Sized) and hasattr(images, "__getitem__"):
        return _Indexed(images, lambda i, image: _question(image, None, None, prompt)), "stream"
    return (_question(image, None, None, prompt) for image in images), "stream"


def _question(image: Any, boxes: Any, points: Any, prompt: Any) -> Question:
    """An image, or a record that holds one; what the record says goes before what was said to all."""
    if not isinstance(image, Mapping) or set(image) == {"bytes", "path"}:
        if isinstance(image, Mapping):  # how `datasets` gives an image that it has not decoded
            image = image["bytes"] if image["bytes"] is not None else image["path"]
        return Question(image, boxes, points, prompt)
    if "image" not in image:
        raise PromptError(f"a record needs an image under 'image', but it has {', '.join(map(repr, image))}.")
    source = _question(image["image"], None, None, None).image
    given = (image.get("boxes"), image.get("points"), image.get("prompt"))
    return Question(source, *(b if a is None else a for a, b in zip(given, (boxes, points, prompt), strict=True)))


def _column(name: str, values: Any, count: int) -> Sequence[Any]:
    """An entry for each of `count` images."""
    if values is None or (name == "prompt" and isinstance(values, str)):
        return [values] * count
    if not isinstance(values, (list, tuple)) and not hasattr(values, "tolist"):
        raise PromptError(f"{name} of {count} images must be a list with an entry for each, but it is {values!r}.")
    if len(values) != count:
        raise PromptError(
            f"{name} must have an entry for each image, but there are {count} images and {len(values)} entries. "
            "Use None for an image without."
        )
    return values


def _or_none(values: list[Any]) -> list[Any] | None:
    return None if all(value is None for value in values) else values


__all__ = ["PIPELINE_TASK", "Answers", "GroundedCaptioningPipeline", "Question"]
