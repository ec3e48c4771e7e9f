"""What the teacher is to write for: deficiencies by tier, as diagnosed, or as many as the settings allow."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from lamer.config import TIER_NAMES
from lamer.diagnosis.selection import num_replay
from lamer.estimate.known import EXAMPLE_TOKENS, Known
from lamer.records import Deficiency, Fact, Query, Tier
from lamer.run import Run
from lamer.synthesis.synthesize import first_requests
from lamer.synthesis.templates import build_prompt, takes_formats
from lamer.teacher.formats import Format
from lamer.teacher.ledger import LEDGER, Ledger, request_hash
from lamer.teacher.requests import Request, user_message
from lamer.teacher.teacher import Teacher


@dataclass(frozen=True, slots=True)
class Units:
    """Units of one tier that are to be written for, and what is known of their prompts."""

    tier: str
    quota: int
    num_units: int
    """Those whose first request the ledger does not hold."""
    prompt_tokens: float
    """Of one request, on average."""
    from_ledger: int = 0
    num_again: int = 0
    """Units whose first request is answered, but which may have to be asked again."""

    @property
    def num_examples(self) -> int:
        """Examples of all units, paid for or not."""
        return (self.num_units + self.from_ledger) * self.quota

    def unpaid(self) -> Units:
        """The same with nothing in the ledger: what as many units cost in a later round."""
        return replace(self, num_units=self.num_units + self.from_ledger, from_ledger=0, num_again=0)


def units_of(known: Known) -> tuple[list[Units], bool]:
    """The units by tier, and whether they are known: before the diagnosis they are the most there can be."""
    if known.run is not None and known.is_complete("select"):
        return _selected(known, known.run), True
    return _at_most(known), False


def is_written(known: Known) -> bool:
    """Whether the run has asked for all its examples."""
    return known.is_complete("synthesize") and "not asked" not in known.counts("synthesize").get("requests", {})


def _selected(known: Known, run: Run) -> list[Units]:
    """The run's deficiencies with their real prompts, and which of them the ledger has answered."""
    units = list(run.table("deficiencies", Deficiency))
    query_ids, fact_ids = {unit.query_id for unit in units}, {unit.fact_id for unit in units}
    queries = {row.id: row for row in run.table("queries", Query) if row.id in query_ids}
    facts = {row.id: row for row in run.table("facts", Fact) if row.id in fact_ids}
    forms: tuple[Format, ...] = ("text", "json") if takes_formats(known.settings.prompt) else ("text",)
    asked = [first_requests(units, queries, facts, known.config, form) for form in forms]
    found_by_form = [_answered(known, run, requests) for requests in asked]
    num_known = [sum(reply is not None for reply in found) for found in found_by_form]
    best = num_known.index(max(num_known))  # the form that the teacher was asked in before, else text
    requests, answered = asked[best], found_by_form[best]
    if replied := sum(unit.quota for unit, reply in zip(units, answered) if reply is not None):
        known.example_tokens = sum(reply for reply in answered if reply is not None) / replied
        known.assume(f"tokens of an example: {known.example_tokens:.0f}, measured on {replied} of this run")
    else:
        known.assume(f"tokens of an example in a reply: {EXAMPLE_TOKENS}, assumed")
    groups: dict[tuple[Tier, int], list[int]] = {}
    for number, unit in enumerate(units):
        groups.setdefault((unit.tier, unit.quota), []).append(number)
    found = []
    for (tier, quota), members in groups.items():
        tokens = [known.counter.messages(requests[i].messages) for i in members]
        paid = sum(answered[i] is not None for i in members)
        new = [count for count, i in zip(tokens, members) if answered[i] is None]
        mean = sum(new or tokens) / len(new or tokens)
        found.append(Units(tier, quota, len(new), mean, paid, paid))
    return sorted(found, key=lambda row: (row.tier != "below", row.quota))


def _answered(known: Known, run: Run, requests: Sequence[Request]) -> list[int | None]:
    """Completion tokens of the requests that the ledger has answered; None for the others."""
    if not (run.path / LEDGER).exists():
        return [None] * len(requests)
    with Ledger(run.path / LEDGER) as ledger:
        unlimited = known.settings.teacher.model_copy(update={"max_cost": None, "max_calls": None})
        teacher = Teacher(unlimited, ledger)
        found = [ledger.find(request_hash(teacher.body(request))) for request in requests]
    return [None if answer is None else answer.completion_tokens or 0 for answer in found]


def _at_most(known: Known) -> list[Units]:
    """As many units as the settings allow, the dearest tiers first."""
    select = known.config.select
    bound = known.num_queries * known.config.retrieve.top_k
    if select.decisive:
        bound = known.num_queries
    if select.max_per_query is not None:
        bound = min(bound, known.num_queries * select.max_per_query)
    left, examples = bound, 0
    found: list[Units] = []
    for tier in reversed(TIER_NAMES):
        quota = select.quota.get(tier, 0)
        taken = min(left, select.per_tier if select.per_tier is not None else left) if quota > 0 else 0
        if taken:
            left, examples = left - taken, examples + taken * quota
            found.append(Units(tier, quota, taken, _prompt_tokens(known, quota)))
    if replayed := min(num_replay(select.replay, examples), known.num_queries):
        found.append(Units("below", 1, replayed, _prompt_tokens(known, 1)))
    known.assume(f"tokens of an example in a reply: {EXAMPLE_TOKENS}, assumed")
    known.assume(f"deficiencies: at most {bound}, all as severe as the settings allow; diagnose to know")
    return list(reversed(found))


def _prompt_tokens(known: Known, quota: int) -> float:
    """Of a request, on average over the sampled queries, with a fact of typical length."""
    fact = Fact("", known.fact_text(), None, "")
    prompt, options = known.settings.prompt, known.settings.num_options
    texts = [build_prompt(prompt, fact, query, quota, options) for query in known.sample]
    return sum(known.counter.messages(user_message(text)) for text in texts) / max(len(texts), 1)
