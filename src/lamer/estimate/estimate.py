"""The estimate of a run, or of the paper's whole experiment.

Before the diagnosis the number of deficiencies is not known: then the estimate says what they are at most. After
it, the real prompts of the real deficiencies are counted, and what the ledger holds costs nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from lamer.config import Config
from lamer.diagnosis.selection import num_replay
from lamer.diagnosis.workload import Workload, workload
from lamer.errors import LamerError
from lamer.estimate.calls import COLUMNS, FACTS, Line, example_lines, fact_lines, naive_lines, total, trial_lines
from lamer.estimate.compute import TEMPLATE_TOKENS, Compute, Machine, Plan, compute, model_size, num_samples
from lamer.estimate.known import Known
from lamer.estimate.units import Units, is_written, units_of
from lamer.experiments.experiment import Method, paper_methods
from lamer.records import Match
from lamer.rows import count_rows
from lamer.run import Run
from lamer.teacher.formats import PURPOSE as TRIAL
from lamer.teacher.prices import price_of
from lamer.teacher.tokens import TokenCounter, has_tokenizer, token_counter

LATER = "later rounds"


@dataclass(frozen=True, slots=True)
class Estimate:
    """What a run will cost."""

    lines: tuple[Line, ...]
    currency: str | None
    prices: dict[str, str | None]
    """By model: the price with its date and source; None: not known."""
    counted_by: str
    """How tokens were counted."""
    is_diagnosed: bool
    """Whether deficiencies are known; otherwise the calls for examples are the most there can be."""
    rejection_rate: float
    diagnosis: Workload | None
    compute: Compute | None = None
    """None when the size of the model is not known."""
    experiment: str | None = None
    """What is compared, when the estimate is for a whole experiment; lines and compute are for all of it."""
    basis: tuple[str, ...] = ()
    """What was assumed or measured."""
    notes: tuple[str, ...] = field(default=())
    """What is not known, and what to do about it."""

    def total(self, name: str) -> float | None:
        """Sum of a column of the lines; None when one of them is not known."""
        found: float | None = total(self.lines, name)
        return found

    def to_json(self) -> dict[str, Any]:
        """As JSON values, totals included."""
        return asdict(self) | {"total": {name: self.total(name) for name in COLUMNS}}


def estimate(
    config: Config,
    run: Run | None = None,
    *,
    rejection_rate: float | None = None,
    counter: TokenCounter | None = None,
    machine: Machine | None = None,
    seeds: int | None = None,
) -> Estimate:
    """What `config` will cost; in a run that is there already, what is left to pay.

    Args:
        config: The resolved settings.
        run: A run to go on with; its tables and ledger are read, nothing is written.
        rejection_rate: Share of items that are rejected; None: as the run measured, else `REJECTION_RATE`.
        counter: How to count tokens; None: the best way there is for the teacher.
        machine: GPU and what is assumed of it; None: the default one.
        seeds: Estimate the paper's whole experiment, with so many seeds; None: one run.
    """
    known = Known(config, run, rejection_rate, counter)
    units, is_diagnosed = units_of(known)
    lines = _lines(known, units, seeds)
    diagnosis = _diagnosis(known)
    needed = _compute(known, units, diagnosis, machine or Machine(), seeds)
    if known.is_complete("diagnose"):
        known.notes.append("this run is diagnosed: that costs nothing more")
    prices = {known.settings.teacher.model: known.price_text(known.settings.teacher, known.price)}
    judge = known.settings.verify.judge
    if judge is not None:
        prices[judge.model] = known.price_text(judge, price_of(judge))
    return Estimate(
        tuple(lines),
        known.price.currency if known.price is not None else None,
        prices,
        known.counter.name,
        is_diagnosed,
        known.rejection,
        None if known.is_complete("diagnose") else diagnosis,
        needed,
        None if seeds is None else _experiment(seeds),
        tuple(known.basis),
        tuple(known.notes),
    )


def existing(path: Path) -> Run | None:
    """The run at `path`, or None when there is none yet."""
    return Run(path) if (path / "manifest.json").exists() else None


def _lines(known: Known, units: Sequence[Units], seeds: int | None) -> list[Line]:
    """What the teacher is asked, of all rounds or methods and seeds."""
    lines = list(fact_lines(known))
    if is_written(known):
        known.notes.append("the examples of this run are written: nothing is left to pay for them")
    else:
        lines += [*trial_lines(known, units), *example_lines(known, units)]
        if known.settings.verify.student:
            known.notes.append("synthesize.verify.student costs no money, but scores each example with the model")
    lines += naive_lines(known, units)
    if seeds is None:
        return [*lines, *_later_lines(known, units)]
    if known.config.rounds > 1:
        known.notes.append(f"rounds={known.config.rounds} is for runs: the methods of an experiment have one each")
    once = (FACTS, TRIAL)  # facts are written once, a server's trial is asked for once
    return [line if line.purpose in once else line.times(seeds * _num_written()) for line in lines]


def _later_lines(known: Known, units: Sequence[Units]) -> list[Line]:
    """Rounds after the first, each taken to be as large; one line for each purpose."""
    done = [one for one in known.run.rounds() if _has_examples(one)] if known.run is not None else []
    left = 0 if known.is_complete("rounds") else known.config.rounds - max(len(done), 1)
    if left < 1:
        return []
    known.assume(
        f"{LATER}: {left}, each with as many deficiencies as the first, assumed; fewer where training helps, and "
        "a ceiling (max_cost, max_calls) holds for all rounds together"
    )
    found: dict[tuple[str, str], list[Line]] = {}
    for line in example_lines(known, [row.unpaid() for row in units]):
        found.setdefault((line.purpose, line.model), []).append(line)
    return [
        replace(
            lines[0],
            purpose=f"{purpose}, {LATER}",
            tier=None,
            **{name: total(lines, name) for name in COLUMNS},
        ).times(left)
        for (purpose, _), lines in found.items()
    ]


def _has_examples(run: Run) -> bool:
    entry = run.manifest().get("synthesize")
    return entry is not None and entry.status == "complete"


def _diagnosis(known: Known) -> Workload | None:
    """The work of one diagnosis; None, and a note, where it cannot be told."""
    matches: dict[str, int] | None = None
    if known.run is not None and known.is_complete("retrieve"):
        matches = {}
        for row in known.run.table("matches", Match):
            matches[row.query_id] = matches.get(row.query_id, 0) + 1
    name = known.config.model.name
    count = None
    try:
        if has_tokenizer(name):
            counter = token_counter(name)
            count = counter.count if counter.is_exact else None
        found = workload(
            known.config, known.num_queries, known.sample, matches, known.fact_text(), count, seconds=None
        )
    except LamerError as error:
        known.notes.append(f"the diagnosis cannot be estimated: {error}")
        return None
    if found.tokens is None:
        known.notes.append(
            f"tokens of the diagnosis are not known: the tokenizer of {name} is not on this machine"
        )
    return found


def _compute(
    known: Known, units: Sequence[Units], diagnosis: Workload | None, machine: Machine, seeds: int | None
) -> Compute | None:
    """GPU time and disk of the run, or with seeds, of the experiment."""
    config = known.config
    try:
        size = model_size(config.model)
    except (LamerError, OSError, ValueError) as error:
        known.notes.append(f"the size of {config.model.name} is not known: {str(error).splitlines()[0]}")
        return None
    if size is None:
        known.notes.append(f"GPU time and disk are not known: {config.model.name} is not on this machine")
        return None
    known.notes.append(
        "GPU time is a forecast; `lamer diagnose --set queries.limit=100` in a run of its own measures yours"
    )
    return compute(
        config, size, machine, _plan(known, units, seeds), prompt_tokens=_read_tokens(known, diagnosis),
        num_facts=known.num_facts(),
        num_samples=num_samples(config, [count_rows(path) for path in config.evaluate.path]),
    )  # fmt: skip


def _plan(known: Known, units: Sequence[Units], seeds: int | None) -> Plan:
    """What is diagnosed (still), trained and evaluated: base and every adapter."""
    config = known.config
    examples = sum(row.num_examples for row in units)
    if seeds is not None:
        num_units = sum(row.num_units + row.from_ledger for row in units)
        methods = paper_methods().values()
        trained = tuple(_trained_on(method, examples, num_units) for method in methods if method.data != "none")
        return Plan(trained, len(methods), seeds=seeds)
    written = [number * examples for number in range(1, config.rounds + 1)]  # each round trains on all so far
    trained = tuple(count + num_replay(config.train.replay.share, count) for count in written)
    first, later = 0 if known.is_complete("diagnose") else 1, config.rounds if config.rounds > 1 else 0
    return Plan(trained, 1 + len(trained), num_diagnosed=first + later)


def _read_tokens(known: Known, diagnosis: Workload | None) -> float:
    """Tokens of a diagnosis with the chat template, every prompt read whole."""
    if diagnosis is None:
        return 0.0
    if diagnosis.tokens is not None:
        return diagnosis.tokens + TEMPLATE_TOKENS * diagnosis.prompts
    texts = [f"{query.text} {' '.join(query.options or ())}" for query in known.sample]
    question = sum(known.counter.count(text) for text in texts) / max(len(texts), 1)
    fact = known.counter.count(known.fact_text())
    known.assume(f"tokens of the diagnosis counted by: {known.counter.name}, not the model's tokenizer")
    return diagnosis.prompts * (question + TEMPLATE_TOKENS) + diagnosis.pairs * fact


def _trained_on(method: Method, examples: int, num_units: int) -> int:
    """Examples of a method, or for a method with the steps of another, as many as that one reads."""
    if method.data in ("helpful", "misleading"):
        return examples // 2  # halves of LaMer's
    return num_units if method.data == "one a deficiency" and method.steps_of is None else examples


def _num_written() -> int:
    """Methods that the teacher writes examples of their own for."""
    drawn = ("none", "one a deficiency", "helpful", "misleading")  # from another method's
    kinds = {
        (method.data, method.select, method.prompt)
        for method in paper_methods().values()
        if method.data not in drawn
    }
    return len(kinds)


def _experiment(seeds: int) -> str:
    return (
        f"{', '.join(method.title for method in paper_methods().values())}; seeds: {seeds}, each with its own "
        f"diagnosis; the teacher writes {_num_written()} sets of examples a seed, each taken to cost as much as "
        "LaMer's"
    )
