from __future__ import annotations

import pytest
import yaml

from lamer.config import Config, flatten, load_config, overlay, parse_assignment, to_yaml
from lamer.errors import ConfigError


def test_every_preset_written_with_comments_reads_back_as_itself():
    for preset in ("default", "paper", "demo"):
        config = load_config({"preset": preset})
        assert load_config(yaml.safe_load(to_yaml(config, comments=True))) == config
        assert load_config(yaml.safe_load(to_yaml(config))) == config


def test_every_key_of_the_written_file_is_preceded_by_its_comment():
    lines = to_yaml(load_config(), comments=True).splitlines()
    keys = [i for i, line in enumerate(lines) if ":" in line and not line.lstrip().startswith("#")]
    assert len(keys) > 60
    assert all(lines[i - 1].lstrip().startswith("#") for i in keys)


def test_all_problems_are_told_at_once_each_with_the_nearest_key():
    with pytest.raises(ConfigError) as caught:
        load_config({"modle": {}, "train": {"lora": {"alpah": 8, "rank": 0}}, "seed": -1})
    message = str(caught.value)
    assert "modle: unknown key (did you mean 'model'?)" in message
    assert "train.lora.alpah: unknown key (did you mean 'alpha'?)" in message
    assert "train.lora.rank" in message
    assert "seed" in message
    assert len(message.splitlines()) == 4


def test_unknown_tier_is_named():
    with pytest.raises(ConfigError, match=r"select\.quota\.eesy: unknown tier \(did you mean 'easy'\?\)"):
        load_config({"select": {"quota": {"eesy": 1}}})


def test_unknown_placeholder_is_named():
    with pytest.raises(ConfigError, match=r"prompt\.fact has unknown placeholder \{facct\}; known: \{fact\}"):
        load_config({"prompt": {"fact": "{facct}"}})


def test_set_wins_over_the_file_which_wins_over_the_preset(tmp_path):
    file = tmp_path / "lamer.yaml"
    file.write_text("preset: paper\ntrain: {order: descending, epochs: 2}\n", encoding="utf-8")
    config = load_config(file, ["train.epochs=5", "train.learning_rate=1e-3"])
    assert (config.train.order, config.train.epochs, config.train.learning_rate) == ("descending", 5, 1e-3)
    assert config.select.replay == 0.0  # the paper preset's


def test_paper_preset_is_the_literal_reading():
    paper = load_config({"preset": "paper"})
    assert paper.train.order == "ascending"
    assert (paper.train.lora.rank, paper.train.lora.alpha, paper.train.learning_rate) == (128, 8.0, 5e-5)
    assert (paper.train.epochs, paper.train.batch_size) == (3, 32)
    assert paper.select.quota == {"easy": 1, "normal": 2, "hard": 3, "unfair": 4}
    assert (paper.select.per_tier, paper.select.max_per_query, paper.select.max_per_fact) == (375, None, None)
    assert (paper.retrieve.top_k, paper.diagnose.threshold, paper.diagnose.num_candidates) == (4, 0.1, 2)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("a: [1\n", "line 2: not valid YAML"),
        ("- 1\n", "expected keys and values, found a list"),
    ],
)
def test_a_broken_file_is_named_with_its_line(tmp_path, content, message):
    file = tmp_path / "bad.yaml"
    file.write_text(content, encoding="utf-8")
    with pytest.raises(ConfigError, match=message) as caught:
        load_config(file)
    assert str(file) in str(caught.value)


def test_a_missing_file_says_how_to_write_one(tmp_path):
    with pytest.raises(ConfigError, match="lamer init"):
        load_config(tmp_path / "none.yaml")


def test_an_assignment_without_a_value_is_refused():
    with pytest.raises(ConfigError, match="expected key=value"):
        parse_assignment("seed")


def test_an_assignment_can_empty_a_text():
    assert load_config({}, ["retrieve.query_instruction="]).retrieve.query_instruction == ""


def test_overlay_keeps_what_the_top_does_not_name():
    assert overlay({"a": {"b": 1, "c": 2}}, {"a": {"b": 3}}) == {"a": {"b": 3, "c": 2}}


def test_flatten_names_every_leaf_once():
    leaves = flatten(Config())
    assert leaves["train.lora.rank"] == 128
    assert leaves["synthesize.teacher.model"] == "gpt-4o-mini"
    assert not any(isinstance(value, Config) for value in leaves.values())


@pytest.mark.parametrize(
    ("given", "threshold", "edge", "level"),
    [
        (0.3, 0.3, 0.3, 0.1),
        (1, 1.0, 1.0, 0.1),
        ("fdr( 0.05 )", "fdr(0.05)", 0.1, 0.05),
        ("FDR(.2)", "fdr(0.2)", 0.1, 0.2),
    ],
)
def test_a_threshold_is_nats_or_a_false_discovery_rate(given, threshold, edge, level):
    config = load_config({}, [f"diagnose.threshold={given}"])
    assert config.diagnose.threshold == threshold
    assert (config.diagnose.edge, config.diagnose.level) == (edge, level)
    assert load_config(yaml.safe_load(to_yaml(config, comments=True))) == config


@pytest.mark.parametrize(
    "given", ["fdr(0)", "fdr(1)", "fdr()", "fdr", "low", 0, -1, True, None, [0.1], "nan", "inf"]
)
def test_a_threshold_that_is_neither_is_refused_with_examples(given):
    with pytest.raises(ConfigError, match=r"^diagnose\.threshold: expected nats .*fdr\(0\.1\).*got "):
        load_config({"diagnose": {"threshold": given}})


def test_a_calibrated_threshold_needs_placebos():
    with pytest.raises(ConfigError, match=r"set diagnose\.placebos to 1 or more"):
        load_config({}, ["diagnose.threshold=fdr(0.1)", "diagnose.placebos=0"])


def test_a_renamed_key_tells_its_new_name():
    with pytest.raises(ConfigError, match=r"^diagnose\.tau: is now called diagnose\.threshold"):
        load_config({"diagnose": {"tau": 0.2}})
