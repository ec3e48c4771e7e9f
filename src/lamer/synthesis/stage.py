"""The stage synthesize: table deficiencies -> table examples, examples.jsonl; the ledger is teacher.sqlite."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from lamer.config import Config
from lamer.records import Deficiency, Example, Fact, Query
from lamer.run import Run, StageResult
from lamer.synthesis.export import export_trl, origins_of
from lamer.synthesis.synthesize import write_examples
from lamer.teacher.ledger import LEDGER, Ledger
from lamer.teacher.teacher import Teacher

SHARD_SIZE = 256
"""Deficiencies a shard of the examples table."""
EXPORT = "examples.jsonl"


def open_ledger(run: Run) -> Ledger:
    """The run's ledger of teacher requests, to be closed by the caller."""
    return Ledger(run.path / LEDGER)


def synthesize(run: Run, config: Config, teacher: Teacher | None = None) -> StageResult:
    """Write the examples of every deficiency of the run.

    The ledger is what a second start resumes from: answered requests are not sent again, so the table is made anew
    from the same replies and equals that of an undisturbed run. The table is written at the end, because letters
    and duplicates are settled over the whole run.

    Args:
        run: An open run.
        config: The resolved settings.
        teacher: Instead of the server that the settings name.

    Raises:
        TeacherError: If the teacher cannot be reached or refuses; replies so far are kept.
    """
    units = list(run.table("deficiencies", Deficiency))
    queries, facts = _needed(run, units)
    with open_ledger(run) as ledger:
        asked = teacher or Teacher(config.synthesize.teacher, ledger)
        result = write_examples(units, queries, facts, config, asked)
    _write_table(run, units, result.examples)
    num_exported = export_trl(result.examples, config.prompt, run.path / EXPORT, origins_of(units, facts))
    notes = [] if units else ["no deficiencies: nothing to write examples for"]
    return StageResult({**result.counts, "exported": num_exported}, [*notes, *result.notes])


def synthesize_units(
    units: Sequence[Deficiency],
    queries: Mapping[str, Query],
    facts: Mapping[str, Fact],
    config: Config,
    ledger: Ledger,
    *,
    random_facts: bool = False,
    teacher: Teacher | None = None,
    progress: str = "synthesize",
) -> list[Example]:
    """Examples for any list of units, kept and rejected ones; see `write_examples`."""
    asked = teacher or Teacher(config.synthesize.teacher, ledger)
    return write_examples(
        units, queries, facts, config, asked, random_facts=random_facts, progress=progress
    ).examples


def _needed(run: Run, units: Sequence[Deficiency]) -> tuple[dict[str, Query], dict[str, Fact]]:
    """The queries and facts that the units name; the tables are read shard by shard."""
    query_ids, fact_ids = {unit.query_id for unit in units}, {unit.fact_id for unit in units}
    queries = {query.id: query for query in run.table("queries", Query) if query.id in query_ids}
    facts = {fact.id: fact for fact in run.table("facts", Fact) if fact.id in fact_ids}
    return queries, facts


def _write_table(run: Run, units: Sequence[Deficiency], examples: Sequence[Example]) -> None:
    """One shard for `SHARD_SIZE` deficiencies; an empty one when there are none."""
    table = run.table("examples", Example)
    by_unit: dict[str | None, list[Example]] = {}
    for example in examples:
        by_unit.setdefault(example.deficiency_id, []).append(example)
    for index in range(max(1, -(-len(units) // SHARD_SIZE))):
        chunk = units[index * SHARD_SIZE : (index + 1) * SHARD_SIZE]
        table.write(index, [example for unit in chunk for example in by_unit.get(unit.id, [])])
