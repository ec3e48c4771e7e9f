from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from training_examples import make_example

from lamer.config import load_config, to_yaml
from lamer.errors import ConfigError, DataError, ModelError
from lamer.records import Deficiency, Example
from lamer.run import Run
from lamer.scoring.model import load_model
from lamer.scoring.render import Renderer
from lamer.scoring.scorer import Pair, Scorer
from lamer.testing import tiny_model
from lamer.training import checkpoints, trainer
from lamer.training.dataset import encode
from lamer.training.examples import load_examples
from lamer.training.held_out import HeldOut, Measured, best_of, hold_out, is_over
from lamer.training.stage import train
from lamer.training.trainer import train_adapter

TRAINED = [make_example(number) for number in range(11)]
HELD = [make_example(number) for number in range(20, 25)]


def lesson(number, *, is_first):
    """One question to which the first, milder examples teach one reply, and the later ones another."""
    return make_example(
        number,
        question="A spoon lies in hot tea. What happened?",
        answer=0 if is_first else 1,
        explanation="Iron conducts heat." if is_first else "Wool is warm and soft.",
        severity=0.2 if is_first else 1.5,
    )


LESSONS = [lesson(number, is_first=number < 16) for number in range(48)]
FIRST = [lesson(number, is_first=True) for number in range(50, 54)]
"""Held out: learnt at first, unlearnt later, so that their loss is lowest in the middle of the training."""


def logged(out):
    return [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]


def losses(out):
    return {row["step"]: row["held_out_loss"] for row in logged(out) if "held_out_loss" in row}


def weights(adapter):
    return (adapter / "adapter_model.safetensors").read_bytes()


def names(folder):
    return sorted(path.name for path in folder.iterdir())


@pytest.fixture
def choosing(settings):
    """Measured after every second step, the best adapter kept, with a patience of two; 12 steps planned."""

    def made(**changes):
        base = {
            "train.held_out.path": "[held.jsonl]",
            "train.held_out.every_steps": 2,
            "train.held_out.keep": "best",
            "train.held_out.patience": 2,
            "train.epochs": 1,
            "train.micro_batch_size": 4,
            "train.schedule": "constant",
            "train.learning_rate": 0.05,
            "train.save_steps": 3,
        }
        return settings(**{**base, **changes})

    return made


@pytest.fixture
def chosen(choosing, tmp_path):
    """An undisturbed training."""
    result = train_adapter(LESSONS, choosing(), tmp_path / "whole", tmp_path / "whole-adapter", held_out=FIRST)
    return result, tmp_path / "whole", tmp_path / "whole-adapter"


def units(examples):
    return {example.deficiency_id for example in examples}


def test_a_share_of_the_deficiencies_of_each_tier_is_held_out_with_all_examples(settings):
    examples = [make_example(number, unit=f"d{number // 3}") for number in range(60)]
    tiers = {f"d{number}": "easy" if number < 10 else "unfair" for number in range(20)}
    split = hold_out(examples, settings(**{"train.held_out.share": 0.2}), tiers)
    assert not units(split.training) & units(split.held_out)
    assert sorted(tiers[unit] for unit in units(split.held_out)) == ["easy", "easy", "unfair", "unfair"]
    assert len(split.held_out) == 12
    again = hold_out(examples[::-1], settings(**{"train.held_out.share": 0.2}), tiers)
    assert units(again.held_out) == units(split.held_out)
    other = hold_out(examples, settings(**{"train.held_out.share": 0.2, "seed": 1}), tiers)
    assert units(other.held_out) != units(split.held_out)


def test_without_a_share_nothing_is_held_out_and_of_one_deficiency_neither(settings):
    assert hold_out(TRAINED, settings(), {}).held_out == []
    one = [make_example(number, unit="d") for number in range(4)]
    assert hold_out(one, settings(**{"train.held_out.share": 0.5}), {}).held_out == []
    two = [make_example(0, unit="a"), make_example(1, unit="b")]
    assert len(hold_out(two, settings(**{"train.held_out.share": 0.01}), {}).held_out) == 1


@given(count=st.integers(0, 30), share=st.floats(0, 0.5), seed=st.integers(0, 5))
def test_no_example_is_lost_and_no_deficiency_parted(count, share, seed):
    examples = [make_example(n, unit=None if n % 5 == 0 else f"d{n % 7}") for n in range(count)]
    split = hold_out(
        examples, load_config({"train": {"held_out": {"share": share}}, "seed": seed}), {"d1": "hard"}
    )
    assert sorted([*split.training, *split.held_out], key=lambda row: row.id) == examples
    assert not (units(split.training) & units(split.held_out)) - {None}
    total = len({row.deficiency_id or row.id for row in examples})
    held = len({row.deficiency_id or row.id for row in split.held_out})
    assert held == (min(max(int(share * total + 0.5), 1), max(total - 1, 0)) if share else 0)


def facts_of(examples):
    return {example.deficiency_id.rpartition("|")[2] for example in examples}


@given(
    sizes=st.lists(st.integers(1, 4), min_size=2, max_size=12),
    share=st.floats(0.01, 0.5),
    seed=st.integers(0, 5),
)
def test_deficiencies_of_one_fact_are_on_one_side(sizes, share, seed):
    units = [f"q{query}|f{fact}" for fact, size in enumerate(sizes) for query in range(size)]
    examples = [make_example(2 * n + k, unit=unit) for n, unit in enumerate(units) for k in range(2)]
    config = load_config({"train": {"held_out": {"share": share}}, "seed": seed})
    split = hold_out(examples, config, {})
    assert not facts_of(split.training) & facts_of(split.held_out)
    assert split.training
    assert split.held_out
    assert hold_out(examples[::-1], config, {}).held_out == split.held_out[::-1]
    wanted = min(max(int(share * len(units) + 0.5), 1), len(units) - 1)
    num_held = len(split.held_out) // 2
    left = [size for fact, size in enumerate(sizes) if f"f{fact}" not in facts_of(split.held_out)]
    assert abs(num_held - wanted) < max(sizes)
    if len(left) > 1 and len(facts_of(split.held_out)) > 1:
        assert all(abs(num_held + size - wanted) >= abs(num_held - wanted) for size in left), "nothing left helps"


def test_the_share_of_whole_facts_of_a_case_done_by_hand(settings):
    """Ten deficiencies, two to hold out: a fact of one and one of nine can only give one."""
    units = ["q0|alone", *(f"q{n}|shared" for n in range(9))]
    examples = [make_example(n, unit=unit) for n, unit in enumerate(units)]
    config = settings(**{"train.held_out.share": 0.2})
    assert [row.id for row in hold_out(examples, config, {}).held_out] == ["x00"]
    facts = dict.fromkeys(units, "f|1") | {"q5|shared": "f|2"}  # as the table says, whatever the ids look like
    assert [row.id for row in hold_out(examples, config, {}, facts).held_out] == ["x06"]


@pytest.mark.parametrize("where", ["train", "replay"])
@pytest.mark.parametrize(
    ("row", "what"),
    [
        ({"id": "x03", "question": "What else?"}, "id"),
        (
            {
                "id": "new",
                "question": "A spoon number 3 lies in hot tea.  What happened as a RESULT?",
                "options": ["It sang", "It became hot", "It stayed cool"],
            },
            "question and options",
        ),
    ],
)
def test_a_held_out_row_that_is_trained_on_is_refused_with_its_place(row, what, where, settings, tmp_path):
    fine = {"id": "fine", "question": "What sank?", "options": ["a stone", "a cork"], "answer": "A"}
    file, general = tmp_path / "held.jsonl", tmp_path / "general.jsonl"
    file.write_text(json.dumps(fine) + "\n" + json.dumps({**fine, **row}) + "\n")
    changes = {"train.held_out.path": f"[{file}]"}
    examples = TRAINED
    if where == "replay":
        same = {"id": "x03", "question": TRAINED[3].question, "options": TRAINED[3].options, "answer": "A"}
        general.write_text(json.dumps(same) + "\n")
        changes["train.replay.path"] = f"[{general}]"
        examples = TRAINED[:2]
    with pytest.raises(DataError, match=rf"^{file}, line 2: has the {what} of the training example 'x03'; "):
        hold_out(examples, settings(**changes), {})


def test_rows_without_ids_in_files_of_one_name_are_different_examples(settings, tmp_path):
    paths = [tmp_path / name / "rows.jsonl" for name in ("trained", "held")]
    for path, question in zip(paths, ("What sank?", "What swam?")):
        path.parent.mkdir()
        row = {"question": question, "options": ["a stone", "a cork"], "answer": "A"}
        path.write_text(json.dumps(row) + "\n")
    trained, held = (load_examples([str(path)]) for path in paths)
    assert trained[0].id == held[0].id == "rows:1"
    split = hold_out(trained, settings(**{"train.held_out.path": f"[{paths[1]}]"}), {})
    assert split.held_out == held


def test_files_are_held_out_instead(settings, tmp_path):
    row = {"id": "mine", "question": "What sank?", "options": ["a stone", "a cork"], "answer": "A"}
    (tmp_path / "held.jsonl").write_text(json.dumps(row) + "\n")
    split = hold_out(TRAINED, settings(**{"train.held_out.path": f"[{tmp_path / 'held.jsonl'}]"}), {})
    assert (split.training, [example.id for example in split.held_out]) == (TRAINED, ["mine"])


@pytest.mark.parametrize(
    ("given_", "message"),
    [
        ({"keep": "best"}, r"train\.held_out: keep: best needs .* set train\.held_out\.share"),
        ({"patience": 2}, r"train\.held_out: patience needs"),
        ({"share": 0.1, "path": ["x.jsonl"]}, r"train\.held_out: has a share and files"),
    ],
)
def test_settings_that_need_held_out_examples_say_so(given_, message):
    with pytest.raises(ConfigError, match=message):
        load_config({"train": {"held_out": given_}})


def test_the_best_is_the_earliest_of_the_lowest_and_patience_counts_from_it():
    rows = [Measured(step, loss) for step, loss in ((2, 3.0), (4, 1.0), (6, 1.0), (8, 2.0))]
    assert best_of(rows) == Measured(4, 1.0)
    assert best_of([]) is None
    assert [is_over(rows[:count], 2) for count in range(5)] == [False, False, False, False, True]
    assert is_over(rows, 1)
    assert not is_over(rows, 3)
    assert not is_over(rows, None)


def test_the_loss_is_the_log_likelihood_that_the_scorer_gives_to_the_completions(settings, tmp_path):
    config = settings(**{"train.held_out.path": "[held.jsonl]"})
    result = train_adapter(TRAINED, config, tmp_path / "out", tmp_path / "adapter", held_out=HELD)
    loaded = load_model(config.model, tmp_path / "adapter")
    rows = [encode(example, Renderer(loaded.tokenizer, config.prompt)) for example in HELD]
    pairs = [Pair(row.input_ids[: row.num_context], row.input_ids[row.num_context :]) for row in rows]
    scores = Scorer(loaded, 4096).score(pairs)
    expected = -sum(score.logprob for score in scores) / sum(score.num_tokens for score in scores)
    assert result.held_out_loss == pytest.approx(expected, rel=1e-5)
    assert (result.kept_step, result.stopped_early, result.num_held_out) == (6, False, 5)
    assert list(losses(tmp_path / "out")) == [3, 6]  # once an epoch


def test_measuring_does_not_change_the_training(settings, tmp_path):
    """With dropout, which draws random numbers."""
    plain = settings(**{"train.lora.dropout": 0.3})
    watched = settings(
        **{"train.lora.dropout": 0.3, "train.held_out.path": "[x]", "train.held_out.every_steps": 1}
    )
    train_adapter(TRAINED, plain, tmp_path / "out", tmp_path / "adapter")
    train_adapter(TRAINED, watched, tmp_path / "out2", tmp_path / "adapter2", held_out=HELD)
    assert len(losses(tmp_path / "out2")) == 6
    assert weights(tmp_path / "adapter2") == weights(tmp_path / "adapter")


def test_the_best_adapter_is_kept_and_patience_ends_the_training(chosen, choosing, settings, tmp_path):
    result, out, adapter = chosen
    found = losses(out)
    best = min(found, key=found.get)
    assert 1 < best < max(found) < 12, "the case must have its best in the middle"
    assert (result.kept_step, result.held_out_loss) == (best, found[best])
    assert result.stopped_early
    assert result.num_steps == max(found) == best + 4 == len(logged(out))
    assert len((out / "order.jsonl").read_text().splitlines()) == result.num_steps
    assert names(out) == ["log.jsonl", "order.jsonl", "plan.json", "result.json"]
    everything = train_adapter(
        LESSONS, choosing(**{"train.held_out.patience": "null"}), tmp_path / "o", tmp_path / "a", held_out=FIRST
    )
    assert (everything.num_steps, everything.stopped_early) == (12, False)
    assert list(losses(tmp_path / "o")) == [2, 4, 6, 8, 10, 12]
    assert weights(tmp_path / "a") == weights(adapter)
    loaded = load_model(choosing().model, adapter)
    rows = [encode(example, Renderer(loaded.tokenizer, choosing().prompt)) for example in FIRST]
    scores = Scorer(loaded, 4096).score(
        [Pair(row.input_ids[: row.num_context], row.input_ids[row.num_context :]) for row in rows]
    )
    again = -sum(score.logprob for score in scores) / sum(score.num_tokens for score in scores)
    assert again == pytest.approx(found[best], rel=1e-5)


def test_a_training_stopped_anywhere_chooses_the_same_adapter(chosen, choosing, tmp_path, monkeypatch, stopped_at):
    result, whole, adapter = chosen
    for stop, is_torn in ((4, False), (7, True), (8, False), (10, True)):
        out, again = tmp_path / f"out{stop}", tmp_path / f"adapter{stop}"

        def start(out=out, again=again):
            return train_adapter(LESSONS, choosing(), out, again, held_out=FIRST)

        stopped_at(stop, start)
        if is_torn:  # so it goes on after the one before, with the best adapter of that time
            (checkpoints.checkpoints(out)[-1][1] / checkpoints.MARKER).unlink()
        assert start() == result
        assert weights(again) == weights(adapter)
        for file in ("log.jsonl", "order.jsonl"):
            assert (out / file).read_text() == (whole / file).read_text()
        assert names(out) == names(whole)


@pytest.mark.parametrize("save_steps", [1, 3])
def test_a_training_stopped_between_its_end_and_its_adapter_chooses_the_same(
    save_steps, chosen, choosing, tmp_path, monkeypatch
):
    """With a checkpoint at the very step where patience ended it, nothing more may be trained."""

    def stop(*_):
        raise KeyboardInterrupt

    out, adapter = tmp_path / "out", tmp_path / "adapter"
    config = choosing(**{"train.save_steps": save_steps})
    with monkeypatch.context() as patch:
        patch.setattr(trainer, "_save", stop)
        with pytest.raises(KeyboardInterrupt):
            train_adapter(LESSONS, config, out, adapter, held_out=FIRST)
    assert train_adapter(LESSONS, config, out, adapter, held_out=FIRST) == chosen[0]
    assert weights(adapter) == weights(chosen[2])
    assert train_adapter(LESSONS, config, out, adapter, held_out=FIRST) == chosen[0]


KILLED = """
import os, signal, sys
from pathlib import Path
sys.path[:0] = [{tests!r}]
from test_held_out import FIRST, LESSONS
from lamer.config import load_config
from lamer.training import held_out
from lamer.training.trainer import train_adapter

class Killed(type(Path())):
    def replace(self, target):
        os.kill(os.getpid(), signal.SIGKILL)

keep = held_out.HeldOut._folder
def folder(self, step):
    found = keep(self, step)
    return Killed(found) if step >= 4 else found
held_out.HeldOut._folder = folder
train_adapter(LESSONS, load_config(Path({config!r})), Path({out!r}), Path({adapter!r}), held_out=FIRST)
"""


def test_a_training_killed_while_it_keeps_an_adapter_chooses_the_same(chosen, choosing, tmp_path):
    assert chosen[0].kept_step >= 4
    out, adapter = tmp_path / "out", tmp_path / "adapter"
    (tmp_path / "lamer.yaml").write_text(to_yaml(choosing()))
    script = KILLED.format(
        tests=str(Path(__file__).parent), config=str(tmp_path / "lamer.yaml"), out=str(out), adapter=str(adapter)
    )
    killed = subprocess.run([sys.executable, "-c", script], capture_output=True, timeout=300)
    assert killed.returncode == -signal.SIGKILL, killed.stderr.decode()[-2000:]
    assert any(name.startswith(".best-") for name in names(out))
    assert train_adapter(LESSONS, choosing(), out, adapter, held_out=FIRST) == chosen[0]
    assert weights(adapter) == weights(chosen[2])
    assert names(out) == names(chosen[1])


def test_a_held_out_loss_that_is_not_finite_stops_the_training(settings, tmp_path):
    model, tokenizer = tiny_model("llama")
    encoded = encode(HELD[0], Renderer(tokenizer, settings().prompt))
    held = HeldOut(
        tmp_path, settings().train.held_out, {"h": encoded}, checkpoints.StepLog(tmp_path / "log"), 4, 2
    )
    assert [held.is_due(step) for step in (1, 2, 3, 4)] == [False, True, False, True]
    assert held.measure(2, model, lambda batch: torch.tensor(3.0 * encoded.num_completion), 4) == 3.0
    with pytest.raises(ModelError, match="held-out loss became nan at step 4"):
        held.measure(4, model, lambda batch: torch.tensor(float("nan")), 4)


def test_the_stage_says_what_was_kept_and_why_it_stopped(settings, tmp_path):
    with Run.open(tmp_path / "run") as run:
        run.table("examples", Example).write(0, TRAINED)
        run.table("deficiencies", Deficiency).write(
            0, [Deficiency(f"d{n:02d}", f"q{n}", f"f{n}", 0.5, "normal", 2) for n in range(6)]
        )
        changes = {"train.held_out.share": 0.3, "train.held_out.keep": "best", "train.batch_size": 7}
        result = train(run, settings(**changes))
        steps = (run.path / "training" / "order.jsonl").read_text()
    assert (result.counts["examples"], result.counts["held_out"]) in {(7, 4), (8, 3)}
    (note,) = (note for note in result.notes if note.startswith("held out"))
    assert f"that of step {result.counts['kept_step']} (the lowest held-out loss" in note
    assert "training ended with its plan" in note
    assert (
        len({id_ for line in steps.splitlines() for id_ in json.loads(line)["ids"]}) == result.counts["examples"]
    )


def test_too_few_deficiencies_to_hold_out_are_said(settings, tmp_path):
    with Run.open(tmp_path / "run") as run:
        run.table("examples", Example).write(0, [make_example(number, unit="d") for number in range(3)])
        result = train(run, settings(**{"train.held_out.share": 0.3, "train.epochs": 1}))
    assert result.counts["held_out"] == 0
    assert any("held out: no example" in note for note in result.notes)


def test_trackers_get_the_held_out_loss(settings, tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    changes = {"train.held_out.path": "[x]", "train.report_to": "[tensorboard]", "train.epochs": 1}
    train_adapter(TRAINED[:5], settings(**changes), tmp_path / "out", tmp_path / "adapter", held_out=HELD)
    (folder,) = {file.parent for file in (tmp_path / "out").rglob("events.*")}
    reader = EventAccumulator(str(folder))
    reader.Reload()
    found = {event.step: event.value for event in reader.Scalars("train/held_out_loss")}
    assert found == pytest.approx(losses(tmp_path / "out"), rel=1e-6)
    assert list(found) == [2]
