"""What the teacher is told about examples of its own that were turned down (pure, but for its prompt file).

A short counted list, only of what a writer can mend. It never holds a text from a held-out file, nor the teacher's
own words, so that nothing untrusted gets into the prompt this way.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from importlib import resources

from lamer.synthesis import checks
from lamer.synthesis.parse import (
    AMBIGUOUS_ANSWER,
    ANSWER_NOT_AN_OPTION,
    MALFORMED,
    NO_ANSWER,
    NO_OPTIONS,
    NO_QUESTION,
)
from lamer.teacher.template import Template

FILE = "retry-v1.txt"
MAX_PROBLEMS = 4
"""Reasons told at once, the most frequent first."""

ADVICE: dict[str, str] = {
    checks.UNPARSED: "came in a form that could not be read",
    checks.TRUNCATED: "did not fit into the length limit and broke off",
    checks.TEMPLATE_ECHOED: "repeated a placeholder of the form instead of filling it in",
    checks.TOO_LONG: "was far too long",
    checks.WRONG_NUMBER_OF_OPTIONS: "had a wrong number of options",
    checks.DUPLICATE_OPTIONS: "had two options that say the same, or an empty one",
    checks.OPTION_ABOUT_OPTIONS: 'had an option about other options, such as "All of the above"',
    checks.NO_EXPLANATION: "had no explanation",
    checks.CONTRADICTION: "had an explanation that contradicts the answer",
    checks.FACT_QUOTED: "quoted the fact in the question or in an option",
    checks.CONTAMINATED: "repeated a question that is published elsewhere",
    checks.COPIES_REFERENCE: "was too close to the reference example",
    checks.DUPLICATE: "was too close to an example that had been made before",
    MALFORMED: "was not written in the form asked for",
    checks.DISAGREE: "had an answer that was not found again when the question was asked without it",
    checks.NOT_ONE_RIGHT: "had no right option, or more than one",
    checks.WRONG_ANSWER: "had a wrong answer",
    checks.NOT_EXPLAINED: "had an explanation that does not lead to the answer",
    checks.FACT_NOT_NEEDED: "could be answered without the fact",
    checks.NOT_EASIER: "was no easier to answer with the fact than without",
    NO_QUESTION: "had no question",
    NO_OPTIONS: "had no options",
    NO_ANSWER: "had no answer",
    ANSWER_NOT_AN_OPTION: "had an answer that is none of its options",
    AMBIGUOUS_ANSWER: "had an answer that fits more than one option",
}
"""Reason of a rejected item -> what one such example did, after a number."""


def load_retry() -> Template:
    """What is added to the prompt when examples were turned down."""
    text = (resources.files("lamer.synthesis") / "prompts" / FILE).read_text(encoding="utf-8").strip()
    return Template(FILE, text, known=("problems",))


def advice(reasons: Iterable[str]) -> str:
    """`2 quoted the fact ..., 1 had no explanation`, rendered; empty when there is nothing to be mended.

    Args:
        reasons: Of the rejected items, one each.
    """
    counts = Counter(reason for reason in reasons if reason in ADVICE)
    if not counts:
        return ""
    most = sorted(counts, key=lambda reason: (-counts[reason], reason))[:MAX_PROBLEMS]
    problems = ", ".join(f"{counts[reason]} {ADVICE[reason]}" for reason in most)
    return load_retry().render(problems=problems)
