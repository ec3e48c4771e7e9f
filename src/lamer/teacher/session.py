"""One call of the teacher: workers that keep to its limits, retries, and answers committed in groups."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import count
from math import inf
from typing import Any

from lamer.config import TeacherSettings
from lamer.errors import TeacherError
from lamer.progress import say
from lamer.teacher.budget import Budget, Wish
from lamer.teacher.clock import Clock
from lamer.teacher.ledger import Answer, Entry, Ledger
from lamer.teacher.limits import Limits, Ticket
from lamer.teacher.prices import Price
from lamer.teacher.requests import BUDGET_REACHED, Backend, Failure, OnReply, Reply, Request
from lamer.teacher.retry import BACKOFF_S, backoff_s

FOUND_AT_ONCE = 500
"""Requests that one query looks up in the ledger."""
SLOW_COMMIT_S = 0.005
COMMITS_IN_THREAD = 100
"""After two slow ones in a row; then the disk is tried again."""
MAX_TRIES_UNREACHED = 3
"""Tries of a request while no connection was ever made: a wrong address should be told soon."""
TOLD_HOLD_S = 10.0
"""Shorter waits that the server asks for are not worth a line."""


@dataclass(frozen=True, slots=True)
class Item:
    """Requests that are the same in all but their key: sent once."""

    hash: str
    body: Mapping[str, Any]
    """Everything that decides the reply."""
    requests: Sequence[Request]

    @property
    def purpose(self) -> str:
        """What it is asked for."""
        return self.requests[0].purpose


class Session:
    """One call of `complete_all`."""

    def __init__(
        self,
        settings: TeacherSettings,
        ledger: Ledger,
        backend: Backend,
        on_reply: OnReply,
        *,
        backoff_s: float = BACKOFF_S,
        clock: Clock | None = None,
        tell: Callable[[str], None] = say,
        price: Price | None = None,
    ) -> None:
        self.settings = settings
        self.ledger = ledger
        self.backend = backend
        self.on_reply = on_reply
        self.backoff_s = backoff_s
        self.clock = clock or Clock()
        self.tell = tell
        self.limits = Limits(settings)
        self.price = price
        self._budget = Budget.of(ledger)
        self.stop_error: TeacherError | None = None
        self._stopped = asyncio.Event()
        self._changed = asyncio.Event()
        self._line = asyncio.Lock()
        self._writer = Writer(ledger)
        self._is_open = False
        self._last_success = -inf
        self._num_answers = 0
        self._failures_in_a_row = 0
        self._timeouts_in_a_row = 0
        self._told_to_wait_since = inf
        self._has_told_cap = False

    def unknown(self, items: Sequence[Item]) -> list[Item]:
        """The items that must be asked; the others are answered from the ledger at once.

        Before anything is sent: later the ledger's lock may be held by a commit, and everything would wait for it.
        """
        unknown = []
        for start in range(0, len(items), FOUND_AT_ONCE):
            some = items[start : start + FOUND_AT_ONCE]
            answers = self.ledger.find_all([item.hash for item in some])
            for item in some:
                if item.hash in answers:
                    self._hand_on(item, answers[item.hash], None, is_cached=True)
                else:
                    unknown.append(item)
        return unknown

    async def work(self, items: Iterator[Item]) -> None:
        """Take requests until none is left or the teacher has stopped."""
        for item in items:
            if self._stopped.is_set():
                return
            answer, error = await self._ask(item)
            if self._stopped.is_set() and answer is None:
                return
            self._hand_on(item, answer, error, is_cached=False)

    def _hand_on(self, item: Item, answer: Answer | None, error: str | None, *, is_cached: bool) -> None:
        for number, request in enumerate(item.requests):
            self.on_reply(_reply(request, answer, error, is_cached=is_cached or number > 0))

    async def _ask(self, item: Item) -> tuple[Answer | None, str | None]:
        """The answer, recorded, or why there is none."""
        started = self.clock.now()
        patience = _Patience(self._num_answers)
        key, request, model = item.hash, item.body, self.settings.model
        wish = Wish(key, model, request, self.price, purpose=item.purpose)
        for num_tries in count(1):
            seat = await self._budget.seat(wish)
            if seat is None:
                return None, BUDGET_REACHED
            try:
                ticket = await self._enter(request)
            except BaseException:
                seat.release()
                raise
            if ticket is None:
                seat.release()
                break
            try:
                with seat:
                    answer = await self._send(request)
                    cost = seat.settle(answer)
            except Failure as failure:
                self._failed(ticket, failure)
                patience.count(failure, self._num_answers)
                if self._is_final(failure, patience.num_counted):
                    error = f"{failure} ({num_tries} {'try' if num_tries == 1 else 'tries'})"
                    self.ledger.record_failure(key, model, error, self.clock.now() - started)
                    self._give_up(failure, error, started)
                    return None, error
                await self._hold_back(failure, patience.num_counted)
                continue
            self._succeeded(ticket, answer)
            await self._writer.write(Entry(key, model, request, answer, item.purpose, cost))
            return answer, None
        return None, "not asked: the teacher has stopped"

    async def _enter(self, request: Mapping[str, Any]) -> Ticket | None:
        """Wait in line until the limits allow one more request; None when the teacher has stopped."""
        num_characters = sum(len(str(message["content"])) for message in request["messages"])
        async with self._line:
            while not self._stopped.is_set():
                self._changed.clear()
                wait_s = self.limits.wait_s(self.clock.now(), num_characters)
                if wait_s <= 0:
                    return self.limits.send(self.clock.now(), num_characters)
                await self.clock.wait(self._changed, wait_s)
        return None

    async def _send(self, request: Mapping[str, Any]) -> Answer:
        if not self._is_open:
            try:
                self.backend.open()
            except TeacherError as error:
                raise Failure(str(error), "fatal") from None
            self._is_open = True
        return await self.backend.send(request)

    def _succeeded(self, ticket: Ticket, answer: Answer) -> None:
        self.limits.answered(ticket, answer.prompt_tokens, answer.completion_tokens)
        self._changed.set()
        self._num_answers += 1
        self._last_success = self.clock.now()
        self._failures_in_a_row = self._timeouts_in_a_row = 0
        self._told_to_wait_since = inf

    def _failed(self, ticket: Ticket, failure: Failure) -> None:
        """A try failed: the limits learn from it, and a Retry-After holds back every other request as well."""
        now, hold_s = self.clock.now(), self._hold_s(failure)
        if hold_s >= TOLD_HOLD_S and now >= self.limits.held_until:
            self._tell_hold(failure.retry_after or 0.0)
        is_overload = failure.is_overload or failure.is_timeout
        self.limits.failed(ticket, now, is_overload=is_overload, hold_s=hold_s)
        self._changed.set()
        self._timeouts_in_a_row += failure.is_timeout
        if failure.retry_after is not None:
            self._told_to_wait_since = min(self._told_to_wait_since, now)
        self._stop_if_silent(now)

    def _hold_s(self, failure: Failure) -> float:
        return min(failure.retry_after or 0.0, self.settings.max_retry_after_s)

    def _tell_hold(self, asked_s: float) -> None:
        line = f"teacher: the server asks to wait {asked_s:.0f} s (Retry-After)"
        cap_s = self.settings.max_retry_after_s
        if asked_s <= cap_s:
            self.tell(line)
        elif not self._has_told_cap:
            self._has_told_cap = True
            self.tell(f"{line}; waiting {cap_s:.0f} s each time (synthesize.teacher.max_retry_after_s)")

    def _stop_if_silent(self, now: float) -> None:
        """Stop when the server has for long done nothing but let requests time out, or tell them to wait."""
        num_tries = self.settings.max_retries + 1
        if self._timeouts_in_a_row >= max(
            2 * self.settings.concurrency, num_tries + 1
        ):  # of two requests at least
            self._stop(
                f"{self.backend.address}: teacher let {self._timeouts_in_a_row} tries in a row wait for more than "
                f"{self.settings.timeout_s:g} s; start again later, or raise synthesize.teacher.timeout_s "
                f"({self._kept})"
            )
        waited_s = now - self._told_to_wait_since  # others may be under way meanwhile, for timeout_s each
        if waited_s > num_tries * max(self.settings.max_retry_after_s, self.settings.timeout_s):
            self._stop(
                f"{self.backend.address}: teacher has only asked to wait for {waited_s:.0f} s; start again later "
                f"({self._kept})"
            )

    @property
    def _kept(self) -> str:
        return f"replies so far are kept in {self.ledger.path}"

    def _is_final(self, failure: Failure, num_counted: int) -> bool:
        allowed = self.settings.max_retries + 1
        if failure.is_unreachable and not self._num_answers:
            allowed = min(allowed, MAX_TRIES_UNREACHED)
        return failure.fault != "transient" or num_counted >= allowed

    async def _hold_back(self, failure: Failure, num_counted: int) -> None:
        """Wait before the next try: the Retry-After and, with jitter so that not all come back at once, more."""
        more_s = backoff_s(max(num_counted, 1), random.random(), self.backoff_s)
        await self.clock.wait(self._stopped, self._hold_s(failure) + more_s)

    def _give_up(self, failure: Failure, error: str, started: float) -> None:
        """Count a failed request; stop everything when the teacher is to blame, not the request."""
        if failure.fault == "request":  # the server is well; a last round may hold none but such requests
            return
        self._failures_in_a_row += 1
        address = self.backend.address
        if failure.fault == "fatal":
            self._stop(f"{failure}")
        elif failure.is_unreachable and self._last_success < started:
            self._stop(
                f"{address}: teacher cannot be reached: {error}; check synthesize.teacher.base_url and that the "
                f"server is up, then start again ({self._kept})"
            )
        elif self._failures_in_a_row >= 2 * self.settings.concurrency:
            self._stop(
                f"{address}: teacher failed {self._failures_in_a_row} requests in a row, last: {error}; "
                f"start again later ({self._kept})"
            )

    def _stop(self, message: str) -> None:
        if self.stop_error is None:
            self.stop_error = TeacherError(message)
        self._stopped.set()
        self._changed.set()

    async def close(self) -> None:
        """Write what is left to write and close connections."""
        try:
            await self._writer.flush()
        finally:
            if self._is_open:
                await self.backend.close()


class _Patience:
    """Tries of one request that count against `max_retries`.

    Being told to wait is not the request's fault. A try that ended with a Retry-After never counts; one that met
    an overloaded server counts only when nobody has been answered since the try before.
    """

    def __init__(self, num_answers: int) -> None:
        self.num_counted = 0
        self._num_answers = num_answers

    def count(self, failure: Failure, num_answers: int) -> None:
        others_are_answered = num_answers > self._num_answers
        if failure.retry_after is None and not (failure.is_overload and others_are_answered):
            self.num_counted += 1
        self._num_answers = num_answers


def _reply(request: Request, answer: Answer | None, error: str | None, *, is_cached: bool) -> Reply:
    if answer is None:
        return Reply(request.key, None, error=error)
    return Reply(
        request.key,
        answer.text,
        answer.finish_reason,
        is_cached=is_cached,
        prompt_tokens=answer.prompt_tokens or 0,
        completion_tokens=answer.completion_tokens or 0,
    )


class Writer:
    """Group commit: answers that arrive while one transaction is being written share the next one.

    A quick disk commits between two turns of the event loop: beside a busy loop a thread would wait for its turn
    far longer than the commit takes. On a slow disk commits run in a thread, so that the loop goes on. One slow
    commit makes no slow disk: now and then SQLite copies its log into the file.
    """

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._waiting: list[tuple[Entry, asyncio.Future[None]]] = []
        self._task: asyncio.Task[None] | None = None
        self._num_slow = 0
        """Slow commits in a row."""
        self._num_in_thread = 0
        """Commits that still run in a thread."""

    async def write(self, entry: Entry) -> None:
        """Return when the entry is safe on disk."""
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append((entry, done))
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._drain())
        await done

    async def flush(self) -> None:
        """Write everything that waits, also for callers that have gone."""
        while self._waiting or (self._task is not None and not self._task.done()):
            if self._task is None or self._task.done():
                self._task = asyncio.create_task(self._drain())
            await self._task

    async def _drain(self) -> None:
        while self._waiting:
            batch, self._waiting = self._waiting, []
            error: Exception | None = None
            try:
                await self._commit([entry for entry, _ in batch])
            except Exception as caught:  # handed to whoever waits
                error = caught
            for _, done in batch:
                if done.cancelled():
                    continue
                if error is not None:
                    done.set_exception(error)
                else:
                    done.set_result(None)

    async def _commit(self, entries: Sequence[Entry]) -> None:
        if self._num_in_thread:
            self._num_in_thread -= 1
            await asyncio.to_thread(self._ledger.record, entries)
            return
        started = time.monotonic()
        self._ledger.record(entries)
        self._num_slow = self._num_slow + 1 if time.monotonic() - started > SLOW_COMMIT_S else 0
        if self._num_slow >= 2:
            self._num_in_thread = COMMITS_IN_THREAD
