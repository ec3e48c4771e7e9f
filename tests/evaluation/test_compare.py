from __future__ import annotations

import json
import random
from math import comb

import pytest

from lamer.cli import _main
from lamer.errors import DataError, UsageError
from lamer.evaluation.compare import compare_runs
from lamer.records import Prediction
from lamer.run import Run, StageResult


def prediction(method, benchmark, number, correct, target="A"):
    return Prediction(
        method,
        benchmark,
        f"{benchmark}-task",
        f"s{number}",
        target,
        "A" if correct else "B",
        True,
        correct,
        "text",
    )


def make_run(path, methods):
    """A run whose predictions are {method: {benchmark: [correct, ...]}}."""
    with Run.open(path) as run:
        rows = [
            prediction(method, benchmark, number, correct)
            for method, benchmarks in methods.items()
            for benchmark, values in benchmarks.items()
            for number, correct in enumerate(values)
        ]
        run.begin("evaluate", {})
        run.table("predictions", Prediction).write(0, rows)
        run.complete("evaluate", StageResult({}, []), 0.0)
    return path


def test_two_methods_of_one_run_by_hand(tmp_path):
    before = {"x": [True] * 4 + [False] * 6}
    after = {"x": [True] * 3 + [False] + [True] * 5 + [False]}
    table = compare_runs([make_run(tmp_path / "run", {"lamer": after, "base": before})])
    base, lamer = table.rows  # the base model is the reference whatever the order on disk
    assert (base.name, base.overall, lamer.name) == ("base", None, "lamer")
    assert (table.num_samples, table.left_out) == (10, 0)
    assert lamer.overall is not None
    assert (lamer.overall.remedied, lamer.overall.broken) == (5, 1)
    assert lamer.overall.difference == pytest.approx(0.4)
    assert lamer.overall.p_value == pytest.approx(2 * sum(comb(6, k) for k in (0, 1)) / 2**6)
    assert "| lamer | 0.800 | 0.800 | 1.000 | - | +40.0 (" in table.to_markdown()


def test_methods_of_several_runs_are_compared_on_what_all_answered(tmp_path):
    rng = random.Random(0)
    values = {name: [rng.random() < 0.5 for _ in range(30)] for name in "abc"}
    runs = [
        make_run(tmp_path / "one", {"base": {"x": values["a"], "y": values["b"]}}),
        make_run(tmp_path / "two", {"lamer": {"x": values["c"][:20], "y": values["a"]}}),
    ]
    table = compare_runs(runs)
    assert [row.name for row in table.rows] == ["one/base", "two/lamer"]
    assert (table.num_samples, table.left_out) == (50, 10)
    row = table.rows[1]
    assert row.benchmarks["x"].num_samples == 20
    assert row.benchmarks["x"].accuracy_before == pytest.approx(sum(values["a"][:20]) / 20)
    low, high = sorted(comparison.p_value for comparison in row.benchmarks.values())
    assert sorted(row.adjusted.values()) == pytest.approx([min(1, 2 * low), max(min(1, 2 * low), high)])
    shown = table.to_markdown()
    assert "10 samples left out" in shown
    assert "| x | 20 | " in shown


def test_runs_of_the_same_name_are_told_apart_by_their_paths(tmp_path):
    runs = [make_run(tmp_path / folder / "run", {"base": {"x": [True, False]}}) for folder in ("a", "b")]
    assert [row.name for row in compare_runs(runs).rows] == [f"{run}/base" for run in runs]


def test_any_method_may_be_the_reference(tmp_path, capsys):
    values = {"base": [False] * 4, "naive": [True, False, False, False], "lamer": [True, True, True, False]}
    run = make_run(tmp_path / "run", {name: {"x": right} for name, right in values.items()})
    table = compare_runs([run], reference="naive")
    assert [row.name for row in table.rows] == ["naive", "base", "lamer"]
    assert [row.overall and (row.overall.remedied, row.overall.broken) for row in table.rows] == [
        None,
        (0, 1),
        (2, 0),
    ]
    assert _main(["compare", str(run), "--reference", "naiv"]) == 2
    told = "--reference naiv: no such method (did you mean 'naive'?); there are base, naive, lamer"
    assert told in capsys.readouterr().err


def test_what_cannot_be_compared_is_refused_in_one_line(tmp_path):
    one = make_run(tmp_path / "one", {"base": {"x": [True]}})
    with pytest.raises(UsageError, match="holds one method, base; give a second run"):
        compare_runs([one])
    with pytest.raises(UsageError, match="named twice"):
        compare_runs([one, tmp_path / "one"])
    empty = make_run(tmp_path / "empty", {})
    with pytest.raises(DataError, match="has no predictions"):
        compare_runs([one, empty])
    other = make_run(tmp_path / "other", {"base": {"z": [True]}})
    with pytest.raises(DataError, match="no sample was answered by all"):
        compare_runs([one, other])


def test_samples_of_one_name_with_other_answers_are_not_compared(tmp_path):
    one = make_run(tmp_path / "one", {"base": {"x": [True]}})
    with Run.open(tmp_path / "two") as run:
        run.begin("evaluate", {})
        run.table("predictions", Prediction).write(0, [prediction("base", "x", 0, True, target="C")])
    with pytest.raises(DataError, match="another right answer"):
        compare_runs([one, tmp_path / "two"])


def test_the_command_prints_a_table_or_json(tmp_path, capsys):
    run = make_run(tmp_path / "run", {"base": {"x": [True, False]}, "lamer": {"x": [True, True]}})
    assert _main(["compare", str(run)]) == 0
    assert "| method | average |" in capsys.readouterr().out
    assert _main(["compare", str(run), "--json"]) == 0
    methods = json.loads(capsys.readouterr().out)["methods"]
    assert [row["method"] for row in methods] == ["base", "lamer"]
    assert methods[1]["against reference"]["remedied"] == 1
    assert _main(["compare", str(tmp_path / "none")]) == 1
