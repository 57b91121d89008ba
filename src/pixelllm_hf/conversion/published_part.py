"""Published weights of one kind, whose layout has been recognised."""

from __future__ import annotations

from dataclasses import dataclass

from .public_layouts import Layout, eva02_layout, language_layout, named_shapes, sam_layout
from .weight_sources import WeightSource, find_weights

SAM, EVA02, LANGUAGE_MODEL = "SAM", "EVA02", "the language model"
_LAYOUTS = {SAM: sam_layout, EVA02: eva02_layout, LANGUAGE_MODEL: language_layout}


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
    def find(cls, kind: str, name: str) -> Part:
        source = find_weights(name)
        found = _LAYOUTS[kind](source.tensors)
        if found is None:
            raise AssemblyError(
                f"{name!r} has no weights of {kind} in a layout that is known, e.g. {next(iter(source.tensors), None)}."
            )
        return cls(kind, source, *found)

    def shapes(self, below: str) -> dict[str, tuple[int, ...]]:
        """The shapes that the source has for what is below a name of ours, where the tower is called `tower`."""
        shapes = {name: tensor.shape for name, tensor in self.source.tensors.items()}
        found = named_shapes(shapes, self.layout, self.prefix)
        return {name.removeprefix(below): shape for name, shape in found if name.startswith(below)}
