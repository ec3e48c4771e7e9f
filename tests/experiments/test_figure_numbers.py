"""The numbers behind the figures, by hand, by property and against an independent count."""

from __future__ import annotations

from math import sqrt

import numpy as np
import pytest
from figure_experiment import (
    add_methods,
    add_predictions,
    add_story,
    benchmark_keys,
    example,
    make_run,
    state_keys,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binom

from lamer.config import load_config, to_yaml
from lamer.errors import DataError
from lamer.experiments.figures.answers import read_answers
from lamer.experiments.figures.edge import edge_shares
from lamer.experiments.figures.embedding import tf_idf, to_plane
from lamer.experiments.figures.fig5 import count
from lamer.experiments.figures.fig6 import measure, split
from lamer.experiments.figures.fig7 import distinct, draw, equally_many, fact_of, noise_of, own_encoder
from lamer.experiments.figures.intervals import over_samples, over_seeds
from lamer.experiments.figures.sheet import text_width, wrapped
from lamer.experiments.figures.story import find_story
from lamer.experiments.results import seed_runs

A, B, C, D, E = (("b", "t", name) for name in "abcde")


def test_interval_over_seeds_by_hand():
    found = over_seeds([1.0, 2.0, 3.0])  # s = 1, t(2) = 4.3027 at 97.5 %
    assert (found.value, found.low, found.high) == pytest.approx(
        (2.0, 2 - 4.302653 / sqrt(3), 2 + 4.302653 / sqrt(3))
    )
    assert over_seeds([0.5]).to_json() == [0.5, None, None]


def test_interval_over_samples_agrees_with_the_binomial():
    values = np.array([1.0] * 40 + [0.0] * 60)
    found = over_samples([values])
    assert found.value == 0.4
    assert found.low == pytest.approx(binom.ppf(0.025, 100, 0.4) / 100, abs=0.011)
    assert found.high == pytest.approx(binom.ppf(0.975, 100, 0.4) / 100, abs=0.011)
    uneven = over_samples([np.ones(2), np.zeros(200)])
    assert uneven.to_json() == [0.5, 0.5, 0.5], "tasks weigh alike, and neither varies"
    with pytest.raises(ValueError, match="no samples"):
        over_samples([np.array([])])


def ring(count, radius):
    angles = np.linspace(0, 2 * np.pi, count, endpoint=False)
    return radius * np.stack([np.cos(angles), np.sin(angles)], axis=1)


def test_a_ring_has_the_whole_edge_and_the_centre_none():
    points = np.concatenate([ring(40, 5.0), ring(40, 1.0)])
    outer, inner = edge_shares(points, np.repeat([0, 1], 40))
    assert outer.to_json() == pytest.approx([1.0, 1.0, 1.0])
    assert inner.to_json() == pytest.approx([0.0, 0.0, 0.0])


def test_sizes_do_not_matter():
    """Half of the outer ring is of a method with few points, so it holds half of the edge's weight, not less."""
    points = np.concatenate([ring(10, 5.0), ring(200, 5.0), ring(10, 1.0), ring(200, 1.0)])
    few, many = edge_shares(points, np.repeat([0, 1, 0, 1], [10, 200, 10, 200]), fraction=0.5)
    assert few.value == pytest.approx(0.5)
    assert many.value == pytest.approx(0.5)
    assert few.low < 0.5 < few.high


def test_shares_equal_a_plain_count_of_the_farthest_points():
    generator = np.random.default_rng(3)
    points = np.concatenate([generator.normal(0, scale, (50, 7)) for scale in (1.0, 1.3, 1.6)])
    methods = np.repeat([0, 1, 2], 50)
    center = points.mean(axis=0)
    farthest = sorted(range(150), key=lambda i: -((points[i] - center) ** 2).sum())[:30]
    counted = [sum(methods[i] == m for i in farthest) / 30 for m in range(3)]
    assert [s.value for s in edge_shares(points, methods, fraction=0.2, resamples=0)] == pytest.approx(counted)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000), st.integers(2, 4), st.floats(0.1, 3.0), st.floats(0.5, 20.0))
def test_shares_add_up_and_do_not_turn_with_the_picture(seed, num_methods, angle, scale):
    generator = np.random.default_rng(seed)
    methods = np.concatenate([np.arange(num_methods), generator.integers(0, num_methods, 30)])
    points = generator.normal(size=(len(methods), 2))
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    found = [share.value for share in edge_shares(points, methods, resamples=0)]
    moved = [share.value for share in edge_shares(scale * points @ turn + 7.0, methods, resamples=0)]
    assert sum(found) == pytest.approx(1.0)
    assert moved == pytest.approx(found, abs=1e-6)


def test_whole_clusters_are_drawn():
    """Ten siblings of one fact are one draw: the interval is wider than if they were ten."""
    generator = np.random.default_rng(0)
    centers = generator.normal(size=(40, 2))
    points = np.repeat(centers, 10, axis=0) + generator.normal(0, 0.01, (400, 2))
    methods, clusters = np.repeat([0, 1], 200), [str(i // 10) for i in range(400)]
    alone, together = edge_shares(points, methods)[0], edge_shares(points, methods, clusters)[0]
    assert together.value == alone.value
    assert together.high - together.low > 2 * (alone.high - alone.low)
    one_each = edge_shares(points, methods, [str(m) for m in methods])[0]
    assert one_each.low == pytest.approx(one_each.value) == one_each.high


def test_a_method_without_points_is_refused():
    with pytest.raises(ValueError, match="every method"):
        edge_shares(np.zeros((2, 2)), np.array([0, 2]))


def test_unique_remedied_samples_by_hand():
    parts = split([({A, B}, {B, C, D})], [A, B, C, D, E])
    assert [part.value for part in parts.counts] == [1, 1, 2]
    assert [part.value for part in parts.portions] == [0.25, 0.25, 0.5]
    assert all(part.low <= part.value <= part.high for part in (*parts.counts, *parts.portions))
    two = split([({A, B}, {B, C, D}), ({A}, {A})], [A, B, C, D, E])
    assert [part.value for part in two.counts] == [0.5, 1, 1]
    nothing = split([(set(), set())], [A, B])
    assert [part.to_json() for part in nothing.portions] == [[0.0, 0.0, 0.0]] * 3
    assert [part.value for part in split([({A}, {B})], []).counts] == [0, 0, 0]


@pytest.fixture
def answered(tmp_path):
    """Two seeds, three benchmarks of two tasks; `lamer` repairs two samples and breaks one, in seed 1 none."""
    keys = benchmark_keys()
    base = {key: int(number % 3 == 0) for number, key in enumerate(keys)}
    for seed in (0, 1):
        run = make_run(tmp_path / "m" / f"seed-{seed}")
        lamer = dict(base)
        if seed == 0:
            lamer |= {keys[1]: 1, keys[7]: 1, keys[0]: 0}
        names = ["base", "lamer", "naive", "helpful", "misleading"]
        helpful, misleading = {**base, keys[1]: 1, keys[2]: 1}, {**base, keys[2]: 1, keys[4]: 1}
        add_methods(run, names)
        add_predictions(run, dict(zip(names, [base, lamer, base, helpful, misleading], strict=True)))
    return tmp_path


def test_remedied_and_broken_by_benchmark(answered):
    found = count(read_answers(answered)["m"])
    assert found.groups == ("alpha", "beta $", "gamma <i>")
    assert found.num_wrong == {"alpha": 4, "beta $": 4, "gamma <i>": 4}
    assert [found.remedied["lamer"][name].value for name in found.groups] == [0.5, 0.5, 0.0]
    assert [found.broken["lamer"][name].value for name in found.groups] == [0.5, 0.0, 0.0]
    shares = found.normalized(["lamer", "naive", "helpful"])
    assert shares["lamer"] == {"alpha": 0.25, "beta $": 1.0, "gamma <i>": 0.0}
    assert shares["naive"] == dict.fromkeys(found.groups, 0.0)


def test_scores_are_means_over_tasks_then_benchmarks(answered):
    first = read_answers(answered)["m"][0]
    assert not first.by_state
    assert first.score("base", "alpha") == pytest.approx((1 / 3 + 1 / 3) / 2)
    assert first.score("lamer", "alpha") == pytest.approx((0 + 2 / 3) / 2)
    assert first.score("lamer") == pytest.approx((1 / 3 + 1 / 2 + 1 / 3) / 3)


def test_the_two_kinds_are_compared_with_themselves_between_seeds(answered):
    rows = measure(read_answers(answered)["m"])
    assert [part.value for part in rows["all samples"].counts] == [1, 1, 1]
    assert [part.value for part in rows["two seeds of helpful"].counts] == [0, 2, 0]
    assert {"alpha", "two seeds of misleading"} < set(rows)


def test_groups_are_knowledge_states_where_the_truth_is_there(tmp_path):
    run = make_run(tmp_path / "m" / "seed-0")
    keys, world = state_keys(tmp_path / "m")
    add_methods(run, ["base", "lamer"])
    right = {key: int(world.state_of(key[2]) == "known") for key in keys}
    add_predictions(run, {"base": right, "lamer": right})
    found = read_answers(tmp_path)["m"][0]
    assert found.by_state
    assert found.groups == ("known", "weak", "absent")
    assert [found.score("base", name) for name in found.groups] == [1.0, 0.0, 0.0]
    assert found.score("base") == pytest.approx(sum(right.values()) / len(keys))


def test_an_experiment_without_the_methods_is_refused(answered):
    with pytest.raises(DataError, match="no answers of llm2llm; the experiment has base, lamer"):
        read_answers(answered, ["llm2llm", "lamer"])
    with pytest.raises(DataError, match="holds no experiment"):
        read_answers(answered / "m")


def test_methods_with_the_same_or_fewer_examples_are_not_drawn():
    four = [example(number) for number in range(4)]
    other = [example(number, "naive|f") for number in range(3)]
    data = {"naive": other, "single": four[:2], "lamer-shuffled": four, "lamer": four, "auggpt": []}
    kept, left_out = distinct({name: list(rows) for name, rows in data.items()})
    assert list(kept) == ["naive", "lamer"]
    assert set(left_out) == {"single", "lamer-shuffled"}
    drawn, method_of = draw(kept, seed=0)
    assert list(np.bincount(method_of)) == [len(kept["naive"]), len(kept["lamer"])]
    assert list(np.bincount(method_of[equally_many(method_of)])) == [3, 3]
    assert drawn == draw(kept, seed=0)[0]
    assert fact_of(four[0]) == "f" == fact_of(other[0])


def test_noise_is_what_dbscan_puts_nowhere_unless_a_method_would_vanish():
    plane = np.array([[0, 0], [1, 0], [0, 1], [30, 30.0]])
    assert list(noise_of(plane, np.array([0, 0, 1, 1]))) == [False, False, False, True]
    assert not noise_of(plane, np.array([0, 0, 0, 1])).any()


@pytest.mark.parametrize("texts", [["same words"] * 5, ["a b", "c d", "e f", "g h"]])
def test_few_or_equal_texts_still_have_places(texts):
    plane = to_plane(tf_idf(texts))
    assert plane.shape == (len(texts), 2)
    assert np.isfinite(plane).all()


def test_texts_without_words_are_refused():
    with pytest.raises(DataError, match="no words"):
        tf_idf(["...", "?"])
    with pytest.raises(DataError, match="at least 4"):
        to_plane(np.eye(3))


def test_lines_fit_and_nothing_is_lost_before_the_ellipsis():
    text = "Many small words and one extraordinarilylongwordthatfitsinnolineatall then more of them"
    lines = wrapped(text, 80, 9, 40)
    assert all(text_width(line, 9) <= 80 for line in lines)
    assert "".join(lines).replace(" ", "") == text.replace(" ", "")
    short = wrapped(text, 80, 9, 2)
    assert len(short) == 2
    assert short[-1].endswith("…")
    assert text_width(short[-1], 9) <= 80


STORIES = {
    "repaired": ({}, True),
    "still wrong": ({"after": (0.6, 0.4)}, False),
    "likely but not written": ({"text": "It is the first"}, False),
    "written in no known words": ({"text": "It stayed small."}, False),
    "right by the fact, without a label": ({"label": None}, True),
    "not trained": ({"after": None}, False),
}


@pytest.mark.parametrize(("given", "is_repaired"), STORIES.values(), ids=STORIES)
def test_what_counts_as_repaired(tmp_path, given, is_repaired):
    add_story(make_run(tmp_path / "m" / "seed-0"), **given)
    story = find_story(seed_runs(tmp_path))
    assert story.is_repaired == is_repaired or story.query.id == "q2"
    if is_repaired or given.get("after", 1) is None:
        assert story.query.id == "q1", "the most severe"
    assert [row.id for row in find_story(seed_runs(tmp_path)).examples][:1] == [f"{story.unit.id}#0"]
    assert story.prior == pytest.approx((0.63, 0.37))
    assert story.posterior == pytest.approx((0.15, 0.85))


def test_where_the_model_was_right_there_is_nothing_to_repair(tmp_path):
    add_story(make_run(tmp_path / "m" / "seed-0"), label="0")
    assert find_story(seed_runs(tmp_path)).query.id == "q2", "though q1 is more severe"


def test_without_deficiencies_there_is_no_story(tmp_path):
    make_run(tmp_path / "m" / "seed-0")
    with pytest.raises(DataError, match="no deficiencies"):
        find_story(seed_runs(tmp_path))


def test_the_encoder_of_dense_retrieval_is_taken(tmp_path):
    run = make_run(tmp_path / "m" / "seed-0")
    (seed_run,) = seed_runs(tmp_path)
    assert own_encoder(seed_run) is None
    for method, expected in (("bm25", None), ("dense", "some/encoder"), ("hybrid", "some/encoder")):
        config = load_config({"retrieve": {"method": method, "encoder": "some/encoder"}})
        (run.path / "lamer.yaml").write_text(to_yaml(config))
        assert own_encoder(seed_run) == expected
