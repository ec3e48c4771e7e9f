"""Labelled samples to test with."""

from __future__ import annotations

ROWS = [
    {
        "id": f"s{number}",
        "benchmark": "heat" if number < 5 else "sound",
        "task": f"t{number % 2}",
        "question": f"A spoon number {number} lies in tea{' for a long time' * (number % 3)}. What happened?",
        "options": ["It became hot", "It stayed cool", "It sang"],
        "answer": "ABC"[number % 3],
    }
    for number in range(8)
] + [
    {
        "id": "free",
        "benchmark": "sums",
        "task": "sums",
        "question": "What is 3 * 6?",
        "options": [],
        "answer": "18",
    }
]
