"""Two methods on the same samples over several seeds: difference, interval, exact test. Numbers only.

Seed s trains both methods anew; all seeds answer the same samples. With c_is and b_is (1 right, 0 wrong) of sample
i the change is d_is = c_is - b_is. Answers of different seeds to one sample are not independent, and neither are
samples of one seed's adapter, so neither (sample, seed) pairs nor samples alone are the unit:

    interval    quantiles of  score(r) + T_r * sqrt(max(0, v - w) / S)  over resamples r. score(r): two-stage
                paired bootstrap with all seeds of a sample together: tasks with replacement, and within each drawn
                task as many samples as it has, each with its mean change over the seeds. T_r: Student's t with
                S - 1 degrees of freedom. v: variance of the seeds' differences (S - 1); w: the part of it that is
                noise of single answers, which score(r) holds already. w = sum over tasks of a^2 e / n, where a is
                the task's weight in the score, n its samples, and e the mean square of d_is - d_i. - d_.s + d_..
                with (n - 1)(S - 1) degrees of freedom. With one seed the second term is missing: the interval
                is the two-stage paired bootstrap's alone and says nothing of other seeds.
    test        exact sign test over samples: D_i = sum_s d_is; under the null D_i > 0 is as likely as D_i < 0.
                Samples with D_i = 0 are left out. With one seed this is McNemar's exact test. The seeds are taken
                as they are: it speaks of these adapters. McNemar's test of each seed stands beside it.

With samples and seeds as crossed random effects this covers about as often as it says (tests simulate it); samples
alone fall far short where seeds differ, and resampling seeds beside samples (Owen 2007, the pigeonhole bootstrap)
counts the noise of single answers three times.

Sources: Davison & Hinkley 1997, section 3.8 (two-stage resampling); Searle, Casella & McCulloch 1992, Variance
Components, section 4.3 (crossed classification, analysis of variance estimators).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from lamer.evaluation.statistics import CONFIDENCE, mcnemar

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Changes = NDArray[np.int64]
    """Changes of one task's samples: 1 remedied, -1 broken, 0 the same. Shape [samples, seeds]."""

Alike = Literal["tasks", "samples"]
"""What weighs the same in a group's score: its tasks (the paper's benchmarks), or its samples."""


@dataclass(frozen=True, slots=True)
class Difference:
    """One method against another on one group of samples."""

    num_samples: int
    num_seeds: int
    """Of all models together."""
    min_seeds: int
    """Of the model with the fewest; with one seed the interval says nothing of others."""
    difference: float
    """Share: score of the method minus that of the reference, mean over seeds."""
    low: float
    """Lower end of the 95 % interval over seeds, tasks and samples."""
    high: float
    by_seed: tuple[float, ...]
    """`difference` of each seed."""
    remedied: float
    """Samples wrong with the reference, right with the method; mean over seeds."""
    broken: float
    p_value: float
    """Sign test over samples, two-sided (McNemar's where there is one seed)."""
    p_by_seed: tuple[float, ...]
    """McNemar's exact test of each seed."""


Groups = Sequence[Mapping[str, "Changes"]]
"""For each group its tasks' changes; all arrays of one model have the same number of seeds."""


def measure(groups: Groups, *, alike: Alike = "tasks", resamples: int = 2000, seed: int = 0) -> Difference:
    """The difference on one group of samples, or the mean difference of several groups, each alike.

    Args:
        groups: Of one model. Counts and tests are over the samples of all of them.
        alike: `tasks`: a group's score is the mean over its tasks; `samples`: over its samples.
        resamples: Of the bootstrap.
        seed: Of its draws.

    Raises:
        ValueError: If there are no groups, a group has no samples, or arrays differ in their seeds.
    """
    return measure_models([groups], alike=alike, resamples=resamples, seed=seed)


def measure_models(
    models: Sequence[Groups], *, alike: Alike = "tasks", resamples: int = 2000, seed: int = 0
) -> Difference:
    """The mean of the differences of several models, each alike, whose seeds and samples are their own.

    The models are taken as they are; each is resampled apart from the others. `num_seeds` counts the seeds of all,
    `by_seed` and `p_by_seed` hold them model by model.

    Raises:
        ValueError: As `measure`.
    """
    if not models or not all(map(_has_samples, models)):
        raise ValueError("no samples to compare")
    changes = [np.concatenate([array for group in groups for array in group.values()]) for groups in models]
    by_seed = [np.mean([_score(group, alike) for group in groups], axis=0) for groups in models]
    generators = np.random.default_rng(seed).spawn(len(models))
    values = [
        resample(groups, generator, alike, resamples) + seed_noise(groups, generator, alike, resamples)
        for groups, generator in zip(models, generators)
    ]
    low, high = np.quantile(np.mean(values, axis=0), [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    sums = np.concatenate([rows.sum(axis=1) for rows in changes])
    remedied = [int(count) for rows in changes for count in (rows == 1).sum(axis=0)]
    broken = [int(count) for rows in changes for count in (rows == -1).sum(axis=0)]
    return Difference(
        num_samples=len(sums),
        num_seeds=len(remedied),
        min_seeds=min(rows.shape[1] for rows in changes),
        difference=float(np.mean([seeds.mean() for seeds in by_seed])),
        low=float(low),
        high=float(high),
        by_seed=tuple(float(value) for seeds in by_seed for value in seeds),
        remedied=sum(remedied) / len(remedied),
        broken=sum(broken) / len(broken),
        p_value=mcnemar(int((sums > 0).sum()), int((sums < 0).sum())),
        p_by_seed=tuple(map(mcnemar, remedied, broken)),
    )


def _has_samples(groups: Groups) -> bool:
    arrays = [array for group in groups for array in group.values()]
    if len({array.shape[1] for array in arrays}) > 1:
        raise ValueError("the tasks were answered by different numbers of seeds")
    return bool(groups) and all(groups) and all(array.size for array in arrays)


def _score(group: Mapping[str, Changes], alike: Alike) -> NDArray[np.float64]:
    """Mean change of each seed, shape [seeds]."""
    if alike == "samples":
        means = np.concatenate(list(group.values())).mean(axis=0)
    else:
        means = np.mean([array.mean(axis=0) for array in group.values()], axis=0)
    return np.asarray(means, dtype=np.float64)


def resample(groups: Groups, generator: np.random.Generator, alike: Alike, resamples: int) -> NDArray[np.float64]:
    """The mean over groups in each resample of one model's tasks and samples; shape [resamples].

    Samples with the same sum over the seeds are interchangeable, so a task is resampled as counts of its sums.
    """
    values = np.zeros(resamples)
    for group in groups:
        drawn = generator.multinomial(len(group), np.full(len(group), 1 / len(group)), size=resamples)
        total, size = np.zeros(resamples), np.zeros(resamples)
        for column, array in enumerate(group.values()):
            sums, times = np.unique(array.sum(axis=1), return_counts=True)
            counts = generator.multinomial(drawn[:, column] * len(array), times / len(array))
            scale = 1 / len(array) if alike == "tasks" else 1.0
            total += scale * (counts @ sums) / array.shape[1]
            size += scale * len(array) * drawn[:, column]
        values += total / size / len(groups)
    return values


def seed_noise(
    groups: Groups, generator: np.random.Generator, alike: Alike, resamples: int
) -> NDArray[np.float64]:
    """What other seeds would change, T_r * sqrt(max(0, v - w) / S) of this module's head; zeros with one seed.

    The quantiles of Student's t come from an even grid in random order, not from draws. Shape [resamples].
    """
    from scipy.stats import t

    by_seed = np.mean([_score(group, alike) for group in groups], axis=0)
    num_seeds = len(by_seed)
    if num_seeds == 1:
        return np.zeros(resamples)
    noise = sum(_answer_noise(group, alike) for group in groups) / len(groups) ** 2
    spread = np.sqrt(max(0.0, float(by_seed.var(ddof=1)) - noise) / num_seeds)
    grid = t.ppf((np.arange(resamples) + 0.5) / resamples, num_seeds - 1)
    return np.asarray(spread * generator.permutation(grid), dtype=np.float64)


def _answer_noise(group: Mapping[str, Changes], alike: Alike) -> float:
    """w: the variance of one seed's score by the noise of its single answers; a task of one sample adds none."""
    total = sum(len(array) for array in group.values())
    noise = 0.0
    for array in group.values():
        size, num_seeds = array.shape
        if size > 1:
            rest = array - array.mean(axis=1, keepdims=True) - array.mean(axis=0) + array.mean()
            error = float((rest**2).sum()) / ((size - 1) * (num_seeds - 1))
            weight = 1 / len(group) if alike == "tasks" else size / total
            noise += weight**2 * error / size
    return noise
