from __future__ import annotations

from training_examples import make_example

from lamer.records import Example
from lamer.run import Run
from lamer.training.stage import train


def test_the_stage_trains_on_kept_examples_only(examples, settings, tmp_path):
    with Run.open(tmp_path / "run") as run:
        rejected = make_example(30, status="rejected", answer=None, reason="no answer")
        run.table("examples", Example).write(0, [*examples[:5], rejected])
        result = train(run, settings())
        assert (run.path / "adapter" / "adapter_model.safetensors").exists()
        assert "x30" not in (run.path / "training" / "order.jsonl").read_text()
    assert result.counts["examples"] == 5
    assert result.counts["steps"] == 4
    assert result.counts["lora_scaling"] == 2.0
    assert "order ascending" in result.notes[0]


def test_without_examples_the_stage_ends_well_and_says_so(settings, tmp_path):
    with Run.open(tmp_path / "run") as run:
        result = train(run, settings())
        assert not (run.path / "adapter").exists()
    assert result.counts["examples"] == 0
    assert "nothing to train on" in result.notes[-1]
