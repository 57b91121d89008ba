"""What is said about a scene: captions as words that know which thing they speak of."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .composition import Entity

COUNT_WORDS = {2: "two", 3: "three", 4: "four", 5: "five", 6: "six"}
OPENINGS = ("in this image {there}", "we can see")
LEFT_THIRD, RIGHT_THIRD, MARGIN = 1 / 3, 2 / 3, 0.03  # of the image width
CLEARER_BY = 1.15  # the centres' offset along a relation, in units of the offset across it
OVERLAP = 0.05  # of the longer image side: what two boxes may share along a relation


@dataclass(frozen=True)
class NarratedWord:
    """A spoken word. `text` has no punctuation, `tail` is what is written behind it; `entity` indexes the entities."""

    text: str
    tail: str = ""
    entity: int | None = None


def written(words: list[NarratedWord]) -> str:
    """The caption as it is written: single spaces, punctuation behind its word."""
    return " ".join(word.text + word.tail for word in words)


def narrate(
    rng: np.random.Generator, entities: tuple[Entity, ...], size_wh: tuple[int, int]
) -> list[list[NarratedWord]]:
    """One to three captions of different build; each names every entity once, from left to right."""
    builders = [_listing, _listing_with_locations, _relations]
    order = rng.permutation(3)
    how_many = int(rng.choice([1, 2, 3], p=[0.4, 0.35, 0.25]))
    return [builders[k](rng, entities, size_wh) for k in order[:how_many]]


def describe(entity: Entity) -> str:
    """What a thing or group is always called: article or count, size, colour, name.

    For example: a small red car; an apple; two blue books.
    """
    words = [w for w in (entity.size, entity.color) if w]
    if entity.count > 1:
        return " ".join([COUNT_WORDS[entity.count], *words, entity.plural])
    return " ".join(_with_article([*words, entity.name]))


def _with_article(words: list[str]) -> list[str]:
    return ["an" if words[0][0] in "aeiou" else "a", *words]


def listing(entities: tuple[Entity, ...]) -> list[NarratedWord]:
    """All entities and nothing else: a red car, a small dog and two apples."""
    words: list[NarratedWord] = []
    for i in range(len(entities)):
        if i and i == len(entities) - 1:
            words.append(NarratedWord("and"))
        words += _phrase(entities, i, tail="," if i < len(entities) - 2 else "." if i == len(entities) - 1 else "")
    return words


def _phrase(entities: tuple[Entity, ...], i: int, tail: str = "") -> list[NarratedWord]:
    words = describe(entities[i]).split()
    return [NarratedWord(w, tail if k == len(words) - 1 else "", i) for k, w in enumerate(words)]


def _there(first: Entity) -> str:
    return "there is" if first.count == 1 else "there are"


def _plain(text: str, tail: str = "") -> list[NarratedWord]:
    words = text.split()
    return [NarratedWord(w, tail if k == len(words) - 1 else "") for k, w in enumerate(words)]


def _listing(rng: np.random.Generator, entities: tuple[Entity, ...], size_wh: tuple[int, int]) -> list[NarratedWord]:
    opening = OPENINGS[rng.integers(len(OPENINGS))].format(there=_there(entities[0]))
    return _plain(opening) + listing(entities)


def _listing_with_locations(
    rng: np.random.Generator, entities: tuple[Entity, ...], size_wh: tuple[int, int]
) -> list[NarratedWord]:
    """There is a red car on the left, a small dog in the middle and two apples on the right."""
    words = _plain(_there(entities[0]))
    places = [location_of(e, size_wh) for e in entities] if len(entities) <= 4 else [""] * len(entities)
    for i, place in enumerate(places):
        if i and i == len(entities) - 1:
            words.append(NarratedWord("and"))
        tail = "," if i < len(entities) - 2 else "." if i == len(entities) - 1 else ""
        words += _phrase(entities, i, tail="" if place else tail) + _plain(place, tail)
    return words


def location_of(entity: Entity, size_wh: tuple[int, int]) -> str:
    """The third of the image its centre is in, "" when it is too near a border between two to say."""
    x = entity.center_xy[0] / size_wh[0]
    if x < LEFT_THIRD - MARGIN:
        return "on the left"
    if x > RIGHT_THIRD + MARGIN:
        return "on the right"
    return "in the middle" if LEFT_THIRD + MARGIN < x < RIGHT_THIRD - MARGIN else ""


def _relations(rng: np.random.Generator, entities: tuple[Entity, ...], size_wh: tuple[int, int]) -> list[NarratedWord]:
    """Pairs from left to right: a red car is above a small dog, and two apples are to the left of a tree."""
    words: list[NarratedWord] = []
    pairs = [(i, i + 1) for i in range(0, len(entities) - 1, 2)]
    left_over = len(entities) % 2
    for k, (i, j) in enumerate(pairs):
        last = k == len(pairs) - 1 and not left_over
        verb = "is" if entities[i].count == 1 else "are"
        relation = relation_between(entities[i].box_xyxy, entities[j].box_xyxy, size_wh) or "next to"
        words += _phrase(entities, i) + _plain(f"{verb} {relation}") + _phrase(entities, j, tail="." if last else ",")
        if not last:
            words.append(NarratedWord("and"))
    if left_over:
        i = len(entities) - 1
        words += _plain(_there(entities[i])) + _phrase(entities, i, tail=".")
    return words


def relation_between(
    a: tuple[int, int, int, int], b: tuple[int, int, int, int], size_wh: tuple[int, int]
) -> str | None:
    """How box `a` lies to box `b`: "to the left of", "to the right of", "above", "below"; None when unclear.

    The offset of the centres along the direction must be clearly larger than across it, and the boxes may share no more
    than a strip along it.

    >>> relation_between((0, 0, 50, 50), (80, 10, 130, 60), (300, 200))
    'to the left of'
    """
    long = max(size_wh)
    dx = (b[0] + b[2] - a[0] - a[2]) / 2
    dy = (b[1] + b[3] - a[1] - a[3]) / 2
    apart_x = max(b[0] - a[2], a[0] - b[2])
    apart_y = max(b[1] - a[3], a[1] - b[3])
    if abs(dx) > CLEARER_BY * abs(dy) and apart_x > -OVERLAP * long:
        return "to the left of" if dx > 0 else "to the right of"
    if abs(dy) > CLEARER_BY * abs(dx) and apart_y > -OVERLAP * long:
        return "above" if dy > 0 else "below"
    return None
