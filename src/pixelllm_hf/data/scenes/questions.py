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
from .properties import DESCRIBED_NAMES, PROPERTIES, Property

SEG = "{seg}"  # where MUSE's text answers have a target


@dataclass(frozen=True)
class QuestionPlan:
    """How many questions a scene gets at most, and which share of them, roughly, is about what is not there.

    The defaults are those of every evaluation; a training that learns to answer "there is none" wants more of both.
    properties_alone: besides everything, ask only what things are and what they are for, which is learnt last.
    """

    number: int = 4
    empty_share: float = 0.12
    properties_alone: bool = False


USUAL_PLAN = QuestionPlan()
_A_ROUND = 3  # questions that are kept, at most, of one of every kind


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
    plan: QuestionPlan = USUAL_PLAN,
) -> list[Question]:
    """Different questions; the first is about everything, some may be about nothing that is there."""
    if plan.properties_alone:
        kinds, rounds = [_about_properties(objects)], plan.number - 1
    else:
        kinds = [
            _about_properties(objects),
            _about_colors(objects),
            _about_sides(objects, size_wh),
            _about_names(rng, objects),
            _about_one(referrals),
        ]
        rounds = -(-(plan.number - 1) // _A_ROUND)
    found = []
    for _ in range(rounds):
        found += [possible.pop(int(rng.integers(len(possible)))) for possible in kinds if possible]
    nothing, wanted = _about_nothing(objects), plan.empty_share * plan.number
    while nothing and wanted > 0 and rng.random() < wanted:
        found.append(nothing.pop(int(rng.integers(len(nothing)))))
        wanted -= 1
    chosen = [found[i] for i in rng.permutation(len(found))[: plan.number - 1]]
    return [_listed("which objects are in the picture?", "the picture shows", objects), *chosen]


def _listed(text: str, found: str, targets: Sequence[SceneObject]) -> Question:
    """The answer that names the targets from left to right, each with its {seg}."""
    ordered = sorted(targets, key=lambda target: target.center_xy[0])
    phrases = [f"{_phrase(target)} {SEG}" for target in ordered]
    shown = " and ".join([", ".join(phrases[:-1]), phrases[-1]]) if len(phrases) > 1 else phrases[0]
    return Question(text, f"{found} {shown}.", tuple(target.index for target in ordered))


def _phrase(target: SceneObject) -> str:
    """What an answer calls a thing: a small red car."""
    words = [word for word in (target.size, target.color, target.name) if word]
    return " ".join(["an" if words[0][0] in "aeiou" else "a", *words])


def _about_properties(objects: Sequence[SceneObject]) -> list[Question]:
    possible = []
    for known in _decided(objects):
        targets = [item for item in objects if item.name in known.names]
        if targets:
            possible.append(_listed(known.question, known.found, targets))
    return possible


def _about_nothing(objects: Sequence[SceneObject]) -> list[Question]:
    return [
        Question(known.question, known.nothing, ())
        for known in _decided(objects)
        if not any(item.name in known.names for item in objects)
    ]


def _decided(objects: Sequence[SceneObject]) -> list[Property]:
    """The properties of which it is certain for each of the objects whether it has them."""
    names = {item.name for item in objects}
    return [known for known in PROPERTIES if names <= DESCRIBED_NAMES - known.unclear]


def _about_colors(objects: Sequence[SceneObject]) -> list[Question]:
    possible = []
    for color in sorted({item.color for item in objects if item.color}):
        targets = [item for item in objects if item.color == color]
        # things that are never painted have colours of their own, which nobody has written down
        possible.append(_listed(f"which things are painted {color}?", f"painted {color} is", targets))
    return possible


def _about_sides(objects: Sequence[SceneObject], size_wh: tuple[int, int]) -> list[Question]:
    """What lies on one side of a thing that there is once; only where every other thing is clearly there or not."""
    possible = []
    for anchor in objects:
        others = [item for item in objects if item is not anchor]
        relations = [relation_between(item.box_xyxy, anchor.box_xyxy, size_wh) for item in others]
        # above and below are said of what is not clearly beside: their own side stays open
        if any(item.name == anchor.name for item in others) or {None, "above", "below"} & set(relations):
            continue
        for side in ("to the left of", "to the right of"):
            targets = [item for item, relation in zip(others, relations, strict=True) if relation == side]
            if targets:
                text = f"what is {side} the {anchor.name}?"
                possible.append(_listed(text, f"{side} the {anchor.name} is", targets))
    return possible


def _about_names(rng: np.random.Generator, objects: Sequence[SceneObject]) -> list[Question]:
    by_name: dict[str, list[SceneObject]] = {}
    for item in objects:
        by_name.setdefault(item.name, []).append(item)
    possible = [
        _listed(f"where is every {name}?", "here is", targets)
        for name, targets in sorted(by_name.items())
        if len(targets) > 1
    ]
    single = [targets[0] for targets in by_name.values() if len(targets) == 1]
    if len(single) > 1:
        first, second = (single[i] for i in rng.permutation(len(single))[:2])
        possible.append(_listed(f"where are the {first.name} and the {second.name}?", "here is", [first, second]))
    return possible


def _about_one(referrals: Sequence[Referral]) -> list[Question]:
    return [
        Question(f"where is {sentence}?", f"{sentence} {SEG} is here.", (referral.target,))
        for referral in referrals
        for sentence in referral.sentences
    ]


__all__ = ["USUAL_PLAN", "Question", "QuestionPlan", "ask"]
