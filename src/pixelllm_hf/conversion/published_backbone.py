"""A backbone of transformers as published: what its config says, and where its weights go."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from transformers import AutoBackbone, AutoConfig
from transformers.core_model_loading import WeightRenaming

from ..modeling.configuration_towers import PixelLLMBackboneTowerConfig
from .public_layouts import Layout, Placement
from .published_part import AssemblyError, Part, name_today, renamings_of
from .weight_sources import WeightSource

_NEW_NORMS = "hidden_states_norms"  # of the maps of inner layers, which published classifiers have not
_COMPUTED = re.compile(r".+\.(relative_position_index|num_batches_tracked|position_ids)")


@dataclass(frozen=True)
class _BackboneLayout(Layout):
    """own: names of the backbone's tensors. renamings: transformers', of the names that are published to these."""

    own: frozenset[str] = frozenset()
    renamings: tuple[WeightRenaming, ...] = ()

    @cached_property
    def beginnings(self) -> frozenset[str]:
        """Of names that are the backbone's, should they not be those of its tensors."""
        return frozenset({own.rpartition(".")[0].split(".")[0] for own in self.own} | {"encoder", "embeddings"})

    def place(self, name: str, tower: str) -> tuple[Placement, ...] | str | None:
        ours = name_today(name, self.renamings)
        if ours in self.own:
            return (Placement(f"vision_towers.{tower}.backbone.{ours}"),)
        if _COMPUTED.fullmatch(ours):
            return "which is computed"
        return None if ours.split(".")[0] in self.beginnings else "of a head, which a backbone has not"


def backbone_part(source: WeightSource) -> tuple[Part, PixelLLMBackboneTowerConfig]:
    """The part, and its tower's config: the backbone's and, where a preprocessor tells them, its pixel statistics."""
    config, layout = _config_and_layout(source)
    beginnings = {"", *(f"{name.split('.')[0]}." for name in source.tensors)}

    def placed(prefix: str) -> int:
        names = (name.removeprefix(prefix) for name in source.tensors if name.startswith(prefix))
        return sum(name_today(name, layout.renamings) in layout.own for name in names)

    prefix = max(sorted(beginnings), key=placed)
    if not placed(prefix):
        held = next(iter(source.tensors), "nothing")
        raise AssemblyError(f"{source.name!r} has no weights of a {config.model_type!r}, but {held}.")
    tower = PixelLLMBackboneTowerConfig(backbone_config=config, **_statistics(source))
    return Part(f"the backbone {tower.name}", source, layout, prefix, str(tower.name)), tower


def _config_and_layout(source: WeightSource) -> tuple[Any, _BackboneLayout]:
    try:
        given = AutoConfig.from_pretrained(source.folder)
        config = PixelLLMBackboneTowerConfig(backbone_config=given).backbone_config
        with torch.device("meta"):
            backbone = AutoBackbone.from_config(config, dtype=torch.float32)
    except Exception as error:  # what others wrote is met with many types of errors
        told = " ".join(str(error).split())[:300]
        raise AssemblyError(f"{source.folder} has no config.json of a backbone of transformers: {told}") from error
    own = frozenset(backbone.state_dict())
    fills = tuple(f"vision_towers.{{tower}}.backbone.{name}" for name in sorted(own) if _NEW_NORMS not in name)
    return config, _BackboneLayout(
        f"transformers' {config.model_type}", "", (), fills, own=own, renamings=renamings_of(backbone)
    )


def _statistics(source: WeightSource) -> dict[str, Any]:
    """Of its pixels, 0..255, from the preprocessor's settings beside the weights; ImageNet's without any."""
    file = source.folder / "preprocessor_config.json"
    try:
        told = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
        return {n: [255 * float(value) for value in told[n]] for n in ("image_mean", "image_std") if told.get(n)}
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise AssemblyError(f"{file} cannot be read ({error}). Copy it again, or remove it.") from error


__all__ = ["backbone_part"]
