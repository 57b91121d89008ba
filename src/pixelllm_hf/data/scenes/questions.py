"""Questions about a scene whose answers point at one to six things, or at none: in the manner of MUSE.

Source of the manner: PixelLM (arXiv 2312.02228), section 4. There a language model asks about photographs; here a small
grammar asks about what is known of a scene, so that every answer is true.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from .composition import SceneObject
from .expressions import Referral
from .narration import relation_between
from .properties import PROPERTIES

MAX_QUESTIONS = 4
EMPTY_SHARE = 0.12  # of questions about properties and colours that hold for nothing
SEG = "{seg}"  # where MUSE's text answers have a target


@dataclass(frozen=True)
class Question:
    """`targets`: indices of the scene's objects in the order the answer names them; `answer` has one {seg} for each."""

    text: str
    answer: str
    targets: tuple[int, ...]


def ask(
    rng: np.random.Generator,
    objects: tuple[SceneObject, ...],
    referrals: Sequence[Referral],
    size_wh: tuple[int, int],
) -> list[Question]:
    """Up to four different questions; the first is about everything, one may be about nothing that is there."""
    kinds = [_about_properties, _about_colors, _about_sides, _about_names, _about_one]
    found: list[Question] = []
    for build in kinds:
        possible = build(rng, objects, referrals, size_wh)
        if possible:
            found.append(possible[int(rng.integers(len(possible)))])
    if rng.random() < EMPTY_SHARE * MAX_QUESTIONS:
        found.append(_about_nothing(rng, objects))
    chosen = [found[i] for i in rng.permutation(len(found))[: MAX_QUESTIONS - 1]]
    everything = _listed("which objects are in the picture?", "the picture shows", objects, objects)
    return [everything, *chosen]


def _listed(text: str, found: str, targets: Sequence[SceneObject], objects: Sequence[SceneObject]) -> Question:
    """The answer that names the targets from left to right, each with its {seg}."""
    ordered = sorted(targets, key=lambda target: target.center_xy[0])
    phrases = [f"{_phrase(target)} {SEG}" for target in ordered]
    shown = " and ".join([", ".join(phrases[:-1]), phrases[-1]]) if len(phrases) > 1 else phrases[0]
    return Question(text, f"{found} {shown}.", tuple(target.index for target in ordered))


def _phrase(target: SceneObject) -> str:
    """What an answer calls a thing: a small red car."""
    words = [word for word in (target.size, target.color, target.name) if word]
    return " ".join(["an" if words[0][0] in "aeiou" else "a", *words])


def _about_properties(rng, objects, referrals, size_wh) -> list[Question]:
    possible = []
    for known in PROPERTIES:
        targets = [item for item in objects if item.name in known.names]
        if targets:
            possible.append(_listed(known.question, known.found, targets, objects))
    return possible


def _about_colors(rng, objects, referrals, size_wh) -> list[Question]:
    colors = {item.color for item in objects if item.color}
    possible = []
    for color in sorted(colors):
        targets = [item for item in objects if item.color == color]
        # things that are never painted have colours of their own, which nobody has written down
        possible.append(_listed(f"which things are painted {color}?", f"painted {color} is", targets, objects))
    return possible


def _about_sides(rng, objects, referrals, size_wh) -> list[Question]:
    """What lies on one side of a thing that there is once; only where every other thing is clearly there or not."""
    possible = []
    for anchor in objects:
        if sum(item.name == anchor.name for item in objects) > 1:
            continue
        others = [item for item in objects if item is not anchor]
        relations = [relation_between(item.box_xyxy, anchor.box_xyxy, size_wh) for item in others]
        for side in ("to the left of", "to the right of"):
            # above and below are said of what is not clearly beside: their own side stays open
            if any(relation in (None, "above", "below") for relation in relations):
                continue
            targets = [item for item, relation in zip(others, relations, strict=True) if relation == side]
            text = f"what is {side} the {anchor.name}?"
            if targets:
                possible.append(_listed(text, f"{side} the {anchor.name} is", targets, objects))
    return possible


def _about_names(rng, objects, referrals, size_wh) -> list[Question]:
    possible = []
    for name in sorted({item.name for item in objects}):
        targets = [item for item in objects if item.name == name]
        if len(targets) > 1:
            possible.append(_listed(f"where is every {name}?", "here is", targets, objects))
    pair = [item for item in objects if sum(other.name == item.name for other in objects) == 1]
    if len(pair) >= 2:
        first, second = (pair[i] for i in rng.permutation(len(pair))[:2])
        text = f"where are the {first.name} and the {second.name}?"
        possible.append(_listed(text, "here is", [first, second], objects))
    return possible


def _about_one(rng, objects, referrals, size_wh) -> list[Question]:
    possible = []
    for referral in referrals:
        for sentence in referral.sentences:
            possible.append(Question(f"where is {sentence}?", f"it is here {SEG}.", (referral.target,)))
    return possible


def _about_nothing(rng: np.random.Generator, objects: tuple[SceneObject, ...]) -> Question:
    absent = [known for known in PROPERTIES if not any(item.name in known.names for item in objects)]
    known = absent[int(rng.integers(len(absent)))]
    return Question(known.question, known.nothing, ())


__all__ = ["Question", "ask"]
