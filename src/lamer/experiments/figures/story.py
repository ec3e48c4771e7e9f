"""The story of one deficiency: query, fact, prior, posterior, severity, examples, and the answer after training.

Of LaMer's deficiencies the most severe one that training repaired is told; where none was, the most severe one.
Repaired means: wrong before and right after where the query has a label; without one, that the fact turned the
answer over and the trained model gives that other answer without the fact. Both the most probable candidate and
what the model writes must say so.
"""

from __future__ import annotations

import gc
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from math import exp
from string import ascii_uppercase
from typing import Any

from lamer.config import load_config
from lamer.errors import DataError
from lamer.evaluation.extraction import extract_answer
from lamer.experiments.results import SeedRun
from lamer.records import Deficiency, Diagnosis, Example, Fact, Query
from lamer.report.data import STORIES_FILE, read_answers
from lamer.run import CONFIG
from lamer.tables import write_atomically

METHOD = "lamer"
NUM_ASKED = 20
"""The most severe deficiencies, one a query, whose queries the trained model is asked again."""


@dataclass(frozen=True, slots=True)
class Story:
    """One deficiency from query to repair."""

    model: str
    seed: int
    query: Query
    fact: Fact
    unit: Deficiency
    diagnosis: Diagnosis
    examples: tuple[Example, ...]
    after: tuple[float, ...] | None
    """Probability of each candidate without the fact after training; None where nothing was trained."""
    text_after: str | None
    """What the trained model writes."""

    @property
    def prior(self) -> tuple[float, ...]:
        """Probability of each candidate without the fact, before training."""
        return tuple(map(exp, self.diagnosis.log_prior))

    @property
    def posterior(self) -> tuple[float, ...]:
        """The same with the fact."""
        return tuple(map(exp, self.diagnosis.log_posterior))

    @property
    def answer(self) -> int | None:
        """Index of the right candidate, where the query has a label that is one of the candidates."""
        return self.query.answer_index if self.diagnosis.candidate_origin == "options" else None

    @property
    def is_repaired(self) -> bool:
        """Wrong before and right after; without a label, turned over as the fact turned it over."""
        if self.after is None:
            return False
        before, with_fact, after = (_top(row) for row in (self.prior, self.posterior, self.after))
        right = with_fact if self.answer is None else self.answer
        written = extract_answer(self.text_after or "", self.diagnosis.candidates)
        return before != right == after and written == ascii_uppercase[right : right + 1]


def find_story(runs: Iterable[SeedRun]) -> Story:
    """The story to tell of an experiment, from its first run with deficiencies.

    Raises:
        DataError: If no run has any.
        LamerError: If the trained model has to be asked and cannot be loaded.
    """
    for seed_run in runs:
        stories = read_stories(seed_run)
        if stories:
            return next((story for story in stories if story.is_repaired), stories[0])
    raise DataError("no deficiencies that `lamer` was trained on; start the experiment again")


def read_stories(seed_run: SeedRun) -> list[Story]:
    """The most severe deficiencies of one run, one a query, the most severe first.

    Where labels say that the model was right before, the deficiency is left out as long as others remain: there is
    nothing to repair.
    """
    run = seed_run.run
    units = [row for row in run.table(f"methods/{METHOD}/units", Deficiency) if row.tier != "below"]
    units = units or [row for row in run.table("deficiencies", Deficiency) if row.tier != "below"]
    examples: dict[str, list[Example]] = {}
    for row in seed_run.examples(METHOD):
        if row.status == "kept":
            examples.setdefault(row.deficiency_id or "", []).append(row)
    units = [unit for unit in units if unit.id in examples]
    units.sort(key=lambda unit: (-unit.relative_entropy, unit.id))
    queries = {row.id: row for row in run.table("queries", Query)}
    pairs = {(unit.query_id, unit.fact_id) for unit in units}
    diagnoses = {
        (row.query_id, row.fact_id): row
        for row in run.table("diagnoses", Diagnosis)
        if (row.query_id, row.fact_id) in pairs
    }
    facts = {row.id: row for row in run.table("facts", Fact) if row.id in {unit.fact_id for unit in units}}
    found: dict[str, Story] = {}
    for unit in units:
        query, fact = queries.get(unit.query_id), facts.get(unit.fact_id)
        diagnosis = diagnoses.get((unit.query_id, unit.fact_id))
        if query is not None and fact is not None and diagnosis is not None:
            rows = tuple(sorted(examples[unit.id], key=lambda row: row.id))
            story = Story(seed_run.model, seed_run.seed, query, fact, unit, diagnosis, rows, None, None)
            found.setdefault(query.id, story)
    stories = [story for story in found.values() if story.answer != _top(story.prior)] or list(found.values())
    return _with_answers(seed_run, stories[:NUM_ASKED])


def _with_answers(seed_run: SeedRun, stories: Sequence[Story]) -> list[Story]:
    """The same with what the trained model answers: from the run's `stories.jsonl`, else by asking it."""
    file = seed_run.run.path / STORIES_FILE
    rows = {query: row for (query, method), row in read_answers(file).items() if method == METHOD}
    if not any(story.query.id in rows for story in stories):
        asked = _ask(seed_run, stories)
        rows = {row["query_id"]: row for row in asked}
        if asked and not file.exists():
            lines = [json.dumps({"method": METHOD, **row}, ensure_ascii=False) + "\n" for row in asked]
            write_atomically(file, "".join(lines).encode())
    return [_with_answer(story, rows[story.query.id]) if story.query.id in rows else story for story in stories]


def _with_answer(story: Story, row: dict[str, Any]) -> Story:
    if len(row["log_prior"]) != len(story.diagnosis.candidates):
        return story
    return replace(story, after=tuple(map(exp, row["log_prior"])), text_after=row["text"])


def _ask(seed_run: SeedRun, stories: Sequence[Story]) -> list[dict[str, Any]]:
    from lamer.evaluation.stories import answers
    from lamer.scoring.model import load_model

    adapter = seed_run.run.path / "methods" / METHOD / "adapter"
    if not stories or not adapter.exists():
        return []
    config = load_config(seed_run.run.path / CONFIG)
    loaded = load_model(config.model, adapter)
    rows = answers([(story.query, story.diagnosis) for story in stories], loaded, config)
    del loaded
    gc.collect()
    return rows


def _top(probabilities: Sequence[float]) -> int:
    return probabilities.index(max(probabilities))
