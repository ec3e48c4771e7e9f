"""One call of the teacher: workers that take requests, retries, and answers committed in groups."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import count
from typing import Any

from lamer.config import TeacherSettings
from lamer.errors import TeacherError
from lamer.teacher.budget import Budget, Wish
from lamer.teacher.ledger import Answer, Entry, Ledger
from lamer.teacher.prices import Price
from lamer.teacher.requests import BUDGET_REACHED, Backend, Failure, OnReply, Reply, Request
from lamer.teacher.retry import backoff_s

MAX_TRIES_UNREACHED = 3
"""Tries of a request while no connection was ever made: a wrong address should be told soon."""


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
        backoff_s: float,
        price: Price | None = None,
    ) -> None:
        self.settings = settings
        self.ledger = ledger
        self.backend = backend
        self.on_reply = on_reply
        self.backoff_s = backoff_s
        self.price = price
        self._budget = Budget.of(ledger)
        self.stop_error: TeacherError | None = None
        self._stopped = asyncio.Event()
        self._writer = Writer(ledger)
        self._is_open = False
        self._not_before = 0.0
        self._last_success = 0.0
        self._failures_in_a_row = 0

    async def work(self, items: Iterator[Item]) -> None:
        """Take requests until none is left or the teacher has stopped."""
        for item in items:
            if self._stopped.is_set():
                return
            answer = self.ledger.find(item.hash)
            is_cached = answer is not None
            error = None
            if answer is None:
                answer, error = await self._ask(item)
                if self._stopped.is_set() and answer is None:
                    return
            for number, request in enumerate(item.requests):
                self.on_reply(_reply(request, answer, error, is_cached=is_cached or number > 0))

    async def _ask(self, item: Item) -> tuple[Answer | None, str | None]:
        """The answer, recorded, or why there is none."""
        key, request, model = item.hash, item.body, self.settings.model
        wish = Wish(key, model, request, self.price, self.settings.mode == "batch", item.purpose)
        started = time.monotonic()
        for num_tries in count(1):
            await self._wait(self._not_before - time.monotonic())
            if self._stopped.is_set():
                break
            seat = await self._budget.seat(wish)
            if seat is None:
                return None, BUDGET_REACHED
            if self._stopped.is_set():
                seat.release()
                break
            try:
                with seat:
                    answer = await self._send(request)
                    cost = seat.settle(answer)
            except Failure as failure:
                if self._is_final(failure, num_tries):
                    error = f"{failure} ({num_tries} {'try' if num_tries == 1 else 'tries'})"
                    self.ledger.record_failure(key, model, error, time.monotonic() - started)
                    self._give_up(failure, error, started)
                    return None, error
                await self._hold_back(failure, num_tries)
                continue
            self._last_success, self._failures_in_a_row = time.monotonic(), 0
            await self._writer.write(Entry(key, model, request, answer, item.purpose, cost))
            return answer, None
        return None, "not asked: the teacher has stopped"

    async def _send(self, request: Mapping[str, Any]) -> Answer:
        if not self._is_open:
            try:
                self.backend.open()
            except TeacherError as error:
                raise Failure(str(error), "fatal") from None
            self._is_open = True
        return await self.backend.send(request)

    def _is_final(self, failure: Failure, num_tries: int) -> bool:
        allowed = self.settings.max_retries + 1
        if failure.is_unreachable and not self._last_success:
            allowed = min(allowed, MAX_TRIES_UNREACHED)
        return failure.fault != "transient" or num_tries >= allowed

    async def _hold_back(self, failure: Failure, num_tries: int) -> None:
        """Wait before the next try; a Retry-After holds back every other request as well."""
        if failure.retry_after is not None:
            self._not_before = max(self._not_before, time.monotonic() + failure.retry_after)
        await self._wait(backoff_s(num_tries, random.random(), self.backoff_s))

    async def _wait(self, seconds: float) -> None:
        """Sleep, or wake up because the teacher has stopped."""
        if seconds > 0:
            try:
                await asyncio.wait_for(self._stopped.wait(), timeout=seconds)
            except TimeoutError:
                return

    def _give_up(self, failure: Failure, error: str, started: float) -> None:
        """Count a failed request; stop everything when the teacher is to blame, not the request."""
        self._failures_in_a_row += 1
        address = self.backend.address
        kept = f"replies so far are kept in {self.ledger.path}"
        if failure.fault == "fatal":
            self._stop(f"{failure}")
        elif failure.is_unreachable and self._last_success < started:
            self._stop(
                f"{address}: teacher cannot be reached: {error}; check synthesize.teacher.base_url and that the "
                f"server is up, then start again ({kept})"
            )
        elif self._failures_in_a_row >= 2 * self.settings.concurrency:
            self._stop(
                f"{address}: teacher failed {self._failures_in_a_row} requests in a row, last: {error}; "
                f"start again later ({kept})"
            )

    def _stop(self, message: str) -> None:
        if self.stop_error is None:
            self.stop_error = TeacherError(message)
        self._stopped.set()

    async def close(self) -> None:
        """Write what is left to write and close connections."""
        try:
            await self._writer.flush()
        finally:
            if self._is_open:
                await self.backend.close()


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
    """Group commit: answers that arrive while one transaction is being written share the next one."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._waiting: list[tuple[Entry, asyncio.Future[None]]] = []
        self._task: asyncio.Task[None] | None = None

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
                await asyncio.to_thread(self._ledger.record, [entry for entry, _ in batch])
            except Exception as caught:  # handed to whoever waits
                error = caught
            for _, done in batch:
                if done.cancelled():
                    continue
                if error is not None:
                    done.set_exception(error)
                else:
                    done.set_result(None)
