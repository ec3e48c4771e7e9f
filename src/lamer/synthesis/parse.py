"""Read a teacher's reply (pure): text in, items out, nothing invented and nothing raised.

A reply is read as JSON where that gives a sound item, else in the paper's text format, whichever was asked for:
servers break their promises, and models fall back to what they know. What a reasoning model thought aloud
(`<think> ... </think>`) is no part of the reply.

parse_text  the paper's format: Question, Options, Answer, Explanation
parse_json  objects with the same fields
items       what is read
labels      names of the fields, in many languages
options     `(A) x`, `A. x`, `A) x`, ...
answers     which option an answer names
markup      emphasis, code fences, rulers
"""

from __future__ import annotations

from lamer.synthesis.answers import AMBIGUOUS_ANSWER, ANSWER_NOT_AN_OPTION, comparable, find_answer
from lamer.synthesis.items import MALFORMED, NO_ANSWER, NO_OPTIONS, NO_QUESTION, ParsedItem
from lamer.synthesis.options import LETTERS, parse_options
from lamer.synthesis.parse_json import parse_json
from lamer.synthesis.parse_text import parse_text

__all__ = [
    "AMBIGUOUS_ANSWER",
    "ANSWER_NOT_AN_OPTION",
    "LETTERS",
    "MALFORMED",
    "NO_ANSWER",
    "NO_OPTIONS",
    "NO_QUESTION",
    "ParsedItem",
    "comparable",
    "find_answer",
    "parse",
    "parse_options",
]


def parse(reply: str) -> list[ParsedItem]:
    """The items of a reply, in order; empty when there is nothing like an item. Never raises."""
    text = _without_thoughts(reply.replace("\r\n", "\n").replace("\r", "\n"))
    from_json = parse_json(text)
    if any(item.problem is None for item in from_json):
        return from_json
    from_text = parse_text(text)
    if any(item.problem is None for item in from_text):
        return from_text
    return from_json or from_text


def _without_thoughts(text: str) -> str:
    """What stands behind the last `</think>`; before `<think>` where the thought never ends."""
    _, end, rest = text.rpartition("</think>")
    if end:
        return rest
    return text.partition("<think>")[0]
