"""A real local server as teacher: `transformers serve` with a tiny model that writes rubbish.

    pip install "transformers[serving]"
    python benchmarks/real_server.py [--model random | world | FOLDER] [--deficiencies 20] [--out runs/real-server]

Starts the server on the CPU, has it write examples for deficiencies of the embedded world through the stage, and
starts the stage again without a server, which must give the same table. Prints what the server does with the
parameters of a request, the stage's counts and reasons as JSON; ends with status 1 when a sum does not balance.
"""

from __future__ import annotations

import argparse
import json
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

from faults import fill, unbalanced
from lamer.config import Config, load_config
from lamer.microworld import checkpoint_path, shipped_world
from lamer.records import Deficiency, Example, Fact, Query
from lamer.run import Run, git_commit, versions
from lamer.synthesis.stage import synthesize
from lamer.teacher.ledger import LEDGER, Ledger
from lamer.testing import tiny_model

START_S = 120.0
"""Patience with the server's start."""


def model_folder(name: str, out: Path) -> Path:
    """A folder that the server can load, with sampling switched on: the server takes that from the model."""
    folder = out / "model"
    if name == "random":
        tiny_model("llama", folder)
    else:
        shutil.copytree(checkpoint_path() if name == "world" else name, folder)
    file = folder / "generation_config.json"
    generation = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
    file.write_text(json.dumps(generation | {"do_sample": True}), encoding="utf-8")
    return folder


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def start(model: Path, port: int, log: Path) -> subprocess.Popen[bytes]:
    """The server, answering."""
    command = ["transformers", "serve", str(model), "--device", "cpu", "--host", "127.0.0.1", "--port", str(port)]
    with log.open("wb") as output:
        process = subprocess.Popen(command, stdout=output, stderr=output)
    deadline = time.monotonic() + START_S
    while process.poll() is None and time.monotonic() < deadline:
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=1).close()
            return process
        except OSError:
            time.sleep(0.2)
    process.kill()
    sys.exit(f"the server did not start:\n{log.read_text(encoding='utf-8')[-2000:]}")


def say(base_url: str, model: str, **settings: object) -> str:
    """The reply to a short message, or the status of a refusal."""
    body = {"model": model, "messages": [{"role": "user", "content": "Why?"}], "max_tokens": 8, **settings}
    request = urllib.request.Request(
        f"{base_url}/chat/completions", json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    try:
        with urllib.request.urlopen(request, timeout=60) as reply:
            return str(json.load(reply)["choices"][0]["message"]["content"])
    except urllib.error.HTTPError as error:
        return f"status {error.code}"


def manners(base_url: str, model: str) -> dict[str, Any]:
    """What the server makes of parameters."""
    schema = {"type": "object", "properties": {"x": {"type": "integer"}}, "required": ["x"]}
    form = {"type": "json_schema", "json_schema": {"name": "x", "strict": True, "schema": schema}}
    return {
        "same seed, same reply": say(base_url, model, seed=1) == say(base_url, model, seed=1),
        "other seed, other reply": len({say(base_url, model, seed=seed) for seed in range(5)}) > 1,
        "reply under a JSON schema": say(base_url, model, response_format=form),
        "unknown parameter": say(base_url, model, unheard_of=1)[:10],
        "another model": say(base_url, "another")[:10],
    }


def units(count: int) -> tuple[list[Deficiency], list[Query], list[Fact]]:
    """The first queries of the embedded world, each with a fact, quotas 1 to 4."""
    world = shipped_world()
    queries = [Query(q.id, q.text, q.options, None, "world") for q in world.queries()[:count]]
    facts = [Fact(fact.id, fact.text, None, "world") for fact in world.corpus()[:count]]
    tiers = ("easy", "normal", "hard", "unfair")
    deficiencies = [
        Deficiency(f"{query.id}|{fact.id}", query.id, fact.id, 0.1 + 0.3 * (n % 4), tiers[n % 4], n % 4 + 1)
        for n, (query, fact) in enumerate(zip(queries, facts))
    ]
    return deficiencies, queries, facts


def config_for(base_url: str, model: str, options: argparse.Namespace) -> Config:
    teacher = {
        "base_url": base_url,
        "model": model,
        "max_tokens": options.max_tokens,
        "concurrency": 4,
        "timeout_s": 60,
        "format": options.format,
    }
    return load_config({"synthesize": {"teacher": teacher}})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="random", help="random, world (the embedded world's) or a folder")
    parser.add_argument("--deficiencies", type=int, default=20)
    parser.add_argument("--max-tokens", type=int, default=64)
    parser.add_argument("--format", default="auto", choices=["auto", "text", "json"])
    parser.add_argument("--out", type=Path, default=Path("runs/real-server"), help="what it holds is deleted")
    options = parser.parse_args()
    shutil.rmtree(options.out, ignore_errors=True)
    options.out.mkdir(parents=True)
    model, port = model_folder(options.model, options.out), free_port()
    base_url, run_folder = f"http://127.0.0.1:{port}/v1", options.out / "run"
    deficiencies, queries, facts = units(options.deficiencies)
    server = start(model, port, options.out / "server.log")
    try:
        found: dict[str, Any] = {"manners": manners(base_url, str(model))}
        started = time.monotonic()
        with Run.open(run_folder) as run:
            fill(run, deficiencies, queries, facts)
            result = synthesize(run, config_for(base_url, str(model), options))
            found["seconds"] = round(time.monotonic() - started, 1)
            rows = list(run.table("examples", Example))
    finally:
        server.kill()
        server.wait()
    with Run.open(run_folder) as run:  # nobody there any more: everything must come from the ledger
        again = synthesize(run, config_for(base_url, str(model), options))
        problems = unbalanced(result, rows, deficiencies)
        if list(run.table("examples", Example)) != rows:
            problems.append("a second start without a server made another table")
    with Ledger(run_folder / LEDGER) as ledger:
        totals = ledger.totals()
    found |= {
        "ledger": {"answered": totals.answered, "failed": totals.failed, "reply tokens": totals.completion_tokens},
        "counts": dict(result.counts),
        "requests of the second start": again.counts["requests"],
        "notes": list(result.notes),
        "first reply": next((row.raw[:200] for row in rows), ""),
        "commit": git_commit(),
        "versions": versions(),
        "problems": problems,
    }
    print(json.dumps(found, indent=1, ensure_ascii=False))
    sys.exit(bool(problems))


if __name__ == "__main__":
    main()
