"""A teacher that writes sound examples about whatever fact it is given, and the units to ask it about."""

from __future__ import annotations

import hashlib
import random
import re
from collections.abc import Sequence
from pathlib import Path

from lamer.config import Config, load_config
from lamer.records import Deficiency, Fact, Query, Tier
from lamer.run import Run
from lamer.synthesis.stage import synthesize

_NOUNS = (
    "anchor basket candle drawer engine feather garden hammer island jacket kettle ladder mirror needle orchard "
    "pillow quarry ribbon saddle tunnel umbrella violin window yacht zipper bridge castle dragon eagle forest"
)
NOUNS = _NOUNS.split()
TIERS: tuple[Tier, ...] = ("easy", "normal", "hard", "unfair")


def good_item(rng: random.Random, letter: str | None = None) -> str:
    nouns = rng.sample(NOUNS, 9)
    slot = rng.randrange(3)
    return (
        f"Question: A {nouns[0]} stood near the {nouns[1]}, the {nouns[2]} and the {nouns[3]} beside "
        f"the {nouns[4]}, {rng.randrange(10**6)} times. What came next?\n"
        f"Options: (A) The {nouns[5]} fell. (B) The {nouns[6]} rose. (C) The {nouns[7]} broke.\n"
        f"Answer: ({letter or 'ABC'[slot]})\n"
        f"Explanation: A {nouns[8]} always does so, hence ({letter or 'ABC'[slot]})."
    )


def write(messages: Sequence[dict[str, str]], **sampling: object) -> str:
    """As many sound examples as asked for; the same request gets the same reply."""
    text = messages[-1]["content"]
    seed = hashlib.sha256(f"{text} {sampling.get('seed')}".encode()).hexdigest()
    rng = random.Random(seed)
    match = re.search(r"generate (\d+) new", text)
    assert match is not None
    return "\n\n".join(good_item(rng) for _ in range(int(match[1])))


def sloppy(messages: Sequence[dict[str, str]], **sampling: object) -> str:
    """As `write`, with about a third of the replies spoiled in one way or another; as repeatable."""
    text = write(messages, **sampling)
    rng = random.Random(text)
    choice = rng.randrange(12)
    if choice == 0:
        return "I am sorry, I cannot help with that."
    if choice == 1:
        return text.replace("Explanation:", "Notes:", 1)
    if choice == 2:
        return text[: len(text) // 2]
    if choice == 3:
        return f"{text}\n\n{text}"
    return text


def units(count: int) -> tuple[list[Deficiency], dict[str, Query], dict[str, Fact]]:
    """`count` deficiencies of all tiers with their queries and facts."""
    queries, facts, deficiencies = {}, {}, []
    for number in range(count):
        tier = TIERS[number % 4]
        query = Query(
            f"q{number}",
            f"Someone put object {number} down. What happened?",
            (f"It fell {number}.", f"It stayed {number}."),
            "1",
            "test",
        )
        fact = Fact(f"f{number}", f"Objects of number {number} never fall down at all.", None, "test")
        queries[query.id], facts[fact.id] = query, fact
        severity = 0.1 + 0.3 * (number % 4)
        deficiencies.append(Deficiency(f"{query.id}|{fact.id}", query.id, fact.id, severity, tier, number % 4 + 1))
    return deficiencies, queries, facts


def config_for(base_url: str | None = None, **teacher: object) -> Config:
    settings = {"base_url": base_url, "model": "tiny-teacher", "concurrency": 4, "timeout_s": 5.0, **teacher}
    return load_config({"synthesize": {"teacher": settings}})


def fill_run(run: Run, count: int) -> None:
    """The tables that the stage reads."""
    deficiencies, queries, facts = units(count)
    run.write_manifest({})
    run.table("queries", Query).write(0, list(queries.values()))
    run.table("facts", Fact).write(0, list(facts.values()))
    run.table("deficiencies", Deficiency).write(0, deficiencies)


def content_of(folder: Path) -> bytes:
    """Every byte of every file below a folder, names included."""
    return b"".join(str(p).encode() + p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file())


def synthesize_in(folder: Path, base_url: str, **teacher: object) -> None:
    """The stage in a process of its own, to be killed."""
    with Run.open(folder) as run:
        synthesize(run, config_for(base_url, format="text", **teacher))
