from __future__ import annotations

import json

import pytest
import torch
from training_examples import make_example

from lamer.cli import _main
from lamer.config import to_yaml
from lamer.errors import ModelError, UsageError
from lamer.records import Example
from lamer.run import Run
from lamer.scoring.model import load_model
from lamer.testing import tiny_model
from lamer.training import merge
from lamer.training.merge import merge_adapter
from lamer.training.trainer import train_adapter


@pytest.fixture(scope="module")
def trained(model_folder, tmp_path_factory):
    """A run directory with an adapter that changes the model a lot."""
    from lamer.config import load_config

    changes = ["train.learning_rate=0.02", "train.epochs=4", "train.batch_size=4", "train.lora.rank=4"]
    config = load_config({"model": {"name": str(model_folder), "device": "cpu"}}, changes)
    folder = tmp_path_factory.mktemp("run") / "run"
    examples = [make_example(number) for number in range(11)]
    with Run.open(folder) as run:
        run.table("examples", Example).write(0, examples)
        (folder / "lamer.yaml").write_text(to_yaml(config))
        train_adapter(examples, config, folder / "training", folder / "adapter")
    return folder, config, examples


def logits(config, folder, adapter=None):
    loaded = load_model(config.model.model_copy(update={"name": str(folder)}), adapter)
    with torch.inference_mode():
        return loaded.model(input_ids=torch.arange(5, 25)[None]).logits


def test_a_merged_model_answers_as_base_and_adapter_do(trained, model_folder, tmp_path):
    folder, config, examples = trained
    merged = merge_adapter(config, folder / "adapter", tmp_path / "merged", examples)
    apart = logits(config, model_folder, folder / "adapter")
    assert float((logits(config, tmp_path / "merged") - apart).abs().max()) < 1e-4
    assert float((logits(config, model_folder) - apart).abs().max()) > 0.1  # the adapter does something
    assert (merged.num_prompts, merged.dtype, merged.same_best) == (8, "float32", 1.0)
    assert merged.largest_difference < 1e-4
    names = {file.name for file in (tmp_path / "merged").iterdir()}
    assert {"config.json", "model.safetensors", "tokenizer.json", "README.md"} <= names
    assert not any("adapter" in name for name in names)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["merged"]


def test_a_merge_in_bfloat16_says_how_much_it_rounds(trained, tmp_path):
    folder, config, examples = trained
    coarse = config.model_copy(update={"model": config.model.model_copy(update={"dtype": "bfloat16"})})
    merged = merge_adapter(coarse, folder / "adapter", tmp_path / "merged", examples)
    assert merged.dtype == "bfloat16"
    assert 1e-4 < merged.largest_difference < 0.5


def test_a_merge_that_changes_the_model_writes_nothing(trained, tmp_path, monkeypatch):
    folder, config, _ = trained
    monkeypatch.setitem(merge.MAX_DIFFERENCE, "torch.float32", 0.0)
    with pytest.raises(ModelError, match=r"changed the model by .* nothing was written"):
        merge_adapter(config, folder / "adapter", tmp_path / "merged", [])
    assert list(tmp_path.iterdir()) == []


def test_an_existing_folder_is_never_overwritten(trained, tmp_path):
    folder, config, _ = trained
    (tmp_path / "merged").mkdir()
    with pytest.raises(UsageError, match="exists already; choose another --out"):
        merge_adapter(config, folder / "adapter", tmp_path / "merged")


def test_the_command_takes_a_run_or_an_adapter(trained, model_folder, tmp_path, capsys):
    folder, _, _ = trained
    assert _main(["merge", str(folder), "--out", str(tmp_path / "a"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["num_prompts"] == 8
    arguments = ["--model", str(model_folder), "--set", "model.device=cpu"]
    assert _main(["merge", str(folder / "adapter"), "--out", str(tmp_path / "b"), *arguments]) == 0
    assert "parity: " in capsys.readouterr().out
    for name in ("a", "b"):
        assert (tmp_path / name / "config.json").exists()
    assert _main(["merge", str(tmp_path), "--out", str(tmp_path / "c")]) == 2
    assert "no adapter here" in capsys.readouterr().err


def test_an_adapter_of_another_model_is_refused_by_name(trained, tmp_path, capsys):
    folder, _, _ = trained
    tiny_model("gpt2", tmp_path / "other")
    arguments = ["--model", str(tmp_path / "other"), "--out", str(tmp_path / "merged")]
    assert _main(["merge", str(folder / "adapter"), *arguments]) == 1
    assert "the adapter does not fit the model" in capsys.readouterr().err
