"""Composed scenes: named cut-outs over backgrounds, described, pointed at and referred to.

python -m pixelllm_hf.data.scenes --out DIR --num 10000 --seed 0
"""

from __future__ import annotations

from .backgrounds import BackgroundFolderError, load_photographs
from .composition import Entity, SceneObject
from .expressions import Referral
from .library import COLORS, ObjectFolderError, ObjectLibrary
from .narration import NarratedWord
from .scene import Narrative, Scene, compose_scene
from .writers import SceneOutputError, write_scenes

__all__ = [
    "COLORS",
    "BackgroundFolderError",
    "Entity",
    "NarratedWord",
    "Narrative",
    "ObjectFolderError",
    "ObjectLibrary",
    "Referral",
    "Scene",
    "SceneObject",
    "SceneOutputError",
    "compose_scene",
    "load_photographs",
    "write_scenes",
]
