"""An independent judge: another model says, in one call an example, whether it is sound.

The example is untrusted text. It stands on lines of its own between two markers that are made from the example
itself, so that no text can hold its own marker. An example that talks the judge round lets itself pass and no
other, because every call shows one example.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, fields
from functools import cache
from typing import Any

from lamer.errors import TeacherError
from lamer.run import digest
from lamer.synthesis.checks import (
    FACT_NOT_NEEDED,
    NOT_EXPLAINED,
    NOT_ONE_RIGHT,
    NOT_VERIFIED,
    UNREADABLE,
    WRONG_ANSWER,
)
from lamer.synthesis.parse import LETTERS
from lamer.synthesis.templates import one_line, options_text
from lamer.synthesis.verify import Calls, Case, prompt_text
from lamer.teacher.requests import Reply, Request, user_message
from lamer.teacher.teacher import Teacher
from lamer.teacher.template import Template

PURPOSE = "judge"
"""What the requests are for, in the ledger."""
FILE = "judge-v1.txt"


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the judge says of one example."""

    has_one_right_option: bool
    is_answer_right: bool
    is_answer_explained: bool
    is_fact_needed: bool

    @property
    def reason(self) -> str | None:
        """The first point that is not fulfilled, or None."""
        return next((REASONS[field.name] for field in fields(self) if not getattr(self, field.name)), None)


REASONS = {
    "has_one_right_option": NOT_ONE_RIGHT,
    "is_answer_right": WRONG_ANSWER,
    "is_answer_explained": NOT_EXPLAINED,
    "is_fact_needed": FACT_NOT_NEEDED,
}
_LABELS = {
    "has_one_right_option": r"(?:exactly[ _])?one[ _]right[ _]option",
    "is_answer_right": r"written[ _]answer(?:[ _]is)?[ _]right",
    "is_answer_explained": r"explanation[ _]supports(?:[ _]it)?",
    "is_fact_needed": r"fact(?:[ _]is)?[ _]needed",
}
_VALUE = r"[\W_]{1,16}?(?:(?P<yes>yes|true)|(?P<no>no|false))\b"
_TAKEN_BACK = (
    r"(?![\s,;*_–—-]{0,4}(?:[/|]\s?(?:no|false)\b"
    r"|\b(?:or|but|partly|partially|mostly|although|though|except|unless)\b))"
)
"""`yes or no` is the form of the reply given back, `yes, but ...` is no yes."""
_POINTS = {
    name: re.compile(rf"(?<!\w){label}{_VALUE}{_TAKEN_BACK}", re.IGNORECASE) for name, label in _LABELS.items()
}
_NUMBERED = re.compile(r"^\W*([1-4])[\W_]+(yes|no)\W*$", re.IGNORECASE | re.MULTILINE)


class JudgeCheck:
    """Another model judges each example.

    Args:
        judge: Whom to ask; its ledger is the run's.
        seed: The run's.
    """

    name = PURPOSE

    def __init__(self, judge: Teacher, seed: int) -> None:
        self.seed = seed
        self._calls = Calls(judge, "judge")

    def reasons(self, cases: Sequence[Case], progress: str = "") -> list[str | None]:
        """What the judge finds wrong with each example, or None; see `REASONS`, `UNREADABLE`, `NOT_VERIFIED`.

        Raises:
            TeacherError: See `Calls.ask`.
        """
        requests = [judge_request(case, str(place), self.seed) for place, case in enumerate(cases)]
        try:
            replies = self._calls.ask(requests, progress)
        except TeacherError as error:
            raise TeacherError(str(error).replace("synthesize.teacher", "synthesize.verify.judge")) from error
        return [_reason(reply) for reply in replies]

    def counts(self) -> dict[str, Any]:
        """What it cost."""
        return self._calls.counts()


def judge_request(case: Case, key: str, seed: int) -> Request:
    """The question about one example."""
    example = case.example
    shown = {
        "fact": one_line(case.fact),
        "question": one_line(example.question),
        "options": options_text(example.options),
        "answer": f"({LETTERS[example.answer]}) {one_line(example.options[example.answer])}",
        "explanation": one_line(example.explanation),
    }
    marker = f"=== EXAMPLE {digest(*shown.values())} ==="
    return Request(
        key, user_message(judge_template().render(marker=marker, **shown)), seed, judge_template().hash, PURPOSE
    )


def parse_verdict(text: str) -> Verdict | None:
    """The verdict in a reply; None unless each of the four points is answered, and answered in one way.

    Labels may be written in any case, with Markdown, as JSON or with words behind the yes or no; four numbered
    lines of yes or no are understood as well. What a reasoning model thinks aloud before is not read.
    """
    from lamer.evaluation.extraction.wording import after_thinking

    reply = after_thinking(text)
    found = {name: _answers(reply, point) for name, point in _POINTS.items()}
    if not any(found.values()):
        return _numbered(reply)
    if any(len(answers) != 1 for answers in found.values()):
        return None
    return Verdict(**{name: answers.pop() for name, answers in found.items()})


def _answers(reply: str, point: re.Pattern[str]) -> set[bool]:
    return {match["yes"] is not None for match in point.finditer(reply)}


def _numbered(reply: str) -> Verdict | None:
    """`1. yes`, ... `4. no`, each number once and in order."""
    lines = [(match[1], match[2].lower() == "yes") for match in _NUMBERED.finditer(reply)]
    return Verdict(*(said for _, said in lines)) if [number for number, _ in lines] == list("1234") else None


def _reason(reply: Reply) -> str | None:
    if reply.error is not None:
        return NOT_VERIFIED
    verdict = parse_verdict(reply.text or "")
    return UNREADABLE if verdict is None else verdict.reason


@cache
def judge_template() -> Template:
    """The prompt."""
    return Template(FILE, prompt_text(FILE), ("marker", "fact", "question", "options", "answer", "explanation"))
