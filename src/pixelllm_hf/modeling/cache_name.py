"""The cache goes by the name of `cache`; transformers 5.23 still called it `past_key_values`."""

from __future__ import annotations

import warnings
from dataclasses import fields

from transformers.cache_utils import Cache
from transformers.modeling_outputs import Seq2SeqLMOutput

# What transformers' own models, outputs and decoding loops call it in the installed version.
CACHE_NAME = "cache" if "cache" in {field.name for field in fields(Seq2SeqLMOutput)} else "past_key_values"


def given_cache(cache: Cache | None, past_key_values: Cache | None) -> Cache | None:
    """What came by either name. As in transformers, who uses the former one is told where nobody has to any more."""
    if past_key_values is not None and CACHE_NAME == "cache":
        warnings.warn("`past_key_values` is deprecated. Use `cache` instead.", FutureWarning, stacklevel=3)
    return past_key_values if cache is None else cache


class HasCache:
    """Beside an output of transformers' as a base: gives it `cache` where the field has the former name."""

    if CACHE_NAME != "cache":

        @property
        def cache(self) -> Cache | None:
            return getattr(self, CACHE_NAME)


__all__ = ["CACHE_NAME", "HasCache", "given_cache"]
