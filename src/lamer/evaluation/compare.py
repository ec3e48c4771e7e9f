"""Methods of several runs side by side, on the samples that all of them answered.

One method is the reference, the first unless another is named: every other one is compared with it sample by
sample (McNemar, paired bootstrap, Holm over the benchmarks). A sample that some method did not answer is left out
for all, and counted.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from lamer.errors import DataError, UsageError, nearest
from lamer.evaluation.overlap import Overlaps, read_overlaps, summarize_without
from lamer.evaluation.paired import Comparison, compare
from lamer.evaluation.statistics import Summary, holm, summarize
from lamer.records import Prediction
from lamer.run import Run

Key = tuple[str, str]
"""Benchmark and sample id."""


@dataclass(frozen=True, slots=True)
class MethodRow:
    """One method of one run."""

    name: str
    """The method, with its run's name where several runs are compared."""
    summary: Summary
    overall: Comparison | None
    """Against the reference over all samples; None for the reference itself."""
    benchmarks: Mapping[str, Comparison]
    adjusted: Mapping[str, float]
    """Holm's p-value by benchmark."""
    without_overlap: Summary | None = None
    """On the samples that training data do not repeat; None where that is not known, or there are none."""


@dataclass(frozen=True, slots=True)
class SideBySide:
    """Several methods on the same samples; the first is the reference."""

    num_samples: int
    left_out: int
    """Samples that some method did not answer."""
    rows: tuple[MethodRow, ...]
    overlaps: Overlaps | None = None
    """What the runs' training data and the samples have in common; None where nobody looked."""

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {
            "samples": self.num_samples,
            "left_out": self.left_out,
            "overlap": None if self.overlaps is None else {k: len(ids) for k, ids in self.overlaps.items.items()},
            "methods": [_row_json(row) for row in self.rows],
        }

    def to_markdown(self) -> str:
        """A table of averages and differences, and one of the benchmarks."""
        reference = self.rows[0].name
        is_known = self.overlaps is not None
        lines = [
            f"{self.num_samples:,} samples; differences against {reference}, 95 % intervals, McNemar's exact test"
            + (f"; {self.left_out:,} samples left out, not answered by every method" if self.left_out else ""),
            "",
            f"| method | average | {'without overlap | ' if is_known else ''}micro | parse rate | log-likelihood "
            "| difference | remedied | broken | p |",
            "|---" * (9 + is_known) + "|",
            *(_line(row, is_known) for row in self.rows),
        ]
        names = list(self.rows[0].summary.benchmarks)
        if len(names) > 1:
            methods = " | ".join(row.name for row in self.rows)
            overlap = "overlap | " if is_known else ""
            lines += ["", f"| benchmark | n | {overlap}{methods} |"]
            lines += ["|---" * (len(self.rows) + 2 + is_known) + "|"]
            lines += [self._benchmark_line(name) for name in names]
            lines += ["", "p (Holm over the benchmarks) in parentheses."]
        if self.overlaps is not None:
            lines += ["", f"{_capital(self.overlaps.sentence(self.num_samples))}."]
        return "\n".join(lines)

    def _benchmark_line(self, name: str) -> str:
        cells = [
            f"{row.summary.benchmarks[name].accuracy:.3f}"
            + (f" (p = {row.adjusted[name]:.2g})" if name in row.adjusted else "")
            for row in self.rows
        ]
        if self.overlaps is not None:
            cells = [f"{len(self.overlaps.items.get(name, ())):,}", *cells]
        return f"| {name} | {self.rows[0].summary.benchmarks[name].num_samples:,} | {' | '.join(cells)} |"


def compare_runs(
    paths: Sequence[Path], *, reference: str | None = None, resamples: int = 2000, seed: int = 0
) -> SideBySide:
    """Read the predictions of the runs and compare their methods.

    Args:
        paths: Run directories.
        reference: Method that the others are compared with, as the table names it; None: the first method of the
            first run (`base` where it has one).
        resamples: Of the paired bootstrap.
        seed: Of its draws.

    Raises:
        UsageError: If a run is named twice, there are fewer than two methods, or none is called `reference`.
        DataError: If a run has no predictions, or no sample was answered by all methods.
    """
    if len({path.resolve() for path in paths}) != len(paths):
        raise UsageError("a run is named twice; give different run directories")
    labels = _labels(paths)
    found = {label + method: rows for path, label in zip(paths, labels) for method, rows in _methods(path).items()}
    if len(found) < 2:
        raise UsageError(
            f"{paths[0]}: holds one method, {next(iter(found))}; give a second run to compare it with"
        )
    if reference is not None:
        if reference not in found:
            raise UsageError(
                f"--reference {reference}: no such method{nearest(reference, list(found))}; there are "
                f"{', '.join(found)}"
            )
        found = {reference: found.pop(reference), **found}
    common = set.intersection(*(set(rows) for rows in found.values()))
    if not common:
        raise DataError("no sample was answered by all methods: were the runs evaluated on the same files?")
    everything = set.union(*(set(rows) for rows in found.values()))
    kept = {name: [row for key, row in rows.items() if key in common] for name, rows in found.items()}
    _same_targets(kept)
    names = list(kept)
    rows = [
        _row(name, kept[name], kept[names[0]] if name != names[0] else None, resamples, seed) for name in names
    ]
    overlaps = _joined([part for path in paths if (part := read_overlaps(path)) is not None], common)
    if overlaps is not None:
        rows = [replace(row, without_overlap=summarize_without(kept[row.name], overlaps)) for row in rows]
    return SideBySide(len(common), len(everything - common), tuple(rows), overlaps)


def _joined(parts: Sequence[Overlaps], common: Set[Key]) -> Overlaps | None:
    """An item of the common ones overlaps when it does in one of the runs."""
    if not parts:
        return None
    names = dict.fromkeys(benchmark for benchmark, _ in sorted(common))
    items = {
        name: frozenset(one for part in parts for one in part.items.get(name, ()) if (name, one) in common)
        for name in names
    }
    return Overlaps(sum(part.num_examples for part in parts), sum(part.num_repeating for part in parts), items)


def _labels(paths: Sequence[Path]) -> list[str]:
    """What stands before a run's methods: nothing for one run, else its name, or its path if that is shared."""
    if len(paths) == 1:
        return [""]
    names = [path.name for path in paths]
    return [f"{path.name if names.count(path.name) == 1 else path}/" for path in paths]


def _methods(path: Path) -> dict[str, dict[Key, Prediction]]:
    """The predictions of a run by method and sample; `base` first."""
    methods: dict[str, dict[Key, Prediction]] = {}
    for row in Run.existing(path).table("predictions", Prediction):
        methods.setdefault(row.method, {})[row.benchmark, row.sample_id] = row
    if not methods:
        raise DataError(f"{path}: has no predictions; run `lamer evaluate --out {path}` first")
    ordered = sorted(methods, key=lambda name: name != "base")
    return {name: methods[name] for name in ordered}


def _same_targets(methods: Mapping[str, Sequence[Prediction]]) -> None:
    """Samples of the same name must be the same samples."""
    targets: dict[Key, str] = {}
    for name, rows in methods.items():
        for row in rows:
            if targets.setdefault((row.benchmark, row.sample_id), row.target) != row.target:
                raise DataError(
                    f"{name}: sample {row.sample_id!r} of {row.benchmark} has another right answer than in the "
                    "other runs; evaluate the runs on the same files"
                )


def _row(
    name: str, rows: Sequence[Prediction], reference: Sequence[Prediction] | None, resamples: int, seed: int
) -> MethodRow:
    summary = summarize(rows)
    if reference is None:
        return MethodRow(name, summary, None, {}, {})

    def against(benchmark: str | None) -> Comparison:
        sides = [[row for row in side if benchmark in (None, row.benchmark)] for side in (reference, rows)]
        return compare(*sides, resamples=resamples, seed=seed)

    benchmarks = {benchmark: against(benchmark) for benchmark in summary.benchmarks}
    adjusted = holm([comparison.p_value for comparison in benchmarks.values()])
    return MethodRow(name, summary, against(None), benchmarks, dict(zip(benchmarks, adjusted, strict=True)))


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]


def _line(row: MethodRow, with_overlap: bool) -> str:
    average, overall = row.summary.average, row.overall
    likeliest = average.loglikelihood_accuracy
    cells = [
        row.name,
        f"{average.accuracy:.3f}",
        *([_without(row)] if with_overlap else []),
        f"{average.micro_accuracy:.3f}",
        f"{average.parse_rate:.3f}",
        "-" if likeliest is None else f"{likeliest:.3f}",
    ]
    if overall is None:
        cells += ["reference", "", "", ""]
    else:
        points = f"{100 * overall.difference:+.1f} ({100 * overall.low:+.1f} to {100 * overall.high:+.1f})"
        cells += [points, f"{overall.remedied:,}", f"{overall.broken:,}", f"{overall.p_value:.2g}"]
    return f"| {' | '.join(cells)} |"


def _without(row: MethodRow) -> str:
    return "-" if row.without_overlap is None else f"{row.without_overlap.average.accuracy:.3f}"


def _row_json(row: MethodRow) -> dict[str, Any]:
    return {
        "method": row.name,
        "average": asdict(row.summary.average),
        "without overlap": None if row.without_overlap is None else asdict(row.without_overlap.average),
        "benchmarks": {name: asdict(accuracy) for name, accuracy in row.summary.benchmarks.items()},
        "against reference": None if row.overall is None else asdict(row.overall),
        "against reference by benchmark": {
            name: asdict(comparison) | {"p (Holm)": row.adjusted[name]}
            for name, comparison in row.benchmarks.items()
        },
    }
