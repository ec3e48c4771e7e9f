"""The answer of a reply without options: a number, a verdict or a short phrase."""

from __future__ import annotations

import re

from lamer.evaluation.extraction.numerals import NUMBER, behind_equation, value, written
from lamer.evaluation.extraction.statements import labelled, statements, without_opening
from lamer.evaluation.extraction.verdicts import HEAD_VERDICT, REFUSAL, has_verdict_at_end, verdict
from lamer.evaluation.extraction.wording import first_sentence, plain

MAX_PHRASE_WORDS = 12
"""A longer reply without a stated answer is no answer by itself."""

MAX_STATED_WORDS = 40
"""A longer text behind `the answer is` is no answer either."""

_TIME = re.compile(r"\s*(\d{1,2}:\d{2})\b")
_ITEM = re.compile(r"(\d{1,3})[.)]\s+(?=\S)")


def free_answer(reply: str, *, is_cut: bool) -> str | None:
    """The last stated answer, else a verdict, else the last number, else the reply when it is short.

    Args:
        reply: A normal text.
        is_cut: The reply was cut off: what its last words say is not complete, and only statements, or a verdict
            that it begins with, count.
    """
    for statement in reversed(statements(reply)):
        if statement.kind not in ("stated", "marked") or REFUSAL.search(statement.tail):
            continue
        found = _content(statement.tail, is_open=is_cut and statement.is_open)
        if found is not None:
            return found
    if REFUSAL.search(reply):
        return None
    word = verdict(reply, is_cut=is_cut)
    if word is not None or is_cut:
        return word
    if has_verdict_at_end(reply):
        return None
    return _whole(reply)


def _whole(reply: str) -> str | None:
    if _is_brackets(reply):
        return reply
    text, items = _without_numbers_of_a_list(reply)
    label = labelled(reply)
    if items and all(len(item.split()) == 1 for item in items):
        return " ".join(item.strip(".,;*_`") for item in items)
    if label is not None and not NUMBER.search(label.tail):
        return _phrase(label.tail, MAX_STATED_WORDS)
    numbers = list(NUMBER.finditer(plain(text)))
    return written(numbers[-1]) if numbers else _phrase(text, MAX_PHRASE_WORDS)


def _content(tail: str, *, is_open: bool) -> str | None:
    """A number, verdict or phrase out of the words behind `the answer is`; not where it touches the cut."""
    text = behind_equation(without_opening(plain(tail)))
    head = HEAD_VERDICT.match(text)
    if head:
        return head[1]
    sentence = first_sentence(text)
    is_open = is_open and len(sentence) == len(text)
    if _is_brackets(sentence):
        return None if is_open else sentence.strip(" .*`")
    if time := _TIME.match(sentence):
        return time[1]
    number = NUMBER.search(sentence)
    if number:
        return None if is_open and number.end() == len(sentence) else written(number)
    if re.match(r"\W*(?:yes|no|true|false|valid|invalid)\b ?(?:and|or|/)", sentence, re.IGNORECASE):
        return None
    return None if is_open and not sentence.endswith((".", "!", "*")) else _phrase(sentence, MAX_STATED_WORDS)


def _without_numbers_of_a_list(reply: str) -> tuple[str, list[str]]:
    """The text without the numbers 1., 2., ... of its lines, and these lines where it has no others."""
    lines = reply.split("\n")
    marks = [_ITEM.match(line) for line in lines]
    counts = [int(mark[1]) for mark in marks if mark]
    if len(counts) < 2 or counts != list(range(1, len(counts) + 1)):
        return reply, []
    bare = [line[mark.end() :] if mark else line for line, mark in zip(lines, marks)]
    others = [line for line, mark in zip(lines, marks) if not mark]
    is_list = not others or (len(others) == 1 and others[0] == lines[0] and others[0].rstrip("*").endswith(":"))
    items = [line for line, mark in zip(bare, marks) if mark]
    return "\n".join(bare), items if is_list and all(value(item) is None for item in items) else []


def _phrase(text: str, max_words: int) -> str | None:
    """A short text without its label, quotation marks and full stop."""
    bare = re.sub(r"^[\s*_\"'`]*[(\[][A-Za-z][)\]]\s*(?=\S)", "", text)
    bare = bare.strip().strip("*_\"'`“”").rstrip(".!").strip().strip("*_\"'`“”")
    words = bare.split()
    return bare if words and len(words) <= max_words and "\n" not in bare else None


def _is_brackets(text: str) -> bool:
    """Whether a text is made of brackets only (a Dyck word)."""
    bare = text.strip(" .*`\n")
    return bool(bare) and set(bare) <= set("[](){}<> ")
