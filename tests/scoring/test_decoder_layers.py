"""Layers of the Llama shape computed in few operations: the same numbers, and only where they are the same."""

from __future__ import annotations

import random
from functools import cache
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn.functional import scaled_dot_product_attention
from transformers import AutoConfig, AutoModelForCausalLM
from transformers.models.gemma.modeling_gemma import GemmaRMSNorm
from transformers.models.llama.modeling_llama import LlamaRMSNorm, apply_rotary_pos_emb

from lamer.scoring import decoder_layers, decoder_shape, products
from lamer.scoring.decoder_layers import DecoderLayers
from lamer.scoring.model import LoadedModel
from lamer.scoring.products import Products
from lamer.scoring.scorer import Pair, Scorer, _sequences
from lamer.testing import FAMILIES, tiny_model

TAKEN = ("llama", "llama-plain", "mistral", "mistral-window", "qwen2", "qwen3", "gemma")


@pytest.fixture(autouse=True)
def onednn(monkeypatch: pytest.MonkeyPatch) -> None:
    if not torch.backends.mkldnn.is_available():
        pytest.skip("this build of torch has no oneDNN")
    monkeypatch.setattr(products, "gain", lambda model: 2.0)


def loaded(family: str) -> LoadedModel:
    model, tokenizer = tiny_model(family, seed=3)
    return LoadedModel(model, tokenizer, torch.device("cpu"))


def made(model_type: str, **settings: Any) -> Any:
    """A tiny model of a family that the tests know nothing else of."""
    torch.manual_seed(0)
    shape = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
    config = AutoConfig.for_model(model_type, vocab_size=300, num_key_value_heads=2, **shape, **settings)
    return AutoModelForCausalLM.from_config(config).eval()


def logprob(model: Any, pair: Pair) -> float:
    """By one plain forward of the model's own code."""
    with torch.inference_mode():
        logits = model(input_ids=torch.tensor([pair.context + pair.continuation])).logits[0]
    logprobs = logits.log_softmax(-1)[len(pair.context) - 1 : -1]
    return float(logprobs.gather(1, torch.tensor(pair.continuation)[:, None]).sum())


@cache
def pairs() -> list[Pair]:
    """Contexts that begin alike, in rows of different lengths, longer than a sliding window."""
    draw = random.Random(0)

    def words(count: int) -> tuple[int, ...]:
        return tuple(draw.randrange(10, 290) for _ in range(count))

    root = words(9)
    contexts = [root + words(length) for length in (0, 4, 21, 40)] + [words(3)]
    contexts += [words(length) for length in (25, 26, 28)]
    return [Pair(context, words(length)) for context in contexts for length in (1, 3, 7)]


@pytest.mark.parametrize("family", TAKEN)
@pytest.mark.parametrize("method", ["tree", "rows", None])
def test_scores_equal_the_models_own_code(family: str, method: Any):
    model = loaded(family)
    expected = [logprob(model.model, pair) for pair in pairs()]
    scorer = Scorer(model, method=method)
    assert scorer._forward.layers.are_fused
    assert scorer.report()["layers"] == "fused"
    assert [score.logprob for score in scorer.score(pairs())] == pytest.approx(expected, abs=1e-4)
    assert scorer.work.padding_tokens > 0
    assert scorer.choice.method == (method or "tree")


@pytest.mark.parametrize("family", TAKEN)
def test_rows_of_different_lengths_below_a_trunk(family: str, monkeypatch: pytest.MonkeyPatch):
    model, draw = loaded(family), random.Random(1)
    root, *contexts = (tuple(draw.choices(range(10, 290), k=length)) for length in (9, 40, 41, 43, 44, 45, 47, 48))
    asked = [Pair(root + context, (20, 30, 40)) for context in contexts]
    scorer, calls = Scorer(model, method="tree"), []
    tree = scorer._forward.tree

    def watched(pieces: Any, prefix: Any = None, **options: Any) -> Any:
        calls.append((prefix is not None, len(pieces)))
        return tree(pieces, prefix, **options)

    monkeypatch.setattr(scorer._forward, "tree", watched)
    found = dict.fromkeys(range(len(asked)), 0.0)
    for mark, value in scorer._run(_sequences(asked), "tree", 0.0, min_trunk_tokens=1):
        found[mark.place] += value
    assert any(has_prefix and rows > 1 for has_prefix, rows in calls)
    assert scorer.work.padding_tokens > 0
    assert list(found.values()) == pytest.approx([logprob(model.model, pair) for pair in asked], abs=1e-4)


@pytest.mark.parametrize("family", sorted(set(FAMILIES) - set(TAKEN)))
def test_layers_of_another_shape_are_left_alone(family: str):
    scorer = Scorer(loaded(family))
    assert not scorer._forward.layers.are_fused
    assert scorer.report()["layers"] == "the model's own"


@pytest.mark.parametrize(
    ("model_type", "settings"),
    [("granite", {"residual_multiplier": 0.5}), ("granite", {"attention_multiplier": 0.5}), ("ernie4_5", {})],
    ids=["residuals scaled", "attention scaled", "neighbouring channels rotated"],
)
def test_layers_that_compute_something_else_are_found_out(
    model_type: str, settings: Any, monkeypatch: pytest.MonkeyPatch
):
    model = made(model_type, **settings)
    assert not DecoderLayers(model, Products(model)).are_fused  # a family that is not named
    monkeypatch.setattr(decoder_shape, "_PACKAGES", {f"transformers.models.{model_type}"})
    layers = DecoderLayers(model, Products(model))
    if "attention_multiplier" in settings:  # the attention's own scale, which is asked for
        assert layers.are_fused
    else:
        assert layers.difference > 100 * decoder_layers.TOLERANCE["torch.float32"]
        assert not layers.are_fused
    scorer = Scorer(LoadedModel(model, None, torch.device("cpu")))
    expected = [logprob(model, pair) for pair in pairs()]
    assert [score.logprob for score in scorer.score(pairs())] == pytest.approx(expected, abs=1e-4)


def test_the_model_is_as_it_was_afterwards_also_after_an_error(monkeypatch: pytest.MonkeyPatch):
    scorer = Scorer(loaded("llama"))
    scorer.score(pairs())
    parts = [*scorer._forward.layers._layers, scorer._forward.layers._head]
    assert not any("forward" in vars(part) for part in parts)
    monkeypatch.setattr(decoder_layers, "_attended", lambda *given: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        scorer.score(pairs())
    assert not any("forward" in vars(part) for part in parts)
    monkeypatch.undo()


def test_an_adapter_put_in_later_is_seen():
    from peft import LoraConfig, inject_adapter_in_model

    model = made("llama")
    scorer = Scorer(LoadedModel(model, None, torch.device("cpu")), method="tree")
    before = [score.logprob for score in scorer.score(pairs())]
    inject_adapter_in_model(LoraConfig(target_modules=["v_proj"], init_lora_weights=False), model)
    assert not scorer._forward.layers.are_fused
    after = [score.logprob for score in scorer.score(pairs())]
    assert after == pytest.approx([logprob(model, pair) for pair in pairs()], abs=1e-4)
    assert max(abs(one - other) for one, other in zip(before, after)) > 1e-3


def test_a_hook_is_still_called():
    model = made("llama")
    scorer = Scorer(LoadedModel(model, None, torch.device("cpu")), method="tree")
    assert scorer._forward.layers.are_fused
    calls: list[int] = []
    handle = model.model.layers[1].mlp.register_forward_hook(lambda *given: calls.append(1))
    scorer.score(pairs())
    assert calls
    handle.remove()
    assert scorer._forward.layers.are_fused


@pytest.mark.parametrize("family", TAKEN)
def test_bfloat16_is_as_near_to_float32_as_the_models_own_code(family: str, monkeypatch: pytest.MonkeyPatch):
    if not torch.ops.mkldnn._is_mkldnn_bf16_supported():
        pytest.skip("this processor has no instructions for bfloat16")
    monkeypatch.setattr(products, "MIN_PARAMETERS", 1)
    monkeypatch.setattr(products, "gain", lambda model: None)
    model, _ = tiny_model(family, seed=3)
    model = model.to(torch.bfloat16)
    scorer = Scorer(LoadedModel(model, None, torch.device("cpu")), method="tree")
    assert scorer._forward.layers.are_fused
    found = [score.logprob for score in scorer.score(pairs())]
    own = [logprob(model, pair) for pair in pairs()]
    exact = [logprob(model.float(), pair) for pair in pairs()]
    errors, own_errors = (
        sum(abs(value - true) for value, true in zip(values, exact)) / len(exact) for values in (found, own)
    )
    assert 0 < errors < 1.5 * own_errors
    assert own_errors < 0.2


def test_a_replaced_vocabulary_projection_is_used_and_stays():
    model = made("llama")
    scorer = Scorer(LoadedModel(model, None, torch.device("cpu")), method="tree")
    own, calls = type(model.lm_head).forward, []

    def watched(hidden: Any) -> Any:
        calls.append(1)
        return own(model.lm_head, hidden)

    model.lm_head.forward = watched
    scorer.score(pairs())
    assert calls
    assert model.lm_head.forward is watched


def test_a_vocabulary_projection_of_another_type_is_left_alone():
    model = made("llama")
    model.lm_head = torch.nn.Linear(32, 300, bias=False, dtype=torch.bfloat16)
    assert DecoderLayers(model, Products(model))._head is None


@pytest.mark.parametrize("norm", [LlamaRMSNorm, GemmaRMSNorm])
def test_norms(norm: Any):
    part = norm(24, eps=1e-3)
    torch.nn.init.normal_(part.weight)
    hidden = torch.randn(5, 24) * torch.tensor([1e-3, 0.1, 1.0, 10.0, 0.0])[:, None]
    with torch.no_grad():
        assert torch.allclose(decoder_layers._normed(hidden, part), part(hidden), rtol=1e-5, atol=1e-7)
        part, narrow = part.to(torch.bfloat16), hidden.to(torch.bfloat16)
        assert torch.equal(decoder_layers._normed(narrow, part), part(narrow))


def test_rotation():
    heads, angles = torch.randn(7, 3, 8), torch.randn(7, 4)
    cos, sin = (torch.cat([part, part], dim=-1) for part in (angles.cos(), angles.sin()))
    expected, _ = apply_rotary_pos_emb(
        heads[None].transpose(1, 2), heads[None].transpose(1, 2), cos[None], sin[None]
    )
    decoder_layers._rotate(heads, angles.cos()[:, None], angles.sin()[:, None])
    assert torch.allclose(heads, expected[0].transpose(0, 1), atol=1e-6)


@given(
    width=st.integers(1, 150),
    num_before=st.integers(0, 40),
    groups=st.integers(1, 3),
    is_causal=st.booleans(),
    is_number=st.booleans(),
    is_large=st.booleans(),
    seed=st.integers(0, 10_000),
)
def test_attention_in_parts_is_attention(
    width: int, num_before: int, groups: int, is_causal: bool, is_number: bool, is_large: bool, seed: int
):
    draw = torch.Generator().manual_seed(seed)
    length = num_before + width
    queries = torch.randn(2, width, 2 * groups, 4, generator=draw)
    keys, values = (torch.randn(2, 2, length, 4, generator=draw) for _ in range(2))
    seen = torch.rand(2, 1, width, length, generator=draw) < 0.5
    seen = seen.tril(num_before - 1) if is_causal else seen
    seen |= torch.eye(width, length, dtype=torch.bool).roll(num_before, dims=1)  # itself
    numbers = torch.zeros(seen.shape).masked_fill_(~seen, torch.finfo(torch.float32).min)
    with pytest.MonkeyPatch.context() as patch:
        if is_large:
            patch.setattr(decoder_layers, "MAX_FOLDED", 0)
        mask = decoder_layers._Mask(numbers if is_number else seen, torch.float32)
        assert mask.is_causal == (not seen.triu(num_before + 1).any())
        found = decoder_layers._attended(queries, keys, values, mask, 0.7)
    expected = scaled_dot_product_attention(
        queries.transpose(1, 2),
        keys.repeat_interleave(groups, dim=1),
        values.repeat_interleave(groups, dim=1),
        attn_mask=seen,
        scale=0.7,
    )
    assert torch.allclose(found, expected.transpose(1, 2), atol=1e-5)


@given(width=st.integers(1, 60), groups=st.integers(1, 3))
def test_attention_without_a_mask_is_causal(width: int, groups: int):
    queries = torch.randn(2, width, 2 * groups, 4)
    keys, values = (torch.randn(2, 2, width, 4) for _ in range(2))
    mask = decoder_layers._Mask(torch.ones(2, 1, width, width, dtype=torch.bool).tril(), torch.float32)
    found, expected = (decoder_layers._attended(queries, keys, values, given, 0.5) for given in (None, mask))
    assert torch.allclose(found, expected, atol=1e-5)


@given(st.lists(st.integers(1, 9), min_size=1, max_size=6))
def test_tokens_go_to_rows_and_back(lengths: list[int]):
    width = max(lengths)
    is_token = torch.arange(width) < torch.tensor(lengths)[:, None]
    tokens = decoder_layers._Tokens(is_token)
    numbers = torch.arange(sum(lengths)) + 1
    rows = numbers[tokens.of_places].view(tokens.shape)
    assert [row[:length].tolist() for row, length in zip(rows, lengths)] == [
        list(range(sum(lengths[:index]) + 1, sum(lengths[: index + 1]) + 1)) for index in range(len(lengths))
    ]
    assert rows.reshape(-1)[tokens.places].tolist() == numbers.tolist()
