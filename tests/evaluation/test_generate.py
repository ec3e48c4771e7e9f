from __future__ import annotations

import pytest
import torch

from lamer.config import PromptSettings
from lamer.evaluation.generate import GreedyGenerator, Reply, generate, reply_to
from lamer.scoring.candidates import SampleRow, stop_ids
from lamer.scoring.model import LoadedModel
from lamer.scoring.render import Renderer
from lamer.testing import FAMILIES, tiny_model

PROMPTS = ["Why?", "A spoon lies in hot tea. What happened as a result?", "What is 3 * 6?", "Why? " * 30]


def loaded_family(family):
    model, tokenizer = tiny_model(family)
    loaded = LoadedModel(model, tokenizer, torch.device("cpu"))
    return loaded, Renderer(tokenizer, PromptSettings())


@pytest.mark.parametrize("family", FAMILIES)
def test_replies_are_those_of_greedy_generation_one_by_one(family):
    loaded, renderer = loaded_family(family)
    expected = []
    for prompt in PROMPTS:
        context = torch.tensor([renderer.context_ids(prompt)])
        output = loaded.model.generate(
            context,
            attention_mask=torch.ones_like(context),
            do_sample=False,
            max_new_tokens=12,
            eos_token_id=sorted(stop_ids(loaded, renderer)),
            pad_token_id=0,
        )
        expected.append(loaded.tokenizer.decode(output[0, context.shape[1] :], skip_special_tokens=True).strip())
    for budget in (1, 200, 10_000):
        replies = generate(PROMPTS, loaded, renderer, max_new_tokens=12, max_batch_tokens=budget)
        assert replies == expected
    assert generate(PROMPTS[::-1], loaded, renderer, max_new_tokens=12, max_batch_tokens=200) == expected[::-1]


def test_a_reply_ends_where_the_turn_ends():
    loaded, renderer = loaded_family("llama")
    prompt = PROMPTS[1]
    context = torch.tensor([renderer.context_ids(prompt)])
    with torch.no_grad():
        first = loaded.model(context).logits[0, -1].argmax().item()
    head = loaded.model.get_output_embeddings()
    with torch.no_grad():  # the end of the turn becomes likelier than the likeliest token
        head.weight[renderer.end_ids[-1]] = head.weight[first] * 2
    assert generate([prompt], loaded, renderer, max_new_tokens=12, max_batch_tokens=999) == [""]


def test_a_reply_is_as_long_as_allowed_and_as_the_context_leaves_room():
    loaded, renderer = loaded_family("gpt2")
    full = "Why? " * 600
    assert len(renderer.context_ids(full)) > loaded.model.config.n_positions
    almost = full
    while len(renderer.context_ids(almost)) > loaded.model.config.n_positions - 3:
        almost = almost[5:]
    context = torch.tensor([renderer.context_ids(almost)])
    room = loaded.model.config.n_positions - context.shape[1]
    assert 0 < room < 5
    output = loaded.model.generate(
        context,
        attention_mask=torch.ones_like(context),
        do_sample=False,
        max_new_tokens=room,
        eos_token_id=sorted(stop_ids(loaded, renderer)),
        pad_token_id=0,
    )[0, context.shape[1] :]
    assert len(output) == room, "the case must fill the context"
    replies = generate([full, almost, "Why?"], loaded, renderer, max_new_tokens=5, max_batch_tokens=4096)
    assert replies[0] == ""
    assert replies[1] == loaded.tokenizer.decode(output, skip_special_tokens=True).strip() != ""
    assert replies[2] == generate(["Why?"], loaded, renderer, max_new_tokens=5, max_batch_tokens=4096)[0]


def test_no_prompts_give_no_replies():
    loaded, renderer = loaded_family("llama")
    assert generate([], loaded, renderer, max_new_tokens=5, max_batch_tokens=64) == []


@pytest.mark.parametrize("family", [family for family in FAMILIES if family != "gemma"])  # it writes nothing
def test_a_reply_is_cut_before_its_first_stop_text_as_transformers_stops(family):
    loaded, renderer = loaded_family(family)
    whole = generate(PROMPTS, loaded, renderer, max_new_tokens=20, max_batch_tokens=200)
    stops = [text[len(text) // 2 :][:2] for text in whole if len(text) > 2][:2]
    assert stops
    expected = []
    for prompt in PROMPTS:
        context = torch.tensor([renderer.context_ids(prompt)])
        output = loaded.model.generate(
            context,
            attention_mask=torch.ones_like(context),
            do_sample=False,
            max_new_tokens=20,
            eos_token_id=sorted(stop_ids(loaded, renderer)),
            pad_token_id=0,
        )
        text = loaded.tokenizer.decode(output[0, context.shape[1] :], skip_special_tokens=True)
        for stop in stops:
            text = text.split(stop)[0]
        expected.append(text.strip())
    assert expected != whole
    for budget in (1, 60, 10_000):
        cut = generate(PROMPTS, loaded, renderer, max_new_tokens=20, max_batch_tokens=budget, stop=stops)
        assert cut == expected
        again = generate(PROMPTS, loaded, renderer, max_new_tokens=20, max_batch_tokens=budget, stop=stops)
        assert again == cut


def test_generation_goes_no_further_than_the_stop_text():
    loaded, renderer = loaded_family("llama")
    whole = generate([PROMPTS[1]], loaded, renderer, max_new_tokens=20, max_batch_tokens=999)[0]
    rows = [SampleRow(tuple(renderer.context_ids(PROMPTS[1])), "", 20)]
    stopped = GreedyGenerator(loaded, renderer, 999, [whole[3:5]])
    (ids,) = stopped.sample_ids(rows)
    (all_ids,) = GreedyGenerator(loaded, renderer, 999).sample_ids(rows)
    assert ids == all_ids[: len(ids)]
    assert len(ids) < len(all_ids)
    text = loaded.tokenizer.decode(ids, skip_special_tokens=True)
    assert whole[3:5] in text
    assert whole[3:5] not in loaded.tokenizer.decode(ids[:-1], skip_special_tokens=True)
    assert stopped.replies(rows)[0].ended == "stop"


def test_a_reply_says_why_it_ended():
    loaded, renderer = loaded_family("gpt2")
    full = tuple(renderer.context_ids("Why? " * 600))
    short = tuple(renderer.context_ids("Why?"))
    settings = {"max_new_tokens": 5, "max_batch_tokens": 4096}
    found = reply_to([full, short], loaded, renderer, **settings)
    assert found[0] == Reply("", "no room")
    assert found[1].ended == "length"
    head = loaded.model.get_output_embeddings()
    with torch.no_grad():
        first = loaded.model(torch.tensor([short])).logits[0, -1].argmax().item()
        head.weight[renderer.end_ids[-1]] = head.weight[first] * 2
    assert reply_to([short], loaded, renderer, **settings)[0].ended == "turn"
