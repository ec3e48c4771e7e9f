"""The evaluate stage: the model before and after training, on the same samples."""

from __future__ import annotations

import gc
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from lamer.config import Config
from lamer.errors import DataError
from lamer.evaluation.benchmarks import Sample
from lamer.evaluation.evaluate import load_samples, predict
from lamer.evaluation.overlap import (
    Overlaps,
    find_overlaps,
    summarize_without,
    training_examples,
    write_overlaps,
)
from lamer.evaluation.paired import Comparison, compare
from lamer.evaluation.statistics import Summary, holm, summarize
from lamer.evaluation.stories import FILE, write_stories
from lamer.progress import ProgressBar
from lamer.records import Deficiency, Prediction
from lamer.rounds.broken import write_broken
from lamer.rounds.result import adapters
from lamer.run import Run, StageResult
from lamer.scoring.model import load_model
from lamer.synthesis.stage import contamination_notes
from lamer.synthesis.templates import load_template
from lamer.tables import Table

if TYPE_CHECKING:
    from lamer.evaluation.harness_tasks import HarnessSample

Item: TypeAlias = "Sample | HarnessSample"

BASE = "base"
ADAPTER = "adapter"
"""Method of an adapter that was not trained in the run."""


def evaluate(run: Run, config: Config) -> StageResult:
    """The base model, and the same with the run's adapter where training left one, with that of every round, or
    with the adapter that is given.

    With the run's deficiencies there, base and last adapter answer the most severe of their queries too
    (`stories.jsonl`).
    """
    methods: dict[str, Path | None] = {BASE: None}
    if config.evaluate.adapter is not None:
        methods[ADAPTER] = Path(config.evaluate.adapter)
    else:
        methods |= adapters(run.path)
    result = evaluate_methods(run, config, methods)
    write_broken(run, list(methods))
    if run.table("deficiencies", Deficiency).shards() and not (run.path / FILE).exists():
        write_stories(run, config, {name: path for name, path in methods.items() if name in (BASE, "lamer")})
    refresh_cards(run, config, {name: path for name, path in methods.items() if name != ADAPTER})
    return result


def refresh_cards(run: Run, config: Config, methods: Mapping[str, Path | None]) -> None:
    """Write into the cards of the run's own adapters what the evaluation found."""
    from lamer.training.card import refresh_card

    for method, adapter in methods.items():
        if adapter is not None:
            refresh_card(run, config, method=method, adapter=adapter)


def evaluate_methods(run: Run, config: Config, methods: Mapping[str, Path | None]) -> StageResult:
    """Answers of several methods to the samples of `evaluate.path` and `evaluate.benchmarks`: table `predictions`.

    Shard `m * chunks + c` holds chunk c of the samples answered by the m-th method; finished shards are kept.

    Args:
        run: An open run.
        config: The settings.
        methods: Adapter folder of each method, None for the model as it is. A later call may add methods at the
            end. Comparisons are made against `base`, or else the first.

    Raises:
        LamerError: If a sample file, the model or an adapter cannot be used.
    """
    if not config.evaluate.path and not config.evaluate.benchmarks:
        return StageResult(
            {"samples": 0},
            ["no evaluation: evaluate.path names no file of labelled samples, evaluate.benchmarks no benchmark"],
        )
    samples, left_out = _samples(config)
    chunks = _chunks(samples, config.evaluate.shard_size)
    table = run.table("predictions", Prediction)
    with ProgressBar("evaluate", total=len(samples) * len(methods), unit="samples") as bar:
        for number, (method, adapter) in enumerate(methods.items()):
            _answer(table, number * len(chunks), chunks, config, (method, adapter), bar)
    overlaps = _overlaps(run, config, samples)
    result = _result(table, config, list(methods), len(chunks), overlaps)
    contaminated = [note for one in run.rounds() for note in contamination_notes(one, config)]
    notes = [*result.notes, *left_out, *contaminated]
    if overlaps is None and set(methods) != {BASE}:
        notes.append("overlap with training data is not known: the run holds none")
    return StageResult(result.counts, notes)


def _samples(config: Config) -> tuple[list[Item], list[str]]:
    """All items, and what was left out.

    Raises:
        DataError: If two items of a benchmark have the same id.
    """
    settings = config.evaluate
    samples: list[Item] = [*load_samples(settings.path, settings.limit)]
    notes: list[str] = []
    if settings.benchmarks:
        from lamer.evaluation.harness import load_benchmarks

        loaded = load_benchmarks(config)
        samples += loaded.samples
        notes = loaded.notes
    seen: set[tuple[str, str]] = set()
    for sample in samples:
        if (sample.benchmark, sample.id) in seen:
            raise DataError(
                f"{sample.benchmark}: id {sample.id!r} occurs twice; is a benchmark named by evaluate.path too?"
            )
        seen.add((sample.benchmark, sample.id))
    return samples, notes


def _overlaps(run: Run, config: Config, samples: Sequence[Item]) -> Overlaps | None:
    """What the run's training data and the items have in common, also written; None without training data."""
    examples = list(training_examples(run, config))
    if not examples:
        return None
    overlaps = find_overlaps(samples, examples, load_template(config.synthesize.prompt).text)
    write_overlaps(run, overlaps)
    return overlaps


def _chunks(samples: Sequence[Item], size: int) -> list[Sequence[Item]]:
    return [samples[start : start + size] for start in range(0, len(samples), size)]


def _answer(
    table: Table[Prediction],
    first: int,
    chunks: Sequence[Sequence[Item]],
    config: Config,
    method: tuple[str, Path | None],
    bar: ProgressBar,
) -> None:
    """Write the missing shards of one method; its model is in memory only as long."""
    missing = [index for index in range(len(chunks)) if not table.has(first + index)]
    bar.skip(sum(map(len, chunks)) - sum(len(chunks[index]) for index in missing))
    if not missing:
        return
    name, adapter = method
    loaded = load_model(config.model, adapter)
    for index in missing:
        table.write(first + index, predict(chunks[index], loaded, config, name))
        bar.advance(len(chunks[index]), note=name)
    del loaded
    gc.collect()


def _result(
    table: Table[Prediction],
    config: Config,
    methods: Sequence[str],
    num_chunks: int,
    overlaps: Overlaps | None,
) -> StageResult:
    def predictions(method: str) -> Iterator[Prediction]:
        first = methods.index(method) * num_chunks
        for shard in range(first, first + num_chunks):
            yield from table.read_shard(shard)

    summaries = {method: summarize(predictions(method)) for method in methods}
    reference = BASE if BASE in methods else methods[0]
    counts: dict[str, Any] = {
        "samples": summaries[reference].average.num_samples,
        "benchmarks": len(summaries[reference].benchmarks),
        "methods": {name: _accuracies(summary) for name, summary in summaries.items()},
        "accuracy by benchmark": _by_benchmark(summaries),
        "parse rate by benchmark": _by_benchmark(summaries, "parse_rate"),
        "log-likelihood accuracy by benchmark": _by_benchmark(summaries, "loglikelihood_accuracy"),
    }
    notes: list[str] = []
    if overlaps is not None:
        clean = {method: summarize_without(predictions(method), overlaps) for method in methods}
        counts["accuracy without overlap"] = _without_overlap(summaries[reference], clean, overlaps)
    for method in methods:
        if method == reference:
            continue
        overall, by_benchmark = _comparisons(list(predictions(reference)), list(predictions(method)), config)
        counts[f"{method} against {reference}"] = _changes(overall, by_benchmark)
        notes.append(_sentence(method, reference, overall))
    if overlaps is not None:
        notes.append(overlaps.sentence(summaries[reference].average.num_samples))
    for method in methods:
        notes += _ended(method, predictions(method), config)
    if methods == [BASE]:
        notes.append("only the base model was evaluated: there is no adapter")
    return StageResult(counts, notes)


def _accuracies(summary: Summary) -> dict[str, float | None]:
    average = summary.average
    return {
        "accuracy": _rounded(average.accuracy),
        "micro accuracy": _rounded(average.micro_accuracy),
        "parse rate": _rounded(average.parse_rate),
        "log-likelihood accuracy": _rounded(average.loglikelihood_accuracy),
    }


def _by_benchmark(summaries: Mapping[str, Summary], field: str = "accuracy") -> dict[str, dict[str, float | None]]:
    first = next(iter(summaries.values()))
    return {
        name: {"samples": group.num_samples}
        | {method: _rounded(getattr(summary.benchmarks[name], field)) for method, summary in summaries.items()}
        for name, group in first.benchmarks.items()
    }


def _without_overlap(
    all_samples: Summary, clean: Mapping[str, Summary | None], overlaps: Overlaps
) -> dict[str, dict[str, float | None]]:
    """By benchmark: its items, those that overlap, and the accuracy of each method on the others."""
    rows: dict[str, dict[str, float | None]] = {}
    for name, group in all_samples.benchmarks.items():
        rows[name] = {"samples": group.num_samples, "overlap": len(overlaps.items.get(name, ()))}
        for method, summary in clean.items():
            there = summary.benchmarks.get(name) if summary is not None else None
            rows[name][method] = None if there is None else _rounded(there.accuracy)
    if len(rows) > 1:
        rows["average"] = {"samples": all_samples.average.num_samples, "overlap": overlaps.num_items} | {
            method: None if summary is None else _rounded(summary.average.accuracy)
            for method, summary in clean.items()
        }
    return rows


def _ended(method: str, predictions: Iterable[Prediction], config: Config) -> list[str]:
    """Replies that were cut off, and prompts without room for one."""
    ended: dict[str | None, list[str]] = defaultdict(list)
    for item in predictions:
        ended[item.ended].append(item.sample_id)
    notes = []
    if ended["length"]:
        notes.append(
            f"{method}: {len(ended['length']):,} replies were cut off at evaluate.max_new_tokens="
            f"{config.evaluate.max_new_tokens} or the end of the context; what an answer comes after is lost"
        )
    if ended["no room"]:
        notes.append(
            f"{method}: {len(ended['no room']):,} prompts fill the model's context and count as wrong, first: "
            f"{', '.join(ended['no room'][:3])}"
        )
    return notes


def _comparisons(
    before: Sequence[Prediction], after: Sequence[Prediction], config: Config
) -> tuple[Comparison, dict[str, Comparison]]:
    """All samples together, and each benchmark."""

    def compared(benchmark: str | None) -> Comparison:
        pick = [[item for item in side if benchmark in (None, item.benchmark)] for side in (before, after)]
        return compare(*pick, resamples=config.evaluate.bootstrap, seed=config.seed)

    names = dict.fromkeys(item.benchmark for item in before)
    return compared(None), {name: compared(name) for name in names}


def _changes(overall: Comparison, by_benchmark: Mapping[str, Comparison]) -> dict[str, dict[str, float]]:
    adjusted = dict(zip(by_benchmark, holm([item.p_value for item in by_benchmark.values()])))
    rows = {name: _change(item) | {"p (Holm)": adjusted[name]} for name, item in by_benchmark.items()}
    return {"average": _change(overall), **rows}


def _change(item: Comparison) -> dict[str, float]:
    return {
        "difference": round(item.difference, 4),
        "low": round(item.low, 4),
        "high": round(item.high, 4),
        "remedied": item.remedied,
        "broken": item.broken,
        "p (McNemar)": item.p_value,
    }


def _sentence(method: str, reference: str, item: Comparison) -> str:
    return (
        f"{method} against {reference} on {item.num_samples} samples: {100 * item.difference:+.1f} points of the "
        f"average (95 % interval {100 * item.low:+.1f} to {100 * item.high:+.1f}), {item.remedied} remedied, "
        f"{item.broken} broken, McNemar p = {item.p_value:.2g}"
    )


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 4)
