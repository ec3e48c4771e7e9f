from __future__ import annotations

from math import sqrt

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from lamer.evaluation.paired import compare
from lamer.evaluation.statistics import summarize
from lamer.records import Prediction


def prediction(id_, correct, *, benchmark="b", task="t", method="m"):
    return Prediction(method, benchmark, task, id_, "A", "A" if correct else "B", True, correct, "", None)


def both(groups):
    """Predictions before and after, of {(benchmark, task): [(right before, right after), ...]}."""
    rows = [
        (f"{task}{number}", benchmark, task, pair)
        for (benchmark, task), pairs in groups.items()
        for number, pair in enumerate(pairs)
    ]
    return tuple(
        [prediction(id_, pair[side], benchmark=benchmark, task=task) for id_, benchmark, task, pair in rows]
        for side in (0, 1)
    )


def changed(tasks):
    """The same of {task: [1 remedied, -1 broken, 0 the same]}."""
    return both({("b", task): [(change < 0, change > 0) for change in values] for task, values in tasks.items()})


def interval(tasks, **options):
    found = compare(*changed(tasks), **options)
    return found.low, found.high


def test_a_comparison_done_by_hand():
    # benchmark x: task a 2 of 4 to 3 of 4, task b 1 of 1 to 0 of 1; benchmark y: 0 of 2 to 2 of 2
    groups = {
        ("x", "a"): [(True, True), (True, False), (False, True), (False, True)],
        ("x", "b"): [(True, False)],
        ("y", "c"): [(False, True), (False, True)],
    }
    before, after = both(groups)
    result = compare(before, after[::-1], resamples=500)
    assert (result.num_samples, result.remedied, result.broken) == (7, 4, 2)
    assert result.accuracy_before == pytest.approx(((1 / 2 + 1) / 2 + 0) / 2)
    assert result.accuracy_after == pytest.approx(((3 / 4 + 0) / 2 + 1) / 2)
    assert result.difference == pytest.approx((-3 / 8 + 1) / 2)
    assert result.p_value == pytest.approx(2 * (1 + 6 + 15) / 2**6)
    assert result.low <= result.difference <= result.high


pairs = st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=6)


@given(st.dictionaries(st.tuples(st.sampled_from("xyz"), st.sampled_from("abc")), pairs, min_size=1))
def test_the_difference_is_that_of_the_scores_in_the_tables(groups):
    before, after = both(groups)
    result = compare(before, after, resamples=10)
    scores = [summarize(side).average.accuracy for side in (before, after)]
    assert (result.accuracy_before, result.accuracy_after) == pytest.approx(scores)
    assert result.difference == pytest.approx(scores[1] - scores[0])


def test_a_large_benchmark_does_not_drown_a_small_one():
    groups = {
        ("large", "t"): [(True, True)] * 700 + [(True, False)] * 20 + [(False, False)] * 280,
        ("small", "t"): [(False, True)] * 12 + [(False, False)] * 32,
    }
    result = compare(*both(groups))
    assert result.difference == pytest.approx((-20 / 1000 + 12 / 44) / 2)
    assert 0 < result.low < result.difference < result.high
    assert result.broken > result.remedied


def test_with_one_task_the_interval_is_that_of_scipys_paired_bootstrap():
    changes = [1] * 30 + [-1] * 12 + [0] * 158
    low, high = interval({"t": changes}, resamples=20000)
    reference = stats.bootstrap(
        (np.array(changes),), np.mean, method="percentile", n_resamples=20000, rng=np.random.default_rng(1)
    ).confidence_interval
    assert (low, high) == pytest.approx((reference.low, reference.high), abs=0.006)
    deviation = np.std(changes) / sqrt(len(changes))
    assert high - low == pytest.approx(2 * 1.96 * deviation, rel=0.05)


def test_with_tasks_the_interval_is_that_of_drawing_tasks_then_samples():
    tasks = {"a": [1, 1, 0, 0, 0], "b": [-1, 0, 0, 0, 0, 0, 0, 0], "c": [1, 0, -1, 0], "d": [1] * 6}
    generator = np.random.default_rng(1)
    names, values = list(tasks), []
    for _ in range(20000):
        drawn = [tasks[names[i]] for i in generator.integers(len(names), size=len(names))]
        values.append(np.mean([generator.choice(task, size=len(task)).mean() for task in drawn]))
    expected = np.quantile(values, [0.025, 0.975])
    assert interval(tasks, resamples=20000) == pytest.approx(tuple(expected), abs=0.02)


def test_tasks_that_move_together_widen_the_interval():
    mixed = {"a": [1, 0] * 20, "b": [1, 0] * 20, "c": [1, 0] * 20}
    apart = {"a": [1] * 40, "b": [0] * 40, "c": [1, 0] * 20}
    width = [high - low for low, high in (interval(tasks) for tasks in (mixed, apart))]
    assert width[1] > 2 * width[0]


def test_the_interval_depends_on_the_seed_only():
    tasks = {"a": [1, 0, -1, 0] * 5}
    assert interval(tasks, resamples=500, seed=3) == interval(tasks, resamples=500, seed=3)


def test_a_method_against_itself_changes_nothing():
    rows = [prediction(f"s{i}", i % 3 == 0) for i in range(20)]
    result = compare(rows, rows, resamples=100)
    assert (result.difference, result.low, result.high, result.p_value) == (0.0, 0.0, 0.0, 1.0)


@pytest.mark.parametrize("after", [["a"], ["a", "b", "c"], ["a", "a"], ["a", "c"]])
def test_only_the_same_samples_are_compared(after):
    before = [prediction(name, True) for name in ("a", "b")]
    with pytest.raises(ValueError, match="answer"):
        compare(before, [prediction(name, True) for name in after], resamples=100)


def test_no_samples_cannot_be_compared():
    with pytest.raises(ValueError, match="answer"):
        compare([], [], resamples=100)
