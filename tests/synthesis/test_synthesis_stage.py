from __future__ import annotations

import json
from collections import Counter

import pytest

from lamer.config import PromptSettings, load_config
from lamer.errors import TeacherError
from lamer.records import Deficiency, Example, Fact
from lamer.run import Run
from lamer.synthesis.export import origins_of, trl_rows
from lamer.synthesis.stage import synthesize
from lamer.teacher.ledger import LEDGER, Ledger
from lamer.testing import TeacherServer
from writing_teacher import config_for, content_of, fill_run, write


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
