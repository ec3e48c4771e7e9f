from __future__ import annotations

import pytest
import torch

import tiny_models
from lamer.config import PromptSettings
from lamer.scoring.candidates import Sampler, SampleRow, normalised, sample_candidates, stop_ids
from lamer.scoring.render import Renderer

PROMPTS = {f"q{number}": "Question: " + "What happened as a result? " * (number % 3 + 1) for number in range(6)}


def sample(prompts: dict[str, str], kind: str = "llama", budget: int = 4096, **options: object):
    loaded = tiny_models.loaded(kind)
    settings = {"num_candidates": 3, "max_tokens": 6, "temperature": 1.0, "seed": 3} | options
    render = Renderer(loaded.tokenizer, PromptSettings())
    return sample_candidates(prompts, loaded, render, max_batch_tokens=budget, **settings)


def test_responses_are_compared_without_case_punctuation_and_white_space():
    assert normalised(" It  melted. ") == normalised("it melted!") == "it melted"
    assert normalised("it froze") != normalised("it melted")
    assert normalised("?!") == "?!"


@pytest.mark.parametrize("kind", ["llama", "mistral", "gpt2", "gemma2"])
def test_responses_do_not_depend_on_the_other_queries(kind: str):
    together = sample(PROMPTS, kind)
    for query_id, prompt in PROMPTS.items():
        assert sample({query_id: prompt}, kind)[query_id] == together[query_id]
    assert sample(dict(reversed(PROMPTS.items())), kind, budget=40) == together


def test_responses_are_distinct_and_as_many_as_asked_for():
    for sampled in sample(PROMPTS).values():
        assert len({normalised(text) for text in sampled.candidates}) == len(sampled.candidates) == 3


def test_the_seed_and_the_query_decide():
    first = sample(PROMPTS)
    assert sample(PROMPTS, seed=4) != first
    same_text = sample({"a": PROMPTS["q0"], "b": PROMPTS["q0"]})
    assert same_text["a"] != same_text["b"]


def test_a_model_that_repeats_itself_gives_fewer_candidates_after_a_few_tries():
    sampled = sample({"q": "Question: What?"}, temperature=1e-4)["q"]
    assert len(sampled.candidates) == 1
    assert sampled.num_tries == 12


@pytest.mark.parametrize("kind", ["llama", "mistral", "gpt2"])
def test_cold_sampling_equals_greedy_generation_of_transformers(kind: str):
    loaded = tiny_models.loaded(kind)
    render = Renderer(loaded.tokenizer, PromptSettings())
    contexts = [tuple(render.context_ids(prompt)) for prompt in PROMPTS.values()]
    rows = [SampleRow(context, str(number), 8) for number, context in enumerate(contexts)]
    texts = Sampler(loaded, render, 1e-6, 4096).sample(rows)
    for context, text in zip(contexts, texts):
        ids = torch.tensor([context])
        out = loaded.model.generate(
            ids, attention_mask=torch.ones_like(ids), max_new_tokens=8, do_sample=False,
            eos_token_id=sorted(stop_ids(loaded, render)), pad_token_id=0,
        )  # fmt: skip
        expected = loaded.tokenizer.decode(out[0, len(context) :], skip_special_tokens=True).strip()
        assert text == expected


def test_a_token_is_drawn_as_often_as_the_model_says():
    loaded = tiny_models.loaded("llama")
    render = Renderer(loaded.tokenizer, PromptSettings())
    sampler = Sampler(loaded, render, 1.0, 4096)
    logits = torch.log(torch.tensor([[0.5, 0.2, 0.0, 0.3]]))
    drawn = [sampler._draw(logits, [(step + 0.5) / 1000])[0] for step in range(1000)]
    assert [drawn.count(token) for token in range(4)] == pytest.approx([500, 200, 0, 300], abs=1)


def test_a_row_near_the_end_of_the_context_does_not_stop_the_others():
    """With learned positions, a row that has stopped must not be fed positions the model does not have."""
    loaded = tiny_models.loaded("gpt2", "gpt2", limit=16)
    rows = [SampleRow(tuple(range(5, 19)), "a", 2), SampleRow((5, 6), "b", 14)]
    sampler = Sampler(loaded, Renderer(loaded.tokenizer, PromptSettings()), 1.0, 4096)
    assert sampler.sample(rows)[1] == sampler.sample(rows[1:])[0]


def test_a_prompt_that_fills_the_context_gives_no_candidate():
    loaded = tiny_models.loaded("gpt2", "gpt2", limit=16)
    sampled = sample_candidates(
        {"q": "word " * 60}, loaded, Renderer(loaded.tokenizer, PromptSettings()),
        num_candidates=2, max_tokens=4, temperature=1.0, max_batch_tokens=64, seed=0,
    )["q"]  # fmt: skip
    assert sampled.candidates == ()
    assert sampled.num_tries == 0
