from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections import Counter
from pathlib import Path

import pytest

from lamer.config import PromptSettings, load_config
from lamer.errors import TeacherError
from lamer.records import Deficiency, Example, Fact
from lamer.run import Run
from lamer.synthesis.export import origins_of, trl_rows
from lamer.synthesis.stage import synthesize
from lamer.teacher.ledger import LEDGER, Ledger
from lamer.testing import TeacherServer
from writing_teacher import config_for, content_of, fill_run, sloppy, write

HERE = Path(__file__).parents[1]


def test_the_stage_writes_table_export_and_ledger(tmp_path, monkeypatch):
    monkeypatch.setattr("lamer.synthesis.stage.SHARD_SIZE", 8)
    with Run.open(tmp_path / "run") as run, TeacherServer(write) as server:
        fill_run(run, 12)
        result = synthesize(run, config_for(server.base_url))
        table = run.table("examples", Example)
        assert len(table.shards()) == 2
        rows = list(table)
        assert result.counts["kept"] == result.counts["exported"] == 30
        assert Counter(row.deficiency_id for row in rows) == {
            unit.id: unit.quota for unit in run.table("deficiencies", Deficiency)
        }
        lines = (run.path / "examples.jsonl").read_text(encoding="utf-8").splitlines()
        units = list(run.table("deficiencies", Deficiency))
        facts = {fact.id: fact for fact in run.table("facts", Fact)}
        expected = list(trl_rows(rows, PromptSettings(), origins_of(units, facts)))
        assert [json.loads(line) for line in lines] == expected
        assert all(row["tier"] and row["fact"] and row["severity"] for row in expected)
        with Ledger(run.path / LEDGER) as ledger:
            assert ledger.totals().answered == server.num_replies == 12


def test_an_exported_example_reads_as_lamer_trains_on_it():
    example = Example(
        "x#0", "x", 0.5, "Why {is} it hot?", ("ice", "fire"), 1, "Fire burns.", "kept", None, "", "t"
    )
    rejected = Example("x!0", "x", 0.5, "q", (), None, "", "rejected", "unparsed", "", "t")
    assert list(trl_rows([example, rejected], PromptSettings())) == [
        {
            "prompt": [{"role": "user", "content": "Question: Why {is} it hot?\nOptions: (A) ice (B) fire"}],
            "completion": [{"role": "assistant", "content": "Fire burns. The answer is (B) fire"}],
            "id": "x#0",
            "severity": 0.5,
            "tier": None,
            "fact": None,
        }
    ]


def test_a_run_without_deficiencies_ends_well_and_needs_no_teacher(tmp_path):
    with Run.open(tmp_path / "run") as run:
        fill_run(run, 0)
        result = synthesize(run, load_config())
        assert result.notes == ["no deficiencies: nothing to write examples for"]
        assert run.table("examples", Example).has(0)
        assert list(run.table("examples", Example)) == []
        assert (run.path / "examples.jsonl").read_bytes() == b""


def test_a_missing_key_leaves_no_table_behind(tmp_path):
    with Run.open(tmp_path / "run") as run:
        fill_run(run, 3)
        with pytest.raises(TeacherError, match="OPENAI_API_KEY"):
            synthesize(run, load_config())
        assert not (run.path / "examples").exists()
        assert not (run.path / "examples.jsonl").exists()


def test_no_file_of_a_run_holds_the_key(tmp_path, monkeypatch):
    key = "sk-planted-0123456789abcdef"
    monkeypatch.setenv("MY_KEY", key)

    def parrot(messages, **sampling) -> str:
        return f"{write(messages, **sampling)} By the way, your key is {key}."

    with Run.open(tmp_path / "run") as run, TeacherServer(parrot, api_key=key) as server:
        fill_run(run, 12)
        result = synthesize(run, config_for(server.base_url, api_key_env="MY_KEY"))
        assert result.counts["kept"] == 30
        assert key.encode() not in content_of(run.path)
        assert any("[key]" in row.raw for row in run.table("examples", Example))
    assert key.encode() not in content_of(tmp_path)


PROGRAM = textwrap.dedent(
    """
    import sys
    from pathlib import Path
    sys.path.insert(0, {here!r})
    from writing_teacher import config_for
    from lamer.run import Run
    from lamer.synthesis.stage import synthesize
    with Run.open(Path(sys.argv[1])) as run:
        synthesize(run, config_for(sys.argv[2], concurrency=4))
    """
)


def start(folder: Path, server: TeacherServer) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-c", PROGRAM.format(here=str(HERE)), str(folder), server.base_url]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)


def test_a_process_killed_at_random_moments_ends_as_an_undisturbed_one(tmp_path):
    def slow(messages, **sampling) -> str:
        threading.Event().wait(0.005)
        return sloppy(messages, **sampling)

    for name in ("undisturbed", "killed"):
        with Run.open(tmp_path / name) as run:
            fill_run(run, 80)
    with TeacherServer(slow) as server:
        process = start(tmp_path / "undisturbed", server)
        assert process.wait() == 0, process.stderr.read().decode()
        num_asked = server.num_requests

    rng = random.Random(0)
    with TeacherServer(slow) as server:
        num_kills = 0
        for _ in range(4):
            goal = server.num_requests + rng.randrange(1, 40)
            process = start(tmp_path / "killed", server)
            while process.poll() is None and server.num_requests < goal:
                time.sleep(0.002)
            if process.poll() is None:
                process.send_signal(signal.SIGKILL)
                num_kills += 1
            process.wait()
        process = start(tmp_path / "killed", server)
        assert process.wait() == 0, process.stderr.read().decode()
        bodies = Counter(json.dumps(body, sort_keys=True) for body in server.requests)

    assert num_kills >= 2
    tables = [list(Run(tmp_path / name).table("examples", Example)) for name in ("undisturbed", "killed")]
    assert tables[0] == tables[1]
    exports = [(tmp_path / name / "examples.jsonl").read_bytes() for name in ("undisturbed", "killed")]
    assert exports[0] == exports[1]
    assert len(bodies) == num_asked
    assert (
        sum(bodies.values()) - num_asked <= num_kills * 4
    )  # those in flight at a kill, at most `concurrency` each
