"""Accuracy by knowledge state: what was repaired and what was broken, where the truth is known."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from lamer.records import Prediction

ALL = "all"


@dataclass(frozen=True, slots=True)
class StateAccuracy:
    """One method on the samples of one knowledge state."""

    num_samples: int
    accuracy: float
    remedied: int
    """Wrong with the base model, right with this method."""
    broken: int
    """Right with the base model, wrong with this method."""


def by_state(
    predictions: Iterable[Prediction], state_of: Mapping[str, str]
) -> dict[str, dict[str, StateAccuracy]]:
    """`{method: {state: accuracy}}`, with all samples together under `all`.

    Args:
        predictions: Of all methods, `base` among them.
        state_of: Knowledge state by sample id.

    Raises:
        KeyError: If a sample has no state.
    """
    correct: dict[str, dict[str, bool]] = defaultdict(dict)
    for row in predictions:
        correct[row.method][row.sample_id] = row.correct
    base = correct.get("base", {})
    table: dict[str, dict[str, StateAccuracy]] = {}
    for method, answers in correct.items():
        counts: dict[str, Counter[str]] = defaultdict(Counter)
        for sample, is_right in answers.items():
            was_right = base.get(sample, is_right)
            for state in (ALL, state_of[sample]):
                counts[state]["samples"] += 1
                counts[state]["right"] += is_right
                counts[state]["remedied"] += is_right and not was_right
                counts[state]["broken"] += was_right and not is_right
        table[method] = {
            state: StateAccuracy(n["samples"], n["right"] / n["samples"], n["remedied"], n["broken"])
            for state, n in counts.items()
        }
    return table
