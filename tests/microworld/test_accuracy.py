from __future__ import annotations

import json
from math import log

import numpy as np
import pytest

from lamer.microworld import accuracy as tables
from lamer.microworld import checkpoint_path, shipped_world
from lamer.microworld.card import figures, write_card


@pytest.fixture(scope="module")
def made():
    return json.loads((checkpoint_path() / "accuracy.json").read_text())


@pytest.fixture(scope="module")
def shipped():
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = checkpoint_path()
    return AutoModelForCausalLM.from_pretrained(folder).eval(), AutoTokenizer.from_pretrained(folder)


def test_relative_entropy_of_rows_done_by_hand():
    log_p = np.log([[0.63, 0.37], [0.5, 0.5]])
    log_q = np.log([[0.15, 0.85], [0.5, 0.5]])
    expected = 0.63 * log(0.63 / 0.15) + 0.37 * log(0.37 / 0.85)
    assert tables.relative_entropies(log_p, log_q) == pytest.approx([expected, 0.0])
    assert expected == pytest.approx(0.5964, abs=1e-4)


def test_auroc_counts_pairs_and_halves_ties():
    scores, positive = np.array([0.1, 0.4, 0.4, 0.9]), np.array([False, False, True, True])
    assert tables.auroc(scores, positive) == pytest.approx((1 + 0.5 + 1 + 1) / 4)
    assert np.isnan(tables.auroc(scores, np.array([True] * 4)))


def test_tiers_are_half_open():
    values = np.array([0.0, 0.1, 0.4, 0.699, 0.7, 1.0, 5.0])
    assert tables.tier_counts(values) == {"below": 1, "easy": 1, "normal": 2, "hard": 1, "unfair": 2}


def test_a_score_is_the_sum_over_the_tokens_of_the_reply_whatever_the_batch(shipped):
    import torch

    model, tokenizer = shipped
    query = shipped_world().evaluation()[0]
    prompt = tables.question_text(query.text, query.options, None)
    rows = [tables.Row(prompt, query.options), tables.Row("Question: One?", ("Two three four five.", "B"))]
    found = tables.score(model, tokenizer, rows)
    head = tokenizer.apply_chat_template([{"role": "user", "content": prompt}], add_generation_prompt=True)[
        "input_ids"
    ]
    for option, total, count in zip(query.options, *found[0], strict=True):
        tail = tokenizer.encode(option, add_special_tokens=False)
        with torch.inference_mode():
            logprobs = model(input_ids=torch.tensor([head + tail])).logits[0].log_softmax(-1)
        expected = sum(logprobs[len(head) - 1 + i, token].item() for i, token in enumerate(tail))
        assert (total, count) == (pytest.approx(expected, abs=1e-3), len(tail))


def test_the_shipped_model_answers_as_its_accuracy_table_claims(made, shipped):
    limit = 240
    table = tables.accuracy_table(*shipped, shipped_world(), limit=limit)
    for target, conditions in table["correct"].items():
        for name, digits in conditions.items():
            claimed = made["table"]["correct"][target][name][:limit]
            agreement = sum(a == b for a, b in zip(digits, claimed, strict=True)) / limit
            assert agreement >= 0.99, (target, name)


def test_the_accuracy_table_sums_up_its_own_digits(made):
    world = shipped_world()
    states = [world.state_of(query.id) for query in world.evaluation()]
    for target, conditions in made["table"]["correct"].items():
        for name, digits in conditions.items():
            accuracy = made["table"]["targets"][target]["accuracy"][name]
            for state in ("known", "weak", "absent"):
                hits = [digit == "1" for digit, s in zip(digits, states, strict=True) if s == state]
                assert accuracy[state] == pytest.approx(sum(hits) / len(hits), abs=1e-3)


def test_the_shipped_model_knows_what_it_should_and_nothing_else(made):
    target = made["table"]["targets"]["text-sum"]
    without, with_fact = target["accuracy"]["no fact"], target["accuracy"]["right fact"]
    assert without["known"] >= 0.95
    assert 0.40 <= without["absent"] <= 0.60
    assert min(with_fact[state] for state in ("known", "weak", "absent")) >= 0.97
    probes = target["auroc"]
    assert probes["relative entropy"]["answers wrong"] >= max(0.85, probes["entropy"]["answers wrong"])
    assert probes["relative entropy"]["not known"] >= max(0.75, probes["entropy"]["not known"])
    assert min(target["tiers"].values()) > 0


def test_the_checkpoint_is_small_and_speaks_of_its_world(made, shipped):
    folder = checkpoint_path()
    assert (folder / "model.safetensors").stat().st_size <= 8_000_000
    _, tokenizer = shipped
    for name in shipped_world().names:
        assert len(tokenizer.encode(name, add_special_tokens=False)) == 1
    assert tokenizer.chat_template is not None


def test_the_card_is_made_from_the_tables(made):
    card = (checkpoint_path() / "README.md").read_text()
    assert card.startswith(write_card([made])[:400])
    other = {**made, "world": {"seed": 99, "wrong": 0.15}}
    table = figures([made, other], "text-sum")
    assert "seed 99, wrong 0.15" in table.splitlines()[0]
    assert len({line.count("|") for line in table.splitlines()}) == 1
