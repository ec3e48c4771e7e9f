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
import inspect
import os
import random
import re
import threading
import time
from collections.abc import Callable, Coroutine, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import count
from typing import TYPE_CHECKING, Any, Protocol, TypeVar
from urllib.parse import urlsplit

from lamer.config import TeacherSettings
from lamer.errors import TeacherError
from lamer.synthesis.ledger import Answer, Entry, Ledger, request_hash
from lamer.synthesis.retry import BACKOFF_S, Fault, backoff_s, fault_of, retry_after_s

if TYPE_CHECKING:
    import openai

OPENAI_URL = "https://api.openai.com/v1"
DUMMY_KEY = "unused"
"""Sent to servers that need no key; the client insists on one."""
MIN_SECRET_LENGTH = 8
"""A shorter key is a placeholder of a local server, not a secret to be blotted out of replies."""
MAX_TRIES_UNREACHED = 3
"""Tries of a request while no connection was ever made: a wrong address should be told soon."""
MAX_ERROR_LENGTH = 200

Result = TypeVar("Result")
Message = dict[str, str]
ReplyFunction = Callable[..., str]
"""`reply(messages) -> str`, or `reply(messages, **sampling) -> str` with model, temperature, max_tokens, seed."""


def user_message(text: str) -> tuple[Message, ...]:
    """Messages that consist of one user message."""
    return ({"role": "user", "content": text},)


@dataclass(frozen=True, slots=True)
class Request:
    """One question to the teacher."""

    key: str
    """The caller's name for it; unique within one call."""
    messages: tuple[Message, ...]
    seed: int = 0
    """Sampling seed; another seed is another request, so that the same messages can be asked again."""
    template: str = ""
    """Hash of the prompt template, part of the request's identity in the ledger."""


@dataclass(frozen=True, slots=True)
class Reply:
    """What came of a request."""

    key: str
    text: str | None
    """None when there is none: see `error` and `finish_reason`."""
    finish_reason: str | None = None
    """As the server says: `stop`, `length` (cut off), `content_filter`, ..."""
    error: str | None = None
    """Why the request was given up; None for an answered one. It is asked again at the next start."""
    is_cached: bool = False
    """Taken from the ledger, not sent."""
    prompt_tokens: int = 0
    completion_tokens: int = 0


OnReply = Callable[[Reply], None]


class Failure(Exception):  # noqa: N818 - not an error of the program: the retry loop decides what it becomes
    """One try failed."""

    def __init__(
        self,
        message: str,
        fault: Fault = "transient",
        *,
        retry_after: float | None = None,
        is_unreachable: bool = False,
    ) -> None:
        super().__init__(message)
        self.fault = fault
        self.retry_after = retry_after
        self.is_unreachable = is_unreachable


class Backend(Protocol):
    """Where requests go."""

    address: str

    def open(self) -> None:
        """Get ready; raises TeacherError when it never will be."""

    async def send(self, request: Mapping[str, Any]) -> Answer:
        """One try; raises Failure."""

    async def close(self) -> None:
        """Let go of connections."""


class Teacher:
    """A chat model to ask, and the ledger that remembers what it said.

    Args:
        settings: Which model, where, and how patient to be.
        ledger: Where requests and replies are written.
        backoff_s: First wait before another try, in seconds.
    """

    def __init__(self, settings: TeacherSettings, ledger: Ledger, *, backoff_s: float = BACKOFF_S) -> None:
        self.settings = settings
        self.ledger = ledger
        self.backoff_s = backoff_s
        self._backend: Backend = _Server(settings)

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
        teacher._backend = _Local(reply, name)
        return teacher

    @property
    def model(self) -> str:
        """The model's name."""
        return self.settings.model

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
        """Ask everything that the ledger does not know, `concurrency` at a time.

        Requests that are the same (in all but their key) are sent once.

        Args:
            requests: What to ask.
            on_reply: Called once a request, after its reply is safe in the ledger.

        Raises:
            TeacherError: If the teacher cannot be reached or refuses to work; replies under way are kept.
            RunError: If the ledger cannot be written.
        """
        groups: dict[str, list[Request]] = {}
        for request in requests:
            groups.setdefault(request_hash(self._body(request)), []).append(request)
        session = _Session(self, on_reply)
        items = iter(groups.items())
        num_workers = min(self.settings.concurrency, len(groups))
        workers = [asyncio.create_task(session.work(items)) for _ in range(num_workers)]
        try:
            await asyncio.gather(*workers)
        finally:
            for worker in workers:
                worker.cancel()
            await asyncio.gather(*workers, return_exceptions=True)
            await session.close()
        if session.stop_error is not None:
            raise session.stop_error

    def _body(self, request: Request) -> dict[str, Any]:
        """Everything that decides the reply."""
        return {
            "model": self.settings.model,
            "messages": list(request.messages),
            "temperature": self.settings.temperature,
            "max_tokens": self.settings.max_tokens,
            "seed": request.seed,
            "template": request.template,
        }


class _Session:
    """One call of `complete_all`."""

    def __init__(self, teacher: Teacher, on_reply: OnReply) -> None:
        self.teacher = teacher
        self.backend = teacher._backend
        self.on_reply = on_reply
        self.stop_error: TeacherError | None = None
        self._stopped = asyncio.Event()
        self._writer = _Writer(teacher.ledger)
        self._is_open = False
        self._not_before = 0.0
        self._last_success = 0.0
        self._failures_in_a_row = 0

    async def work(self, items: Iterator[tuple[str, list[Request]]]) -> None:
        """Take requests until none is left or the teacher has stopped."""
        for key, group in items:
            if self._stopped.is_set():
                return
            answer = self.teacher.ledger.find(key)
            is_cached = answer is not None
            error = None
            if answer is None:
                answer, error = await self._ask(key, self.teacher._body(group[0]))
                if self._stopped.is_set() and answer is None:
                    return
            for number, request in enumerate(group):
                self.on_reply(_reply(request, answer, error, is_cached=is_cached or number > 0))

    async def _ask(self, key: str, request: Mapping[str, Any]) -> tuple[Answer | None, str | None]:
        """The answer, recorded, or why there is none."""
        started = time.monotonic()
        for num_tries in count(1):
            await self._wait(self._not_before - time.monotonic())
            if self._stopped.is_set():
                break
            try:
                answer = await self._send(request)
            except Failure as failure:
                if self._is_final(failure, num_tries):
                    error = f"{failure} ({num_tries} {'try' if num_tries == 1 else 'tries'})"
                    self.teacher.ledger.record_failure(key, self.teacher.model, error, time.monotonic() - started)
                    self._give_up(failure, error, started)
                    return None, error
                await self._hold_back(failure, num_tries)
                continue
            self._last_success, self._failures_in_a_row = time.monotonic(), 0
            await self._writer.write(Entry(key, self.teacher.model, request, answer))
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
        allowed = self.teacher.settings.max_retries + 1
        if failure.is_unreachable and not self._last_success:
            allowed = min(allowed, MAX_TRIES_UNREACHED)
        return failure.fault != "transient" or num_tries >= allowed

    async def _hold_back(self, failure: Failure, num_tries: int) -> None:
        """Wait before the next try; a Retry-After holds back every other request as well."""
        if failure.retry_after is not None:
            self._not_before = max(self._not_before, time.monotonic() + failure.retry_after)
        await self._wait(backoff_s(num_tries, random.random(), self.teacher.backoff_s))

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
        kept = f"replies so far are kept in {self.teacher.ledger.path}"
        if failure.fault == "fatal":
            self._stop(f"{failure}")
        elif failure.is_unreachable and self._last_success < started:
            self._stop(
                f"{address}: teacher cannot be reached: {error}; check synthesize.teacher.base_url and that the "
                f"server is up, then start again ({kept})"
            )
        elif self._failures_in_a_row >= 2 * self.teacher.settings.concurrency:
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


class _Writer:
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
        sampling = {key: request[key] for key in ("model", "temperature", "max_tokens", "seed")}
        text = self._function(messages, **sampling) if self._takes_sampling else self._function(messages)
        return Answer(storable(text) or None, "stop", seconds=time.monotonic() - started)

    async def close(self) -> None:
        """Nothing to close."""


class _Server:
    """An OpenAI-compatible server, through the `openai` client."""

    def __init__(self, settings: TeacherSettings) -> None:
        self.settings = settings
        self.address = (settings.base_url or OPENAI_URL).rstrip("/")
        self._client: openai.AsyncOpenAI | None = None
        self._secret = _Secret("")
        self._renamed: dict[str, str | None] = {}

    def open(self) -> None:
        """Make the client; nothing is sent yet."""
        self._secret = api_key(self.settings)
        import openai

        self._client = openai.AsyncOpenAI(
            api_key=self._secret.value or DUMMY_KEY,
            base_url=self.address,
            max_retries=0,
            timeout=self.settings.timeout_s,
        )

    async def close(self) -> None:
        """Close connections and forget the key."""
        if self._client is not None:
            await self._client.close()
        self._client, self._secret = None, _Secret("")

    async def send(self, request: Mapping[str, Any]) -> Answer:
        """One try over HTTP; a parameter that the server does not know is renamed or left out from then on."""
        while True:
            body = {
                name: value
                for key, value in request.items()
                if key != "template" and (name := self._renamed.get(key, key)) is not None
            }
            try:
                return await self._try(body)
            except _UnknownParameterError as error:
                self._renamed[error.name] = error.new_name

    async def _try(self, body: Mapping[str, Any]) -> Answer:
        import openai

        assert self._client is not None
        started = time.monotonic()
        try:
            completion = await self._client.chat.completions.create(**body)
            return self._answer(completion, time.monotonic() - started)
        except openai.APIStatusError as error:
            raise self._status_failure(error, body) from None
        except openai.APITimeoutError as error:
            unreachable = type(error.__cause__).__name__ == "ConnectTimeout"
            raise Failure(f"no reply in {self.settings.timeout_s:g} s", is_unreachable=unreachable) from None
        except openai.APIConnectionError as error:
            cause = error.__cause__
            reason = self._told(str(cause) or type(cause).__name__)
            unreachable = type(cause).__name__ in ("ConnectError", "UnsupportedProtocol")
            raise Failure(f"connection failed: {reason}", is_unreachable=unreachable) from None
        except Exception as error:  # whatever a broken body makes the client raise
            reason = self._told(str(error))
            raise Failure(f"reply is no chat completion: {type(error).__name__}: {reason}") from None

    def _answer(self, completion: Any, seconds: float) -> Answer:
        """The first choice's text; no usable choice is a ValueError."""
        choices = getattr(completion, "choices", None)
        if not isinstance(choices, list) or not choices:
            raise ValueError("no choices")
        text = choices[0].message.content
        if text is not None and not isinstance(text, str):
            raise ValueError("content is no text")
        finish_reason = choices[0].finish_reason
        usage = getattr(completion, "usage", None)
        return Answer(
            self._secret.scrub(storable(text)) if text else None,
            self._secret.scrub(storable(str(finish_reason)))[:40] if finish_reason else None,
            _whole(getattr(usage, "prompt_tokens", None)),
            _whole(getattr(usage, "completion_tokens", None)),
            seconds,
        )

    def _status_failure(self, error: openai.APIStatusError, body: Mapping[str, Any]) -> Exception:
        status, message = error.status_code, self._told(error.message)
        if status in (400, 422):
            unknown = _unknown_parameter(error, body)
            if unknown is not None:
                return unknown
        code = error.code if isinstance(error.code, str) else None
        fault = fault_of(status, code)
        if fault == "fatal":
            message = self._refusal(status, message)
        retry_after = retry_after_s(error.response.headers.get("retry-after"))
        return Failure(message, fault, retry_after=retry_after)

    def _refusal(self, status: int, message: str) -> str:
        """What to do about a teacher that refuses everything."""
        variable = self.settings.api_key_env
        if status in (401, 403):
            has_key = "holds a key the server does not accept" if self._secret.value else "is not set"
            return f"{self.address}: teacher refused with status {status}: {message}; {variable} {has_key}"
        if status == 404:
            return (
                f"{self.address}: teacher has no model {self.settings.model!r} or no chat completions there: "
                f"{message}; check synthesize.teacher.model and base_url"
            )
        return f"{self.address}: teacher refused with status {status}: {message}; check the account"

    def _told(self, message: str) -> str:
        """A server's message as part of one line, without the key."""
        line = " ".join(self._secret.scrub(storable(message)).split())
        return line if len(line) <= MAX_ERROR_LENGTH else line[: MAX_ERROR_LENGTH - 3] + "..."


class _UnknownParameterError(Exception):
    """The server does not take a parameter of the request."""

    def __init__(self, name: str, new_name: str | None) -> None:
        super().__init__(name)
        self.name = name
        self.new_name = new_name


_REFUSED_PARAMETER = re.compile(
    r"unsupported|not supported|unrecognized|unknown|extra|not permitted|unexpected", re.I
)


def _unknown_parameter(error: openai.APIStatusError, body: Mapping[str, Any]) -> _UnknownParameterError | None:
    """Which parameter of `body` a 400 or 422 is about: newer models want `max_completion_tokens`, some servers
    know no `seed` (then a second try differs by its prompt and by chance only)."""
    text = f"{error.message} {error.param or ''}"
    if "max_tokens" in body and "max_completion_tokens" in text:
        return _UnknownParameterError("max_tokens", "max_completion_tokens")
    if "seed" in body and re.search(r"\bseed\b", text) and _REFUSED_PARAMETER.search(text):
        return _UnknownParameterError("seed", None)
    return None


class _Secret:
    """An API key that does not show itself."""

    def __init__(self, value: str) -> None:
        self.value = value

    def __repr__(self) -> str:
        return "[key]"

    def scrub(self, text: str) -> str:
        """`text` without the key."""
        return text.replace(self.value, "[key]") if len(self.value) >= MIN_SECRET_LENGTH else text


def api_key(settings: TeacherSettings) -> _Secret:
    """The key from the environment; empty for a server that may need none.

    Raises:
        TeacherError: If the address is no address, the service needs a key and there is none, or the key cannot
            be one.
    """
    address = urlsplit(settings.base_url or OPENAI_URL)
    if address.scheme not in ("http", "https") or not address.hostname:
        raise TeacherError(
            f"synthesize.teacher.base_url: {settings.base_url!r} is no server address; write it like "
            "http://localhost:8000/v1"
        )
    variable = settings.api_key_env
    key = os.environ.get(variable, "").strip()
    if not key and (address.hostname == "openai.com" or address.hostname.endswith(".openai.com")):
        raise TeacherError(
            f"{address.hostname}: no key for the teacher: set the environment variable {variable} (or another one "
            "named by synthesize.teacher.api_key_env), or point synthesize.teacher.base_url at your own server"
        )
    if not (key.isascii() and key.isprintable()):
        raise TeacherError(f"{variable}: holds characters that no key has; set it again")
    return _Secret(key)


def check_teacher(settings: TeacherSettings) -> None:
    """Find out early, without asking anything, that the teacher's address or key is missing.

    Raises:
        TeacherError: See `api_key`.
    """
    api_key(settings)


def storable(text: str) -> str:
    """`text` as valid Unicode: lone surrogates, which JSON can carry and files cannot, become `?`."""
    return text.encode("utf-8", "replace").decode("utf-8")


def _whole(value: object) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**63 else None


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
