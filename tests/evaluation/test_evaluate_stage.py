from __future__ import annotations

import json

import pytest
import torch
from evaluation_rows import ROWS

from lamer.evaluation import stage
from lamer.evaluation.stage import evaluate, evaluate_methods
from lamer.records import Deficiency, Diagnosis, Prediction, Query
from lamer.run import Run
from lamer.scoring.model import load_model


@pytest.fixture
def adapter(settings, tmp_path):
    """An adapter that changes what the model says."""
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(0)
    loaded = load_model(settings().model)
    lora = LoraConfig(r=4, lora_alpha=64, target_modules="all-linear", init_lora_weights=False)
    get_peft_model(loaded.model, lora).save_pretrained(str(tmp_path / "adapter"))
    return tmp_path / "adapter"


@pytest.fixture
def run(tmp_path):
    with Run.open(tmp_path / "run") as opened:
        yield opened


def table(run):
    return run.table("predictions", Prediction)


def test_before_and_after_stand_in_one_table(run, adapter, settings):
    adapter.rename(run.path / "adapter")
    result = evaluate(run, settings())
    rows = list(table(run))
    assert [(row.method, row.sample_id) for row in rows] == [
        (method, row["id"]) for method in ("base", "lamer") for row in ROWS
    ]
    assert len(table(run).shards()) == 6  # 9 samples in shards of 4, twice
    base, lamer = rows[: len(ROWS)], rows[len(ROWS) :]
    assert [row.text for row in base] != [row.text for row in lamer]
    assert result.counts["samples"] == len(ROWS)
    assert set(result.counts["methods"]) == {"base", "lamer"}
    change = result.counts["lamer against base"]["average"]
    assert change["remedied"] == sum(b.correct < a.correct for b, a in zip(base, lamer))
    assert change["broken"] == sum(b.correct > a.correct for b, a in zip(base, lamer))
    assert "McNemar" in result.notes[0]


def test_without_an_adapter_only_the_base_model_is_evaluated(run, settings):
    result = evaluate(run, settings())
    assert {row.method for row in table(run)} == {"base"}
    assert "no adapter" in result.notes[-1]


def test_without_samples_there_is_nothing_to_evaluate(run, settings):
    result = evaluate(run, settings(**{"evaluate.path": "[]"}))
    assert result.counts == {"samples": 0}
    assert "evaluate.path" in result.notes[0]
    assert not (run.path / "predictions").exists()


def test_several_adapters_share_one_table_and_more_can_be_added(run, adapter, settings):
    evaluate_methods(run, settings(), {"base": None, "naive": adapter})
    before = list(table(run))
    result = evaluate_methods(run, settings(), {"base": None, "naive": adapter, "again": adapter})
    rows = list(table(run))
    assert rows[: len(before)] == before
    assert [row.text for row in rows if row.method == "again"] == [
        row.text for row in rows if row.method == "naive"
    ]
    assert {"naive against base", "again against base"} <= set(result.counts)


def test_the_most_severe_queries_are_asked_again(run, adapter, settings):
    adapter.rename(run.path / "adapter")
    options = ("It became hot", "It stayed cool")
    run.table("queries", Query).write(0, [Query("q1", "A spoon lies in tea.", options, None, "file")])
    run.table("deficiencies", Deficiency).write(0, [Deficiency("d1", "q1", "f1", 0.5, "normal", 2)])
    halves = (-0.7, -0.7)
    run.table("diagnoses", Diagnosis).write(
        0,
        [
            Diagnosis(
                "q1",
                "f1",
                options,
                "options",
                halves,
                halves,
                halves,
                halves,
                (1, 1),
                0.5,
                "normal",
                "flipped",
                None,
            )
        ],
    )
    evaluate(run, settings())
    rows = [json.loads(line) for line in (run.path / "stories.jsonl").read_text().splitlines()]
    assert [(row["query_id"], row["method"]) for row in rows] == [("q1", "base"), ("q1", "lamer")]


def test_a_stopped_evaluation_answers_only_what_is_missing(run, adapter, settings, tmp_path, monkeypatch):
    methods = {"base": None, "naive": adapter}
    with Run.open(tmp_path / "other") as other:
        whole = evaluate_methods(other, settings(), methods)
        expected = list(table(other))
    real, calls = stage.predict, []

    def stop(samples, loaded, config, method):
        if len(calls) == 4:
            raise KeyboardInterrupt
        calls.append(method)
        return real(samples, loaded, config, method)

    monkeypatch.setattr(stage, "predict", stop)
    with pytest.raises(KeyboardInterrupt):
        evaluate_methods(run, settings(), methods)
    assert len(table(run).shards()) == 4
    calls.clear()
    assert evaluate_methods(run, settings(), methods) == whole
    assert calls == ["naive", "naive"]
    assert list(table(run)) == expected
