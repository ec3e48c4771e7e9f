from __future__ import annotations

from math import inf

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lamer.config import TeacherSettings
from lamer.teacher.limits import BURST_S, Concurrency, Limits, Pace, TokenGuess


def in_flight(most: int, count: int) -> Concurrency:
    concurrency = Concurrency(most)
    concurrency.in_flight = count
    return concurrency


def test_an_overload_halves_once_however_many_requests_it_fails():
    concurrency = in_flight(16, 16)
    for _ in range(16):
        concurrency.decrease(sent=0.0, now=1.0)
        concurrency.in_flight -= 1
    assert concurrency.limit == 8.0
    concurrency.in_flight = 8
    concurrency.decrease(sent=1.0, now=2.0)  # sent after the decrease: a new event
    assert concurrency.limit == 4.0


def test_what_is_in_flight_is_halved_not_an_unused_limit():
    concurrency = in_flight(64, 6)
    concurrency.decrease(sent=0.0, now=1.0)
    assert concurrency.limit == 3.0


def test_a_limits_worth_of_answers_adds_one_up_to_the_most():
    concurrency = in_flight(3, 2)
    concurrency.decrease(sent=0.0, now=1.0)
    assert concurrency.limit == 1.0
    concurrency.increase()
    assert concurrency.limit == 2.0
    concurrency.increase()
    concurrency.increase()
    assert concurrency.limit == pytest.approx(2.9)
    for _ in range(9):
        concurrency.increase()
    assert concurrency.limit == 3.0


@settings(deadline=None)
@given(
    most=st.integers(1, 64),
    events=st.lists(st.tuples(st.booleans(), st.floats(0, 5), st.floats(0, 3)), max_size=60),
)
def test_the_limit_stays_between_one_and_the_most(most, events):
    concurrency, now = Concurrency(most), 0.0
    for is_good, pause, age in events:
        now += pause
        concurrency.in_flight = int(concurrency.limit)
        if is_good:
            concurrency.increase()
        else:
            concurrency.decrease(now - age, now)
        assert 1.0 <= concurrency.limit <= most


def starts(pace: Pace, units: list[int], pauses: list[float]) -> list[float]:
    """When requests of so many units start, each asked for a pause after the one before started."""
    now, times = 0.0, []
    for count, pause in zip(units, pauses):
        now += pause
        wait = pace.wait_s(now, count)
        assert pace.wait_s(now + wait, count) == pytest.approx(0.0, abs=1e-9)
        now += wait
        pace.use(now, count)
        times.append(now)
    return times


def test_three_requests_a_minute_by_hand():
    assert starts(Pace(3), [1] * 4, [0.0] * 4) == pytest.approx([0.0, 61 / 3, 122 / 3, 61.0])


def test_many_requests_a_minute_start_with_a_second_of_them_and_go_on_evenly():
    times = starts(Pace(600), [1] * 620, [0.0] * 620)
    assert sum(time == 0.0 for time in times) == int(BURST_S / (61 / 600))
    assert times[599] < 60.0 <= times[600] + 1e-6


@settings(max_examples=60, deadline=None)
@given(
    per_minute=st.integers(1, 400),
    pauses=st.lists(st.one_of(st.just(0.0), st.floats(0, 1), st.floats(0, 90)), min_size=1, max_size=150),
)
def test_no_minute_sees_more_requests_than_the_limit(per_minute, pauses):
    times = starts(Pace(per_minute), [1] * len(pauses), pauses)
    for first, start in enumerate(times):
        assert sum(start <= time < start + 59.999 for time in times[first:]) <= per_minute


@settings(max_examples=60, deadline=None)
@given(
    per_minute=st.integers(100, 5000),
    requests=st.lists(st.tuples(st.integers(1, 6000), st.floats(0, 20)), min_size=1, max_size=60),
)
def test_no_minute_sees_more_tokens_than_the_limit_but_for_the_last_request(per_minute, requests):
    units, pauses = [count for count, _ in requests], [pause for _, pause in requests]
    times = starts(Pace(per_minute), units, pauses)
    for first, start in enumerate(times):
        window = [count for count, time in zip(units[first:], times[first:]) if time < start + 59.999]
        assert sum(window[:-1]) <= per_minute + 1e-6


def test_units_that_were_not_used_are_given_back():
    pace = Pace(61)
    pace.use(0.0, 61)
    assert pace.wait_s(0.0, 1) == pytest.approx(61.0)
    pace.correct(-60)
    assert pace.wait_s(0.0, 1) == pytest.approx(1.0)
    pace.correct(9)
    assert pace.wait_s(0.0, 1) == pytest.approx(10.0)


def test_tokens_are_guessed_from_the_limit_first_and_from_replies_then():
    guess = TokenGuess(2048)
    assert guess.tokens(300) == pytest.approx(100 + 2048)
    guess.learn(300, 75, 150)
    assert guess.tokens(400) == pytest.approx(100 + 150)
    guess.learn(300, 75, 250)
    assert guess.tokens(400) == pytest.approx(100 + 160)
    guess.learn(0, 0, 160)
    assert guess.tokens(400) == pytest.approx(100 + 160)


def limits(**changes: object) -> Limits:
    return Limits(TeacherSettings.model_validate({"concurrency": 4, "max_tokens": 1000, **changes}))


def test_without_limits_only_the_concurrency_holds_back():
    one = limits()
    tickets = [one.send(0.0, 10) for _ in range(4)]
    assert one.wait_s(0.0, 10) == inf
    one.answered(tickets[0], 5, 5)
    assert one.wait_s(0.0, 10) == 0.0


def test_a_retry_after_holds_back_everything_and_is_never_shortened():
    one = limits()
    first, second = one.send(0.0, 10), one.send(0.0, 10)
    one.failed(first, 1.0, is_overload=True, hold_s=150.0)
    one.failed(second, 1.0, is_overload=True, hold_s=20.0)
    assert one.wait_s(1.0, 10) == 150.0
    assert one.wait_s(151.0, 10) == 0.0
    assert one.concurrency.limit == 1.0
    assert one.concurrency.in_flight == 0


def test_real_usage_takes_the_place_of_the_guess():
    one = limits(tokens_per_minute=6100)  # 0.01 s a token
    ticket = one.send(0.0, 300)
    assert ticket.tokens == 1100.0
    assert one.wait_s(0.0, 300) == pytest.approx(11.0)
    one.answered(ticket, 100, 100)  # 200 used, and 200 expected from now on
    assert one.wait_s(0.0, 300) == pytest.approx(2.0)


def test_a_failed_request_took_no_tokens_but_counts_as_a_request():
    one = limits(tokens_per_minute=6100, requests_per_minute=6)
    one.failed(one.send(0.0, 300), 0.5, is_overload=False)
    assert one.wait_s(0.5, 300) == pytest.approx(61 / 6 - 0.5)


def test_a_server_that_tells_no_usage_leaves_the_guess():
    one = limits(tokens_per_minute=6100)
    one.answered(one.send(0.0, 300), None, None)
    assert one.wait_s(0.0, 300) == pytest.approx(11.0)
