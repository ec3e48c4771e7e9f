from __future__ import annotations

from math import comb

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from lamer.evaluation.differences import measure, measure_models, resample, seed_noise
from lamer.evaluation.statistics import mcnemar


def changes(*rows):
    return np.array(rows)


def test_a_difference_worked_by_hand():
    # task one: seed means 1/2 and 0; task two (4 samples): 1/4 and 1/2
    groups = [{"one": changes([1, 1], [0, -1]), "two": changes([1, 1], [1, 1], [0, 0], [-1, 0])}]
    found = measure(groups)
    assert found.by_seed == pytest.approx((0.375, 0.25))
    assert found.difference == pytest.approx(0.3125)
    assert (found.num_samples, found.num_seeds) == (6, 2)
    assert (found.remedied, found.broken) == (3.0, 1.0)
    # sums over seeds: 2, -1, 2, 2, 0, -1: three up, two down
    assert found.p_value == pytest.approx(min(1.0, 2 * sum(comb(5, k) for k in range(3)) / 2**5))
    assert found.p_by_seed == pytest.approx((mcnemar(3, 1), mcnemar(3, 1)))
    alike = measure(groups, alike="samples")
    assert alike.by_seed == pytest.approx((2 / 6, 2 / 6))


def test_several_groups_give_the_mean_of_their_differences():
    small, large = {"t": changes([1], [1])}, {"t": changes(*[[0]] * 8)}
    assert measure([small, large]).difference == pytest.approx(0.5)
    assert measure([small, large]).num_samples == 10


@given(st.lists(st.lists(st.integers(-1, 1), min_size=1, max_size=12), min_size=1, max_size=4))
def test_with_one_seed_the_test_is_mcnemars(tasks):
    found = measure([{str(i): changes(*[[v] for v in task]) for i, task in enumerate(tasks)}], resamples=10)
    values = [value for task in tasks for value in task]
    assert found.p_value == mcnemar(values.count(1), values.count(-1)) == found.p_by_seed[0]


def test_with_one_seed_and_samples_alike_the_interval_is_that_of_drawing_one_by_one():
    generator = np.random.default_rng(3)
    tasks = [generator.choice([-1, 0, 1], size=size, p=[0.1, 0.6, 0.3]) for size in (10, 20, 40, 80)]
    found = measure([{str(i): v[:, None] for i, v in enumerate(tasks)}], alike="samples", resamples=20000)
    values = []
    for _ in range(20000):
        drawn = [tasks[i] for i in generator.integers(len(tasks), size=len(tasks))]
        values.append(np.concatenate([generator.choice(task, size=len(task)) for task in drawn]).mean())
    assert (found.low, found.high) == pytest.approx(tuple(np.quantile(values, [0.025, 0.975])), abs=0.006)


def plain_resamples(groups, count, seed):
    """The definition, drawn one by one: tasks, and samples of each drawn task with all their seeds."""
    generator = np.random.default_rng(seed)
    values = []
    for _ in range(count):
        means = []
        for group in groups:
            tasks = list(group.values())
            drawn = [tasks[i] for i in generator.integers(len(tasks), size=len(tasks))]
            means.append(np.mean([task[generator.integers(len(task), size=len(task))].mean() for task in drawn]))
        values.append(np.mean(means))
    return np.array(values)


def test_the_resamples_are_those_of_the_definition_drawn_one_by_one():
    generator = np.random.default_rng(1)
    lift = np.array([0.1, 0.3, 0.5])  # seeds differ
    groups = [
        {f"t{i}": (generator.random((n, 3)) < lift).astype(int) for i, n in enumerate(sizes)}
        for sizes in ((20, 35), (12,))
    ]
    mine = resample(groups, np.random.default_rng(0), "tasks", 20000)
    theirs = plain_resamples(groups, 4000, seed=2)
    assert mine.mean() == pytest.approx(theirs.mean(), abs=0.005)
    assert mine.std() == pytest.approx(theirs.std(), rel=0.06)
    for share in (0.025, 0.5, 0.975):
        assert np.quantile(mine, share) == pytest.approx(np.quantile(theirs, share), abs=0.012)


def test_where_all_samples_change_alike_the_interval_is_students_over_the_seeds():
    groups = [{"a": np.tile([1, 0, 1], (20, 1)), "b": np.tile([1, 0, 0], (30, 1))}]
    found = measure(groups, resamples=20000)
    values = np.array([1.0, 0.0, 0.5])
    assert found.by_seed == pytest.approx(values)
    reach = stats.t.ppf(0.975, 2) * values.std(ddof=1) / np.sqrt(3)
    # the two tasks differ in the third seed: by resampling tasks the mean is 0.5 +- 1/6 at most
    alone = measure([{"a": groups[0]["a"]}], resamples=20000)
    assert (alone.low, alone.high) == pytest.approx(
        stats.t.interval(0.95, 2, 2 / 3, stats.sem([1, 0, 1])), rel=2e-3
    )
    assert found.high - 0.5 == pytest.approx(reach, abs=1 / 6 + 0.01)


def test_the_noise_of_single_answers_is_taken_off_the_spread_of_seeds():
    generator = np.random.default_rng(4)
    array = (generator.random((40, 3)) < 0.4).astype(int)
    by_seed = array.mean(axis=0)
    # by analysis of variance: v = MS_seeds / n and w = MS_rest / n
    rest = array - array.mean(1, keepdims=True) - by_seed + array.mean()
    net = max(0.0, by_seed.var(ddof=1) - (rest**2).sum() / (39 * 2) / 40)
    widest = seed_noise([{"t": array}], np.random.default_rng(0), "tasks", 4000)
    assert np.quantile(widest, 0.975) == pytest.approx(stats.t.ppf(0.975, 2) * np.sqrt(net / 3), rel=0.01)
    assert set(seed_noise([{"t": array[:, :1]}], np.random.default_rng(0), "tasks", 5)) == {0.0}


def test_seeds_that_disagree_widen_the_interval_and_copies_of_one_seed_do_not_narrow_it():
    generator = np.random.default_rng(0)
    one = (generator.random((300, 1)) < 0.3).astype(int)
    copies = measure([{"t": np.repeat(one, 5, axis=1)}], resamples=20000)
    single = measure([{"t": one}], resamples=20000)
    assert copies.high - copies.low == pytest.approx(single.high - single.low, abs=0.006)  # steps of 1/300
    assert copies.p_value == single.p_value
    apart = np.concatenate([one, one, one, 0 * one, 0 * one], axis=1)
    same_mean = (generator.random((300, 5)) < apart.mean()).astype(int)
    wide, narrow = measure([{"t": apart}]), measure([{"t": same_mean}])
    assert wide.high - wide.low > 2 * (narrow.high - narrow.low)


@pytest.mark.parametrize(("by_sample", "by_seed"), [(0.0, 0.0), (0.3, 0.0), (0.2, 0.05)])
def test_the_interval_covers_the_truth_about_as_often_as_it_says(by_sample, by_seed):
    """Crossed effects of samples and seeds on a true mean of 0.35; a binomial 95 % of 200 lies in 0.91 to 0.98."""
    generator, hits = np.random.default_rng(11), 0
    for trial in range(200):
        samples, seeds = generator.uniform(-by_sample, by_sample, 200), generator.normal(0, by_seed, 4)
        array = (generator.random((200, 4)) < 0.35 + samples[:, None] + seeds).astype(int)
        found = measure([{"t": array}], resamples=400, seed=trial)
        hits += found.low <= 0.35 <= found.high
    assert 0.9 <= hits / 200 <= 0.99


def test_models_are_averaged_alike_with_seeds_of_their_own():
    first = [{"t": changes([1, 1], [0, 0])}]
    second = [{"t": changes([0], [0], [0], [-1])}]
    found = measure_models([first, second])
    assert found.difference == pytest.approx((0.5 - 0.25) / 2)
    assert found.by_seed == pytest.approx((0.5, 0.5, -0.25))
    assert (found.num_samples, found.num_seeds) == (6, 3)
    assert found.p_value == mcnemar(1, 1)


@pytest.mark.parametrize("groups", [[], [{}], [{"t": np.zeros((0, 2), int)}], [{"t": np.zeros((2, 0), int)}]])
def test_nothing_to_compare_is_refused(groups):
    with pytest.raises(ValueError, match="no samples"):
        measure(groups)


def test_tasks_of_different_seeds_are_refused():
    with pytest.raises(ValueError, match="different numbers of seeds"):
        measure([{"a": np.zeros((2, 1), int), "b": np.zeros((2, 2), int)}])
