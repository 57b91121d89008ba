"""Pictures, places and text -> what the model takes; what it answers -> words with places in the user's pixels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from transformers.feature_extraction_utils import BatchFeature
from transformers.processing_utils import ProcessorMixin

from .canvas_transform import CanvasTransform
from .grounded_results import GroundedCaption
from .grounded_results import ground_words
from .grounded_results import mean_probability
from .grounded_streamer import GroundedStreamer
from .prompt_places import Prompt
from .prompt_places import PromptError
from .prompt_places import gather_prompts
from .task_prompts import task_prompt
from .word_spans import SpanReader


_PROMPT_KEYS = (
    "original_sizes", "prompt_boxes", "prompt_mask", "prompt_points", "prompt_point_labels", "input_ids"
)  # fmt: skip


@dataclass(frozen=True)
class PromptSource:
    """What one row of the model's answer was asked; fields as in `GroundedCaption`, places in image pixels."""

    image_index: int
    prompt_index: int
    transform: CanvasTransform
    prompt: str | None
    prompt_box: Any
    prompt_points: Any


class PixelLLMProcessor(ProcessorMixin):
    """The user's world on both sides of the model: original pixels, x before y, plain text.

    Args:
        image_processor: a `PixelLLMImageProcessor`, whose `size` is the model's canvas.
        tokenizer: with an end-of-sentence and a padding token.
        max_prompt_tokens: longer text prompts are refused, their end-of-sentence included.
        max_points: points one prompt may have, as in the model's prompt config.
    """

    def __init__(
        self,
        image_processor: Any,
        tokenizer: Any,
        max_prompt_tokens: int = 128,
        max_points: int = 4,
        chat_template: Any = None,
    ):
        super().__init__(image_processor, tokenizer, chat_template=chat_template)
        self.max_prompt_tokens = max_prompt_tokens
        self.max_points = max_points

    def __call__(  # type: ignore[override]
        self,
        images: Any = None,
        boxes: Any = None,
        points: Any = None,
        text: Any = None,
        *,
        task: str = "caption",
        return_tensors: str | None = "pt",
        **images_kwargs: Any,
    ) -> BatchFeature:
        """What `generate` and `forward` take. R rows are the prompts of all images, image after image.

        Args:
            images: one picture or a list: Pillow, numpy, torch, path or bytes (see `read_image`).
            boxes: xyxy pixels of the original image. None: the whole image. A list of boxes for one image, or a list
                per image of None or a list of boxes, in which None again is the whole image.
            points: likewise with a prompt being (x, y), (x, y, label) or a list of at most `max_points` of these;
                label 1 is inside (default), 0 outside.
            text: a string for all prompts, a list with an entry per image (one image: per prompt) or a list of lists
                with an entry per prompt. None: the task's own prompt. For some tasks the text is put into a phrase.
            task: see `TASK_PROMPTS`.
            return_tensors: "pt", "np" or None (numpy arrays).
            images_kwargs: settings of the image processor for this call (`antialias`, `max_image_pixels`).

        Returns pixel_values (B,3,S,S) float32 0..255, pixel_mask (B,S,S) bool, original_sizes (B,2) int64 (h, w),
        prompt_boxes (B,N,4) float32 canvas pixels (zero for points and padding), prompt_mask (B,N) bool,
        input_ids and attention_mask (R,L) int64, and if there are points prompt_points (B,N,K,2) float32 canvas
        pixels and prompt_point_labels (B,N,K) int64 with -1 for none.
        """
        wording = task_prompt(task)
        if images is None:
            if boxes is not None or points is not None:
                raise PromptError("boxes and points need the images they lie on, but images is None.")
            if text is None or not (isinstance(text, str) or all(isinstance(item, str) for item in text)):
                raise PromptError(f"without images, text must be a string or a list of strings, but it is {text!r}.")
            rows = [text] if isinstance(text, str) else list(text)
            return BatchFeature(
                self.encode_prompts([wording.prompt(row, task) for row in rows]), tensor_type=return_tensors
            )
        data = dict(self.image_processor(images, **images_kwargs))
        canvas = data["pixel_values"].shape[-1]
        sizes_wh = [(int(w), int(h)) for h, w in data["original_sizes"]]
        prompts = gather_prompts(boxes, points, text, sizes_wh, self.max_points)
        data |= self._place_prompts(prompts, [CanvasTransform.fit(size, canvas) for size in sizes_wh])
        data |= self.encode_prompts([wording.prompt(prompt.text, task) for row in prompts for prompt in row])
        return BatchFeature(data, tensor_type=return_tensors)

    def encode_prompts(self, texts: Sequence[str]) -> dict[str, np.ndarray]:
        """Text prompts -> input_ids and attention_mask (R,L) int64, EOS at the end, padded on the right."""
        # Most calls ask many prompts the same thing.
        unique = {text: i for i, text in enumerate(dict.fromkeys(texts))}
        encoded = self.tokenizer(list(unique), add_special_tokens=False)["input_ids"]
        rows = [[*encoded[unique[text]], self.tokenizer.eos_token_id] for text in texts]
        for text, row in zip(texts, rows, strict=True):
            if len(row) == 1:
                raise PromptError(f"the text prompt {text!r} is empty. Write something or use None.")
            if len(row) > self.max_prompt_tokens:
                raise PromptError(
                    f"a text prompt may have {self.max_prompt_tokens} tokens (max_prompt_tokens), but {text[:60]!r}… "
                    f"has {len(row)}, the end-of-sentence included. Shorten it or raise the setting."
                )
        length = max(len(row) for row in rows)
        input_ids = np.full((len(rows), length), self.tokenizer.pad_token_id, dtype=np.int64)
        attention_mask = np.zeros((len(rows), length), dtype=np.int64)
        for i, row in enumerate(rows):
            input_ids[i, : len(row)] = row
            attention_mask[i, : len(row)] = 1
        return {"input_ids": input_ids, "attention_mask": attention_mask}

    def _place_prompts(
        self, prompts: Sequence[Sequence[Prompt]], transforms: Sequence[CanvasTransform]
    ) -> dict[str, np.ndarray]:
        """Prompts of each image on its canvas, padded to the longest list."""
        images, most = len(prompts), max(len(row) for row in prompts)
        boxes = np.zeros((images, most, 4), dtype=np.float32)
        mask = np.zeros((images, most), dtype=bool)
        points = np.zeros((images, most, self.max_points, 2), dtype=np.float32)
        labels = np.full((images, most, self.max_points), -1, dtype=np.int64)
        for i, (row, transform) in enumerate(zip(prompts, transforms, strict=True)):
            for j, prompt in enumerate(row):
                mask[i, j] = True
                if prompt.points is not None:
                    chosen = np.asarray(prompt.points)
                    points[i, j, : len(chosen)] = transform.to_canvas(chosen[:, :2])
                    labels[i, j, : len(chosen)] = chosen[:, 2]
                else:
                    # The clipped box of the whole image must be the very same numbers as no box at all.
                    whole = prompt.box is None or prompt.box == transform.image_box
                    boxes[i, j] = transform.canvas_box if whole else transform.to_canvas(prompt.box)
        placed = {"prompt_boxes": boxes, "prompt_mask": mask}
        if (labels >= 0).any():
            placed |= {"prompt_points": points, "prompt_point_labels": labels}
        return placed

    def post_process_grounded_generation(self, outputs: Any, inputs: Mapping[str, Any]) -> list[list[GroundedCaption]]:
        """The answers in the user's terms: per image a list of `GroundedCaption`, prompt after prompt.

        outputs: what `generate` returned (sequences, coordinates, token_log_probs), or its sequences alone.
        inputs: what `generate` was given; needed are original_sizes and, with several prompts an image, prompt_mask.
        With num_return_sequences=k the k answers of a prompt follow each other.
        """
        answers = {name: _array(_get(outputs, name)) for name in ("sequences", "coordinates", "token_log_probs")}
        if hasattr(outputs, "ndim"):
            answers["sequences"] = _array(outputs)
        sequences, coordinates, log_probs = answers.values()
        if sequences is None:
            raise ValueError(f"post-processing needs the sequences of generate, but a {type(outputs).__name__} came.")
        sources = self.prompt_sources(inputs, len(sequences))
        reader = SpanReader(self.tokenizer)
        results: list[list[GroundedCaption]] = [[] for _ in range(len(inputs["original_sizes"]))]
        for row, source in enumerate(sources):
            spanned = reader.read(sequences[row])
            row_places = None if coordinates is None else coordinates[row]
            row_log_probs = None if log_probs is None else log_probs[row]
            results[source.image_index].append(
                GroundedCaption(
                    text=spanned.text,
                    words=ground_words(spanned, row_places, row_log_probs, source.transform),
                    image_size=source.transform.image_size_wh,
                    score=None if row_log_probs is None else mean_probability(row_log_probs),
                    prompt=source.prompt,
                    prompt_box=source.prompt_box,
                    prompt_points=source.prompt_points,
                    prompt_index=source.prompt_index,
                )
            )
        return results

    def prompt_sources(self, inputs: Mapping[str, Any], num_rows: int) -> list[PromptSource]:
        """What each of the `num_rows` rows of the model's answer was asked, from what went into `generate`."""
        given = {name: _array(_get(inputs, name)) for name in _PROMPT_KEYS}
        sizes, boxes, mask, points, labels, ids = (given[name] for name in _PROMPT_KEYS)
        if sizes is None:
            raise ValueError("post-processing needs inputs['original_sizes']. Pass what the processor returned.")
        pixels = _get(inputs, "pixel_values")
        canvas = pixels.shape[-1] if pixels is not None else self.image_processor.canvas
        if mask is None:
            mask = np.ones((len(sizes), 1 if boxes is None else boxes.shape[1]), dtype=bool)
        places = np.argwhere(mask).tolist()
        if num_rows == 0 or num_rows % len(places):
            raise ValueError(
                f"the answer must have the same number of rows for each of the {len(places)} prompts, but it has "
                f"{num_rows}. Pass the inputs that went into generate."
            )
        sources = []
        for row, (i, j) in enumerate(places):
            transform = CanvasTransform.fit(sizes[i][::-1], canvas)
            box, chosen = None, None
            if points is not None and labels is not None and (labels[i, j] >= 0).any():
                chosen = _points_in_image(points[i, j], labels[i, j], transform)
            elif boxes is not None and not np.array_equal(boxes[i, j], np.float32(np.array(transform.canvas_box))):
                box = tuple(np.round(transform.to_image(boxes[i, j]), 2).tolist())
            prompt = None if ids is None else self.tokenizer.decode(ids[row], skip_special_tokens=True)
            source = PromptSource(i, j, transform, prompt, box, chosen)
            sources += [source] * (num_rows // len(places))
        return sources

    def streamer(self, inputs: Mapping[str, Any], timeout: float | None = None) -> GroundedStreamer:
        """For words while they are written: `for word in processor.streamer(inputs).stream(model.generate): …`."""
        return GroundedStreamer(self, inputs, timeout)

    @property
    def model_input_names(self) -> list[str]:
        """Keys that every call with images returns; prompts of points add two more."""
        return [*self.image_processor.model_input_names, "prompt_boxes", "prompt_mask", "input_ids", "attention_mask"]


def _points_in_image(points: np.ndarray, labels: np.ndarray, transform: CanvasTransform) -> tuple:
    """points (K,2) canvas pixels, labels (K,) -> ((x, y, label), …) of those that are there, image pixels."""
    there = labels >= 0
    xy = np.round(transform.to_image(points[there]), 2)  # float32 kept no more digits
    return tuple((x, y, label) for (x, y), label in zip(xy.tolist(), labels[there].tolist(), strict=True))


def _get(values: Any, name: str) -> Any:
    """An entry of a mapping or an attribute; None if there is none."""
    return values.get(name) if isinstance(values, Mapping) else getattr(values, name, None)


def _array(value: Any) -> np.ndarray | None:
    """Tensors of any device and dtype, arrays and lists -> numpy."""
    if value is None:
        return None
    if hasattr(value, "detach"):
        value = value.detach().cpu()
        return (value.float() if value.is_floating_point() else value).numpy()
    return np.asarray(value)


__all__ = ["PixelLLMProcessor", "PromptSource"]
