"""What is true of the things in scenes, beyond what is seen: what they are, what they can do, what they are for."""

from __future__ import annotations

from dataclasses import dataclass

_ANIMALS = """dog cat horse cow pig sheep elephant koala camel monkey rabbit bear panda lion tiger fox giraffe zebra
hedgehog snake turtle dinosaur whale shark octopus crab fish snail bee ladybug spider butterfly penguin owl duck parrot
frog flamingo chick rooster""".split()
_FRUIT = "apple banana watermelon lemon pineapple pear cherry strawberry avocado".split()
_FOOD = [
    *_FRUIT,
    *"carrot eggplant mushroom pizza burger taco pretzel cheese cake donut cookie lollipop croissant".split(),
]
_VEHICLES = "bus truck train tractor bicycle helicopter plane rocket boat ambulance skateboard car scooter".split()
_CLOTHES = "shirt dress boot cap scarf glove crown ring".split()


@dataclass(frozen=True)
class Property:
    """A question that needs to know things, and the names it holds for.

    question: as people ask it; found, nothing: how an answer begins with something to list, and what it is otherwise.
    """

    key: str
    question: str
    found: str
    nothing: str
    names: frozenset[str]


def _property(key: str, question: str, found: str, nothing: str, names: list[str]) -> Property:
    return Property(key, question, found, nothing, frozenset(names))


PROPERTIES = (
    _property("animal", "where are the animals?", "the animals are", "there is no animal here.", _ANIMALS),
    _property("eat", "what here can be eaten?", "you can eat", "nothing here can be eaten.", _FOOD),
    _property("fruit", "which things are fruit?", "the fruit here is", "there is no fruit here.", _FRUIT),
    _property(
        "fly",
        "show me all the things that fly.",
        "what can fly is",
        "nothing here can fly.",
        "bee ladybug butterfly owl duck parrot flamingo helicopter plane rocket balloon kite".split(),
    ),
    _property(
        "swim",
        "what lives in the water?",
        "in the water live",
        "nothing here lives in the water.",
        "turtle whale shark octopus crab fish penguin duck frog".split(),
    ),
    _property("ride", "what can people ride in or on?", "people can ride", "there is nothing to ride here.", _VEHICLES),
    _property("wear", "what can somebody wear?", "you can wear", "there is nothing to wear here.", _CLOTHES),
    _property(
        "music",
        "what makes music?",
        "music comes from",
        "nothing here makes music.",
        "radio piano guitar drum bell".split(),
    ),
    _property(
        "plants",
        "which things are plants?",
        "the plants are",
        "there is no plant here.",
        "cactus tree palm sunflower leaf".split(),
    ),
    _property(
        "play",
        "what would you take along to play outside?",
        "you can play with",
        "there is nothing to play with here.",
        "skateboard kite basketball football balloon scooter".split(),
    ),
    _property(
        "sit",
        "where could somebody sit or lie down?",
        "you can rest on",
        "there is nowhere to sit here.",
        "bed sofa chair".split(),
    ),
    _property(
        "sky",
        "what belongs in the sky?",
        "in the sky belong",
        "nothing here belongs in the sky.",
        "moon sun star snowflake plane helicopter rocket balloon kite".split(),
    ),
)

__all__ = ["PROPERTIES", "Property"]
