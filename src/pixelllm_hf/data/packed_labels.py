"""Several texts about the same image and place in one row: what stands before the decoder is computed once for all.

A row's texts follow each other, each with its EOS. The model keeps them apart by `label_segments`, so that each is
answered as if it were alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

IGNORE_INDEX = -100  # what a loss leaves out; PyTorch's own number, and `modeling.losses` has the same
NO_SEGMENT = -1
_PADDING = {"labels": IGNORE_INDEX, "point_labels": float("nan"), "visual_labels": IGNORE_INDEX}


def asking_alike(prompts: Sequence[dict[str, Any]]) -> list[list[dict[str, Any]]]:
    """The prompts of an image by what they ask: the same box and context, and the same about their texts."""
    rows: dict[Any, list[dict[str, Any]]] = {}
    for prompt in prompts:
        asked = (*prompt["box"].tolist(), prompt["context"], prompt["text_loss"])
        rows.setdefault(asked, []).append(prompt)
    return list(rows.values())


def pack_labels(labels: dict[str, Tensor], counts: Sequence[int]) -> dict[str, Tensor]:
    """Labels of single texts (N, T, ...) -> of rows of `counts` texts each, and their label_segments (R, T').

    The last token of a text that was cut before its EOS has no state that has consumed it and no other text's, so it
    loses its place.
    """
    lengths = (labels["labels"] != IGNORE_INDEX).sum(1).tolist()
    rows, text = [], 0
    for count in counts:
        rows.append(range(text, text + count))
        text += count
    longest = max(sum(lengths[text] for text in row) for row in rows)
    packed = {
        name: value.new_full((len(rows), longest, *value.shape[2:]), _PADDING[name]) for name, value in labels.items()
    }
    packed["label_segments"] = torch.full((len(rows), longest), NO_SEGMENT)
    for number, row in enumerate(rows):
        start = 0
        for segment, text in enumerate(row):
            end = start + lengths[text]
            for name, value in labels.items():
                packed[name][number, start:end] = value[text, : lengths[text]]
                if name != "labels":
                    packed[name][number, end - 1 : end] = _PADDING[name]
            packed["label_segments"][number, start:end] = segment
            start = end
    return packed
