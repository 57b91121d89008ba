"""Which of COCO's 80 categories a caption names: its head noun, looked up in a table of synonyms.

The head noun of a caption is the last word of its first noun phrase, found without a parser:

 1. words in lower case, without punctuation; "a group of people" is read as "people" (see `PARTITIVES`);
 2. the phrase ends before the first word, articles aside, that no noun phrase goes on with (`ENDS`): a preposition, a
    conjunction; and before a word in -ing after a name: "a man surfing";
 3. of what is left the longest ending that is in the table, in the singular or the plural, is the name: "a hot dog" is
    a hot dog and no dog, "a stuffed teddy bear" a teddy bear, "a table lamp" nothing.

A synonym may stand for several categories (a bag may be a backpack, a handbag or a suitcase): a caption of a box is
right if one of them is the box's category; where one is needed, the first counts.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

from pixelllm_hf.data.scenes.library import pluralise
from pixelllm_hf.evaluation.object_names import words_of

# Category -> synonyms, separated by commas; its own name is one. The order of the categories decides where a synonym
# stands for several.
SYNONYMS: dict[str, str] = {
    "person": "man, woman, boy, girl, child, kid, baby, toddler, infant, lady, guy, gentleman, male, female, adult, "
    "teenager, teen, human, people, men, women, children, guys, player, athlete, rider, skier, snowboarder, surfer, "
    "skateboarder, skater, batter, pitcher, catcher, umpire, cyclist, biker, bicyclist, motorcyclist, climber, hiker, "
    "runner, jogger, swimmer, diver, dancer, performer, musician, singer, guitarist, worker, soldier, policeman, "
    "police officer, officer, fireman, firefighter, chef, cook, waiter, waitress, farmer, fisherman, businessman, "
    "student, teacher, tourist, pedestrian, passenger, driver, spectator, audience, crowd, couple, friend, family, "
    "mother, father, mom, dad, son, daughter, brother, sister, bride, groom, team, fan, boarder, kayaker, wrestler, "
    "golfer, goalie, quarterback, referee, cowboy, acrobat, vendor, youth, individual, someone, somebody",
    "bicycle": "bike, mountain bike, tricycle, cycle",
    "car": "vehicle, suv, van, minivan, taxi, cab, sedan, automobile, race car, police car, convertible, jeep",
    "motorcycle": "motorbike, motor bike, dirt bike, dirtbike, moped, scooter, bike",
    "airplane": "plane, aeroplane, jet, aircraft, airliner",
    "bus": "double decker bus, school bus",
    "train": "locomotive, subway, tram, train car",
    "truck": "pickup, pickup truck, fire truck, firetruck, lorry, semi, van",
    "boat": "ship, canoe, kayak, raft, sailboat, rowboat, motorboat, speedboat, ferry, yacht, gondola",
    "traffic light": "traffic signal, stoplight, stop light, light, signal",
    "fire hydrant": "hydrant",
    "stop sign": "sign",
    "parking meter": "meter",
    "bench": "park bench",
    "bird": "duck, goose, geese, seagull, gull, pigeon, parrot, eagle, owl, chicken, rooster, swan, penguin, crow",
    "cat": "kitten, kitty",
    "dog": "puppy, hound, greyhound, poodle, terrier, retriever, labrador, collie, bulldog, sheepdog, dalmatian",
    "horse": "pony, foal, stallion, mare, donkey, mule",
    "sheep": "lamb, ram, ewe",
    "cow": "bull, calf, cattle, ox, oxen, steer",
    "elephant": "",
    "bear": "polar bear, brown bear, grizzly bear, grizzly, cub",
    "zebra": "",
    "giraffe": "",
    "backpack": "bag, rucksack, pack, knapsack",
    "umbrella": "parasol",
    "handbag": "bag, purse, hand bag, tote, shoulder bag, shopping bag",
    "tie": "necktie, bow tie, bowtie",
    "suitcase": "luggage, bag, baggage, briefcase",
    "frisbee": "disc, disk, flying disc",
    "skis": "ski",
    "snowboard": "board, snow board",
    "sports ball": "ball, soccer ball, football, basketball, baseball, tennis ball, volleyball, beach ball, rugby ball",
    "kite": "parasail",
    "baseball bat": "bat",
    "baseball glove": "glove, mitt, baseball mitt, catcher's mitt",
    "skateboard": "board, skate board, longboard",
    "surfboard": "board, surf board, bodyboard, boogie board, paddle board",
    "tennis racket": "racket, racquet, tennis racquet, badminton racket",
    "bottle": "water bottle, wine bottle, beer bottle",
    "wine glass": "glass, goblet, champagne glass",
    "cup": "mug, glass, coffee cup, coffee mug, teacup",
    "fork": "",
    "knife": "knives",
    "spoon": "ladle",
    "bowl": "dish",
    "banana": "",
    "apple": "",
    "sandwich": "burger, hamburger",
    "orange": "tangerine, mandarin",
    "broccoli": "",
    "carrot": "",
    "hot dog": "hotdog",
    "pizza": "",
    "donut": "doughnut",
    "cake": "cupcake, birthday cake, wedding cake",
    "chair": "armchair, stool, seat, lawn chair, folding chair, rocking chair, wheelchair",
    "couch": "sofa, loveseat, settee",
    "potted plant": "plant, houseplant, pot plant, flower pot",
    "bed": "bunk bed, mattress",
    "dining table": "table, dinner table, kitchen table, picnic table, coffee table",
    "toilet": "toilet bowl, urinal",
    "tv": "television, television set, tv screen, monitor, screen, computer monitor, computer screen, computer",
    "laptop": "laptop computer, computer",
    "mouse": "computer mouse",
    "remote": "remote control, controller, wii remote, game controller",
    "keyboard": "computer keyboard",
    "cell phone": "phone, cellphone, mobile phone, telephone, smartphone, mobile",
    "microwave": "microwave oven",
    "oven": "stove, stove top oven",
    "toaster": "toaster oven",
    "sink": "basin, washbasin",
    "refrigerator": "fridge, freezer",
    "book": "novel",
    "clock": "clock face, alarm clock, wall clock, clock tower",
    "vase": "",
    "scissors": "scissor, shears",
    "teddy bear": "teddy, stuffed animal, stuffed bear, stuffed toy, toy bear",
    "hair drier": "hair dryer, hairdryer, blow dryer, drier, dryer",
    "toothbrush": "tooth brush",
}
# Other data sets' names of the same categories.
OTHER_NAMES = {
    "motorbike": "motorcycle",
    "aeroplane": "airplane",
    "sofa": "couch",
    "pottedplant": "potted plant",
    "diningtable": "dining table",
    "tvmonitor": "tv",
    "tv monitor": "tv",
}
PARTITIVES = frozenset(
    "group pair couple bunch crowd number lot lots piece slice herd flock pile stack row set team line variety "
    "close-up closeup picture photo image view part side".split()
)
_ARTICLES = frozenset("a an the this that these those some his her its their my your our one".split())
ENDS = _ARTICLES | frozenset(
    "of in on at by with without from near next behind under over above below beside besides between into onto through "
    "across along around against for to toward towards up down off out inside outside during and or but while as who "
    "which where that's is are was were be has have dressed made parked filled covered surrounded".split()
)


def categories_named(caption: str) -> tuple[str, ...]:
    """The categories that the head noun of a caption may stand for, in the order of the table; none for most nouns.

    >>> categories_named("A young man in a red shirt."), categories_named("two hot dogs on a bun")
    (('person',), ('hot dog',))
    >>> categories_named("a group of people"), categories_named("a table lamp")
    (('person',), ())
    """
    return _found(head_phrase(caption))


def head_phrase(caption: str) -> list[str]:
    """The words of the first noun phrase of a caption, the head noun last, in lower case.

    >>> head_phrase("The two brown dogs running across a field"), head_phrase("a pair of old skis")
    (['two', 'brown', 'dogs'], ['old', 'skis'])
    """
    words = words_of(caption.lower())
    phrase: list[str] = []
    for word in words:
        if word == "of" and phrase and phrase[-1] in PARTITIVES:
            phrase = []
        elif phrase and (word in ENDS or (word.endswith("ing") and _found(phrase))):
            break
        elif word not in ENDS:
            phrase.append(word)
    return phrase


def canonical(category: str) -> str:
    """COCO's name of a category that another data set writes in its own way.

    >>> canonical("aeroplane"), canonical("dog")
    ('airplane', 'dog')
    """
    return OTHER_NAMES.get(category, category)


def _found(phrase: Sequence[str]) -> tuple[str, ...]:
    """The categories of the longest ending of a phrase that is in the table."""
    forms = _forms()
    endings = (" ".join(phrase[start:]) for start in range(len(phrase)))
    return next((forms[ending] for ending in endings if ending in forms), ())


@cache
def _forms() -> dict[str, tuple[str, ...]]:
    """Every name and synonym, singular and plural -> its categories."""
    forms: dict[str, dict[str, None]] = {}
    for category, synonyms in SYNONYMS.items():
        for name in [category, *filter(None, synonyms.split(", "))]:
            for form in (name, pluralise(name)):
                forms.setdefault(form, {})[category] = None
    # A category's own name is meant before those that it is a synonym of.
    return {
        form: tuple(sorted(categories, key=lambda category: category != form)) for form, categories in forms.items()
    }
