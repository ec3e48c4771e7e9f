"""Checks of an example that cost teacher calls or model time; each is off unless the settings ask for it.

| check | what it asks |
|---|---|
| student | is the example easier for the model under diagnosis with the fact than without? |
| self answer | does the teacher, asked again without the answer, give the written one? |
| judge | does another model find one right option, the written one, well explained and in need of the fact? |

A check sees many cases at once; an example that one check turns down is not shown to the next, dearer one. Where a
server did not answer the reason is `not verified`: an example is never kept unseen.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from typing import Any, Protocol

from lamer.errors import TeacherError
from lamer.progress import ProgressBar
from lamer.synthesis.checks import Kept, Refusal
from lamer.synthesis.units import Candidate
from lamer.teacher.requests import Reply, Request
from lamer.teacher.teacher import Teacher


def prompt_text(file: str) -> str:
    """A prompt of this package."""
    return (resources.files("lamer.synthesis") / "prompts" / file).read_text(encoding="utf-8").strip()


@dataclass(frozen=True, slots=True)
class Case:
    """An example that passed every check that costs nothing."""

    fact: str
    """What it was written for."""
    example: Kept


class Check(Protocol):
    """One of the checks."""

    name: str

    def reasons(self, cases: Sequence[Case], progress: str) -> list[str | None]:
        """Why each case is turned down, or None; `progress` is what the bar says, empty for no bar."""

    def counts(self) -> dict[str, Any]:
        """What it cost and measured so far."""


class Verifier:
    """The checks that the settings ask for, one after another.

    Args:
        checks: The cheapest first.
        progress: What the progress bar says in front of a check's name; empty for none.
    """

    def __init__(self, checks: Sequence[Check], progress: str = "") -> None:
        self.checks = tuple(checks)
        self.progress = progress
        self._tally: Counter[tuple[str, str]] = Counter()

    def reasons(self, cases: Sequence[Case]) -> list[str | None]:
        """Why each case is turned down, in the order of the cases; None for one that passed every check.

        Raises:
            TeacherError: If a check's teacher cannot be reached or refuses; its replies so far are kept.
            ModelError: If the model under diagnosis cannot be loaded.
        """
        found: list[str | None] = [None] * len(cases)
        for check in self.checks:
            asked = [place for place, reason in enumerate(found) if reason is None]
            if not asked:
                break
            title = f"{self.progress}, {check.name}" if self.progress else ""
            reasons = check.reasons([cases[place] for place in asked], title)
            for place, reason in zip(asked, reasons, strict=True):
                found[place] = reason
                self._tally[check.name, "asked"] += 1
                self._tally[check.name, "passed" if reason is None else "rejected"] += 1
        return found

    def refusals(self, candidates: Sequence[Candidate]) -> list[Refusal | None]:
        """The same for the candidates of a round, as the synthesis takes it."""
        cases = [Case(candidate.unit.fact.text, candidate.kept) for candidate in candidates]
        return [Refusal(reason) if reason is not None else None for reason in self.reasons(cases)]

    def counts(self) -> dict[str, Any]:
        """By check: asked = passed + rejected, and what the check says of itself."""
        return {
            check.name: {name: self._tally[check.name, name] for name in ("asked", "passed", "rejected")}
            | check.counts()
            for check in self.checks
        }


class Calls:
    """A check's calls of its teacher, and what they came to.

    Args:
        teacher: Whom to ask.
        role: What it is called in errors.
    """

    def __init__(self, teacher: Teacher, role: str) -> None:
        self.teacher = teacher
        self.role = role
        self._tally: Counter[str] = Counter()

    def ask(self, requests: Sequence[Request], progress: str) -> list[Reply]:
        """The replies in the order of the requests.

        Raises:
            TeacherError: If the teacher cannot be reached or refuses, or has never answered any request.
        """
        if progress:
            with ProgressBar(progress, len(requests), "requests") as bar:
                found = self.teacher.ask(
                    requests, lambda reply: bar.skip(1) if reply.is_cached else bar.advance(1)
                )
        else:
            found = self.teacher.ask(requests)
        replies = [found[request.key] for request in requests]
        for reply in replies:
            self._tally["failed" if reply.error else "from ledger" if reply.is_cached else "calls"] += 1
            self._tally["prompt"] += reply.prompt_tokens
            self._tally["completion"] += reply.completion_tokens
        is_over_budget = any(reply.is_over_budget for reply in replies)
        if replies and not is_over_budget and not self._tally["calls"] and not self._tally["from ledger"]:
            raise TeacherError(
                f"{self.role} {self.teacher.model} answered none of {len(replies)} requests, "
                f"last: {replies[-1].error}"
            )
        return replies

    def counts(self) -> dict[str, Any]:
        """Requests and tokens; those of replies taken from the ledger are among the tokens."""
        return {
            "model": self.teacher.model,
            **{name: self._tally[name] for name in ("calls", "from ledger", "failed")},
            "tokens": {name: self._tally[name] for name in ("prompt", "completion")},
        }
