"""The faster library for matrix products gives the same scores, and is only taken where it is faster."""

from __future__ import annotations

import pytest
import torch

import tiny_models
from lamer.scoring import products
from lamer.scoring.products import Products
from lamer.scoring.scorer import Pair, Scorer

PAIRS = [Pair(tuple(range(5, 25)), (30, 31, 32)), Pair(tuple(range(5, 40)), (7,))]


@pytest.fixture
def onednn(monkeypatch: pytest.MonkeyPatch) -> None:
    if not torch.backends.mkldnn.is_available():
        pytest.skip("this build of torch has no oneDNN")
    monkeypatch.setattr(products, "gain", lambda model: 2.0)


@pytest.mark.usefixtures("onednn")
@pytest.mark.parametrize("kind", ["llama", "qwen2", "gpt2"])
def test_scores_are_the_same_by_either_library(kind: str, monkeypatch: pytest.MonkeyPatch):
    calls = []
    product = products._onednn
    monkeypatch.setattr(products, "_onednn", lambda *given: (calls.append(1), product(*given))[1])
    loaded = tiny_models.loaded(kind)
    scorer = Scorer(loaded)
    assert scorer.report()["products"] == "oneDNN"
    found = [score.logprob for score in scorer.score(PAIRS)]
    assert calls
    for pair, logprob in zip(PAIRS, found):
        with torch.no_grad():
            logits = loaded.model(input_ids=torch.tensor([pair.context + pair.continuation])).logits[0]
        logprobs = logits.log_softmax(-1)[len(pair.context) - 1 : -1]
        assert logprob == pytest.approx(
            float(logprobs.gather(1, torch.tensor(pair.continuation)[:, None]).sum()), abs=1e-4
        )


@pytest.mark.usefixtures("onednn")
@pytest.mark.parametrize("limit", [0, 1 << 30], ids=["as it is", "packed"])
def test_weights_that_were_written_to_are_seen(limit: int, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(products, "MAX_PACKED_BYTES", limit)
    loaded = tiny_models.loaded("llama")
    model = type(loaded.model)(loaded.model.config).eval()
    model.load_state_dict(loaded.model.state_dict())
    scorer = Scorer(tiny_models.LoadedModel(model, loaded.tokenizer, loaded.device), method="tree")
    before = scorer.score(PAIRS)
    assert bool(scorer._forward.products._packed) == (limit > 0)
    with torch.no_grad():
        model.model.layers[0].mlp.down_proj.weight.mul_(3)
    after = scorer.score(PAIRS)
    assert abs(after[0].logprob - before[0].logprob) > 1e-3
    fresh = Scorer(tiny_models.LoadedModel(model, loaded.tokenizer, loaded.device), method="rows")
    fresh._forward.products.library = "default"
    assert [score.logprob for score in after] == pytest.approx([s.logprob for s in fresh.score(PAIRS)], abs=1e-4)


def test_small_models_are_left_to_torch():
    assert Products(tiny_models.loaded("llama").model).gain is None
    assert Products(tiny_models.loaded("llama").model).library == "default"


def test_a_large_layer_is_measured(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(products, "MIN_PARAMETERS", 1)
    layer = torch.nn.Linear(64, 256)
    found = Products(layer)
    assert found.gain is None or found.gain > 0
    assert found.library == ("oneDNN" if (found.gain or 0) >= products.MIN_GAIN else "default")
    assert Products(layer.to(torch.bfloat16)).gain is None


def test_a_library_that_disagrees_is_not_taken(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(products, "MIN_PARAMETERS", 1)
    monkeypatch.setattr(products, "_onednn", lambda inputs, weight, bias: inputs @ weight.T * 1.01)
    assert Products(torch.nn.Linear(64, 256)).gain is None


def test_a_build_without_the_operation_is_left_to_torch(monkeypatch: pytest.MonkeyPatch):
    def missing(*given: object) -> None:
        raise AttributeError("no such operation")

    monkeypatch.setattr(products, "MIN_PARAMETERS", 1)
    monkeypatch.setattr(products, "_onednn", missing)
    assert Products(torch.nn.Linear(64, 256)).gain is None
