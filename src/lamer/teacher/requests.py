"""What the teacher is asked and what it says: requests, replies, failed tries."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from lamer.teacher.ledger import Answer
from lamer.teacher.retry import Fault

Message = dict[str, str]
BUDGET_REACHED = "budget reached"
"""The error of a request that a ceiling on calls or money has kept back."""


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
    purpose: str = ""
    """What it is asked for (examples, facts, ...); for the accounts, no part of its identity."""
    response_format: Mapping[str, Any] | None = None
    """The JSON schema that the reply shall follow, as the protocol writes it; None asks for plain text."""


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

    @property
    def is_over_budget(self) -> bool:
        """Whether it was not sent because a ceiling is reached."""
        return self.error == BUDGET_REACHED


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
        is_overload: bool = False,
        is_timeout: bool = False,
        may_be_paid: bool = False,
        usage: Answer | None = None,
    ) -> None:
        super().__init__(message)
        self.fault = fault
        self.retry_after = retry_after
        """Seconds the server asked to wait."""
        self.is_unreachable = is_unreachable
        """No connection was made."""
        self.is_overload = is_overload
        """The server said that it has too much to do."""
        self.is_timeout = is_timeout
        """Nothing came in time."""
        self.may_be_paid = may_be_paid
        """Whether the server may have answered, and takes money for it."""
        self.usage = usage
        """The tokens it counted, where it said so."""


class Backend(Protocol):
    """Where requests go."""

    address: str

    def open(self) -> None:
        """Get ready; raises TeacherError when it never will be."""

    async def send(self, request: Mapping[str, Any]) -> Answer:
        """One try; raises Failure."""

    async def close(self) -> None:
        """Let go of connections."""


def storable(text: str) -> str:
    """`text` as valid Unicode: lone surrogates, which JSON can carry and files cannot, become `?`."""
    return text.encode("utf-8", "replace").decode("utf-8")
