"""What an answer may not do: say a token twice in a row, go round in circles, or leave a target half written."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from transformers import LogitsProcessor


class NoImmediateRepetition(LogitsProcessor):
    """The reference's greedy rule: the token just written may not follow itself (official.md#decoding)."""

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        previous = input_ids[:, -1:]
        return scores.scatter(1, previous, scores.gather(1, previous).clamp(max=-1e4))


class EndOfLoop(LogitsProcessor):
    """An answer goes round in circles where its last `length` tokens say again what stands directly before them: it
    ends there. Of several beams, those are kept that do not. Tokens that point at targets may repeat with the words
    before them: three bears are named alike, and each has a mask of its own.
    """

    def __init__(self, length: int, end_ids: list[int], target_ids: Sequence[int] = ()):
        self.length, self.end_ids, self.target_ids = length, end_ids, list(target_ids)

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        if input_ids.shape[1] <= self.length:
            return scores
        windows = input_ids[:, -2 * self.length :].unfold(1, self.length, 1)  # rows, places, length; the last is now
        loops = (windows[:, :-1] == windows[:, -1:]).all(-1).any(-1)
        if self.target_ids:
            points = torch.isin(windows[:, -1], torch.tensor(self.target_ids, device=windows.device)).any(-1)
            loops = loops & ~points
        ends = torch.zeros(scores.shape[-1], dtype=torch.bool, device=scores.device)
        ends[self.end_ids] = True
        may_end = scores[:, ends].isfinite().any(-1)  # a shortest length may forbid it
        return scores.masked_fill((loops & may_end)[:, None] & ~ends, -torch.inf)


class CompleteTokenGroups(LogitsProcessor):
    """A target's tokens follow each other: after one that is not the last only the next, and none out of turn."""

    def __init__(self, codebook_ids: Sequence[int]):
        self.codebook_ids = list(codebook_ids)

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        last = input_ids[:, -1]
        scores = scores.clone()
        scores[:, self.codebook_ids[1:]] = -torch.inf
        for token, follower in zip(self.codebook_ids, self.codebook_ids[1:], strict=False):
            begun = last == token
            scores[begun] = -torch.inf
            scores[begun, follower] = 0.0
        return scores


__all__ = ["CompleteTokenGroups", "EndOfLoop", "NoImmediateRepetition"]
