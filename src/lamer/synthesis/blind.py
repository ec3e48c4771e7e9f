"""Blind self-answer: asked its own question several times, does the teacher give the answer it wrote?

It sees neither the written answer nor the explanation nor, unless the settings say so, the fact. Each time the
options stand in another order, chosen by the text alone: over as many times as there are options, each option
stands once at every letter, so a liking for one letter is the same for all of them.

    agreement = answers that equal the written one / times asked

An answer that cannot be read, or is none of the options, counts as one that differs.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

from lamer.run import digest
from lamer.synthesis.checks import DISAGREE, NOT_VERIFIED, is_tied_to_order
from lamer.synthesis.templates import one_line, options_text
from lamer.synthesis.verify import Calls, Case, prompt_text
from lamer.teacher.requests import Reply, Request, user_message
from lamer.teacher.teacher import Teacher
from lamer.teacher.template import Template

PURPOSE = "self answer"
"""What the requests are for, in the ledger."""
SEEDS_PER_RUN = 100
"""Sampling seed of the n-th time: `seed * SEEDS_PER_RUN + n`."""


@dataclass(frozen=True, slots=True)
class Asked:
    """One time that a question is put."""

    request: Request
    options: tuple[str, ...]
    """In the order shown."""
    order: tuple[int, ...]
    """The written example's option at each place."""

    def answer(self, reply: Reply) -> int | None:
        """The option that the reply names, by its place in the written example; None where it names none.

        A reply that was cut off has not come to its answer.
        """
        from lamer.evaluation.extraction import extract_answer

        if reply.text is None or reply.finish_reason == "length":
            return None
        letter = extract_answer(reply.text, self.options)
        return None if letter is None else self.order[ord(letter) - ord("A")]


class BlindCheck:
    """The teacher answers each example `times` times.

    Args:
        teacher: Who wrote the examples.
        times: How often it is asked.
        agreement: Share of the answers that must equal the written one.
        seed: The run's.
        sees_fact: Whether the fact is shown.
    """

    name = PURPOSE

    def __init__(
        self, teacher: Teacher, times: int, agreement: float, seed: int, *, sees_fact: bool = False
    ) -> None:
        self.times = times
        self.agreement = agreement
        self.seed = seed
        self.sees_fact = sees_fact
        self._calls = Calls(teacher, "teacher")
        self._unreadable = 0

    def reasons(self, cases: Sequence[Case], progress: str = "") -> list[str | None]:
        """`DISAGREE`, or `NOT_VERIFIED` where replies that are missing could still decide.

        Raises:
            TeacherError: See `Calls.ask`.
        """
        asked = [self._ask(case, place, time) for place, case in enumerate(cases) for time in range(self.times)]
        replies = self._calls.ask([one.request for one in asked], progress)
        found: list[str | None] = []
        for place, case in enumerate(cases):
            mine = range(place * self.times, (place + 1) * self.times)
            answers = [asked[i].answer(replies[i]) for i in mine if replies[i].error is None]
            self._unreadable += answers.count(None)
            found.append(self._reason(answers.count(case.example.answer), self.times - len(answers)))
        return found

    def counts(self) -> dict[str, Any]:
        """What it cost, and how many answers could not be read."""
        return {**self._calls.counts(), "unreadable": self._unreadable}

    def _reason(self, num_agreeing: int, num_missing: int) -> str | None:
        if num_agreeing / self.times >= self.agreement:
            return None
        could_pass = (num_agreeing + num_missing) / self.times >= self.agreement
        return NOT_VERIFIED if could_pass else DISAGREE

    def _ask(self, case: Case, place: int, time: int) -> Asked:
        example = case.example
        order = tuple(range(len(example.options)))
        if not is_tied_to_order(replace(example, explanation="")):
            order = order_of(example.question, example.options, time)
        options = tuple(example.options[index] for index in order)
        shown = {"fact": one_line(case.fact)} if self.sees_fact else {}
        template = blind_template(sees_fact=self.sees_fact)
        prompt = template.render(question=one_line(example.question), options=options_text(options), **shown)
        seed = self.seed * SEEDS_PER_RUN + time
        return Asked(
            Request(f"{place}.{time}", user_message(prompt), seed, template.hash, PURPOSE), options, order
        )


def order_of(question: str, options: Sequence[str], time: int) -> tuple[int, ...]:
    """The order in which the options are shown the `time`-th time, as indices into `options`.

    A seeded shuffle, rotated by one place each time; after as many times as there are options, another shuffle. So
    in times 0 to n - 1, n to 2n - 1, ... every one of the n options stands once at each place.

    Args:
        question: With the options, what the shuffle depends on; not the answer.
        options: As written.
        time: From 0.
    """
    size = len(options)
    shuffled = list(range(size))
    random.Random(digest(str(time // size), question, *options)).shuffle(shuffled)
    start = time % size
    return (*shuffled[start:], *shuffled[:start])


@cache
def blind_template(*, sees_fact: bool = False) -> Template:
    """The prompt."""
    file = "blind-with-fact-v1.txt" if sees_fact else "blind-v1.txt"
    return Template(file, prompt_text(file), (*(("fact",) if sees_fact else ()), "question", "options"))
