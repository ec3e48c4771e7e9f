"""Methods over several worlds and seeds: what holds on all of them, with intervals.

    python -m lamer.microworld.pretrain --seed 31 --out worlds/31      # for each world, some minutes
    python benchmarks/worlds.py --world 31:worlds/31 --world 32:worlds/32 --seeds 5 --out runs/worlds
        [--methods benchmarks/studies/methods.yaml] [--wrong 0.15] [--read] [--set key=value]

Every world has its own model and is a run of its own for each seed, in OUT/world-31/seed-0 and so on. Prints
Markdown: accuracy on held-out questions by knowledge state (mean over worlds and seeds, with the range), remedied
and broken questions, and differences with 95 % intervals over questions and seeds. A method called X-SOMETHING is
compared with X. Continues where it was stopped; several processes may work on different worlds, and `--read`
prints what is there.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import mean

from lamer.experiments.experiment import Experiment, load_methods
from lamer.experiments.results import SeedRun, seed_runs
from lamer.experiments.running import embedded_subject, run_experiment
from lamer.experiments.scores import ModelScores, Pair, pool, read_scores
from lamer.microworld.world import World
from lamer.run import git_commit, versions

STUDIES = Path(__file__).parent / "studies"
PAIRS = (
    ("default", "naive"), ("default", "base"), ("default", "lamer"), ("lamer", "naive"), ("lamer", "base"),
    ("default", "llm2llm"), ("lamer", "llm2llm"), ("lamer", "single"), ("lamer", "single-steps"),
    ("lamer", "select-random"), ("lamer", "select-entropy"), ("lamer", "select-perplexity"), ("naive", "auggpt"),
)  # fmt: skip


def name_of(seed: int, wrong: float) -> str:
    return f"world-{seed}" + (f"-wrong-{wrong:g}" if wrong else "")


def make(options: argparse.Namespace) -> None:
    methods = load_methods(options.methods)
    experiment = Experiment(methods=methods, seeds=options.seeds, budget_of=methods.get("default"))
    for text in options.world:
        seed, _, folder = text.partition(":")
        world = World.build(int(seed), wrong=options.wrong)
        name = name_of(int(seed), options.wrong)
        with embedded_subject(
            options.out, options.assignments, world=world, checkpoint=Path(folder), name=name
        ) as subject:
            for found in run_experiment(experiment, options.out, subject):
                print(f"{name}, seed {found.seed}: done", flush=True)


def wanted(options: argparse.Namespace) -> Iterator[SeedRun]:
    names = {name_of(int(text.partition(":")[0]), options.wrong) for text in options.world}
    for run in seed_runs(options.out):
        entry = run.run.manifest().get("evaluate")
        if run.model in names and entry is not None and entry.status == "complete":
            yield run


def score_table(models: Sequence[ModelScores]) -> list[str]:
    columns = list(models[0].num_samples)
    lines = [
        "| method | examples | steps | " + " | ".join(models[0].titles[column] for column in columns) + " |",
        "|---" * (len(columns) + 3) + "|",
    ]
    for name in models[0].methods:
        shown = [model.methods[name] for model in models]
        cells = [
            f"{mean(row.examples.mean for row in shown):,.0f}",
            f"{mean(row.steps.mean for row in shown):,.0f}",
        ]
        for column in columns:
            values = [value for row in shown for value in row.columns[column].values]
            cells.append(f"{mean(values):.3f} ({min(values):.3f} to {max(values):.3f})")
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return lines


def difference_table(models: Sequence[ModelScores], pairs: Sequence[tuple[str, str]]) -> list[str]:
    columns = list(models[0].num_samples)
    lines = [
        "| difference, points | "
        + " | ".join(models[0].titles[column] for column in columns)
        + " | remedied | broken |",
        "|---" * (len(columns) + 3) + "|",
    ]
    for after, before in pairs:
        found: Pair = pool(models, after, before)
        cells = [
            f"{100 * found.columns[column].difference:+.1f} ({100 * found.columns[column].low:+.1f} to "
            f"{100 * found.columns[column].high:+.1f})"
            for column in columns
        ]
        total = found.columns[models[0].total]
        cells += [f"{total.remedied:.0f}", f"{total.broken:.0f}"]
        lines.append(f"| {after} − {before} | " + " | ".join(cells) + " |")
    return lines


def pairs_of(names: Sequence[str]) -> list[tuple[str, str]]:
    fixed = [pair for pair in PAIRS if set(pair) <= set(names)]
    variants = [(name, stem) for name in names if "-" in name and (stem := name.partition("-")[0]) in names]
    return [*fixed, *(pair for pair in variants if pair not in fixed)]


def machine() -> str:
    return f"{platform.machine()}, {os.cpu_count()} cores, commit {git_commit()}, {json.dumps(versions())}"


def report(options: argparse.Namespace) -> str:
    runs = list(wanted(options))
    models = read_scores(runs)
    seeds = {model.model: list(model.seeds) for model in models}
    lines = [f"seeds {seeds}, wrong {options.wrong:g}, {options.assignments}", "", *score_table(models), ""]
    lines += [*difference_table(models, pairs_of(list(models[0].methods))), "", machine()]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--world", action="append", required=True, help="SEED:FOLDER of the model taught that world"
    )
    parser.add_argument("--wrong", type=float, default=0.0, help="share of wrongly believed facts of the worlds")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--methods", type=Path, default=STUDIES / "methods.yaml")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--read", action="store_true", help="print what is there")
    parser.add_argument("--set", action="append", default=[], dest="assignments")
    options = parser.parse_args()
    if not options.read:
        make(options)
    print(report(options))


if __name__ == "__main__":
    main()
