"""Whole tables, markers and chunks: how the stage retrieve puts its results in place."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

from lamer.records import Record
from lamer.run import Run
from lamer.tables import Table, write_atomically

Item = TypeVar("Item")


def replace_table(
    run: Run,
    name: str,
    record: type[Record],
    records: Iterable[Record],
    shard_size: int,
    advance: Callable[[int], None],
) -> None:
    """Write a whole table beside and put it in place; when reading fails, nothing is left."""
    beside = run.path / "index" / f"{name}.tmp"
    shutil.rmtree(beside, ignore_errors=True)
    try:
        table = Table(beside, record)
        for index, chunk in enumerate(chunks(records, shard_size)):
            table.write(index, chunk)
            advance(len(chunk))
    except BaseException:
        shutil.rmtree(beside, ignore_errors=True)
        raise
    run.table(name, record).clear()
    beside.rename(run.path / name)


def chunks(items: Iterable[Item], size: int) -> Iterator[list[Item]]:
    """Lists of `size` items, the last one shorter; no empty list."""
    stream = iter(items)
    while chunk := list(islice(stream, size)):
        yield chunk


def write_marker(path: Path, content: dict[str, Any]) -> dict[str, Any]:
    """Say, last of all, that a piece of work is whole; gives the content back."""
    write_atomically(path, (json.dumps(content, ensure_ascii=False, indent=1) + "\n").encode())
    return content


def read_marker(path: Path) -> dict[str, Any]:
    """What `write_marker` wrote."""
    content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return content
