from __future__ import annotations

from dataclasses import replace

import pytest

from lamer.evaluation.evaluate import likeliest_options, predict
from lamer.evaluation.extraction import extract_answer
from lamer.scoring.model import load_model
from lamer.scoring.render import Renderer
from lamer.scoring.scorer import Pair, Scorer


@pytest.fixture
def loaded(settings):
    return load_model(settings().model)


def test_there_is_one_prediction_a_sample_in_order(samples, loaded, settings):
    found = predict(samples, loaded, settings(), "base")
    assert [(item.sample_id, item.benchmark, item.task) for item in found] == [
        (sample.id, sample.benchmark, sample.task) for sample in samples
    ]
    for item, sample in zip(found, samples):
        assert item.method == "base"
        assert item.target == sample.target
        assert item.answer == extract_answer(item.text, sample.options, is_cut=item.ended == "length")
        assert item.parsed == (item.answer is not None)
        assert (item.loglikelihood_answer in {"A", "B", "C"}) if sample.options else not item.loglikelihood_answer


def test_a_prediction_depends_neither_on_the_label_nor_on_its_companions(samples, loaded, settings):
    found = predict(samples, loaded, settings(), "base")
    other = [replace(sample, target="A" if sample.options else "0") for sample in samples]
    relabelled = predict(other, loaded, settings(), "base")
    alone = [predict([sample], loaded, settings(), "base")[0] for sample in samples]
    assert [(x.text, x.loglikelihood_answer) for x in found] == [
        (x.text, x.loglikelihood_answer) for x in relabelled
    ]
    assert found == alone


@pytest.mark.parametrize(
    ("target", "normalization", "show_options"),
    [("auto", "mean", True), ("letter", "sum", False), ("text", "mean", True), ("text", "sum", False)],
)
def test_the_likeliest_option_follows_the_rule_of_diagnosis(
    target, normalization, show_options, samples, loaded, settings
):
    config = settings(
        **{
            "diagnose.target": target,
            "diagnose.normalization": normalization,
            "diagnose.show_options": str(show_options).lower(),
        }
    )
    renderer, scorer = Renderer(loaded.tokenizer, config.prompt), Scorer(loaded, 4096)
    expected = []
    for sample in samples[:8]:
        options = None if target == "text" and not show_options else sample.options
        context = tuple(renderer.context_ids(renderer.prompt(sample.question, options)))
        texts = sample.options if target == "text" else ("A", "B", "C")
        scores = scorer.score([Pair(context, tuple(renderer.continuation_ids(text))) for text in texts])
        values = [s.logprob / s.num_tokens if normalization == "mean" else s.logprob for s in scores]
        expected.append("ABC"[values.index(max(values))])
    assert likeliest_options(samples[:8], scorer, renderer, config.diagnose) == expected


def test_a_sample_longer_than_the_context_is_neither_parsed_nor_scored(samples, loaded, settings):
    long = replace(samples[0], id="long", question="Why? " * 600)
    (found,) = predict([long], loaded, settings(), "base")
    assert (found.text, found.answer, found.parsed, found.correct) == ("", None, False, False)
    assert found.loglikelihood_answer is None
