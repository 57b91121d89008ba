"""Referring expressions that fit one object of a scene and clearly no other."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .composition import SceneObject
from .narration import relation_between

BIGGER_BY = 1.3  # ratio of the longer sides, so that bigger is seen and not measured
SIDE_GAP = 0.08  # of the image side, to the next object of the name
MAX_SENTENCES = 3


@dataclass(frozen=True)
class Referral:
    """Sentences that all mean one object (its index in the scene)."""

    target: int
    sentences: tuple[str, ...]


def refer(rng: np.random.Generator, objects: tuple[SceneObject, ...], size_wh: tuple[int, int]) -> list[Referral]:
    """Up to three unambiguous sentences for each object that has any, in the order of the objects."""
    referrals = []
    for target in objects:
        sentences = unambiguous_sentences(target, objects, size_wh)
        if not sentences:
            continue
        # the shortest one that works is always among them: it is what people would say
        rest = sentences[1:]
        chosen = [sentences[0]] + [rest[i] for i in rng.permutation(len(rest))[: MAX_SENTENCES - 1]]
        referrals.append(Referral(target.index, tuple(chosen)))
    return referrals


def unambiguous_sentences(target: SceneObject, objects: tuple[SceneObject, ...], size_wh: tuple[int, int]) -> list[str]:
    """Every sentence our grammar has for `target` that holds for it with a margin and for no other object at all."""
    rivals = [o for o in objects if o.name == target.name and o is not target]
    sentences = []
    if not rivals:
        sentences.append(f"the {target.name}")
    if target.color and all(o.color != target.color for o in rivals):
        sentences.append(f"the {target.color} {target.name}")
    if rivals:
        sentences += _comparisons(target, rivals) + _sides(target, rivals, size_wh)
    sentences += _relations(target, rivals, objects, size_wh)
    return sentences


def _comparisons(target: SceneObject, rivals: list[SceneObject]) -> list[str]:
    sizes = [o.longest for o in rivals]
    degree = ("bigger", "smaller") if len(rivals) == 1 else ("biggest", "smallest")
    if target.longest >= BIGGER_BY * max(sizes):
        return [f"the {degree[0]} {target.name}"]
    if target.longest * BIGGER_BY <= min(sizes):
        return [f"the {degree[1]} {target.name}"]
    return []


def _sides(target: SceneObject, rivals: list[SceneObject], size_wh: tuple[int, int]) -> list[str]:
    found = []
    for axis, (first, last) in enumerate((("on the left", "on the right"), ("at the top", "at the bottom"))):
        own = target.center_xy[axis]
        others = [o.center_xy[axis] for o in rivals]
        gap = SIDE_GAP * size_wh[axis]
        if own < min(others) - gap:
            found.append(f"the {target.name} {first}")
        elif own > max(others) + gap:
            found.append(f"the {target.name} {last}")
        elif axis == 0 and len(rivals) == 2 and min(others) + gap < own < max(others) - gap:
            found.append(f"the {target.name} in the middle")
    return found


def _relations(
    target: SceneObject, rivals: list[SceneObject], objects: tuple[SceneObject, ...], size_wh: tuple[int, int]
) -> list[str]:
    found = []
    for anchor in objects:
        if anchor.name == target.name or sum(o.name == anchor.name for o in objects) > 1:
            continue
        relation = relation_between(target.box_xyxy, anchor.box_xyxy, size_wh)
        if relation and not any(_may_be(relation, o, anchor) for o in rivals):
            found.append(f"the {target.name} {relation} the {anchor.name}")
    return found


def _may_be(relation: str, other: SceneObject, anchor: SceneObject) -> bool:
    """Whether a listener could take `other` for the one meant: only its centre has to be on that side."""
    dx = anchor.center_xy[0] - other.center_xy[0]
    dy = anchor.center_xy[1] - other.center_xy[1]
    return {"to the left of": dx > 0, "to the right of": dx < 0, "above": dy > 0, "below": dy < 0}[relation]
