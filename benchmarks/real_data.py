"""The main job on real text: e-CARE queries, a real corpus, a local model, a teacher over HTTP.

    python benchmarks/small_model.py ... --out models/small
    python benchmarks/real_data.py --data DATA --model models/small --out runs/real
        [--retrieve hybrid --encoder DIR] [--kill diagnose synthesize train] [--same-as runs/other]

DATA holds ecare/, facts/ and benchmarks/comm.jsonl. Prints rows, seconds and peak memory of every stage. With
`--kill`, the run is killed (SIGKILL) in those stages and started again each time; `--same-as` compares its tables
with those of another run. The teacher is the embedded one behind a local server: it knows nothing of the real
world, so what it writes exercises the pipeline and repairs little.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import yaml

from lamer.microworld import MicroworldTeacher, shipped_world
from lamer.records import TABLES
from lamer.run import Run, git_commit, versions
from lamer.testing import TeacherServer

COMMAND = [sys.executable, "-c", "from lamer.cli import main; main()"]
KILL_AFTER_S = 3.0
"""Seconds that a stage runs before it is killed."""


def settings(options: argparse.Namespace, base_url: str) -> dict[str, Any]:
    data: Path = options.data
    return {
        "preset": "default",
        "model": {"name": str(options.model)},
        "queries": {"path": [str(data / "ecare" / "train.jsonl.gz")], "format": "ecare", "limit": options.queries},
        "facts": {"path": [str(path) for path in sorted((data / "facts").iterdir())]},
        "retrieve": {"method": options.retrieve, "encoder": str(options.encoder), "query_instruction": ""},
        "diagnose": {"target": options.target, "normalization": "sum"},
        "select": {"per_tier": 60},
        "synthesize": {"teacher": {"base_url": base_url, "model": "embedded-teacher"}},
        "train": {
            "lora": {"rank": 16, "alpha": 16},
            "learning_rate": 5e-4,
            "micro_batch_size": 32,
            "save_steps": 10,
        },
        "evaluate": {"path": [str(data / "benchmarks" / "comm.jsonl")], "max_new_tokens": 48},
    }


def run(config: Path, out: Path, kill_in: str | None = None) -> int:
    """Start the run; kill it some seconds into stage `kill_in`."""
    process = subprocess.Popen([*COMMAND, "run", str(config), "--out", str(out)], env=os.environ)
    while kill_in and process.poll() is None:
        entry = Run(out).manifest().get(kill_in)
        if entry is not None and entry.status == "running":
            time.sleep(KILL_AFTER_S)
            process.send_signal(signal.SIGKILL)
            print(f"killed in {kill_in}", flush=True)
            break
        time.sleep(0.2)
    return process.wait()


def stage_table(out: Path) -> str:
    lines = ["| stage | seconds | peak memory MiB | counts |", "|---|---|---|---|"]
    for name, entry in Run.existing(out).manifest().items():
        counts = json.dumps(entry.counts, ensure_ascii=False)
        lines.append(f"| {name} | {entry.seconds:.1f} | {entry.peak_memory_mib:,.0f} | {counts} |")
        lines += [f"| | | | note: {note} |" for note in entry.notes]
    return "\n".join(lines)


def differing_tables(one: Path, other: Path) -> list[str]:
    """Names of the tables that two runs do not have in common, row by row."""
    return [
        name
        for name, record in TABLES.items()
        if list(Run.existing(one).table(name, record)) != list(Run.existing(other).table(name, record))
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--encoder", default="", help="folder of a sentence encoder, for dense and hybrid")
    parser.add_argument("--retrieve", default="bm25", choices=["bm25", "dense", "hybrid"])
    parser.add_argument("--target", default="text", choices=["auto", "letter", "text"])
    parser.add_argument("--queries", type=int, default=2000)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--kill", nargs="*", default=[], help="stages to kill the run in, one after the other")
    parser.add_argument("--same-as", type=Path, help="a finished run whose tables must be equal")
    options = parser.parse_args()

    options.out.parent.mkdir(parents=True, exist_ok=True)
    config = options.out.with_suffix(".yaml")
    with TeacherServer(MicroworldTeacher(shipped_world(), seed=0).reply) as server:
        config.write_text(yaml.safe_dump(settings(options, server.base_url)), encoding="utf-8")
        for stage in options.kill:
            run(config, options.out, kill_in=stage)
        status = run(config, options.out)
        print(f"\nteacher requests answered: {server.num_replies}")
    print(stage_table(options.out))
    print(f"{platform.machine()}, commit {git_commit()}, {json.dumps(versions())}")
    if options.same_as:
        differing = differing_tables(options.out, options.same_as)
        print(f"tables that differ from {options.same_as}: {', '.join(differing) or 'none'}")
        status = status or bool(differing)
    sys.exit(status)


if __name__ == "__main__":
    main()
