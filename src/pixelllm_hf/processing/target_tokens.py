"""The tokens that an answer points with: a group of them, always the same and in order, is one target."""

from __future__ import annotations

from typing import Any

from transformers import AddedToken


def target_tokens(count: int) -> list[str]:
    """What the tokens of a target are called, as PixelLM calls them.

    >>> target_tokens(2), target_tokens(1)
    (['[SEG0]', '[SEG1]'], ['[SEG]'])
    """
    return [f"[SEG{index}]" for index in range(count)] if count > 1 else ["[SEG]"]


def target_token_ids(tokenizer: Any) -> list[int]:
    """The ids of a tokenizer's target tokens, in their order; none if it has no such tokens.

    Looked up by token: tokenizing one may give a piece that all of them share.
    """
    words = tokenizer.get_vocab()
    if "[SEG]" in words:
        return [words["[SEG]"]]
    count = 0
    while f"[SEG{count}]" in words:
        count += 1
    return [words[token] for token in target_tokens(count)] if count > 1 else []


def add_target_tokens(tokenizer: Any, count: int) -> list[int]:
    """Give a tokenizer the tokens of a target; their ids."""
    tokenizer.add_tokens([AddedToken(token, normalized=False, special=False) for token in target_tokens(count)])
    return target_token_ids(tokenizer)


__all__ = ["add_target_tokens", "target_token_ids", "target_tokens"]
