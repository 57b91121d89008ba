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
_TOOLS = "basket key lock hammer saw bucket umbrella backpack teapot candle anchor wheel envelope mailbox book".split()
_OTHERS = "door camera laptop gift trophy castle house heart tent phone".split()
_CLOTHES = "shirt dress boot cap scarf glove crown ring".split()

_SOUNDS = "radio piano guitar drum bell".split()
_PLANTS = "cactus tree palm sunflower leaf".split()
_TOYS = "skateboard kite basketball football balloon scooter".split()
_SEATS = "bed sofa chair".split()
_SKY = "moon sun star snowflake plane helicopter rocket balloon kite".split()

# The names that the properties below were thought through for; of others nothing is known.
DESCRIBED_NAMES = frozenset(
    [*_ANIMALS, *_FOOD, *_VEHICLES, *_CLOTHES, *_TOOLS, *_OTHERS, *_SOUNDS, *_PLANTS, *_TOYS, *_SEATS, *_SKY]
)


@dataclass(frozen=True)
class Property:
    """A question that needs to know things, and the names it holds for.

    question: as people ask it; found, nothing: how an answer begins with something to list, and what it is otherwise.
    unclear: names that people would not agree on; with one of them in sight the question is not asked.
    """

    key: str
    question: str
    found: str
    nothing: str
    names: frozenset[str]
    unclear: frozenset[str]


def _property(key: str, question: str, found: str, nothing: str, names: list[str], unclear: str = "") -> Property:
    return Property(key, question, found, nothing, frozenset(names), frozenset(unclear.split()))


PROPERTIES = (
    _property("animal", "where are the animals?", "the animals are", "there is no animal here.", _ANIMALS),
    _property(
        "eat",
        "what here can be eaten?",
        "you can eat",
        "nothing here can be eaten.",
        _FOOD,
        unclear="cow pig sheep rabbit octopus crab fish snail duck chick rooster sunflower",
    ),
    _property(
        "fruit",
        "which things are fruit?",
        "the fruit here is",
        "there is no fruit here.",
        _FRUIT,
        unclear="eggplant",
    ),
    _property(
        "fly",
        "show me all the things that fly.",
        "what can fly is",
        "nothing here can fly.",
        "bee ladybug butterfly owl duck parrot flamingo helicopter plane rocket balloon kite".split(),
        unclear="chick rooster snowflake leaf basketball football",
    ),
    _property(
        "swim",
        "what lives in the water?",
        "in the water live",
        "nothing here lives in the water.",
        "turtle whale shark octopus crab fish penguin duck frog".split(),
        unclear="snake dinosaur flamingo snail",
    ),
    _property(
        "ride",
        "what can people ride in or on?",
        "people can ride",
        "there is nothing to ride here.",
        _VEHICLES,
        unclear="horse camel elephant dinosaur balloon",
    ),
    _property(
        "wear",
        "what can somebody wear?",
        "you can wear",
        "there is nothing to wear here.",
        _CLOTHES,
        unclear="backpack",
    ),
    _property(
        "music",
        "what makes music?",
        "music comes from",
        "nothing here makes music.",
        _SOUNDS,
        unclear="phone laptop parrot owl rooster",
    ),
    _property(
        "plants",
        "which things are plants?",
        "the plants are",
        "there is no plant here.",
        _PLANTS,
        unclear="mushroom carrot pineapple watermelon",
    ),
    _property(
        "play",
        "what would you take along to play outside?",
        "you can play with",
        "there is nothing to play with here.",
        _TOYS,
        unclear="bicycle bucket guitar",
    ),
    _property(
        "sit",
        "where could somebody sit or lie down?",
        "you can rest on",
        "there is nowhere to sit here.",
        _SEATS,
        unclear="tent car",
    ),
    _property(
        "sky",
        "what belongs in the sky?",
        "in the sky belong",
        "nothing here belongs in the sky.",
        _SKY,
        unclear="bee ladybug butterfly owl duck parrot flamingo",
    ),
)

__all__ = ["DESCRIBED_NAMES", "PROPERTIES", "Property"]
