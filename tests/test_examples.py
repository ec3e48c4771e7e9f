from __future__ import annotations

from pathlib import Path

import pytest

from lamer.config import load_config

EXAMPLES = sorted((Path(__file__).parents[1] / "examples").glob("*.yaml"))


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_every_example_configuration_is_valid(path):
    config = load_config(path)
    assert config.queries.path
    assert config.model.name


def test_there_are_examples():
    assert len(EXAMPLES) >= 4
