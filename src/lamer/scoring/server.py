"""A client of `/v1/completions`: threads, retries, errors in one line.

Requests run concurrently, replies come in order. What may pass (429, 5xx, a lost connection) is tried again after
a wait, longer each time or as the server says. An optional parameter that a server refuses by name is changed or
left out from then on. The key comes from the environment and is never shown.
"""

from __future__ import annotations

import os
import random
import re
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import urlsplit

from lamer.config import ServerSettings
from lamer.errors import ModelError
from lamer.teacher.key import Secret, quiet_logs
from lamer.teacher.retry import BACKOFF_S, Fault, backoff_s, fault_of, retry_after_s

if TYPE_CHECKING:
    import openai

DUMMY_KEY = "unused"
"""Sent to servers that need no key; the client insists on one."""
MAX_TRIES_UNREACHED = 3
"""Tries of a request while no connection was ever made: a wrong address should be told soon."""
MAX_ERROR_LENGTH = 200

OPTIONAL: dict[str, tuple[Any, ...]] = {
    "return_tokens_as_token_ids": (),
    "return_token_ids": (),
    "add_special_tokens": (),
    "stop_token_ids": (),
    "seed": (),
    "top_k": (0, -1),
    "min_p": (),
    "repetition_penalty": (),
    "repeat_penalty": (),
}
"""Parameters that not every server knows, and the values to try in their order before one is left out."""

_REFUSAL = re.compile(r"validation error|not supported|exceed context", re.I)

Item = TypeVar("Item")
Result = TypeVar("Result")


class RefusedError(ModelError):
    """The server refuses this one request (400, 413, 422): it is too long, or asks for what is not there."""


class _Failure(Exception):  # noqa: N818 - not an error of the program: the retry loop decides what it becomes
    """One try failed."""

    def __init__(
        self,
        message: str,
        fault: Fault = "transient",
        *,
        retry_after: float | None = None,
        unreachable: bool = False,
    ) -> None:
        super().__init__(message)
        self.fault = fault
        self.retry_after = retry_after
        self.is_unreachable = unreachable


class CompletionsServer:
    """One model behind an OpenAI-compatible server.

    Args:
        settings: Address, key, patience.
        backoff_s: First wait before another try, in seconds.

    Raises:
        ModelError: If the address is no address, or the key can be none.
    """

    def __init__(self, settings: ServerSettings, *, backoff_s: float = BACKOFF_S) -> None:
        self.settings = settings
        self.address = settings.base_url.rstrip("/")
        self.backoff_s = backoff_s
        self.model: str | None = settings.model
        """Name sent with every request; `models` helps to choose it."""
        self._secret = Secret(_key(settings))
        self._logs = ExitStack()
        self._client: openai.OpenAI | None = None
        self._lock = threading.Lock()
        self._values: dict[str, Any] = {}
        self._left_out: set[str] = set()
        self._was_reached = False
        self._stop = threading.Event()
        self._not_before = 0.0

    def models(self) -> list[dict[str, Any]]:
        """The server's list of models (`id`, often `max_model_len`); empty where it keeps none."""
        try:
            reply = self._ask(lambda client: client.get("/models", cast_to=object))
        except RefusedError:
            return []
        data = reply.get("data") if isinstance(reply, Mapping) else None
        rows = data if isinstance(data, list) else []
        return [dict(row) for row in rows if isinstance(row, Mapping) and isinstance(row.get("id"), str)]

    def complete(self, body: Mapping[str, Any]) -> dict[str, Any]:
        """The reply to one completion request, as JSON.

        Args:
            body: All of the request but the model. Parameters of `OPTIONAL` may be left out on the way.

        Raises:
            RefusedError: If the server refuses this request.
            ModelError: If it cannot be reached, refuses everything, or keeps failing.
        """

        def post(client: openai.OpenAI) -> object:
            while True:
                known = self._known(body)
                try:
                    return client.post("/completions", cast_to=object, body={"model": self.model, **known})
                except _status_errors() as error:
                    if not self._drops(error, known):
                        raise

        reply = self._ask(post)
        choices = reply.get("choices") if isinstance(reply, Mapping) else None
        if not isinstance(choices, list) or not choices or not isinstance(choices[0], Mapping):
            raise ModelError(f"{self.address}: the reply is no completion (it has no choices)")
        return dict(reply)

    def in_parallel(self, items: Sequence[Item], work: Callable[[Item], Result]) -> list[Result]:
        """`work` of every item, `concurrency` at a time, in order; the first error stops the rest."""
        if len(items) <= 1 or self.settings.concurrency == 1:
            return [work(item) for item in items]
        self._stop.clear()
        executor = ThreadPoolExecutor(min(self.settings.concurrency, len(items)), "lamer-server")
        futures = [executor.submit(work, item) for item in items]
        try:
            return [future.result() for future in futures]
        finally:
            # Without an error nothing is left to stop.
            self._stop.set()
            executor.shutdown(wait=True, cancel_futures=True)
            self._stop.clear()

    def _known(self, body: Mapping[str, Any]) -> dict[str, Any]:
        with self._lock:
            return {
                name: self._values.get(name, value) for name, value in body.items() if name not in self._left_out
            }

    def _drops(self, error: Any, sent: Mapping[str, Any]) -> bool:
        """Whether the refusal is about an optional parameter; from now on that one is another, or left out."""
        if not _is_about_the_request(error):
            return False
        text = f"{error.message} {error.param or ''} {error.body or ''}"
        named = [name for name in OPTIONAL if name in sent and re.search(rf"\b{name}\b", text)]
        if not named:
            return False
        name = max(named, key=len)
        with self._lock:
            if name in self._left_out or self._values.get(name, sent[name]) != sent[name]:
                return True  # another thread was told the same
            untried = (
                OPTIONAL[name][OPTIONAL[name].index(sent[name]) + 1 :] if sent[name] in OPTIONAL[name] else ()
            )
            if untried:
                self._values[name] = untried[0]
            else:
                self._left_out.add(name)
        return True

    def _ask(self, send: Callable[[openai.OpenAI], object]) -> Any:
        num_tries = 0
        while True:
            self._wait(self._not_before - time.monotonic())
            num_tries += 1
            try:
                return self._try(send)
            except _Failure as failure:
                if self._is_final(failure, num_tries):
                    raise self._error(failure, num_tries) from None
                if failure.retry_after is not None:
                    self._not_before = max(self._not_before, time.monotonic() + failure.retry_after)
            self._wait(backoff_s(num_tries, random.random(), self.backoff_s))

    def _is_final(self, failure: _Failure, num_tries: int) -> bool:
        allowed = self.settings.max_retries + 1
        if failure.is_unreachable and not self._was_reached:
            allowed = min(allowed, MAX_TRIES_UNREACHED)
        return failure.fault != "transient" or num_tries >= allowed or self._stop.is_set()

    def _wait(self, seconds: float) -> None:
        """Sleep, or wake up because another request has failed for good."""
        if seconds > 0:
            self._stop.wait(seconds)

    def _try(self, send: Callable[[openai.OpenAI], object]) -> object:
        import openai

        try:
            reply = send(self._connected())
            self._was_reached = True
            return reply
        except openai.APIStatusError as error:
            self._was_reached = True
            raise self._status_failure(error) from None
        except openai.APITimeoutError as error:
            unreachable = type(error.__cause__).__name__ == "ConnectTimeout"
            raise _Failure(f"no reply in {self.settings.timeout_s:g} s", unreachable=unreachable) from None
        except openai.APIConnectionError as error:
            cause = error.__cause__
            unreachable = type(cause).__name__ in ("ConnectError", "UnsupportedProtocol")
            reason = self._told(str(cause) or type(cause).__name__)
            raise _Failure(f"connection failed: {reason}", unreachable=unreachable) from None
        except (openai.OpenAIError, ValueError) as error:  # whatever a broken body makes the client raise
            reason = self._told(str(error))
            raise _Failure(f"the reply is not JSON ({type(error).__name__}: {reason})") from None

    def _connected(self) -> openai.OpenAI:
        import openai

        with self._lock:
            if self._client is None:
                self._client = openai.OpenAI(
                    api_key=self._secret.value or DUMMY_KEY,
                    base_url=self.address,
                    max_retries=0,
                    timeout=self.settings.timeout_s,
                )
                self._logs.enter_context(quiet_logs(self._secret))
            return self._client

    def _status_failure(self, error: openai.APIStatusError) -> _Failure:
        status, message = error.status_code, self._told(_message(error))
        code = error.code if isinstance(error.code, str) else None
        fault = "request" if _is_about_the_request(error) else fault_of(status, code)
        told = f"status {status}: {message}"
        return _Failure(told, fault, retry_after=retry_after_s(error.response.headers.get("retry-after")))

    def _error(self, failure: _Failure, num_tries: int) -> ModelError:
        if failure.fault == "request":
            return RefusedError(f"{self.address}: the server refuses a request with {failure}")
        if failure.fault == "fatal":
            return ModelError(self._refusal(str(failure)))
        tries = "1 try" if num_tries == 1 else f"{num_tries} tries"
        if failure.is_unreachable and not self._was_reached:
            return ModelError(
                f"{self.address}: the server cannot be reached: {failure} ({tries}); check model.server.base_url "
                "and that the server is up"
            )
        return ModelError(
            f"{self.address}: the server failed: {failure} ({tries}); the same command continues from here"
        )

    def _refusal(self, told: str) -> str:
        variable = self.settings.api_key_env
        if told.startswith(("status 401", "status 403")):
            has_key = "holds a key the server does not accept" if self._secret.value else "is not set"
            return f"{self.address}: the server refused with {told}; {variable} {has_key}"
        if told.startswith("status 404"):
            return (
                f"{self.address}: the server has no model {self.model!r} or no completions there: {told}; check "
                "model.server.model and base_url (it often ends in /v1)"
            )
        return f"{self.address}: the server refused with {told}; check the account"

    def _told(self, message: str) -> str:
        """A server's message as part of one line, without the key."""
        text = message.encode("utf-8", "replace").decode("utf-8")
        line = " ".join(self._secret.scrub(text).split())
        return line if len(line) <= MAX_ERROR_LENGTH else line[: MAX_ERROR_LENGTH - 3] + "..."


def _is_about_the_request(error: openai.APIStatusError) -> bool:
    """Whether other requests may fare better; llama-cpp-python says 500 where others say 422."""
    if error.status_code == 500:
        return _REFUSAL.search(_message(error)) is not None
    return fault_of(error.status_code) == "request"


def _status_errors() -> Any:
    import openai

    return openai.APIStatusError


def _message(error: openai.APIStatusError) -> str:
    """What the server says went wrong, without the client's own wrapping where the body has a message."""
    body = error.body
    if isinstance(body, Mapping):
        for name in ("message", "detail"):
            if isinstance(body.get(name), str):
                return str(body[name])
    return str(error.message)


def _key(settings: ServerSettings) -> str:
    address = urlsplit(settings.base_url)
    if address.scheme not in ("http", "https") or not address.hostname:
        raise ModelError(
            f"model.server.base_url: {settings.base_url!r} is no server address; write it like "
            "http://localhost:8000/v1"
        )
    key = os.environ.get(settings.api_key_env, "").strip()
    if not (key.isascii() and key.isprintable()):
        raise ModelError(f"{settings.api_key_env}: holds characters that no key has; set it again")
    return key
