from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

import tiny_models
from lamer.config import Config, load_config, to_yaml
from lamer.diagnosis.explain import explain
from lamer.diagnosis.stage import diagnose, select
from lamer.errors import DataError
from lamer.records import Deficiency, Diagnosis, Fact, Match, Query
from lamer.run import CONFIG, Run, StageResult

WORDS = ["hot", "warm", "glass", "wool", "copper", "soup", "oven", "spoon"]


@pytest.fixture(scope="module")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    return tiny_models.save(tmp_path_factory.mktemp("model"))


def config_for(model: str, dtype: str = "auto", **diagnosis: object) -> Config:
    settings = {"shard_size": 3, "max_candidate_tokens": 4, "max_batch_tokens": 512} | diagnosis
    return load_config({"model": {"name": model, "device": "cpu", "dtype": dtype}, "diagnose": settings})


def queries() -> list[Query]:
    rows = []
    for number in range(10):
        words = [WORDS[(number + step) % len(WORDS)] for step in range(4)]
        options = None if number in (4, 9) else tuple(words[: 2 + number % 3])
        rows.append(
            Query(
                f"q{number}",
                f"What made the {words[3]} {words[0]}?",
                options,
                None,
                "even" if number % 2 else "odd",
            )
        )
    return rows


def matches(of: list[Query]) -> list[Match]:
    rows = []
    for number, query in enumerate(of):
        if number != 6:  # one query has no fact
            rows += [Match(query.id, f"f{(number + rank) % 7}", rank, 1.0 - rank / 10) for rank in range(2)]
    return rows


def make_run(path: Path, config: Config, *, backwards: bool = False) -> Run:
    path.mkdir(parents=True)
    (path / CONFIG).write_text(to_yaml(config))
    run = Run(path)
    rows = queries()
    found = matches(rows)
    for index, table in ((0, rows[:6]), (1, rows[6:])):
        run.table("queries", Query).write(index, table)
    facts = [Fact(f"f{number}", f"The {WORDS[number]} is a good conductor.", None, "test") for number in range(7)]
    run.table("facts", Fact).write(0, facts[:4])
    run.table("facts", Fact).write(1, facts[4:])
    ordered = found[::-1] if backwards else found
    run.table("matches", Match).write(0, ordered[:5])
    run.table("matches", Match).write(1, ordered[5:])
    return run


def table(run: Run) -> list[Diagnosis]:
    return list(run.table("diagnoses", Diagnosis))


def placebos(run: Run) -> list[Diagnosis]:
    return list(run.table("placebos", Diagnosis))


def test_every_match_has_a_row_in_query_order(model_folder: str, tmp_path: Path):
    run = make_run(tmp_path / "run", config_for(model_folder))
    result = diagnose(run, config_for(model_folder))
    assert [(row.query_id, row.fact_id) for row in table(run)] == [
        (match.query_id, match.fact_id) for match in matches(queries())
    ]
    assert len(run.table("diagnoses", Diagnosis).shards()) == 4
    counts = result.counts
    assert counts["pairs"] == 18
    assert sum(counts["tiers"].values()) + sum(counts["not_diagnosable"].values()) == 18
    assert sum(sum(row.values()) for row in counts["tier_by_transition"].values()) == sum(counts["tiers"].values())
    assert counts["noise_floor_nats"] < 1e-4


def same_but_for_work(result: StageResult, expected: StageResult) -> bool:
    """Equal, apart from what one start computed: another start computes the rest."""
    left, right = ({**one.counts, "work": None, "scoring": None} for one in (result, expected))
    return left == right and result.notes == expected.notes


@pytest.mark.parametrize(
    ("kill_at", "dtype"),
    # between two shards, between two tables, amid the p-values
    [(5, "float32"), (6, "float32"), (10, "float32"), (5, "bfloat16"), (10, "bfloat16")],
)
def test_a_killed_stage_goes_on_and_ends_with_the_same_tables(
    model_folder: str, tmp_path: Path, kill_at: int, dtype: str
):
    config = config_for(model_folder, dtype, threshold="fdr(0.9)")
    whole = make_run(tmp_path / "whole", config)
    expected = diagnose(whole, config)
    killed = make_run(tmp_path / "killed", config)
    program = (
        "import os, sys\nfrom pathlib import Path\nfrom lamer.config import load_config\n"
        "from lamer.run import Run\nfrom lamer.tables import Table\nfrom lamer.diagnosis.stage import diagnose\n"
        "path, writes = Path(sys.argv[1]), []\nwrite = Table.write\n"
        "def write_two(table, index, rows):\n"
        "    writes.append(index)\n"
        "    if len(writes) == int(sys.argv[2]): os.kill(os.getpid(), 9)\n"
        "    write(table, index, rows)\n"
        "Table.write = write_two\ndiagnose(Run(path), load_config(path / 'lamer.yaml'))\n"
    )
    command = [sys.executable, "-c", program, str(killed.path), str(kill_at)]
    assert subprocess.run(command, timeout=120).returncode == -9
    assert len(killed.table("diagnoses", Diagnosis).shards()) == min(4, (kill_at - 1) // 2)
    result = diagnose(killed, config)
    assert table(killed) == table(whole)
    assert placebos(killed) == placebos(whole)
    assert same_but_for_work(result, expected)
    assert same_but_for_work(diagnose(killed, config), expected)


def test_a_model_of_reduced_precision_says_what_rounding_did(model_folder: str, tmp_path: Path):
    config = config_for(model_folder, "bfloat16")
    counts = diagnose(make_run(tmp_path / "run", config), config).counts
    assert counts["scoring"]["dtype"] == counts["precision"]["dtype"] == "bfloat16"
    assert counts["scoring"]["method"] == "tree"
    assert 0 < counts["noise_floor_nats"] == counts["precision"]["noise_floor_nats"]
    assert counts["precision"]["num_measured"] == 9  # the pairs of the first shard, placebos included
    alone = config_for(model_folder, "bfloat16", rescore=False)
    assert "precision" not in diagnose(make_run(tmp_path / "alone", alone), alone).counts


def test_a_lost_shard_is_made_again_and_the_others_are_left_alone(model_folder: str, tmp_path: Path):
    config = config_for(model_folder)
    run = make_run(tmp_path / "run", config)
    diagnose(run, config)
    before = table(run)
    shards = run.table("diagnoses", Diagnosis).shards()
    written = [file.stat().st_mtime_ns for file in shards]
    shards[1].unlink()
    diagnose(run, config)
    assert table(run) == before
    again = [file.stat().st_mtime_ns for file in shards]
    assert [new == old for new, old in zip(again, written)] == [True, False, True, True]


def test_every_pair_is_judged_against_placebos_by_both_rules(model_folder: str, tmp_path: Path):
    config = config_for(model_folder, threshold="fdr(0.5)", placebos=2)
    run = make_run(tmp_path / "run", config)
    counts = diagnose(run, config).counts
    own = {(match.query_id, match.fact_id) for match in matches(queries())}
    drawn = placebos(run)
    assert len(drawn) == 18  # two for each of the nine queries with a fact
    assert not own & {(row.query_id, row.fact_id) for row in drawn}
    nulls = sorted(row.relative_entropy for row in drawn if row.relative_entropy is not None)
    judged = [row for row in table(run) if row.relative_entropy is not None]
    for row in judged:
        assert row.p_value == (1 + sum(null >= row.relative_entropy for null in nulls)) / (1 + len(nulls))
    ordered = sorted(row.p_value for row in judged)
    cut = max((p for k, p in enumerate(ordered, 1) if p <= 0.5 * k / len(ordered)), default=0.0)
    assert all((row.tier != "below") == (row.p_value <= cut) for row in judged)
    by_rule = counts["deficiencies_by_rule"]
    assert by_rule["fdr(0.5)"] == counts["deficiencies"] == sum(row.p_value <= cut for row in judged)
    assert by_rule["RE >= 0.1"] == sum(row.relative_entropy >= 0.1 for row in judged)
    assert by_rule["both"] == sum(row.relative_entropy >= 0.1 and row.p_value <= cut for row in judged)
    numeric = make_run(tmp_path / "numeric", config_for(model_folder))
    diagnose(numeric, config_for(model_folder, placebos=2))
    assert [row.relative_entropy for row in table(numeric)] == [row.relative_entropy for row in table(run)]
    assert [row.p_value for row in table(numeric)] == [row.p_value for row in table(run)]


@pytest.mark.parametrize("threshold", ["fdr(0.5)", "fdr(0.95)"])
def test_deficiencies_are_taken_from_what_the_rule_finds_significant(
    model_folder: str, tmp_path: Path, threshold: str
):
    config = load_config(
        {**config_for(model_folder, threshold=threshold, placebos=2).model_dump(), "select": {"decisive": False}},
        ["select.max_per_query=null", "select.max_per_fact=null", "select.per_tier=null", "select.replay=0"],
    )
    run = make_run(tmp_path / "run", config)
    found = diagnose(run, config).counts["deficiencies"]
    select(run, config)
    significant = {(row.query_id, row.fact_id): row.tier for row in table(run) if row.tier not in (None, "below")}
    taken = {(row.query_id, row.fact_id): row.tier for row in run.table("deficiencies", Deficiency)}
    assert taken == significant
    assert len(taken) == found
    assert threshold == "fdr(0.5)" or found > 0


def test_without_placebos_there_is_no_p_value_and_no_second_rule(model_folder: str, tmp_path: Path):
    config = config_for(model_folder, placebos=0)
    run = make_run(tmp_path / "run", config)
    counts = diagnose(run, config).counts
    assert placebos(run) == []
    assert {row.p_value for row in table(run)} == {None}
    assert counts["deficiencies_by_rule"]["fdr(0.1)"] is None
    assert counts["deficiencies_by_rule"]["RE >= 0.1"] == counts["deficiencies"]


def test_matches_in_another_order_give_the_same_diagnoses(model_folder: str, tmp_path: Path):
    config = config_for(model_folder)
    straight, backwards = make_run(tmp_path / "a", config), make_run(tmp_path / "b", config, backwards=True)
    diagnose(straight, config)
    diagnose(backwards, config)
    assert table(backwards) == table(straight)


def test_no_deficiency_is_a_result_and_is_said(model_folder: str, tmp_path: Path):
    config = config_for(model_folder, threshold=1000.0)
    run = make_run(tmp_path / "run", config)
    result = diagnose(run, config)
    assert result.counts["deficiencies"] == 0
    assert any("no deficiency" in note for note in result.notes)
    chosen = select(run, config)
    assert list(run.table("deficiencies", Deficiency)) == []
    assert any("nothing to repair" in note for note in chosen.notes)


def test_no_matches_is_a_result_and_is_said(model_folder: str, tmp_path: Path):
    config = config_for(model_folder)
    run = make_run(tmp_path / "run", config)
    run.table("matches", Match).clear()
    run.table("matches", Match).write(0, [])
    result = diagnose(run, config)
    assert result.counts["pairs"] == 0
    assert any("no query has a matched fact" in note for note in result.notes)


def test_a_fact_that_is_not_in_the_table_is_named(model_folder: str, tmp_path: Path):
    config = config_for(model_folder)
    run = make_run(tmp_path / "run", config)
    run.table("matches", Match).write(1, [Match("q9", "f99", 0, 1.0)])
    with pytest.raises(DataError, match="query q9 is matched with fact f99"):
        diagnose(run, config)


def test_selection_writes_units_and_reports_shortages(model_folder: str, tmp_path: Path):
    config = config_for(model_folder)
    run = make_run(tmp_path / "run", config)
    diagnose(run, config)
    result = select(run, config)
    units = list(run.table("deficiencies", Deficiency))
    by_pair = {f"{row.query_id}|{row.fact_id}": row for row in table(run)}
    assert units
    assert all(by_pair[unit.id].relative_entropy == unit.relative_entropy for unit in units)
    assert result.counts["units"] == len(units)
    assert result.counts["examples_wanted"] == sum(unit.quota for unit in units)
    assert set(result.counts["shortages"]) >= {"easy", "normal", "hard", "unfair"}
    assert select(run, config) == result
    assert list(run.table("deficiencies", Deficiency)) == units


@pytest.fixture(scope="module")
def diagnosed(model_folder: str, tmp_path_factory: pytest.TempPathFactory) -> Run:
    config = config_for(model_folder)
    run = make_run(tmp_path_factory.mktemp("explained") / "run", config)
    diagnose(run, config)
    return run


@pytest.mark.parametrize("query_id", ["q0", "q4"])
def test_an_explanation_comes_to_the_stored_relative_entropy(query_id: str, diagnosed: Run):
    stored = [row for row in table(diagnosed) if row.query_id == query_id]
    worst = max(stored, key=lambda row: row.relative_entropy or 0.0)
    found = explain(diagnosed, query_id)
    assert found.fact_id == worst.fact_id
    assert found.relative_entropy == pytest.approx(worst.relative_entropy, abs=1e-5)
    assert found.stored_relative_entropy == worst.relative_entropy
    assert found.candidates == worst.candidates
    assert sum(found.terms) == pytest.approx(found.relative_entropy, abs=1e-9)
    assert found.prior[0].prompt.startswith("Question: ")
    assert found.posterior[0].prompt == f"Fact: {found.fact}\n{found.prior[0].prompt}"
    for step in found.prior[0].candidates:
        assert sum(step.token_logprobs) == pytest.approx(step.logprob)
        assert len(step.token_ids) == len(step.tokens) == len(step.token_logprobs)
    assert json.loads(json.dumps(found.to_json()))["relative_entropy"] == found.relative_entropy
    text = found.to_text()
    assert f"RE = KL(P || Q) = {found.relative_entropy:.4f} nats" in text
    assert str(list(found.posterior[0].context_ids)) in text


def test_any_fact_of_the_run_can_be_explained(diagnosed: Run):
    found = explain(diagnosed, "q0", "f5")
    assert found.fact_id == "f5"
    assert found.stored_relative_entropy is None


def test_permuted_options_are_all_shown(model_folder: str, tmp_path: Path):
    config = config_for(model_folder, permutations="cyclic")
    run = make_run(tmp_path / "run", config)
    diagnose(run, config)
    found = explain(run, "q1")
    assert [step.order for step in found.prior] == [(0, 1, 2), (1, 2, 0), (2, 0, 1)]
    assert found.relative_entropy == pytest.approx(found.stored_relative_entropy, abs=1e-5)


@pytest.mark.parametrize(
    ("ids", "message"),
    [
        (("q00",), "no query 'q00' .did you mean 'q0'"),
        (("q0", "f55"), "no fact 'f55' .did you mean 'f5'"),
        (("q6",), "query q6 has no matched fact"),
    ],
)
def test_an_unknown_id_is_named_with_the_nearest(ids: tuple[str, ...], message: str, diagnosed: Run):
    with pytest.raises(DataError, match=message):
        explain(diagnosed, *ids)
