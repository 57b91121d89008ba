"""The model families of the package: which classes belong together.

Registration, the export of code, inference and training ask here; a further family is one entry. Classes are named, not
imported: torch is not needed before one of them is asked for.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_MODELING = "pixelllm_hf.modeling."
_PROCESSING = "pixelllm_hf.processing."
PIPELINE = f"{_PROCESSING}pipeline_grounded_captioning:GroundedCaptioningPipeline"


@dataclass(frozen=True)
class Family:
    """Each class as "module:name"; the image processor may be shared. Of cards: `title`, what users call it, the
    number of its `paper` on arXiv, and what a model of the family does, `does`. rounding: of sizes on its canvas.
    collator: makes training batches of rows."""

    model_type: str
    title: str
    paper: str
    does: str
    config: str
    model: str
    processor: str
    image_processor: str = f"{_PROCESSING}image_processing_pixelllm:PixelLLMImageProcessor"
    rounding: str = "down"
    collator: str = "pixelllm_hf.data.collator:GroundedCollator"

    @property
    def config_class(self) -> Any:
        return load(self.config)

    @property
    def model_class(self) -> Any:
        return load(self.model)

    @property
    def processor_class(self) -> Any:
        return load(self.processor)

    @property
    def image_processor_class(self) -> Any:
        return load(self.image_processor)

    @property
    def collator_class(self) -> Any:
        return load(self.collator)


FAMILIES: dict[str, Family] = {
    family.model_type: family
    for family in (
        Family(
            "pixelllm",
            "PixelLLM",
            paper="2312.09237",
            does="it captions an image, or a place in it, and gives every word a point and a box",
            config=f"{_MODELING}configuration_pixelllm:PixelLLMConfig",
            model=f"{_MODELING}modeling_pixelllm:PixelLLMForGroundedGeneration",
            processor=f"{_PROCESSING}processing_pixelllm:PixelLLMProcessor",
        ),
        Family(
            "pixellm",
            "PixelLM",
            paper="2312.02228",
            does="it answers a question about an image with text, and gives each thing that the answer names a mask",
            config=f"{_MODELING}configuration_pixellm:PixelLMConfig",
            model=f"{_MODELING}modeling_pixellm:PixelLMForReasoningSegmentation",
            processor=f"{_PROCESSING}processing_pixellm:PixelLMProcessor",
            rounding="nearest",
            collator="pixelllm_hf.data.question_collator:QuestionCollator",
        ),
    )
}


class UnknownFamilyError(ValueError):
    """A model that is none of ours."""


def family_of(model_type: str | None, *, name: str = "the model") -> Family:
    """The family with this `model_type`; an error that lists the families if there is none."""
    if model_type not in FAMILIES:
        raise UnknownFamilyError(
            f"{name} has model_type {model_type!r}, which is no family of this package. They are {', '.join(FAMILIES)}."
        )
    return FAMILIES[model_type]


def family_of_folder(folder: str | Path) -> Family:
    """The family of a saved model, by its config.json."""
    from .modeling.model_folder import read_settings

    file = Path(folder) / "config.json"
    found = read_settings(file).get("model_type")
    return family_of(found if isinstance(found, str) else None, name=str(file))


def modules_of(references: Iterable[str]) -> tuple[str, ...]:
    """The modules of several "module:name", each once."""
    return tuple(dict.fromkeys(reference.partition(":")[0] for reference in references))


def load(reference: str) -> Any:
    """The class that "module:name" means."""
    module, _, name = reference.partition(":")
    return getattr(importlib.import_module(module), name)


__all__ = [
    "FAMILIES",
    "PIPELINE",
    "Family",
    "UnknownFamilyError",
    "family_of",
    "family_of_folder",
    "load",
    "modules_of",
]
