"""What a reply in JSON looks like (pure)."""

from __future__ import annotations

from typing import Any

from lamer.synthesis.options import LETTERS
from lamer.teacher.formats import Schema

TRIAL_MESSAGE = "Write one easy multiple-choice question about the colours of the rainbow, with {} options."
"""Asks a server for something that suits the schema; see `lamer.teacher.formats`."""


def examples_schema(num_options: int, *, has_explanation: bool = True) -> Schema:
    """`{"examples": [{"question", "options": {"A", "B", ...}, "explanation", "answer"}]}`.

    Options are an object by letter: so their number is fixed without a limit on lengths, which strict modes do not
    all know. The explanation stands before the answer: a model writes in this order, and reasons before it
    settles.

    Args:
        num_options: Options of an example.
        has_explanation: Whether there is an explanation.
    """
    letters = list(LETTERS[:num_options])
    text = {"type": "string"}
    example: dict[str, Any] = {"question": text, "options": _object(dict.fromkeys(letters, text))}
    if has_explanation:
        example["explanation"] = text
    example["answer"] = {"type": "string", "enum": letters}
    return Schema("examples", _object({"examples": {"type": "array", "items": _object(example)}}))


def _object(properties: dict[str, Any]) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
    }
