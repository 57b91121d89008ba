"""Images, locations and text -> what the model takes; what it answers -> words with locations in the user's pixels."""

from __future__ import annotations

import math
import operator
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from transformers.processing_utils import Unpack

from .canvas_transform import CanvasTransform
from .chat_turns import CHAT_TEMPLATE, chat_template_of
from .grounded_processor import GroundedProcessor, Results
from .grounded_results import VISUAL_THRESHOLD, GroundedCaption
from .model_inputs import PixelLLMInputs
from .processing_kwargs import PixelLLMProcessorKwargs
from .prompt_locations import Prompt, PromptError, gather_prompts
from .prompt_sources import entry
from .target_tokens import target_token_ids
from .tasks import TaskSpec, task_spec
from .writable_text import as_characters, writable_text


class PixelLLMProcessor(GroundedProcessor):
    """The user's world on both sides of the model: original pixels, x before y, plain text.

    Args:
        image_processor: a `PixelLLMImageProcessor`, whose `size` is the model's canvas.
        tokenizer: with an end-of-sentence and a padding token.
        max_prompt_tokens: longer text prompts are refused, their end-of-sentence included.
        max_points: points one prompt may have, as in the model's prompt config.
        visual_threshold: words that are less likely to have a location at all than this are left out of traces,
            drawings and exports (see `GroundedCaption.placed_words`); results keep them.
        chat_template: how a conversation becomes a text prompt; by default as the tokenizer's own template says, which
            those of chat models have, and otherwise the user's words as they are.
    """

    default_task = "caption"

    def __init__(
        self,
        image_processor: Any,
        tokenizer: Any,
        max_prompt_tokens: int = 128,
        max_points: int = 4,
        chat_template: Any = None,
        visual_threshold: float = VISUAL_THRESHOLD,
    ):
        super().__init__(image_processor, tokenizer, chat_template=chat_template or chat_template_of(tokenizer))
        self.max_prompt_tokens = max_prompt_tokens
        self.max_points = max_points
        self.visual_threshold = visual_threshold
        self.codebook_token_ids = target_token_ids(tokenizer)

    @property
    def tells_roles(self) -> bool:
        """Whether the chat template has roles, and so earlier turns."""
        return self.chat_template != CHAT_TEMPLATE

    def __call__(  # type: ignore[override]
        self,
        images: Any = None,
        text: Any = None,
        *,
        boxes: Any = None,
        points: Any = None,
        task: str | None = None,
        **kwargs: Unpack[PixelLLMProcessorKwargs],
    ) -> PixelLLMInputs:
        """What `generate` and `forward` take. R rows are the prompts of all images, image after image.

        Args:
            images: one image or a list: Pillow, numpy, torch, path, bytes or an open file (see `read_image`).
            text: a string for all prompts, a list with an entry per image (one image: per prompt) or a list of lists
                with an entry per prompt. None: the task's own prompt. For some tasks the text is put into a phrase.
            boxes: xyxy pixels of the original image. None: the whole image. A list of boxes for one image, or a list
                per image of None or a list of boxes, in which None again is the whole image.
            points: likewise with a prompt being (x, y), (x, y, label) or a list of at most `max_points` of these;
                label 1 is inside (default), 0 outside.
            task: see `TASK_SPECS`; None is "caption". "refer" and "segment" take expressions as text, each of which
                is a prompt; "dense" takes no boxes and no points, and one text for an image.
            kwargs: flat, or in text_kwargs and images_kwargs: return_tensors ("pt", the default, "np" or None, numpy
                arrays too), padding, max_length and truncation of text prompts (`PixelLLMTextKwargs`), settings of the
                image processor for this call (`antialias`, `max_image_pixels`).

        Returns pixel_values (B,3,S,S) float32 0..255, pixel_mask (B,S,S) bool, original_sizes (B,2) int64 (h, w),
        prompt_boxes (B,N,4) float32 canvas pixels (zero for points and padding), prompt_mask (B,N) bool,
        input_ids and attention_mask (R,L) int64, and if there are points prompt_points (B,N,K,2) float32 canvas
        pixels and prompt_point_labels (B,N,K) int64 with -1 for none.
        Expressions are also in query_ids (R,T) int64: the answer whose locations are wanted; and in query_characters
        (R,L) int64, their code points, as prompts are in prompt_characters where the tokens do not give them back. What
        the tokenizer cannot write is left out with an `UnwritableTextWarning`; a prompt of nothing else is refused, and
        such an expression has no box. What else the task wants of
        `generate` is in output_masks and detect_objects, bool without dimensions; with the latter there are no
        prompt_boxes and no prompt_mask, and R is B.
        """
        task = task or self.default_task
        spec = task_spec(task)
        settings = self._settings(kwargs)
        text_kwargs, images_kwargs = settings["text_kwargs"], settings["images_kwargs"]
        return_tensors = text_kwargs.pop("return_tensors", "pt")
        return_tensors = images_kwargs.pop("return_tensors", return_tensors)
        if images is None:
            if boxes is not None or points is not None:
                raise PromptError("boxes and points need the images they lie on, but images is None.")
            if text is None or not (isinstance(text, str) or all(isinstance(item, str) for item in text)):
                raise PromptError(f"without images, text must be a string or a list of strings, but it is {text!r}.")
            rows = [text] if isinstance(text, str) else list(text)
            return PixelLLMInputs(self._encode_task(spec, rows, text_kwargs), tensor_type=return_tensors)
        if spec.finds_objects and not (boxes is None and points is None):
            raise PromptError(
                f"task {task!r} finds the objects itself and takes no boxes or points. Leave them out, or describe "
                "given places with task='region'."
            )
        data = dict(self.image_processor(images, **images_kwargs))
        canvas, rounding = data["pixel_values"].shape[-1], self.image_processor.rounding
        sizes_wh = [(int(w), int(h)) for h, w in data["original_sizes"]]
        prompts = gather_prompts(boxes, points, text, sizes_wh, self.max_points)
        if spec.finds_objects:
            _refuse_several_texts(prompts, task)
        else:
            data |= self._place_prompts(
                prompts, [CanvasTransform.fit(size, canvas, rounding=rounding) for size in sizes_wh]
            )
        data |= self._encode_task(spec, [prompt.text for row in prompts for prompt in row], text_kwargs)
        return PixelLLMInputs(data, tensor_type=return_tensors)

    def _encode_task(
        self, spec: TaskSpec, texts: Sequence[str | None], text_kwargs: Mapping[str, Any]
    ) -> dict[str, np.ndarray]:
        """The text prompts of all rows, the expressions that are answers already, and what the task wants besides."""
        prompts = [spec.prompt(text) for text in texts]
        data = self.encode_prompts(prompts, **text_kwargs)
        expressions = [spec.without_prefix(text) for text in texts if text is not None]
        for text in dict.fromkeys(expressions if spec.text_is_answer else prompts):
            writable_text(self.tokenizer, text[: self._max_characters]).warn()
        rows = dict(zip(prompts, data["input_ids"], strict=True))
        if any(self._read(row) != prompt.strip() for prompt, row in rows.items()):
            data["prompt_characters"] = as_characters([prompt[: self._max_characters] for prompt in prompts])
        if spec.text_is_answer:
            data["query_ids"] = self.encode_prompts(expressions, may_be_unwritable=True)["input_ids"]
            data["query_characters"] = as_characters(expressions)
        if spec.wants_masks:
            data["output_masks"] = np.array(True)
        if spec.finds_objects:
            data["detect_objects"] = np.array(True)
        return data

    def encode_prompts(
        self,
        texts: Sequence[str],
        *,
        padding: bool | str | None = None,
        max_length: int | None = None,
        truncation: bool | str | None = None,
        may_be_unwritable: bool = False,
    ) -> dict[str, np.ndarray]:
        """Text prompts -> input_ids and attention_mask (R,L) int64, EOS at the end, padded on the right.

        What the tokenizer cannot write is left out; may_be_unwritable: also where nothing else is there. Options: see
        `PixelLLMTextKwargs`.
        """
        fixed, cut = padding == "max_length", truncation not in (None, False, "do_not_truncate")
        most = self._max_characters
        encoded = {}
        for text in dict.fromkeys(texts):  # most calls ask many prompts the same thing
            if len(text) > most and not cut:
                raise PromptError(
                    f"a text prompt may have {self.max_prompt_tokens} tokens (max_prompt_tokens), but {text[:60]!r}… "
                    f"has {len(text)} characters. Shorten it, raise the setting, or pass truncation=True."
                )
            encoded[text] = writable_text(self.tokenizer, text[:most])
        rows = [[*encoded[text].ids, self.tokenizer.eos_token_id] for text in texts]
        reserved = {self.tokenizer.pad_token_id, self.tokenizer.eos_token_id}
        for text, row in zip(texts, rows, strict=True):
            if len(row) == 1 and encoded[text].unwritable and not may_be_unwritable:
                raise PromptError(
                    f"the tokenizer cannot write anything of the text prompt {text[:80]!r}: it has no tokens for these "
                    "characters. Ask in words that the model was trained with, or use None for the task's own prompt."
                )
            if len(row) == 1 and not encoded[text].unwritable:
                raise PromptError(f"the text prompt {text!r} is empty. Write something or use None.")
            if not reserved.isdisjoint(row[:-1]):
                raise PromptError(
                    f"the text prompt {text[:60]!r} holds {self.tokenizer.pad_token!r} or "
                    f"{self.tokenizer.eos_token!r}, which mark where a text ends. Remove them."
                )
        limit = self.max_prompt_tokens
        if max_length is not None and (fixed or cut):
            limit = min(limit, max_length)
        for i, (text, row) in enumerate(zip(texts, rows, strict=True)):
            if len(row) > limit and not cut:
                raise PromptError(
                    f"a text prompt may have {limit} tokens "
                    f"({'max_length' if limit < self.max_prompt_tokens else 'max_prompt_tokens'}), but {text[:60]!r}… "
                    f"has {len(row)}, the end-of-sentence included. Shorten it, raise the setting, or pass "
                    "truncation=True."
                )
            rows[i] = [*row[: limit - 1], row[-1]] if len(row) > limit else row
        length = limit if fixed else max(len(row) for row in rows)
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

    def misfit(self, config: Any) -> str | None:
        """As for any family; and a prompt may not have more points than the model reads."""
        if self.max_points > config.prompt_config.max_points:
            return f"a prompt may have {self.max_points} points, the model reads {config.prompt_config.max_points}"
        known = config.target_token_ids
        if known and self.codebook_token_ids != known:
            return (
                f"the tokens of targets have the ids {self.codebook_token_ids} in the tokenizer, in the model {known}"
            )
        return super().misfit(config)

    def post_process_refer(self, outputs: Any, inputs: Mapping[str, Any]) -> Results:
        """Per image a result for each expression, whose `box` is what the expression means; None if there is none."""
        if entry(outputs, "boxes") is None:
            raise ValueError("the output has no boxes. Make the inputs with task='refer', or generate with query_ids.")
        return self.post_process_grounded_generation(outputs, inputs)

    def post_process_segment(self, outputs: Any, inputs: Mapping[str, Any]) -> Results:
        """As `post_process_refer`, and `mask` (H,W) bool is the object in the original image."""
        if entry(outputs, "masks") is None:
            raise ValueError("the output has no masks. Make the inputs with task='segment', or set output_masks=True.")
        return self.post_process_refer(outputs, inputs)

    def post_process_region(self, outputs: Any, inputs: Mapping[str, Any]) -> Results:
        """Per image a caption for each box or points prompt, in their order."""
        return self.post_process_grounded_generation(outputs, inputs)

    def post_process_dense(
        self,
        outputs: Any,
        inputs: Mapping[str, Any],
        *,
        max_results: int | None = None,
        min_score: float | None = None,
        every_caption: bool = False,
    ) -> Results:
        """Per image its objects, each with `box`, `box_score` and text, the best first; an empty list for none.

        max_results, min_score: at most so many an image, and none with a `box_score` below. every_caption: also further
        captions of the same box, where `generate` has ranked several (`multiply_caption_score` with beams): average
        precision counts them.
        """
        results = self.post_process_grounded_generation(outputs, inputs)
        return [best_objects(objects, max_results, min_score, every_caption) for objects in results]

    @property
    def model_input_names(self) -> list[str]:
        """Keys of a call with images; points, expressions and tasks with a head of their own add some (see there)."""
        return [*self.image_processor.model_input_names, "prompt_boxes", "prompt_mask", "input_ids", "attention_mask"]


def _refuse_several_texts(prompts: Sequence[Sequence[Prompt]], task: str) -> None:
    for i, row in enumerate(prompts):
        if len(row) > 1:
            raise PromptError(
                f"task {task!r} has one text prompt for all objects of an image, but image {i} has {len(row)}. "
                "Give one, or None for the task's own."
            )


def best_objects(
    objects: Sequence[GroundedCaption],
    max_results: int | None = None,
    min_score: float | None = None,
    every_caption: bool = False,
) -> list[GroundedCaption]:
    """Objects of an image, the best first; the arguments are those of `PixelLLMProcessor.post_process_dense`."""
    if max_results is not None and operator.index(max_results) < 0:
        raise ValueError(f"max_results must be at least 0, but it is {max_results}.")
    if min_score is not None and math.isnan(min_score):
        raise ValueError("min_score must be a number, but it is NaN.")
    scored = [(thing.box_score or 0.0, thing) for thing in objects]
    kept = [pair for pair in scored if min_score is None or pair[0] >= min_score]
    best = [thing for _, thing in sorted(kept, key=lambda pair: -pair[0])]
    if not every_caption:
        # Several answers to one prompt stay: somebody has asked for so many.
        first = {thing.box: thing.prompt_index for thing in reversed(best)}
        best = [thing for thing in best if first[thing.box] == thing.prompt_index]
    return best[:max_results]


__all__ = ["PixelLLMProcessor", "best_objects"]
