"""The form of a reply: text, or JSON by a schema that the server enforces.

Many servers take `response_format` and ignore it, others refuse it; only some honour it. With `format: auto` one
trial request finds out: it shows the schema in `response_format` and speaks of no JSON in its message, so a reply
that fits the schema proves that the server saw to it. The trial goes through the ledger like any request and is
paid once a run and model, whatever address the model has: the choice decides what every later request looks like,
and a run that changed its mind would pay for everything again.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from lamer.errors import TeacherError
from lamer.teacher.requests import Reply, Request, user_message
from lamer.teacher.retry import fault_of, refuses_format
from lamer.teacher.teacher import Teacher

Format = Literal["text", "json"]

TRIAL = "format"
"""Key and template of the trial request."""
PURPOSE = "format"
"""What the trial request is for, in the ledger."""
"""Error of a request that a ceiling on calls or money has kept back; so it is with all that follow."""
_STATUS = re.compile(r"\b(?:Error code:|status) (\d{3})\b")


@dataclass(frozen=True, slots=True)
class Schema:
    """A JSON schema that replies shall follow, within what strict modes allow: every property required, no others,
    no limits on lengths."""

    name: str
    definition: Mapping[str, Any]

    @property
    def response_format(self) -> dict[str, Any]:
        """What a request says."""
        return {
            "type": "json_schema",
            "json_schema": {"name": self.name, "strict": True, "schema": dict(self.definition)},
        }


@dataclass(frozen=True, slots=True)
class Choice:
    """The format of a stage's replies, and why."""

    format: Format
    reason: str
    num_asked: int = 0
    """Trial requests that were answered now, not taken from the ledger."""


def choose_format(teacher: Teacher, schema: Schema, message: str) -> Choice:
    """The format that the settings name, or what a trial request shows.

    Args:
        teacher: Whom to ask.
        schema: What replies are to look like.
        message: The trial: something small that the schema suits; it must not speak of JSON.

    Raises:
        TeacherError: If the trial fails for a reason that says nothing about formats. Guessing would be dear: a
            later start might guess otherwise and pay for every reply again.
    """
    asked = teacher.settings.format
    if asked != "auto":
        return Choice(asked, "as set")
    if teacher.is_local:
        return Choice("text", "the teacher is a function of this process")
    online = teacher.settings.model_copy(update={"mode": "online"})
    messages = user_message(message)
    trial = Request(TRIAL, messages, template=TRIAL, purpose=PURPOSE, response_format=schema.response_format)
    asker = teacher if teacher.settings.mode == "online" else Teacher(online, teacher.ledger)
    reply = asker.ask([trial])[TRIAL]
    format, reason = _judge(reply, schema, teacher.model)
    return Choice(format, reason, num_asked=int(reply.error is None and not reply.is_cached))


def _judge(reply: Reply, schema: Schema, model: str) -> tuple[Format, str]:
    if reply.is_over_budget:
        return "text", "not tried: the budget is used up"
    if reply.error is not None:
        status = _STATUS.search(reply.error)
        if status is None or not (fault_of(int(status[1])) == "request" or refuses_format(reply.error)):
            raise TeacherError(
                f"teacher {model}: the trial request for structured output failed: {reply.error}; start again "
                "later, or set synthesize.teacher.format to text"
            )
        return "text", f"the server refuses a JSON schema (status {status[1]})"
    if reply.finish_reason == "length":
        return "text", "the reply to the trial request was cut off"
    try:
        value = json.loads(reply.text or "")
    except (ValueError, RecursionError):
        return "text", "the server ignores a JSON schema"
    wrong = mismatch(value, schema.definition)
    if wrong is not None:
        return "text", f"the server does not keep to a JSON schema: {wrong}"
    return "json", "the server honours a JSON schema"


def mismatch(value: object, definition: Mapping[str, Any], where: str = "reply") -> str | None:
    """What in a value does not follow a schema, or None.

    Args:
        value: As `json.loads` gives it.
        definition: With `type` object, array or string, `properties` (all required, no others), `items`, `enum`.
        where: The value's place, for the message.
    """
    kind: type = {"object": dict, "array": list, "string": str}[definition["type"]]
    if not isinstance(value, kind):
        return f"{where} is no {definition['type']}"
    if isinstance(value, dict):
        properties = definition["properties"]
        if value.keys() != properties.keys():
            return f"{where} has other keys"
        found = (mismatch(value[name], below, name) for name, below in properties.items())
        return next((wrong for wrong in found if wrong is not None), None)
    if isinstance(value, list):
        found = (mismatch(below, definition["items"], f"{where}[{n}]") for n, below in enumerate(value))
        return next((wrong for wrong in found if wrong is not None), None)
    return None if value in definition.get("enum", [value]) else f"{where} is another text"
