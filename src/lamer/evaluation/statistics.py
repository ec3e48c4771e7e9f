"""Accuracies of a method, and tests.

Score of a benchmark = mean over its tasks; average = mean over the benchmarks; the micro average weighs every
sample alike. Numbers only: nothing here loads a model. Two methods are compared in `paired`.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

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
