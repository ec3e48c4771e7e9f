"""Training examples to test with."""

from __future__ import annotations

from lamer.records import Example

EXPLANATIONS = ("Wood is an insulator.", "Iron conducts heat well, so heat flows.", "Heat flows from hot to cold.")


def make_example(number: int, *, severity: float | None = None, unit: str | None = "", **changes) -> Example:
    fields = {
        "id": f"x{number:02d}",
        "deficiency_id": f"d{number // 2:02d}" if unit == "" else unit,
        "relative_entropy": severity if severity is not None else 0.05 + 0.13 * (number // 2),
        "question": f"A spoon number {number} lies in hot tea. What happened as a result?",
        "options": ("It became hot", "It stayed cool", "It sang"),
        "answer": number % 3,
        "explanation": EXPLANATIONS[number % 3] * (1 + number % 4),
        "status": "kept",
        "reason": None,
        "raw": "",
        "teacher": "a teacher",
    }
    return Example(**{**fields, **changes})
