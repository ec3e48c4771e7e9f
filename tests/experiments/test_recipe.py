"""The four recipes: what they say, and that each works in every stage with its architecture and chat template."""

from __future__ import annotations

import json
import re
from collections import Counter
from importlib import resources
from itertools import pairwise
from pathlib import Path

import pytest
import torch
import yaml

from lamer.cli import _main
from lamer.config import PRESETS, load_config
from lamer.errors import UsageError
from lamer.experiments.recipe import RECIPES, load_recipe, recipe_text
from lamer.microworld import MicroworldTeacher, shipped_world
from lamer.pipeline import execute
from lamer.records import Deficiency, Diagnosis, Example, Match, Prediction, Query
from lamer.run import Run
from lamer.scoring.model import load_model
from lamer.scoring.render import Renderer
from lamer.testing import TeacherServer, tiny_model

FAMILIES = {"mistral": "mistral", "llama3": "llama", "qwen2": "qwen2", "gemma": "gemma"}
STAGES = ["retrieve", "diagnose", "select", "synthesize", "train", "evaluate", "report"]

PROMPTS = {
    "mistral": "<s>[INST] {} [/INST]",
    "llama3": "<|begin_of_text|><|start_header_id|>user<|end_header_id|>\n\n{}<|eot_id|>"
    "<|start_header_id|>assistant<|end_header_id|>\n\n",
    "qwen2": "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n"
    "<|im_start|>user\n{}<|im_end|>\n<|im_start|>assistant\n",
    "gemma": "<bos><start_of_turn>user\n{}<end_of_turn>\n<start_of_turn>model\n",
}
"""The evaluation prompts of Appendix D as each model's own chat template writes them."""

PRINTED = {
    "mistral": "[INST]{}[/INST]",
    "llama3": "user {} assistant",
    "qwen2": "user {} assistant",
    "gemma": "user {} model",
}
"""What Appendix D prints of them, without control tokens."""


def sampled(text: str) -> str:
    return re.sub(r"\s+", " ", text).strip()


# What the recipes say


def test_there_are_four_recipes_and_what_prepares_them():
    folder = resources.files("lamer.experiments") / "recipes"
    assert sorted(file.name for file in folder.iterdir()) == sorted(f"{n}.yaml" for n in (*RECIPES, "gsm8k"))
    with pytest.raises(UsageError, match=r"unknown recipe 'mistrl' \(did you mean 'mistral'\?\); known: mistral"):
        recipe_text("mistrl")


@pytest.mark.parametrize(
    ("name", "model", "per_tier", "examples"),
    [
        ("mistral", "mistralai/Mistral-7B-Instruct-v0.2", 375, 3750),
        ("llama3", "meta-llama/Meta-Llama-3-8B-Instruct", 150, 1500),
        ("qwen2", "Qwen/Qwen2-7B-Instruct", 375, 3750),
        ("gemma", "google/gemma-1.1-2b-it", 375, 3750),
    ],
)
def test_a_recipe_has_the_settings_that_the_paper_prints(name, model, per_tier, examples):
    config = load_recipe(name)
    assert config.preset == "paper"
    assert config.model.name == model
    assert (config.retrieve.encoder, config.retrieve.top_k) == ("BAAI/bge-large-en-v1.5", 4)  # section 3.4
    assert (config.diagnose.threshold, config.diagnose.num_candidates) == (0.1, 2)
    assert config.select.per_tier == per_tier  # Table 6
    assert per_tier * sum(config.select.quota.values()) == examples
    assert config.select.quota == {"easy": 1, "normal": 2, "hard": 3, "unfair": 4}
    assert config.synthesize.num_options == 3
    train = config.train
    assert (train.lora.rank, train.lora.alpha, train.epochs, train.batch_size) == (128, 8, 3, 32)
    assert (train.learning_rate, train.order, train.scope) == (5e-5, "ascending", "epoch")
    assert not train.lora.rslora
    assert not train.lora.dora
    assert train.replay.share == 0 == config.select.replay
    assert config.evaluate.benchmarks == ["comm", "agieval", "arc", "mmlu", "bbh", "crass", "gsm_plus"]
    assert any("e-CARE" in path for path in config.queries.path)
    assert any("gsm8k" in path for path in config.queries.path)


def test_recipes_differ_in_the_model_and_its_budget_only():
    def rest(name):
        settings = yaml.safe_load(recipe_text(name))
        return settings.pop("model")["dtype"], settings["select"].pop("per_tier") and settings

    assert rest("llama3") == rest("mistral") == rest("qwen2") == rest("gemma")


def test_no_recipe_contradicts_its_preset():
    settings = yaml.safe_load(recipe_text("mistral"))
    for section, values in PRESETS["paper"].items():
        assert all(settings[section].get(key, value) == value for key, value in values.items())


def test_init_writes_a_recipe_that_loads(tmp_path, capsys):
    assert _main(["init", "--recipe", "gemma"]) == 0
    (tmp_path / "gemma.yaml").write_text(capsys.readouterr().out)
    assert load_config(tmp_path / "gemma.yaml") == load_recipe("gemma")
    assert _main(["init", "--recipe", "gema"]) == 2
    assert "unknown recipe 'gema'" in capsys.readouterr().err


def test_a_recipe_beside_a_preset_is_refused(capsys):
    assert _main(["init", "--recipe", "gemma", "--preset", "demo"]) == 2
    assert "--recipe gemma has a preset of its own: leave out --preset demo" in capsys.readouterr().err


def test_files_that_a_recipe_lacks_are_named(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "q.jsonl").write_text('{"text": "Is iron a metal?", "options": ["yes", "no"]}\n')
    monkeypatch.setenv("OPENAI_API_KEY", "unused")
    (tmp_path / "mistral.yaml").write_text(recipe_text("mistral"))
    command = ["run", "mistral.yaml", "--set", "queries.path=[q.jsonl, gsm8k-queries.jsonl]"]
    assert _main([*command, "--set", "retrieve.method=bm25"]) == 1
    assert "gsm8k-queries.jsonl: no such file" in capsys.readouterr().err


# Every stage with a tiny model of the same architecture


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """e-CARE rows, facts and labelled samples about the embedded world, and GSM8K rows."""
    world, folder = shipped_world(), tmp_path_factory.mktemp("data")
    facts = [fact.statements[0] for fact in world.facts[:60]]
    ecare = [
        {
            "index": f"train-{number}",
            "premise": f"Somebody asked about it. {fact}",
            "ask_for": ("cause", "effect")[number % 2],
            "hypothesis1": facts[(number + 7) % 60],
            "hypothesis2": facts[(number + 11) % 60],
            "label": number % 2,
        }
        for number, fact in enumerate(facts[:40])
    ]
    gsm8k = [
        {
            "question": f"Tom has {n} apples, he buys {n + 2}. What is the total?",
            "answer": f"...\n#### {2 * n + 2}",
        }
        for n in range(3, 7)
    ]
    samples = [
        {
            "question": "Which one is true?",
            "options": facts[n : n + 3],
            "answer": "ABC"[n % 3],
            "task": f"t{n % 2}",
        }
        for n in range(6)
    ]
    samples.append({"question": "How many are 2 and 3?", "answer": "5"})
    for name, rows in (("ecare", ecare), ("gsm8k", gsm8k), ("samples", samples)):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "facts.txt").write_text("\n".join(facts) + "\n")
    (folder / "benchmarks").mkdir()
    arc = [
        {**sample, "id": f"{task}-{number}", "benchmark": "arc", "task": task}
        for task in ("arc_easy", "arc_challenge")
        for number, sample in enumerate(samples[:2])
    ]
    (folder / "benchmarks" / "arc.jsonl").write_text("".join(json.dumps(row) + "\n" for row in arc))
    return folder


@pytest.fixture(scope="module")
def server():
    with TeacherServer(MicroworldTeacher(shipped_world(), seed=0).reply) as server:
        yield server


@pytest.fixture(scope="module")
def prepared(data, server):
    """GSM8K made ready as the recipes say: the recipe gsm8k until retrieve, and its tables as files."""
    config = load_recipe("gsm8k", [f"queries.path=[{data}/gsm8k.jsonl]", *teacher(server)])
    with Run.open(data / "gsm8k") as run:
        list(execute(run, config, until="retrieve"))
    return data


def teacher(server) -> list[str]:
    return [f"synthesize.teacher.base_url={server.base_url}", "synthesize.teacher.model=embedded"]


def vivid_model(family: str, folder: Path) -> None:
    """A tiny random model whose answers a sentence in front changes a lot: its weights are large."""
    model, tokenizer = tiny_model(family)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.mul_(4.0)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


@pytest.fixture(scope="module", params=RECIPES)
def done(request, prepared, server, tmp_path_factory):
    """A recipe, run to its end with a tiny model of its architecture; what is not size is the recipe's."""
    data, folder = prepared, tmp_path_factory.mktemp(request.param)
    vivid_model(FAMILIES[request.param], folder / "model")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.stdout", open(data / "gsm8k-queries.jsonl", "w"))  # noqa: SIM115
        assert _main(["show", str(data / "gsm8k"), "queries", "--json"]) == 0
        patch.setattr("sys.stdout", open(data / "gsm8k-facts.jsonl", "w"))  # noqa: SIM115
        assert _main(["show", str(data / "gsm8k"), "facts", "--json"]) == 0
    small = [
        f"model.name={folder / 'model'}",
        f"queries.path=[{data}/ecare.jsonl, {data}/gsm8k-queries.jsonl]",
        f"facts.path=[{data}/facts.txt, {data}/gsm8k-facts.jsonl]",
        "retrieve.method=bm25",
        "select.per_tier=5",
        "train.save_steps=1000",
        "evaluate.benchmarks=[arc]",  # as the recipe has it, through the harness; its other benchmarks are large
        f"evaluate.data={data}/benchmarks",
        f"evaluate.path=[{data}/samples.jsonl]",
        "evaluate.max_new_tokens=6",
        *teacher(server),
    ]
    config = load_recipe(request.param, small)
    with Run.open(folder / "run") as run:
        entries = {stage.name: entry for stage, entry, _ in execute(run, config)}
    return request.param, config, Run.existing(folder / "run"), entries


def test_every_stage_finishes_and_leaves_what_it_should(done):
    _, _, run, entries = done
    assert list(entries) == STAGES
    assert {entry.status for entry in entries.values()} == {"complete"}
    queries = list(run.table("queries", Query))
    assert {query.source for query in queries} == {"ecare", "gsm8k"}
    assert all(query.options for query in queries)
    per_query = Counter(row.query_id for row in run.table("matches", Match))
    assert set(per_query) == {query.id for query in queries}
    assert max(per_query.values()) == 4
    diagnoses = list(run.table("diagnoses", Diagnosis))
    assert all(row.relative_entropy is not None and row.relative_entropy >= 0 for row in diagnoses)
    units = list(run.table("deficiencies", Deficiency))
    assert units
    assert all(unit.quota == {"easy": 1, "normal": 2, "hard": 3, "unfair": 4}[unit.tier] for unit in units)
    assert max(sum(unit.tier == tier for unit in units) for tier in ("easy", "normal", "hard", "unfair")) <= 5
    kept = [example for example in run.table("examples", Example) if example.status == "kept"]
    assert len(kept) == entries["train"].counts["examples"] > 0
    assert entries["train"].counts["left_out"] == 0
    asked = Counter((row.method, row.benchmark) for row in run.table("predictions", Prediction))
    assert asked == {(method, name): n for method in ("base", "lamer") for name, n in (("samples", 7), ("arc", 4))}
    assert "<html" in (run.path / "report.html").read_text()


def test_training_is_the_papers(done):
    _, _, run, entries = done
    adapter = json.loads((run.path / "adapter" / "adapter_config.json").read_text())
    assert (adapter["r"], adapter["lora_alpha"]) == (128, 8)
    assert entries["train"].counts["lora_scaling"] == 0.0625
    assert {name.rpartition(".")[2] for name in adapter["target_modules"]} == {
        "q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj",
    }  # fmt: skip
    severity = {unit.id: unit.relative_entropy for unit in run.table("deficiencies", Deficiency)}
    deficiency = {row.id: row.deficiency_id for row in run.table("examples", Example)}
    steps = [json.loads(line)["ids"] for line in (run.path / "training" / "order.jsonl").read_text().splitlines()]
    number = entries["train"].counts["examples"]
    assert number > 32
    assert [len(step) for step in steps] == ([32] * (number // 32) + [number % 32] * (number % 32 > 0)) * 3
    epochs = [steps[: len(steps) // 3], steps[len(steps) // 3 : -len(steps) // 3], steps[-len(steps) // 3 :]]
    for epoch in epochs:  # each is the whole data, mildest first; inside one step the order means nothing
        assert sum(map(len, epoch)) == number == len({example for step in epoch for example in step})
        reached = [[severity[deficiency[example]] for example in step] for step in epoch]
        assert all(max(one) <= min(other) for one, other in pairwise(reached))


def test_the_evaluation_prompt_is_that_of_appendix_d_with_one_bos(done):
    name, config, _, _ = done
    renderer = Renderer(load_model(config.model).tokenizer, config.prompt)
    tokenizer = renderer.tokenizer
    asked = renderer.prompt("Who barks?", ("a dog", "a cat"))
    assert asked == "Question: Who barks?\nOptions: (A) a dog (B) a cat"
    ids = renderer.context_ids(asked)
    assert tokenizer.decode(ids) == PROMPTS[name].format(asked)
    bos = tokenizer.bos_token_id
    assert ids.count(bos) == (0 if name == "qwen2" else 1) if bos is not None else name == "qwen2"
    shown = sampled(re.sub(r"<[^>]*>|\b(?:start|end)_header_id\b", " ", tokenizer.decode(ids)))
    shown = shown.removeprefix("system You are a helpful assistant. ")  # Qwen2's own; the paper does not print it
    assert shown.replace("[INST] ", "[INST]").replace(" [/INST]", "[/INST]") == sampled(
        PRINTED[name].format(asked)
    )


def test_training_and_evaluation_read_the_same_prompt(done):
    _, config, run, _ = done
    from lamer.training.dataset import encode_examples

    renderer = Renderer(load_model(config.model).tokenizer, config.prompt)
    kept = [example for example in run.table("examples", Example) if example.status == "kept"]
    encoded = encode_examples(kept, renderer, config.train.max_length).examples.values()
    assert len(encoded) == len(kept)
    for example, row in zip(kept, encoded):
        context = renderer.context_ids(renderer.prompt(example.question, example.options))
        assert list(row.input_ids[: len(context)]) == context
        assert list(row.labels[: len(context)]) == [-100] * len(context)
        assert list(row.labels[len(context) :]) == list(row.input_ids[len(context) :])
