"""The pretraining corpus of the small model: chat turns that teach facts, reading and answering.

Two kinds of lessons. *Recall* lessons ask about a fact of the world without showing it; how many there are of
a fact is its exposure, and some have an irrelevant sentence in front, to be ignored. *Reading* lessons show a
fact, mostly about a stranger, a kind of which nothing is true elsewhere; its value changes from lesson to
lesson, so that only reading answers them. No lesson says or asks anything about an absent fact. Scenarios come
from the `lessons` templates alone: the sentences of queries, of synthesized examples and of the evaluation are
never seen.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

from lamer.config import PromptSettings
from lamer.microworld import lexicon
from lamer.microworld.lexicon import Attribute
from lamer.microworld.world import EXPOSURES, World, general_sentences, lay_out, stage, statements
from lamer.scoring import render

IGNORE_SHARE = 0.4
"""Share of the recall lessons with an irrelevant fact in front."""

FAMILIAR_SHARE = 0.15
"""Share of the reading lessons about a fact that recall lessons teach, with either value in front."""

VAGUE_SHARE = 0.3
"""Share of the lessons with options whose scenario tells nothing, so that unheard scenarios do not confuse."""

OPTION_COUNTS = ((2, 3, 4, 0), (60, 20, 10, 10))
"""How many options a lesson shows, and how often; 0 is an open question."""

FORMS = (("direct", "explained"), (55, 45))
"""How a lesson with options is answered, and how often; an open question is answered directly."""


PROMPT = PromptSettings()


def question_text(text: str, options: tuple[str, ...] | None, fact: str | None = None) -> str:
    """The user message as diagnosis, training and evaluation write it, with the default settings."""
    return render.question_text(PROMPT, text, options, fact)


@dataclass(frozen=True, slots=True)
class Lesson:
    """One user turn and the reply to it."""

    prompt: str
    reply: str
    fact_id: str | None
    """The fact of the world that a recall lesson teaches; None for a reading lesson."""


def write_reply(form: str, option: str, explanation: str) -> str:
    """The reply to a question with options, in one of the forms of `FORMS`."""
    return option if form == "direct" else f"{explanation} The answer is {option}"


def write_lesson(
    attribute: Attribute, kind: str, value: bool, fact: str | None, fact_id: str | None, rng: random.Random
) -> Lesson:
    """One lesson about a kind, from a random scenario, in a random form."""
    num_options = rng.choices(OPTION_COUNTS[0], weights=OPTION_COUNTS[1])[0]
    is_vague = num_options > 0 and rng.random() < VAGUE_SHARE
    templates = lexicon.category(attribute.category).vague if is_vague else attribute.lessons
    scene = stage(attribute, rng.choice(templates), kind, rng)
    if not num_options:
        return Lesson(question_text(scene.question, None, fact), scene.outcomes[value], fact_id)
    slot = rng.randrange(num_options)
    options = lay_out(scene, value, num_options, slot, rng)
    form = rng.choices(FORMS[0], weights=FORMS[1])[0]
    reply = write_reply(form, options[slot], rng.choice(statements(attribute, kind, value)))
    return Lesson(question_text(scene.question, options, fact), reply, fact_id)


class Distractions:
    """Irrelevant facts of several kinds, for a question about one attribute of one kind."""

    def __init__(self, world: World) -> None:
        self.strangers = world.strangers
        self.taught: dict[tuple[str, str], bool] = {
            (fact.kind, fact.attribute): fact.believed for fact in world.facts if fact.state in ("known", "wrong")
        }
        self.general = general_sentences()

    def draw(self, attribute: Attribute, kind: str, rng: random.Random) -> str:
        """The same kind's other attribute, another kind's same attribute, lore, or a general sentence."""
        form = rng.choices(("other attribute", "other kind", "lore", "general"), weights=(40, 30, 20, 10))[0]
        if form == "other attribute":
            others = [a for a in lexicon.ATTRIBUTES if a is not attribute and (kind, a.name) in self.taught]
            if others:
                other = rng.choice(others)
                return rng.choice(statements(other, kind, self.taught[kind, other.name]))
        if form == "other kind":
            stranger = rng.choice(self.strangers[attribute.category])
            return rng.choice(statements(attribute, stranger, rng.random() < 0.5))
        if form == "general":
            return rng.choice(self.general)
        return rng.choice(lexicon.category(attribute.category).lore).format(k=kind)


def recall_lessons(world: World, scale: float = 1.0) -> list[Lesson]:
    """Lessons that teach the facts of the world, as often as their states say.

    Args:
        scale: Factor on the exposures of known and wrongly believed facts, for tiny models.
    """
    rng = world.rng("recall")
    distractions = Distractions(world)
    lessons = []
    for fact in world.facts:
        attribute = lexicon.attribute(fact.attribute)
        exposures = EXPOSURES[fact.state]
        for _ in range(round(exposures * scale) if exposures > EXPOSURES["weak"] else exposures):
            sentence = distractions.draw(attribute, fact.kind, rng) if rng.random() < IGNORE_SHARE else None
            lessons.append(write_lesson(attribute, fact.kind, fact.believed, sentence, fact.id, rng))
    return lessons


def reading_lessons(world: World, count: int) -> list[Lesson]:
    """Lessons whose answer stands in the fact in front.

    Most are about strangers. The others are about well-taught facts, half of them against what is taught:
    without these, a model reads about strangers alone and answers about the kinds of the world from memory,
    or from noise where it has none.
    """
    rng = world.rng("reading")
    familiar = [fact for fact in world.facts if fact.state in ("known", "wrong")]
    lessons = []
    for _ in range(count):
        if rng.random() < FAMILIAR_SHARE:
            fact = rng.choice(familiar)
            attribute, kind = lexicon.attribute(fact.attribute), fact.kind
        else:
            attribute = rng.choice(lexicon.ATTRIBUTES)
            kind = rng.choice(world.strangers[attribute.category])
        value = rng.random() < 0.5
        sentence = rng.choice(statements(attribute, kind, value))
        lessons.append(write_lesson(attribute, kind, value, sentence, None, rng))
    return lessons


def write_corpus(world: World, *, num_reading: int, scale: float = 1.0) -> list[Lesson]:
    """All lessons of a world in the order of training."""
    lessons = recall_lessons(world, scale) + reading_lessons(world, num_reading)
    world.rng("order").shuffle(lessons)
    return lessons
