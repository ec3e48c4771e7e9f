"""TensorBoard's files, read back; other trackers are shown every step, and cannot end a training."""

from __future__ import annotations

import json
from importlib.util import find_spec

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from transformers import TrainerCallback, integrations

from lamer.errors import UsageError
from lamer.training.tracking import FOLDER
from lamer.training.trainer import train_adapter

NAMES = {"loss": "train/loss", "learning_rate": "train/learning_rate", "grad_norm": "train/grad_norm"}


def scalars(out, name):
    """(step, value) as TensorBoard shows them."""
    reader = EventAccumulator(str(out / FOLDER), size_guidance={"scalars": 0})
    reader.Reload()
    return [(event.step, event.value) for event in reader.Scalars(name)]


def logged(out, name):
    rows = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    return [(row["step"], pytest.approx(row[name], rel=1e-6)) for row in rows]


@pytest.fixture
def config(settings):
    return settings(**{"train.report_to": "[tensorboard]"})


def test_tensorboard_shows_every_step_of_the_log(config, examples, tmp_path):
    train_adapter(examples, config, tmp_path / "out", tmp_path / "adapter")
    for ours, theirs in NAMES.items():
        assert scalars(tmp_path / "out", theirs) == logged(tmp_path / "out", ours)
    assert [step for step, _ in scalars(tmp_path / "out", "train/loss")] == [1, 2, 3, 4, 5, 6]


def test_a_training_that_goes_on_shows_every_step_once(config, examples, tmp_path, stopped_at):
    out = tmp_path / "out"
    stopped_at(4, lambda: train_adapter(examples, config, out, tmp_path / "adapter"))
    assert [step for step, _ in scalars(out, "train/loss")] == [1, 2, 3]  # step 3 is lost: the checkpoint is of 2
    train_adapter(examples, config, out, tmp_path / "adapter")
    assert scalars(out, "train/loss") == logged(out, "loss")
    assert len(logged(out, "loss")) == 6


def test_nowhere_leaves_no_files(settings, examples, tmp_path):
    train_adapter(examples, settings(**{"train.report_to": "[]"}), tmp_path / "out", tmp_path / "adapter")
    assert not (tmp_path / "out" / FOLDER).exists()


@pytest.mark.parametrize("name", ["wandb", "mlflow"])
def test_a_missing_package_is_told_before_anything_is_loaded(name, settings, examples, tmp_path):
    if find_spec(name) is not None:
        pytest.skip(f"{name} is installed")
    config = settings(**{"train.report_to": f"[tensorboard, {name}]", "model.name": "nowhere/at-all"})
    with pytest.raises(UsageError, match=rf"train\.report_to: {name} is not installed: pip install {name}"):
        train_adapter(examples, config, tmp_path / "out", tmp_path / "adapter")
    assert list(tmp_path.iterdir()) == []


class Service(TrainerCallback):
    """A tracker as transformers' are, that fails at a step."""

    def __init__(self, fails_at=None):
        self.fails_at, self.seen = fails_at, []

    def on_train_begin(self, args, state, control, **_):
        if self.fails_at == 0:
            raise ConnectionError("no server at port 1\nTraceback ...")

    def on_log(self, args, state, control, logs=None, **_):
        if state.global_step == self.fails_at:
            raise ConnectionError("the server is gone\nTraceback ...")
        self.seen.append((state.global_step, logs.get("loss")))


def with_service(monkeypatch, service):
    monkeypatch.setattr("lamer.training.tracking.find_spec", lambda name: name)
    monkeypatch.setitem(integrations.integration_utils.INTEGRATION_TO_CALLBACK, "mlflow", lambda: service)


def test_another_tracker_is_shown_every_step(settings, examples, tmp_path, monkeypatch):
    with_service(monkeypatch, service := Service())
    train_adapter(examples, settings(**{"train.report_to": "[mlflow]"}), tmp_path / "out", tmp_path / "adapter")
    assert [(step, loss) for step, loss in service.seen if loss is not None] == logged(tmp_path / "out", "loss")
    assert not (tmp_path / "out" / FOLDER).exists()


def test_a_tracker_that_fails_midway_is_told_once_and_left_out(settings, examples, tmp_path, monkeypatch, capsys):
    with_service(monkeypatch, service := Service(fails_at=3))
    found = train_adapter(
        examples, settings(**{"train.report_to": "[mlflow]"}), tmp_path / "out", tmp_path / "adapter"
    )
    assert found.num_steps == 6
    assert [step for step, _ in service.seen] == [1, 2]
    told = [line for line in capsys.readouterr().err.splitlines() if "report_to" in line]
    assert told == [
        "train.report_to: mlflow failed (ConnectionError: the server is gone); the training goes on without it"
    ]


def test_a_tracker_that_cannot_be_set_up_is_one_line_before_the_first_step(
    settings, examples, tmp_path, monkeypatch
):
    with_service(monkeypatch, Service(fails_at=0))
    config = settings(**{"train.report_to": "[mlflow]"})
    with pytest.raises(UsageError) as caught:
        train_adapter(examples, config, tmp_path / "out", tmp_path / "adapter")
    assert str(caught.value) == (
        "train.report_to: mlflow cannot be used (ConnectionError: no server at port 1); set it up, or take it out "
        "of train.report_to"
    )
    assert not (tmp_path / "adapter").exists()
    with_service(monkeypatch, Service())
    assert train_adapter(examples, config, tmp_path / "out", tmp_path / "adapter").num_steps == 6
