"""Names that weights had in earlier versions: what was saved under them still loads, and is saved under those of today.

Until the language model owned its visual projection, that stood beside it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TypeVar

from transformers.core_model_loading import WeightRenaming

_T = TypeVar("_T")
_FORMER, _TODAY = r"^visual_projection\.", "language_model.visual_projection."
# Also within what wraps a model: a learner of one stage, an adapter, a process group.
_ANYWHERE = re.compile(r"(?<![^.])(?<!language_model\.)visual_projection\.")


class FormerName(WeightRenaming):
    """transformers' renaming on loading, which it would undo on saving."""

    __slots__ = ()

    def reverse_transform(self) -> FormerName:
        return self.copy(self._original_target_patterns, self._original_target_patterns)


def former_names() -> list[WeightRenaming]:
    """For transformers' `register_checkpoint_conversion_mapping`."""
    return [FormerName(_FORMER, _TODAY)]


# For peft, which renames so what it reads from an adapter's folder: `modules_to_save` have the names of modules.
FORMER_PATTERNS = {_FORMER: _TODAY}


def current_name(name: str) -> str:
    """Today's name of a tensor of a PixelLLM, or of what belongs to it, such as `visual_projection.0.weight/step`."""
    return _ANYWHERE.sub(_TODAY, name)


def current_names(tensors: Mapping[str, _T]) -> dict[str, _T]:
    """The tensors under today's names; of PixelLMs, which have none of the former ones, as they are."""
    return {current_name(name): tensor for name, tensor in tensors.items()}


__all__ = ["FORMER_PATTERNS", "FormerName", "current_name", "current_names", "former_names"]
