"""The teacher: a chat model behind an OpenAI-compatible server, or a function in this process.

    teacher = Teacher(settings, ledger)
    replies = teacher.ask([Request("q1|f1", user_message("..."))])

Requests run concurrently. Each reply is committed to the ledger before it is handed on, and a request that the
ledger knows is not sent. A request that fails again and again becomes a `Reply` with an error; it stops no other.
A teacher that refuses everything (wrong key, no such model, nobody there) stops the call with a `TeacherError`,
after the replies under way have been written down.
"""

from __future__ import annotations

import asyncio
import gc
import inspect
import threading
import time
from collections.abc import Callable, Coroutine, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TypeVar

from lamer.config import TeacherSettings
from lamer.teacher.batch import BatchSession
from lamer.teacher.budget import Budget
from lamer.teacher.client import Client
from lamer.teacher.clock import Clock
from lamer.teacher.ledger import Answer, Ledger, request_hash
from lamer.teacher.prices import find_price, load_prices, price_of
from lamer.teacher.requests import Backend, OnReply, Reply, Request, storable
from lamer.teacher.retry import BACKOFF_S
from lamer.teacher.session import Item, Session

Result = TypeVar("Result")
ReplyFunction = Callable[..., str]
"""`reply(messages) -> str`, or `reply(messages, **sampling) -> str` with model, temperature, max_tokens, seed and
what else the request holds (`response_format` where JSON is asked for)."""


class Teacher:
    """A chat model to ask, and the ledger that remembers what it said.

    Args:
        settings: Which model, where, and how patient to be.
        ledger: Where requests and replies are written.
        backoff_s: First wait before another try, in seconds.
        clock: What waits are measured in.

    Raises:
        ConfigError: If there is a ceiling on money and a price is not known, or the price table cannot be read.
    """

    def __init__(
        self,
        settings: TeacherSettings,
        ledger: Ledger,
        *,
        backoff_s: float = BACKOFF_S,
        clock: Clock | None = None,
    ) -> None:
        self.settings = settings
        self.ledger = ledger
        self.backoff_s = backoff_s
        self.clock = clock or Clock()
        self.price = price_of(settings)
        self.budget = Budget.of(ledger)
        self.budget.limit(settings)
        self._backend: Backend = Client(settings)

    @classmethod
    def from_callable(
        cls, reply: ReplyFunction, ledger: Ledger, settings: TeacherSettings | None = None, *, name: str = "local"
    ) -> Teacher:
        """A teacher that is a function of this process, through the same ledger.

        Args:
            reply: See `ReplyFunction`.
            ledger: Where requests and replies are written.
            settings: Sampling settings; their model is replaced by `name`.
            name: The model's name in the ledger and on the examples.
        """
        settings = (settings or TeacherSettings()).model_copy(update={"model": name})
        teacher = cls(settings, ledger)
        teacher.price = find_price(load_prices(settings.prices), name, host="")
        teacher._backend = _Local(reply, name)
        return teacher

    @property
    def model(self) -> str:
        """The model's name."""
        return self.settings.model

    @property
    def is_local(self) -> bool:
        """Whether it is a function of this process."""
        return isinstance(self._backend, _Local)

    def ask(self, requests: Iterable[Request], on_reply: OnReply | None = None) -> dict[str, Reply]:
        """All replies by key. `on_reply` is called as each arrives; order of arrival has no meaning.

        Raises:
            TeacherError: If the teacher cannot be reached or refuses to work.
        """
        replies: dict[str, Reply] = {}

        def take(reply: Reply) -> None:
            replies[reply.key] = reply
            if on_reply is not None:
                on_reply(reply)

        _run(self.complete_all(requests, take))
        return replies

    async def complete_all(self, requests: Iterable[Request], on_reply: OnReply) -> None:
        """Ask everything that the ledger does not know, `concurrency` at a time, or in batches (`settings.mode`).

        Requests that are the same (in all but their key) are sent once.

        Args:
            requests: What to ask.
            on_reply: Called once a request, after its reply is safe in the ledger.

        Raises:
            TeacherError: If the teacher cannot be reached or refuses to work; replies under way are kept.
            RunError: If the ledger cannot be written.
        """
        with _frozen_garbage():
            groups: dict[str, tuple[dict[str, Any], list[Request]]] = {}
            for request in requests:
                body = self.body(request)
                groups.setdefault(request_hash(body), (body, []))[1].append(request)
            await self._complete([Item(key, body, group) for key, (body, group) in groups.items()], on_reply)

    async def _complete(self, items: list[Item], on_reply: OnReply) -> None:
        if isinstance(self._backend, Client):
            batches = BatchSession(self.settings, self.ledger, self._backend, on_reply, self.backoff_s, self.price)
            if self.settings.mode == "batch":
                await batches.ask(items)
                return
            await batches.settle(items)
        session = Session(
            self.settings, self.ledger, self._backend, on_reply,
            backoff_s=self.backoff_s, clock=self.clock, price=self.price,
        )  # fmt: skip
        unknown = session.unknown(items)
        rest = iter(unknown)
        num_workers = min(self.settings.concurrency, len(unknown))
        with self.ledger.session(num_workers):
            workers = [asyncio.create_task(session.work(rest)) for _ in range(num_workers)]
            try:
                await asyncio.gather(*workers)
            finally:
                for worker in workers:
                    worker.cancel()
                await asyncio.gather(*workers, return_exceptions=True)
                await session.close()
        if session.stop_error is not None:
            raise session.stop_error

    def body(self, request: Request) -> dict[str, Any]:
        """Everything that decides the reply."""
        body = {
            "model": self.settings.model,
            "messages": list(request.messages),
            "temperature": self.settings.temperature,
            "max_tokens": self.settings.max_tokens,
            "seed": request.seed,
            "template": request.template,
        }
        optional = {"top_p": self.settings.top_p, "response_format": request.response_format}
        return body | {name: value for name, value in optional.items() if value is not None}


class _Local:
    """A function of this process."""

    def __init__(self, reply: ReplyFunction, name: str) -> None:
        self.address = name
        self._function = reply
        kinds = [parameter.kind for parameter in inspect.signature(reply).parameters.values()]
        self._takes_sampling = inspect.Parameter.VAR_KEYWORD in kinds

    def open(self) -> None:
        """Always ready."""

    async def send(self, request: Mapping[str, Any]) -> Answer:
        """Call the function."""
        started = time.monotonic()
        messages = [dict(message) for message in request["messages"]]
        sampling = {key: value for key, value in request.items() if key not in ("messages", "template")}
        text = self._function(messages, **sampling) if self._takes_sampling else self._function(messages)
        return Answer(storable(text) or None, "stop", seconds=time.monotonic() - started)

    async def close(self) -> None:
        """Nothing to close."""


@contextmanager
def _frozen_garbage() -> Iterator[None]:
    """Meanwhile the garbage collector passes over what is there already: going through it holds up replies."""
    if gc.get_freeze_count():  # the program's own
        yield
        return
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


def _run(work: Coroutine[Any, Any, Result]) -> Result:
    """Run a coroutine to its end, also from code that is itself run by an event loop (a notebook)."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(work)
    results: list[Result] = []
    errors: list[BaseException] = []

    def target() -> None:
        try:
            results.append(asyncio.run(work))
        except BaseException as error:  # carried over to the caller's thread
            errors.append(error)

    thread = threading.Thread(target=target)
    thread.start()
    thread.join()
    if errors:
        raise errors[0]
    return results[0]
