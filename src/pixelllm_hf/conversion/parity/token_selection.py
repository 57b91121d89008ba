"""The reference's ways to say which tokens count (official.md#points)."""

from __future__ import annotations

import torch
from torch import Tensor


def select_tokens(tokens: Tensor, ignore: str, bos: int, eos: int, pad: int) -> Tensor:
    """Which tokens count: tokens (…,T) ids -> (…,T) bool.

    `ignore` is the reference's comma list: "pad", "begin", "end" drop these ids, "end-1" drops the token whose next
    one is EOS, "text" drops everything but the special ids; a leading "^" turns the final choice around.
    "begin,end,pad" keeps the words, "^end-1" the last word alone.

    >>> select_tokens(torch.tensor([0, 7, 8, 1, 0]), "begin,end,pad", bos=0, eos=1, pad=0).tolist()
    [False, True, True, False, False]
    """
    negate, names = ignore.startswith("^"), ignore.lstrip("^").split(",")
    keep = torch.ones_like(tokens, dtype=torch.bool)
    following = torch.cat([tokens[..., 1:], torch.zeros_like(tokens[..., :1])], dim=-1)
    special = (tokens == bos) | (tokens == eos) | (tokens == pad)
    dropped = {
        "pad": tokens == pad,
        "begin": tokens == bos,
        "end": tokens == eos,
        "end-1": following == eos,
        "text": ~special,
    }
    for name in filter(None, (n.strip() for n in names)):
        if name not in dropped:
            raise ValueError(
                f"a token selection must be a comma list of {', '.join(dropped)}, but {ignore!r} has {name!r}. "
                "'begin,end,pad' keeps the words, '^end-1' the last word alone."
            )
        keep &= ~dropped[name]
    return ~keep if negate else keep


__all__ = ["select_tokens"]
