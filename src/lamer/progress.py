"""Progress on stderr: done, total, rate, time left, peak memory.

A terminal shows one moving line; anything else (a log file) gets a plain line now and then.
"""

from __future__ import annotations

import sys
import time
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

LOG_INTERVAL_S = 10.0
"""Seconds between lines when stderr is not a terminal."""


def say(line: str) -> None:
    """One line on stderr."""
    sys.stderr.write(line + "\n")
    sys.stderr.flush()


class ProgressBar:
    """`with ProgressBar("diagnose", total=720, unit="queries") as bar: bar.advance(16, note="3 bad")`."""

    def __init__(self, description: str, total: int, unit: str = "rows") -> None:
        self.description = description
        self.total = total
        self.unit = unit
        self.done = 0
        self._resumed = 0
        self._start = self._last_line = time.monotonic()
        self._live: Progress | None = None
        self._task: TaskID | None = None

    def __enter__(self) -> ProgressBar:
        console = Console(stderr=True)
        if console.is_terminal:
            self._live = Progress(
                TextColumn("{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TextColumn("{task.fields[rate]}"),
                TimeRemainingColumn(),
                TextColumn("{task.fields[note]}"),
                console=console,
                transient=True,
            )
            self._task = self._live.add_task(self.description, total=self.total, rate="", note="")
            self._live.start()
        return self

    def skip(self, count: int) -> None:
        """Count rows that an earlier start has done; they do not enter the rate."""
        self._resumed += count
        self.advance(count, note=f"{self._resumed} {self.unit} done before")

    def advance(self, count: int = 1, note: str = "") -> None:
        """Count `count` more rows as done."""
        self.done += count
        rate = f"{self.rate:,.1f} {self.unit}/s" if self.done > self._resumed else ""
        if self._live is not None and self._task is not None:
            self._live.update(self._task, advance=count, rate=rate, note=note)
        elif time.monotonic() - self._last_line >= LOG_INTERVAL_S:
            self._last_line = time.monotonic()
            left = f", {self.seconds_left:.0f} s left" if rate else ""
            line = f"{self.description}: {self.done}/{self.total} {self.unit}, {rate}{left} {note}".rstrip()
            sys.stderr.write(line + "\n")
            sys.stderr.flush()

    @property
    def rate(self) -> float:
        """Rows a second since the start, without those done before."""
        return (self.done - self._resumed) / max(time.monotonic() - self._start, 1e-9)

    @property
    def seconds_left(self) -> float:
        """Seconds until `total` at the present rate."""
        return max(self.total - self.done, 0) / max(self.rate, 1e-9)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live is not None:
            self._live.stop()


def peak_memory_mib() -> float:
    """Peak resident memory of this process, in MiB."""
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (1024 * 1024) if sys.platform == "darwin" else peak / 1024
