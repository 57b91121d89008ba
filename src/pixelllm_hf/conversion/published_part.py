"""Published weights of one kind, whose layout has been recognised."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

import torch
from transformers import AutoModelForCausalLM
from transformers.conversion_mapping import get_model_conversion_mapping
from transformers.core_model_loading import WeightRenaming
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from .public_layouts import Layout, causal_layout, eva02_layout, named_shapes, sam_layout, t5_layout
from .weight_sources import WeightSource

SAM, EVA02, LANGUAGE_MODEL = "SAM", "EVA02", "the language model"


class AssemblyError(ValueError):
    """Parts that do not make the model."""


@dataclass(frozen=True)
class Part:
    """Published weights of one kind, recognised. tower: the name of the tower that they fill."""

    kind: str
    source: WeightSource
    layout: Layout
    prefix: str
    tower: str = ""

    @classmethod
    def of(cls, kind: str, source: WeightSource, language: Any = None) -> Part:
        """language: the config of a language model, which says how a decoder-only one is laid out."""
        if kind == LANGUAGE_MODEL:
            found = _language_layout(source, language)
        else:
            found = (sam_layout if kind == SAM else eva02_layout)(source.tensors)
        if found is None:
            held = next(iter(source.tensors), "nothing")
            raise AssemblyError(f"{source.name!r} has no weights of {kind} in a layout that is known, but {held}.")
        return cls(kind, source, *found)

    def shapes(self, below: str) -> dict[str, tuple[int, ...]]:
        """The shapes that the source has for what is below a name of ours, where the tower is called `tower`."""
        shapes = {name: tensor.shape for name, tensor in self.source.tensors.items()}
        found = named_shapes(shapes, self.layout, self.prefix)
        return {name.removeprefix(below): shape for name, shape in found if name.startswith(below)}


def _language_layout(source: WeightSource, config: Any) -> tuple[Layout, str] | None:
    if getattr(config, "model_type", None) not in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES:
        return t5_layout(source.tensors)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    words = model.get_input_embeddings().weight
    name = next(name for name, parameter in model.named_parameters() if parameter is words)
    found = causal_layout(source.tensors, name, model.base_model_prefix)
    if found is None:
        return None
    layout, prefix = found
    return replace(layout, published=_published(model, (n.removeprefix(prefix) for n in source.tensors))), prefix


def renamings_of(model: Any) -> tuple[WeightRenaming, ...]:
    """Those that transformers does on loading, of names that its models had before."""
    return tuple(step for step in get_model_conversion_mapping(model) if isinstance(step, WeightRenaming))


def name_today(name: str, renamings: Iterable[WeightRenaming]) -> str:
    """The name that a published tensor has in the model now."""
    for renaming in renamings:
        name, _ = renaming.rename_source_key(name)
    return name


def _published(model: Any, names: Iterable[str]) -> dict[str, str]:
    """Of names that are published the ones that the model has for them today, where those are others."""
    own, renamings = set(model.state_dict()), renamings_of(model)
    today = {name: name_today(name, renamings) for name in names if name not in own}
    return {name: ours for name, ours in today.items() if ours in own}
