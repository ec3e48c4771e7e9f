"""What a diagnosis has to compute, told before it starts: prompts, scores, tokens where they can be counted.

A query is read once without a fact, once with each of its facts and placebos; with permutations, in each order
of its options. Every candidate is scored after every prompt.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import factorial
from pathlib import Path

from lamer.config import Config, DiagnoseSettings
from lamer.records import Query
from lamer.scoring.model import local_folder


@dataclass(frozen=True, slots=True)
class Workload:
    """What a diagnosis has to compute."""

    queries: int
    pairs: int
    """(query, fact) pairs, placebos included."""
    prompts: int
    scores: int
    """Log-likelihoods of a candidate after a prompt."""
    tokens: int | None
    """Of questions, options and facts, without the chat template, every prompt read whole; prefixes that prompts
    share are computed once, so the work is less. None: the model's tokenizer is not on this machine."""
    weights_gib: float | None
    """Of the model's files; None when they are not on this machine."""
    seconds: float | None
    """As an earlier diagnosis of this run took; None: not measured."""
    basis: str
    """What was counted, and what was assumed."""


def workload(
    config: Config,
    num_queries: int,
    sample: Sequence[Query],
    matches: Mapping[str, int] | None,
    fact_text: str,
    count: Callable[[str], int] | None,
    seconds: float | None,
) -> Workload:
    """The work of diagnosing `num_queries` queries.

    Args:
        config: Settings `diagnose`, `retrieve`, `model`.
        num_queries: Queries in all.
        sample: Some of them; the others are taken to be like these.
        matches: Facts matched with each query, by query id; None before retrieval, then `retrieve.top_k` of each.
        fact_text: A fact of typical length.
        count: Tokens of a text for the model under diagnosis; None when its tokenizer is not here.
        seconds: As an earlier diagnosis took.
    """
    settings, shown = config.diagnose, list(sample)
    scale = num_queries / len(shown) if shown else 0.0
    pairs = prompts = scores = tokens = 0
    fact_tokens = count(fact_text) if count is not None else 0
    for query in shown:
        found = config.retrieve.top_k if matches is None else matches.get(query.id, 0)
        if not found:
            continue
        num_facts = found + settings.placebos
        num_orders = orders_of(query, settings)
        pairs += num_facts
        prompts += (1 + num_facts) * num_orders
        scores += (1 + num_facts) * num_orders * num_candidates(query, settings)
        if count is not None:
            text = f"{query.text} {' '.join(query.options or ())}"
            tokens += num_orders * ((1 + num_facts) * count(text) + num_facts * fact_tokens)
    found_by = f"at most retrieve.top_k={config.retrieve.top_k} facts a query"
    basis = "matches of this run" if matches is not None else found_by
    if len(shown) < num_queries:
        basis += f", scaled up from {len(shown)} queries"
    return Workload(
        queries=num_queries,
        pairs=round(pairs * scale),
        prompts=round(prompts * scale),
        scores=round(scores * scale),
        tokens=round(tokens * scale) if count is not None else None,
        weights_gib=weights_gib(config),
        seconds=seconds,
        basis=basis,
    )


def orders_of(query: Query, settings: DiagnoseSettings) -> int:
    """Orders in which the options are read: one, all rotations, or all."""
    if query.options is None or settings.target == "text" or settings.permutations == "none":
        return 1
    return len(query.options) if settings.permutations == "cyclic" else factorial(len(query.options))


def num_candidates(query: Query, settings: DiagnoseSettings) -> int:
    """Candidates of a query: its options, or the responses to be sampled."""
    return len(query.options) if query.options is not None else settings.num_candidates


def weights_gib(config: Config) -> float | None:
    """Size of the model's files in GiB, where they are on this machine and are what is scored."""
    if config.model.server is not None:
        return None
    folder = local_folder(config.model.name)
    files = [*Path(folder).glob("*.safetensors"), *Path(folder).glob("*.bin")] if folder is not None else []
    return round(sum(file.stat().st_size for file in files) / 2**30, 3) if files else None
