"""Tables of a run directory: Parquet shards, each whole or absent.

`TABLE/shard-00000.parquet` holds the rows that one unit of work made. A shard is written beside, flushed to
disk and renamed, so a kill leaves no torn file; the shard is the unit of resume, progress and distribution.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Generic

from lamer.errors import RunError
from lamer.records import Record, arrow_schema, from_arrow, to_arrow


def write_atomically(path: Path, content: bytes) -> None:
    """Write a whole file or nothing: a temporary file in the same folder, flushed, then renamed over `path`.

    Raises:
        RunError: If the disk is full or the folder cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise RunError(
            f"{path}: cannot write ({error.strerror}); free some space or choose another --out"
        ) from error


class Table(Generic[Record]):
    """One table of a run directory, as a list of shards."""

    def __init__(self, folder: Path, record: type[Record]) -> None:
        self.folder = folder
        self.record = record

    def _path(self, index: int) -> Path:
        return self.folder / f"shard-{index:05d}.parquet"

    def shards(self) -> list[Path]:
        """Finished shards, in order."""
        return sorted(self.folder.glob("shard-*.parquet"))

    def has(self, index: int) -> bool:
        """Whether shard `index` is finished."""
        return self._path(index).exists()

    def write(self, index: int, records: Sequence[Record]) -> None:
        """Write shard `index` (also when there are no records: an empty shard says that the work was done)."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        sink = pa.BufferOutputStream()
        pq.write_table(to_arrow(records, self.record), sink, compression="zstd")
        write_atomically(self._path(index), sink.getvalue().to_pybytes())

    def read_shard(self, index: int) -> list[Record]:
        """The records of one shard."""
        return list(self._read(self._path(index)))

    def _read(self, path: Path) -> Iterator[Record]:
        import pyarrow as pa
        import pyarrow.parquet as pq

        try:
            table = pq.read_table(path, schema=arrow_schema(self.record))
        except (OSError, pa.ArrowException) as error:
            raise RunError(
                f"{path}: not a readable table of {self.folder.name} ({error}); delete it and run again"
            ) from error
        yield from from_arrow(table, self.record)

    def __iter__(self) -> Iterator[Record]:
        """All records, shard by shard; one shard is in memory at a time."""
        for path in self.shards():
            yield from self._read(path)

    @property
    def num_rows(self) -> int:
        """Rows in all finished shards, from their footers."""
        import pyarrow.parquet as pq

        return sum(pq.read_metadata(path).num_rows for path in self.shards())

    def clear(self) -> None:
        """Remove every shard."""
        for path in self.folder.glob("*"):
            path.unlink()
        if self.folder.exists():
            self.folder.rmdir()
