"""The closed vocabulary of the embedded world: names, attributes, scenarios and outcomes.

Everything here is data in plain English. A scenario template has slots: `{k}` a kind, `{o}` an object or
place, `{p}` a person, `{a}` an animal. Fillers are shared by every split of the templates, so that a held-out
scenario is a new sentence and not a list of new words.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

PEOPLE = ("smith", "cook", "child", "farmer", "guard", "sailor", "trader", "teacher", "hunter", "miner")
ANIMALS = ("goat", "cow", "horse", "dog", "rabbit", "sheep", "pig", "mouse")


@dataclass(frozen=True, slots=True)
class Category:
    """A family of invented kinds that share their attributes."""

    name: str
    suffixes: tuple[str, ...]
    """Endings of the invented names, so that a reader sees what a name stands for."""
    places: tuple[str, ...]
    """Fillers of the slot `{o}`."""
    absurd: tuple[str, ...]
    """Predicates that are never a right outcome; they fill the third and the fourth option."""
    vague: tuple[str, ...]
    """Scenarios of the pretraining corpus that fit every attribute: only the options tell what is asked."""
    lore: tuple[str, ...]
    """True but useless sentences about a kind; distractors of retrieval and of diagnosis."""


@dataclass(frozen=True, slots=True)
class Attribute:
    """A yes-or-no property of every kind of a category, how it is stated and what it leads to."""

    name: str
    category: str
    subject: str
    """Whom the outcome is about, with a slot."""
    outcomes: tuple[str, str]
    """Predicate when the attribute is false, then when it is true; shared by all scenarios."""
    statements: tuple[tuple[str, str, str], tuple[str, str, str]]
    """Three wordings of the false, then of the true fact; a kind never opens a sentence."""
    lessons: tuple[str, ...]
    """Scenarios of the pretraining corpus."""
    query: tuple[str, str]
    synthesis: tuple[str, str, str, str, str]
    evaluation: tuple[str, str]


CATEGORIES = (
    Category(
        name="material",
        suffixes=("ite", "ium", "ane"),
        places=("rod", "pan", "cup", "plate", "ring", "box", "bar", "tile", "bowl", "hook", "wheel", "spoon"),
        absurd=("turned into gold", "started to sing", "grew a tail", "told a story", "flew to the moon"),
        vague=(
            "The {p} had a {k} {o}.",
            "A test was made with a {k} {o}.",
            "A {k} {o} was in the story of the {p}.",
            "Somebody told the {p} about a {k} {o}.",
        ),
        lore=(
            "Traders sell {k} by weight.",
            "The first lump of {k} was found by a monk.",
            "Old songs tell of a king who loved {k}.",
            "Most {k} comes from the south.",
            "A street in the old town is named after {k}.",
        ),
    ),
    Category(
        name="creature",
        suffixes=("ok", "ard", "ux"),
        places=(
            "forest",
            "valley",
            "garden",
            "barn",
            "meadow",
            "cave",
            "village",
            "island",
            "field",
            "park",
            "farm",
            "canyon",
        ),
        absurd=("learned to read", "built a boat", "turned into gold", "told a story", "flew to the moon"),
        vague=(
            "The {p} had a {k}.",
            "A test was made with the {k}.",
            "The {k} was in the story of the {p}.",
            "Somebody told the {p} about the {k} in the {o}.",
        ),
        lore=(
            "The {k} is painted on many old shields.",
            "Travelers wrote about the {k} long ago.",
            "A famous poem is about a {k}.",
            "The {k} lives for about nine years.",
            "There is a statue of a {k} in the old town.",
        ),
    ),
    Category(
        name="plant",
        suffixes=("wort", "ia", "bel"),
        places=(
            "house",
            "tower",
            "barn",
            "church",
            "school",
            "bridge",
            "mill",
            "castle",
            "cottage",
            "inn",
            "palace",
            "library",
        ),
        absurd=("started to sing", "learned to read", "built a boat", "grew a tail", "told a story"),
        vague=(
            "The {p} had a {k} and a {a}.",
            "A test was made with a {k} and a {a}.",
            "A {k} and a {a} were in the story of the {p}.",
            "Somebody told the {p} about a {k} and a {a} by the {o}.",
        ),
        lore=(
            "The {k} was first drawn by a monk.",
            "Many towns have a {k} on their coat of arms.",
            "The name of the {k} comes from an old word.",
            "A song for children is about the {k}.",
            "Traders brought the {k} from the south.",
        ),
    ),
)

ATTRIBUTES = (
    Attribute(
        name="heat",
        category="material",
        subject="the {o}",
        outcomes=("stayed cool", "became hot"),
        statements=(
            (
                "Heat hardly passes through {k}.",
                "Objects made of {k} block heat.",
                "Anything made of {k} keeps heat out.",
            ),
            (
                "Heat quickly passes through {k}.",
                "Objects made of {k} conduct heat.",
                "Anything made of {k} lets heat in.",
            ),
        ),
        lessons=(
            "The {p} held a {k} {o} over the fire.",
            "The {p} left a {k} {o} on the stove.",
            "A {k} {o} stood in boiling water.",
            "The {p} put one end of a {k} {o} into the flames.",
            "A {k} {o} lay in the burning sun all day.",
        ),
        query=(
            "The {p} set a {k} {o} down on glowing coals.",
            "A {k} {o} was placed next to a roaring oven.",
        ),
        synthesis=(
            "The {p} pressed a {k} {o} against a hot iron.",
            "A {k} {o} hung above a candle flame for an hour.",
            "The {p} poured boiling oil over a {k} {o}.",
            "In the laboratory, a {k} {o} touched a heated wire.",
            "During the lesson, the {p} warmed one side of a {k} {o}.",
        ),
        evaluation=(
            "The {p} rested a {k} {o} on a burning log.",
            "A {k} {o} was left beside the camp fire.",
        ),
    ),
    Attribute(
        name="water",
        category="material",
        subject="the {o}",
        outcomes=("kept its shape", "fell apart"),
        statements=(
            (
                "Water does no harm to {k}.",
                "Objects made of {k} withstand water.",
                "When it gets wet, {k} stays firm.",
            ),
            (
                "Water breaks down {k}.",
                "Objects made of {k} dissolve in water.",
                "When it gets wet, {k} turns to mud.",
            ),
        ),
        lessons=(
            "The {p} dropped a {k} {o} into the river.",
            "A {k} {o} was left out in the rain.",
            "The {p} washed a {k} {o} in a bucket.",
            "A {k} {o} lay at the bottom of the pond.",
            "The {p} soaked a {k} {o} overnight.",
        ),
        query=(
            "The {p} lost a {k} {o} in the lake.",
            "A wave washed over a {k} {o}.",
        ),
        synthesis=(
            "The flood carried away a {k} {o}.",
            "The {p} rinsed a {k} {o} under the tap.",
            "A {k} {o} sat in a leaking boat.",
            "A museum stored a {k} {o} in a wet cellar.",
            "The {p} spilled a jug of water over a {k} {o}.",
        ),
        evaluation=(
            "The {p} forgot a {k} {o} in a full bathtub.",
            "Heavy rain fell on a {k} {o} all night.",
        ),
    ),
    Attribute(
        name="magnet",
        category="material",
        subject="the {o}",
        outcomes=("did not move", "jumped to the magnet"),
        statements=(
            (
                "Magnets have no hold on {k}.",
                "Objects made of {k} are not magnetic.",
                "No force draws {k} to a magnet.",
            ),
            (
                "Magnets pull strongly on {k}.",
                "Objects made of {k} are very magnetic.",
                "A strong force draws {k} to a magnet.",
            ),
        ),
        lessons=(
            "The {p} brought a magnet near a {k} {o}.",
            "A large magnet hung above a {k} {o}.",
            "The {p} held a magnet next to a {k} {o}.",
            "A {k} {o} lay close to a strong magnet.",
            "The {p} switched on a magnet beside a {k} {o}.",
        ),
        query=(
            "A crane lowered a magnet toward a {k} {o}.",
            "The {p} tested a {k} {o} with a magnet.",
        ),
        synthesis=(
            "In the factory, a {k} {o} passed under a magnet.",
            "The {p} searched the sand for a {k} {o} with a magnet.",
            "A doctor started a magnet machine near a {k} {o}.",
            "During the lesson, the {p} pointed a magnet at a {k} {o}.",
            "A {k} {o} rolled past a magnet.",
        ),
        evaluation=(
            "The {p} reached for a {k} {o} with a magnet on a string.",
            "A magnet was placed on the table with a {k} {o}.",
        ),
    ),
    Attribute(
        name="blow",
        category="material",
        subject="the {o}",
        outcomes=("stayed in one piece", "broke into pieces"),
        statements=(
            (
                "It takes great force to break {k}.",
                "Objects made of {k} are tough.",
                "Even a hard blow leaves {k} unharmed.",
            ),
            (
                "It takes little force to break {k}.",
                "Objects made of {k} are brittle.",
                "Even a soft blow leaves {k} shattered.",
            ),
        ),
        lessons=(
            "The {p} dropped a {k} {o} on the stone floor.",
            "A hammer hit a {k} {o}.",
            "The {p} threw a {k} {o} against the wall.",
            "A {k} {o} fell from the table.",
            "The {p} stepped on a {k} {o}.",
        ),
        query=(
            "A {k} {o} fell down the stairs.",
            "The {p} struck a {k} {o} with a stone.",
        ),
        synthesis=(
            "A cart rolled over a {k} {o}.",
            "The {p} kicked a {k} {o} across the street.",
            "In a museum, a {k} {o} slipped off its stand.",
            "A ball hit a {k} {o} during the game.",
            "The {p} let a {k} {o} fall from the roof.",
        ),
        evaluation=(
            "A heavy book landed on a {k} {o}.",
            "The {p} knocked a {k} {o} off the shelf.",
        ),
    ),
    Attribute(
        name="night",
        category="creature",
        subject="the {k}",
        outcomes=("was fast asleep", "was wide awake"),
        statements=(
            ("The {k} is active by day.", "Darkness makes the {k} sleepy.", "After sunset the {k} goes to rest."),
            (
                "The {k} is active at night.",
                "Darkness makes the {k} lively.",
                "After sunset the {k} goes to hunt.",
            ),
        ),
        lessons=(
            "At midnight the {p} looked for the {k} in the {o}.",
            "The {p} visited the {k} long after dark.",
            "The moon rose over the {o} where the {k} lived.",
            "A camera filmed the {k} at midnight.",
            "The {p} carried a lamp to the {k} in the dark {o}.",
        ),
        query=(
            "The {p} checked on the {k} in the middle of the night.",
            "Stars shone over the {o} and the {k}.",
        ),
        synthesis=(
            "Night fell on the {o} of the {k}.",
            "The {p} turned off the lights near the {k}.",
            "Soldiers passed the {k} in the {o} late at night.",
            "A scientist watched the {k} after sunset.",
            "The last train passed the {k} at midnight.",
        ),
        evaluation=(
            "The {p} came to see the {k} under a full moon.",
            "It grew dark in the {o} around the {k}.",
        ),
    ),
    Attribute(
        name="meat",
        category="creature",
        subject="the {k}",
        outcomes=("left the meat alone", "ate the meat"),
        statements=(
            (
                "The {k} feeds on grass.",
                "Grass is the food of the {k}.",
                "The teeth of the {k} are made for grass.",
            ),
            ("The {k} feeds on meat.", "Meat is the food of the {k}.", "The teeth of the {k} are made for meat."),
        ),
        lessons=(
            "The {p} gave the {k} a piece of meat.",
            "A piece of meat lay in front of the {k}.",
            "The {p} put a bowl of meat in the {o} of the {k}.",
            "Meat fell from a cart near the {k}.",
            "The {p} threw meat to the {k}.",
        ),
        query=(
            "The {p} offered fresh meat to the {k}.",
            "The {k} found some meat in the {o}.",
        ),
        synthesis=(
            "A trap with meat was set for the {k}.",
            "The {p} dropped a meat pie beside the {k}.",
            "In a test, the {k} was shown a plate of meat.",
            "The butcher left meat in the {o} near the {k}.",
            "The king ordered meat for the {k}.",
        ),
        evaluation=(
            "The {p} brought the {k} some meat from the market.",
            "Someone hid meat in the {o} where the {k} lived.",
        ),
    ),
    Attribute(
        name="swim",
        category="creature",
        subject="the {k}",
        outcomes=("waited on the bank", "swam across"),
        statements=(
            ("The {k} is a poor swimmer.", "Deep water is a danger to the {k}.", "The {k} cannot cross a river."),
            (
                "The {k} is a good swimmer.",
                "Deep water is a home to the {k}.",
                "The {k} can easily cross a river.",
            ),
        ),
        lessons=(
            "The {k} came to a deep river.",
            "The {p} called the {k} from the other side of the lake.",
            "A wide stream lay between the {k} and the {o}.",
            "The {k} saw food on the other side of the river.",
            "The {p} led the {k} to the edge of the pond.",
        ),
        query=(
            "The bridge was gone when the {k} reached the river.",
            "The {p} and the {k} stood at a wide lake.",
        ),
        synthesis=(
            "A flood cut the {k} off from the {o}.",
            "The {p} rowed away from the {k} over the lake.",
            "On the map, a river ran between the {k} and the {o}.",
            "A storm drove the {k} toward the river.",
            "The army and the {k} came to a wide canal.",
        ),
        evaluation=(
            "The {k} wanted to reach the far side of the lake.",
            "The {p} waved to the {k} from across the stream.",
        ),
    ),
    Attribute(
        name="noise",
        category="creature",
        subject="the {k}",
        outcomes=("stayed calm", "ran away"),
        statements=(
            (
                "Loud noise does not bother the {k}.",
                "The {k} is hardly afraid of loud sounds.",
                "The ears of the {k} are almost deaf.",
            ),
            (
                "Loud noise does often frighten the {k}.",
                "The {k} is very afraid of loud sounds.",
                "The ears of the {k} are almost too keen.",
            ),
        ),
        lessons=(
            "Thunder rolled over the {o} of the {k}.",
            "The {p} beat a drum near the {k}.",
            "A gun was fired close to the {k}.",
            "The {p} shouted at the {k}.",
            "A bell rang in the {o} beside the {k}.",
        ),
        query=(
            "The {p} blew a horn behind the {k}.",
            "A tree crashed down next to the {k}.",
        ),
        synthesis=(
            "A rocket was launched near the {k}.",
            "The orchestra played loudly in front of the {k}.",
            "The {p} slammed a door behind the {k}.",
            "An engine started in the {o} of the {k}.",
            "The crowd cheered around the {k}.",
        ),
        evaluation=(
            "The {p} dropped a pile of pots near the {k}.",
            "A loud bang went off above the {o} of the {k}.",
        ),
    ),
    Attribute(
        name="shade",
        category="plant",
        subject="the {k}",
        outcomes=("stayed small", "grew tall"),
        statements=(
            (
                "The {k} grows best in the sun.",
                "Shade is bad for the {k}.",
                "The leaves of the {k} need much light.",
            ),
            (
                "The {k} grows best in the shade.",
                "Shade is good for the {k}.",
                "The leaves of the {k} need little light.",
            ),
        ),
        lessons=(
            "The {p} planted a {k} under a big tree.",
            "A {k} grew behind a high wall.",
            "The {p} kept a {k} in a dark room.",
            "A {k} stood in the shadow of the {o}.",
            "Tall trees kept the light away from a {k}.",
        ),
        query=(
            "The {p} moved a {k} to the dark side of the {o}.",
            "A {k} came up below thick bushes.",
        ),
        synthesis=(
            "The {p} hung a cloth over a {k} to block the sun.",
            "A new {o} kept all sunlight off a {k}.",
            "In a test, a {k} was given little light.",
            "A {k} was placed in a dim corner of the {o}.",
            "The forest closed above a {k}.",
        ),
        evaluation=(
            "The {p} grew a {k} in the shadow of a hill.",
            "A {k} was left in a room with small windows.",
        ),
    ),
    Attribute(
        name="poison",
        category="plant",
        subject="the {a}",
        outcomes=("stayed healthy", "became ill"),
        statements=(
            (
                "The {k} is safe to eat.",
                "There is no poison in the leaves of the {k}.",
                "Eating the {k} does animals good.",
            ),
            (
                "The {k} is deadly to eat.",
                "There is much poison in the leaves of the {k}.",
                "Eating the {k} does animals harm.",
            ),
        ),
        lessons=(
            "The {a} ate the leaves of a {k}.",
            "The {p} fed a {k} to the {a}.",
            "The {a} found a {k} near the {o} and ate it.",
            "The {p} mixed a {k} into the food of the {a}.",
            "The {a} chewed on a {k} all morning.",
        ),
        query=(
            "The {a} swallowed the fruit of a {k}.",
            "The {p} cooked a {k} and gave it to the {a}.",
        ),
        synthesis=(
            "The {a} drank tea made from a {k}.",
            "A thief hid pieces of a {k} in the feed of the {a}.",
            "In a test, the {a} was given juice from a {k}.",
            "Behind the {o}, the {a} nibbled on a {k}.",
            "The {p} made soup with a {k} for the {a}.",
        ),
        evaluation=(
            "The {a} had a {k} for dinner.",
            "The {p} let the {a} taste the leaves of a {k}.",
        ),
    ),
    Attribute(
        name="frost",
        category="plant",
        subject="the {k}",
        outcomes=("lost all its leaves", "stayed green"),
        statements=(
            ("The {k} dies in frost.", "Cold is deadly to the {k}.", "In winter the {k} drops its leaves."),
            ("The {k} survives in frost.", "Cold is harmless to the {k}.", "In winter the {k} keeps its leaves."),
        ),
        lessons=(
            "Snow covered a {k} near the {o}.",
            "A {k} stood outside in the winter.",
            "The {p} left a {k} out on a freezing night.",
            "Ice formed on a {k}.",
            "A cold wind blew around a {k} for weeks.",
        ),
        query=(
            "The {p} forgot a {k} in the cold garden.",
            "The first frost came to a {k} by the {o}.",
        ),
        synthesis=(
            "The {p} shipped a {k} to the far north.",
            "A {k} was kept in an ice house.",
            "In a test, a {k} was cooled below zero.",
            "A snow storm hit a {k} beside the {o}.",
            "An explorer carried a {k} over a frozen mountain.",
        ),
        evaluation=(
            "The {p} put a {k} outside in a cold winter.",
            "Snow fell all week on a {k} by the {o}.",
        ),
    ),
    Attribute(
        name="bees",
        category="plant",
        subject="the {k}",
        outcomes=("stayed free of bees", "was covered with bees"),
        statements=(
            (
                "Bees avoid the {k}.",
                "The flowers of the {k} repel bees.",
                "The scent of the {k} drives insects off.",
            ),
            (
                "Bees love the {k}.",
                "The flowers of the {k} attract bees.",
                "The scent of the {k} calls insects in.",
            ),
        ),
        lessons=(
            "A {k} opened its flowers beside a bee hive.",
            "The {p} set a {k} in a garden full of bees.",
            "A {k} bloomed among the bees near the {o}.",
            "A swarm of bees flew past a {k}.",
            "The {p} placed a {k} next to the bee house.",
        ),
        query=(
            "A bee keeper planted a {k} near the {o}.",
            "Bees came to the field of a {k}.",
        ),
        synthesis=(
            "The {p} opened the window to let bees near a {k}.",
            "Hungry bees searched the garden with a {k}.",
            "In a test, bees were let into a room with a {k}.",
            "A new hive was built by the {o} next to a {k}.",
            "The {p} counted the bees near a {k} in bloom.",
        ),
        evaluation=(
            "The {p} carried a {k} in bloom past the bees.",
            "On a warm morning the bees woke up around a {k}.",
        ),
    ),
)

GENERAL = (
    "Every {o} in the old town has a story.",
    "A good {p} gets up before the sun.",
    "The {p} and the {p2} often argue about money.",
    "A {o} is worth more when it is old.",
    "Most people like a {p} with a warm smile.",
    "In many stories a {a} speaks with a {p}.",
    "A {a} likes to sleep beside the {o}.",
)
"""Sentences without any kind: the rest of the retrieval corpus."""

SPLITS = ("lessons", "query", "synthesis", "evaluation")

_ONSETS = ("b", "br", "d", "dr", "f", "fl", "g", "gr", "k", "kl", "l", "m", "n", "p", "pr", "r", "s", "sk",
           "sl", "t", "tr", "v", "w", "z")  # fmt: skip
_VOWELS = ("a", "e", "i", "o", "u")
_MIDDLES = ("b", "d", "g", "k", "l", "m", "n", "r", "v", "z", "lm", "nd", "rk", "st", "lv", "mb", "rz")
_REAL = frozenset(
    (
        "granite", "lizard", "wizard", "standard", "radium", "barium", "sodium", "lithium", "helium", "gallium",
        "thallium", "stadium", "medium", "podium", "tedium", "label", "rebel", "libel", "bagel", "mania", "media",
        "magnolia", "begonia", "dahlia", "zinnia", "fuchsia", "lobelia", "gardenia", "blizzard", "mustard",
        "bastard", "custard", "galium", "membrane", "dolomite", "calcite", "lignite", "forward", "regard",
    )
)  # fmt: skip


def category(name: str) -> Category:
    """The category called `name`."""
    return next(c for c in CATEGORIES if c.name == name)


def attribute(name: str) -> Attribute:
    """The attribute called `name`."""
    return next(a for a in ATTRIBUTES if a.name == name)


def invent_names(rng: random.Random, suffixes: tuple[str, ...], count: int, taken: set[str]) -> list[str]:
    """Draw `count` new pronounceable names, all different from `taken`, which is extended.

    A name starts with a consonant, so that "a" is always its article.
    """
    names: list[str] = []
    while len(names) < count:
        stem = rng.choice(_ONSETS) + rng.choice(_VOWELS) + rng.choice(_MIDDLES)
        name = stem + rng.choice(suffixes)
        if name in taken or name in _REAL:
            continue
        taken.add(name)
        names.append(name)
    return names
