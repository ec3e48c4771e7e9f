"""The answer in a free-form reply.

Text in, answer out: no model, no label. What is found is published here and pinned by the table of cases in the
tests, so that an accuracy can be redone by hand.

With options the answer is a letter. In this order:
    1. the last stated answer: `the answer is ...` (other languages too), `Answer: ...`, `\\boxed{...}`, `(B) is
       correct`, `I choose B`;
    2. the reply, or else its last or first line, is nothing but a label or an option: `B`, `(B)`, `B.`, `B) text`;
    3. the reply begins with a label: `(B) text`, `B. because ...`; a list of the options is no answer;
    4. the reply holds the text of exactly one option, or else exactly one label in brackets.
Without options it is a number, a verdict (yes, no, true, ...) or a short phrase: the last stated answer, else a
verdict the reply begins or ends with, else its last number, else the reply itself when it is short.

What a reply denies (`not Paris`, `(A) is wrong`), asks or takes back (`wait, no`) is no answer, and neither are
several. A reply that was cut off answers only by a statement or by what it begins with. Anything else, refusals
too, is None: no answer is ever guessed.
"""

from __future__ import annotations

from collections.abc import Sequence

from lamer.evaluation.extraction.choice import choice
from lamer.evaluation.extraction.free import free_answer
from lamer.evaluation.extraction.numerals import is_same_number, value
from lamer.evaluation.extraction.statements import behind_withdrawal
from lamer.evaluation.extraction.wording import after_thinking, key, normal


def extract_answer(text: str, options: Sequence[str] = (), *, is_cut: bool = False) -> str | None:
    """The answer that a reply gives, or None where it gives none.

    Args:
        text: What the model wrote.
        options: Answer options in the order shown; empty for a free answer.
        is_cut: Whether the reply ended at a length limit, not where the model ended it.

    Returns:
        A letter ("A" is the first option), or for a free answer a plain number ("1234", "-0.5", "1/2"), a
        verdict or a phrase as written.
    """
    reply = behind_withdrawal(normal(after_thinking(text)))
    if not reply:
        return None
    if options:
        index = choice(reply, [key(option) for option in options], is_cut=is_cut)
        return None if index is None else chr(ord("A") + index)
    return free_answer(reply, is_cut=is_cut)


def is_correct(answer: str | None, target: str, options: Sequence[str] = ()) -> bool:
    """Whether an extracted answer is the target.

    With options both are letters. Free answers agree as numbers (`numerals.is_same_number`: equal values, or a
    longer decimal or ratio that a target with two decimals or more is the rounding of), else as words, without
    case and punctuation.
    """
    if answer is None:
        return False
    if options:
        return answer == target
    given = value(answer)
    if given is not None and value(target) is not None:
        return is_same_number(given, target)
    return key(answer) == key(target)
