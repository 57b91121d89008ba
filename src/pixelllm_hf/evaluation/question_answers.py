"""Questions whose answers point, asked of a model row by row: gIoU, cIoU, the right number of targets, and the time.

Source: PixelLM (arXiv 2312.02228), evaluation on MUSE; the meter is `evaluation.target_iou`.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pixelllm_hf.data.collator import GroundedCollator
from pixelllm_hf.evaluation.target_iou import TargetIoU
from pixelllm_hf.processing.canvas_transform import CanvasTransform
from pixelllm_hf.processing.mask_codec import decode_rle
from pixelllm_hf.processing.mask_resizing import masks_on_image

MOST_QUESTIONS = 16  # of one image


@dataclass
class QuestionAnswers:
    """What a model answered: the meter; how many answers have the very text of the annotation; images and the seconds
    that `generate` took for them; seconds that the masks of `targets` targets took alone."""

    iou: TargetIoU = field(default_factory=TargetIoU)
    same_text: int = 0
    images: int = 0
    seconds: float = 0.0
    targets: int = 0
    mask_seconds: float = 0.0

    def to_dict(self) -> dict[str, Any]:
        """Numbers for a table."""
        return self.iou.to_dict() | {
            "same_text": self.same_text / max(self.iou.questions, 1),
            "seconds_per_image": self.seconds / max(self.images, 1),
            "mask_seconds_per_target": self.mask_seconds / max(self.targets, 1),
        }


@torch.inference_mode()
def ask_questions(
    model: Any, processor: Any, rows: Any, *, batch_size: int = 12, max_new_tokens: int = 96
) -> QuestionAnswers:
    """Ask what rows of task "reason" ask, and compare with their targets at the images' own size.

    Masks of a target are compared above 0 in the logits. Answers are written greedily.
    """
    answers, head = QuestionAnswers(), model.config.codebook_config
    collator = GroundedCollator.for_processor(
        processor, max_prompts=MOST_QUESTIONS, prompt_choice="first", target_tokens=head.token_ids,
        max_text_tokens=512, max_context_tokens=256,
    )  # fmt: skip
    predict = model.predict_target_masks

    def timed(*inputs: Any) -> Tensor:
        began = time.perf_counter()
        logits = predict(*inputs)
        answers.mask_seconds += time.perf_counter() - began
        answers.targets += len(logits)
        return logits

    model.predict_target_masks = timed
    try:
        for start in range(0, len(rows), batch_size):
            chosen = [rows[index] for index in range(start, min(start + batch_size, len(rows)))]
            batch = {name: value.to(model.device) for name, value in collator(chosen).items()}
            began = time.perf_counter()
            output = model.generate(**batch, max_new_tokens=max_new_tokens, prompts_at_once=len(batch["input_ids"]))
            answers.seconds += time.perf_counter() - began
            answers.images += len(chosen)
            _compare(answers, chosen, output, batch["labels"], model, collator.image_size)
    finally:
        del model.predict_target_masks
    return answers


def _compare(
    answers: QuestionAnswers, rows: Sequence[dict[str, Any]], output: Any, labels: Tensor, model: Any, canvas: int
) -> None:
    index, end = 0, model.config.text_config.eos_token_id
    for row in rows:
        size_wh = row["width"], row["height"]
        transform = CanvasTransform.fit(size_wh, canvas)
        for prompt in row["prompts"][:MOST_QUESTIONS]:
            own = output.targets.mask_logits[output.targets.row_of_target == index]
            inside = masks_on_image(
                own, canvas_size=canvas, resized_size_hw=transform.resized_size_wh[::-1], image_size_hw=size_wh[::-1]
            )
            truth = [torch.from_numpy(decode_rle(target["mask"]).astype(np.float32)) for target in prompt["targets"]]
            # as logits, so that what is matched is what is counted
            answers.iou.add_question(
                inside.float().cpu() * 20 - 10, torch.stack(truth) if truth else torch.zeros(0, *size_wh[::-1])
            )
            written, wanted = output.sequences[index, 1:].tolist(), labels[index][labels[index] >= 0].tolist()
            answers.same_text += written[: len(wanted)] == wanted and end in wanted
            index += 1


__all__ = ["QuestionAnswers", "ask_questions"]
