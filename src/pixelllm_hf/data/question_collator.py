"""Rows of task "reason" -> the tensors that a PixelLM trains on: question and answer in one text."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pixelllm_hf.data.collator import GroundedCollator
from pixelllm_hf.data.packed_labels import IGNORE_INDEX
from pixelllm_hf.processing.prompt_locations import PromptError
from pixelllm_hf.processing.tasks import task_spec


class QuestionCollator(GroundedCollator):
    """Makes a batch as the processor of a PixelLM makes it, with the answers behind the questions.

    Emits pixel_values, pixel_mask, original_sizes, prompt_mask, input_ids and attention_mask (R, T) of R questions,
    image-major, each in the processor's template with its answer and EOS behind it; labels (R, T), the same ids where
    the answer stands and -100 elsewhere; mask_labels (K, S, S) uint8, 1 inside, in canvas pixels: the targets of all
    answers in the order they are written, without those that truncation has cut off.

    Arguments as in `GroundedCollator`; max_context_tokens counts the template, and not the image's tokens, and is as
    many as the processor's max_prompt_tokens unless given. A longer question is cut. Rows are of task "reason": answers
    that point at nothing, as conversations have them, too.
    """

    processor: Any

    @classmethod
    def for_processor(cls, processor: Any, **settings: Any) -> QuestionCollator:
        made = super().for_processor(processor, **{"max_context_tokens": processor.max_prompt_tokens} | settings)
        assert isinstance(made, QuestionCollator)
        if not made.pixels or made.pack:
            raise ValueError(
                "a PixelLM trains on images and on questions in rows of their own, but the collator was asked to leave "
                f"images out ({not made.pixels}) or to share rows ({made.pack}). Leave out cache_features, pack_texts."
            )
        made.processor = processor
        return made

    def __call__(
        self, rows: Sequence[dict[str, Any]], generators: Sequence[np.random.Generator] | None = None
    ) -> dict[str, Tensor]:
        if others := sorted({row["task"] for row in rows if row.get("task", "reason") != "reason"}):
            raise ValueError(
                f"a PixelLM learns from rows of task 'reason', but these are of task {', '.join(map(str, others))}. "
                "Read the source with task: reason, if its format can be."
            )
        batch = super().__call__(rows, generators)
        answers = batch["labels"].masked_fill(batch["text_loss_mask"][:, None] <= 0, IGNORE_INDEX)
        kept = ("pixel_values", "pixel_mask", "original_sizes", "prompt_mask")
        joined = self._joined(batch["input_ids"], batch["attention_mask"], batch["labels"], answers)
        return {name: batch[name] for name in kept} | joined | {"mask_labels": batch["target_mask_labels"]}

    def _context_tensors(self, contexts: Sequence[str]) -> dict[str, Tensor]:
        spec, most = task_spec("reason"), self.max_context_tokens + self.processor.num_image_tokens
        questions = [spec.prompt(context) for context in contexts]
        try:
            encoded = self.processor.encode_prompts(questions, truncation=True, max_length=most)
        except PromptError as error:
            if self.max_context_tokens >= self.processor.max_prompt_tokens:
                raise
            raise PromptError(
                f"{error} The bound here is max_context_tokens, which counts the template: raise it (in a recipe "
                f"data.max_context_tokens), up to the processor's {self.processor.max_prompt_tokens}."
            ) from error
        return {name: torch.from_numpy(values) for name, values in encoded.items()}

    def _joined(self, prompts: Tensor, prompt_mask: Tensor, written: Tensor, learnt: Tensor) -> dict[str, Tensor]:
        """prompts (R,L) with their mask, answers as they are written (R,A) and learnt (R,A), -100 in the padding."""
        rows = []
        for prompt, mask, answer, labels in zip(prompts, prompt_mask, written, learnt, strict=True):
            prompt, is_written = prompt[mask.bool()], answer != IGNORE_INDEX
            ids = torch.cat([prompt, answer[is_written]])
            rows.append((ids, torch.cat([torch.full_like(prompt, IGNORE_INDEX), labels[is_written]])))
        shape = (len(rows), max(len(ids) for ids, _ in rows))
        input_ids = torch.full(shape, self.tokenizer.pad_token_id)
        attention_mask, labels = torch.zeros(shape, dtype=torch.long), torch.full(shape, IGNORE_INDEX)
        for index, (ids, of_row) in enumerate(rows):
            input_ids[index, : len(ids)], labels[index, : len(ids)] = ids, of_row
            attention_mask[index, : len(ids)] = 1
        return {"input_ids": input_ids, "attention_mask": attention_mask, "labels": labels}


__all__ = ["QuestionCollator"]
