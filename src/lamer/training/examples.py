"""Training examples from files: JSON lines (or any tabular format of `lamer.rows`) with a column of severity.

`question`, `options` (a list of 2 to 26 texts) and `answer` (a letter into the options) are needed; `explanation`,
`severity` (or `relative_entropy`, in nats), `deficiency_id` (examples of one gap are siblings), `teacher` and `id`
are read where they are there. A row with a `completion` (the whole reply, taken word for word) needs neither
`options` nor `answer`. It is what `lamer show RUN examples --json` prints, too: rejected rows are left out.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import isfinite
from typing import Any

from lamer.errors import DataError
from lamer.records import Example
from lamer.rows import FieldError, clean_text, labels, place, read_rows, require_columns, row_id, short

MAX_OPTIONS = 26
SEVERITY_COLUMNS = ("severity", "relative_entropy")


@dataclass(frozen=True, slots=True)
class Row:
    """An example and where it stands."""

    example: Example
    place: str
    """`file, line 3`."""
    has_id: bool
    """Whether the row names its id; else it is called after its place."""


def load_examples(paths: Sequence[str]) -> list[Example]:
    """The examples of the files, in order; see `example_rows`."""
    return [row.example for row in example_rows(paths)]


def example_rows(paths: Sequence[str]) -> Iterator[Row]:
    """The examples of the files with their places, in order.

    An example without an id is called `file:line`; one without a severity comes first in an ascending
    order.

    Raises:
        DataError: If a file cannot be read or has no rows, a field is wrong, or an id occurs twice; with file and
            line.
    """
    places: dict[str, str] = {}
    names = labels(paths)
    for path in paths:
        for index, (number, row) in enumerate(read_rows(path)):
            if index == 0:
                for column in ("question", "options", "answer"):
                    ways = (column,) if column == "question" else (column, "completion")
                    require_columns(path, row, ways, "a part of every example")
            if row.get("status") == "rejected":
                continue
            where = place(path, number)
            try:
                example = _example(row, f"{names[path]}:{number}")
            except FieldError as error:
                raise DataError(f"{where}: {error}") from error
            if example.id in places:
                raise DataError(
                    f"{where}: id {example.id!r} was used before ({places[example.id]}); ids must be unique"
                )
            places[example.id] = where
            yield Row(example, where, row.get("id") not in (None, ""))


def _example(row: Mapping[str, Any], name: str) -> Example:
    completion = _text(row, "completion")
    is_given = completion is not None  # options and answer are then not needed, and checked where they are there
    options = () if is_given and not row.get("options") else _options(row.get("options"))
    answer = None if is_given and row.get("answer") in (None, "") else _answer(row.get("answer"), options)
    return Example(
        id=row_id(row.get("id")) or name,
        deficiency_id=_text(row, "deficiency_id"),
        relative_entropy=_severity(row),
        question=clean_text(row.get("question"), "question"),
        options=options,
        answer=answer,
        explanation=_text(row, "explanation") or "",
        status="kept",
        reason=None,
        raw="",
        teacher=_text(row, "teacher") or "unknown",
        completion=completion,
    )


def _text(row: Mapping[str, Any], field: str) -> str | None:
    value = row.get(field)
    return None if value in (None, "") else clean_text(value, field)


def _options(value: Any) -> tuple[str, ...]:
    if not isinstance(value, list) or not 2 <= len(value) <= MAX_OPTIONS:
        raise FieldError(f"options is {short(value)}, expected a list of 2 to {MAX_OPTIONS} texts")
    return tuple(clean_text(option, f"option {index + 1}") for index, option in enumerate(value))


def _answer(value: Any, options: Sequence[str]) -> int:
    """A letter, or the index that lamer's own tables hold."""
    if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < len(options):
        return value
    letters = [chr(ord("A") + index) for index in range(len(options))]
    if value not in letters:
        raise FieldError(f"answer is {short(value)}, expected a letter from A to {letters[-1]} or an index from 0")
    return letters.index(value)


def _severity(row: Mapping[str, Any]) -> float | None:
    for column in SEVERITY_COLUMNS:
        value = row.get(column)
        if value in (None, ""):
            continue
        try:
            severity = float(value)
        except (TypeError, ValueError):
            severity = float("nan")
        if isinstance(value, bool) or not isfinite(severity) or severity < 0:
            raise FieldError(
                f"{column} is {short(value)}, expected nats, 0 or more, or nothing where it is unknown"
            )
        return severity
    return None
