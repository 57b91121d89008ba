"""One finished scene: image, objects, narratives with traces, referring expressions, questions."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from PIL import Image

from .backgrounds import paint_background
from .composition import Entity, SceneObject, compose
from .expressions import Referral, refer
from .library import ObjectLibrary
from .narration import NarratedWord, listing, narrate, written
from .questions import USUAL_PLAN, Question, QuestionPlan, ask
from .traces import Trace, trace_words

_STREAMS = ("layout", "background", "words", "trace", "expressions", "questions")


@dataclass(frozen=True, eq=False)
class Narrative:
    """A caption, which thing every word speaks of, and how the mouse moved meanwhile."""

    words: tuple[NarratedWord, ...]
    trace: Trace

    @property
    def caption(self) -> str:
        return written(list(self.words))


@dataclass(frozen=True, eq=False)
class Scene:
    """`entities` are what captions name, from left to right: single objects or groups of equal ones."""

    seed: int
    index: int
    image: Image.Image
    objects: tuple[SceneObject, ...]
    entities: tuple[Entity, ...]
    narratives: tuple[Narrative, ...]
    short_caption: str
    referrals: tuple[Referral, ...]
    questions: tuple[Question, ...]


def compose_scene(
    seed: int,
    index: int,
    library: ObjectLibrary,
    photographs: list[Image.Image] | None = None,
    plan: QuestionPlan = USUAL_PLAN,
) -> Scene:
    """Scene `index` of the series `seed`; it depends on nothing else (for one library and one set of photographs).

    plan: changes the questions alone.

    >>> compose_scene(7, 3, ObjectLibrary.builtin()).image.tobytes() == compose_scene(
    ...     7, 3, ObjectLibrary.builtin()).image.tobytes()
    True
    """
    # a stream for each concern: a change in how captions are worded leaves the images as they are
    streams = {name: np.random.default_rng((seed, index, k)) for k, name in enumerate(_STREAMS)}
    composed = compose(
        streams["layout"], library, lambda size_wh: paint_background(streams["background"], size_wh, photographs)
    )
    size_wh = composed.image.size
    narratives = tuple(
        Narrative(tuple(words), trace_words(streams["trace"], words, composed.entities, size_wh))
        for words in narrate(streams["words"], composed.entities, size_wh)
    )
    referrals = refer(streams["expressions"], composed.objects, size_wh)
    return Scene(
        seed=seed,
        index=index,
        image=composed.image,
        objects=composed.objects,
        entities=composed.entities,
        narratives=narratives,
        short_caption=written(listing(composed.entities)),
        referrals=tuple(referrals),
        questions=tuple(ask(streams["questions"], composed.objects, referrals, size_wh, plan)),
    )
