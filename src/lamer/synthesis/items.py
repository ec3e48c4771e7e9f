"""What is read from a teacher's reply."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from lamer.synthesis.answers import AMBIGUOUS_ANSWER, find_answer
from lamer.synthesis.labels import Field

NO_QUESTION = "no question"
NO_OPTIONS = "no options"
NO_ANSWER = "no answer"
TRUNCATED = "truncated"
MALFORMED = "malformed"


@dataclass(frozen=True, slots=True)
class ParsedItem:
    """One example as the teacher wrote it; what it did not write is None."""

    question: str | None
    options: tuple[str, ...] | None
    answer: str | None
    """The answer's own words: "B", "(B)", "(B) It sank.", "It sank."."""
    answer_index: int | None
    """Index into `options` that `answer` names; None when it names none or several."""
    explanation: str | None
    raw: str
    """The part of the reply that the item was read from, verbatim."""
    problem: str | None
    """What keeps it from being an example (`no question`, `no options`, `no answer`, `answer not an option`,
    `ambiguous answer`; in JSON also `truncated`, `malformed`), the first that applies."""
    is_last: bool = False
    """The last one of its reply: the one that a length limit cuts off."""
    ends_with: Field | None = None
    """The field written last; None in JSON, where it is known whether a field is whole."""


def item_of(
    question: str | None,
    options: tuple[str, ...] | None,
    answers: Sequence[str],
    explanation: str | None,
    raw: str,
    *,
    damage: str | None = None,
    is_last: bool = False,
    ends_with: Field | None = None,
) -> ParsedItem:
    """An item from its fields; the answer is looked up among the options.

    Args:
        question: The question, None or empty if there is none.
        options: The options, None or empty if there are none.
        answers: The answer, and every other time it was written: another option then is an `ambiguous answer`.
        explanation: The explanation, None or empty if there is none.
        raw: What all this was read from.
        damage: What is wrong with the item as a whole.
        is_last: Whether it is the last one.
        ends_with: The field written last.
    """
    question, options, explanation = question or None, options or None, explanation or None
    answer = next(iter(answers), "") or None
    index, trouble = find_answer(answer, options) if answer and options else (None, None)
    if options and any(_disagrees(repeated, index, options) for repeated in answers[1:]):
        index, trouble = None, AMBIGUOUS_ANSWER
    problem = damage or (
        NO_QUESTION if question is None
        else NO_OPTIONS if options is None
        else NO_ANSWER if answer is None
        else trouble
    )  # fmt: skip
    return ParsedItem(question, options, answer, index, explanation, raw, problem, is_last, ends_with)


def _disagrees(repeated: str, index: int | None, options: Sequence[str]) -> bool:
    """Whether an answer that was written again names another option."""
    again, _ = find_answer(repeated, options)
    return again is not None and again != index
