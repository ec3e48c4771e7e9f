"""Requests asked through the Batch API: sent as files, answered within a day at half the price.

What is about to be sent is written down first (`batch_table`). A start after a kill finds the batches again, those
too that the service made without this side knowing, and collects them; only what is in none of them is sent.
Results are in the ledger before a batch counts as collected, under the same hashes as replies to single requests:
the mode may change between starts.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from lamer.config import TeacherSettings
from lamer.errors import TeacherError
from lamer.progress import say
from lamer.teacher.batch_client import BatchClient, CallFailure
from lamer.teacher.batch_lines import MAX_REQUESTS, Result, Results, read_results, request_line, split
from lamer.teacher.batch_seats import Seats
from lamer.teacher.batch_service import BatchService
from lamer.teacher.batch_table import Batch, BatchTable
from lamer.teacher.client import Client
from lamer.teacher.ledger import Answer, Entry, Ledger
from lamer.teacher.prices import Price
from lamer.teacher.requests import BUDGET_REACHED, Failure, OnReply
from lamer.teacher.retry import NO_MONEY_CODES
from lamer.teacher.session import Item, _reply

if TYPE_CHECKING:
    from openai.types import Batch as RemoteBatch

ENDED = frozenset({"completed", "failed", "expired", "cancelled"})
FULL = "token_limit_exceeded"
"""The account has too many tokens enqueued: the batch was not accepted, nothing of it is paid."""
FATAL_CODES = NO_MONEY_CODES | {"model_not_found", "invalid_model", "invalid_api_key"}
"""Reasons of a failed batch that the next one would fail of as well."""
MAX_DOWNLOADS = 3
"""Tries to read a file whose lines are broken or fewer than the service counts."""
MAX_SILENT_LOOKS = 10
"""Looks at batches that may fail in a row, each after `max_retries`, before the wait is given up."""
MAX_REFUSALS = 12
"""Batches that may be refused in a row because the account's queue is full while none of ours is in it."""
MAX_HOLD_POLLS = 30
"""Longest wait for room in the account's queue, in polls."""
TELL_INTERVAL_S = 600.0
"""Seconds between lines about a batch in which nothing changes."""
ROWS_PER_COMMIT = 1000


class BatchSession:
    """One call of `complete_all`: requests in batches.

    Args:
        settings: The teacher's.
        ledger: Holds replies and batches.
        client: What single requests are sent with; not opened.
        on_reply: Called once a request, after its reply is safe in the ledger.
        backoff_s: First wait before a call is tried again, in seconds.
        price: What the model costs; None: not known.
    """

    def __init__(
        self,
        settings: TeacherSettings,
        ledger: Ledger,
        client: Client,
        on_reply: OnReply,
        backoff_s: float,
        price: Price | None = None,
    ) -> None:
        self.settings = settings
        self.ledger = ledger
        self.client = BatchClient(client)
        self.on_reply = on_reply
        self._table = BatchTable(ledger)
        self._service = BatchService(self.client, settings, backoff_s)
        self._seats = Seats(settings, ledger, price)
        self._wanted: dict[str, Item] = {}
        """By hash: what has no reply yet."""
        self._open: dict[str, Batch] = {}
        """By our id: what the service may be working on."""
        self._tries: Counter[str] = Counter()
        self._max_requests = MAX_REQUESTS
        self._num_refusals = 0
        self._is_tight = False
        """The account's queue was full once: batches are sent one by one from then on."""
        self._is_full = False
        """It was full at the last try, and no batch has ended since."""
        self._num_silent_looks = 0
        self._told: dict[str, tuple[str, float]] = {}

    async def ask(self, items: Sequence[Item]) -> None:
        """Reply to every item, from the ledger, from batches that are under way, and from new ones.

        Raises:
            TeacherError: If the service cannot be reached or refuses; batches under way stay there and are
                collected by the next start.
        """
        self._want(items)
        if self._wanted:
            await self._guard(self._work())

    async def settle(self, items: Sequence[Item]) -> None:
        """Before requests are asked one by one: end the batches that hold some of them, and keep their answers.

        What a batch has not answered when it is cancelled is not paid, and free to be asked again.

        Raises:
            TeacherError: As for `ask`.
        """
        hashes = {item.hash for item in items}
        held = [batch for batch in self._table.open_batches() if not hashes.isdisjoint(batch.requests)]
        self._seats.purposes.update({item.hash: item.purpose for item in items})
        held = [batch for batch in held if any(self.ledger.find(key) is None for key in batch.requests)]
        if held:
            await self._guard(self._end(held))

    def _want(self, items: Sequence[Item]) -> None:
        self._seats.purposes.update({item.hash: item.purpose for item in items})
        for item in items:
            answer = self.ledger.find(item.hash)
            if answer is None:
                self._wanted[item.hash] = item
            else:
                self._hand_on(item, answer, None, is_cached=True)

    async def _guard(self, work: Any) -> None:
        """Run, and say what becomes of batches under way when it is stopped."""
        try:
            self.client.open()
            await work
        except CallFailure as failure:
            raise TeacherError(self._stop_message(failure)) from None
        except asyncio.CancelledError:
            self._tell_left_behind()
            raise
        finally:
            work.close()
            self._seats.close()
            await self.client.close()

    async def _work(self) -> None:
        await self._resume()
        while self._wanted:
            await self._submit_all()
            if not await self._look():
                await asyncio.sleep(self.settings.poll_s)

    async def _end(self, batches: Sequence[Batch]) -> None:
        """Cancel batches, wait for their end, keep what they answered."""
        for unsent in await self._find_again(batches):
            self._table.finish(unsent, "unsent")
        for batch in self._open.values():
            assert batch.remote_id is not None
            say(
                f"batch {batch.remote_id}: cancelled because synthesize.teacher.mode is online; what it has "
                "answered is kept, the rest is asked online"
            )
            await self._service.cancel(batch.remote_id)
        while self._open:
            if not await self._look(is_ending=True):
                await asyncio.sleep(min(self.settings.poll_s, 10.0))

    # What an earlier start has left.

    async def _resume(self) -> None:
        """Take up the batches of earlier starts; those that were never made are made now if they are wanted."""
        unsent = await self._find_again(self._table.open_batches())
        for batch in unsent:
            wanted = batch.requests if batch.requests.keys() <= self._waiting().keys() else {}
            taken = self._seats.reserve(wanted)
            if wanted and len(taken) == len(wanted):
                await self._submit(batch, is_resumed=True)
            else:
                self._seats.release(taken)
                self._table.finish(batch, "unsent")

    async def _find_again(self, batches: Sequence[Batch]) -> list[Batch]:
        """Fill `_open`; returns the batches that the service has never made."""
        here = [batch for batch in batches if batch.address == self.client.address]
        for batch in batches:
            if batch.address != self.client.address:
                say(
                    f"a batch of {len(batch.requests)} requests is left at {batch.address}; it can be collected "
                    "with that synthesize.teacher.base_url only"
                )
        unknown = [batch for batch in here if batch.remote_id is None]
        found = await self._service.find(unknown) if unknown else {}
        for batch in here:
            if batch.id in found:
                self._made(batch, found[batch.id])
            elif batch.remote_id is not None:
                self._open[batch.id] = batch
            if batch.id in self._open:
                self._seats.hold(batch.requests)
        return [batch for batch in unknown if batch.id not in found]

    # Sending.

    def _waiting(self) -> dict[str, Item]:
        """Wanted, and in no batch."""
        held = {key for batch in self._open.values() for key in batch.requests}
        return {key: item for key, item in self._wanted.items() if key not in held}

    async def _submit_all(self) -> None:
        """Send what waits, in as few batches as the service's limits allow."""
        while waiting := self._waiting():
            if self._is_full:
                if self._open:
                    return
                await self._wait_for_room()
            if self._is_tight and any(b.remote_status in (None, "validating") for b in self._open.values()):
                return
            keys = list(waiting)
            sizes = [len(self._line(key, waiting[key].body)) for key in keys]
            for part in split(sizes, self._max_requests):
                bodies = self._seats.reserve({keys[n]: waiting[keys[n]].body for n in part})
                if not bodies:
                    if self._open or not await self._seats.is_reached(keys[part[0]], waiting[keys[part[0]]].body):
                        return
                    for key in keys[part[0] :]:
                        self._reply_to(key, None, BUDGET_REACHED)
                    return
                was_sent = await self._submit(self._table.intend(self.client.address, bodies))
                if not was_sent or self._is_tight or len(bodies) < len(part):
                    break

    async def _submit(self, batch: Batch, *, is_resumed: bool = False) -> bool:
        """Send the file, make the batch; every step is written down before the next. False if it was too large."""
        content = b"".join(self._line(key, body) for key, body in batch.requests.items())
        try:
            if batch.file_id is None:
                file_id = await self._service.find_file(batch, len(content)) if is_resumed else None
                self._table.update(batch, file_id=file_id or await self._service.upload(batch, content))
            self._table.update(batch, status="creating")
            remote = await self._service.create(batch)
        except CallFailure as failure:
            if failure.status is None or failure.status >= 500:
                raise  # it may have been made: the next start looks for it
            self._table.finish(batch, "unsent", str(failure))
            self._seats.release(batch.requests)
            if failure.code == FULL or (failure.status == 413 and len(batch.requests) > 1):
                self._refused(batch)
                return False
            raise
        self._made(batch, remote)
        return True

    def _made(self, batch: Batch, remote: RemoteBatch) -> None:
        self._table.update(batch, remote_id=remote.id, status="submitted", remote_status=remote.status)
        self._open[batch.id] = batch

    def _line(self, key: str, body: Mapping[str, Any]) -> bytes:
        return request_line(key, self.client.body_of(body))

    def _refused(self, batch: Batch) -> None:
        """The account's queue is full: smaller batches, later."""
        self._is_tight = self._is_full = True
        self._num_refusals += 1
        self._max_requests = max(1, min(self._max_requests, len(batch.requests)) // 2)

    async def _wait_for_room(self) -> None:
        """None of our batches is in the queue: others fill it, or one batch is too large for it."""
        if self._num_refusals > MAX_REFUSALS:
            raise TeacherError(
                f"{self.client.address}: the account's limit of enqueued tokens leaves no room for a batch of "
                f"{self._max_requests} requests; start again when its other batches are done, or set "
                f"synthesize.teacher.mode to online ({self._kept})"
            )
        await asyncio.sleep(self.settings.poll_s * min(2 ** (self._num_refusals - 1), MAX_HOLD_POLLS))
        self._is_full = False

    # Waiting.

    async def _look(self, *, is_ending: bool = False) -> bool:
        """Look at every open batch once; whether one has ended."""
        has_ended = False
        for batch in list(self._open.values()):
            assert batch.remote_id is not None
            try:
                remote = await self._service.retrieve(batch.remote_id)
            except CallFailure as failure:
                self._bear(failure, batch, is_ending=is_ending)
                has_ended |= batch.id not in self._open
                continue
            self._num_silent_looks = 0
            if remote.status != batch.remote_status:
                self._table.update(batch, remote_status=remote.status)
            if remote.status in ENDED:
                await self._collect(batch, remote)
                has_ended = True
            else:
                if remote.status != "validating":
                    self._num_refusals = 0
                self._tell_progress(remote)
        return has_ended

    def _bear(self, failure: CallFailure, batch: Batch, *, is_ending: bool) -> None:
        """A look that failed: batches run for hours, the network may be away for minutes."""
        if failure.status == 404:
            if not is_ending:
                raise TeacherError(
                    f"{self.client.address}: batch {batch.remote_id} is not known there; use the key that made it "
                    f"({self.settings.api_key_env}), or ask its {len(batch.requests)} requests again with "
                    "synthesize.teacher.mode=online"
                )
            self._over(batch, "lost", "the service does not know it")
            return
        self._num_silent_looks += 1
        if (
            failure.fault != "transient"
            or not self._service.was_reached
            or self._num_silent_looks > MAX_SILENT_LOOKS
        ):
            raise failure
        say(f"batch {batch.remote_id}: {failure}; looking again in {self.settings.poll_s:g} s")

    def _tell_progress(self, remote: RemoteBatch) -> None:
        line, now = progress_line(remote, time.time()), time.monotonic()
        counts = line.rpartition(", ")[0]
        last, at = self._told.get(remote.id, ("", 0.0))
        if counts != last or now - at >= TELL_INTERVAL_S:
            self._told[remote.id] = (counts, now)
            say(line)

    def _tell_left_behind(self) -> None:
        batches = [batch for batch in self._open.values() if batch.remote_id is not None]
        if batches:
            num_requests = sum(len(batch.requests) for batch in batches)
            say(
                f"{_count(len(batches), 'batch', 'batches')} with {num_requests} requests "
                f"{'runs' if len(batches) == 1 else 'run'} on at {self.client.address}; the same command collects "
                "the replies later"
            )

    # Collecting.

    async def _collect(self, batch: Batch, remote: RemoteBatch) -> None:
        """Record every answer of a batch that has ended; the rest fails, or waits to be asked again."""
        results = await self._results(batch, remote)
        told, refused_lines = _batch_errors(remote)
        told = self.client.told(told)
        seconds = float(max((remote.completed_at or remote.created_at) - remote.created_at, 0))
        entries: list[Entry] = []
        again: dict[str, str] = {}
        final: dict[str, str] = {}
        fatal = next((told for code in _codes(remote) if code in FATAL_CODES), None)
        for number, (key, body) in enumerate(batch.requests.items(), start=1):
            result = results.by_key.get(key)
            try:
                if result is None:
                    reason = refused_lines.get(number)
                    raise Failure(
                        self.client.told(reason) if reason else told or f"batch {remote.status} without a result",
                        "request" if reason else "transient",
                    )
                answer = self._answer(result, body, seconds)
                cost = self._seats.settle(key, answer)
                purpose = self._seats.purposes.get(key, "")
                entries.append(Entry(key, str(body.get("model")), body, answer, purpose, cost))
            except Failure as failure:
                if result.is_ok if result is not None else remote.output_file_id:
                    self._seats.lose(key, str(failure))
                if failure.fault == "fatal":
                    fatal = fatal or str(failure)
                (final if failure.fault == "request" else again)[key] = str(failure)
        for start in range(0, len(entries), ROWS_PER_COMMIT):
            await asyncio.to_thread(self.ledger.record, entries[start : start + ROWS_PER_COMMIT])
        is_refused = FULL in _codes(remote) and not entries
        note = told or f"{len(entries)} answered, {len(again)} to be asked again, {len(final)} failed"
        self._over(batch, "collected", note)
        for entry in entries:
            self._reply_to(entry.hash, entry.answer, None)
        for key, reason in final.items():
            self._fail(key, reason, 1)
        if fatal is not None:
            raise TeacherError(f"{fatal} ({self._kept})")
        if is_refused:
            self._refused(batch)
            return
        self._is_full, self._num_refusals = False, 0
        for key, reason in again.items():
            self._tries[key] += 1
            if self._tries[key] > self.settings.max_retries:
                self._fail(key, reason, self._tries[key])
        if again:
            say(
                f"batch {remote.id} {remote.status}: {len(entries)} of {len(batch.requests)} answered, "
                f"{len(again)} to be asked again (last: {list(again.values())[-1]})"
            )

    async def _results(self, batch: Batch, remote: RemoteBatch) -> Results:
        """What the files of a batch say; one that looks cut short is loaded again before money is spent anew."""
        results = Results()
        for file_id in (remote.output_file_id, remote.error_file_id):
            if not file_id:
                continue
            found = Results()
            for _ in range(MAX_DOWNLOADS):
                content = await self._service.download(file_id)
                if content is None:
                    say(f"batch {remote.id}: the service has deleted the file {file_id}")
                    break
                found.add(read_results(content))
                if not found.broken and not self._is_cut(found, file_id, remote):
                    break
            if found.broken:
                lines = ", ".join(str(number) for number in found.broken[:5])
                more = ", ..." if len(found.broken) > 5 else ""
                say(
                    f"batch {remote.id}: {_count(len(found.broken), 'line', 'lines')} of {file_id} cannot be read "
                    f"({lines}{more}); the requests without a result are asked again"
                )
            found.broken = []
            results.add(found)
        return results

    def _is_cut(self, found: Results, file_id: str, remote: RemoteBatch) -> bool:
        """Whether a file of answers has fewer than the service has counted."""
        counted = remote.request_counts.completed if remote.request_counts is not None else 0
        return file_id == remote.output_file_id and len(found.by_key) < counted

    def _answer(self, result: Result, body: Mapping[str, Any], seconds: float) -> Answer:
        if result.is_ok:
            return self.client.read(result.body, seconds)
        if result.status is None:
            raise Failure(self.client.told(result.message or result.code or "no reason given"))
        raise self.client.failure(result.status, result.body, body)

    def _over(self, batch: Batch, status: Any, note: str) -> None:
        self._table.finish(batch, status, note)
        self._seats.release(batch.requests)
        del self._open[batch.id]

    def _fail(self, key: str, reason: str, num_tries: int) -> None:
        error = f"{reason} ({_count(num_tries, 'try', 'tries')})"
        if key in self._wanted:
            self.ledger.record_failure(key, self.settings.model, error, 0.0)
            self._reply_to(key, None, error)

    def _reply_to(self, key: str, answer: Answer | None, error: str | None) -> None:
        item = self._wanted.pop(key, None)
        if item is not None:
            self._hand_on(item, answer, error, is_cached=False)

    def _hand_on(self, item: Item, answer: Answer | None, error: str | None, *, is_cached: bool) -> None:
        for number, request in enumerate(item.requests):
            self.on_reply(_reply(request, answer, error, is_cached=is_cached or number > 0))

    @property
    def _kept(self) -> str:
        return f"replies so far are kept in {self.ledger.path}"

    def _stop_message(self, failure: CallFailure) -> str:
        address, left = self.client.address, ""
        if self._open:
            left = "; batches under way stay there and are collected by the next start"
        if failure.status == 404:
            return (
                f"{address}: no Batch API there: {failure}; set synthesize.teacher.mode to online, or check "
                "synthesize.teacher.base_url"
            )
        if failure.fault == "fatal":
            return f"{failure}{left}"
        if failure.is_unreachable:
            return (
                f"{address}: teacher cannot be reached: {failure}; check synthesize.teacher.base_url and that the "
                f"server is up, then start again ({self._kept}{left})"
            )
        return f"{address}: batches fail: {failure}; start again later ({self._kept}{left})"


def progress_line(remote: RemoteBatch, now: float) -> str:
    """How a batch is doing: `batch b: in_progress, 120 of 400 answered, 23.5 h until it expires`.

    Args:
        remote: As the service tells it.
        now: Unix time, in seconds.
    """
    told = f"batch {remote.id}: {remote.status}"
    counts = remote.request_counts
    if counts is not None and counts.total:
        told += f", {counts.completed} of {counts.total} answered"
        told += f", {counts.failed} failed" if counts.failed else ""
    expires_at = remote.expires_at or remote.created_at + 86400
    return f"{told}, {max(expires_at - now, 0) / 3600:.1f} h until it expires"


def _codes(remote: RemoteBatch) -> list[str]:
    """Why a whole batch failed."""
    errors = (remote.errors.data if remote.errors is not None else None) or []
    return [error.code for error in errors if error.code and error.line is None]


def _batch_errors(remote: RemoteBatch) -> tuple[str, dict[int, str]]:
    """What is said of the whole batch (empty: nothing), and of lines of its file by number, from 1."""
    errors = (remote.errors.data if remote.errors is not None else None) or []
    whole = [error.message or error.code or "no reason given" for error in errors if error.line is None]
    lines = {
        error.line: error.message or error.code or "no reason given" for error in errors if error.line is not None
    }
    return (f"batch {remote.status}: {whole[0]}" if whole else ""), lines


def _count(count: int, one: str, many: str) -> str:
    return f"{count} {one if count == 1 else many}"
