"""Is a second round worth more than the same examples at once? Two rounds against one, on the embedded world.

    python -m lamer.microworld.pretrain --seed 31 --out worlds/31      # for each world, some minutes
    python benchmarks/rounds.py --world 31:worlds/31 --world 32:worlds/32 --seeds 5 --out runs/rounds
        [--read] [--set key=value]

For each world and seed five methods, by lamer's own recipe:

    base      the model as it is
    one       one round
    longer    one round's examples, trained for as many steps as `two`
    more      one round with as many examples as `two`: larger quotas for the same deficiencies
    two       two rounds

Prints Markdown like worlds.py, and what each round did to the deficiencies. Continues where it was stopped.
"""

from __future__ import annotations

import argparse
import json
import random
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from statistics import mean

from lamer.config import Config, load_config, overlay
from lamer.evaluation.stage import evaluate_methods
from lamer.experiments.results import METHODS, MethodResult, SeedRun, seed_runs
from lamer.experiments.running import Subject, embedded_subject
from lamer.experiments.scores import read_scores
from lamer.microworld.world import World
from lamer.pipeline import execute
from lamer.records import Deficiency, Example
from lamer.rounds.result import ADAPTER, read_rounds
from lamer.run import Run
from lamer.tables import write_atomically
from lamer.training.replay import num_replayed, replay_examples
from lamer.training.trainer import train_adapter
from worlds import difference_table, machine, score_table

TITLES = {
    "base": "Base",
    "one": "one round",
    "longer": "one round, as many steps",
    "more": "one round, as many examples",
    "two": "two rounds",
}
PAIRS = (
    ("two", "one"), ("two", "longer"), ("two", "more"), ("more", "one"), ("longer", "one"), ("one", "base"),
    ("two", "base"),
)  # fmt: skip


def changed(config: Config, changes: dict[str, object]) -> Config:
    return load_config(overlay(config.model_dump(), changes), preset=config.preset)


def kept(run: Run) -> list[Example]:
    return [row for row in run.table("examples", Example) if row.status == "kept"]


def through(run: Run, config: Config, until: str) -> None:
    for _ in execute(run, config, until=until):
        pass


def make(out: Path, subject: Subject, seed: int) -> None:
    """All methods of one world and seed; what is there already is kept."""
    config = changed(subject.config, {"seed": seed, "rounds": 2})
    with Run.open(out / subject.name / f"seed-{seed}") as run:
        if (run.path / METHODS).exists():
            return
        through(run, config, "rounds")
        last = [one for one in run.rounds() if "train" in one.manifest()][-1]
        steps = last.manifest()["train"].counts["steps"]
        wanted = sum(len(kept(one)) for one in last.so_far())
        adapters = {"base": None, "one": run.path / ADAPTER, "two": last.path / ADAPTER}
        results = [MethodResult("base", TITLES["base"], 0, 0), result("one", run), result("two", last)]
        units = list(run.table("deficiencies", Deficiency))
        tiers = {unit.id: unit.tier for unit in units}
        times = -(-wanted // sum(unit.quota for unit in units)) + 1  # one more, for what the teacher cannot give
        examples = at_once(out / subject.name / f"more-{seed}", config, wanted, times)
        for name, rows in (("longer", kept(run)), ("more", examples)):
            training = changed(config, {"train": {"steps": steps}})
            folder = run.path / "methods" / name
            replay = replay_examples(run, training, num_replayed(training, len(rows)))
            found = train_adapter(rows, training, folder / "training", folder / ADAPTER, tiers, replay=replay)
            adapters[name] = folder / ADAPTER
            results.append(MethodResult(name, TITLES[name], found.num_examples, found.num_steps, len(replay)))
        evaluate_methods(run, config, adapters)
        write_atomically(run.path / METHODS, json.dumps([asdict(row) for row in results], indent=1).encode())


def result(name: str, run: Run) -> MethodResult:
    counts = run.manifest()["train"].counts
    return MethodResult(name, TITLES[name], counts["examples"], counts["steps"], counts.get("replayed", 0))


def at_once(path: Path, config: Config, wanted: int, times: int) -> list[Example]:
    """`wanted` examples for the deficiencies of one round, drawn from those of so many times larger quotas."""
    quota = {tier: times * count for tier, count in config.select.quota.items()}
    with Run.open(path) as run:
        through(run, changed(config, {"rounds": 1, "select": {"quota": quota}}), "synthesize")
        rows = sorted(kept(run), key=lambda row: row.id)
    return random.Random(f"more {config.seed}").sample(rows, min(wanted, len(rows)))


def finished(out: Path) -> Iterator[SeedRun]:
    for found in seed_runs(out):
        if (found.run.path / METHODS).exists():
            yield found


def rounds_table(runs: list[SeedRun]) -> list[str]:
    """Means over worlds and seeds of what each round did, measured without labels."""
    lines = [
        "| round | examples | deficiencies before | after | treated pairs before, nats | after | against "
        "untreated | known queries answered otherwise |",
        "|---" * 8 + "|",
    ]
    found = [read_rounds(run.run.path) or {"rounds": []} for run in runs]
    for number in (1, 2):
        rows = [row for one in found for row in one["rounds"] if row["number"] == number]
        if not rows:
            continue
        deficient = [
            mean(sum(count for tier, count in row[side].items() if tier != "below") for row in rows)
            for side in ("tiers_before", "tiers_after")
        ]
        treated = [mean(row["relative_entropy"]["treated"][side] for row in rows) for side in ("before", "after")]
        effects = [row["effect"]["difference"] for row in rows if row["effect"] is not None]
        lost = [row["forgetting"]["changed"] / max(row["forgetting"]["known"], 1) for row in rows]
        lines.append(
            f"| {number} ({len(rows)} runs) | {mean(row['examples'] for row in rows):,.0f} | "
            f"{deficient[0]:,.0f} | {deficient[1]:,.0f} | {treated[0]:.2f} | {treated[1]:.2f} | "
            f"{mean(effects):+.2f} ({min(effects):+.2f} to {max(effects):+.2f}) | {100 * mean(lost):.1f} % |"
        )
    return lines


def report(out: Path) -> str:
    runs = list(finished(out))
    models = read_scores(runs)
    seeds = {model.model: list(model.seeds) for model in models}
    lines = [f"seeds {seeds}", "", *score_table(models), ""]
    lines += [*difference_table(models, PAIRS), "", *rounds_table(runs), "", machine()]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--world", action="append", default=[], help="SEED:FOLDER of the model taught that world")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--read", action="store_true", help="print what is there")
    parser.add_argument("--set", action="append", default=[], dest="assignments")
    options = parser.parse_args()
    for text in [] if options.read else options.world:
        number, _, folder = text.partition(":")
        with embedded_subject(
            options.out, options.assignments, world=World.build(int(number)), checkpoint=Path(folder),
            name=f"world-{number}",
        ) as subject:  # fmt: skip
            for seed in range(options.seeds):
                make(options.out, subject, seed)
                print(f"world-{number}, seed {seed}: done", flush=True)
    print(report(options.out))


if __name__ == "__main__":
    main()
