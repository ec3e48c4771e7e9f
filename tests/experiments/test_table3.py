"""`lamer reproduce table3` on a part of the embedded world, and on a run with labels of one's own."""

from __future__ import annotations

import csv
import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from lamer.cli import _main
from lamer.experiments.table3 import PAPER_MODEL, summarize, to_markdown, truths_of
from lamer.microworld import checkpoint_path
from lamer.records import Diagnosis, Query
from lamer.run import Run

LIMIT = ["--set", "queries.limit=48", "--set", "model.device=cpu", "--set", "retrieve.top_k=2"]


@pytest.fixture(scope="module")
def reproduced(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("table3")
    assert _main(["reproduce", "table3", "--out", str(out), "--seeds", "2", *LIMIT]) == 0
    return out


def test_the_embedded_world_has_two_truths_and_every_probe(reproduced, capsys):
    figures = json.loads((reproduced / "table3.json").read_text())
    assert figures["runs"] == ["seed-0", "seed-1"]
    assert figures["queries"] + figures["left_out"] == 48
    names = [row["probe"] for row in figures["probes"]["answers wrong"]]
    assert {"RE", "calibrated RE", "entropy", "margin", "perplexity", "golden label", "everything"} < set(names)
    assert set(figures["probes"]) == {"answers wrong", "fact not known"}
    golden = figures["probes"]["answers wrong"][names.index("golden label")]
    assert golden["f1"][0] == golden["auroc"][0] == 1.0
    rows = list(csv.DictReader((reproduced / "table3.csv").open()))
    assert [row["probe"] for row in rows] == names * 2
    assert float(rows[names.index("RE")]["recall"]) == pytest.approx(
        figures["probes"]["answers wrong"][names.index("RE")]["recall"][0], abs=1e-5
    )
    drawn = [
        {row.fact_id for row in Run.existing(reproduced / f"seed-{i}").table("placebos", Diagnosis)}
        for i in (0, 1)
    ]
    assert drawn[0] != drawn[1]


def test_started_again_it_reads_what_is_done(reproduced, capsys):
    shards = [
        file
        for seed in (0, 1)
        for file in Run.existing(reproduced / f"seed-{seed}").table("diagnoses", Diagnosis).shards()
    ]
    before = (reproduced / "table3.json").read_text(), [file.stat().st_mtime_ns for file in shards]
    assert _main(["reproduce", "table3", "--out", str(reproduced), "--seeds", "2", *LIMIT]) == 0
    assert "| RE |" in capsys.readouterr().out
    assert ((reproduced / "table3.json").read_text(), [file.stat().st_mtime_ns for file in shards]) == before


def test_a_diagnosed_run_with_labels_is_read_as_it_is(reproduced, tmp_path, capsys):
    assert (
        _main(["reproduce", "table3", "--run", str(reproduced / "seed-0"), "--json", "--out", str(tmp_path)]) == 0
    )
    figures = json.loads(capsys.readouterr().out)
    assert list(figures["probes"]) == ["answers wrong"]
    assert figures == json.loads((tmp_path / "table3.json").read_text())
    found = figures["effects"]
    assert sum(sum(row.values()) for row in found["outcomes"].values()) == sum(
        sum(row.values()) for row in found["influences"].values()
    )
    assert not (reproduced / "seed-0" / "table3.json").exists()


def test_with_the_papers_model_the_figures_are_of_e_care_alone(reproduced, tmp_path):
    folder = Path(shutil.copytree(reproduced / "seed-0", tmp_path / "run"))
    run = Run.existing(folder)
    queries = list(run.table("queries", Query))
    run.table("queries", Query).clear()
    mixed = [
        replace(query, source="hf://12ml/e-CARE:train" if n % 2 else "gsm8k") for n, query in enumerate(queries)
    ]
    run.table("queries", Query).write(0, mixed)
    before = summarize([run], truths_of(run))
    settings = folder / "lamer.yaml"
    settings.write_text(settings.read_text().replace(str(checkpoint_path()), PAPER_MODEL))
    found = summarize([run], truths_of(run))
    assert (before.is_papers, found.is_papers) == (False, True)
    assert before.num_queries + before.num_left_out == found.num_queries + found.num_left_out == len(queries)
    assert 0 < found.num_queries <= len(queries) // 2 < before.num_queries
    text = to_markdown(found)
    assert f"{found.num_queries} labelled queries of e-CARE (" in text
    assert "Deficient pairs by either rule (of all queries): " in text
    pairs = [
        sum(sum(row.values()) for row in table.effects.to_json()["outcomes"].values()) for table in (before, found)
    ]
    assert 0 < pairs[1] < pairs[0], "GSM8K's pairs do not count among e-CARE's"


def test_queries_without_labels_are_refused(tmp_path, capsys):
    queries, facts, config = tmp_path / "q.jsonl", tmp_path / "facts.txt", tmp_path / "lamer.yaml"
    queries.write_text('{"id": "q1", "text": "What is soft?", "options": ["wool", "a stone"]}\n')
    facts.write_text("Wool is soft.\nStones are hard.\n")
    settings = {
        "model": {"name": str(checkpoint_path())},
        "queries": {"path": [str(queries)]},
        "facts": {"path": [str(facts)]},
        "retrieve": {"method": "bm25"},
    }
    config.write_text(json.dumps(settings))
    status = _main(
        ["reproduce", "table3", "--config", str(config), "--seeds", "1", "--out", str(tmp_path / "out")]
    )
    assert status == 1
    assert "no diagnosed query with options has a label" in capsys.readouterr().err
    assert _main(["reproduce", "table3", "--run", str(tmp_path), "--config", str(config)]) == 2
