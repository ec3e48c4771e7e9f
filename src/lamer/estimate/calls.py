"""Calls of a teacher by purpose: how many, how long, and what they cost.

With a share r of items rejected, a unit with quota q is asked again for the n-th time with probability
1 - (1 - r^n)^q, for q r^n examples on average: an item is missing after n tries when n were rejected in a row.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from lamer.config import TeacherSettings
from lamer.estimate.known import Known
from lamer.estimate.units import Units
from lamer.pipeline import extracts_by_teacher
from lamer.records import Fact, Passage
from lamer.rows import BadRows
from lamer.synthesis.costs import verification_costs
from lamer.synthesis.judge import PURPOSE as JUDGE
from lamer.synthesis.schema import TRIAL_MESSAGE
from lamer.synthesis.templates import build_prompt, takes_formats
from lamer.teacher.formats import PURPOSE as TRIAL
from lamer.teacher.ledger import LEDGER, Ledger
from lamer.teacher.prices import price_of
from lamer.teacher.requests import Message, user_message

COLUMNS = ("calls", "prompt_tokens", "completion_tokens", "cost", "max_calls", "max_cost", "from_ledger")
"""Fields of a line that add up."""
FACTS = "facts"
FACT_REPLY_TOKENS = 300
"""Tokens of a reply with facts, where it was not measured."""


@dataclass(frozen=True, slots=True)
class Line:
    """What is asked of a teacher for one purpose (and tier)."""

    purpose: str
    tier: str | None
    model: str
    calls: float
    """Expected number; what the ledger holds is not in it."""
    prompt_tokens: float
    completion_tokens: float
    cost: float | None
    """Expected money; None where the price is not known."""
    max_calls: int
    """When every try is needed."""
    max_cost: float | None
    """When every try is needed and every reply is as long as it may be."""
    from_ledger: int
    """Calls that are paid for already."""

    def times(self, number: int) -> Line:
        """The same, asked for so many times; what is paid for already is paid once."""
        added = {name: getattr(self, name) for name in COLUMNS if name != "from_ledger"}
        changes: dict[str, Any] = {
            name: None if value is None else value * number for name, value in added.items()
        }
        return replace(self, **changes)


def total(lines: Iterable[Line], column: str) -> Any:
    """Sum of one of `COLUMNS`; None when a line does not know it."""
    values = [getattr(line, column) for line in lines]
    return None if None in values else sum(values)


def fact_lines(known: Known) -> Iterator[Line]:
    """What a teacher is asked before the diagnosis."""
    is_math, is_documents = known.config.retrieve.method == "teacher", extracts_by_teacher(known.config)
    if known.is_complete("retrieve") or not (is_math or is_documents):
        return
    prompts = list(_math_prompts(known) if is_math else _document_prompts(known))
    if not prompts:
        return
    num_calls = known.num_queries if is_math else len(prompts)
    mean = sum(known.counter.messages(messages) for messages in prompts) / len(prompts)
    known.assume(f"tokens of a reply with facts: {FACT_REPLY_TOKENS}, assumed; each is asked for once")
    tries = num_calls * known.settings.max_tries
    yield _line(known, FACTS, None, num_calls, mean, num_calls * FACT_REPLY_TOKENS, most=tries)
    if known.run is not None and (known.run.path / LEDGER).exists():
        known.notes.append("facts that the ledger holds already are counted again: they cost nothing")


def trial_lines(known: Known, units: Sequence[Units]) -> Iterator[Line]:
    """The request that finds out whether the server honours a JSON schema."""
    is_known = known.counts("synthesize").get("format")
    if (
        known.settings.teacher.format != "auto"
        or not units
        or is_known
        or not takes_formats(known.settings.prompt)
    ):
        return
    message = user_message(TRIAL_MESSAGE.format(known.settings.num_options))
    if known.run is not None and (known.run.path / LEDGER).exists():
        with Ledger(known.run.path / LEDGER) as ledger:
            if ledger.totals(TRIAL).answered:
                return
    yield _line(known, TRIAL, None, 1, known.counter.messages(message), known.example_tokens)


def example_lines(known: Known, units: Sequence[Units]) -> Iterator[Line]:
    """First requests by tier, then those that ask again for what was rejected, then checks that cost."""
    for row in units:
        completion = row.num_units * row.quota * known.example_tokens
        yield _line(
            known, "examples", row.tier, row.num_units, row.prompt_tokens, completion, from_ledger=row.from_ledger
        )
    for row in units:
        calls, items = again(row.quota, known.rejection, known.settings.max_tries)
        num_units = row.num_units + row.num_again
        if num_units and known.settings.max_tries > 1:
            yield _line(
                known, "examples again", row.tier, num_units * calls, row.prompt_tokens,
                num_units * items * known.example_tokens, most=num_units * (known.settings.max_tries - 1),
            )  # fmt: skip
    yield from _check_lines(known, units)


def naive_lines(known: Known, units: Sequence[Units]) -> Iterator[Line]:
    """In the demo, as many examples from random facts."""
    if known.config.preset != "demo" or known.is_complete("methods") or known.has("methods/naive/examples"):
        return
    wanted = sum(row.num_examples for row in units)
    if known.is_complete("synthesize"):
        wanted = known.counts("synthesize").get("kept", wanted)
    fact, prompt = Fact("", known.fact_text(), None, ""), known.settings.prompt
    text = build_prompt(prompt, fact, None, 1, known.settings.num_options)
    calls, _ = again(1, known.rejection, known.settings.max_tries)
    total = wanted * (1 + calls)
    yield _line(
        known, "naive examples", None, total, known.counter.messages(user_message(text)),
        total * known.example_tokens, most=wanted * known.settings.max_tries,
    )  # fmt: skip


def again(quota: int, rejection_rate: float, max_tries: int) -> tuple[float, float]:
    """Further requests of a unit after the first, and examples they ask for, on average.

    Sums over n = 1 ... max_tries - 1 of 1 - (1 - r^n)^q and of q r^n.

    Args:
        quota: q, examples of the unit.
        rejection_rate: r, share of items that are rejected, each by itself.
        max_tries: Requests of the unit at most.
    """
    tries = range(1, max_tries)
    calls = sum(1 - (1 - rejection_rate**n) ** quota for n in tries)
    return calls, sum(quota * rejection_rate**n for n in tries)


def _math_prompts(known: Known) -> Iterator[tuple[Message, ...]]:
    from lamer.knowledge.math_facts import math_messages

    return (tuple(math_messages(query, known.config.retrieve.top_k)) for query in known.sample)


def _document_prompts(known: Known) -> Iterator[tuple[Message, ...]]:
    from lamer.knowledge.document_facts import document_messages
    from lamer.knowledge.documents import find_documents, read_passages

    facts = known.config.facts
    passages: Iterator[Passage]
    if known.run is not None and (known.run.path / "index" / "passages.json").exists():
        passages = iter(known.run.table("passages", Passage))
    else:
        quiet = BadRows(facts.skip_bad, warn=lambda message: None)
        passages = read_passages(find_documents(facts.documents), facts, quiet)
    return (tuple(document_messages(passage, facts.facts_per_passage)) for passage in passages)


def _check_lines(known: Known, units: Sequence[Units]) -> Iterator[Line]:
    """Blind answers and judgements of the examples that pass the other checks."""
    verify, tries = known.settings.verify, known.settings.max_tries
    kept = sum((row.num_units + row.num_again) * row.quota * (1 - known.rejection**tries) for row in units)
    most = sum((row.num_units + row.num_again) * row.quota * tries for row in units)
    paid = verification_costs(1000, known.config, count_tokens=lambda text: _tokens_of(known, text))
    for cost in paid if kept else []:
        if not cost.calls:
            continue
        times = cost.calls / 1000
        known.assume(f"{cost.check}: {cost.prompt_tokens / cost.calls:.0f} tokens of prompt, assumed")
        yield _line(
            known, cost.check, None, kept * times, cost.prompt_tokens / cost.calls,
            kept * cost.completion_tokens / 1000, most=round(most * times),
            teacher=verify.judge if cost.check == JUDGE else None,
        )  # fmt: skip


def _tokens_of(known: Known, text: str) -> int:
    return known.counter.messages(user_message(text))


def _line(
    known: Known,
    purpose: str,
    tier: str | None,
    calls: float,
    prompt_tokens: float,
    completion_tokens: float,
    *,
    most: int | None = None,
    from_ledger: int = 0,
    teacher: TeacherSettings | None = None,
) -> Line:
    """A line; `prompt_tokens` is for one call, `completion_tokens` for all."""
    settings = teacher or known.settings.teacher
    price = price_of(settings) if teacher is not None else known.price
    num_most = most if most is not None else round(calls)
    is_batch = settings.mode == "batch"
    cost = max_cost = None
    if price is not None and (known.price is None or price.currency == known.price.currency):
        cost = price.cost(round(calls * prompt_tokens), round(completion_tokens), is_batch=is_batch)
        longest = num_most * settings.max_tokens
        max_cost = price.cost(round(num_most * prompt_tokens), longest, is_batch=is_batch)
    return Line(
        purpose, tier, settings.model, round(calls, 2), round(calls * prompt_tokens), round(completion_tokens),
        cost, num_most, max_cost, from_ledger,
    )  # fmt: skip
