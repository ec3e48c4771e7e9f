"""The paper's benchmarks and tasks of the harness, against lm-evaluation-harness itself."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import torch
import yaml

from lamer.cli import _main
from lamer.config import load_config
from lamer.errors import DataError, UsageError
from lamer.evaluation.evaluate import predict
from lamer.evaluation.harness import PAPER, TASKS, load_benchmarks, load_task, quiet, task_manager
from lamer.evaluation.harness_tasks import answer as answer_own
from lamer.evaluation.harness_tasks import check, items_of
from lamer.evaluation.sources import score
from lamer.evaluation.stage import evaluate_methods
from lamer.records import Prediction
from lamer.run import Run
from lamer.scoring.model import LoadedModel, load_model
from lamer.scoring.render import Renderer
from lamer.synthesis.stage import load_held_out
from lamer.testing import tiny_model

pytest.importorskip("lm_eval")

BENCHMARKS = Path(os.environ.get("LAMER_BENCHMARKS", "no-benchmarks"))
"""Folder with the seven files."""
OPTIONS = ["It became hot", "It stayed cool", "It sang"]


def rows(benchmark, task, count, options=OPTIONS):
    return [
        {
            "id": f"{task}-{number}",
            "benchmark": benchmark,
            "task": task,
            "question": f"A spoon number {number} lies in tea{' for a long time' * (number % 3)}. What happened?",
            "options": options,
            "answer": "ABC"[number % 3] if options else str(number),
        }
        for number in range(count)
    ]


def write(file, items):
    file.write_text("".join(json.dumps(item) + "\n" for item in items))


@pytest.fixture
def data(tmp_path):
    folder = tmp_path / "data"
    folder.mkdir()
    write(folder / "arc.jsonl", rows("arc", "arc_easy", 4) + rows("arc", "arc_challenge", 3))
    nothing = {**rows("gsm_plus", "critical_thinking", 1, [])[0], "answer": "None"}
    write(folder / "gsm_plus.jsonl", [*rows("gsm_plus", "digit_expansion", 4, []), nothing])
    return folder


def config_for(model_folder, **evaluate):
    return load_config(
        {
            "model": {"name": str(model_folder), "device": "cpu"},
            "evaluate": {"max_new_tokens": 12, **evaluate},
        }
    )


def harness_model(family):
    """One tiny model, as lamer and as the harness hold it."""
    from lm_eval.models.huggingface import HFLM

    model, tokenizer = tiny_model(family)
    model.eval()
    with quiet():
        theirs = HFLM(pretrained=model, tokenizer=tokenizer, batch_size=3, device="cpu")
    return LoadedModel(model, tokenizer, torch.device("cpu")), theirs


def run_harness(theirs, tasks, **options):
    from lm_eval import simple_evaluate

    with quiet():
        return simple_evaluate(model=theirs, tasks=tasks, log_samples=True, bootstrap_iters=0, **options)


@pytest.mark.parametrize("family", ["llama", "qwen2"])
def test_the_harness_itself_writes_and_marks_the_same_replies(family, data, model_folder):
    loaded, theirs = harness_model(family)
    config = config_for(model_folder, benchmarks=["arc", "gsm_plus"], data=str(data), stop=["e"])
    samples = load_benchmarks(config).samples
    ours = {row.sample_id: row for row in predict(samples, loaded, config, "base")}
    manager = task_manager(include_path=str(TASKS), include_defaults=False, metadata={"data": str(data)})
    result = run_harness(
        theirs,
        ["lamer_arc", "lamer_gsm_plus"],
        task_manager=manager,
        apply_chat_template=True,
        gen_kwargs={"max_gen_toks": 12, "until": ["e"]},
    )
    found = {row["doc"]["id"]: row for task in result["samples"].values() for row in task}
    assert set(found) == set(ours)
    assert len(ours) == 11
    for name, row in found.items():
        assert row["resps"][0][0].strip() == ours[name].text
        own = {"acc": float(ours[name].correct), "parsed": float(ours[name].parsed)}
        if ours[name].ended == "length":  # the harness does not say that a reply was cut off
            assert own["parsed"] <= row["parsed"]
            own = score(row["doc"], [ours[name].text])
        assert {key: row[key] for key in own} == own
    assert len({row.text for row in ours.values()}) > 1


OWN = {
    "choice": {
        "output_type": "multiple_choice",
        "doc_to_text": "Question: {{question}}\nAnswer:",
        "doc_to_choice": "{{options}}",
        "doc_to_target": "{{['A', 'B', 'C'].index(answer)}}",
        "metric_list": [{"metric": "acc", "aggregation": "mean", "higher_is_better": True}],
    },
    "written": {
        "output_type": "generate_until",
        "doc_to_text": "Question: {{question}}\nAnswer:",
        "doc_to_target": "{{answer}}",
        "generation_kwargs": {"until": ["\n", "t"], "max_gen_toks": 9, "do_sample": False},
        "filter_list": [
            {
                "name": "letters",
                "filter": [
                    {"function": "regex", "regex_pattern": "([a-z])"},
                    {"function": "take_first"},
                ],
            }
        ],
        "metric_list": [{"metric": "exact_match", "aggregation": "mean", "higher_is_better": True}],
    },
}


def own_task(tmp_path, name, count=6, **changes):
    """A task file of the harness's own form, with three examples shown before each question."""
    file = tmp_path / f"{name}.json"
    file.write_text(json.dumps(rows("x", "x", count)))
    settings = {
        "task": name,
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": str(file), "train": str(file)}},
        "test_split": "test",
        "training_split": "train",
        "num_fewshot": 2,
        **OWN[name],
        **changes,
    }
    folder = tmp_path / "own"
    folder.mkdir(exist_ok=True)
    (folder / f"{name}.yaml").write_text(yaml.safe_dump(settings))
    return task_manager(include_path=str(folder), include_defaults=False)


@pytest.mark.parametrize("is_chat", [True, False])
@pytest.mark.parametrize("name", list(OWN))
def test_a_task_of_the_harness_is_asked_and_marked_as_the_harness_does(name, is_chat, tmp_path, model_folder):
    loaded, theirs = harness_model("llama")
    config = config_for(model_folder)
    if not is_chat:
        config = load_config(config.model_dump(), ["prompt.chat_template=plain"])
    manager = own_task(tmp_path, name)
    (task,) = manager.load([name])["tasks"].values()
    check(task, name)
    samples = items_of(task, name, "mine", Renderer(loaded.tokenizer, config.prompt), None)
    ours = answer_own(samples, loaded, config, "base")
    result = run_harness(theirs, [name], task_manager=manager, apply_chat_template=is_chat)
    theirs_rows = sorted(result["samples"][name], key=lambda row: row["doc_id"])
    metric = OWN[name]["metric_list"][0]["metric"]
    assert [row[metric] for row in theirs_rows] == [float(row.correct) for row in ours]
    if name == "written":
        assert [row["resps"][0][0] for row in theirs_rows] == [row.text for row in ours]
        assert [row["filtered_resps"][0] for row in theirs_rows] == [row.answer or "[invalid]" for row in ours]
    else:
        likeliest = [max(range(3), key=[one[0][0] for one in row["resps"]].__getitem__) for row in theirs_rows]
        assert ["ABC"[place] for place in likeliest] == [row.loglikelihood_answer for row in ours]
        assert [row.target for row in ours] == ["A", "B", "C", "A", "B", "C"]
    assert all(row.benchmark == "mine" for row in ours)


def refusal(tmp_path, name, **changes):
    manager = own_task(tmp_path, name, **changes)
    (task,) = manager.load([name])["tasks"].values()
    with pytest.raises(UsageError) as error:
        check(task, name)
    return str(error.value)


def test_what_cannot_be_done_as_the_harness_does_is_refused_by_name(tmp_path):
    assert "choice has output type loglikelihood" in refusal(
        tmp_path, "choice", output_type="loglikelihood", doc_to_choice=None, metric_list=[{"metric": "perplexity"}]
    )
    sampled = {"until": [], "do_sample": True, "temperature": 1.0}
    assert "samples its replies (do_sample)" in refusal(tmp_path, "written", generation_kwargs=sampled)
    assert "asks 4 times (repeats)" in refusal(tmp_path, "written", repeats=4)
    assert "begins" not in refusal(tmp_path, "written", gen_prefix="Well:")
    bleu = [{"metric": "bleu", "aggregation": "bleu", "higher_is_better": True}]
    said = refusal(tmp_path, "written", metric_list=bleu)
    assert "has the metric bleu, which is no share of right answers" in said
    assert "lm_eval --tasks written" in said
    mutual = [{"metric": "acc_mutual_info", "aggregation": "mean"}]
    assert "scores choices without context" in refusal(tmp_path, "choice", metric_list=mutual)


def test_unknown_names_and_missing_files_are_named(data, model_folder, tmp_path):
    with pytest.raises(UsageError, match=r"has no task 'writen' \(did you mean 'written'\?\)"):
        load_task(own_task(tmp_path, "written"), "writen")
    with pytest.raises(UsageError, match="give hellaswag a run of its own"):
        load_benchmarks(config_for(model_folder, benchmarks=["arc", "hellaswag"], data=str(data)))
    with pytest.raises(DataError, match="holds no file of the benchmark mmlu"):
        load_benchmarks(config_for(model_folder, benchmarks=["mmlu"], data=str(data)))
    write(data / "arc.jsonl", rows("arc", "arc_easy", 2))
    with pytest.raises(DataError, match="arc/arc_challenge: there are no items"):
        load_benchmarks(config_for(model_folder, benchmarks=["arc"], data=str(data)))


def test_without_the_network_the_hub_is_refused_with_the_way_out(model_folder, monkeypatch):
    monkeypatch.setattr("datasets.config.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(DataError, match=r"comm/anli: data set allenai/art .* evaluate.data=FOLDER"):
        load_benchmarks(config_for(model_folder, benchmarks=["comm"]))


def test_limits_count_for_every_task_and_what_is_left_out_is_said(data, model_folder):
    write(data / "arc.jsonl", rows("arc", "arc_easy", 4) + rows("arc", "arc_challenge", 3) + rows("arc", "x", 1))
    loaded = load_benchmarks(config_for(model_folder, benchmarks=["gsm_plus", "arc"], data=str(data), limit=2))
    assert [sample.id for sample in loaded.samples] == [
        "digit_expansion-0", "digit_expansion-1", "arc_easy-0", "arc_easy-1", "arc_challenge-0", "arc_challenge-1",
    ]  # fmt: skip
    assert loaded.notes == [
        "gsm_plus: 1 items without a valid answer left out",
        "arc: the file's task x is not one of the benchmark's, and left out",
    ]


def test_one_command_evaluates_a_model_and_an_adapter_on_benchmarks(data, model_folder, tmp_path, capsys):
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(0)
    adapter, out = tmp_path / "adapter", tmp_path / "run"
    lora = LoraConfig(r=4, lora_alpha=64, target_modules="all-linear", init_lora_weights=False)
    get_peft_model(load_model(config_for(model_folder).model).model, lora).save_pretrained(str(adapter))
    command = ["evaluate", "--out", str(out)]
    options = ["--model", str(model_folder), "--adapter", str(adapter), "--benchmark", "arc", "--data", str(data)]
    settings = ["--limit", "2", "--set", "evaluate.max_new_tokens=8", "--set", "model.device=cpu"]
    assert _main([*command, *options, *settings]) == 0
    table = Run.existing(out).table("predictions", Prediction)
    found = [(row.method, row.sample_id) for row in table]
    names = ["arc_easy-0", "arc_easy-1", "arc_challenge-0", "arc_challenge-1"]
    assert found == [(method, name) for method in ("base", "adapter") for name in names]
    entry = Run.existing(out).manifest()["evaluate"]
    assert "adapter against base" in entry.counts
    assert "overlap with training data is not known: the run holds none" in entry.notes
    before = [file.stat().st_mtime_ns for file in table.shards()]
    moved = data.rename(tmp_path / "moved")
    adapter.rename(tmp_path / "elsewhere")
    again = ["--data", str(moved), "--adapter", str(tmp_path / "elsewhere")]
    assert _main([*command, *again]) == 0  # the same content in another place, settings from the run
    assert [file.stat().st_mtime_ns for file in table.shards()] == before
    capsys.readouterr()
    assert _main([*command, *again, "--limit", "1"]) == 1
    assert "evaluate.limit=2" in capsys.readouterr().err
    assert _main([*command, "--data", str(moved), "--adapter", str(tmp_path)]) == 1
    assert "holds no adapter" in capsys.readouterr().err


def test_a_file_and_a_benchmark_may_not_hold_the_same_items(data, model_folder, tmp_path):
    config = config_for(model_folder, benchmarks=["arc"], data=str(data), path=[str(data / "arc.jsonl")])
    with Run.open(tmp_path / "run") as run, pytest.raises(DataError, match="id 'arc_easy-0' occurs twice"):
        evaluate_methods(run, config, {"base": None})


def test_a_long_item_has_no_reply_and_is_listed(data, model_folder, tmp_path):
    long = {**rows("arc", "arc_easy", 1)[0], "id": "long", "question": "Why? " * 600}
    write(data / "arc.jsonl", [long, *rows("arc", "arc_challenge", 1)])
    config = config_for(model_folder, benchmarks=["arc"], data=str(data))
    with Run.open(tmp_path / "run") as run:
        result = evaluate_methods(run, config, {"base": None})
        first, second = run.table("predictions", Prediction)
    assert (first.text, first.ended, first.correct, first.loglikelihood_answer) == ("", "no room", False, None)
    assert second.ended in ("turn", "length")
    assert any(
        "1 prompts fill the model's context and count as wrong, first: long" in note for note in result.notes
    )


def test_synthesis_keeps_clear_of_the_benchmarks(data, model_folder):
    config = config_for(model_folder, benchmarks=["gsm_plus"], data=str(data), limit=1)
    held_out = load_held_out(config)
    assert len(held_out) == 4  # of all items, whatever the limit
    question = rows("gsm_plus", "digit_expansion", 4, [])[2]["question"]
    assert str(held_out.find(question)).startswith("gsm_plus, digit_expansion-2")


@pytest.mark.skipif(not BENCHMARKS.is_dir(), reason="LAMER_BENCHMARKS names no folder with the seven files")
@pytest.mark.parametrize("name", PAPER)
def test_all_seven_benchmarks_load_from_their_files(name, model_folder):
    loaded = load_benchmarks(config_for(model_folder, benchmarks=[name], data=str(BENCHMARKS), limit=3))
    tasks = {sample.task for sample in loaded.samples}
    assert (
        len(tasks) == {"comm": 6, "agieval": 8, "arc": 2, "mmlu": 57, "bbh": 23, "crass": 1, "gsm_plus": 1}[name]
    )
    assert len(loaded.samples) == 3 * len(tasks)
