"""Methods over several worlds: what holds on all of them, with intervals.

    python -m lamer.microworld.pretrain --seed 11 --out worlds/11      # for each world, some minutes
    python benchmarks/worlds.py --world 11:worlds/11 --world 12:worlds/12 --out runs/worlds [--ablations]

For each world: diagnosis, synthesis, training of every method, evaluation on held-out questions. Prints Markdown:
accuracy by knowledge state (mean and range over the worlds), remedied and broken samples, and differences with
95 % intervals of the paired bootstrap, clustered by world. Continues where it was stopped.
"""

from __future__ import annotations

import argparse
import json
import platform
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from lamer.evaluation.statistics import compare
from lamer.experiments.demo import run_demo
from lamer.experiments.methods import ABLATION_STAGES, ABLATIONS, DEMO_STAGES
from lamer.experiments.states import ALL, by_state
from lamer.microworld.world import World
from lamer.records import Prediction
from lamer.run import Run, git_commit, versions

STATES = (ALL, "known", "weak", "absent", "wrong")
PAIRS = (("lamer", "naive"), ("paper", "naive-small"), ("lamer", "base"), ("paper", "base"), ("lamer", "paper"))


def predictions(out: Path, world: World) -> list[Prediction]:
    """All predictions of a world; samples are told apart, and clustered, by the world's seed."""
    return [
        replace(row, task=str(world.seed), sample_id=f"{world.seed}/{row.sample_id}")
        for row in Run.existing(out).table("predictions", Prediction)
    ]


def loglikelihood(rows: Sequence[Prediction]) -> list[Prediction]:
    """The same with the likeliest option as the answer."""
    return [replace(row, correct=row.loglikelihood_answer == row.target) for row in rows]


def state_table(rows: Sequence[Prediction], state_of: dict[str, str], seeds: Sequence[int]) -> list[str]:
    tables = [by_state([row for row in rows if row.task == str(seed)], state_of) for seed in seeds]
    states = [state for state in STATES if state in tables[0]["base"]]
    lines = ["| method | " + " | ".join(states) + " | remedied | broken |", "|---" * (len(states) + 3) + "|"]
    for method in (item.name for item in ABLATIONS if item.name in tables[0]):
        cells = []
        for state in states:
            values = [table[method][state].accuracy for table in tables]
            cells.append(f"{sum(values) / len(values):.3f} ({min(values):.3f} to {max(values):.3f})")
        changes = [sum(getattr(table[method][ALL], name) for table in tables) for name in ("remedied", "broken")]
        lines.append(f"| {method} | " + " | ".join(cells) + f" | {changes[0]} | {changes[1]} |")
    return lines


def difference_table(
    rows: Sequence[Prediction], state_of: dict[str, str], pairs: Sequence[tuple[str, str]]
) -> list[str]:
    present = {row.method for row in rows}
    states = [state for state in STATES if state == ALL or state in state_of.values()]
    lines = ["| difference, points | " + " | ".join(states) + " |", "|---" * (len(states) + 1) + "|"]
    for after, before in pairs:
        if not {after, before} <= present:
            continue
        cells = []
        for state in states:
            sides = [
                [r for r in rows if r.method == method and state in (ALL, state_of[r.sample_id])]
                for method in (before, after)
            ]
            found = compare(*sides, resamples=2000, seed=0)
            cells.append(f"{100 * found.difference:+.1f} ({100 * found.low:+.1f} to {100 * found.high:+.1f})")
        lines.append(f"| {after} − {before} | " + " | ".join(cells) + " |")
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--world", action="append", required=True, help="SEED:FOLDER of the model taught that world"
    )
    parser.add_argument("--wrong", type=float, default=0.0, help="share of wrongly believed facts of the worlds")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--ablations", action="store_true", help="more orders, with and without replay")
    parser.add_argument("--set", action="append", default=[], dest="assignments")
    options = parser.parse_args()

    rows: list[Prediction] = []
    state_of: dict[str, str] = {}
    seeds = []
    for text in options.world:
        seed, _, folder = text.partition(":")
        world = World.build(int(seed), wrong=options.wrong)
        out = options.out / f"{seed}-{options.wrong}"
        start = time.monotonic()
        stages = ABLATION_STAGES if options.ablations else DEMO_STAGES
        run_demo(out, [f"seed={seed}", *options.assignments], world=world, checkpoint=Path(folder), stages=stages)
        print(f"world {seed}: {time.monotonic() - start:.0f} s\n", flush=True)
        found = predictions(out, world)
        rows += found
        state_of |= {row.sample_id: world.state_of(row.sample_id.partition("/")[2]) for row in found}
        seeds.append(int(seed))

    report = [f"worlds {seeds}, wrong {options.wrong}, {options.assignments}", "", "free-form answers", ""]
    report += [*state_table(rows, state_of, seeds), "", *difference_table(rows, state_of, PAIRS), ""]
    likeliest = loglikelihood(rows)
    report += ["log-likelihood answers", "", *state_table(likeliest, state_of, seeds), ""]
    report += [*difference_table(likeliest, state_of, PAIRS), ""]
    report.append(f"{platform.machine()}, commit {git_commit()}, {json.dumps(versions())}")
    text = "\n".join(report)
    print(text)
    (options.out / "results.md").write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
