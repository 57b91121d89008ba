"""The text of an answer that points at targets, as tokens: each placeholder becomes a target's group of tokens."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from pixelllm_hf.data.grounded_examples import TARGET_PLACEHOLDER


@dataclass(frozen=True)
class AnswerTokens:
    """ids (T,) without EOS; target_of_token (T,): the target that a token names or belongs to, -1 for the others;
    group_ends: for each target the number of tokens up to its last one."""

    ids: list[int]
    target_of_token: list[int]
    group_ends: list[int]


def write_targets(tokenizer: Any, text: str, names: Sequence[str | None], group: Sequence[int]) -> AnswerTokens:
    """A text with a placeholder for each target, behind the words that name it where `names` says so.

    group: the ids that a target is written with.

    The words are tokenized as if there were no placeholders, so that an answer reads like any other text. Raises
    ValueError where the number of placeholders is not that of the targets, or there is no group.
    """
    if not group:
        raise ValueError(
            "rows that point at targets need a tokenizer with the tokens [SEG0], [SEG1], …, but this one has none. Add "
            "them (processing.target_tokens.add_target_tokens, or scripts/train_tokenizer.py --target-tokens)."
        )
    parts = text.split(TARGET_PLACEHOLDER)
    if len(parts) - 1 != len(names):
        raise ValueError(
            f"a text must have {TARGET_PLACEHOLDER} once for each of its targets, but {text[:100]!r} has it "
            f"{len(parts) - 1} times for {len(names)} targets."
        )
    words, places = "", []
    for part in parts[:-1]:
        words = (words + part).rstrip()
        places.append(len(words))
    words += parts[-1]
    encoded = tokenizer(words, add_special_tokens=False, return_offsets_mapping=True)
    spans = [(end - len(name or ""), end) for name, end in zip(names, places, strict=True)]
    named = [
        bool(name) and start >= 0 and words[start:end].lower() == name.lower()
        for name, (start, end) in zip(names, spans, strict=True)
    ]
    ids: list[int] = []
    owners: list[int] = []
    ends: list[int] = []

    def point_at(target: int) -> None:
        ids.extend(group)
        owners.extend([target] * len(group))
        ends.append(len(ids))

    for token, (start, end) in zip(encoded["input_ids"], encoded["offset_mapping"], strict=True):
        while len(ends) < len(places) and start >= places[len(ends)]:
            point_at(len(ends))
        target = len(ends)  # the next to be pointed at
        # a token may carry the blank before its word: its last character decides
        inside = target < len(places) and named[target] and spans[target][0] < end <= spans[target][1]
        ids.append(token)
        owners.append(target if inside else -1)
    while len(ends) < len(places):
        point_at(len(ends))
    return AnswerTokens(ids, owners, ends)


__all__ = ["AnswerTokens", "write_targets"]
