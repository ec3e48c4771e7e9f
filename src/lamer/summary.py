"""What a run says on the terminal: one screen a stage, and tables."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, fields
from itertools import islice
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table as RichTable
from rich.text import Text

from lamer.errors import UsageError, nearest
from lamer.records import TABLES
from lamer.run import Run, StageEntry
from lamer.terminal import visible

MAX_CELL = 60
"""Characters of a cell in a table on the terminal; `--json` shows everything."""
MIN_COLUMN = 12
"""Characters that a column needs; where the terminal has less, fields stand below each other."""


def show_stage(run: Run, name: str, entry: StageEntry, *, is_new: bool, as_json: bool = False) -> None:
    """Print a stage's counts, notes, time and memory."""
    if as_json:
        line = {"stage": name, "seconds": entry.seconds, "counts": entry.counts, "notes": entry.notes}
        print_line(json.dumps(line, ensure_ascii=False))
        return
    console = Console(highlight=False)
    state = f"{entry.seconds:.1f} s, peak memory {entry.peak_memory_mib:,.0f} MiB" if is_new else "done before"
    console.print(Text.assemble((name, "bold"), f"  {state}"))
    for label, value in entry.counts.items():
        console.print(Text(visible(f"  {label.replace('_', ' ')}: {_inline(value)}")))
    for note in entry.notes:
        console.print(Text(visible(f"  note: {note}"), style="yellow"))


def _inline(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {_inline(item)}" for key, item in value.items()) or "none"
    if value is None:
        return "-"
    if isinstance(value, list):
        return ", ".join(_inline(item) for item in value)
    if isinstance(value, float):
        return f"{value:.4g}"
    return f"{value:,}" if isinstance(value, int) else str(value)


def print_line(text: str) -> None:
    """One line on stdout (no wrapping, no markup); control characters are shown, not obeyed."""
    import sys

    sys.stdout.write(visible(text) + "\n")


def show_table(path: Path, name: str, *, as_json: bool = False, limit: int | None = None) -> None:
    """Print the rows of a table of the run at `path`.

    Raises:
        UsageError: If there is no such table.
        RunError: If there is no run.
    """
    if name not in TABLES:
        raise UsageError(f"unknown table {name!r}{nearest(name, list(TABLES))}; known: {', '.join(TABLES)}")
    record = TABLES[name]
    table = Run.existing(path).table(name, record)
    rows = islice(table, limit)
    if as_json:
        for row in rows:
            print_line(json.dumps(asdict(row), ensure_ascii=False))
        return
    console = Console(highlight=False)
    names = [field.name for field in fields(record)]
    if console.width < MIN_COLUMN * len(names):
        for row in rows:
            console.print(_listed(names, row))
    else:
        grid = RichTable(box=None, header_style="bold", pad_edge=False)
        for column in names:
            grid.add_column(column, overflow="fold")
        for row in rows:
            grid.add_row(*(Text(_cell(getattr(row, column))) for column in names))
        console.print(grid)
    if limit is not None and table.num_rows > limit:
        console.print(Text(f"{limit} of {table.num_rows} rows", style="dim"))


def _listed(names: list[str], row: Any) -> RichTable:
    """A row with its fields below each other."""
    grid = RichTable(box=None, show_header=False, pad_edge=False, padding=(0, 2, 0, 0))
    grid.add_column(style="bold", no_wrap=True)
    grid.add_column(overflow="fold")
    for name in names:
        grid.add_row(name, Text(_cell(getattr(row, name))))
    grid.add_row("", "")
    return grid


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, tuple):
        return "[" + ", ".join(_cell(item) for item in value) + "]"
    text = "".join(char if char.isprintable() else " " for char in str(value))
    return text if len(text) <= MAX_CELL else text[: MAX_CELL - 1] + "…"
