from __future__ import annotations

import json
from collections import Counter
from dataclasses import asdict

import pytest

from lamer.microworld import lexicon
from lamer.microworld.world import QUESTION, World, general_sentences


@pytest.fixture(scope="module")
def world() -> World:
    return World.build(5)


def test_the_same_seed_gives_the_same_world_and_another_seed_another(world):
    again, other = World.build(5), World.build(6)
    for of in (lambda w: w.facts, lambda w: w.queries(), lambda w: w.evaluation(), lambda w: w.corpus()):
        assert of(again) == of(world)
        assert of(other) != of(world)


def test_a_world_has_720_facts_and_truth_is_balanced_in_every_attribute_and_state(world):
    assert len(world.facts) == 720
    assert len({fact.id for fact in world.facts}) == 720
    for attribute in lexicon.ATTRIBUTES:
        values = [fact.value for fact in world.facts if fact.attribute == attribute.name]
        assert sum(values) == len(values) / 2
    counts = Counter((fact.state, fact.value) for fact in world.facts)
    assert {state for state, _ in counts} == {"known", "weak", "absent"}
    for state in ("known", "weak", "absent"):
        assert abs(counts[state, True] - counts[state, False]) <= len(lexicon.ATTRIBUTES)


def test_a_stress_world_differs_from_the_plain_one_only_in_states_and_values_drawn(world):
    stressed = World.build(5, wrong=0.15)
    assert Counter(fact.state for fact in stressed.facts)["wrong"] == 12 * 9
    assert stressed.kinds == world.kinds
    for fact in stressed.facts:
        assert (fact.believed != fact.value) == (fact.state == "wrong")


def test_a_share_of_wrong_beliefs_that_leaves_no_room_is_refused():
    with pytest.raises(ValueError, match=r"wrong=0\.9"):
        World.build(5, wrong=0.9)


def test_scenario_templates_of_the_splits_are_disjoint():
    for attribute in lexicon.ATTRIBUTES:
        templates = [t for split in lexicon.SPLITS for t in getattr(attribute, split)]
        assert len(templates) == len(set(templates)) == 14
        assert (len(attribute.query), len(attribute.synthesis), len(attribute.evaluation)) == (2, 5, 2)


def test_outcomes_of_all_attributes_differ_so_that_a_third_option_is_never_right():
    predicates = [p for attribute in lexicon.ATTRIBUTES for p in attribute.outcomes]
    predicates += {p for category in lexicon.CATEGORIES for p in category.absurd}
    assert len(predicates) == len(set(predicates))


def test_queries_have_the_form_of_ecare_and_their_label_names_the_true_outcome(world):
    queries = world.queries()
    assert len(queries) == len({query.id for query in queries}) == 720
    assert Counter(len(query.options or ()) for query in queries).keys() == {0, 2, 3, 4}
    for query in queries:
        assert query.text.endswith(QUESTION)
        fact = world.fact(world.gold_fact(query.id))
        right = lexicon.attribute(fact.attribute).outcomes[fact.value]
        answer = query.answer if query.options is None else query.options[int(query.answer)]
        assert answer.endswith(f" {right}.")
        if query.options is not None:
            assert len(set(query.options)) == len(query.options)
            assert sum(option.endswith(f" {right}.") for option in query.options) == 1
        assert fact.kind in query.text
        assert world.state_of(query.id) == fact.state


def test_the_evaluation_has_two_samples_a_fact_and_balanced_letters(world):
    samples = world.evaluation()
    assert len(samples) == 1440
    assert Counter(sample.answer for sample in samples) == {"0": 720, "1": 720}
    assert set(Counter(world.gold_fact(sample.id) for sample in samples).values()) == {2}
    truth = Counter((s.answer, world.fact(world.gold_fact(s.id)).value) for s in samples)
    assert set(truth.values()) == {360}


def test_an_unknown_query_id_is_refused(world):
    for query_id in ("", "q:nothing-heat-0", "velm", "q:general-001"):
        with pytest.raises(KeyError):
            world.gold_fact(query_id)


def test_the_corpus_holds_every_true_fact_once_among_distractors(world):
    corpus = world.corpus()
    assert len({fact.id for fact in corpus}) == len(corpus)
    assert len({fact.text for fact in corpus}) == len(corpus)
    texts = {fact.id: fact.text for fact in corpus}
    for fact in world.facts:
        assert texts[fact.id] in fact.statements
    assert len(corpus) > len(world.facts) * 1.2
    gold = {fact.id for fact in world.facts}
    assert min(fact.score for fact in corpus if fact.id in gold) >= 0.7
    assert min(fact.score for fact in corpus) < 0.7


def test_a_kind_never_opens_a_sentence_so_that_it_is_one_word_everywhere():
    for attribute in lexicon.ATTRIBUTES:
        sentences = [s for wordings in attribute.statements for s in wordings]
        sentences += [t for split in lexicon.SPLITS for t in getattr(attribute, split)]
        assert not [s for s in sentences if s.startswith("{")]
        assert all(s.count("{k}") == 1 for s in sentences)
    assert all(s[0].isupper() and s.endswith(".") for s in general_sentences())


def test_the_files_of_a_world_read_back(world, tmp_path):
    world.write(tmp_path / "world")
    queries = [json.loads(line) for line in (tmp_path / "world/queries.jsonl").open()]
    assert queries == [json.loads(json.dumps(asdict(query))) for query in world.queries()]
    header, *rows = (tmp_path / "world/facts.tsv").read_text().splitlines()
    assert header == "id\tfact\tscore\tsource"
    assert [row.split("\t")[0] for row in rows] == [fact.id for fact in world.corpus()]
    sample = json.loads((tmp_path / "world/evaluation.jsonl").open().readline())
    assert list(sample) == ["id", "benchmark", "task", "question", "options", "answer"]
    assert sample["answer"] in ("A", "B")
    assert sample["task"] in {attribute.name for attribute in lexicon.ATTRIBUTES}
    truth = [json.loads(line) for line in (tmp_path / "world/truth.jsonl").open()]
    assert [row["state"] for row in truth] == [fact.state for fact in world.facts]
