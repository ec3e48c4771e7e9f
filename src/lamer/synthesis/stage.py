"""The stage synthesize: table deficiencies -> tables examples and shortages, examples.jsonl; the ledger is
teacher.sqlite."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import chain

from lamer.config import Config
from lamer.errors import UsageError
from lamer.records import Deficiency, Example, Fact, Query, Shortage
from lamer.run import Run, StageResult
from lamer.synthesis.blind import BlindCheck
from lamer.synthesis.contamination import HeldOut, HeldOutItem, read_held_out
from lamer.synthesis.export import export_trl, origins_of
from lamer.synthesis.judge import JudgeCheck
from lamer.synthesis.student import FILE, StudentCheck, open_student
from lamer.synthesis.synthesize import Earlier, write_examples
from lamer.synthesis.templates import load_template
from lamer.synthesis.verify import Check, Verifier
from lamer.teacher.ledger import LEDGER, Ledger
from lamer.teacher.teacher import Teacher

SHARD_SIZE = 256
"""Deficiencies a shard of the examples table."""
EXPORT = "examples.jsonl"


def open_ledger(run: Run) -> Ledger:
    """The run's ledger of teacher requests, which all its rounds share; to be closed by the caller."""
    return Ledger(run.home / LEDGER)


def open_verifier(run: Run, config: Config, teacher: Teacher, progress: str = "synthesize") -> Verifier | None:
    """The checks that `synthesize.verify` switches on, the cheapest first; None when it switches on none.

    Nothing is asked and no model loaded before there is an example to check.

    Args:
        run: An open run; what the student test measures is kept there.
        config: The resolved settings.
        teacher: Who answers its own questions; the judge's replies go into the same ledger.
        progress: What the progress bars say; empty for none.
    """
    settings = config.synthesize.verify
    checks: list[Check] = []
    if settings.student:
        file = run.table("examples", Example).folder / FILE
        checks.append(StudentCheck(lambda: open_student(run, config), config.diagnose, file))
    if settings.self_answer:
        checks.append(
            BlindCheck(
                teacher,
                settings.self_answer,
                settings.agreement,
                config.seed,
                sees_fact=settings.self_answer_sees_fact,
            )
        )
    if settings.judge is not None:
        checks.append(JudgeCheck(Teacher(settings.judge, teacher.ledger), config.seed))
    return Verifier(checks, progress) if checks else None


def synthesize(run: Run, config: Config, teacher: Teacher | None = None) -> StageResult:
    """Write the examples of every deficiency of the run, or of one of its later rounds.

    The ledger is what a second start resumes from: answered requests are not sent again, so the table is made anew
    from the same replies and equals that of an undisturbed run. The table is written at the end, because letters
    and duplicates are settled over the whole run.

    Args:
        run: An open run.
        config: The resolved settings.
        teacher: Instead of the server that the settings name.

    Raises:
        TeacherError: If the teacher cannot be reached or refuses; replies so far are kept.
        DataError: If a held-out file cannot be read; nothing was asked then.
    """
    held_out = load_held_out(config)
    units = list(run.table("deficiencies", Deficiency))
    queries, facts = _needed(run, units)
    with open_ledger(run) as ledger:
        asked = teacher or Teacher(config.synthesize.teacher, ledger)
        verifier = open_verifier(run, config, asked)
        verify = verifier.refusals if verifier is not None else None
        result = write_examples(
            units, queries, facts, config, asked, held_out=held_out, verify=verify, earlier=earlier_rounds(run)
        )
        starts, lost = ledger.killed()
    _write_table(run, units, result.examples)
    run.table("shortages", Shortage).write(0, result.shortages)
    num_exported = export_trl(result.examples, config.prompt, run.path / EXPORT, origins_of(units, facts))
    notes = [] if units else ["no deficiencies: nothing to write examples for"]
    if starts:
        notes.append(
            f"{starts} earlier starts were killed while the teacher was asked: up to {lost} calls in flight may "
            "have been paid for without being kept; ceilings do not count them"
        )
    counts = {**result.counts, "exported": num_exported}
    if verifier is not None:
        counts["verification"] = verifier.counts()
    if held_out is not None:
        counts["held_out"] = held_out.counts
        notes += held_out.notes
    return StageResult(counts, [*notes, *result.notes])


def earlier_rounds(run: Run) -> Earlier:
    """What the rounds before this one have written; nothing for a run itself."""
    before = run.so_far()[:-1]
    examples = [row for one in before for row in one.table("examples", Example) if row.status == "kept"]
    fact_of = {row.id: row.fact_id for one in before for row in one.table("deficiencies", Deficiency)}
    wanted = set(fact_of.values())
    texts = {fact.id: fact.text for fact in run.table("facts", Fact) if fact.id in wanted} if wanted else {}
    return Earlier(len(before), examples, {name: texts.get(fact, "") for name, fact in fact_of.items()})


def load_held_out(config: Config) -> HeldOut | None:
    """The index of what no example may repeat; None when there is nothing, or the check is off.

    All of a file counts, whatever `evaluate.limit` says.

    Raises:
        DataError: If a file cannot be read.
    """
    return _index(config, _benchmark_items(config)) if config.synthesize.decontaminate else None


def _index(config: Config, items: Sequence[HeldOutItem] = ()) -> HeldOut | None:
    paths = list(dict.fromkeys([*config.evaluate.path, *config.synthesize.held_out]))
    if not paths and not items:
        return None
    return HeldOut(chain(read_held_out(paths), items), load_template(config.synthesize.prompt).text)


def _benchmark_items(config: Config) -> list[HeldOutItem]:
    """Every item of `evaluate.benchmarks`."""
    if not config.evaluate.benchmarks:
        return []
    from lamer.evaluation.harness import load_benchmarks

    unlimited = config.model_copy(update={"evaluate": config.evaluate.model_copy(update={"limit": None})})
    samples = load_benchmarks(unlimited).samples
    return [HeldOutItem(f"{item.benchmark}, {item.id}", item.question, item.options) for item in samples]


def contamination_notes(run: Run, config: Config) -> list[str]:
    """Whether kept examples of the run repeat the held-out files as they are now.

    Synthesis sees to it that none does. One does where the check was off, or where a file was named or changed
    only afterwards, which is allowed: it costs a note and no second training.
    """
    held_out = _index(config)
    kept = [example for example in run.table("examples", Example) if example.status == "kept"]
    if held_out is None or not kept:
        return []
    units = {unit.id: unit for unit in run.table("deficiencies", Deficiency)}
    _, facts = _needed(run, list(units.values()))
    found = []
    for example in kept:
        unit = units.get(example.deficiency_id or "")
        fact = facts[unit.fact_id].text if unit is not None and unit.fact_id in facts else ""
        overlap = held_out.find(example.question, example.options, example.reply_text, fact)
        found += [] if overlap is None else [f"{example.id} repeats {overlap}"]
    if not found:
        return []
    return [
        f"{len(found)} of {len(kept)} training examples repeat held-out items, first: {found[0]}; the check was "
        "off, or the file is newer than the examples: --restart-from synthesize has others written, paid replies "
        "are kept"
    ]


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
    verifier: Verifier | None = None,
) -> list[Example]:
    """Examples for any list of units, kept and rejected ones; see `write_examples`.

    Raises:
        UsageError: If the settings ask for verification and no verifier is given (see `open_verifier`).
    """
    asked = teacher or Teacher(config.synthesize.teacher, ledger)
    if verifier is None and config.synthesize.verify.is_on:
        raise UsageError("synthesize.verify is switched on: synthesize_units needs the verifier of open_verifier")
    return write_examples(
        units,
        queries,
        facts,
        config,
        asked,
        held_out=load_held_out(config),
        verify=verifier.refusals if verifier is not None else None,
        random_facts=random_facts,
        progress=progress,
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
