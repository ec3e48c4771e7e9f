"""Labelled samples from files.

One JSON object a line (any tabular format of `lamer.rows` does): `question`, `options` (a list, empty or absent
for a free answer), `answer` (a letter into the options, or free text), and if known `id`, `benchmark`, `task`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

from lamer.errors import DataError
from lamer.rows import FieldError, clean_text, labels, place, read_rows, require_columns, row_id, short

MAX_OPTIONS = 26


@dataclass(frozen=True, slots=True)
class Sample:
    """One question with its right answer."""

    id: str
    """Unique over all files."""
    benchmark: str
    task: str
    question: str
    options: tuple[str, ...]
    """In the order shown; empty for a free answer."""
    target: str
    """The right answer: a letter into `options`, or text."""


def load_samples(paths: Sequence[str], limit: int | None = None) -> list[Sample]:
    """The samples of the files, in order.

    A sample without an id is called `file:line`; without a benchmark it belongs to one named like the file;
    without a task, to one named like the benchmark.

    Args:
        paths: Files.
        limit: Take only the first so many of each.

    Raises:
        DataError: If a file cannot be read or has no rows, a field is wrong, or an id occurs twice; with file
            and line.
    """
    samples: list[Sample] = []
    places: dict[str, str] = {}
    names = labels(paths)
    for path in paths:
        for index, (number, row) in enumerate(islice(read_rows(path), limit)):
            if index == 0:
                require_columns(path, row, ("question",), "what is asked")
                require_columns(path, row, ("answer",), "the right answer")
            where = place(path, number)
            sample = _sample(row, where, names[path], number)
            if sample.id in places:
                raise DataError(
                    f"{where}: id {sample.id!r} was used before ({places[sample.id]}); ids must be unique"
                )
            places[sample.id] = where
            samples.append(sample)
    return samples


def _sample(row: Mapping[str, Any], where: str, name: str, number: int) -> Sample:
    try:
        benchmark = _name(row, "benchmark") or name
        options = _options(row.get("options"))
        return Sample(
            id=row_id(row.get("id")) or f"{name}:{number}",
            benchmark=benchmark,
            task=_name(row, "task") or benchmark,
            question=clean_text(row.get("question"), "question"),
            options=options,
            target=_target(row.get("answer"), options),
        )
    except FieldError as error:
        raise DataError(f"{where}: {error}") from error


def _name(row: Mapping[str, Any], field: str) -> str | None:
    value = row.get(field)
    return None if value is None else clean_text(value, field)


def _options(value: Any) -> tuple[str, ...]:
    if value is None:
        return ()
    if not isinstance(value, list):
        raise FieldError(f"options is {short(value)}, expected a list of texts")
    options = tuple(clean_text(option, f"option {index + 1}") for index, option in enumerate(value))
    if len(options) == 1 or len(options) > MAX_OPTIONS:
        raise FieldError(f"options has {len(options)} entries, expected none or 2 to {MAX_OPTIONS}")
    return options


def _target(value: Any, options: tuple[str, ...]) -> str:
    if isinstance(value, int | float) and not isinstance(value, bool) and not options:
        value = str(value)
    answer = clean_text(value, "answer")
    if not options:
        return answer
    letters = [chr(ord("A") + index) for index in range(len(options))]
    if answer not in letters:
        raise FieldError(
            f"answer is {answer!r}, expected a letter from A to {letters[-1]} ({len(options)} options)"
        )
    return answer
