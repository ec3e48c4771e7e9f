"""An OpenAI-compatible server, through the `openai` client: one try at a time, every failure named."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any, cast

from lamer.config import TeacherSettings
from lamer.teacher.key import OPENAI_URL, Secret, api_key, quiet_logs
from lamer.teacher.ledger import Answer
from lamer.teacher.requests import Failure, storable
from lamer.teacher.retry import fault_of, is_overload, refuses_format, wait_asked_s

if TYPE_CHECKING:
    import openai

    from lamer.teacher.shortcut import Shortcut

DUMMY_KEY = "unused"
"""Sent to servers that need no key; the client insists on one."""
CONNECT_TIMEOUT_S = 30.0
PLATFORM_HEADERS = tuple(
    f"X-Stainless-{name}"
    for name in ("Lang", "Package-Version", "OS", "Arch", "Runtime", "Runtime-Version", "Async")
)
"""What the client tells of this machine: no server needs it, and it takes a tenth of the time of a request."""
MAX_ERROR_LENGTH = 200


class Client:
    """An OpenAI-compatible server, through the `openai` client."""

    def __init__(self, settings: TeacherSettings) -> None:
        self.settings = settings
        self.address = (settings.base_url or OPENAI_URL).rstrip("/")
        self._path = f"{self.address}/chat/completions"
        self._client: openai.AsyncOpenAI | None = None
        self._shortcut: Shortcut | None = None
        self._secret = Secret("")
        self._logs = ExitStack()
        self._renamed: dict[str, str | None] = {}

    def open(self) -> None:
        """Make the client; nothing is sent yet."""
        self._secret = api_key(self.settings)
        import openai

        from lamer.teacher.shortcut import Shortcut

        timeout_s = self.settings.timeout_s
        self._client = openai.AsyncOpenAI(
            api_key=self._secret.value or DUMMY_KEY,
            base_url=self.address,
            max_retries=0,
            timeout=openai.Timeout(timeout_s, connect=min(timeout_s, CONNECT_TIMEOUT_S)),
            http_client=openai.DefaultAioHttpClient(),
            default_headers=cast("Mapping[str, str]", dict.fromkeys(PLATFORM_HEADERS, openai.Omit())),
        )
        self._shortcut = Shortcut(self._client, self._path)
        self._logs.enter_context(quiet_logs(self._secret))

    async def close(self) -> None:
        """Close connections and forget the key."""
        if self._shortcut is not None:
            await self._shortcut.close()
        if self._client is not None:
            await self._client.close()
        self._logs.close()
        self._client, self._shortcut, self._secret = None, None, Secret("")

    async def send(self, request: Mapping[str, Any]) -> Answer:
        """One try over HTTP; a parameter that the server does not know is renamed or left out from then on."""
        while True:
            try:
                return await self._try(self.body_of(request))
            except _UnknownParameterError as error:
                self._renamed[error.name] = error.new_name

    def body_of(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """A request as the server wants it."""
        return {
            name: value
            for key, value in request.items()
            if key != "template" and (name := self._renamed.get(key, key)) is not None
        }

    async def _try(self, body: Mapping[str, Any]) -> Answer:
        import openai

        assert self._shortcut is not None
        started = time.monotonic()
        completion = None
        try:
            async with asyncio.timeout(self.settings.timeout_s):
                completion = await self._shortcut.post(body)
            return self._answer(completion, time.monotonic() - started)
        except openai.APIStatusError as error:
            raise self._status_failure(error, body) from None
        except (openai.APIConnectionError, TimeoutError) as error:
            raise self._connection_failure(error) from None
        except Exception as error:  # whatever a broken body makes the client raise
            reason = self._told(str(error))
            broken = f"reply is no chat completion: {type(error).__name__}: {reason}"
            raise Failure(broken, may_be_paid=True, usage=_usage(completion)) from None

    def _answer(self, completion: Any, seconds: float) -> Answer:
        """The first choice's text; no usable choice is a ValueError or TypeError."""
        choices = completion["choices"]
        if not isinstance(choices, list) or not choices:
            raise ValueError("no choices")
        text = choices[0]["message"].get("content")
        if text is not None and not isinstance(text, str):
            raise ValueError("content is no text")
        finish_reason = choices[0].get("finish_reason")
        usage = completion.get("usage")
        usage = usage if isinstance(usage, dict) else {}  # a paid reply is none the worse for it
        return Answer(
            self._secret.scrub(storable(text)) if text else None,
            self._secret.scrub(storable(str(finish_reason)))[:40] if finish_reason else None,
            _whole(usage.get("prompt_tokens")),
            _whole(usage.get("completion_tokens")),
            seconds,
        )

    def _connection_failure(self, error: Exception) -> Failure:
        """A lost connection or a time-out, told apart by its cause: the client calls some of either the other."""
        import aiohttp

        chain = list(_causes(error))
        unreachable = any(
            isinstance(cause, aiohttp.ClientConnectorError | aiohttp.ConnectionTimeoutError | aiohttp.InvalidURL)
            for cause in chain
        )
        if any(isinstance(cause, TimeoutError) for cause in chain):
            reason = f"no reply in {self.settings.timeout_s:g} s"
            return Failure(reason, is_unreachable=unreachable, is_timeout=True, may_be_paid=not unreachable)
        reason = self._told(str(chain[-1]) or type(chain[-1]).__name__)
        return Failure(f"connection failed: {reason}", is_unreachable=unreachable, may_be_paid=not unreachable)

    def _status_failure(self, error: openai.APIStatusError, body: Mapping[str, Any]) -> Exception:
        status, message = error.status_code, self._told(error.message)
        message = message if str(status) in message else f"status {status}: {message}"
        if status in (400, 422):
            unknown = _unknown_parameter(error, body)
            if unknown is not None:
                return unknown
        code = error.code if isinstance(error.code, str) else None
        fault = fault_of(status, code)
        if "response_format" in body and refuses_format(message):
            fault = "request"
        if fault == "fatal":
            message = self._refusal(status, message)
        retry_after = wait_asked_s(error.response.headers)
        return Failure(message, fault, retry_after=retry_after, is_overload=is_overload(status))

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


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    """An error, what caused it, and so on."""
    while error is not None:
        yield error
        error = error.__cause__


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


def _usage(completion: Any) -> Answer | None:
    """The tokens that a completion without a usable choice was counted with."""
    usage = completion.get("usage") if isinstance(completion, dict) else None
    counts = usage if isinstance(usage, dict) else {}
    prompt, reply = _whole(counts.get("prompt_tokens")), _whole(counts.get("completion_tokens"))
    return None if prompt is None or reply is None else Answer(None, None, prompt, reply)


def _whole(value: object) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**63 else None
