"""A tiny real model and a few labelled samples."""

from __future__ import annotations

import json

import pytest
from evaluation_rows import ROWS

from lamer.config import load_config
from lamer.evaluation.benchmarks import Sample
from lamer.testing import tiny_model


@pytest.fixture
def samples():
    return [
        Sample(row["id"], row["benchmark"], row["task"], row["question"], tuple(row["options"]), row["answer"])
        for row in ROWS
    ]


@pytest.fixture
def sample_file(tmp_path):
    path = tmp_path / "samples.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    return path


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    tiny_model("llama", folder)
    return folder


@pytest.fixture
def settings(model_folder, sample_file):
    def made(**changes):
        base = {"evaluate.max_new_tokens": 8, "evaluate.shard_size": 4, "evaluate.bootstrap": 200}
        pairs = [f"{key}={value}" for key, value in {**base, **changes}.items()]
        start = {"model": {"name": str(model_folder), "device": "cpu"}, "evaluate": {"path": [str(sample_file)]}}
        return load_config(start, pairs)

    return made
