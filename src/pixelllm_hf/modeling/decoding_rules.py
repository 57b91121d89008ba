"""What an answer may not do: say a token twice in a row, go round in circles, or leave a target half written."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import LogitsProcessor

# What `generate` takes about these, as keywords or as entries of the generation config: defaults.
ANSWER_OPTIONS: dict[str, Any] = {
    "complete_groups": True,
    "no_immediate_repetition": False,
    "max_repeated_tokens": 0,
    "max_repeated_targets": 0,
}


class NoImmediateRepetition(LogitsProcessor):
    """The reference's greedy rule: the token just written may not follow itself (official.md#decoding)."""

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        previous = input_ids[:, -1:]
        return scores.scatter(1, previous, scores.gather(1, previous).clamp(max=-1e4))


class EndOfLoop(LogitsProcessor):
    """An answer goes round in circles where its last `length` tokens say again what stands directly before them: it
    ends there. Of several beams, those are kept that do not. Tokens that point at targets may repeat with the words
    before them: three bears are named alike, and each has a mask of its own (`EndOfRepeatedTargets` bounds these).

    begin: tokens before the answer, a question that may repeat itself.
    """

    def __init__(self, length: int, end_ids: list[int], target_ids: Sequence[int] = (), begin: int = 0):
        self.length, self.end_ids, self.target_ids, self.begin = length, end_ids, list(target_ids), begin

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        written = input_ids[:, self.begin :]
        if written.shape[1] <= self.length:
            return scores
        windows = written[:, -2 * self.length :].unfold(1, self.length, 1)  # rows, places, length; the last is now
        loops = (windows[:, :-1] == windows[:, -1:]).all(-1).any(-1)
        if self.target_ids:
            points = torch.isin(windows[:, -1], torch.tensor(self.target_ids, device=windows.device)).any(-1)
            loops = loops & ~points
        return ended_where(loops, scores, self.end_ids)


class EndOfRepeatedTargets(LogitsProcessor):
    """An answer goes round in circles where the words that point, with what stands between them, are said again `count`
    times or more directly one after the other, be it about one target or about several in turn: it ends there.

    begin: tokens before the answer.
    """

    def __init__(self, count: int, end_ids: list[int], target_ids: Sequence[int], begin: int = 0):
        self.count, self.end_ids, self.last_id, self.begin = count, end_ids, target_ids[-1], begin

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        pointed = input_ids[:, -1] == self.last_id
        if not pointed.any():
            return scores
        rows = zip(input_ids[:, self.begin :].tolist(), pointed.tolist(), strict=True)
        loops = [now and self._repeats(row) for row, now in rows]
        return ended_where(torch.tensor(loops, device=scores.device), scores, self.end_ids)

    def _repeats(self, row: list[int]) -> bool:
        """Whether the tokens, which end with a target, end with the same turn of targets as often as they may not."""
        ends = [place + 1 for place, token in enumerate(row) if token == self.last_id]
        for before in ends[-2::-1]:  # one target in a turn, two, …
            turn, times = row[before:], self.count + 1
            if times * len(turn) > len(row):
                return False
            if row[-times * len(turn) :] == times * turn:
                return True
        return False


def ended_where(rows: Tensor, scores: Tensor, end_ids: list[int]) -> Tensor:
    """scores (R,V) in which the given rows (R,) bool can only end, but for those that may not yet."""
    ends = torch.zeros(scores.shape[-1], dtype=torch.bool, device=scores.device)
    ends[end_ids] = True
    may_end = scores[:, ends].isfinite().any(-1)  # a shortest length may forbid it
    return scores.masked_fill((rows & may_end)[:, None] & ~ends, -torch.inf)


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


def rules_of_answers(
    own: Mapping[str, Any], end_ids: list[int], target_ids: Sequence[int], begin: int = 0
) -> list[LogitsProcessor]:
    """The rules that `generate`'s own options ask for, in the order in which they count.

    own: the options by name, as in `ANSWER_OPTIONS`; target_ids: of a codebook, if there is one; begin: tokens that
    stand before an answer in its row.
    """
    rules: list[LogitsProcessor] = []
    if own["no_immediate_repetition"]:
        rules.append(NoImmediateRepetition())
    if own["max_repeated_tokens"] and end_ids:
        rules.append(EndOfLoop(int(own["max_repeated_tokens"]), end_ids, target_ids, begin))
    if own["max_repeated_targets"] and end_ids and target_ids:
        rules.append(EndOfRepeatedTargets(int(own["max_repeated_targets"]), end_ids, target_ids, begin))
    if own["complete_groups"] and target_ids:
        # behind the other rules: a target that is begun is written whole, whatever they say
        rules.append(CompleteTokenGroups(target_ids))
    return rules


__all__ = [
    "ANSWER_OPTIONS",
    "CompleteTokenGroups",
    "EndOfLoop",
    "EndOfRepeatedTargets",
    "NoImmediateRepetition",
    "rules_of_answers",
]
