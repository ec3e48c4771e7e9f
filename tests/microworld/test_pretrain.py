from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from lamer.microworld import pretrain as pretraining
from lamer.microworld.corpus import Lesson, write_corpus
from lamer.microworld.world import World

SMALL = replace(pretraining.TINY, num_reading=64, exposure_scale=0.01)


@pytest.fixture(scope="module")
def world() -> World:
    return World.build(5)


@pytest.fixture(scope="module")
def checkpoint(world, tmp_path_factory):
    folder = tmp_path_factory.mktemp("tiny")
    pretraining.pretrain(world, folder, SMALL, limit=32)
    return folder


@pytest.fixture(scope="module")
def tokenizer(checkpoint):
    return AutoTokenizer.from_pretrained(checkpoint)


def test_a_tiny_checkpoint_is_complete_and_loads_as_any_other(checkpoint, world, tokenizer):
    names = {path.name for path in checkpoint.iterdir()}
    assert {
        "model.safetensors", "config.json", "tokenizer.json", "tokenizer_config.json", "training_log.jsonl",
        "accuracy.json", "README.md",
    } <= names  # fmt: skip
    model = AutoModelForCausalLM.from_pretrained(checkpoint)
    assert (model.config.model_type, model.dtype) == ("llama", torch.float32)
    rows = [json.loads(line) for line in (checkpoint / "training_log.jsonl").open()]
    assert rows[-1]["step"] == rows[-1]["num_steps"]
    assert rows[-1]["loss"] < 8


def test_the_same_seed_gives_the_same_weights_and_another_seed_others(checkpoint, world, tmp_path):
    pretraining.pretrain(world, tmp_path / "again", SMALL, limit=4)
    pretraining.pretrain(world, tmp_path / "other", SMALL, seed=9, limit=4)
    weights = [(folder / "model.safetensors").read_bytes() for folder in (checkpoint, tmp_path / "again")]
    assert weights[0] == weights[1]
    assert weights[0] != (tmp_path / "other/model.safetensors").read_bytes()


def test_every_invented_name_is_one_token_wherever_it_stands(world, tokenizer):
    for name in sorted(world.names):
        alone = tokenizer.encode(name, add_special_tokens=False)
        assert len(alone) == 1
        assert alone[0] in tokenizer.encode(f"Fact: Bees love the {name}.\nQuestion: x", add_special_tokens=False)


def test_the_chat_template_writes_one_bos_and_closes_every_turn(tokenizer):
    turns = [{"role": "user", "content": " Hi "}, {"role": "assistant", "content": "Well."}]
    assert tokenizer.apply_chat_template(turns, tokenize=False) == (
        "<s><|user|>Hi<|end|><|assistant|>Well.<|end|>"
    )
    ids = tokenizer.apply_chat_template(turns[:1], add_generation_prompt=True)["input_ids"]
    assert ids.count(tokenizer.bos_token_id) == 1
    assert ids[-1] == tokenizer.convert_tokens_to_ids("<|assistant|>")
    assert tokenizer.eos_token == "<|end|>"
    assert tokenizer.encode("Hi")[0] != tokenizer.bos_token_id


def test_reply_ids_are_the_same_joined_as_tokens_or_as_text(tokenizer):
    lesson = Lesson("Question: A frog sang. What happened as a result?", "The frog became hot.", None)
    (encoded,) = pretraining.encode(tokenizer, [lesson])
    turns = [{"role": "user", "content": lesson.prompt}, {"role": "assistant", "content": lesson.reply}]
    assert encoded.ids == tokenizer.apply_chat_template(turns)["input_ids"]
    assert tokenizer.decode(encoded.ids[encoded.start :]) == " The frog became hot.<|end|>"


def test_no_prompt_token_and_no_padding_has_a_label(tokenizer):
    lessons = [Lesson("Question: One?", "Two.", None), Lesson("Question: One two three?", "A", None)]
    encoded = pretraining.encode(tokenizer, lessons)
    ids, labels = pretraining.collate(encoded, tokenizer.pad_token_id)
    for row, one, label in zip(encoded, ids.tolist(), labels.tolist(), strict=True):
        rest = len(one) - len(row.ids)
        assert one == row.ids + [tokenizer.pad_token_id] * rest
        assert label == [-100] * row.start + row.ids[row.start :] + [-100] * rest


def test_the_written_out_forward_pass_is_that_of_the_model(checkpoint, world, tokenizer):
    model = AutoModelForCausalLM.from_pretrained(checkpoint)
    lessons = write_corpus(world, num_reading=8, scale=0.0)[:8]
    ids, labels = pretraining.collate(pretraining.encode(tokenizer, lessons), tokenizer.pad_token_id)
    with torch.inference_mode():
        ours = pretraining.hidden_states(model, ids, torch.float32)
        theirs = model.model(input_ids=ids, use_cache=False).last_hidden_state
        loss = pretraining.reply_loss(model, ids, labels, torch.float32)
        reference = model(input_ids=ids, labels=labels).loss
    torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(loss, reference, atol=1e-4, rtol=1e-4)


def test_batches_hold_every_lesson_once(world, tokenizer):
    import random

    lessons = write_corpus(world, num_reading=300, scale=0.0)
    encoded = pretraining.encode(tokenizer, lessons)
    plan = pretraining.batches(encoded, 16, random.Random(0))
    assert sorted(map(id, (row for rows in plan for row in rows))) == sorted(map(id, encoded))
    assert max(map(len, plan)) == 16


def test_a_vocabulary_too_small_for_the_names_is_refused(world):
    lessons = write_corpus(world, num_reading=50, scale=0.0)
    with pytest.raises(ValueError, match="vocab_size=300 splits"):
        pretraining.train_tokenizer(lessons, world.names, 300)


def test_the_learning_rate_rises_and_falls_to_zero():
    recipe = replace(SMALL, learning_rate=1.0, warmup=0.1)
    rates = [pretraining.learning_rate_at(step, 100, recipe) for step in range(100)]
    assert rates[:10] == pytest.approx([0.1 * (i + 1) for i in range(10)])
    assert rates[10] == pytest.approx(1.0)
    assert rates[10:] == sorted(rates[10:], reverse=True)
    assert rates[-1] < 0.001
