"""What can go wrong with a reply over HTTP, one kind by one or as a seeded mixture.

    with TeacherServer(reply, faults=random_faults(0.3, seed=1)) as server:
        ...
    server.faults_served  # Counter({"429": 12, "reset": 9, ...})
    server.answered  # replies that a client could use, by the hash of the request's body

Nothing here is random without a seed.
"""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

BadBody = Literal[
    "invalid json",
    "truncated",
    "empty",
    "web page",
    "no object",
    "error object",
    "empty choices",
    "choices as text",
    "no message",
    "message as text",
    "content as list",
    "no content",
    "usage as text",
    "usage no object",
    "no usage",
]
HARMLESS: frozenset[BadBody | None] = frozenset({None, "usage as text", "usage no object", "no usage"})
"""Bodies whose text can be used all the same."""


@dataclass(frozen=True, slots=True)
class Fault:
    """What goes wrong with one request."""

    status: int | None = None
    """An HTTP status to answer with instead of 200."""
    retry_after: float | None = None
    """Seconds, sent as the header `Retry-After`."""
    body: BadBody | None = None
    """A reply of status 200 whose body is not what it should be; `truncated` closes the connection midway."""
    reset: bool = False
    """Close the connection without any answer."""
    delay_s: float = 0.0
    """Wait before answering."""
    trickle_s: float = 0.0
    """Send the body bit by bit over this time; no pause is longer than a tenth of it."""
    finish_reason: str = "stop"
    """What the choice says about its end; "length" for a completion cut short."""
    is_cut: bool = False
    """The text ends in the middle, as a completion cut short does."""
    is_stale: bool = False
    """Answer with the choices of the last reply to any request."""
    is_sent_twice: bool = False
    """Send the reply a second time on the same connection."""
    is_late: bool = False
    """Of a call of the Batch API: it is carried out, and fails after that."""

    @property
    def kind(self) -> str:
        """What happened, in words: `429 Retry-After 150`, `slow`, `truncated`, ..."""
        words = [
            str(self.status or ""),
            f"Retry-After {self.retry_after:g}" if self.retry_after is not None else "",
            self.body or "",
            "reset" if self.reset else "",
            f"late {self.delay_s:g} s" if self.delay_s else "",
            f"trickled {self.trickle_s:g} s" if self.trickle_s else "",
            f"ends by {self.finish_reason}" if self.finish_reason != "stop" else "",
            "text cut" if self.is_cut else "",
            "stale" if self.is_stale else "",
            "sent twice" if self.is_sent_twice else "",
            "carried out" if self.is_late else "",
        ]
        return " ".join(word for word in words if word)

    @property
    def is_answer(self) -> bool:
        """Whether the client gets a reply that it can use and pays for, a filtered one included."""
        has_body = self.body in HARMLESS or (self.body == "no content" and self.finish_reason == "content_filter")
        return self.status is None and not self.reset and has_body


Faults = Sequence[Fault | None] | Callable[[int], Fault | None]
"""By the number of the request, from 0; after the end of a sequence all is well."""


def all_faults(
    *, short_wait_s: float = 0.05, long_wait_s: float = 150.0, slow_s: float = 0.05, late_s: float = 1.5
) -> tuple[Fault, ...]:
    """One fault of each kind that lets a client go on.

    Args:
        short_wait_s: What a polite `Retry-After` asks for.
        long_wait_s: What an impolite one does.
        slow_s: Delay of a slow reply, within the client's patience.
        late_s: Delay of a reply that comes too late: longer than the client's time-out.
    """
    bodies: tuple[BadBody, ...] = (
        "invalid json", "truncated", "empty", "web page", "no object", "error object", "empty choices",
        "choices as text", "no message", "message as text", "content as list", "no content", "usage as text",
        "usage no object", "no usage",
    )  # fmt: skip
    return (
        Fault(status=429, retry_after=short_wait_s),
        Fault(status=429, retry_after=long_wait_s),
        Fault(status=429),
        Fault(status=500),
        Fault(status=503),
        Fault(status=400),
        Fault(reset=True),
        Fault(delay_s=slow_s),
        Fault(delay_s=late_s),
        Fault(trickle_s=slow_s),
        Fault(trickle_s=late_s),
        *(Fault(body=body) for body in bodies),
        Fault(finish_reason="length", is_cut=True),
        Fault(finish_reason="content_filter", body="no content"),
        Fault(is_stale=True),
        Fault(is_sent_twice=True),
    )


def random_faults(
    rate: float, seed: int = 0, kinds: Sequence[Fault] | None = None
) -> Callable[[int], Fault | None]:
    """A mixture of faults; the same request number always meets the same one.

    Args:
        rate: Share of the requests that meet a fault, 0 to 1.
        seed: Another seed, another mixture.
        kinds: What is drawn from, each as likely as the others; `all_faults()` by default.

    Raises:
        ValueError: If `rate` is no share or there is nothing to draw from.
    """
    drawn = all_faults() if kinds is None else tuple(kinds)
    if not 0.0 <= rate <= 1.0:
        raise ValueError(f"rate is a share between 0 and 1, not {rate}")
    if not drawn:
        raise ValueError("kinds is empty; give at least one fault")

    def fault(number: int) -> Fault | None:
        rng = random.Random(f"{seed} {number}")
        return rng.choice(drawn) if rng.random() < rate else None

    return fault


def body_hash(body: Mapping[str, Any]) -> str:
    """Hex SHA-256 of a request's body, whatever the order of its keys."""
    return hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()


def spoil(reply: Mapping[str, Any], fault: Fault) -> str:
    """The reply as JSON text, or what the fault makes of it."""
    if fault.body == "empty":
        return ""
    if fault.body == "web page":
        return "<html><body><h1>502 Bad Gateway</h1></body></html>"
    if fault.body == "invalid json":
        whole = json.dumps(reply)
        return '{"id": "' + whole[: len(whole) // 2].replace('"', "")
    return json.dumps(_misshapen(dict(reply), fault))


def _misshapen(reply: dict[str, Any], fault: Fault) -> object:
    """The reply with a part of it that is of the wrong type, missing or cut."""
    match fault.body:
        case "no object":
            return [reply]
        case "error object":
            return {"error": {"message": "upstream failed", "code": 502}}
        case "empty choices":
            return reply | {"choices": []}
        case "choices as text":
            return reply | {"choices": "none"}
        case "usage as text":
            return reply | {
                "usage": {name: f"about {number}" for name, number in (reply.get("usage") or {}).items()}
            }
        case "usage no object":
            return reply | {"usage": "none"}
        case "no usage":
            return {name: value for name, value in reply.items() if name != "usage"}
    return reply | {"choices": [_misshapen_choice(dict(choice), fault) for choice in reply.get("choices", [])]}


def _misshapen_choice(choice: dict[str, Any], fault: Fault) -> dict[str, Any]:
    message = choice.get("message")
    if not isinstance(message, dict):
        return choice
    text = message.get("content")
    match fault.body:
        case "no message":
            del choice["message"]
            return choice
        case "message as text":
            return choice | {"message": text}
        case "content as list":
            return choice | {"message": message | {"content": [{"type": "text", "text": text}]}}
        case "no content":
            return choice | {"message": message | {"content": None}}
    if fault.is_cut and isinstance(text, str):
        return choice | {"message": message | {"content": text[: len(text) // 2]}}
    return choice
