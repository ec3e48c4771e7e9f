"""What an estimate starts from: settings, and what a run has measured; what is assumed in its place."""

from __future__ import annotations

import sys
from itertools import islice
from typing import Any

from lamer.config import Config, TeacherSettings
from lamer.estimate.compute import ROWS
from lamer.records import Fact, Query
from lamer.rows import BadRows, count_rows
from lamer.run import Run
from lamer.teacher.prices import Price, host_of, how_to_add, price_of
from lamer.teacher.tokens import TokenCounter, token_counter

REJECTION_RATE = 0.2
"""Share of items that are rejected, where it was not measured."""
EXAMPLE_TOKENS = 120
"""Tokens of one example in a reply, where it was not measured: question, three options, answer, explanation."""
FACT_TEXT = "Metal things become hot when they are left in the sun for long."
"""A fact of typical length, for prompts before there are any."""
TYPICAL_QUERY = Query(
    "",
    "She left a metal spoon in a pot of hot soup for an hour. What happened as a result?",
    ("The handle of the spoon became hot.", "The soup in the pot turned into ice."),
    None,
    "",
)
"""One of typical length, where the queries themselves are not on this machine."""
SAMPLE = 200
"""Queries whose prompts are counted when all would take long; the others are taken to be like these."""


class Known:
    """Settings, a run that may be there, and a list of what had to be assumed; the run is read, never written."""

    def __init__(
        self, config: Config, run: Run | None, rejection_rate: float | None, counter: TokenCounter | None
    ) -> None:
        self.config = config
        self.run = run
        self.settings = config.synthesize
        self.counter = counter or token_counter(self.settings.teacher.model)
        self.price = price_of(self.settings.teacher)
        self.basis: list[str] = []
        """What was assumed or measured."""
        self.notes: list[str] = []
        """What is not known, and what to do about it."""
        self.example_tokens: float = EXAMPLE_TOKENS
        self.rejection = self._rejection_rate(rejection_rate)
        self.sample, self.num_queries = self._queries()

    def assume(self, text: str) -> None:
        """Add to `basis` what is not told there yet."""
        if text not in self.basis:
            self.basis.append(text)

    def has(self, table: str) -> bool:
        """Whether the run has begun a table."""
        return self.run is not None and self.run.table(table, Query).has(0)

    def is_complete(self, stage: str) -> bool:
        """Whether the run has finished a stage."""
        entry = self.run.manifest().get(stage) if self.run is not None else None
        return entry is not None and entry.status == "complete"

    def counts(self, stage: str) -> dict[str, Any]:
        """What a finished stage counted; empty before."""
        return self.run.manifest()[stage].counts if self.run is not None and self.is_complete(stage) else {}

    def fact_text(self) -> str:
        """One of median length from the run's facts, else a made-up one."""
        if self.run is not None and self.is_complete("retrieve"):
            texts = sorted((fact.text for fact in islice(self.run.table("facts", Fact), SAMPLE)), key=len)
            if texts:
                return texts[len(texts) // 2]
        return FACT_TEXT

    def num_facts(self) -> int | None:
        """Of the corpus; None when not known."""
        counts = self.counts("retrieve")
        if counts:
            return int(counts["facts"])
        paths = self.config.facts.path
        return sum(ROWS.get(path) or count_rows(path) for path in paths) or None

    def price_text(self, settings: TeacherSettings, price: Price | None) -> str | None:
        """A price with its date and source; None, and a note on the way out, where it is not known."""
        if price is None:
            self.notes.append(
                f"the price of {settings.model} at {host_of(settings)} is not known: {how_to_add(settings)}"
            )
            return None
        return price.to_text() + (f", in batch mode times {price.batch:g}" if settings.mode == "batch" else "")

    def _queries(self) -> tuple[list[Query], int]:
        """Some queries, and how many there are."""
        if self.run is not None and self.is_complete("retrieve"):
            table = self.run.table("queries", Query)
            return list(islice(table, SAMPLE)), table.num_rows
        paths, limit = self.config.queries.path, self.config.queries.limit
        if all(path in ROWS for path in paths) and any(path.startswith("hf://") for path in paths):
            total = min(sum(ROWS[path] for path in paths), limit or sys.maxsize)
            self.assume(f"queries: {total:,} as the data sets' cards say, all like one of typical length")
            return [TYPICAL_QUERY], total
        from lamer.queries import load_queries

        quiet = BadRows(self.config.queries.skip_bad, warn=lambda message: None)
        rows = load_queries(self.config.queries, quiet)
        sample = list(islice(rows, SAMPLE))
        return sample, len(sample) + sum(1 for _ in rows)

    def _rejection_rate(self, given: float | None) -> float:
        counts = self.counts("synthesize")
        if given is not None:
            self.assume(f"share of items rejected: {given:g}, as given")
            return given
        items = counts.get("items", {}).get("total", 0) - counts.get("rejected", {}).get("surplus", 0)
        if items > 0:
            rate: float = round(1 - counts["items"]["kept"] / items, 4)
            self.assume(f"share of items rejected: {rate:g}, measured on the {items} of this run")
            return min(rate, 0.99)
        self.assume(f"share of items rejected: {REJECTION_RATE:g}, assumed")
        return REJECTION_RATE
