"""From units (a fact, a query, a quota) to training examples.

Round by round: every unit that lacks examples asks for all it lacks in one request; when all replies of the round
are there, they are read in the order of the units. What is kept therefore depends on the replies alone, never on
which came first, and a start after a kill reads the same replies from the ledger and goes on.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from lamer.config import Config, SynthesizeSettings
from lamer.errors import DataError, TeacherError
from lamer.progress import ProgressBar
from lamer.records import Deficiency, Example, Fact, Query
from lamer.synthesis.checks import (
    BLOCKED,
    FILTERED,
    SURPLUS,
    TRUNCATED,
    UNPARSED,
    Kept,
    RunChecks,
    balance_letters,
    structural_reason,
)
from lamer.synthesis.duplicates import Subject, subject_of
from lamer.synthesis.parse import LETTERS, ParsedItem, parse
from lamer.synthesis.templates import build_prompt, template_hash
from lamer.synthesis.verify import NOT_VERIFIED, Case, Verifier
from lamer.teacher.requests import Reply, Request, user_message
from lamer.teacher.teacher import Teacher

SEEDS_PER_RUN = 100
"""Sampling seed of a request: `seed * SEEDS_PER_RUN + number of replies the unit had before`."""
MAX_NOTES = 5
"""Short units that are told one by one."""


@dataclass(frozen=True, slots=True)
class Synthesis:
    """What came of asking for examples."""

    examples: list[Example]
    """Unit by unit: the kept ones, then the rejected ones."""
    counts: dict[str, Any]
    """requested = kept + short; replies = parsed + unparsed; items = kept + rejected."""
    notes: list[str]


@dataclass(frozen=True, slots=True)
class Rejected:
    """An item that was turned down."""

    item: ParsedItem | None
    """None for a reply without items."""
    reason: str
    raw: str


@dataclass(slots=True)
class Unit:
    """A unit while it is worked on."""

    deficiency: Deficiency
    fact: Fact
    query: Query | None
    reference: Subject | None
    kept: list[Kept] = field(default_factory=list)
    unverified: list[tuple[ParsedItem, Kept]] = field(default_factory=list)
    """Those of `kept` that the verifier has not seen."""
    rejected: list[Rejected] = field(default_factory=list)
    num_replies: int = 0
    last_error: str | None = None

    @property
    def missing(self) -> int:
        """Examples still to be written."""
        return self.deficiency.quota - len(self.kept)

    def request(self, key: str, settings: SynthesizeSettings, template: str, seed: int) -> Request:
        """Ask for what is missing, different from what is there."""
        prompt = build_prompt(
            settings.prompt,
            self.fact,
            self.query,
            self.missing,
            settings.num_options,
            [kept.question for kept in self.kept],
        )
        return Request(key, user_message(prompt), seed * SEEDS_PER_RUN + self.num_replies, template)


def write_examples(
    units: Sequence[Deficiency],
    queries: Mapping[str, Query],
    facts: Mapping[str, Fact],
    config: Config,
    teacher: Teacher,
    *,
    random_facts: bool = False,
    progress: str = "synthesize",
    verifier: Verifier | None = None,
) -> Synthesis:
    """Ask the teacher until every quota is met or the tries are used up.

    Args:
        units: What to write examples for, in the order of the run. A unit with an empty `query_id` has no
            reference example.
        queries: The units' queries by id.
        facts: The units' facts by id.
        config: Settings `synthesize` and the seed.
        teacher: Whom to ask.
        random_facts: The units are no deficiencies: their examples carry no deficiency and no relative entropy.
        progress: What the progress bar says; empty for none.
        verifier: The checks that cost calls or model time, applied to what a round keeps; None for none.

    Raises:
        DataError: If a unit names a query or fact that is not there.
        TeacherError: If the teacher cannot be reached, or answers nothing at all; what was paid for is kept.
    """
    settings = config.synthesize
    work = [_unit(unit, queries, facts) for unit in units]
    checks = RunChecks(settings.similarity)
    tally: Counter[str] = Counter()
    for number in range(settings.max_tries):
        lacking = [unit for unit in work if unit.missing > 0]
        if not lacking:
            break
        replies = _ask(lacking, number, config, teacher, progress)
        if number == 0 and all(reply.error is not None for reply in replies):
            raise TeacherError(
                f"teacher {teacher.model} answered none of {len(replies)} requests, last: {replies[-1].error}"
            )
        for unit, reply in zip(lacking, replies):
            _take(unit, reply, settings.num_options, checks, tally)
        if verifier is not None:
            _verify(lacking, checks, verifier)
    examples = _examples(work, config.seed, teacher.model, random_facts=random_facts)
    return Synthesis(examples, _counts(work, examples, tally), _notes(work, tally))


def _unit(deficiency: Deficiency, queries: Mapping[str, Query], facts: Mapping[str, Fact]) -> Unit:
    fact = facts.get(deficiency.fact_id)
    if fact is None:
        raise DataError(f"deficiency {deficiency.id}: fact {deficiency.fact_id!r} is not in the table facts")
    if not deficiency.query_id:
        return Unit(deficiency, fact, None, None)
    query = queries.get(deficiency.query_id)
    if query is None:
        raise DataError(f"deficiency {deficiency.id}: query {deficiency.query_id!r} is not in the table queries")
    return Unit(deficiency, fact, query, subject_of(query.text, query.options or (), fact.text))


def _ask(units: Sequence[Unit], number: int, config: Config, teacher: Teacher, progress: str) -> list[Reply]:
    """One round: the replies in the order of the units."""
    settings = config.synthesize
    template = template_hash(settings.prompt)
    requests = [
        unit.request(str(position), settings, template, config.seed) for position, unit in enumerate(units)
    ]
    if not progress:
        replies = teacher.ask(requests)
    else:
        title = progress if number == 0 else f"{progress}, try {number + 1}"
        with ProgressBar(title, len(requests), "requests") as bar:
            replies = teacher.ask(requests, lambda reply: bar.skip(1) if reply.is_cached else bar.advance(1))
    return [replies[request.key] for request in requests]


def _take(unit: Unit, reply: Reply, num_options: int, checks: RunChecks, tally: Counter[str]) -> None:
    """Read a reply: each item is kept or rejected with a reason."""
    tally["from ledger" if reply.is_cached else "failed" if reply.error is not None else "asked"] += 1
    if reply.error is not None:
        unit.last_error = reply.error
        return
    unit.num_replies += 1
    tally["prompt tokens"] += reply.prompt_tokens
    tally["completion tokens"] += reply.completion_tokens
    text = reply.text or ""
    items = parse(text)
    if not items:
        tally["unparsed"] += 1
        unit.rejected.append(Rejected(None, _unparsed_reason(reply), text))
        return
    tally["parsed"] += 1
    is_cut = reply.finish_reason == "length"
    for item in items:
        reason = structural_reason(item, num_options, is_cut=is_cut)
        if reason is None:
            _consider(unit, item, checks)
        else:
            unit.rejected.append(Rejected(item, reason, item.raw))


def _consider(unit: Unit, item: ParsedItem, checks: RunChecks) -> None:
    """Keep an item that is sound in itself, or turn it down for what the run holds already."""
    reason = checks.reason(item, unit.fact.text, unit.reference)
    reason = reason or (SURPLUS if unit.missing <= 0 else None)
    if reason is None:
        kept = checks.keep(item, unit.fact.text)
        unit.kept.append(kept)
        unit.unverified.append((item, kept))
    else:
        unit.rejected.append(Rejected(item, reason, item.raw))


def _verify(units: Sequence[Unit], checks: RunChecks, verifier: Verifier) -> None:
    """Verify what the round kept. What fails leaves, and what it alone stood in the way of is considered anew."""
    while fresh := [(unit, item, kept) for unit in units for item, kept in unit.unverified]:
        reasons: list[str | None] = [NOT_VERIFIED] * len(fresh)
        try:
            reasons = verifier.reasons([Case(unit.fact.text, kept) for unit, _, kept in fresh])
        finally:
            for (unit, item, kept), reason in zip(fresh, reasons):
                if reason is not None:
                    _withdraw(unit, item, kept, reason, checks)
            for unit in units:
                unit.unverified.clear()
        if any(reasons):
            for unit in units:
                blocked = [rejected for rejected in unit.rejected if rejected.reason in BLOCKED]
                unit.rejected = [rejected for rejected in unit.rejected if rejected.reason not in BLOCKED]
                for rejected in blocked:
                    assert rejected.item is not None
                    _consider(unit, rejected.item, checks)


def _withdraw(unit: Unit, item: ParsedItem, kept: Kept, reason: str, checks: RunChecks) -> None:
    unit.kept.remove(kept)
    checks.drop(kept, unit.fact.text)
    unit.rejected.append(Rejected(item, reason, item.raw))


def _unparsed_reason(reply: Reply) -> str:
    return {"content_filter": FILTERED, "length": TRUNCATED}.get(reply.finish_reason or "", UNPARSED)


def _examples(units: Sequence[Unit], seed: int, teacher: str, *, random_facts: bool) -> list[Example]:
    """The rows, with letters balanced over the whole run."""
    balanced = iter(balance_letters([kept for unit in units for kept in unit.kept], seed))
    rows: list[Example] = []
    for unit in units:
        deficiency_id = None if random_facts else unit.deficiency.id
        severity = None if random_facts else unit.deficiency.relative_entropy
        for n in range(len(unit.kept)):
            kept = next(balanced)
            rows.append(
                Example(
                    f"{unit.deficiency.id}#{n}", deficiency_id, severity, kept.question, kept.options, kept.answer,
                    kept.explanation, "kept", None, kept.raw, teacher,
                )
            )  # fmt: skip
        for m, rejected in enumerate(unit.rejected):
            item = rejected.item
            rows.append(
                Example(
                    f"{unit.deficiency.id}!{m}", deficiency_id, severity,
                    (item.question if item else None) or "", (item.options if item else None) or (),
                    item.answer_index if item else None, (item.explanation if item else None) or "",
                    "rejected", rejected.reason, rejected.raw, teacher,
                )
            )  # fmt: skip
    return rows


def _counts(units: Sequence[Unit], examples: Sequence[Example], tally: Counter[str]) -> dict[str, Any]:
    kept = [example for example in examples if example.status == "kept"]
    requested = sum(unit.deficiency.quota for unit in units)
    wanted_by_tier: Counter[str] = Counter()
    kept_by_tier: Counter[str] = Counter()
    for unit in units:
        wanted_by_tier[unit.deficiency.tier] += unit.deficiency.quota
        kept_by_tier[unit.deficiency.tier] += len(unit.kept)
    rejected = Counter(example.reason or "" for example in examples if example.status == "rejected")
    letters = Counter(LETTERS[example.answer] for example in kept if example.answer is not None)
    return {
        "deficiencies": len(units),
        "requested": requested,
        "kept": len(kept),
        "short": requested - len(kept),
        "short_deficiencies": sum(unit.missing > 0 for unit in units),
        "requested_by_tier": dict(wanted_by_tier),
        "kept_by_tier": {tier: kept_by_tier[tier] for tier in wanted_by_tier},
        "requests": {name: tally[name] for name in ("asked", "from ledger", "failed")},
        "replies": {
            "total": tally["parsed"] + tally["unparsed"],
            "parsed": tally["parsed"],
            "unparsed": tally["unparsed"],
        },
        "items": {"total": len(examples), "kept": len(kept), "rejected": len(examples) - len(kept)},
        "rejected": dict(rejected.most_common()),
        "letters": dict(sorted(letters.items())),
        "tokens": {"prompt": tally["prompt tokens"], "completion": tally["completion tokens"]},
    }


def _notes(units: Sequence[Unit], tally: Counter[str]) -> list[str]:
    """What a user should know: shortages with their reasons, requests given up."""
    short = [unit for unit in units if unit.missing > 0]
    notes: list[str] = []
    if short:
        missing = sum(unit.missing for unit in short)
        notes.append(f"{len(short)} of {len(units)} deficiencies are short, {missing} examples in all")
        notes += [_shortage(unit) for unit in short[:MAX_NOTES]]
        if len(short) > MAX_NOTES:
            notes.append(f"... and {len(short) - MAX_NOTES} more; rejected examples are in the table examples")
    if tally["failed"]:
        last = next(unit.last_error for unit in reversed(units) if unit.last_error is not None)
        notes.append(
            f"{tally['failed']} requests were given up, last: {last}; --restart-from synthesize asks for what is "
            "missing, answered requests are not paid again"
        )
    return notes


def _shortage(unit: Unit) -> str:
    reasons = Counter(rejected.reason for rejected in unit.rejected)
    told = ", ".join(f"{reason} {count}" for reason, count in reasons.most_common()) or "the teacher wrote too few"
    if unit.last_error is not None:
        told += f", teacher failed: {unit.last_error}"
    return f"{unit.deficiency.id}: {len(unit.kept)} of {unit.deficiency.quota} kept ({told})"
