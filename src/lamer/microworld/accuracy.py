"""The accuracy table of a checkpoint: what it knows, per knowledge state, and how well probes see it.

Scores, softmax and relative entropy follow the definitions of `lamer.diagnosis`; here they are in plain
arrays so that the table can be made beside a checkpoint in seconds.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from lamer.microworld import lexicon
from lamer.microworld.corpus import Distractions, question_text
from lamer.microworld.world import STATES, World
from lamer.records import Query

if TYPE_CHECKING:
    import numpy as np
    from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

Target = Literal["text-sum", "text-mean"]
TARGETS: tuple[Target, ...] = ("text-sum", "text-mean")
TIER_BOUNDS = {"easy": 0.1, "normal": 0.4, "hard": 0.7, "unfair": 1.0}
BATCH_SIZE = 128


@dataclass(frozen=True, slots=True)
class Row:
    """One prompt whose candidates are scored."""

    prompt: str
    candidates: tuple[str, ...]


def score(
    model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, rows: Sequence[Row]
) -> list[tuple[list[float], list[int]]]:
    """Sum of the token log-probabilities of every candidate as the reply, in nats, and its token count."""
    import torch

    prompts = tokenizer.apply_chat_template(
        [[{"role": "user", "content": row.prompt}] for row in rows], add_generation_prompt=True, tokenize=False
    )
    heads = tokenizer(list(prompts), add_special_tokens=False)["input_ids"]
    flat = [(i, text) for i, row in enumerate(rows) for text in row.candidates]
    tails = tokenizer([text for _, text in flat], add_special_tokens=False)["input_ids"]
    order = sorted(range(len(flat)), key=lambda j: len(heads[flat[j][0]]) + len(tails[j]))
    sums = [0.0] * len(flat)
    with torch.inference_mode():
        for begin in range(0, len(order), BATCH_SIZE):
            part = order[begin : begin + BATCH_SIZE]
            sequences = [heads[flat[j][0]] + tails[j] for j in part]
            ids = torch.zeros(len(part), max(map(len, sequences)), dtype=torch.long)
            mask = torch.zeros_like(ids, dtype=torch.bool)
            for k, (j, sequence) in enumerate(zip(part, sequences, strict=True)):
                ids[k, : len(sequence)] = torch.tensor(sequence)
                mask[k, len(sequence) - len(tails[j]) : len(sequence)] = True
            hidden = model.model(input_ids=ids, use_cache=False).last_hidden_state
            wanted = mask[:, 1:]
            logprobs = model.lm_head(hidden[:, :-1][wanted]).float().log_softmax(-1)
            tokens = logprobs.gather(-1, ids[:, 1:][wanted][:, None])[:, 0]
            owner = torch.arange(len(part))[:, None].expand_as(wanted)[wanted]
            totals = torch.zeros(len(part)).index_add_(0, owner, tokens)
            for j, total in zip(part, totals.tolist(), strict=True):
                sums[j] = total
    found: list[tuple[list[float], list[int]]] = [([], []) for _ in rows]
    for (i, _), total, tail in zip(flat, sums, tails, strict=True):
        found[i][0].append(total)
        found[i][1].append(len(tail))
    return found


def log_distributions(
    model: LlamaForCausalLM,
    tokenizer: PreTrainedTokenizerFast,
    queries: Sequence[Query],
    facts: Sequence[str | None],
) -> dict[Target, np.ndarray]:
    """Log-probabilities over the options of two-option queries, shape [num_queries, 2], for each target."""
    import numpy as np

    def normalise(scores: Any) -> np.ndarray:
        array = np.asarray(scores, dtype=np.float64)
        return np.asarray(array - np.logaddexp.reduce(array, axis=1, keepdims=True))

    prompts = [question_text(query.text, query.options, fact) for query, fact in zip(queries, facts, strict=True)]
    texts = score(model, tokenizer, [Row(p, q.options or ()) for p, q in zip(prompts, queries, strict=True)])
    return {
        "text-sum": normalise([sums for sums, _ in texts]),
        "text-mean": normalise([[s / n for s, n in zip(*both, strict=True)] for both in texts]),
    }


def relative_entropies(log_p: np.ndarray, log_q: np.ndarray) -> np.ndarray:
    """KL(P || Q) of each row, in nats."""
    import numpy as np

    return np.asarray((np.exp(log_p) * (log_p - log_q)).sum(axis=1))


def auroc(scores: np.ndarray, positive: np.ndarray) -> float:
    """Probability that a positive scores above a negative, ties counted half; nan without both."""
    import numpy as np
    from scipy.stats import rankdata

    num_positive = int(positive.sum())
    num_negative = len(positive) - num_positive
    if not num_positive or not num_negative:
        return float("nan")
    ranks = rankdata(scores)
    return float((np.sum(ranks[positive]) - num_positive * (num_positive + 1) / 2) / (num_positive * num_negative))


def tier_counts(values: np.ndarray) -> dict[str, int]:
    """How many values fall into each tier, `below` included."""
    import numpy as np

    bins = np.digitize(values, list(TIER_BOUNDS.values()))
    return {name: int((bins == i).sum()) for i, name in enumerate(("below", *TIER_BOUNDS))}


def right_facts(world: World, queries: Sequence[Query]) -> list[str]:
    """For each query the true fact behind it, as the retrieval corpus words it."""
    texts = {fact.id: fact.text for fact in world.corpus()}
    return [texts[world.gold_fact(query.id)] for query in queries]


def irrelevant_facts(world: World, queries: Sequence[Query]) -> list[str]:
    """For each query a sentence that does not answer it: another attribute, another kind, lore, anything."""
    rng = world.rng("irrelevant")
    distractions = Distractions(world)
    facts = [world.fact(world.gold_fact(query.id)) for query in queries]
    return [distractions.draw(lexicon.attribute(fact.attribute), fact.kind, rng) for fact in facts]


def accuracy_table(
    model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, world: World, *, limit: int | None = None
) -> dict[str, Any]:
    """What the model knows, on the held-out evaluation templates, and what relative entropy sees of it.

    Returns:
        Per target: `accuracy` per state without a fact, with the right and with an irrelevant one; `auroc` of
        relative entropy (right fact), entropy and margin against "the model answers wrong" and "the fact is
        not known"; `tiers` of the relative entropy of the right fact. `correct` holds one digit per query of
        the evaluation, in its order.
    """
    import numpy as np

    queries = world.evaluation()[:limit]
    answers = np.array([int(query.answer or 0) for query in queries])
    states = np.array([world.state_of(query.id) for query in queries])
    nothing: list[str | None] = [None] * len(queries)
    prior = log_distributions(model, tokenizer, queries, nothing)
    posterior = log_distributions(model, tokenizer, queries, right_facts(world, queries))
    placebo = log_distributions(model, tokenizer, queries, irrelevant_facts(world, queries))
    table: dict[str, Any] = {"num_queries": len(queries), "targets": {}, "correct": {}}
    for target in TARGETS:
        log_p, log_q = prior[target], posterior[target]
        right = {
            name: logs[target].argmax(axis=1) == answers
            for name, logs in (("no fact", prior), ("right fact", posterior), ("irrelevant fact", placebo))
        }
        table["correct"][target] = {
            name: "".join("1" if hit else "0" for hit in right[name]) for name in ("no fact", "right fact")
        }
        wrong, unknown = ~right["no fact"], states != "known"
        probes = {
            "relative entropy": relative_entropies(log_p, log_q),
            "entropy": -(np.exp(log_p) * log_p).sum(axis=1),
            "margin": -np.abs(np.exp(log_p[:, 0]) - np.exp(log_p[:, 1])),
        }
        table["targets"][target] = {
            "accuracy": {
                name: {
                    "all": round(float(hits.mean()), 4),
                    **{s: round(float(hits[states == s].mean()), 4) for s in STATES if (states == s).any()},
                }
                for name, hits in right.items()
            },
            "auroc": {
                name: {
                    "answers wrong": round(auroc(values, wrong), 4),
                    "not known": round(auroc(values, unknown), 4),
                }
                for name, values in probes.items()
            },
            "tiers": tier_counts(probes["relative entropy"]),
            "tiers of irrelevant facts": tier_counts(relative_entropies(log_p, placebo[target])),
        }
    return table
