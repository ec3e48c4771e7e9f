from __future__ import annotations

import pytest

from lamer.experiments.states import by_state
from lamer.records import Prediction


def prediction(method, sample, correct):
    return Prediction(method, "microworld", "heat", sample, "A", "A" if correct else "B", True, correct, "")


def test_remedied_and_broken_are_counted_against_the_base_by_state():
    rows = [
        prediction("base", "a", False), prediction("base", "b", True), prediction("base", "c", True),
        prediction("lamer", "a", True), prediction("lamer", "b", False), prediction("lamer", "c", True),
    ]  # fmt: skip
    table = by_state(rows, {"a": "absent", "b": "known", "c": "known"})
    assert table["base"]["all"].accuracy == pytest.approx(2 / 3)
    assert (table["lamer"]["absent"].remedied, table["lamer"]["absent"].broken) == (1, 0)
    assert (table["lamer"]["known"].remedied, table["lamer"]["known"].broken) == (0, 1)
    assert (table["lamer"]["all"].num_samples, table["lamer"]["all"].accuracy) == (3, pytest.approx(2 / 3))


def test_a_sample_without_a_state_is_an_error():
    with pytest.raises(KeyError):
        by_state([prediction("base", "a", True)], {})
