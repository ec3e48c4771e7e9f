from __future__ import annotations

from math import exp, inf, log

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import log_softmax as scipy_log_softmax
from scipy.special import rel_entr

from lamer.diagnosis.divergence import entropy, log_softmax, margin, relative_entropy, transition

scores = st.lists(st.floats(-50, 50), min_size=2, max_size=6)
score_pairs = st.integers(2, 6).flatmap(
    lambda n: st.tuples(*[st.lists(st.floats(-30, 30), min_size=n, max_size=n)] * 2)
)


def logs(*probabilities: float) -> tuple[float, ...]:
    return tuple(map(log, probabilities))


def test_relative_entropy_of_a_case_done_by_hand():
    p, q = logs(0.75, 0.25), logs(0.5, 0.5)
    assert relative_entropy(p, q) == pytest.approx(0.75 * log(1.5) + 0.25 * log(0.5))  # 0.1308 nats
    assert relative_entropy(p, p) == 0.0
    assert relative_entropy(q, p) == pytest.approx(0.1438, abs=1e-4)  # the direction matters


def test_relative_entropy_of_the_papers_figure_3():
    assert relative_entropy(logs(0.63, 0.37), logs(0.15, 0.85)) == pytest.approx(0.5964, abs=5e-5)


def test_a_sign_error_shows_with_three_candidates():
    p, q = logs(0.6, 0.3, 0.1), logs(0.1, 0.2, 0.7)
    assert relative_entropy(p, q) == pytest.approx(1.0021, abs=5e-5)
    negated_p, negated_q = log_softmax([-x for x in p]), log_softmax([-x for x in q])
    assert relative_entropy(negated_p, negated_q) != pytest.approx(1.0021, abs=0.05)
    two_p, two_q = logs(0.63, 0.37), logs(0.15, 0.85)  # with two, the mistake cannot be seen
    flipped = relative_entropy(log_softmax([-x for x in two_p]), log_softmax([-x for x in two_q]))
    assert flipped == pytest.approx(relative_entropy(two_p, two_q))


def test_softmax_prefers_the_likelier_candidate():
    assert log_softmax([-1.0, -2.0, -3.0])[0] == max(log_softmax([-1.0, -2.0, -3.0]))


@given(score_pairs)
def test_relative_entropy_agrees_with_scipy(pair):
    p, q = log_softmax(pair[0]), log_softmax(pair[1])
    expected = rel_entr([exp(x) for x in p], [exp(x) for x in q]).sum()
    assert relative_entropy(p, q) == pytest.approx(expected, rel=1e-6, abs=1e-9)


@given(scores)
def test_log_softmax_agrees_with_scipy_and_is_normalised(values):
    assert log_softmax(values) == pytest.approx(scipy_log_softmax(values), abs=1e-9)
    assert sum(map(exp, log_softmax(values))) == pytest.approx(1.0)
    assert log_softmax([value + 7 for value in values]) == pytest.approx(log_softmax(values), abs=1e-9)


@given(score_pairs)
def test_relative_entropy_is_zero_only_for_equal_distributions(pair):
    p, q = log_softmax(pair[0]), log_softmax(pair[1])
    assert relative_entropy(p, q) >= 0.0
    assert relative_entropy(p, p) == 0.0
    if max(abs(exp(x) - exp(y)) for x, y in zip(p, q)) > 1e-3:
        assert relative_entropy(p, q) > 0.0


@given(score_pairs, st.randoms())
def test_relative_entropy_does_not_depend_on_the_order_of_candidates(pair, random):
    p, q = log_softmax(pair[0]), log_softmax(pair[1])
    order = list(range(len(p)))
    random.shuffle(order)
    shuffled = relative_entropy([p[i] for i in order], [q[i] for i in order])
    assert shuffled == pytest.approx(relative_entropy(p, q), abs=1e-12)
    assert transition([p[i] for i in order], [q[i] for i in order]) == transition(p, q)


def test_impossible_candidates():
    assert relative_entropy((0.0, -inf), logs(0.5, 0.5)) == pytest.approx(log(2))
    assert relative_entropy(logs(0.5, 0.5), (0.0, -inf)) == inf
    assert relative_entropy((0.0, -inf), (0.0, -inf)) == 0.0
    assert log_softmax([0.0, -inf]) == (0.0, -inf)


@pytest.mark.parametrize("values", [[], [-inf, -inf], [0.0, float("nan")], [inf, 0.0]])
def test_scores_without_a_softmax_are_refused(values):
    with pytest.raises(ValueError, match="no softmax"):
        log_softmax(values)


def test_different_lengths_are_refused():
    with pytest.raises(ValueError, match="P has 2 candidates, Q has 3"):
        relative_entropy(logs(0.5, 0.5), logs(0.5, 0.25, 0.25))
    with pytest.raises(ValueError, match="P has 1"):
        transition((0.0,), logs(0.5, 0.5))


@pytest.mark.parametrize(
    ("p", "q", "expected"),
    [
        ((0.6, 0.4), (0.9, 0.1), "confirmed"),
        ((0.9, 0.1), (0.6, 0.4), "weakened"),
        ((0.9, 0.1), (0.4, 0.6), "flipped"),
        ((0.6, 0.3, 0.1), (0.1, 0.2, 0.7), "flipped"),
        ((0.5, 0.5), (0.2, 0.8), "confirmed"),
        ((0.6, 0.4), (0.6, 0.4), "confirmed"),
    ],
)
def test_transitions(p, q, expected):
    assert transition(logs(*p), logs(*q)) == expected


def test_entropy_and_margin_of_cases_done_by_hand():
    assert entropy(logs(0.25, 0.25, 0.25, 0.25)) == pytest.approx(log(4))
    assert entropy((0.0, -inf)) == 0.0
    assert margin(logs(0.6, 0.3, 0.1)) == pytest.approx(0.3)
    with pytest.raises(ValueError, match="two candidates"):
        margin((0.0,))
