"""The scores of an experiment's methods and the differences between them, read from its runs."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from statistics import mean, stdev
from typing import TYPE_CHECKING

import numpy as np

from lamer.config import load_config
from lamer.errors import DataError
from lamer.evaluation.differences import Alike, Difference, measure, measure_models
from lamer.evaluation.statistics import Summary, holm, summarize
from lamer.experiments.paper import PaperModel, benchmark_titles, paper_model
from lamer.experiments.results import MethodResult, SeedRun
from lamer.experiments.states import ALL, by_state, states_of
from lamer.microworld.world import STATES
from lamer.records import Prediction
from lamer.run import CONFIG

if TYPE_CHECKING:
    from lamer.evaluation.differences import Changes

AVERAGE = "average"
"""The mean over the benchmarks, each alike."""
MIN_SEEDS = 3
"""Seeds of each model before a difference is called one."""
OVERLAP = "overlap.json"
"""In a run directory: which evaluation items its training data repeat."""
LEVEL = 0.05
"""Of the adjusted p-value, for a difference to be called one."""

Key = tuple[str, str]
"""Benchmark and sample id."""


@dataclass(frozen=True, slots=True)
class OverSeeds:
    """One figure of a method, for each of its seeds."""

    values: tuple[float, ...]

    @property
    def mean(self) -> float:
        """Over the seeds."""
        return mean(self.values)

    @property
    def deviation(self) -> float | None:
        """Sample standard deviation over the seeds (n - 1); None with one seed."""
        return stdev(self.values) if len(self.values) > 1 else None


@dataclass(frozen=True, slots=True)
class MethodScores:
    """One method on one model."""

    name: str
    title: str
    seeds: tuple[int, ...]
    columns: Mapping[str, OverSeeds]
    """Accuracy of free-form answers (share) by column; the total is one of them."""
    micro: OverSeeds
    """Every sample alike."""
    parse_rate: OverSeeds
    loglikelihood: OverSeeds | None
    """Accuracy of the likeliest option; None where no sample has options."""
    without_overlap: OverSeeds | None
    """The total's accuracy without the items that overlap with training data; None where there are none."""
    examples: OverSeeds
    steps: OverSeeds
    notes: tuple[str, ...]
    """Shortages, in words, with the seed."""


@dataclass(frozen=True, slots=True)
class Pair:
    """One method against another on the same samples and seeds."""

    method: str
    reference: str
    columns: Mapping[str, Difference]
    """By column; the total is one of them."""
    adjusted: Mapping[str, float]
    """Holm's p-value over the columns but the total."""

    def is_called(self, column: str) -> bool:
        """Three seeds of every model, an interval without zero, and an (adjusted) p-value below 0.05."""
        found = self.columns[column]
        p = self.adjusted.get(column, found.p_value)
        return found.min_seeds >= MIN_SEEDS and p < LEVEL and not found.low <= 0 <= found.high


@dataclass(frozen=True, slots=True)
class ModelScores:
    """All methods on one model."""

    model: str
    hub_id: str
    """`model.name` of its settings: a Hub id or a folder."""
    seeds: tuple[int, ...]
    total: str
    """Name of the column over all samples: `average` of the benchmarks, or `all` on the embedded world."""
    num_samples: Mapping[str, int]
    """By column, the total among them, in the order shown."""
    titles: Mapping[str, str]
    """Heads of the columns."""
    methods: Mapping[str, MethodScores]
    paper: PaperModel | None
    overlap: Mapping[str, int] | None
    """Items that overlap with training data, by benchmark, in the seed with the most; None: not looked for."""
    answers: Mapping[str, Mapping[int, Mapping[Key, bool]]]
    """Whether each sample was answered right, by method and seed."""
    groups: Mapping[str, Mapping[str, Sequence[Key]]]
    """The samples of each column by task, the total left out where it is a mean over columns."""

    @property
    def alike(self) -> Alike:
        """What weighs the same in a score."""
        return "tasks" if self.total == AVERAGE else "samples"

    def changes(self, column: str, method: str, reference: str) -> list[dict[str, Changes]]:
        """Changes by task, for the column's group or, for the average, for all benchmarks.

        Raises:
            DataError: If the two share no seed, or did not answer the same samples.
        """
        seeds = [seed for seed in self.answers[method] if seed in self.answers[reference]]
        if not seeds:
            raise DataError(f"{self.model}: {method} and {reference} share no seed; start the experiment again")
        sides = [(self.answers[method][seed], self.answers[reference][seed]) for seed in seeds]
        columns = list(self.groups) if column == AVERAGE else [column]
        return [
            {
                task: np.array([[int(after[k]) - int(before[k]) for after, before in sides] for k in keys])
                for task, keys in self.groups[name].items()
            }
            for name in columns
        ]

    def pair(self, method: str, reference: str, *, resamples: int = 2000) -> Pair:
        """`method` against `reference`, in every column."""
        found = {
            name: measure(self.changes(name, method, reference), alike=self.alike, resamples=resamples)
            for name in self.num_samples
        }
        parts = [name for name in found if name != self.total]
        adjusted = holm([found[name].p_value for name in parts])
        return Pair(method, reference, found, dict(zip(parts, adjusted, strict=True)))


def pool(models: Sequence[ModelScores], method: str, reference: str, *, resamples: int = 2000) -> Pair:
    """`method` against `reference` over several models with the same columns, each model alike."""
    names = [name for name in models[0].num_samples if all(name in model.num_samples for model in models)]
    found = {
        name: measure_models(
            [model.changes(name, method, reference) for model in models],
            alike=models[0].alike,
            resamples=resamples,
        )
        for name in names
    }
    parts = [name for name in names if name != models[0].total]
    adjusted = holm([found[name].p_value for name in parts])
    return Pair(method, reference, found, dict(zip(parts, adjusted, strict=True)))


def read_scores(runs: Iterable[SeedRun]) -> list[ModelScores]:
    """The scores of every model, in the order of the runs.

    Raises:
        DataError: If no method of a model was evaluated, or methods or seeds answered different samples.
    """
    return [_model(model, list(found)) for model, found in groupby(runs, key=lambda run: run.model)]


def _model(model: str, runs: Sequence[SeedRun]) -> ModelScores:
    results: dict[str, dict[int, MethodResult]] = {}
    predictions: dict[int, dict[str, list[Prediction]]] = {}
    for run in runs:
        predictions[run.seed] = _by_method(run)
        for result in run.methods():
            if result.name in predictions[run.seed]:
                results.setdefault(result.name, {})[run.seed] = result
    if not results:
        raise DataError(f"{runs[0].run.path.parent}: no method is evaluated yet; start the experiment again")
    keys = _same_samples(model, predictions)
    states = states_of(runs[0].run, [sample for _, sample in keys])
    config = load_config(runs[0].run.path / CONFIG)
    benchmarks = list(dict.fromkeys(benchmark for benchmark, _ in keys))
    is_whole = config.evaluate.limit is None and config.evaluate.data is None  # local files may hold less
    paper = paper_model(config.model.name, benchmarks) if states is None and is_whole else None
    columns, total = _columns(keys, states)
    overlaps = {run.seed: _overlap(run) for run in runs}
    scores = {
        name: _method(name, by_seed, predictions, states, list(columns), overlaps)
        for name, by_seed in results.items()
    }
    return ModelScores(
        model=model,
        hub_id=config.model.name,
        seeds=tuple(run.seed for run in runs),
        total=total,
        num_samples={name: sum(map(len, tasks.values())) for name, tasks in columns.items()},
        titles={AVERAGE: "Average"}
        | {name: benchmark_titles().get(name, name) for name in columns if name != AVERAGE},
        methods=scores,
        paper=paper,
        overlap=_most(overlaps),
        answers={
            name: {
                seed: {(row.benchmark, row.sample_id): row.correct for row in predictions[seed][name]}
                for seed in by_seed
            }
            for name, by_seed in results.items()
        },
        groups={name: tasks for name, tasks in columns.items() if name != AVERAGE},
    )


def _by_method(run: SeedRun) -> dict[str, list[Prediction]]:
    """All answers of a run in one reading of its table."""
    found: dict[str, list[Prediction]] = {}
    for row in run.run.table("predictions", Prediction):
        found.setdefault(row.method, []).append(row)
    return found


def _same_samples(model: str, predictions: Mapping[int, Mapping[str, Sequence[Prediction]]]) -> dict[Key, str]:
    """Task of every sample; all methods and seeds must have answered the same ones."""
    tasks: dict[Key, str] = {}
    targets: dict[Key, str] = {}
    for seed, methods in predictions.items():
        for method, rows in methods.items():
            found = {(row.benchmark, row.sample_id): row.target for row in rows}
            if targets and found != targets:
                changed = len(set(found.items()) ^ set(targets.items()))
                raise DataError(
                    f"{model}: {method} of seed {seed} answered other samples than the methods before it "
                    f"({changed} differ); start the experiment again, its evaluation may be unfinished"
                )
            targets = targets or found
            tasks = tasks or {(row.benchmark, row.sample_id): row.task for row in rows}
    return tasks


def _columns(
    tasks: Mapping[Key, str], states: Mapping[str, str] | None
) -> tuple[dict[str, dict[str, list[Key]]], str]:
    """Samples by column and task, in the order shown, and the name of the total."""
    found: dict[str, dict[str, list[Key]]] = {}
    for key, task in tasks.items():
        name = key[0] if states is None else states[key[1]]
        found.setdefault(name, {}).setdefault(f"{key[0]}/{task}", []).append(key)
    everything: dict[str, list[Key]] = {}
    for key, task in tasks.items():
        everything.setdefault(f"{key[0]}/{task}", []).append(key)
    if states is not None:
        return {ALL: everything} | {state: found[state] for state in STATES if state in found}, ALL
    order = [name for name in benchmark_titles() if name in found]
    order += [name for name in found if name not in order]
    return {name: found[name] for name in order} | {AVERAGE: everything}, AVERAGE


def _method(
    name: str,
    by_seed: Mapping[int, MethodResult],
    predictions: Mapping[int, Mapping[str, Sequence[Prediction]]],
    states: Mapping[str, str] | None,
    columns: Sequence[str],
    overlaps: Mapping[int, Mapping[str, frozenset[str]] | None],
) -> MethodScores:
    summaries = [summarize(predictions[seed][name]) for seed in by_seed]

    def over(value: Callable[[Summary], float]) -> OverSeeds:
        return OverSeeds(tuple(map(value, summaries)))

    if states is None:
        cells = {column: over(lambda s, c=column: _accuracy(s, c)) for column in columns}  # type: ignore[misc]
    else:
        found = [by_state(predictions[seed][name], states)[name] for seed in by_seed]
        cells = {column: OverSeeds(tuple(row[column].accuracy for row in found)) for column in columns}
    likeliest = [s.average.loglikelihood_accuracy for s in summaries]
    known = [value for value in likeliest if value is not None]
    clean = [_without(predictions[seed][name], overlaps[seed], states is None) for seed in by_seed]
    cleaned = [value for value in clean if value is not None]
    results = list(by_seed.values())
    return MethodScores(
        name=name,
        title=results[0].title,
        seeds=tuple(by_seed),
        columns=cells,
        micro=over(lambda s: s.average.micro_accuracy),
        parse_rate=over(lambda s: s.average.parse_rate),
        loglikelihood=OverSeeds(tuple(known)) if known else None,
        without_overlap=OverSeeds(tuple(cleaned)) if cleaned and any(map(_has_items, overlaps.values())) else None,
        examples=OverSeeds(tuple(float(row.num_examples) for row in results)),
        steps=OverSeeds(tuple(float(row.num_steps) for row in results)),
        notes=tuple(f"seed {seed}: {note}" for seed, row in by_seed.items() for note in row.notes),
    )


def _accuracy(summary: Summary, column: str) -> float:
    return (summary.average if column == AVERAGE else summary.benchmarks[column]).accuracy


def _overlap(run: SeedRun) -> dict[str, frozenset[str]] | None:
    """Ids of the items that overlap with the run's training data, by benchmark, as its evaluation wrote them."""
    file = run.run.path / OVERLAP
    if not file.is_file():
        return None
    found = json.loads(file.read_text(encoding="utf-8"))["benchmarks"]
    return {name: frozenset(ids) for name, ids in found.items()}


def _has_items(overlap: Mapping[str, frozenset[str]] | None) -> bool:
    return overlap is not None and any(overlap.values())


def _most(overlaps: Mapping[int, Mapping[str, frozenset[str]] | None]) -> dict[str, int] | None:
    known = [overlap for overlap in overlaps.values() if overlap is not None]
    if len(known) < len(overlaps):
        return None
    return {name: max(len(overlap.get(name, ())) for overlap in known) for name in known[0]}


def _without(
    rows: Sequence[Prediction], overlap: Mapping[str, frozenset[str]] | None, is_average: bool
) -> float | None:
    """Accuracy without overlapping items: the average of benchmarks, or of all samples; None if none is left."""
    kept = [row for row in rows if row.sample_id not in (overlap or {}).get(row.benchmark, ())]
    if not kept:
        return None
    average = summarize(kept).average
    return average.accuracy if is_average else average.micro_accuracy
