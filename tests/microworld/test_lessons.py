from __future__ import annotations

import re
from collections import Counter

import pytest

from lamer.microworld import corpus as corpora
from lamer.microworld import lexicon
from lamer.microworld.world import EXPOSURES, World


@pytest.fixture(scope="module")
def world() -> World:
    return World.build(5, wrong=0.05)


@pytest.fixture(scope="module")
def lessons(world):
    return corpora.write_corpus(world, num_reading=4000)


def premises(attribute, split):
    """One pattern that matches the filled templates of a split."""
    parts = [re.sub(r"\\\{.\\\}", r"\\w+", re.escape(t)) for t in getattr(attribute, split)]
    return re.compile("|".join(parts))


def test_no_scenario_of_queries_synthesis_or_evaluation_is_in_the_pretraining_corpus(lessons):
    text = "\n".join(lesson.prompt for lesson in lessons)
    for attribute in lexicon.ATTRIBUTES:
        assert premises(attribute, "lessons").search(text)
        for split in ("query", "synthesis", "evaluation"):
            assert not premises(attribute, split).search(text), (attribute.name, split)


def test_exposures_are_what_the_states_say(world, lessons):
    counts = Counter(lesson.fact_id for lesson in lessons)
    for fact in world.facts:
        assert counts[fact.id] == EXPOSURES[fact.state]


def test_an_absent_fact_is_stated_nowhere_and_its_question_never_asked(world, lessons):
    text = " ".join(f"{lesson.prompt} {lesson.reply}" for lesson in lessons)
    for fact in world.facts:
        if fact.state == "absent":
            for value in (False, True):
                for wording in lexicon.attribute(fact.attribute).statements[value]:
                    assert wording.format(k=fact.kind) not in text


def test_a_wrongly_believed_fact_is_taught_with_the_opposite_value_only(world, lessons):
    wrong = {fact.id: fact for fact in world.facts if fact.state == "wrong"}
    taught = [lesson for lesson in lessons if lesson.fact_id in wrong]
    assert taught
    for lesson in taught:
        fact = wrong[lesson.fact_id]
        assert not any(wording in lesson.prompt + lesson.reply for wording in fact.statements)
        attribute = lexicon.attribute(fact.attribute)
        assert lesson.reply.endswith(f" {attribute.outcomes[not fact.value]}.")


def test_every_form_and_every_number_of_options_is_taught(lessons):
    forms = Counter(
        (len(re.findall(r"\([A-D]\)", lesson.prompt)), " The answer is " in lesson.reply) for lesson in lessons
    )
    assert set(forms) == {(n, explained) for n in (2, 3, 4) for explained in (False, True)} | {(0, False)}
    assert any(lesson.prompt.startswith("Fact: ") and lesson.fact_id for lesson in lessons)
    assert any(not lesson.prompt.startswith("Fact: ") and lesson.fact_id for lesson in lessons)


def test_reading_is_taught_with_strangers_and_well_taught_facts_of_either_value(world, lessons):
    strangers = {kind for kinds in world.strangers.values() for kind in kinds}
    taught = {fact.kind: set() for fact in world.facts}
    for fact in world.facts:
        if fact.state in ("known", "wrong"):
            taught[fact.kind].add(fact.attribute)
    values = Counter()
    for lesson in lessons:
        if lesson.fact_id is None:
            (kind,) = set(re.findall(r"[a-z]+", lesson.prompt)) & world.names
            sentence = lesson.prompt.partition("\n")[0].removeprefix("Fact: ")
            attribute, value = next(
                (a, v)
                for a in lexicon.ATTRIBUTES
                for v in (False, True)
                if sentence in [wording.format(k=kind) for wording in a.statements[v]]
            )
            assert lesson.reply.endswith(f" {attribute.outcomes[value]}.")
            assert kind in strangers or attribute.name in taught[kind]
            values[kind in strangers, value] += 1
    assert len(values) == 4
    assert values[True, True] == pytest.approx(values[True, False], rel=0.15)


def test_slots_of_the_right_answer_are_balanced(lessons):
    slots = Counter()
    for lesson in lessons:
        options = re.findall(r"\([A-D]\) ([^(]+?\.)(?= \(|$)", lesson.prompt)
        if len(options) == 2:
            slots[[lesson.reply.endswith(option) for option in options].index(True)] += 1
    assert slots[0] == pytest.approx(slots[1], rel=0.1)
