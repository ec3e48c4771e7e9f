"""Teachers to test with: prepared replies, and a server that gives them in OpenAI's form."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from lamer.testing.batch_desk import BatchDesk
from lamer.testing.faults import Fault
from lamer.testing.local_server import LocalServer, RefusedError, Routed

Messages = list[dict[str, str]]
Reply = Callable[..., str]
"""`reply(messages, **sampling) -> str`: the content of the assistant's message."""


class QueuedTeacher:
    """Gives prepared replies in order, and remembers what it was asked.

    Args:
        replies: The replies, first to be given first.
        cycle: Start again from the first when they run out.
    """

    def __init__(self, replies: Sequence[str], *, cycle: bool = False) -> None:
        self.replies = list(replies)
        self.cycle = cycle
        self.requests: list[Messages] = []
        self._lock = threading.Lock()

    def reply(self, messages: Messages, **sampling: object) -> str:
        """The next reply.

        Raises:
            IndexError: If the queue is empty.
        """
        with self._lock:
            number = len(self.requests)
            if number >= len(self.replies) and not (self.cycle and self.replies):
                raise IndexError(f"the queue of {len(self.replies)} replies is empty")
            self.requests.append(messages)
            return self.replies[number % len(self.replies)]


class TeacherServer(LocalServer):
    """A local OpenAI-compatible server around a reply function: `/v1/chat/completions`, `/v1/models`, `/v1/files`
    and `/v1/batches`.

    Threaded: `reply` is called from several threads at once. An exception in `reply` becomes status 500.

    Args:
        reply: Called with the messages and, as keywords, the rest of the request (model, temperature, ...)
            unless it takes one argument only.
        desk: Holds files and batches, and what goes wrong with them; None makes one.
        settings: Of `LocalServer`: faults, model, api_key, port.
    """

    path = "/v1/chat/completions"
    fallback_name = "teacher"

    def __init__(self, reply: Reply, *, desk: BatchDesk | None = None, **settings: Any) -> None:
        super().__init__(**settings)
        self.reply = reply
        self.desk = desk or BatchDesk()

    def route(self, method: str, target: str, raw: bytes, content_type: str) -> Routed | None:
        """Calls of the Batch API."""
        return self.desk.route(method, target, raw, content_type, self._complete)

    def _complete(self, number: int, body: Mapping[str, Any]) -> dict[str, Any]:
        return self.answer(number, body, Fault())

    def answer(self, number: int, body: Mapping[str, Any], fault: Fault) -> dict[str, Any]:
        """Complete a chat."""
        try:
            messages = [{str(k): str(v) for k, v in m.items()} for m in body["messages"]]
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise RefusedError(400, f"not a chat completion request: {error}") from error
        sampling = {key: value for key, value in body.items() if key != "messages"}
        return _completion(number, body, messages, _call(self.reply, messages, sampling), fault)


def _call(reply: Reply, messages: Messages, sampling: Mapping[str, Any]) -> str:
    """Call with the sampling settings if the function takes keywords, else without."""
    import inspect

    takes_keywords = any(
        p.kind is inspect.Parameter.VAR_KEYWORD for p in inspect.signature(reply).parameters.values()
    )
    return reply(messages, **sampling) if takes_keywords else reply(messages)


def _completion(
    number: int, body: Mapping[str, Any], messages: Messages, text: str, fault: Fault
) -> dict[str, Any]:
    """A chat completion object; its usage counts words."""
    num_prompt = sum(len(m.get("content", "").split()) for m in messages)
    num_reply = len(text.split())
    content = None if fault.body == "no content" else text
    choice = {
        "index": 0,
        "message": {"role": "assistant", "content": content},
        "finish_reason": fault.finish_reason,
        "logprobs": None,
    }
    return {
        "id": f"chatcmpl-{number}",
        "object": "chat.completion",
        "created": 0,
        "model": body.get("model") or "teacher",
        "choices": [] if fault.body == "empty choices" else [choice],
        "usage": {
            "prompt_tokens": num_prompt,
            "completion_tokens": num_reply,
            "total_tokens": num_prompt + num_reply,
        },
    }
