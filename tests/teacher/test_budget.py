from __future__ import annotations

import asyncio
import random
import threading
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lamer.config import TeacherSettings
from lamer.errors import ConfigError, TeacherError
from lamer.teacher.budget import UNIT, Budget, Standing, Wish, check_ceilings
from lamer.teacher.ledger import Answer, Ledger, Loss
from lamer.teacher.prices import Price
from lamer.teacher.requests import Failure, Request, user_message
from lamer.teacher.teacher import Teacher
from lamer.testing import Fault, TeacherServer

PRICE = Price("m", 100.0, 300.0, "2026-11-22", "a test", "USD")
"""Dear, so that a few words are real money: a prompt token 0.0001, a token of a reply 0.0003."""


@pytest.fixture
def prices(tmp_path) -> str:
    path = tmp_path / "prices.yaml"
    path.write_text(
        "currency: USD\nmodels:\n"
        "  - {model: m, input: 100, output: 300, batch: 0.5, date: 2026-11-22, source: a test}\n"
        "  - {model: free, input: 0, output: 0, date: 2026-11-22, source: a test}\n"
    )
    return str(path)


@pytest.fixture
def ledger(tmp_path):
    with Ledger(tmp_path / "teacher.sqlite") as opened:
        yield opened


def teacher_settings(base_url: str | None = None, **changes: object) -> TeacherSettings:
    given = {"model": "m", "base_url": base_url, "concurrency": 4, "max_tokens": 10, "timeout_s": 5.0}
    return TeacherSettings(**given | {"max_retries": 3} | changes)


def teacher_at(base_url: str, ledger: Ledger, **changes: object) -> Teacher:
    return Teacher(teacher_settings(base_url, **changes), ledger, backoff_s=0.01)


def requests(count: int, first: int = 0) -> list[Request]:
    return [Request(f"r{i}", user_message(f"say {i}"), purpose="tests") for i in range(first, first + count)]


def echo(messages, **sampling) -> str:
    return f"said {messages[-1]['content']}"


def holds(now: Standing) -> bool:
    calls = now.max_calls is None or now.calls + now.in_flight <= now.max_calls
    money = now.max_cost is None or now.spent + now.reserved <= now.max_cost
    return calls and money and min(now.in_flight, now.reserved, now.spent, now.calls) >= 0


# The property


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 2**32),
    max_calls=st.none() | st.integers(1, 40),
    max_cost=st.none() | st.floats(0.001, 0.8),
    workers=st.integers(1, 24),
)
def test_spent_and_reserved_never_exceed_the_ceilings(tmp_path_factory, seed, max_calls, max_cost, workers):
    folder = tmp_path_factory.mktemp("budget")
    prices = folder / "p.yaml"
    prices.write_text("currency: USD\nmodels: [{model: m, input: 100, output: 300, date: 2026-01-01, source: t}]")
    rng = random.Random(seed)
    wanted = teacher_settings(prices=str(prices), max_calls=max_calls, max_cost=max_cost)
    seen: list[Standing] = []
    settled: list[int] = []
    with Ledger(folder / "l.sqlite") as ledger:
        budget = Budget.of(ledger)
        budget.limit(wanted)

        async def work(number: int) -> None:
            for turn in range(6):
                body = {"messages": [{"role": "user", "content": "x" * rng.randrange(60)}], "max_tokens": 10}
                seat = await budget.seat(Wish(f"{number}/{turn}", "m", body, PRICE))
                seen.append(budget.standing())
                if seat is None:
                    return
                try:
                    with seat:
                        await asyncio.sleep(rng.choice((0, 0, 0.001)))
                        fate = rng.randrange(5)
                        if fate == 0:
                            raise Failure("500")
                        if fate == 1:
                            raise Failure("no reply in 5 s", may_be_paid=True)
                        if fate == 2:
                            raise Failure("no choices", may_be_paid=True, usage=Answer(None, None, 7, 3))
                        seat.settle(Answer("text", "stop", *(rng.choice(((None, None), (10, 10), (1, 2))))))
                        settled.append(number)
                except Failure:
                    pass
                seen.append(budget.standing())

        async def everyone() -> None:
            await asyncio.gather(*(work(number) for number in range(workers)))

        asyncio.run(everyone())
        end = budget.standing()
        assert all(holds(now) for now in seen)
        assert (end.in_flight, end.reserved) == (0, 0)
        if max_calls is not None and budget.is_reached and max_cost is None:
            assert end.calls == max_calls  # not one too few either
        assert end.calls == ledger.totals().lost + len(settled)


def test_many_threads_with_their_own_loops_share_one_budget(ledger):
    budget = Budget.of(ledger)
    budget.limit(teacher_settings(max_calls=25))
    paid: list[int] = []

    async def work() -> None:
        while (seat := await budget.seat(Wish("h", "m", {}, None))) is not None:
            with seat:
                await asyncio.sleep(0)
                assert holds(budget.standing())
                if random.random() < 0.3:
                    continue
                seat.settle(Answer("t"))
                paid.append(1)

    async def several() -> None:
        await asyncio.gather(*(work() for _ in range(5)))

    threads = [threading.Thread(target=lambda: asyncio.run(several())) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert len(paid) == budget.standing().calls == 25


# With the real client and a real server


def test_max_calls_counts_what_the_server_answered_and_not_one_more(ledger):
    faults = [Fault(status=500), None, Fault(status=429), Fault(body="empty choices"), None, Fault(status=503)]
    with TeacherServer(echo, faults=faults) as server:
        teacher = teacher_at(server.base_url, ledger, max_calls=12, concurrency=8)
        replies = teacher.ask(requests(40))
        assert server.num_replies == 12
    totals = ledger.totals()
    assert (totals.answered, totals.lost) == (11, 1)
    assert sum(reply.is_over_budget for reply in replies.values()) == 40 - 11
    assert {reply.error for reply in replies.values()} == {None, "budget reached"}
    assert totals.failed == 0  # kept back is not given up


@pytest.mark.parametrize("seed", range(3))
def test_the_ceilings_hold_at_every_reply_of_a_server_that_fails_at_random(ledger, prices, seed):
    rng = random.Random(seed)
    kinds = [
        None, None, None, Fault(status=500), Fault(status=429, retry_after=0.01), Fault(reset=True),
        Fault(body="empty choices"), Fault(body="truncated"), Fault(finish_reason="length"), Fault(delay_s=0.02),
    ]  # fmt: skip
    fates = [rng.choice(kinds) for _ in range(600)]
    seen: list[Standing] = []
    with TeacherServer(echo, faults=fates) as server:
        teacher = teacher_at(server.base_url, ledger, prices=prices, max_cost=0.6, max_calls=70, concurrency=16)
        teacher.ask(requests(150), lambda reply: seen.append(teacher.budget.standing()))
        assert server.num_replies <= 70
    totals, end = ledger.totals(), teacher.budget.standing()
    assert all(holds(now) for now in (*seen, end))
    assert teacher.budget.is_reached
    assert end.calls == totals.answered + totals.lost
    assert end.spent / UNIT == pytest.approx(totals.cost, abs=1e-9)
    assert totals.cost <= 0.6
    assert (end.in_flight, end.reserved) == (0, 0)


def test_a_ceiling_holds_over_restarts_and_raising_it_goes_on_without_paying_again(tmp_path):
    path = tmp_path / "teacher.sqlite"
    with TeacherServer(echo) as server:
        for max_calls, answered in ((5, 5), (5, 5), (9, 9), (None, 20)):
            with Ledger(path) as ledger:
                replies = teacher_at(server.base_url, ledger, max_calls=max_calls).ask(requests(20))
            assert sum(reply.text is not None for reply in replies.values()) == answered == server.num_replies


def test_money_is_what_the_server_counted_and_never_more_than_the_ceiling(ledger, prices):
    with TeacherServer(echo) as server:
        teacher = teacher_at(server.base_url, ledger, prices=prices, max_cost=0.2, concurrency=16)
        replies = teacher.ask(requests(250))
    totals = ledger.totals()
    assert 0 < totals.answered < 250
    assert totals.answered == sum(reply.text is not None for reply in replies.values())
    by_hand = totals.prompt_tokens * 100 / 1e6 + totals.completion_tokens * 300 / 1e6
    assert totals.cost == pytest.approx(by_hand) == pytest.approx(totals.answered * 0.0011)  # 2 words in, 3 out
    assert by_hand <= 0.2
    most = Wish("", "m", teacher.body(requests(1)[0]), teacher.price).max_cost
    assert by_hand > 0.2 - most.amount  # it stops only when the dearest call no longer fits
    assert totals.costs == {"USD": pytest.approx(by_hand)}


def test_calls_in_flight_when_the_ceiling_is_reached_are_kept(ledger):
    with TeacherServer(echo, faults=lambda number: Fault(delay_s=0.05)) as server:
        replies = teacher_at(server.base_url, ledger, max_calls=6, concurrency=6).ask(requests(30))
        assert server.num_requests == 6
    assert sum(reply.text is not None for reply in replies.values()) == ledger.totals().answered == 6


def test_replies_of_the_ledger_are_free_when_the_ceiling_is_reached(ledger):
    with TeacherServer(echo) as server:
        teacher_at(server.base_url, ledger, max_calls=5).ask(requests(5))
        replies = teacher_at(server.base_url, ledger, max_calls=5).ask(requests(8))
        assert server.num_replies == 5
    assert [replies[f"r{i}"].is_cached for i in range(5)] == [True] * 5
    assert [replies[f"r{i}"].is_over_budget for i in range(5, 8)] == [True] * 3


def test_the_same_request_is_not_paid_twice_whatever_it_is_for(ledger, prices):
    with TeacherServer(echo) as server:
        for purpose in ("examples", "naive", "examples"):
            teacher = teacher_at(server.base_url, ledger, prices=prices, concurrency=2)
            same = [Request(f"{purpose}{i}", user_message("say it"), purpose=purpose) for i in range(3)]
            assert {reply.text for reply in teacher.ask(same).values()} == {"said say it"}
        assert server.num_requests == 1
    assert ledger.totals().cost == pytest.approx(2 * 0.0001 + 3 * 0.0003)
    assert ledger.purposes() == ["examples"]


@pytest.mark.parametrize(
    ("fault", "paid", "lost"),
    [
        (Fault(status=500), 1, 0),
        (Fault(status=429, retry_after=0.01), 1, 0),
        (Fault(body="empty choices"), 1, 1),
        (Fault(body="truncated"), 1, 1),
        (Fault(reset=True), 1, 1),
        (Fault(body="invalid json"), 1, 1),
        (Fault(finish_reason="length"), 1, 0),
        (Fault(body="no content", finish_reason="content_filter"), 1, 0),
    ],
    ids=str,
)
def test_every_reply_that_was_paid_for_is_accounted(ledger, prices, fault, paid, lost):
    with TeacherServer(echo, faults=[fault]) as server:
        teacher = teacher_at(server.base_url, ledger, prices=prices, max_cost=1.0)
        teacher.ask(requests(1))
    totals = ledger.totals()
    assert (totals.answered, totals.lost, totals.unpriced) == (paid, lost, 0)
    whole = 0.0011
    if fault.body == "empty choices":  # the server said what it counted
        assert (totals.cost, totals.bounds) == (pytest.approx(2 * whole), 0)
    elif lost:  # it did not: the most that it can have been
        most = Wish("", "m", teacher.body(requests(1)[0]), teacher.price).max_cost.amount
        assert (totals.cost, totals.bounds) == (pytest.approx(whole + most), 1)
    else:
        assert totals.cost == pytest.approx(whole)
    spent = teacher.budget.standing().spent / UNIT
    assert spent == pytest.approx(totals.cost, abs=1e-9)
    again = Budget(ledger)
    again.limit(teacher.settings)
    assert again.standing().spent / UNIT == pytest.approx(spent, abs=1e-9)


def test_a_time_out_may_have_been_paid_for(ledger, prices):
    with TeacherServer(echo, faults=[Fault(delay_s=0.6)]) as server:
        teacher_at(server.base_url, ledger, prices=prices, timeout_s=0.2).ask(requests(1))
    totals = ledger.totals()
    assert (totals.answered, totals.lost, totals.bounds) == (1, 1, 1)


def test_a_server_without_usage_is_charged_the_most_it_can_cost(ledger, prices):
    with TeacherServer(echo) as server:
        server.answer = _without_usage(server.answer)
        teacher = teacher_at(server.base_url, ledger, prices=prices)
        teacher.ask(requests(1))
    most = Wish("", "m", teacher.body(requests(1)[0]), teacher.price).max_cost.amount
    assert most >= 0.0011
    assert ledger.totals().cost == pytest.approx(most)
    assert ledger.totals().bounds == 1


def _without_usage(answer):
    return lambda *given: {key: value for key, value in answer(*given).items() if key != "usage"}


def test_batch_mode_has_its_own_price(prices):
    body = {"messages": [], "max_tokens": 100}
    price = Price("m", 100.0, 300.0, "2026-11-22", "a test", "USD", batch=0.5)
    online, batch = Wish("h", "m", body, price), Wish("h", "m", body, price, is_batch=True)
    assert batch.max_cost.amount == online.max_cost.amount / 2
    assert batch.cost(10, 10).amount == online.cost(10, 10).amount / 2 == pytest.approx(0.002)


@given(st.text(max_size=200))
def test_the_reserved_prompt_is_never_less_than_a_token_for_each_byte(text):
    body = {"messages": [{"role": "user", "content": text}], "max_tokens": 0}
    assert Wish("h", "m", body, PRICE).max_cost.amount * 1e4 >= len(text.encode("utf-8", "replace"))


# What is refused


def test_a_ceiling_on_money_without_a_price_is_refused_with_the_way_out(ledger):
    for build in (check_ceilings, lambda wanted: Teacher(wanted, ledger)):
        with pytest.raises(ConfigError, match="no price is known for my-model at localhost") as error:
            build(TeacherSettings(model="my-model", base_url="http://localhost:1/v1", max_cost=1.0))
        told = str(error.value)
        assert "\n" not in told
        assert "synthesize.teacher.prices" in told
        assert "max_calls" in told
    check_ceilings(TeacherSettings(model="my-model", max_calls=3))
    check_ceilings(TeacherSettings(model="gpt-4o-mini", max_cost=3.0))


def test_a_second_teacher_on_the_ledger_shares_the_ceilings(ledger, prices):
    with TeacherServer(echo) as server:
        first = teacher_at(server.base_url, ledger, max_calls=6)
        judge = teacher_at(server.base_url, ledger, model="free", prices=prices)
        assert judge.budget is first.budget
        judge.ask(requests(4))
        replies = first.ask(requests(10, first=50))
        assert server.num_replies == 6
    assert sum(reply.is_over_budget for reply in replies.values()) == 8


def test_a_second_teacher_without_a_price_is_refused_under_a_ceiling_on_money(ledger, prices):
    with TeacherServer(echo) as server:
        teacher_at(server.base_url, ledger, prices=prices, max_cost=1.0)
        with pytest.raises(ConfigError, match="no price is known for teacher other"):
            teacher_at(server.base_url, ledger, model="other").ask(requests(1))
        assert server.num_requests == 0


def test_a_free_teacher_never_reaches_a_ceiling_on_money(ledger, prices):
    with TeacherServer(echo) as server:
        replies = teacher_at(server.base_url, ledger, model="free", prices=prices, max_cost=0.001).ask(
            requests(30)
        )
    assert all(reply.text for reply in replies.values())
    assert ledger.totals().cost == 0.0


def test_old_calls_without_a_cost_are_priced_by_their_tokens(tmp_path, prices):
    with Ledger(tmp_path / "l.sqlite") as ledger:
        ledger.record_loss(Loss("h", "m", "no choices", 1.0, 1000, 100))
        budget = Budget.of(ledger)
        budget.limit(teacher_settings(prices=prices, max_cost=1.0))
        assert budget.standing().spent == pytest.approx(0.13 * UNIT)
        assert budget.standing().calls == 1
    for number, loss in enumerate((Loss("h", "m", "reset", 1.0), Loss("h", "stranger", "no choices", 1.0, 1, 1))):
        with Ledger(tmp_path / f"{number}.sqlite") as ledger:
            ledger.record_loss(loss)
            with pytest.raises(ConfigError, match="without a cost or a price"):
                Budget.of(ledger).limit(teacher_settings(prices=prices, max_cost=1.0))


def test_money_of_two_currencies_is_refused(tmp_path, prices):
    euro = Path(tmp_path / "euro.yaml")
    euro.write_text("currency: EUR\nmodels: [{model: m, input: 1, output: 1, date: 2026-11-22, source: t}]")
    with Ledger(tmp_path / "l.sqlite") as ledger, TeacherServer(echo) as server:
        teacher_at(server.base_url, ledger, prices=prices).ask(requests(1))
        with pytest.raises(ConfigError, match="USD before, the price table is in EUR"):
            teacher_at(server.base_url, ledger, prices=str(euro), max_cost=1.0)


def test_the_note_says_what_was_reached_and_how_to_go_on(ledger, prices):
    with TeacherServer(echo) as server:
        teacher = teacher_at(server.base_url, ledger, prices=prices, max_calls=3, max_cost=1.0)
        teacher.ask(requests(5))
    told = teacher.budget.to_text("synthesize")
    assert told.startswith("budget reached (3 calls of synthesize.teacher.max_calls=3, 0.0033 USD of ")
    assert "--restart-from synthesize" in told
    with pytest.raises(TeacherError, match="not all facts are there yet"):
        teacher.budget.require("facts")
