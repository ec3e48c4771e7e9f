"""Two methods on the same samples: the difference of their scores, with its interval, and McNemar's test."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from lamer.evaluation.differences import measure
from lamer.records import Prediction


@dataclass(frozen=True, slots=True)
class Comparison:
    """Two methods on the same samples. Scores are those of `Summary`: of one benchmark the mean over its tasks, of
    several the mean over the benchmarks."""

    num_samples: int
    accuracy_before: float
    accuracy_after: float
    difference: float
    """`accuracy_after` minus `accuracy_before`."""
    low: float
    """Lower end of the 95 % paired bootstrap interval of `difference`: tasks are drawn, samples within them."""
    high: float
    remedied: int
    """Samples wrong before, right after."""
    broken: int
    """Samples right before, wrong after."""
    p_value: float
    """McNemar's exact test over the samples, two-sided."""


def compare(
    before: Iterable[Prediction], after: Iterable[Prediction], *, resamples: int = 2000, seed: int = 0
) -> Comparison:
    """`after` against `before` on the same samples, matched by benchmark and sample id.

    The interval is that of `differences.measure` with one seed: it says nothing of other trainings.

    Raises:
        ValueError: If the two did not answer the same samples, or there are none.
    """
    earlier = {(item.benchmark, item.sample_id): item.correct for item in before}
    num_samples = len(earlier)
    was: dict[str, dict[str, list[int]]] = defaultdict(lambda: defaultdict(list))
    now: dict[str, dict[str, list[int]]] = defaultdict(lambda: defaultdict(list))
    for item in after:
        was_correct = earlier.pop((item.benchmark, item.sample_id), None)
        if was_correct is None:
            raise ValueError(f"sample {item.sample_id!r} of {item.benchmark} has more answers after than before")
        was[item.benchmark][item.task].append(int(was_correct))
        now[item.benchmark][item.task].append(int(item.correct))
    if earlier or not num_samples:
        raise ValueError(f"{len(earlier)} of {num_samples} samples answered before have no answer after")
    groups = [
        {task: np.array(now[name][task])[:, None] - np.array(right)[:, None] for task, right in tasks.items()}
        for name, tasks in was.items()
    ]
    found = measure(groups, alike="tasks", resamples=resamples, seed=seed)
    score = float(np.mean([np.mean([np.mean(right) for right in tasks.values()]) for tasks in was.values()]))
    return Comparison(
        num_samples=num_samples,
        accuracy_before=score,
        accuracy_after=score + found.difference,
        difference=found.difference,
        low=found.low,
        high=found.high,
        remedied=round(found.remedied),
        broken=round(found.broken),
        p_value=found.p_value,
    )
