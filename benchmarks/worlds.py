"""Methods over several worlds and seeds: what holds on all of them, with intervals.

    python -m lamer.microworld.pretrain --seed 31 --out worlds/31      # for each world, some minutes
    python benchmarks/worlds.py --world 31:worlds/31 --world 32:worlds/32 --seeds 5 --out runs/worlds
        [--methods benchmarks/studies/methods.yaml] [--wrong 0.15] [--read] [--set key=value]

Every world has its own model and is a run of its own for each seed, in OUT/world-31/seed-0 and so on. Prints
Markdown: accuracy on held-out questions by knowledge state (mean over worlds and seeds, with the range), share of
replies with an answer, accuracy of the likeliest option, remedied and broken questions, and differences with 95 %
intervals over questions and seeds. Every method is compared with the base, one called X-SOMETHING with X.
Continues where it was stopped; several processes may work on different worlds, and `--read` prints what is there.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from statistics import mean

from lamer.experiments.experiment import Experiment, load_experiment
from lamer.experiments.results import SeedRun, seed_runs
from lamer.experiments.running import embedded_subject, run_experiment
from lamer.experiments.scores import ModelScores, OverSeeds, Pair, pool, read_scores
from lamer.microworld.world import World
from lamer.run import git_commit, versions

STUDIES = Path(__file__).parent / "studies"
BASE = "base"
PAIRS = (
    ("default", "naive"), ("default", "lamer"), ("lamer", "naive"), ("default", "llm2llm"), ("lamer", "llm2llm"),
    ("lamer", "llm2llm-steps"), ("lamer", "single"), ("lamer", "single-steps"), ("lamer", "select-random"),
    ("lamer", "select-entropy"), ("lamer", "select-perplexity"), ("naive", "auggpt"), ("default-replay0", "lamer"),
    ("default-replay0-steps", "lamer"), ("default", "lamer-self30"),
)  # fmt: skip
"""What is compared besides every method with the base, and every X-SOMETHING with X."""


def name_of(seed: int, wrong: float) -> str:
    return f"world-{seed}" + (f"-wrong-{wrong:g}" if wrong else "")


def make(options: argparse.Namespace) -> None:
    methods = load_experiment(options.methods).methods
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
    heads = [*(models[0].titles[column] for column in columns), "parsed", "likeliest option"]
    lines = ["| method | examples | steps | " + " | ".join(heads) + " |", "|---" * (len(heads) + 3) + "|"]
    for name in models[0].methods:
        shown = [model.methods[name] for model in models]
        cells = [_over(row.examples for row in shown), _over(row.steps for row in shown)]
        for column in columns:
            values = [value for row in shown for value in row.columns[column].values]
            cells.append(f"{mean(values):.3f} ({min(values):.3f} to {max(values):.3f})")
        cells.append(f"{mean(value for row in shown for value in row.parse_rate.values):.3f}")
        likeliest = [value for row in shown if row.loglikelihood for value in row.loglikelihood.values]
        cells.append(f"{mean(likeliest):.3f}" if likeliest else "-")
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return lines


def _over(counts: Iterable[OverSeeds]) -> str:
    values = [value for over in counts for value in over.values]
    return f"{mean(values):,.0f}" + (
        f" ({min(values):,.0f} to {max(values):,.0f})" if len(set(values)) > 1 else ""
    )


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
    against_base = [(name, BASE) for name in names if BASE in names and name != BASE]
    fixed = [pair for pair in PAIRS if set(pair) <= set(names)]
    variants = [(name, stem) for name in names if "-" in name and (stem := name.partition("-")[0]) in names]
    return list(dict.fromkeys([*fixed, *against_base, *variants]))


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
