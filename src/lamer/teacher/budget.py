"""Ceilings on calls and money that hold at every moment, calls in flight included.

    seat = await budget.seat(wish)    room for the dearest that the call can become; None: a ceiling is reached
    with seat:
        answer = await send(...)      a failure gives the room back; one that may be paid for is written down
        cost = seat.settle(answer)    the real cost takes the place of the room

What the ledger holds counts, so the ceilings hold over restarts, and over all stages and teachers of a run
directory: they share the ledger's budget. While calls are in flight a new one waits for their room; when none is
and there is no room, a ceiling is reached and nothing more is sent.

Money is counted in whole units of 10^-12, rounded up, so that no rounding ever hides a call.
"""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from math import ceil, floor
from types import TracebackType
from typing import Any

from lamer.config import TeacherSettings
from lamer.errors import ConfigError, TeacherError
from lamer.teacher.ledger import Answer, Cost, Ledger, Loss
from lamer.teacher.prices import Price, find_price, host_of, how_to_add, load_prices, price_of
from lamer.teacher.requests import BUDGET_REACHED, Failure

UNIT = 10**12
"""Money is counted in 1 / UNIT of the currency."""
OVERHEAD_TOKENS = 64
"""Tokens that a server's chat template may add to a prompt, on top of one for each byte of the request."""


@dataclass(frozen=True, slots=True)
class Wish:
    """A call that wants to be made."""

    hash: str
    model: str
    body: Mapping[str, Any]
    price: Price | None
    is_batch: bool = False
    purpose: str = ""

    @property
    def max_cost(self) -> Cost | None:
        """The most that it can cost: a token for each byte sent, `max_tokens` of reply; None without a price."""
        if self.price is None:
            return None
        prompt = len(json.dumps(self.body, ensure_ascii=False).encode("utf-8", "replace")) + OVERHEAD_TOKENS
        amount = self.price.cost(prompt, int(self.body.get("max_tokens") or 0), is_batch=self.is_batch)
        return Cost(amount, self.price.currency, is_bound=True)

    def cost(self, prompt_tokens: int | None, completion_tokens: int | None) -> Cost | None:
        """What it cost by the server's count of tokens; without a count, the most that it can have cost."""
        if self.price is None:
            return None
        if prompt_tokens is None or completion_tokens is None:
            most = self.max_cost
            return most if most is not None and most.amount else Cost(0.0, self.price.currency)
        return Cost(self.price.cost(prompt_tokens, completion_tokens, is_batch=self.is_batch), self.price.currency)


@dataclass(frozen=True, slots=True)
class Standing:
    """A budget at one moment."""

    calls: int
    """Calls that were paid for, or may have been."""
    in_flight: int
    spent: int
    """In 1 / UNIT; only counted when there is a ceiling on money."""
    reserved: int
    """For calls in flight, in 1 / UNIT."""
    max_calls: int | None
    max_cost: int | None
    """In 1 / UNIT."""


class Budget:
    """The ceilings of a ledger; any thread and any event loop may use it."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._lock = threading.Lock()
        totals = ledger.totals()
        self._calls = totals.answered + totals.lost
        self._in_flight = self._spent = self._reserved = 0
        self._max_calls: int | None = None
        self._max_cost: int | None = None
        self._currency: str | None = None
        self._is_reached = False
        self._waiting: list[tuple[asyncio.AbstractEventLoop, asyncio.Future[None]]] = []

    @classmethod
    def of(cls, ledger: Ledger) -> Budget:
        """The ledger's budget, the same for everyone who asks."""
        if ledger.budget is None:
            ledger.budget = cls(ledger)
        return ledger.budget

    def limit(self, settings: TeacherSettings) -> None:
        """Take over a teacher's ceilings; the lowest of all teachers' ceilings holds for all of them.

        Raises:
            ConfigError: If there is a ceiling on money and a price is not known, here or for what was paid before.
        """
        with self._lock:
            self._max_calls = _lower(self._max_calls, settings.max_calls)
            if settings.max_cost is not None:
                price = known_price(settings)
                self._check_currency(price)
                if self._currency is None:
                    self._spent = _spent(self._ledger, price.currency, settings)
                    self._currency = price.currency
                self._max_cost = _lower(self._max_cost, floor(settings.max_cost * UNIT))

    @property
    def is_reached(self) -> bool:
        """Whether a call was turned away."""
        return self._is_reached

    def standing(self) -> Standing:
        """Where it stands now."""
        with self._lock:
            return Standing(
                self._calls, self._in_flight, self._spent, self._reserved, self._max_calls, self._max_cost
            )

    def to_text(self, stage: str) -> str:
        """What was reached, and how to go on; for a note or an error."""
        now = self.standing()
        reached = []
        if now.max_calls is not None:
            reached.append(f"{now.calls} calls of synthesize.teacher.max_calls={now.max_calls}")
        if now.max_cost is not None:
            spent, ceiling = now.spent / UNIT, now.max_cost / UNIT
            reached.append(f"{spent:.4g} {self._currency} of synthesize.teacher.max_cost={ceiling:g}")
        again = (
            f"raise the ceiling and add --restart-from {stage}" if stage else "raise the ceiling and start again"
        )
        return f"{BUDGET_REACHED} ({', '.join(reached)}): {again}; what was answered is not paid again"

    def require(self, what: str) -> None:
        """Stop when a ceiling is reached; for stages that make no sense half done.

        Raises:
            TeacherError: If a ceiling is reached, saying how to go on.
        """
        if self._is_reached:
            raise TeacherError(f"{self.to_text('')}; not all {what} are there yet")

    async def seat(self, wish: Wish) -> Seat | None:
        """Room for a call, as soon as there is; None when a ceiling is reached.

        Raises:
            ConfigError: If there is a ceiling on money and the call's price is not known.
        """
        while True:
            seat, change = self._take(wish, asyncio.get_running_loop())
            if change is None:
                return seat
            await change

    def take(self, wish: Wish) -> Seat | None:
        """Room for a call now, or None; does not wait, and does not say that a ceiling is reached."""
        with self._lock:
            return self._seat(wish)

    def hold(self, wish: Wish) -> Seat:
        """Room for a call that is under way already, whatever the ceilings say."""
        with self._lock:
            most = wish.max_cost if self._max_cost is not None else None
            room = ceil(most.amount * UNIT) if most is not None else 0
            self._in_flight += 1
            self._reserved += room
            return Seat(self, self._ledger, wish, room)

    def _take(
        self, wish: Wish, loop: asyncio.AbstractEventLoop
    ) -> tuple[Seat | None, asyncio.Future[None] | None]:
        with self._lock:
            if self._is_reached:
                return None, None
            if (seat := self._seat(wish)) is not None:
                return seat, None
            if not self._in_flight:
                self._is_reached = True
                return None, None
            change: asyncio.Future[None] = loop.create_future()
            self._waiting.append((loop, change))
            return None, change

    def _seat(self, wish: Wish) -> Seat | None:
        if self._max_calls is not None and self._calls + self._in_flight >= self._max_calls:
            return None
        room = 0
        if self._max_cost is not None:
            most = wish.max_cost
            if wish.price is None or most is None:
                raise ConfigError(
                    f"no price is known for teacher {wish.model}, and synthesize.teacher.max_cost is set"
                )
            self._check_currency(wish.price)
            room = ceil(most.amount * UNIT)
            if self._spent + self._reserved + room > self._max_cost:
                return None
        self._in_flight += 1
        self._reserved += room
        return Seat(self, self._ledger, wish, room)

    def _check_currency(self, price: Price) -> None:
        if self._currency is not None and price.currency != self._currency:
            raise ConfigError(
                f"synthesize.teacher.max_cost: teacher {price.model} is priced in {price.currency}, others in "
                f"{self._currency}; give one price table in one currency (synthesize.teacher.prices)"
            )

    def leave(self, room: int, cost: Cost | None, *, is_paid: bool) -> None:
        """A call is over: give its room back and count what it cost."""
        with self._lock:
            self._in_flight -= 1
            self._reserved -= room
            self._calls += is_paid
            if cost is not None:
                self._spent += ceil(cost.amount * UNIT)
            waiting, self._waiting = self._waiting, []
        for loop, change in waiting:
            if not loop.is_closed():
                loop.call_soon_threadsafe(_wake, change)


class Seat:
    """Room for one call; a context that ends with the call settled, or the room given back."""

    def __init__(self, budget: Budget, ledger: Ledger, wish: Wish, room: int) -> None:
        self.wish = wish
        self._budget = budget
        self._ledger = ledger
        self._room = room
        self._is_over = False

    def settle(self, answer: Answer) -> Cost | None:
        """Count an answered call; what it cost, None where the price is not known."""
        cost = self.wish.cost(answer.prompt_tokens, answer.completion_tokens)
        self._leave(cost, is_paid=True)
        return cost

    def release(self) -> None:
        """Give the room back: nothing was sent, or the server refused and takes no money for it."""
        self._leave(None, is_paid=False)

    def lose(self, error: str, seconds: float = 0.0, usage: Answer | None = None) -> None:
        """Count and write down a try without a reply that was paid for, or may have been.

        Args:
            error: What happened.
            seconds: How long it took.
            usage: The server's count of tokens, where it gave one.
        """
        prompt, completion = (usage.prompt_tokens, usage.completion_tokens) if usage else (None, None)
        cost = self.wish.cost(prompt, completion)
        self._leave(cost, is_paid=True)
        wish = self.wish
        self._ledger.record_loss(
            Loss(wish.hash, wish.model, error, seconds, prompt, completion, wish.purpose, cost)
        )

    def _leave(self, cost: Cost | None, *, is_paid: bool) -> None:
        if not self._is_over:
            self._is_over = True
            self._budget.leave(self._room, cost, is_paid=is_paid)

    def __enter__(self) -> Seat:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._is_over:
            return
        if error is None or (isinstance(error, Failure) and not error.may_be_paid):
            self.release()
        elif isinstance(error, Failure):
            self.lose(str(error), usage=error.usage)
        else:
            self.lose(f"stopped while it was asked ({type(error).__name__})")


def known_price(settings: TeacherSettings) -> Price:
    """The price of a teacher that has a ceiling on money.

    Raises:
        ConfigError: If no table has it, saying how to add it.
    """
    price = price_of(settings)
    if price is None:
        raise ConfigError(
            f"synthesize.teacher.max_cost: no price is known for {settings.model} at {host_of(settings)}: "
            f"{how_to_add(settings)}; max_calls needs no price"
        )
    return price


def check_ceilings(settings: TeacherSettings) -> None:
    """Find out early, without asking anything, that a ceiling on money cannot be kept.

    Raises:
        ConfigError: See `known_price`.
    """
    if settings.max_cost is not None:
        known_price(settings)


def _lower(first: int | None, second: int | None) -> int | None:
    return min((value for value in (first, second) if value is not None), default=None)


def _spent(ledger: Ledger, currency: str, settings: TeacherSettings) -> int:
    """What the ledger's calls cost, in 1 / UNIT; calls without a cost are priced by their tokens."""
    totals = ledger.totals()
    if others := [name for name in totals.costs if name != currency]:
        raise ConfigError(
            f"{ledger.path}: money was spent in {others[0]} before, the price table is in {currency}; keep to one "
            "currency in a run directory"
        )
    spent = ceil(totals.costs.get(currency, 0.0) * UNIT)
    for calls in ledger.unpriced():
        price = find_price(load_prices(settings.prices), calls.model, host_of(settings))
        is_free = price is not None and not price.input and not price.output
        if price is None or price.currency != currency or (calls.without_usage and not is_free):
            raise ConfigError(
                f"{ledger.path}: {calls.count} calls of {calls.model} stand there without a cost or a price to "
                "work it out; add its price to synthesize.teacher.prices, or use synthesize.teacher.max_calls"
            )
        spent += ceil(price.cost(calls.prompt_tokens, calls.completion_tokens) * UNIT)
    return spent


def _wake(change: asyncio.Future[None]) -> None:
    if not change.done():
        change.set_result(None)
