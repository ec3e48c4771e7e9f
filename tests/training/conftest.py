"""A tiny real model and a handful of examples."""

from __future__ import annotations

import pytest
from training_examples import make_example

from lamer.config import load_config
from lamer.testing import tiny_model
from lamer.training import checkpoints


@pytest.fixture
def examples():
    return [make_example(number) for number in range(11)]


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    tiny_model("llama", folder)
    return folder


@pytest.fixture
def settings(model_folder):
    """A configuration on the tiny model; `settings(**{"train.epochs": 2})`."""

    def made(**changes):
        base = {
            "train.batch_size": 4,
            "train.micro_batch_size": 2,
            "train.epochs": 2,
            "train.learning_rate": 0.01,
            "train.lora.rank": 4,
            "train.save_steps": 2,
            "train.order": "ascending",
            "train.report_to": "[]",
        }
        pairs = [f"{key}={value}" for key, value in {**base, **changes}.items()]
        return load_config({"model": {"name": str(model_folder), "device": "cpu"}}, pairs)

    return made


@pytest.fixture
def stopped_at(monkeypatch):
    """`stopped_at(step, start)`: a training that Ctrl-C ends when that step has run."""

    def stop_at(step, start):
        record = checkpoints.OrderLog.record

        def stop(self, number, ids):
            record(self, number, ids)
            if number == step:
                raise KeyboardInterrupt

        with monkeypatch.context() as patch:
            patch.setattr(checkpoints.OrderLog, "record", stop)
            with pytest.raises(KeyboardInterrupt):
                start()

    return stop_at
