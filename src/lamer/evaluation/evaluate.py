"""Answers of one model to labelled samples: in free form, and by log-likelihood of the options."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from lamer.config import Config, DiagnoseSettings
from lamer.evaluation.benchmarks import Sample, load_samples
from lamer.evaluation.extraction import extract_answer, is_correct
from lamer.evaluation.generate import Reply, reply_to
from lamer.records import Prediction
from lamer.scoring.model import LoadedModel
from lamer.scoring.render import Renderer, letter
from lamer.scoring.scorer import Pair, Score, Scorer

if TYPE_CHECKING:
    from lamer.evaluation.harness_tasks import HarnessSample

__all__ = ["Sample", "load_samples", "predict"]


def predict(
    samples: Sequence[Sample | HarnessSample], loaded: LoadedModel, config: Config, method: str
) -> list[Prediction]:
    """One prediction a sample, in order.

    The prompt is that of diagnosis and training: question and options, no fact. The answer is extracted from the
    greedy reply; beside it stands the option with the highest log-likelihood. Items of tasks that
    lm-evaluation-harness ships are asked and marked as these say.

    Args:
        samples: At most a shard of them.
        loaded: The model, with the method's adapter.
        config: Its sections `prompt`, `evaluate` and (for the log-likelihood) `diagnose` are read.
        method: Name of the method.
    """
    own = [sample for sample in samples if isinstance(sample, Sample)]
    others = [sample for sample in samples if not isinstance(sample, Sample)]
    answers = iter(_answer(own, loaded, config, method) if own else ())
    more: Iterator[Prediction] = iter(())
    if others:
        from lamer.evaluation.harness_tasks import answer

        more = iter(answer(others, loaded, config, method))
    return [next(answers) if isinstance(sample, Sample) else next(more) for sample in samples]


def _answer(samples: Sequence[Sample], loaded: LoadedModel, config: Config, method: str) -> list[Prediction]:
    renderer = Renderer(loaded.tokenizer, config.prompt)
    prompts = [renderer.prompt(sample.question, sample.options or None) for sample in samples]
    replies = reply_to(
        [tuple(renderer.context_ids(prompt)) for prompt in prompts],
        loaded,
        renderer,
        max_new_tokens=config.evaluate.max_new_tokens,
        max_batch_tokens=config.evaluate.max_batch_tokens,
        stop=config.evaluate.stop,
    )
    scorer = Scorer(loaded, config.evaluate.max_batch_tokens)
    likeliest = likeliest_options(samples, scorer, renderer, config.diagnose)
    return [_prediction(*row, method) for row in zip(samples, replies, likeliest)]


def likeliest_options(
    samples: Sequence[Sample], scorer: Scorer, renderer: Renderer, settings: DiagnoseSettings
) -> list[str | None]:
    """Letter of the option with the highest score, the first of equals; scores as in diagnosis.

    Target `letter` (and `auto`): log-likelihood of the option's letter behind the prompt that lists the options.
    Target `text`: of the option's text, summed or per token. None for a sample without options, and for one
    that does not fit into the model's context.
    """
    pairs = [_option_pairs(sample, renderer, settings) for sample in samples]
    asked = [i for i, row in enumerate(pairs) if row and all(map(scorer.fits, row))]
    scores = iter(scorer.score([pair for i in asked for pair in pairs[i]]))
    answers: list[str | None] = [None] * len(samples)
    for i in asked:
        values = [_value(next(scores), settings) for _ in pairs[i]]
        answers[i] = letter(max(range(len(values)), key=values.__getitem__))
    return answers


def _option_pairs(sample: Sample, renderer: Renderer, settings: DiagnoseSettings) -> list[Pair]:
    is_text = settings.target == "text"
    listed = sample.options if settings.show_options or not is_text else None
    context = tuple(renderer.context_ids(renderer.prompt(sample.question, listed or None)))
    return [
        Pair(context, tuple(renderer.continuation_ids(option if is_text else letter(index))))
        for index, option in enumerate(sample.options)
    ]


def _value(score: Score, settings: DiagnoseSettings) -> float:
    return score.logprob / score.num_tokens if settings.normalization == "mean" else score.logprob


def _prediction(sample: Sample, reply: Reply, likeliest: str | None, method: str) -> Prediction:
    text = reply.text.strip()
    answer = extract_answer(text, sample.options, is_cut=reply.ended == "length")
    return Prediction(
        method=method,
        benchmark=sample.benchmark,
        task=sample.task,
        sample_id=sample.id,
        target=sample.target,
        answer=answer,
        parsed=answer is not None,
        correct=is_correct(answer, sample.target, sample.options),
        text=text,
        loglikelihood_answer=likeliest,
        ended=reply.ended,
    )
