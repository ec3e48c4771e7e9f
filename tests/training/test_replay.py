from __future__ import annotations

import json

import pytest
import torch
from training_examples import make_example

from lamer.config import load_config
from lamer.microworld import checkpoint_path, shipped_world
from lamer.records import Diagnosis, Example, Query
from lamer.run import Run
from lamer.scoring.model import load_model
from lamer.scoring.render import Renderer
from lamer.training import replay
from lamer.training.dataset import encode
from lamer.training.replay import num_replayed, replay_examples, untouched_queries
from lamer.training.stage import train

QUERIES = shipped_world().queries()[:12]


def diagnosis(query, fact, tier):
    return Diagnosis(
        query.id, fact, ("a", "b"), "options", (-0.7, -0.7), (-0.7, -0.7), (-1.0, -1.0), (-1.0, -1.0), (1, 1),
        None if tier is None else 0.05, tier, None if tier is None else "confirmed", None,
        "too long" if tier is None else None,
    )  # fmt: skip


@pytest.fixture
def config():
    def made(**changes):
        pairs = [f"{key}={value}" for key, value in changes.items()]
        return load_config({"model": {"name": str(checkpoint_path()), "device": "cpu"}}, pairs, preset="demo")

    return made


@pytest.fixture
def run(tmp_path):
    """Twelve queries: 0 has a deficiency, 1 a pair that could not be computed, 2 was not diagnosed."""
    with Run.open(tmp_path / "run") as opened:
        opened.table("queries", Query).write(0, QUERIES)
        rows = [diagnosis(query, "f1", "below") for query in QUERIES if query is not QUERIES[2]]
        rows += [diagnosis(QUERIES[0], "f2", "easy"), diagnosis(QUERIES[1], "f2", None)]
        opened.table("diagnoses", Diagnosis).write(0, rows)
        yield opened


def test_only_queries_whose_pairs_all_lie_below_the_threshold_are_replayed(run):
    found = untouched_queries(run, 0)
    assert sorted(query.id for query in found) == sorted(query.id for query in QUERIES[3:])
    assert [query.id for query in found] != [query.id for query in untouched_queries(run, 1)]


def test_what_is_replayed_is_the_greedy_reply_word_for_word(run, config):
    """transformers' own greedy generation is the reference, prompt and reply as token ids."""
    found = replay_examples(run, config(), 9)
    assert [row.id for row in found] == [f"replay|{query.id}" for query in untouched_queries(run, 0)]
    loaded = load_model(config().model)
    renderer = Renderer(loaded.tokenizer, config().prompt)
    for row in found[:4]:
        (query,) = (query for query in QUERIES if row.id == f"replay|{query.id}")
        context = renderer.context_ids(renderer.prompt(query.text, query.options))
        whole = loaded.model.generate(torch.tensor([context]), do_sample=False, max_new_tokens=64)[0].tolist()
        encoded = encode(row, renderer)
        assert list(encoded.input_ids) == whole
        assert encoded.num_context == len(context)
        assert row.completion == row.raw == loaded.tokenizer.decode(whole[len(context) : -1]).strip()


def test_a_larger_count_gives_the_same_ones_and_more(run, config, monkeypatch):
    monkeypatch.setattr(replay, "CHUNK", 2)
    three = replay_examples(run, config(), 3)
    assert run.table("replay", Example).num_rows == 4
    many = replay_examples(run, config(), 100)
    assert many[:3] == three
    assert len(many) == 9
    monkeypatch.setattr(replay, "load_model", lambda *_: pytest.fail("answered again"))
    assert replay_examples(run, config(), 5) == many[:5]


def test_a_reply_that_does_not_end_is_left_out(run, config, monkeypatch):
    whole = replay_examples(run, config(), 9)
    run.table("replay", Example).clear()
    loaded = load_model(config().model)
    renderer = Renderer(loaded.tokenizer, config().prompt)
    lengths = {row.id: len(renderer.continuation_ids(row.completion)) for row in whole}
    limit = sorted(lengths.values())[4]
    monkeypatch.setattr(replay, "MAX_REPLY_TOKENS", limit)
    assert replay_examples(run, config(), 9) == [row for row in whole if lengths[row.id] < limit]


def test_prompts_that_leave_no_room_are_passed_over(run, config):
    assert replay_examples(run, config(**{"train.max_length": 8}), 9) == []


def test_files_are_replayed_in_random_order(run, config, tmp_path):
    rows = [{"id": f"g{n}", "question": "What sank?", "options": ["it", "I"], "answer": "A"} for n in range(9)]
    (tmp_path / "general.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    settings = config(**{"train.replay.path": f"[{tmp_path / 'general.jsonl'}]"})
    found = [row.id for row in replay_examples(run, settings, 4)]
    everything = [row.id for row in replay_examples(run, settings, 100)]
    assert everything[:4] == found
    assert sorted(everything) == [f"replay|g{n}" for n in range(9)] != everything
    assert not run.table("replay", Example).shards()


def test_the_share_is_of_all_training_examples(config):
    assert num_replayed(config(**{"train.replay.share": 0.1}), 90) == 10
    assert num_replayed(config(**{"train.replay.share": 0.5}), 7) == 7
    assert num_replayed(config(**{"train.replay.share": 0.0}), 90) == 0
    assert num_replayed(config(), 70) == 30, "the default, 0.3"


def test_examples_without_a_diagnosis_say_where_general_ones_come_from(model_folder, config, tmp_path):
    with Run.open(tmp_path / "bare") as bare:
        bare.table("examples", Example).write(0, [make_example(number) for number in range(4)])
        notes = train(bare, config(**{"train.replay.share": 0.5, "train.epochs": 1})).notes
    assert any(
        "replay: 0 of 4 general examples; examples alone name no queries that the model could answer; name "
        "general ones in train.replay.path" in note
        for note in notes
    )


def test_the_stage_mixes_them_in_and_reports_a_shortage(run, config):
    run.table("examples", Example).write(0, [make_example(number) for number in range(12)])
    changes = {"train.replay.share": 0.5, "train.batch_size": 7, "train.epochs": 1, "train.order": "ascending"}
    result = train(run, config(**changes))
    assert (result.counts["examples"], result.counts["replayed"]) == (21, 9)
    assert any("replay: 9 of 12 general examples" in note for note in result.notes)
    steps = [json.loads(line)["ids"] for line in (run.path / "training" / "order.jsonl").read_text().splitlines()]
    assert [sum(id_.startswith("replay|") for id_ in step) for step in steps] == [3, 3, 3]
    assert "| general | 9 |" in (run.path / "adapter" / "README.md").read_text()
