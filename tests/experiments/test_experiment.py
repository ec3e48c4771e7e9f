"""What an experiment compares: settings of methods, units and budgets."""

from __future__ import annotations

import re
from pathlib import Path
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lamer.config import Config, load_config
from lamer.errors import ConfigError, DataError
from lamer.experiments.data import Pool, draw_down, of_units, one_a_deficiency, spread, with_replay
from lamer.experiments.experiment import Data, Method, check_methods, in_turn, load_experiment, paper_methods
from lamer.experiments.running import _check_labels
from lamer.records import Deficiency, Diagnosis, Example, Fact, Match, Query
from lamer.run import Run


def unit(name, quota=1, tier="hard", relative_entropy=0.8):
    query, _, fact = name.partition("|")
    return Deficiency(name, query, fact or "f", relative_entropy, tier, quota)


units = st.lists(
    st.tuples(st.integers(0, 500), st.integers(1, 4), st.sampled_from(["below", "easy", "unfair"])),
    max_size=40,
    unique_by=lambda row: row[0],
).map(lambda rows: [unit(f"q{number}|f", quota, tier) for number, quota, tier in rows])


@given(units, st.integers(0, 200), st.integers(0, 3))
def test_a_budget_is_met_exactly_or_everything_is_taken(given_units, budget, seed):
    drawn = draw_down(given_units, budget, seed)
    asked = sum(row.quota for row in given_units)
    assert sum(row.quota for row in drawn) == min(budget, asked)
    quotas = {row.id: row.quota for row in given_units}
    assert all(0 < row.quota <= quotas[row.id] for row in drawn)
    assert sum(row.quota < quotas[row.id] for row in drawn) <= 1, "only the last one is cut"
    assert draw_down(given_units[::-1], budget, seed) == drawn, "the order given does not matter"


@given(units, st.integers(0, 3))
def test_a_uniform_quota_keeps_units_and_total(given_units, seed):
    even = spread(given_units, seed)
    assert sum(row.quota for row in even) == sum(row.quota for row in given_units)
    assert len({row.id for row in even}) == len(even) <= len(given_units)
    if even:
        assert max(row.quota for row in even) - min(row.quota for row in even) <= 1


def test_replay_keeps_its_share_of_the_budget():
    given_units = [unit(f"d{i}|f", 2) for i in range(50)] + [unit(f"b{i}|f", 1, "below", 0.0) for i in range(50)]
    drawn = with_replay(given_units, 40, 0.25, seed=1)
    assert sum(row.quota for row in drawn if row.tier == "below") == 10
    assert sum(row.quota for row in drawn if row.tier != "below") == 30


def example(name, deficiency):
    return Example(name, deficiency, 0.5, "Q", ("a", "b"), 0, "e", "kept", None, "", "t")


def test_single_takes_one_example_of_each_deficiency():
    rows = [example(f"{d}#{n}", d) for d in ("x|f", "y|f") for n in range(3)]
    drawn = one_a_deficiency(rows, seed=0)
    assert [row.deficiency_id for row in drawn] == ["x|f", "y|f"]
    assert one_a_deficiency(rows[::-1], seed=0) == drawn
    assert {one_a_deficiency(rows, seed)[0].id for seed in range(20)} == {"x|f#0", "x|f#1", "x|f#2"}
    assert of_units(rows, {"y|f"}.__contains__) == rows[3:]


# A small diagnosed run, whose numbers can be followed by hand.

ROWS = {
    # query: (prior, {fact: posterior}); the right option is the first.
    "sure": ((0.9, 0.1), {"f1": (0.9, 0.1), "f2": (0.5, 0.5)}),
    "unsure": ((0.5, 0.5), {"f3": (0.95, 0.05), "f1": (0.5, 0.5)}),
    "wrong": ((0.2, 0.8), {"f4": (0.97, 0.03)}),
    "misled": ((0.7, 0.3), {"f5": (0.1, 0.9)}),
}


def diagnosis(query, fact, prior, posterior):
    from math import log

    from lamer.diagnosis.divergence import relative_entropy
    from lamer.diagnosis.tiers import tier_of

    before, after = [tuple(log(p) for p in row) for row in (prior, posterior)]
    found = relative_entropy(before, after)
    return Diagnosis(
        query, fact, ("yes", "no"), "options", before, after, before, after, (1, 1), found, tier_of(found, 0.1),
        "weakened", None,
    )  # fmt: skip


@pytest.fixture
def pool(tmp_path):
    with Run.open(tmp_path / "run") as run:
        rows = {**ROWS}
        run.table("queries", Query).write(0, [Query(name, f"{name}?", ("yes", "no"), "0", "s") for name in rows])
        run.table("matches", Match).write(
            0, [Match(name, fact, rank, 1.0) for name, row in rows.items() for rank, fact in enumerate(row[1])]
        )
        run.table("diagnoses", Diagnosis).write(
            0, [diagnosis(q, f, prior, after) for q, (prior, facts) in rows.items() for f, after in facts.items()]
        )
        right = {"sure": "f1", "unsure": "f3", "wrong": "f4", "misled": "f5"}
        run.table("facts", Fact).write(0, [Fact(f"f{i}", f"fact {i}", None, "s") for i in range(1, 6)])
        yield Pool(run, load_config({"select": {"per_tier": None}}), right)


METHODS = paper_methods()


def ids(rows):
    return {row.id for row in rows}


def test_the_papers_selection_takes_every_pair_and_the_default_one_decisive_fact_a_query(pool):
    literal = pool.units(METHODS["lamer"], 100, ())
    assert ids(literal) == {"sure|f2", "unsure|f3", "wrong|f4", "misled|f5"}
    own = pool.units(METHODS["default"], 100, ())
    assert ids(own) == {"unsure|f3", "wrong|f4", "misled|f5"}, "f2 leaves `sure` unsure: not decisive"
    replaying = METHODS["default"].model_copy(update={"replay": 0.3})
    below = [row.id for row in pool.units(replaying, 100, ()) if row.tier == "below"]
    assert "sure|f1" in below, "what is known and decisive is replayed"


def test_errors_are_the_queries_answered_wrongly_or_not_surely_right(pool):
    found = pool.units(METHODS["llm2llm"], 100, ())
    assert {row.query_id for row in found} == {"wrong", "unsure"}, "a shared first place is not right"
    assert all(row.quota == 1 for row in found)


def test_other_probes_get_the_reference_quotas_most_suspicious_first(pool):
    reference = [unit("misled|f5", 4, "unfair", 2.0), unit("wrong|f4", 1, "easy", 0.2)]
    by_entropy = pool.units(METHODS["select-entropy"], 100, reference)
    assert {row.query_id: row.quota for row in by_entropy} == {"unsure": 4, "misled": 1}
    by_perplexity = pool.units(METHODS["select-perplexity"], 100, reference)
    assert {row.query_id: row.quota for row in by_perplexity} == {"wrong": 4, "unsure": 1}
    at_random = pool.units(METHODS["select-random"], 100, reference)
    assert sorted(row.quota for row in at_random) == [1, 4]


def test_influence_and_right_facts(pool):
    assert pool.influences()["misled|f5"] == "misleading"
    assert pool.influences()["wrong|f4"] == "helpful"
    methods = check_methods(
        {"lamer": {"title": "L", "data": "deficiencies"}, "right": {"title": "R", "data": "right facts"}}, "x"
    )
    found = pool.units(methods["right"], 100, [unit("sure|f2", 3), unit("wrong|f4", 2)])
    assert {row.id: row.quota for row in found} == {"sure|f1": 3, "wrong|f4": 2}


def test_the_papers_methods_are_all_there_and_train_as_said():
    assert list(METHODS)[:7] == ["base", "auggpt", "naive", "single", "llm2llm", "lamer", "lamer-shuffled"]
    for config in (load_config(preset="paper"), load_config(preset="default")):
        orders = {name: method.trained_with(config).train.order for name, method in METHODS.items()}
        blind = ("auggpt", "naive", "llm2llm", "lamer-shuffled", "default")
        assert all(orders[name] == "shuffled" for name in blind)
        assert all(orders[name] == "ascending" for name in orders if name not in (*blind, "base"))
    assert METHODS["single-steps"].trained_with(config, 17).train.steps == 17
    assert METHODS["lamer"].selection(config).replay == 0
    assert METHODS["default"].selection(config).decisive
    assert isinstance(METHODS["lamer"].trained_with(config), Config)


def test_methods_are_made_behind_those_they_refer_to():
    turn = in_turn(METHODS)
    assert sorted(turn) == sorted(METHODS)
    for name, method in METHODS.items():
        assert all(turn.index(other) < turn.index(name) for other in method.referred)


@pytest.mark.parametrize(
    ("given_methods", "message"),
    [
        ({}, "no methods"),
        ({"a": {"title": "A", "data": "uniform", "of": "lamr"}}, "a: refers to 'lamr'"),
        ({"a": {"title": "A", "data": "facts"}}, "a.data"),
        ({"a": {"title": "A", "data": "none", "ordr": 1}}, "a.ordr"),
        ({"a": {"title": "A", "data": "none", "train": {"ordr": 1}}}, "train.ordr"),
        ({"a": 3}, "a: expected"),
        (
            {"a": {"title": "A", "data": "uniform", "of": "b"}, "b": {"title": "B", "data": "uniform", "of": "a"}},
            "refer to each other",
        ),
    ],
)
def test_a_wrong_method_is_named(given_methods, message, tmp_path):
    import yaml

    with pytest.raises(ConfigError, match=message):
        check_methods(given_methods, "file.yaml")
    file = tmp_path / "methods.yaml"
    file.write_text(yaml.safe_dump(given_methods))
    with pytest.raises(ConfigError, match=message):
        load_experiment(file)


def test_a_missing_methods_file_is_named_with_what_it_should_hold(tmp_path):
    with pytest.raises(ConfigError, match=r"none\.yaml: no such file; it holds methods by name"):
        load_experiment(tmp_path / "none.yaml")


def test_an_experiment_file_may_say_how_often_and_with_how_many_examples(tmp_path):
    file = tmp_path / "own.yaml"
    methods = "methods:\n  base: {title: Base, data: none}\n  mine: {title: Mine, data: deficiencies}\n"
    file.write_text(f"seeds: 5\nexamples: 600\nbudget_of: mine\n{methods}")
    found = load_experiment(file)
    assert (list(found.methods), found.seeds, found.examples) == (["base", "mine"], 5, 600)
    assert found.budget_of == found.methods["mine"]
    file.write_text("base: {title: Base, data: none}\nmethods: {title: Mine, data: deficiencies}\n")
    found = load_experiment(file)
    assert (list(found.methods), found.seeds, found.examples) == (["base", "methods"], 3, None)


@pytest.mark.parametrize(
    ("head", "told"),
    [
        ("seed: 5", "seed: extra inputs are not permitted (did you mean 'seeds'?)"),
        ("seeds: 0", "seeds: input should be greater than or equal to 1"),
        ("budget_of: mein", "budget_of: 'mein' is no method (did you mean 'mine'?)"),
    ],
)
def test_what_is_wrong_beside_the_methods_is_named(tmp_path, head, told):
    file = tmp_path / "own.yaml"
    file.write_text(f"{head}\nmethods:\n  mine: {{title: Mine, data: deficiencies}}\n")
    with pytest.raises(ConfigError) as caught:
        load_experiment(file)
    assert str(caught.value) == f"{file}: {told}"


def test_methods_that_need_labels_are_refused_before_anything_is_paid_for(pool):
    _check_labels(pool.run, METHODS, pool)
    pool.run.table("queries", Query).clear()
    pool.run.table("queries", Query).write(0, [Query(name, f"{name}?", ("yes", "no"), None, "s") for name in ROWS])
    unlabelled = Pool(pool.run, pool.config)
    with pytest.raises(DataError, match="llm2llm, select-perplexity, helpful, misleading need labelled queries"):
        _check_labels(pool.run, METHODS, unlabelled)
    table2 = {name: METHODS[name] for name in ("base", "auggpt", "naive", "single", "lamer")}
    _check_labels(pool.run, table2, unlabelled)


DOCS = Path(__file__).parents[2] / "docs" / "experiments.md"


def test_the_documented_experiment_file_is_one(tmp_path):
    (block,) = re.findall(r"```yaml\n(.*?)```", DOCS.read_text(), re.DOTALL)
    file = tmp_path / "own.yaml"
    file.write_text(block)
    found = load_experiment(file)
    assert (found.seeds, found.examples, found.budget_of) == (5, 1500, found.methods["mine"])
    assert found.methods["mine"].trained_with(load_config()).train.order == "blocks"


def test_the_documents_name_every_method_and_every_kind_of_data():
    text = DOCS.read_text()
    for name in [*METHODS, *get_args(Data), *Method.model_fields]:
        assert f"`{name}`" in text or name == "title", name
