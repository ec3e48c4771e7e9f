from __future__ import annotations

from math import comb

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from lamer.evaluation.statistics import holm, mcnemar, summarize
from lamer.records import Prediction


def prediction(id_, correct, *, benchmark="b", task="t", method="m", parsed=True, likeliest="A"):
    return Prediction(method, benchmark, task, id_, "A", "A" if correct else "B", parsed, correct, "", likeliest)


def test_mcnemar_of_a_case_done_by_hand():
    # 6 changed, at most 1 of them broken: 2 * (C(6,0) + C(6,1)) / 2^6
    assert mcnemar(5, 1) == pytest.approx(2 * 7 / 64)
    assert mcnemar(10, 0) == pytest.approx(2 / 1024)
    assert mcnemar(3, 3) == 1.0
    assert mcnemar(0, 0) == 1.0


@given(remedied=st.integers(0, 40), broken=st.integers(0, 40))
def test_mcnemar_is_the_doubled_binomial_tail(remedied, broken):
    total, least = remedied + broken, min(remedied, broken)
    tail = sum(comb(total, count) for count in range(least + 1)) / 2**total
    assert mcnemar(remedied, broken) == pytest.approx(min(1.0, 2 * tail))
    assert mcnemar(remedied, broken) == mcnemar(broken, remedied)


def test_holm_of_a_case_done_by_hand():
    # sorted .01 .03 .04 times 3 2 1: .03 .06 .04, the last raised to .06
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.5, 0.9]) == pytest.approx([1.0, 1.0])
    assert holm([]) == []


@given(st.lists(st.floats(0, 1), min_size=1, max_size=8))
def test_holm_lies_between_the_p_value_and_bonferroni_and_keeps_the_order(p_values):
    adjusted = holm(p_values)
    for p, q in zip(p_values, adjusted):
        assert p <= q <= min(1.0, len(p_values) * p) + 1e-12
    by_p = sorted(zip(p_values, adjusted))
    assert [q for _, q in by_p] == sorted(adjusted)


def test_a_summary_done_by_hand():
    rows = [
        # benchmark x: task a 1/2 right, task b 1/1 -> 0.75; micro 2/3
        prediction("1", True, benchmark="x", task="a"),
        prediction("2", False, benchmark="x", task="a", parsed=False, likeliest="B"),
        prediction("3", True, benchmark="x", task="b", likeliest="B"),
        # benchmark y: 0/1, without options
        prediction("4", False, benchmark="y", task="c", likeliest=None),
    ]
    found = summarize(iter(rows))
    x, y = found.benchmarks["x"], found.benchmarks["y"]
    assert (x.num_samples, x.accuracy, x.micro_accuracy) == (3, 0.75, pytest.approx(2 / 3))
    assert (x.parse_rate, x.loglikelihood_accuracy) == (0.75, 0.25)
    assert (y.accuracy, y.loglikelihood_accuracy) == (0.0, None)
    assert found.tasks["x", "a"].accuracy == 0.5
    assert found.average.accuracy == 0.375
    assert found.average.micro_accuracy == pytest.approx(0.5)
    assert found.average.num_samples == 4
    assert found.average.loglikelihood_accuracy == 0.25


def test_a_summary_is_of_one_method():
    with pytest.raises(ValueError, match="one method"):
        summarize([prediction("1", True), prediction("2", True, method="other")])
    with pytest.raises(ValueError, match="one method"):
        summarize([])


def rejected_by_holm(p_values, alpha):
    """The procedure as Holm wrote it down: step through the sorted values, stop at the first that is too large."""
    rejected = set()
    for step, index in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        if p_values[index] > alpha / (len(p_values) - step):
            break
        rejected.add(index)
    return rejected


@given(st.lists(st.floats(0, 1), min_size=1, max_size=8), st.sampled_from([0.001, 0.01, 0.05, 0.2, 0.5]))
def test_holm_rejects_what_the_step_down_procedure_rejects(p_values, alpha):
    adjusted = holm(p_values)
    assume(all(abs(value - alpha) > 1e-12 for value in adjusted))
    assert {index for index, value in enumerate(adjusted) if value <= alpha} == rejected_by_holm(p_values, alpha)
