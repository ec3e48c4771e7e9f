"""The client for batches: the same bodies and replies as one by one, but in files."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from lamer.teacher.client import Client, _unknown_parameter
from lamer.teacher.ledger import Answer
from lamer.teacher.requests import Failure
from lamer.teacher.retry import fault_of, wait_asked_s

if TYPE_CHECKING:
    import openai

Result = TypeVar("Result")


class CallFailure(Failure):
    """A call of the Batch API failed, once or for good."""

    status: int | None = None
    """The HTTP status; None when there was no answer."""
    code: str | None = None


@dataclass(frozen=True, slots=True)
class _ErrorInFile:
    """As much of an error as is in a file."""

    message: str
    param: str | None


class BatchClient(Client):
    """A client that shares everything with `client`: settings, and what it has learned about the server."""

    def __init__(self, client: Client) -> None:
        super().__init__(client.settings)
        vars(self).update(vars(client))

    async def call(self, call: Callable[[openai.AsyncOpenAI], Awaitable[Result]]) -> Result:
        """One call of the API, tried once.

        Raises:
            CallFailure: If it failed.
        """
        import openai

        assert self._client is not None
        try:
            return await call(self._client)
        except openai.APIStatusError as error:
            status, code = error.status_code, error.code if isinstance(error.code, str) else None
            fault = fault_of(status, code)
            message = self.told(error.message)
            if fault == "fatal" and status != 404:
                message = self._refusal(status, message)
            failure = CallFailure(message, fault, retry_after=wait_asked_s(error.response.headers))
            failure.status, failure.code = status, code
            raise failure from None
        except (openai.APIConnectionError, TimeoutError) as error:
            lost = self._connection_failure(error)
            raise CallFailure(str(lost), is_unreachable=lost.is_unreachable, is_timeout=lost.is_timeout) from None
        except Exception as error:  # whatever a broken body makes the client raise
            message = f"answer is not what it should be: {type(error).__name__}: {self.told(str(error))}"
            raise CallFailure(message) from None

    def read(self, body: Mapping[str, Any], seconds: float) -> Answer:
        """The answer in a chat completion.

        Raises:
            Failure: If it is none.
        """
        try:
            return self._answer(body, seconds)
        except Exception as error:  # whatever a broken body makes the client raise
            reason = f"{type(error).__name__}: {self.told(str(error))}"
            raise Failure(f"reply is no chat completion: {reason}") from None

    def failure(self, status: int, body: Mapping[str, Any], request: Mapping[str, Any]) -> Failure:
        """What an error's body says; a parameter that the server does not know is renamed or left out from now on.

        Args:
            status: Its HTTP status.
            body: The body.
            request: The request that it answers.
        """
        found = body.get("error")
        error = found if isinstance(found, dict) else {}
        code, param = (str(error[key]) if error.get(key) else None for key in ("code", "param"))
        told: Any = _ErrorInFile(str(error.get("message") or f"status {status}"), param)
        message = self.told(told.message)
        unknown = _unknown_parameter(told, request) if status in (400, 422) else None
        if unknown is not None:
            self._renamed[unknown.name] = unknown.new_name
            return Failure(message)
        fault = fault_of(status, code)
        return Failure(self._refusal(status, message) if fault == "fatal" else message, fault)

    def told(self, message: str) -> str:
        """A server's message as part of one line, without the key."""
        return self._told(message)
