"""The files of Table 2 and Table 4.

OUT/table2.md .tex           what a reader wants: scores, and differences between methods
OUT/table2.csv               one row a model and method; shares, all digits
OUT/table2-differences.csv   one row a pair of methods and column
OUT/table2.json              everything, each seed by itself
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from lamer.evaluation.differences import Difference
from lamer.experiments.grids import Grid, markdown_text, to_csv, to_latex, to_markdown
from lamer.experiments.scores import AVERAGE, MIN_SEEDS, MethodScores, ModelScores, OverSeeds, Pair
from lamer.experiments.tables import POOLED, PaperTable
from lamer.tables import write_atomically

METHOD_NOTE = (
    "Intervals: 95 %, a bootstrap over tasks and samples with all seeds of a sample together, widened by how much "
    "the seeds differ beyond the noise of single answers (Student's t over seeds). p: exact sign test "
    "over samples, each with the sum of its changes over the seeds (with one seed: McNemar's exact test). Holm: "
    "over the columns but that of all samples. † marks what is called a difference: three seeds or more of every "
    "model, an interval without zero, and p (Holm) below 0.05."
)


def write(out: Path, table: PaperTable) -> list[Path]:
    """Write the files of a table into OUT; the Markdown comes first."""
    contents = {
        f"{table.name}.md": markdown(table),
        f"{table.name}.tex": latex(table),
        f"{table.name}.csv": to_csv(list(score_rows(table))),
        f"{table.name}-differences.csv": to_csv(list(difference_rows(table))),
        f"{table.name}.json": json.dumps(to_json(table), ensure_ascii=False, indent=1) + "\n",
    }
    for name, text in contents.items():
        write_atomically(out / name, text.encode())
    return [out / name for name in contents]


def markdown(table: PaperTable) -> str:
    """Scores and differences of every model, with notes."""
    parts = [f"# {table.title}\n"]
    for model in table.models:
        parts += [f"## {markdown_text(model.model)}\n", *map(to_markdown, _grids(table, model))]
        parts += [_notes(table, model)]
    if POOLED in table.pairs:
        parts += [f"## {POOLED}\n", *map(to_markdown, _pair_grids(table, POOLED, table.models[0]))]
    parts += [METHOD_NOTE + "\n"]
    return "\n".join(part for part in parts if part)


def latex(table: PaperTable) -> str:
    """The same grids, one float each; notes are in the Markdown."""
    floats = [
        to_latex(grid, f"{table.name}-{model_number}-{number}")
        for model_number, model in enumerate(table.models)
        for number, grid in enumerate(_grids(table, model))
    ]
    if POOLED in table.pairs:
        grids = _pair_grids(table, POOLED, table.models[0])
        floats += [to_latex(grid, f"{table.name}-all-{number}") for number, grid in enumerate(grids)]
    return "% \\usepackage{booktabs}\n\n" + "\n".join(floats)


def _grids(table: PaperTable, model: ModelScores) -> list[Grid]:
    return [_scores(table, model), _details(table, model), *_pair_grids(table, model.model, model)]


def _scores(table: PaperTable, model: ModelScores) -> Grid:
    counts = ", ".join(f"{model.titles[name]} {count:,}" for name, count in model.num_samples.items())
    seeds = f"{len(model.seeds)} seed{'' if len(model.seeds) == 1 else 's'}"
    spread = "; mean ± standard deviation over seeds" if len(model.seeds) > 1 else ""
    beside = "; (paper): as printed, averages recomputed" if model.paper else ""
    rows = []
    for method in table.shown(model):
        rows.append((method.title, *(_percent(method.columns[name]) for name in model.num_samples)))
        printed = model.paper.rows.get(method.name) if model.paper else None
        if printed is not None:
            figures = {**printed.scores, AVERAGE: printed.average}
            rows.append((f"{method.title} (paper)", *(f"{figures[name]:.2f}" for name in model.num_samples)))
    return Grid(
        f"{model.model}: accuracy of free-form answers in percent, {seeds}{spread}{beside}. Samples: {counts}.",
        ("Method", *(model.titles[name] for name in model.num_samples)),
        tuple(rows),
    )


def _details(table: PaperTable, model: ModelScores) -> Grid:
    overlaps = any((model.overlap or {}).values())
    rows = [
        (
            method.title,
            _percent(method.micro),
            f"{model.num_samples[model.total]:,}",
            _percent(method.parse_rate),
            _percent(method.loglikelihood) if method.loglikelihood else "-",
            *([_percent(method.without_overlap) if method.without_overlap else "-"] if overlaps else []),
            _count(method.examples),
            _count(method.steps),
            f"{len(method.seeds)}",
        )
        for method in table.shown(model)
    ]
    known = ("Method", "micro average", "n", "parse rate", "by log-likelihood")
    head = (*known, *(("without overlap",) if overlaps else ()), "examples", "steps", "seeds")
    return Grid(
        f"{model.model}: accuracy with every sample alike; share of replies that held an answer and accuracy of "
        "the likeliest option (means over tasks and benchmarks), in percent; training examples, optimizer steps.",
        head,
        tuple(rows),
    )


def _pair_grids(table: PaperTable, name: str, model: ModelScores) -> list[Grid]:
    """Differences over everything, and by column; none where there is nothing to compare."""
    pairs = table.pairs.get(name, ())
    if not pairs:
        return []
    overall = []
    for pair in pairs:
        found = pair.columns[model.total]
        overall.append(
            (
                *_names(pair, model),
                _points(found) + ("†" if pair.is_called(model.total) else ""),
                f"{100 * min(found.by_seed):+.1f} to {100 * max(found.by_seed):+.1f}",
                f"{found.remedied:,.1f}",
                f"{found.broken:,.1f}",
                f"{found.p_value:.2g}",
            )
        )
    what = f"difference of {model.titles[model.total] if model.total == AVERAGE else 'all samples'} in points"
    grids = [
        Grid(
            f"{name}: {what} with its 95 % interval; lowest and highest seed; samples remedied and broken by a "
            "seed on average.",
            ("Method", "against", "difference", "seeds", "remedied", "broken", "p"),
            tuple(overall),
            2,
        )
    ]
    columns = [column for column in pairs[0].columns if column != model.total]
    if len(columns) > 1:
        rows = [(*_names(pair, model), *(_by_column(pair, column) for column in columns)) for pair in pairs]
        head = ("Method", "against", *(model.titles[column] for column in columns))
        grids.append(Grid(f"{name}: differences in points by column, p (Holm).", head, tuple(rows), 2))
    return grids


def _names(pair: Pair, model: ModelScores) -> tuple[str, str]:
    return model.methods[pair.method].title, model.methods[pair.reference].title


def _by_column(pair: Pair, column: str) -> str:
    mark = "†" if pair.is_called(column) else ""
    return f"{_points(pair.columns[column])}{mark}, p = {pair.adjusted[column]:.2g}"


def _notes(table: PaperTable, model: ModelScores) -> str:
    notes = []
    if len(model.seeds) < MIN_SEEDS:
        notes.append(
            "One seed: no difference is called one, and intervals say nothing of other seeds."
            if len(model.seeds) == 1
            else f"{len(model.seeds)} seeds, fewer than {MIN_SEEDS}: no difference is called one."
        )
    if model.paper:
        wrong = [row for row in model.paper.rows.items() if row[1].is_misprint and row[0] in table.methods]
        notes += [
            f"The paper prints {row.printed_average:.2f} as the average of {name}; its scores give "
            f"{row.average:.2f}."
            for name, row in wrong
        ]
        notes.append("The paper's figures come from its own data and prompts, with one run each.")
    notes.append(_overlap(model))
    for method in table.shown(model):
        if set(method.seeds) != set(model.seeds):
            notes.append(f"{method.title}: seeds {', '.join(map(str, method.seeds))} only.")
        notes += [f"{method.title}: {note}" for note in method.notes]
    return "".join(f"- {markdown_text(note)}\n" for note in notes)


def _overlap(model: ModelScores) -> str:
    if model.overlap is None:
        return "Overlap of the items with training data was not looked for in every seed."
    count = model.num_samples[model.total]
    found = {name: number for name, number in model.overlap.items() if number}
    if not found:
        return f"None of the {count:,} items overlaps with training data."
    places = ", ".join(f"{model.titles.get(name, name)} {number:,}" for name, number in found.items())
    return f"Of {count:,} items these overlap with training data (of the seed with the most): {places}."


def _percent(figure: OverSeeds) -> str:
    spread = figure.deviation
    return f"{100 * figure.mean:.2f}" + ("" if spread is None else f" ± {100 * spread:.2f}")


def _count(figure: OverSeeds) -> str:
    low, high = min(figure.values), max(figure.values)
    return f"{low:,.0f}" if low == high else f"{low:,.0f} to {high:,.0f}"


def _points(found: Difference) -> str:
    return f"{100 * found.difference:+.1f} ({100 * found.low:+.1f} to {100 * found.high:+.1f})"


def score_rows(table: PaperTable) -> Iterator[dict[str, object]]:
    """One row a model and method: shares over seeds (mean, sd, lowest, highest), the paper's in percent."""
    for model in table.models:
        for method in table.shown(model):
            figures = {**method.columns, "micro": method.micro, "parse_rate": method.parse_rate}
            if method.loglikelihood:
                figures["loglikelihood"] = method.loglikelihood
            if method.without_overlap:
                figures["without_overlap"] = method.without_overlap
            figures |= {"examples": method.examples, "steps": method.steps}
            row: dict[str, object] = {
                "model": model.model, "method": method.name, "title": method.title,
                "seeds": len(method.seeds), "samples": model.num_samples[model.total],
            }  # fmt: skip
            for name, figure in figures.items():
                row[name] = figure.mean
                row[f"{name}_sd"] = figure.deviation
                row[f"{name}_low"], row[f"{name}_high"] = min(figure.values), max(figure.values)
            printed = model.paper.rows.get(method.name) if model.paper else None
            if printed is not None:
                for name, value in {**printed.scores, AVERAGE: printed.average}.items():
                    row[f"paper_{name}_percent"] = value
            yield row


def difference_rows(table: PaperTable) -> Iterator[dict[str, object]]:
    """One row a model, pair of methods and column; differences are shares."""
    for name, pairs in table.pairs.items():
        for pair in pairs:
            for column, found in pair.columns.items():
                yield {
                    "model": name, "method": pair.method, "reference": pair.reference, "column": column,
                    "samples": found.num_samples, "seeds": found.num_seeds, "difference": found.difference,
                    "low": found.low, "high": found.high, "remedied": found.remedied, "broken": found.broken,
                    "p": found.p_value, "p_holm": pair.adjusted.get(column), "called": pair.is_called(column),
                }  # fmt: skip


def to_json(table: PaperTable) -> dict[str, Any]:
    """Every figure, with each seed's."""
    return {
        "table": table.name,
        "title": table.title,
        "method": METHOD_NOTE,
        "models": [_model_json(table, model) for model in table.models],
        "differences": {
            name: [
                {
                    "method": pair.method,
                    "reference": pair.reference,
                    "columns": {
                        column: asdict(found)
                        | {"p_holm": pair.adjusted.get(column), "is_called": pair.is_called(column)}
                        for column, found in pair.columns.items()
                    },
                }
                for pair in pairs
            ]
            for name, pairs in table.pairs.items()
        },
    }


def _model_json(table: PaperTable, model: ModelScores) -> dict[str, Any]:
    return {
        "model": model.model,
        "hub_id": model.hub_id,
        "seeds": list(model.seeds),
        "samples": dict(model.num_samples),
        "total": model.total,
        "overlap": None if model.overlap is None else dict(model.overlap),
        "methods": [_method_json(model, method) for method in table.shown(model)],
    }


def _method_json(model: ModelScores, method: MethodScores) -> dict[str, Any]:
    printed = model.paper.rows.get(method.name) if model.paper else None
    return {
        "method": method.name,
        "title": method.title,
        "seeds": list(method.seeds),
        "accuracy": {name: list(figure.values) for name, figure in method.columns.items()},
        "micro": list(method.micro.values),
        "parse_rate": list(method.parse_rate.values),
        "loglikelihood": list(method.loglikelihood.values) if method.loglikelihood else None,
        "without_overlap": list(method.without_overlap.values) if method.without_overlap else None,
        "examples": [int(value) for value in method.examples.values],
        "steps": [int(value) for value in method.steps.values],
        "notes": list(method.notes),
        "paper_percent": None
        if printed is None
        else {**printed.scores, AVERAGE: printed.average, "printed_average": printed.printed_average},
    }
