from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from training_examples import make_example

from lamer.errors import ModelError, RunError
from lamer.scoring.model import LoadedModel, load_model
from lamer.scoring.render import Renderer
from lamer.scoring.scorer import Pair, Scorer
from lamer.testing import FAMILIES, tiny_model
from lamer.training import checkpoints, trainer
from lamer.training.curriculum import order_examples, plan_steps
from lamer.training.dataset import PlannedSteps, encode, encode_examples
from lamer.training.trainer import completion_loss, effective_scaling, train_adapter


def files(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def weights(folder):
    return (folder / "adapter_model.safetensors").read_bytes()


def steps_of(out):
    return [json.loads(line)["ids"] for line in (out / "order.jsonl").read_text().splitlines()]


@pytest.fixture
def trained(examples, settings, tmp_path):
    """An undisturbed training."""
    result = train_adapter(examples, settings(), tmp_path / "whole", tmp_path / "whole-adapter")
    return result, tmp_path / "whole", tmp_path / "whole-adapter"


def test_training_leaves_an_adapter_with_a_card_and_two_logs(trained, capfd):
    result, out, adapter = trained
    assert (result.num_examples, result.num_steps, result.left_out) == (11, 6, ())
    assert result.scaling == 2.0
    assert result.num_parameters > 0
    assert files(adapter) == ["README.md", "adapter_config.json", "adapter_model.safetensors"]
    assert files(out) == ["log.jsonl", "order.jsonl", "plan.json", "result.json"]
    log = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    assert [row["step"] for row in log] == [1, 2, 3, 4, 5, 6]
    assert log[-1]["loss"] == result.final_loss < log[0]["loss"]
    assert log[0]["learning_rate"] == pytest.approx(0.01)
    card = (adapter / "README.md").read_text()
    assert "scaling 2" in card
    assert "| easy | 4 |" in card
    assert "a teacher" in card


def test_the_tiers_of_the_deficiencies_decide_over_the_relative_entropy(examples, settings, tmp_path):
    """Under a calibrated threshold a pair below 0.1 nats may be a deficiency, one above may be none."""
    mildest = examples[0].deficiency_id
    tiers = {unit: "unfair" if unit == mildest else "easy" for unit in (row.deficiency_id for row in examples)}
    by_tier = settings(**{"train.scope": "tier", "train.epochs": 1})
    train_adapter(examples, by_tier, tmp_path / "out", tmp_path / "adapter", tiers)
    order = [id_ for step in steps_of(tmp_path / "out") for id_ in step]
    assert set(order[-2:]) == {example.id for example in examples if example.deficiency_id == mildest}
    assert "| easy | 9 |" in (tmp_path / "adapter" / "README.md").read_text()


def test_nothing_is_printed_on_stdout(examples, settings, tmp_path, capfd):
    train_adapter(examples, settings(), tmp_path / "out", tmp_path / "adapter")
    captured = capfd.readouterr()
    assert captured.out == ""
    assert "Warning" not in captured.err


def test_the_realised_order_is_the_ascending_plan_epoch_after_epoch(trained, examples):
    _, out, _ = trained
    ascending = [item.id for item in order_examples(examples, "ascending", 0)]
    assert ascending == sorted(ascending)  # severities rise with the ids
    planned = plan_steps(ascending, batch_size=4, epochs=2)
    assert [sorted(ids) for ids in steps_of(out)] == [sorted(ids) for ids in planned]
    assert [len(ids) for ids in steps_of(out)] == [4, 4, 3, 4, 4, 3]


def test_a_step_that_leaves_the_plan_stops_the_training(examples, settings, tmp_path, monkeypatch):
    real = PlannedSteps.__getitem__
    monkeypatch.setattr(PlannedSteps, "__getitem__", lambda self, step: real(self, (step + 1) % len(self)))
    with pytest.raises(RunError, match="left the planned order at step 1"):
        train_adapter(examples, settings(), tmp_path / "out", tmp_path / "adapter")
    assert not (tmp_path / "adapter").exists()


@pytest.mark.parametrize("family", FAMILIES)
def test_the_loss_is_the_log_likelihood_that_the_scorer_gives_to_the_completions(family, examples, settings):
    model, tokenizer = tiny_model(family)
    loaded = LoadedModel(model, tokenizer, torch.device("cpu"))
    encoded = encode_examples(examples[:5], Renderer(tokenizer, settings().prompt), 500).examples
    pairs = [Pair(row.input_ids[: row.num_context], row.input_ids[row.num_context :]) for row in encoded.values()]
    expected = -sum(score.logprob for score in Scorer(loaded, 4096).score(pairs))
    (batch,) = PlannedSteps([list(encoded)], encoded, 8)[0]["micro_batches"]
    for projection in ("all", "mask"):
        assert completion_loss(model, batch, projection).item() == pytest.approx(expected, rel=1e-5)


def test_micro_batches_grouped_by_length_give_the_gradient_of_the_whole_batch(examples, settings):
    model, tokenizer = tiny_model("llama")
    encoded = encode_examples(examples, Renderer(tokenizer, settings().prompt), 500).examples

    def gradient(micro_batch_size):
        model.zero_grad()
        step = PlannedSteps([list(encoded)], encoded, micro_batch_size)[0]
        for batch in step["micro_batches"]:
            (completion_loss(model, batch) / step["num_items"]).backward()
        return torch.cat([parameter.grad.flatten() for parameter in model.parameters()])

    whole = gradient(len(encoded))
    for size in (1, 2, 3):
        torch.testing.assert_close(gradient(size), whole, rtol=1e-4, atol=1e-6)


def test_training_equals_a_loop_written_by_hand(examples, settings, tmp_path):
    config = settings(**{"train.lora.dropout": 0.0, "train.schedule": "constant"})
    train_adapter(examples, config, tmp_path / "out", tmp_path / "adapter")

    from peft import LoraConfig, get_peft_model
    from safetensors.torch import load_file

    loaded = load_model(config.model)
    torch.manual_seed(0)
    lora = LoraConfig(r=4, lora_alpha=8, target_modules="all-linear", task_type="CAUSAL_LM")
    model = get_peft_model(loaded.model, lora).train()
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    adam = torch.optim.Adam(parameters, lr=0.01)
    renderer = Renderer(loaded.tokenizer, config.prompt)
    rows = [encode(item, renderer) for item in sorted(examples, key=lambda item: item.id)]
    for _ in range(2):
        for start in range(0, len(rows), 4):
            batch = rows[start : start + 4]
            losses = []
            for row in batch:
                logits = model(input_ids=torch.tensor([row.input_ids])).logits[0]
                log_p = logits.log_softmax(-1)
                losses += [-log_p[t - 1, row.input_ids[t]] for t in range(row.num_context, len(row.input_ids))]
            adam.zero_grad()
            torch.stack(losses).mean().backward()
            torch.nn.utils.clip_grad_norm_(parameters, 1.0)
            adam.step()
    saved = load_file(tmp_path / "adapter" / "adapter_model.safetensors")
    by_hand = {
        name.replace(".default", ""): value for name, value in model.state_dict().items() if "lora_" in name
    }
    assert saved.keys() == by_hand.keys()
    for name, value in saved.items():
        torch.testing.assert_close(value, by_hand[name], rtol=1e-3, atol=1e-4)


def test_the_adapter_makes_the_completions_likelier(trained, examples, settings):
    _, _, adapter = trained
    config = settings()

    def likelihood(folder):
        loaded = load_model(config.model, folder)
        renderer = Renderer(loaded.tokenizer, config.prompt)
        rows = [encode(item, renderer) for item in examples]
        pairs = [Pair(row.input_ids[: row.num_context], row.input_ids[row.num_context :]) for row in rows]
        return sum(score.logprob for score in Scorer(loaded, 4096).score(pairs))

    assert likelihood(adapter) > likelihood(None)


@pytest.mark.parametrize("stop_at", [1, 3, 4, 6])
def test_a_stopped_training_goes_on_and_ends_with_the_same_adapter(
    stop_at, trained, examples, settings, tmp_path, monkeypatch
):
    record = checkpoints.OrderLog.record

    def stop(self, step, ids):
        record(self, step, ids)
        if step == stop_at:
            raise KeyboardInterrupt

    out, adapter = tmp_path / "out", tmp_path / "adapter"
    with monkeypatch.context() as patch:
        patch.setattr(checkpoints.OrderLog, "record", stop)
        with pytest.raises(KeyboardInterrupt):
            train_adapter(examples, settings(), out, adapter)
    assert not adapter.exists()
    result = train_adapter(examples[::-1], settings(), out, adapter)
    assert result == trained[0]
    assert weights(adapter) == weights(trained[2])
    assert steps_of(out) == steps_of(trained[1])
    assert (out / "log.jsonl").read_text() == (trained[1] / "log.jsonl").read_text()
    assert files(out) == files(trained[1])


@pytest.mark.parametrize("damage", ["unmarked", "truncated"])
def test_a_torn_checkpoint_is_skipped(damage, trained, examples, settings, tmp_path, monkeypatch):
    record = checkpoints.OrderLog.record

    def stop(self, step, ids):
        if step == 5:
            raise KeyboardInterrupt
        record(self, step, ids)

    out, adapter = tmp_path / "out", tmp_path / "adapter"
    with monkeypatch.context() as patch:
        patch.setattr(checkpoints.OrderLog, "record", stop)
        with pytest.raises(KeyboardInterrupt):
            train_adapter(examples, settings(), out, adapter)
    newest = out / "checkpoint-4"
    if damage == "unmarked":
        (newest / checkpoints.MARKER).unlink()
    else:
        content = (newest / "optimizer.pt").read_bytes()
        (newest / "optimizer.pt").write_bytes(content[: len(content) // 2])
    assert checkpoints.last_whole(out) == (2, out / "checkpoint-2")
    train_adapter(examples, settings(), out, adapter)
    assert weights(adapter) == weights(trained[2])
    assert steps_of(out) == steps_of(trained[1])


KILLED = """
import os, signal, sys
from pathlib import Path
sys.path[:0] = [{tests!r}]
from training_examples import make_example
from lamer.config import load_config
from lamer.training import checkpoints
from lamer.training.trainer import train_adapter

record = checkpoints.OrderLog.record
def kill(self, step, ids):
    record(self, step, ids)
    if step == 4:
        os.kill(os.getpid(), signal.SIGKILL)
checkpoints.OrderLog.record = kill
examples = [make_example(number) for number in range(11)]
train_adapter(examples, load_config(Path({config!r})), Path({out!r}), Path({adapter!r}))
"""


def test_a_killed_training_goes_on_and_ends_with_the_same_adapter(trained, examples, settings, tmp_path):
    from lamer.config import to_yaml

    config, out, adapter = settings(), tmp_path / "out", tmp_path / "adapter"
    (tmp_path / "lamer.yaml").write_text(to_yaml(config))
    script = KILLED.format(
        tests=str(Path(__file__).parent), config=str(tmp_path / "lamer.yaml"), out=str(out), adapter=str(adapter)
    )
    killed = subprocess.run([sys.executable, "-c", script], capture_output=True, timeout=300)
    assert killed.returncode == -signal.SIGKILL, killed.stderr.decode()[-2000:]
    assert len(steps_of(out)) == 4
    assert not adapter.exists()
    train_adapter(examples, config, out, adapter)
    assert weights(adapter) == weights(trained[2])
    assert steps_of(out) == steps_of(trained[1])


def test_a_training_stopped_before_the_adapter_has_its_name_goes_on(
    trained, examples, settings, tmp_path, monkeypatch
):
    def stop(*_):
        raise KeyboardInterrupt

    out, adapter = tmp_path / "out", tmp_path / "adapter"
    with monkeypatch.context() as patch:
        patch.setattr(trainer, "_save", stop)
        with pytest.raises(KeyboardInterrupt):
            train_adapter(examples, settings(**{"train.save_steps": 4}), out, adapter)
    train_adapter(examples, settings(**{"train.save_steps": 4}), out, adapter)
    assert weights(adapter) == weights(trained[2])
    assert steps_of(out) == steps_of(trained[1])


def test_a_finished_training_is_not_done_again(trained, examples, settings, monkeypatch):
    result, out, adapter = trained
    monkeypatch.setattr(trainer, "_train", lambda *_: pytest.fail("trained again"))
    assert train_adapter(examples, settings(), out, adapter) == result


def test_a_folder_of_another_training_is_refused(trained, examples, settings, tmp_path):
    _, out, adapter = trained
    with pytest.raises(RunError, match="other data or settings"):
        train_adapter(examples, settings(**{"train.epochs": 3}), out, tmp_path / "other")
    with pytest.raises(RunError, match="other data or settings"):
        train_adapter(examples[1:], settings(), out, tmp_path / "other")
    with pytest.raises(RunError, match="exists already"):
        train_adapter(examples, settings(), tmp_path / "new", adapter)


def test_no_examples_mean_no_training_and_no_files(settings, tmp_path):
    result = train_adapter([], settings(), tmp_path / "out", tmp_path / "adapter")
    assert (result.num_examples, result.num_steps, result.final_loss) == (0, 0, None)
    assert list(tmp_path.iterdir()) == []


def test_examples_that_do_not_fit_are_left_out_and_named(examples, settings, tmp_path):
    long = make_example(20, explanation="Heat flows from hot to cold. " * 40)
    result = train_adapter([*examples[:4], long], settings(), tmp_path / "out", tmp_path / "adapter")
    assert result.left_out == ("x20",)
    assert result.num_examples == 4
    assert "x20" not in (tmp_path / "out" / "order.jsonl").read_text()
    alone = train_adapter([long], settings(), tmp_path / "out2", tmp_path / "adapter2")
    assert (alone.num_examples, alone.left_out) == (0, ("x20",))
    assert not (tmp_path / "adapter2").exists()


def test_unknown_target_modules_are_one_line(examples, settings, tmp_path):
    with pytest.raises(ModelError, match=r"train\.lora.*all-linear"):
        train_adapter(
            examples, settings(**{"train.lora.target_modules": "[nope]"}), tmp_path / "o", tmp_path / "a"
        )


def test_the_scaling_is_alpha_over_rank_or_its_root(settings):
    assert effective_scaling(settings(**{"train.lora.rank": 128}).train.lora) == 0.0625
    assert effective_scaling(
        settings(**{"train.lora.rank": 64, "train.lora.rslora": True}).train.lora
    ) == pytest.approx(1.0)


def test_warmup_raises_the_rate_before_the_schedule(examples, settings, tmp_path):
    config = settings(**{"train.schedule": "constant", "train.warmup": 0.5})
    train_adapter(examples, config, tmp_path / "out", tmp_path / "adapter")
    log = [json.loads(line)["learning_rate"] for line in (tmp_path / "out" / "log.jsonl").read_text().splitlines()]
    assert log == pytest.approx([0.0, 0.01 / 3, 0.02 / 3, 0.01, 0.01, 0.01])


def test_a_loss_that_is_not_finite_stops_the_training(examples, settings, tmp_path, monkeypatch):
    monkeypatch.setattr(trainer, "completion_loss", lambda *row, **options: completion_loss(*row) * float("nan"))
    with pytest.raises(ModelError, match="the loss became nan at step 1"):
        train_adapter(examples, settings(), tmp_path / "out", tmp_path / "adapter")


def test_dora_trains_magnitudes_as_well(examples, settings, tmp_path):
    changes = {"train.lora.dora": "true", "train.epochs": 1}
    result = train_adapter(examples, settings(**changes), tmp_path / "out", tmp_path / "adapter")
    plain = train_adapter(
        examples, settings(**{"train.epochs": 1}), tmp_path / "plain", tmp_path / "plain-adapter"
    )
    assert result.num_parameters > plain.num_parameters
    assert json.loads((tmp_path / "adapter/adapter_config.json").read_text())["use_dora"] is True
    assert "DoRA" in (tmp_path / "adapter/README.md").read_text()
