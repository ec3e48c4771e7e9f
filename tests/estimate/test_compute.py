from __future__ import annotations

from math import ceil

import pytest
import torch

from lamer.cli import _main
from lamer.config import load_config
from lamer.errors import UsageError
from lamer.estimate import estimate
from lamer.estimate.compute import (
    GIB,
    GPUS,
    SIZES,
    Machine,
    ModelSize,
    Plan,
    compute,
    disk,
    generation_seconds,
    gpu_named,
    model_size,
    num_samples,
    reading_flops,
    size_of,
    training_flops,
)
from lamer.experiments.recipe import RECIPES, load_recipe, recipe_text
from lamer.testing import FAMILIES, tiny_model

SMALL = ModelSize(parameters=1_000, adapted_width=50, cached_values=8)
PUBLISHED = {"mistral": 7_241_732_096, "llama3": 8_030_261_248, "qwen2": 7_615_616_512, "gemma": 2_506_172_416}
"""Parameters as the models' cards on the Hub have them."""


def test_flops_done_by_hand():
    assert reading_flops(SMALL, 10) == 2 * 1_000 * 10
    assert training_flops(SMALL, 200, 10) == (4 * 1_000 + 6 * 200) * 10
    assert training_flops(SMALL, 200, 10, twice=True) == (6 * 1_000 + 6 * 200) * 10


def test_training_flops_are_what_a_profiler_counts():
    from peft import LoraConfig, get_peft_model
    from torch.utils.flop_counter import FlopCounterMode

    model, _ = tiny_model("llama", hidden_size=256)
    frozen = sum(p.numel() for p in model.parameters()) - model.get_input_embeddings().weight.numel()
    model = get_peft_model(model, LoraConfig(r=8, target_modules="all-linear", task_type="CAUSAL_LM"))
    adapter = sum(p.numel() for p in model.parameters() if p.requires_grad)
    ids = torch.arange(16)[None]
    with FlopCounterMode(display=False) as counter:
        model(input_ids=ids, labels=ids).loss.backward()
    # Not the same: nothing flows back below the first layer's adapters, and attention's products are left out.
    size = ModelSize(frozen, 0, 0)
    assert counter.get_total_flops() == pytest.approx(training_flops(size, adapter, 16), rel=0.12)


def test_generation_done_by_hand():
    gpu = GPUS["h100"]
    large = ModelSize(parameters=50_000_000_000, adapted_width=1, cached_values=0)
    step = 2 * 50e9 / (0.5 * 3.35e12)  # 60 ms to read the weights once
    assert generation_seconds(large, Machine(gpu), 100, 10, 8) == pytest.approx(ceil(100 / 8) * 10 * step)
    assert generation_seconds(SMALL, Machine(gpu), 100, 10, 8) == pytest.approx(13 * 10 * 0.02)  # only launches
    slow = Machine(gpu, mfu=1e-3)
    step = 2 * 50e9 * 8 / (1e-3 * 989e12)  # 0.8 s to compute
    assert generation_seconds(large, slow, 100, 10, 8) == pytest.approx(13 * 10 * step)


@pytest.mark.parametrize("name", RECIPES)
def test_the_recipes_models_have_their_published_size(name):
    assert SIZES[load_recipe(name).model.name].parameters == PUBLISHED[name]


def test_a_known_size_is_that_of_the_architecture():
    from transformers import AutoModelForCausalLM, GemmaConfig

    shape = GemmaConfig(
        vocab_size=256000, hidden_size=2048, intermediate_size=16384, num_hidden_layers=18, num_attention_heads=8,
        num_key_value_heads=1, head_dim=256,
    )  # fmt: skip
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(shape)
    assert size_of(model) == SIZES["google/gemma-1.1-2b-it"]


@pytest.mark.parametrize("family", [name for name in FAMILIES if name not in ("mixtral", "qwen2-moe")])
def test_an_adapter_has_the_parameters_that_peft_gives_it(family, tmp_path):
    from peft import LoraConfig, get_peft_model

    model, _ = tiny_model(family, tmp_path)
    size = size_of(model)
    assert model_size(load_config({"model": {"name": str(tmp_path)}}).model) == size
    assert size.parameters == sum(p.numel() for p in model.parameters())
    adapted = get_peft_model(model, LoraConfig(r=3, target_modules="all-linear", task_type="CAUSAL_LM"))
    assert 3 * size.adapted_width == sum(p.numel() for p in adapted.parameters() if p.requires_grad)


def test_disk_done_by_hand():
    config = load_config({"retrieve": {"method": "bm25"}}, preset="paper")
    size = ModelSize(parameters=GIB, adapted_width=1, cached_values=1)
    found = disk(config, size, Plan((1, 1), 3, seeds=5), GIB // 4, None)
    assert found == {"model": 2.0, "adapters": 10.0, "checkpoints while training": 6.0}
    dense = disk(config.model_copy(update={"retrieve": load_config().retrieve}), size, Plan((), 1), 0, 2**18)
    assert dense["embeddings of facts"] == 1.0  # 2^18 x 1024 x 4 bytes
    assert dense["checkpoints while training"] == dense["adapters"] == 0.0


def test_samples_are_counted_per_task():
    benchmarks = {"evaluate": {"benchmarks": ["arc", "crass", "my_own"]}}
    assert num_samples(load_config(benchmarks), [10]) == 10 + 3_548 + 44
    assert num_samples(load_config(benchmarks, ["evaluate.limit=5"]), [10]) == 5 + 2 * 5 + 5


def test_an_experiment_is_the_sum_of_its_parts():
    config = load_recipe("mistral", ["evaluate.benchmarks=[]", "retrieve.method=bm25"])
    size = SIZES[config.model.name]
    machine, plan = Machine(GPUS["h200"], 0.5, 4.0), Plan((100, 40), 3, seeds=2)
    found = compute(config, size, machine, plan, prompt_tokens=1e6, num_facts=None, num_samples=0)
    adapter = 128 * size.adapted_width
    trained = 2 * (100 + 40) * 3 * 140
    flops = {
        "diagnose": 2 * size.parameters * 2e6,
        "train": (4 * size.parameters + 6 * adapter) * trained,
        "evaluate: prompts": 0.0,
    }
    assert {work.purpose: work.flops for work in found.work} == pytest.approx(flops)
    seconds = sum(flops.values()) / (0.5 * 989e12)
    assert found.hours == pytest.approx(seconds / 3600) == found.max_hours
    assert found.cost == pytest.approx(4.0 * seconds / 3600)


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_is_estimated_without_a_network(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    asked: list[str] = []
    monkeypatch.setattr("datasets.load_dataset", lambda *names, **_: asked.extend(names))
    found = estimate(load_recipe(name), seeds=3)
    per_tier = 150 if name == "llama3" else 375
    lines = [line for line in found.lines if line.purpose == "examples"]
    assert sum(line.calls for line in lines) == 4 * per_tier * 8 * 3  # eight sets of examples, three seeds
    assert found.compute is not None
    assert f"{PUBLISHED[name]:,} parameters" in " ".join(found.compute.basis)
    train = next(work for work in found.compute.work if work.purpose == "train")
    # thirteen trainings a seed: Single has one example a deficiency, helpful and misleading ones are halves
    assert train.tokens == 3 * 3 * 140 * (10 * (10 * per_tier) + 2 * (5 * per_tier) + 4 * per_tier)
    one = estimate(load_recipe(name))
    assert one.compute is not None
    assert one.experiment is None
    assert not asked, "an estimate downloads nothing that a card tells"
    assert 0 < one.compute.hours < found.compute.hours <= found.compute.max_hours


def test_rounds_diagnose_before_and_after_each_and_ask_every_adapter(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def flops(*assignments: str) -> dict[str, float]:
        found = estimate(load_recipe("gemma", assignments)).compute
        assert found is not None
        return {work.purpose: work.flops for work in found.work}

    one, three = flops(), flops("rounds=3")
    assert three["diagnose"] == pytest.approx(4 * one["diagnose"])
    assert three["train"] == pytest.approx((1 + 2 + 3) * one["train"])
    assert three["evaluate: prompts"] == pytest.approx(4 / 2 * one["evaluate: prompts"])
    assert three["encode facts"] == one["encode facts"]
    assert any(
        "rounds=3 is for runs" in note for note in estimate(load_recipe("gemma", ["rounds=3"]), seeds=2).notes
    )


def test_the_command_states_gpu_money_and_disk(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "gemma.yaml").write_text(recipe_text("gemma"))
    assert _main(["estimate", "gemma.yaml", "--gpu", "a100", "--gpu-price", "2", "--experiment", "3"]) == 0
    shown = capsys.readouterr().out
    assert "experiment: Base, AugGPT, Naive, Single, LLM2LLM, LaMer, LaMer*, Single, as many steps" in shown
    assert "misleading deficiencies alone; seeds: 3, each with its own diagnosis" in shown
    assert "GPU (A100 80GB PCIe): " in shown
    assert " at the price given" in shown
    assert "disk: " in shown
    assert "MFU 0.4" in shown
    assert _main(["estimate", "gemma.yaml", "--gpu", "h10"]) == 2
    assert "--gpu h10: not known (did you mean 'h100'?); known: a100, h100, h200" in capsys.readouterr().err
    with pytest.raises(UsageError):
        gpu_named("tpu")


def test_a_model_of_unknown_size_is_said_and_not_guessed(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    found = estimate(load_recipe("mistral", ["model.name=someone/else"]))
    assert found.compute is None
    assert any("someone/else is not on this machine" in note for note in found.notes)
