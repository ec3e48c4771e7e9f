"""Accuracies and paired comparisons of two methods on the same samples.

Score of a benchmark = mean over its tasks; average = mean over the benchmarks; the micro average weighs every
sample alike. Numbers only: nothing here loads a model.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from lamer.records import Prediction

CONFIDENCE = 0.95
"""Coverage of the bootstrap intervals."""


@dataclass(frozen=True, slots=True)
class Accuracy:
    """Shares of a group of samples."""

    num_samples: int
    accuracy: float
    """Share of samples answered right in free form; for a benchmark, the mean over its tasks."""
    micro_accuracy: float
    """Share of right samples, every sample alike."""
    parse_rate: float
    """Share of samples whose reply held an answer."""
    loglikelihood_accuracy: float | None
    """Accuracy of the likeliest option over samples with options (mean over tasks); None without such samples."""


@dataclass(frozen=True, slots=True)
class Summary:
    """One method on all benchmarks."""

    method: str
    average: Accuracy
    """`accuracy`, `parse_rate` and `loglikelihood_accuracy` are means over the benchmarks."""
    benchmarks: Mapping[str, Accuracy]
    tasks: Mapping[tuple[str, str], Accuracy]
    """By (benchmark, task)."""


@dataclass(frozen=True, slots=True)
class Comparison:
    """Two methods on the same samples."""

    num_samples: int
    accuracy_before: float
    """Micro accuracy."""
    accuracy_after: float
    difference: float
    """After minus before, every sample alike."""
    low: float
    """Lower end of the 95 % paired bootstrap interval of `difference`."""
    high: float
    remedied: int
    """Wrong before, right after."""
    broken: int
    """Right before, wrong after."""
    p_value: float
    """McNemar's exact test, two-sided."""


@dataclass(slots=True)
class _Tally:
    samples: int = 0
    correct: int = 0
    parsed: int = 0
    with_options: int = 0
    likeliest_correct: int = 0

    def add(self, item: Prediction) -> None:
        self.samples += 1
        self.correct += item.correct
        self.parsed += item.parsed
        if item.loglikelihood_answer is not None:
            self.with_options += 1
            self.likeliest_correct += item.loglikelihood_answer == item.target

    def accuracy(self) -> Accuracy:
        share = self.correct / self.samples
        likeliest = self.likeliest_correct / self.with_options if self.with_options else None
        return Accuracy(self.samples, share, share, self.parsed / self.samples, likeliest)


def summarize(predictions: Iterable[Prediction]) -> Summary:
    """Accuracies of one method; reads the predictions once.

    Raises:
        ValueError: If there are no predictions, or those of several methods.
    """
    tallies: dict[tuple[str, str], _Tally] = defaultdict(_Tally)
    methods: set[str] = set()
    for item in predictions:
        methods.add(item.method)
        tallies[item.benchmark, item.task].add(item)
    if len(methods) != 1:
        raise ValueError(f"expected predictions of one method, got {sorted(methods) or 'none'}")
    tasks = {key: tally.accuracy() for key, tally in tallies.items()}
    names = dict.fromkeys(benchmark for benchmark, _ in tasks)
    benchmarks = {name: mean_accuracy([tasks[key] for key in tasks if key[0] == name]) for name in names}
    return Summary(methods.pop(), mean_accuracy(list(benchmarks.values())), benchmarks, tasks)


def mean_accuracy(groups: Sequence[Accuracy]) -> Accuracy:
    """The groups' mean, each group alike; the micro accuracy weighs them by their samples."""
    total = sum(group.num_samples for group in groups)
    likeliest = [g.loglikelihood_accuracy for g in groups if g.loglikelihood_accuracy is not None]
    return Accuracy(
        num_samples=total,
        accuracy=sum(group.accuracy for group in groups) / len(groups),
        micro_accuracy=sum(group.micro_accuracy * group.num_samples for group in groups) / total,
        parse_rate=sum(group.parse_rate for group in groups) / len(groups),
        loglikelihood_accuracy=sum(likeliest) / len(likeliest) if likeliest else None,
    )


def mcnemar(remedied: int, broken: int) -> float:
    """Two-sided exact p-value that changes to right and changes to wrong are equally likely.

    The smaller count under Binomial(remedied + broken, 1/2), doubled and at most 1; 1.0 when nothing changed.

    Source: McNemar 1947; the exact form is the sign test on the discordant pairs.
    """
    from scipy.stats import binomtest

    changed = remedied + broken
    return float(binomtest(remedied, changed, 0.5).pvalue) if changed else 1.0


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's step-down adjusted p-values, in the order given.

    p_(i) of m sorted values becomes max over j <= i of min(1, (m - j + 1) p_(j)).

    Source: Holm 1979, A simple sequentially rejective multiple test procedure.
    """
    adjusted = [0.0] * len(p_values)
    highest = 0.0
    for rank, index in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        highest = max(highest, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = highest
    return adjusted


def bootstrap_interval(
    changes: Mapping[str, Sequence[int]], *, resamples: int, seed: int, confidence: float = CONFIDENCE
) -> tuple[float, float]:
    """Percentile interval of the mean change over all samples, clustered by task.

    A resample draws as many tasks as there are, with replacement, and within each drawn task as many samples as
    it has, with replacement; its value is the mean change over everything drawn. With one task this is the plain
    paired bootstrap.

    Args:
        changes: For each task its samples' changes: 1 remedied, -1 broken, 0 the same. Shape [tasks][samples].
        resamples: Number of resamples.
        seed: Of the random draws.
        confidence: Coverage of the interval.

    Source: Davison & Hinkley 1997, Bootstrap Methods and their Application, section 3.8 (two-stage resampling).
    """
    groups = [np.asarray(values) for values in changes.values() if len(values)]
    if not groups:
        return (0.0, 0.0)
    generator = np.random.default_rng(seed)
    sizes = np.array([len(values) for values in groups])
    drawn = generator.multinomial(len(groups), np.full(len(groups), 1 / len(groups)), size=resamples) * sizes
    total = np.zeros(resamples)
    for column, values in enumerate(groups):
        shares = np.array([np.mean(values == 1), np.mean(values == -1), np.mean(values == 0)])
        counts = generator.multinomial(drawn[:, column], shares / shares.sum())
        total += counts[:, 0] - counts[:, 1]
    tail = (1 - confidence) / 2
    low, high = np.quantile(total / drawn.sum(axis=1), [tail, 1 - tail])
    return (float(low), float(high))


def compare(
    before: Iterable[Prediction], after: Iterable[Prediction], *, resamples: int = 2000, seed: int = 0
) -> Comparison:
    """`after` against `before` on the same samples, matched by benchmark and sample id.

    Raises:
        ValueError: If the two did not answer the same samples, or there are none.
    """
    earlier = {(item.benchmark, item.sample_id): item.correct for item in before}
    changes: dict[str, list[int]] = defaultdict(list)
    num_samples = len(earlier)
    right_before = sum(earlier.values())
    for item in after:
        was_correct = earlier.pop((item.benchmark, item.sample_id), None)
        if was_correct is None:
            raise ValueError(f"sample {item.sample_id!r} of {item.benchmark} has more answers after than before")
        changes[f"{item.benchmark}/{item.task}"].append(int(item.correct) - int(was_correct))
    if earlier or not num_samples:
        raise ValueError(f"{len(earlier)} of {num_samples} samples answered before have no answer after")
    values = [change for task in changes.values() for change in task]
    remedied, broken = values.count(1), values.count(-1)
    low, high = bootstrap_interval(changes, resamples=resamples, seed=seed)
    return Comparison(
        num_samples=num_samples,
        accuracy_before=right_before / num_samples,
        accuracy_after=(right_before + remedied - broken) / num_samples,
        difference=(remedied - broken) / num_samples,
        low=low,
        high=high,
        remedied=remedied,
        broken=broken,
        p_value=mcnemar(remedied, broken),
    )
