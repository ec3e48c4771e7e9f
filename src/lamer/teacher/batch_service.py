"""The service's side of a batch: files and batches of an OpenAI-compatible API, every call tried again.

A call that failed half-way may have been carried out all the same. So before a batch is made a second time it is
looked for, by the id of ours that it carries as metadata and by its file.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable, Sequence
from itertools import count
from typing import TYPE_CHECKING, Any, TypeVar

from lamer.config import TeacherSettings
from lamer.teacher.batch_client import BatchClient, CallFailure
from lamer.teacher.batch_lines import URL
from lamer.teacher.batch_table import Batch
from lamer.teacher.retry import backoff_s

if TYPE_CHECKING:
    import openai
    from openai.types import Batch as RemoteBatch

Result = TypeVar("Result")

METADATA_KEY = "lamer_batch"
PAGE_SIZE = 100
CLOCK_SKEW_S = 86400.0
"""Batches that the service dates this much before our own record are not looked at any further."""
MAX_TRIES_UNREACHED = 3
"""Tries of a call while no connection was ever made: a wrong address should be told soon."""
SETTLE_BACKOFFS = 20
"""A batch that may have been made is looked for again this many first waits after it was sent (10 s)."""


def file_name(batch_id: str) -> str:
    """What the file of requests of a batch is called at the service."""
    return f"lamer-{batch_id}.jsonl"


class BatchService:
    """Files and batches of one account.

    Every method raises `CallFailure` when its call was refused, or failed as often as `max_retries` allows.
    """

    def __init__(self, client: BatchClient, settings: TeacherSettings, backoff_s: float) -> None:
        self.client = client
        self.settings = settings
        self.backoff_s = backoff_s
        self.was_reached = False

    async def upload(self, batch: Batch, content: bytes) -> str:
        """Send the file of requests; its id."""
        file = (file_name(batch.id), content, "application/jsonl")
        return (await self._call(lambda api: api.files.create(file=file, purpose="batch"))).id

    async def find_file(self, batch: Batch, num_bytes: int) -> str | None:
        """The id of the file that an earlier process has sent."""

        async def look(api: openai.AsyncOpenAI) -> str | None:
            seen = set()
            async for file in api.files.list(purpose="batch", order="desc", limit=10 * PAGE_SIZE):
                if file.filename == file_name(batch.id) and file.bytes == num_bytes:
                    return file.id
                if file.id in seen or _is_before(file, batch.created):
                    break
                seen.add(file.id)
            return None

        return await self._call(look)

    async def create(self, batch: Batch) -> RemoteBatch:
        """Make a batch of the file that was sent; after a try whose outcome is not known, look for it first."""
        import openai

        assert batch.file_id is not None
        file_id, is_unclear = batch.file_id, False

        async def make(api: openai.AsyncOpenAI) -> RemoteBatch:
            nonlocal is_unclear
            if is_unclear:
                await asyncio.sleep(SETTLE_BACKOFFS * self.backoff_s)
                found = (await self._look([batch], api)).get(batch.id)
                if found is not None:
                    return found
            is_unclear = True
            try:
                return await api.batches.create(
                    input_file_id=file_id,
                    endpoint=URL,
                    completion_window="24h",
                    metadata={METADATA_KEY: batch.id},
                    extra_headers={"Idempotency-Key": batch.id},
                )
            except openai.APIStatusError as error:
                is_unclear = error.status_code >= 500
                raise

        return await self._call(make)

    async def find(self, batches: Sequence[Batch]) -> dict[str, RemoteBatch]:
        """Those of our batches that the service knows, by our id.

        A batch that may have been sent a moment ago is given some time to turn up.
        """
        found = await self._call(lambda api: self._look(batches, api))
        doubtful = [batch for batch in batches if batch.status == "creating" and batch.id not in found]
        wait = SETTLE_BACKOFFS * self.backoff_s - min((time.time() - b.updated for b in doubtful), default=1e9)
        if wait > 0:
            await asyncio.sleep(min(wait, SETTLE_BACKOFFS * self.backoff_s))
            found |= await self._call(lambda api: self._look(doubtful, api))
        return found

    async def retrieve(self, remote_id: str) -> RemoteBatch:
        """How a batch is doing."""
        return await self._call(lambda api: api.batches.retrieve(remote_id))

    async def cancel(self, remote_id: str) -> None:
        """Stop a batch; it keeps what was answered. One that is ending anyway is left alone."""
        try:
            await self._call(lambda api: api.batches.cancel(remote_id))
        except CallFailure as failure:
            if failure.fault == "fatal" and failure.status != 404:
                raise

    async def download(self, file_id: str) -> bytes | None:
        """A file of results; None if the service has it no more."""

        async def load(api: openai.AsyncOpenAI) -> bytes:
            return (await api.files.content(file_id)).content

        try:
            return await self._call(load)
        except CallFailure as failure:
            if failure.status in (404, 410):
                return None
            raise

    async def _look(self, batches: Sequence[Batch], api: openai.AsyncOpenAI) -> dict[str, RemoteBatch]:
        """Go through the account's batches, newest first, page by page, until all are found or too old."""
        found: dict[str, RemoteBatch] = {}
        if not batches:
            return found
        by_file = {batch.file_id: batch.id for batch in batches if batch.file_id is not None}
        ids = {batch.id for batch in batches}
        oldest, seen = min(batch.created for batch in batches), set()
        async for remote in api.batches.list(limit=PAGE_SIZE):
            known = (remote.metadata or {}).get(METADATA_KEY) or by_file.get(remote.input_file_id)
            if known in ids:
                found.setdefault(known, remote)
            if len(found) == len(ids) or remote.id in seen or _is_before(remote, oldest):
                break
            seen.add(remote.id)
        return found

    async def _call(self, call: Callable[[openai.AsyncOpenAI], Awaitable[Result]]) -> Result:
        for num_tries in count(1):
            try:
                result = await self.client.call(call)
            except CallFailure as failure:
                self.was_reached = self.was_reached or not failure.is_unreachable
                allowed = self.settings.max_retries + 1
                if failure.is_unreachable and not self.was_reached:
                    allowed = min(allowed, MAX_TRIES_UNREACHED)
                if failure.fault != "transient" or num_tries >= allowed:
                    raise
                wait = backoff_s(num_tries, random.random(), self.backoff_s)
                granted = min(failure.retry_after or 0.0, self.settings.max_retry_after_s)
                await asyncio.sleep(max(wait, granted))
                continue
            self.was_reached = True
            return result
        raise AssertionError("unreachable")


def _is_before(remote: Any, created: float) -> bool:
    """Whether the service made something well before our record of it."""
    at = getattr(remote, "created_at", None)
    return isinstance(at, int | float) and at > 0 and at < created - CLOCK_SKEW_S
