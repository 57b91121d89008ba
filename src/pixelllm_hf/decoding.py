"""How a model writes: as its checkpoint says, unless somebody asks for something else.

The command line, annotation, the demo page, evaluation and published examples take their options from here, so that
they write what `generate` writes.
"""

from __future__ import annotations

from typing import Any

LONGEST = 96  # new tokens, where neither the checkpoint nor its user says


def decoding_options(own: Any, **asked: Any) -> dict[str, Any]:
    """What `generate` is given: the options that were asked for, without those that are None.

    own: the model's `generation_config`, which counts for all else. Where it has no length either, `LONGEST` does:
    transformers would cut every text after 20 tokens.
    """
    options = {name: value for name, value in asked.items() if value is not None}
    if not {"max_new_tokens", "max_length"} & options.keys() and own.max_length is None:
        options["max_new_tokens"] = longest(own)
    return options


def longest(own: Any) -> int:
    """New tokens of the longest text that a model with this `generation_config` writes unasked."""
    return own.max_new_tokens or own.max_length or LONGEST


def own_beams(own: Any) -> int:
    """Beams that a model with this `generation_config` searches with unasked; 1 is greedy."""
    return own.num_beams or 1


__all__ = ["LONGEST", "decoding_options", "longest", "own_beams"]
