"""`lamer reproduce table3`: how well each probe finds what the model gets wrong, and what facts did to answers.

    OUT/seed-0/ seed-1/ ...    runs up to `diagnose` (resumable like any run; later stages may be added)
    OUT/table3.json            every figure
    OUT/table3.csv             the probes, one row for each truth and probe
    OUT/table3.md              what is printed
    OUT/table3.tex             the probes, in LaTeX

Needs labels, but no teacher and no training. On the embedded world there is a second truth beside "the model
answers wrong": the fact behind the query is not one that it was taught well.
"""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lamer.config import Config, load_config
from lamer.diagnosis.effects import Effects, tabulate
from lamer.diagnosis.probes import METRICS, Case, Quality, cases, highest_significant, measure_all, probes_of
from lamer.errors import DataError
from lamer.experiments.grids import Grid
from lamer.experiments.grids import to_latex as grid_to_latex
from lamer.experiments.paper import paper_table3
from lamer.experiments.states import states_of
from lamer.pipeline import STAGES, Stage, execute
from lamer.records import Diagnosis, Query
from lamer.run import CONFIG, Run
from lamer.tables import write_atomically

Truth = Callable[[Case], bool]
WRONG = "answers wrong"
NOT_KNOWN = "fact not known"
RESAMPLES = 1000
PAPER_MODEL = "mistralai/Mistral-7B-Instruct-v0.2"
_ECARE = re.compile(r"e-?care", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Table3:
    """The figures of one reproduction."""

    names: tuple[str, ...]
    """The runs that were averaged."""
    num_queries: int
    """Labelled queries with options and a diagnosed fact; the others are left out."""
    num_left_out: int
    edge: float
    """Threshold of RE in nats."""
    level: float
    """False discovery rate of calibrated RE."""
    qualities: Mapping[str, Sequence[Quality]]
    """By truth."""
    shares: Mapping[str, float]
    """Share of queries for which each truth holds."""
    rules: Mapping[str, Any]
    """Deficiencies by either rule and placebos, of the first run."""
    effects: Effects
    """Of the first run."""
    is_papers: bool = False
    """Whether model and queries are the paper's (Mistral, e-CARE): its figures then stand beside ours."""

    def to_json(self) -> dict[str, Any]:
        """All figures as JSON values; an interval is [value, low, high]."""
        return {
            "runs": list(self.names),
            "queries": self.num_queries,
            "left_out": self.num_left_out,
            "threshold_nats": self.edge,
            "false_discovery_rate": self.level,
            "shares": dict(self.shares),
            "probes": {truth: [row.to_json() for row in rows] for truth, rows in self.qualities.items()},
            "rules": dict(self.rules),
            "effects": self.effects.to_json(),
        } | ({"paper_percent": {k: list(v) for k, v in paper_table3().items()}} if self.is_papers else {})


def reproduce(
    out: Path | None,
    *,
    seeds: int = 3,
    run: Path | None = None,
    config: Path | None = None,
    assignments: Sequence[str] = (),
) -> Table3:
    """Make the table and write its files.

    Args:
        out: Where files go; None: into `run`.
        seeds: Runs that are averaged; they differ in their placebo facts and sampled responses.
        run: A diagnosed run to read instead of making any.
        config: Settings of the runs to make, with labelled queries; None: the embedded world.
        assignments: `key=value` texts that change settings.

    Raises:
        DataError: If no diagnosed query has a label.
        LamerError: What the stages raise.
    """
    truths: dict[str, Truth] = {WRONG: lambda case: case.is_wrong}
    if run is not None:
        runs = [Run.existing(run)]
    elif config is not None:
        runs = list(diagnosed(out or Path(), (_with_seed(config, seed, assignments) for seed in range(seeds))))
    else:
        runs = list(diagnosed(out or Path(), _embedded(out or Path(), seeds, assignments)))
        truths = truths_of(runs[0])
    table = summarize(runs, truths)
    write(out or runs[0].path, table)
    return table


def _with_seed(path: Path, seed: int, assignments: Sequence[str]) -> Config:
    return load_config(path, [*assignments, f"seed={seed}"])


def _embedded(out: Path, seeds: int, assignments: Sequence[str]) -> Iterator[Config]:
    """Settings of the preset `demo` on the shipped world, for each seed."""
    from lamer.experiments.demo import demo_config
    from lamer.microworld import checkpoint_path, shipped_world

    shipped_world().write(out / "world")
    for seed in range(seeds):
        yield demo_config(out, checkpoint_path(), "", [*assignments, f"seed={seed}"])


def diagnosed(out: Path, configs: Iterator[Config], stages: Sequence[Stage] = STAGES) -> Iterator[Run]:
    """A diagnosed run for each configuration in OUT/seed-S; what is done already is not done again.

    Args:
        out: Folder of the runs.
        configs: Their settings.
        stages: The pipeline that the runs belong to.
    """
    for config in configs:
        with Run.open(out / f"seed-{config.seed}") as run:
            for _ in execute(run, config, until="diagnose", stages=stages):
                pass
        yield run


def truths_of(run: Run) -> dict[str, Truth]:
    """What probes are held against: a wrong answer, and on the embedded world a fact that is not known."""
    truths: dict[str, Truth] = {WRONG: lambda case: case.is_wrong}
    states = states_of(run, (query.id for query in run.table("queries", Query)))
    if states is not None:
        truths[NOT_KNOWN] = lambda case: states[case.query_id] != "known"
    return truths


def summarize(runs: Sequence[Run], truths: Mapping[str, Truth]) -> Table3:
    """The figures of diagnosed runs of the same queries.

    With the paper's model and some queries of e-CARE they are of these alone, as the paper's are.

    Raises:
        DataError: If no diagnosed query has a label.
    """
    config = load_config(runs[0].path / CONFIG)
    queries = list(runs[0].table("queries", Query))
    answers = {query.id: query.answer_index for query in queries if query.answer_index is not None}
    found = [{case.query_id: case for case in cases(run.table("diagnoses", Diagnosis), answers)} for run in runs]
    shared = [name for name in found[0] if all(name in other for other in found)]
    if not shared:
        raise DataError(
            f"{runs[0].path}: no diagnosed query with options has a label; give queries with answers, or run "
            "`lamer diagnose` first"
        )
    ecare = {query.id for query in queries if _ECARE.search(query.source)}
    is_papers = config.model.name.lower() == PAPER_MODEL.lower() and not ecare.isdisjoint(shared)
    if is_papers:
        shared = [name for name in shared if name in ecare]
        answers = {name: index for name, index in answers.items() if name in ecare}
    diagnoses = (row for row in runs[0].table("diagnoses", Diagnosis) if not is_papers or row.query_id in ecare)
    rows = [[by_id[name] for name in shared] for by_id in found]
    highest = [highest_significant(run.table("diagnoses", Diagnosis), config.diagnose.level) for run in runs]
    qualities, shares = {}, {}
    for name, truth in truths.items():
        golds = [[truth(case) for case in of_run] for of_run in rows]
        by_run = [
            probes_of(of_run, gold, edge=config.diagnose.edge, highest_p=p)
            for of_run, gold, p in zip(rows, golds, highest)
        ]
        qualities[name] = measure_all(list(zip(*by_run)), golds, resamples=RESAMPLES)
        shares[name] = sum(golds[0]) / len(golds[0])
    counts = runs[0].manifest()["diagnose"].counts
    return Table3(
        names=tuple(run.path.resolve().name for run in runs),
        num_queries=len(shared),
        num_left_out=len(queries) - len(shared),
        edge=config.diagnose.edge,
        level=config.diagnose.level,
        qualities=qualities,
        shares=shares,
        rules={name: counts.get(name, {}) for name in ("deficiencies_by_rule", "placebos")},
        effects=tabulate(diagnoses, answers),
        is_papers=is_papers,
    )


def write(out: Path, table: Table3, name: str = "table3") -> list[Path]:
    """Write the table as Markdown, LaTeX, CSV and JSON, under this name."""
    out.mkdir(parents=True, exist_ok=True)
    contents = {
        "md": to_markdown(table),
        "tex": to_latex(table, name),
        "csv": to_csv(table),
        "json": json.dumps(table.to_json(), ensure_ascii=False, indent=1) + "\n",
    }
    files = [out / f"{name}.{kind}" for kind in contents]
    for file, text in zip(files, contents.values()):
        write_atomically(file, text.encode())
    return files


def to_csv(table: Table3) -> str:
    """One row for each truth and probe; empty where a figure is not defined."""
    sink = io.StringIO()
    writer = csv.writer(sink, lineterminator="\n")
    ends = ("", "_low", "_high")
    writer.writerow(["truth", "probe", "label_free", *(f"{name}{end}" for name in METRICS for end in ends)])
    for truth, rows in table.qualities.items():
        for row in rows:
            figures = [
                value
                for name in METRICS
                for value in (row.metrics[name].value, row.metrics[name].low, row.metrics[name].high)
            ]
            shown = ["" if value is None else f"{value:.6g}" for value in figures]
            writer.writerow([truth, row.name, str(row.is_label_free).lower(), *shown])
    return sink.getvalue()


_HEADS = ("flagged", "precision", "recall", "F1", "AUROC", "AUPRC", "precision, as many as RE")


PAPER_CAPTION = (
    "As printed in the paper, in percent; golden label: answers of a chain of thought; random: as many as are "
    "wrong. The paper counts e-CARE's 21,324 queries, of which 17,060 have public labels."
)


def to_latex(table: Table3, label: str) -> str:
    """The probes for each truth, and the paper's where they stand beside ours."""
    grids = [
        Grid(
            f"Probes of what the model gets wrong; truth: {truth} ({table.shares[truth]:.1%} of "
            f"{table.num_queries:,} queries), {len(table.names)} run(s), 95 % intervals.",
            ("Probe", *_HEADS),
            tuple(
                (row.name + ("" if row.is_label_free else " (label)"), *(_shown(row, name) for name in METRICS))
                for row in rows
            ),
        )
        for truth, rows in table.qualities.items()
    ]
    if table.is_papers:
        printed = tuple((name, *(f"{value:.2f}" for value in row)) for name, row in paper_table3().items())
        grids.append(Grid(PAPER_CAPTION, ("Probe", "precision", "recall", "F1"), printed))
    return "\n".join(grid_to_latex(grid, f"{label}-{number}") for number, grid in enumerate(grids))


def to_markdown(table: Table3) -> str:
    """The tables as Markdown, with 95 % bootstrap intervals over queries."""
    num_runs = len(table.names)
    lines = [
        f"{table.num_queries} labelled queries{' of e-CARE' if table.is_papers else ''} "
        f"({table.num_left_out} left out), "
        f"{num_runs} run{'' if num_runs == 1 else 's'}; RE flags at {table.edge:g} nats, "
        f"calibrated RE at fdr({table.level:g})."
    ]
    for truth, rows in table.qualities.items():
        lines += ["", f"Truth: {truth} ({table.shares[truth]:.1%} of the queries)", ""]
        body = {
            row.name + ("" if row.is_label_free else " (label)"): [_shown(row, name) for name in METRICS]
            for row in rows
        }
        lines += _rows("probe", _HEADS, body)
    if table.is_papers:
        lines += ["", PAPER_CAPTION, ""]
        printed = {name: [f"{value:.2f}" for value in row] for name, row in paper_table3().items()}
        lines += _rows("probe", ("precision", "recall", "F1"), printed)
    rules = table.rules["deficiencies_by_rule"]
    whole = " (of all queries)" if table.is_papers else ""
    lines += [
        "",
        f"Deficient pairs by either rule{whole}: " + ", ".join(f"{k} {_cell(v)}" for k, v in rules.items()),
    ]
    placebos = table.rules["placebos"]
    lines += [f"Placebo facts{whole}: " + ", ".join(f"{k} {_cell(v)}" for k, v in placebos.items())]
    for title, grid in table.effects.to_json().items():
        body = {tier: [_cell(count) for count in row.values()] for tier, row in grid.items()}
        lines += [
            "",
            f"Pairs by tier and {title[:-1]}",
            "",
            *_rows("tier", tuple(next(iter(grid.values()))), body),
        ]
    return "\n".join(lines) + "\n"


def _rows(head: str, names: Sequence[str], body: Mapping[str, Sequence[str]]) -> list[str]:
    rows = [f"| {name} | {' | '.join(cells)} |" for name, cells in body.items()]
    return [f"| {head} | {' | '.join(names)} |", "|---" * (len(names) + 1) + "|", *rows]


def _shown(row: Quality, name: str) -> str:
    found = row.metrics[name]
    if found.value is None:
        return "-"
    if found.low is None or found.high is None:
        return f"{found.value:.3f}"
    return f"{found.value:.3f} ({found.low:.3f} to {found.high:.3f})"


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    return f"{value:.4g}" if isinstance(value, float) else str(value)
