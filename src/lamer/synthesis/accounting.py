"""What a synthesis says of itself: counts that balance, shortages, notes (pure).

requested = kept + short
requests asked + taken from the ledger = replies = parsed + unparsed
rows = items read + unparsed replies = kept + rejected by reason
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from lamer.records import Example, Shortage
from lamer.synthesis.parse import LETTERS
from lamer.synthesis.units import Unit

MAX_NOTES = 5
"""Short units that are told one by one in the notes; the table shortages has all."""


def count(units: Sequence[Unit], examples: Sequence[Example], tally: Counter[str]) -> dict[str, Any]:
    """The numbers of a synthesis, by name.

    Args:
        units: When all is done.
        examples: The rows made of them.
        tally: What was counted on the way: `asked`, `from ledger`, `failed`, `parsed`, `unparsed`, `items`,
            `prompt tokens`, `completion tokens`.
    """
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
        "short": sum(unit.missing for unit in units),
        "short_deficiencies": sum(unit.missing > 0 for unit in units),
        "requested_by_tier": dict(wanted_by_tier),
        "kept_by_tier": {tier: kept_by_tier[tier] for tier in wanted_by_tier},
        "requests": {name: tally[name] for name in ("asked", "from ledger", "failed")},
        "replies": {
            "total": tally["asked"] + tally["from ledger"],
            "parsed": tally["parsed"],
            "unparsed": tally["unparsed"],
        },
        "items": {
            "total": tally["items"] + tally["unparsed"],
            "kept": len(kept),
            "rejected": sum(len(unit.rejected) for unit in units),
        },
        "rejected": dict(rejected.most_common()),
        "letters": dict(sorted(letters.items())),
        "tokens": {"prompt": tally["prompt tokens"], "completion": tally["completion tokens"]},
    }


def imbalances(counts: Mapping[str, Any]) -> list[str]:
    """What does not add up in the counts, as equations; each side was counted apart from the other."""
    replies, items = counts["replies"], counts["items"]
    equations = {
        "requested = kept + short": (counts["requested"], counts["kept"] + counts["short"]),
        "replies = parsed + unparsed": (replies["total"], replies["parsed"] + replies["unparsed"]),
        "items = kept + rejected": (items["total"], items["kept"] + items["rejected"]),
        "rejected = rejected by reason": (items["rejected"], sum(counts["rejected"].values())),
        "kept = kept by tier": (counts["kept"], sum(counts["kept_by_tier"].values())),
        "kept = letters": (counts["kept"], sum(counts["letters"].values())),
    }
    return [f"{name}: {left} and {right}" for name, (left, right) in equations.items() if left != right]


def shortages(units: Sequence[Unit]) -> list[Shortage]:
    """Every unit that lacks examples, with the reasons, in the order of the run."""
    return [_shortage(unit) for unit in units if unit.missing > 0]


def _shortage(unit: Unit) -> Shortage:
    found = Counter(rejected.reason for rejected in unit.rejected)
    reasons = tuple(sorted(found, key=lambda reason: (-found[reason], reason)))
    deficiency = unit.deficiency
    return Shortage(
        deficiency.id,
        deficiency.query_id,
        deficiency.fact_id,
        deficiency.tier,
        deficiency.quota,
        len(unit.kept),
        unit.num_replies,
        reasons,
        tuple(found[reason] for reason in reasons),
        unit.last_error,
    )


def notes(units: Sequence[Unit], short: Sequence[Shortage], num_failed: int) -> list[str]:
    """What a user should know: shortages with their reasons, requests given up."""
    told: list[str] = []
    if short:
        missing = sum(row.requested - row.kept for row in short)
        told.append(f"{len(short)} of {len(units)} deficiencies are short, {missing} examples in all")
        told += map(told_shortage, short[:MAX_NOTES])
        if len(short) > MAX_NOTES:
            told.append(f"... and {len(short) - MAX_NOTES} more, all in the table shortages")
    if num_failed:
        last = next(unit.last_error for unit in reversed(units) if unit.last_error is not None)
        told.append(
            f"{num_failed} requests were given up, last: {last}; --restart-from synthesize asks for what is "
            "missing, answered requests are not paid again"
        )
    return told


def told_shortage(row: Shortage) -> str:
    """A shortage in one line."""
    told = ", ".join(f"{reason} {number}" for reason, number in zip(row.reasons, row.counts))
    told = told or ("the teacher wrote too few" if row.num_replies else "the teacher was not asked")
    if row.error is not None:
        told = f"{told}, teacher failed: {row.error}" if row.num_replies else f"teacher failed: {row.error}"
    return f"{row.deficiency_id}: {row.kept} of {row.requested} kept ({told})"
