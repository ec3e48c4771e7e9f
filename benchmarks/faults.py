"""Synthesis under faults, measured: failing replies, and processes killed at random moments.

    python benchmarks/faults.py [--deficiencies 2000] [--rate 0.3] [--kills 30] [--out runs/faults]

Faults: deficiencies with quotas 1 to 4, a server that spoils a share of its replies in every way of
`lamer.testing.all_faults` (Retry-After: 150 is granted `--max-wait` seconds). Kills: processes started anew after
each `kill -9`, with faults on the way, until one ends; then compared with a run that nothing disturbed. Prints the
server's own counts beside those of the stage as JSON; ends with status 1 when a sum does not balance.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import random
import re
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lamer.config import Config, load_config
from lamer.records import Deficiency, Example, Fact, Query, Tier
from lamer.run import Run, StageResult, git_commit
from lamer.synthesis.stage import synthesize
from lamer.teacher.ledger import LEDGER, Ledger
from lamer.testing import Fault, TeacherServer, all_faults, random_faults
from lamer.testing.faults import body_hash

TIERS: tuple[Tier, ...] = ("easy", "normal", "hard", "unfair")
SYLLABLES = [a + b for a in "bdfgklmnprstvz" for b in ("a", "e", "i", "o", "u", "an", "er", "ol")]
PATIENCE_S = 5.0
CONCURRENCY = 16


def word(rng: random.Random) -> str:
    return "".join(rng.choices(SYLLABLES, k=3))


def item(rng: random.Random) -> str:
    w = [word(rng) for _ in range(10)]
    letter = rng.choice("ABC")
    return (
        f"Question: The {w[0]} met a {w[1]} by the {w[2]}, and the {w[3]} saw the {w[4]} {w[5]}. What next?\n"
        f"Options: (A) The {w[6]} fell down. (B) The {w[7]} rose up. (C) The {w[8]} broke apart.\n"
        f"Answer: ({letter})\nExplanation: Every {w[9]} does so."
    )


def write(messages: Sequence[Mapping[str, str]], **sampling: object) -> str:
    """What a teacher writes: mostly sound examples, always the same to the same request."""
    text = messages[-1]["content"]
    rng = random.Random(hashlib.sha256(f"{text} {sampling.get('seed')}".encode()).hexdigest())
    match = re.search(r"generate (\d+) new", text)
    whole = "\n\n".join(item(rng) for _ in range(int(match[1]) if match else 1))
    match rng.randrange(20):
        case 0:
            return "I am sorry, but I cannot help with that."
        case 1:
            return whole.replace("Explanation:", "Notes:", 1)
        case 2:
            return f"{whole}\n\n{whole}"
    return whole


def units(count: int) -> tuple[list[Deficiency], list[Query], list[Fact]]:
    """Deficiencies of all tiers, each with a fact and a query of its own."""
    rng = random.Random(0)
    queries, facts, deficiencies = [], [], []
    for number in range(count):
        query, fact = f"q{number}", f"f{number}"
        name = word(rng)
        options = (f"It fell on {word(rng)}.", f"It stayed with {word(rng)}.")
        queries.append(
            Query(query, f"Someone put the {name} down by {word(rng)}. What happened?", options, "1", "test")
        )
        facts.append(Fact(fact, f"A {name} of sort {number} never falls on its own.", None, "test"))
        tier = number % 4
        deficiencies.append(Deficiency(f"{query}|{fact}", query, fact, 0.1 + 0.3 * tier, TIERS[tier], tier + 1))
    return deficiencies, queries, facts


def fill(run: Run, deficiencies: Sequence[Deficiency], queries: Sequence[Query], facts: Sequence[Fact]) -> None:
    """The tables that the stage reads."""
    run.write_manifest({})
    run.table("queries", Query).write(0, list(queries))
    run.table("facts", Fact).write(0, list(facts))
    run.table("deficiencies", Deficiency).write(0, list(deficiencies))


def config_for(base_url: str, **teacher: Any) -> Config:
    settings = {
        "base_url": base_url,
        "model": "made-up",
        "format": "text",
        "concurrency": CONCURRENCY,
        "timeout_s": PATIENCE_S,
        "max_retries": 8,
        **teacher,
    }
    return load_config({"synthesize": {"teacher": settings}})


def unbalanced(result: StageResult, rows: Sequence[Example], deficiencies: Sequence[Deficiency]) -> list[str]:
    """Sums of the stage's counts that do not agree with each other or with its rows."""
    counts = result.counts
    replies, items, kept = counts["replies"], counts["items"], [row for row in rows if row.status == "kept"]
    by_unit = Counter(row.deficiency_id for row in kept)
    sums = {
        "requested = quotas": counts["requested"] == sum(unit.quota for unit in deficiencies),
        "requested = kept + short": counts["requested"] == counts["kept"] + counts["short"],
        "replies = parsed + unparsed": replies["total"] == replies["parsed"] + replies["unparsed"],
        "items = kept + rejected": items["total"] == items["kept"] + items["rejected"],
        "rejected by reason": sum(counts["rejected"].values()) == items["rejected"],
        "kept rows": counts["kept"] == items["kept"] == len(kept),
        "rows": len(rows) == items["total"],
        "no quota exceeded": all(by_unit[unit.id] <= unit.quota for unit in deficiencies),
    }
    return [name for name, holds in sums.items() if not holds]


def shortages(folder: Path, rows: Sequence[Example], deficiencies: Sequence[Deficiency]) -> dict[str, Any]:
    """Deficiencies whose quota is not met, and how many of them nothing explains."""
    kept = Counter(row.deficiency_id for row in rows if row.status == "kept")
    reasons: dict[str | None, Counter[str]] = {}
    for row in rows:
        if row.status == "rejected":
            reasons.setdefault(row.deficiency_id, Counter())[row.reason or "?"] += 1
    with Ledger(folder / LEDGER) as ledger:
        num_failed = ledger.totals().failed
    short = [unit for unit in deficiencies if kept[unit.id] < unit.quota]
    return {
        "deficiencies": len(short),
        "examples": sum(unit.quota - kept[unit.id] for unit in short),
        "unexplained": sum(unit.id not in reasons for unit in short) if not num_failed else 0,
        "reasons": dict(sum((reasons.get(unit.id, Counter()) for unit in short), Counter())),
        "requests given up": num_failed,
    }


def met_again(server: TeacherServer) -> list[list[str]]:
    """What the requests that were answered more than once met, in order; an empty text is no fault."""
    again = {key for key, count in server.answered.items() if count > 1}
    met: dict[str, list[str]] = {}
    for number, body in enumerate(server.requests):
        if (key := body_hash(body)) in again:
            met.setdefault(key, []).append((server.fault(number) or Fault()).kind)
    return list(met.values())


def seconds_of(kind: int) -> float:
    usage = resource.getrusage(kind)
    return usage.ru_utime + usage.ru_stime


def measure_faults(folder: Path, options: argparse.Namespace) -> tuple[dict[str, Any], list[str]]:
    kinds = all_faults(late_s=1.3 * PATIENCE_S)
    deficiencies, queries, facts = units(options.deficiencies)
    faults = random_faults(options.rate, options.seed, kinds)
    started, cpu = time.monotonic(), seconds_of(resource.RUSAGE_SELF)
    with Run.open(folder) as run, TeacherServer(write, faults=faults) as server:
        fill(run, deficiencies, queries, facts)
        result = synthesize(run, config_for(server.base_url, max_retry_after_s=options.max_wait))
        rows = list(run.table("examples", Example))
    with Ledger(folder / LEDGER) as ledger:
        answered = ledger.totals().answered
    problems = unbalanced(result, rows, deficiencies)
    if server.num_answered_again:
        problems.append("a request was answered twice")
    if answered != result.counts["replies"]["total"]:
        problems.append("replies are not those of the ledger")
    short = shortages(folder, rows, deficiencies)
    if short["unexplained"]:
        problems.append("a shortage without a reason")
    return {
        "deficiencies": len(deficiencies),
        "rate": options.rate,
        "seconds": round(time.monotonic() - started, 1),
        "CPU seconds, server included": round(seconds_of(resource.RUSAGE_SELF) - cpu, 1),
        "server": {
            "requests": server.num_requests,
            "faults": server.faults_served.total(),
            "by kind": dict(server.faults_served.most_common()),
            "usable replies": server.answered.total(),
            "requests with a usable reply": len(server.answered),
            "answered again": server.num_answered_again,
            "these met": met_again(server),
            "client gone": server.num_abandoned,
        },
        "ledger": answered,
        "short": short,
        "counts": dict(result.counts),
        "notes": list(result.notes),
    }, problems


def child(folder: Path, base_url: str) -> None:
    with Run.open(folder) as run:
        synthesize(run, config_for(base_url, max_retry_after_s=0.2))


def start(folder: Path, server: TeacherServer) -> subprocess.Popen[bytes]:
    command = [sys.executable, __file__, "--child", str(folder), server.base_url]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def slowly(messages: Sequence[Mapping[str, str]], **sampling: object) -> str:
    time.sleep(0.02)
    return write(messages, **sampling)


def measure_kills(folder: Path, options: argparse.Namespace) -> tuple[dict[str, Any], list[str]]:
    """Kills spread over the requests of a run; each start goes on from what the last one had committed."""
    transport = [
        fault
        for fault in all_faults(late_s=1.3 * PATIENCE_S)
        if not fault.is_answer and fault.body != "no content" and fault.status != 400
    ]
    tables = {}
    for name in ("undisturbed", "killed"):
        with Run.open(folder / name) as run:
            fill(run, *units(options.kill_deficiencies))
    with TeacherServer(slowly) as server:
        assert start(folder / "undisturbed", server).wait() == 0
        num_asked = len(server.answered)
    rng = random.Random(options.seed)
    goals = sorted(rng.randrange(num_asked) for _ in range(options.kills))
    num_starts = num_kills = 0
    with TeacherServer(slowly, faults=random_faults(options.rate, options.seed, transport)) as server:
        for goal in goals:
            process, before = start(folder / "killed", server), len(server.answered)
            num_starts += 1
            while process.poll() is None and len(server.answered) <= max(goal, before):
                time.sleep(0.002)
            time.sleep(0.05 * rng.random())
            if process.poll() is None:
                process.send_signal(signal.SIGKILL)
                num_kills += 1
            process.wait()
        status = start(folder / "killed", server).wait()
    for name in ("undisturbed", "killed"):
        tables[name] = (
            list(Run(folder / name).table("examples", Example)),
            (folder / name / "examples.jsonl").read_bytes(),
        )
    checks = {
        "the last start failed": status != 0,
        "the table differs from the undisturbed one": tables["killed"] != tables["undisturbed"],
        "other requests than in the undisturbed run": len(server.answered) != num_asked,
        "more answered again than was in flight": server.num_answered_again > num_kills * CONCURRENCY,
    }
    return {
        "deficiencies": options.kill_deficiencies,
        "rows": len(tables["killed"][0]),
        "starts": num_starts + 1,
        "kills": num_kills,
        "concurrency": CONCURRENCY,
        "requests with a usable reply": len(server.answered),
        "answered again": server.num_answered_again,
        "answered again at most": num_kills * CONCURRENCY,
        "client gone before its reply": server.num_abandoned,
        "faults": server.faults_served.total(),
    }, [name for name, is_so in checks.items() if is_so]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/faults"), help="folder; what it holds is deleted")
    parser.add_argument("--deficiencies", type=int, default=2000, help="0: only kills")
    parser.add_argument("--rate", type=float, default=0.3, help="share of requests that meet a fault")
    parser.add_argument("--max-wait", type=float, default=0.2, help="seconds granted to a Retry-After")
    parser.add_argument("--kills", type=int, default=30, help="0: only faults")
    parser.add_argument("--kill-deficiencies", type=int, default=300)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--child", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        child(Path(options.child[0]), options.child[1])
        return
    shutil.rmtree(options.out, ignore_errors=True)
    found: dict[str, Any] = {"commit": git_commit()}
    problems: list[str] = []
    for name, count, measure in (
        ("faults", options.deficiencies, measure_faults),
        ("kills", options.kills, measure_kills),
    ):
        if count:
            found[name], new = measure(options.out / name, options)
            problems += new
    print(json.dumps(found | {"problems": problems}, indent=1))
    sys.exit(bool(problems))


if __name__ == "__main__":
    main()
