"""Exact log-likelihoods of continuations under a causal language model, in batches.

    logprob(y | x) = sum_t log p(y_t | x, y_<t)        natural logarithm, nats

Pairs whose inputs agree (all but the last token of the continuation: the last one is only predicted, never read)
are one row of one forward pass, so the letters of a question cost one row. Rows are right-padded, sorted by
length and cut into batches by a budget of tokens. Only positions that predict a token of a continuation reach the
vocabulary projection; their log-softmax is float32 whatever the model's dtype.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import dataclass, field
from math import fsum
from typing import Any, Literal

from lamer.errors import ModelError
from lamer.scoring.memory import in_halves
from lamer.scoring.model import LoadedModel

MAX_LOGITS = 1 << 28
"""Numbers that one vocabulary projection may give (positions x vocabulary): 1 GiB in float32."""

CPU_BATCH_TOKENS = 2048
"""Tokens of a batch on a CPU at most: larger ones leave its caches and are slower (1.8 times at 16,384)."""

_LOGITS_CHUNK = 1 << 24

Projection = Literal["mask", "columns", "all"]


@dataclass(frozen=True, slots=True)
class Pair:
    """A continuation to score after a context, as token ids; both must have a token.

    Raises:
        ValueError: If one of them is empty.
    """

    context: tuple[int, ...]
    continuation: tuple[int, ...]

    def __post_init__(self) -> None:
        if not self.context:
            raise ValueError("the context has no tokens; a first token cannot be scored without one before it")
        if not self.continuation:
            raise ValueError("the continuation has no tokens; there is nothing to score")

    def __len__(self) -> int:
        return len(self.context) + len(self.continuation)


@dataclass(frozen=True, slots=True)
class Score:
    """The log-likelihood of a continuation."""

    logprob: float
    """Sum over its tokens, in nats."""
    num_tokens: int


@dataclass(frozen=True, slots=True)
class _Row:
    """What one row of a batch reads, and the continuations that are scored on it."""

    ids: tuple[int, ...]
    first: int
    """Position that predicts the first token of the continuations."""
    targets: list[tuple[int, ...]] = field(default_factory=list)
    places: list[int] = field(default_factory=list)
    """Index of the pair of each target."""

    @property
    def num_kept(self) -> int:
        return len(self.ids) - self.first


class Scorer:
    """Scores pairs with one model.

    Args:
        loaded: The model.
        max_batch_tokens: Tokens of a batch at most, padding included; halved for good when memory runs out. A
            longer single pair makes a batch of its own.
    """

    def __init__(self, loaded: LoadedModel, max_batch_tokens: int) -> None:
        self.loaded = loaded
        on_cpu = getattr(loaded.device, "type", "") == "cpu"
        self.max_batch_tokens = min(max_batch_tokens, CPU_BATCH_TOKENS) if on_cpu else max_batch_tokens
        self.max_length = context_limit(loaded)
        """Tokens that context and continuation may have together, or None where the model names no limit."""
        self._vocabulary = vocabulary_size(loaded.model)
        self._parameters = forward_parameters(loaded.model)
        self._projection: Projection | None = None

    def fits(self, pair: Pair) -> bool:
        """Whether the pair is within the model's context."""
        return self.max_length is None or len(pair) <= self.max_length

    def score(self, pairs: Sequence[Pair]) -> list[Score]:
        """Log-likelihoods, in the order of the pairs.

        Raises:
            ModelError: If a pair is longer than the model's context (nothing is ever cut), holds a token id that
                the model does not have, or does not fit in memory alone.
        """
        return [Score(fsum(logprobs), len(logprobs)) for logprobs in self._score_tokens(pairs)]

    def token_logprobs(self, pair: Pair) -> list[float]:
        """log p of each token of the continuation, given all before it, in nats."""
        return self._score_tokens([pair])[0]

    def _score_tokens(self, pairs: Sequence[Pair]) -> list[list[float]]:
        for pair in pairs:
            self._check(pair)
        unique = {pair: place for place, pair in enumerate(dict.fromkeys(pairs))}
        found: list[list[float]] = [[] for _ in unique]
        rows = sorted(_rows(list(unique)), key=lambda row: len(row.ids), reverse=True)
        start = 0
        while start < len(rows):
            batch = rows[start : start + self._batch_size(rows, start)]
            for row, logprobs in zip(batch, in_halves(batch, self._run, self._shrink)):
                for place, values in zip(row.places, logprobs):
                    found[place] = values
            start += len(batch)
        return [found[unique[pair]] for pair in pairs]

    def _check(self, pair: Pair) -> None:
        if not self.fits(pair):
            raise ModelError(
                f"a prompt with its continuation has {len(pair)} tokens, the model's limit is {self.max_length}; "
                "shorten the text or use a model with a longer context"
            )
        if max(max(pair.context), max(pair.continuation)) >= self._vocabulary:
            raise ModelError(
                f"the tokenizer gives token {max(*pair.context, *pair.continuation)}, the model has only "
                f"{self._vocabulary}; the two do not belong together"
            )

    def _shrink(self) -> None:
        self.max_batch_tokens = max(self.max_batch_tokens // 2, 1)

    def _batch_size(self, rows: Sequence[_Row], start: int) -> int:
        """Rows from `start` (the longest one left) that keep to the budgets, at least one."""
        width = len(rows[start].ids)
        positions = size = 0
        for row in rows[start:]:
            positions += row.num_kept if self.projection == "mask" else width
            too_long = (size + 1) * width > self.max_batch_tokens
            if size and (too_long or positions * self._vocabulary > MAX_LOGITS):
                break
            size += 1
        return size

    @property
    def projection(self) -> Projection:
        """How the model can be kept from projecting positions nobody needs; found out by trying.

        `mask`: `logits_to_keep` takes a mask of row and position; `columns`: positions, the same for all rows;
        `all`: the model projects everything.
        """
        if self._projection is None:
            self._projection = self._find_projection()
        return self._projection

    def _find_projection(self) -> Projection:
        import torch

        ids = torch.zeros((2, 3), dtype=torch.long, device=self.loaded.device)
        mask = torch.tensor([[False, False, True], [False, True, True]], device=self.loaded.device)
        columns = torch.tensor([1, 2], device=self.loaded.device)
        whole = self._forward(ids, torch.ones_like(ids))
        trials: list[tuple[Projection, Any, Any]] = [
            ("mask", mask, whole[mask]),
            ("columns", columns, whole[:, columns]),
        ]
        for name, keep, expected in trials:
            try:
                got = self._forward(ids, torch.ones_like(ids), logits_to_keep=keep)
            except (TypeError, IndexError, ValueError, RuntimeError):
                continue
            if got.shape == expected.shape and torch.allclose(got.float(), expected.float(), atol=1e-2, rtol=1e-2):
                return name
        return "all"

    def _forward(self, ids: Any, attention: Any, **options: Any) -> Any:
        """Logits of right-padded rows, shape as `logits_to_keep` says."""
        import torch

        if "position_ids" in self._parameters:
            # Given, not left to the model: some count padding, some do not.
            options["position_ids"] = torch.arange(ids.shape[1], device=ids.device).expand(ids.shape[0], -1)
        if "use_cache" in self._parameters:
            options["use_cache"] = False
        with torch.inference_mode():
            return self.loaded.model(input_ids=ids, attention_mask=attention, **options).logits

    def _run(self, rows: Sequence[_Row]) -> list[list[list[float]]]:
        """Token log-probabilities of every target of every row, by one forward pass."""
        import torch

        width = max(len(row.ids) for row in rows)
        padded = torch.tensor([row.ids + (0,) * (width - len(row.ids)) for row in rows])
        lengths = torch.tensor([len(row.ids) for row in rows])
        first = torch.tensor([row.first for row in rows])
        position = torch.arange(width)
        attention = position < lengths[:, None]
        keep = attention & (position >= first[:, None])
        device = self.loaded.device
        logits = self._kept_logits(padded.to(device), attention.long().to(device), keep.to(device))
        return _read_targets(rows, logits)

    def _kept_logits(self, ids: Any, attention: Any, keep: Any) -> Any:
        """Logits where `keep` (shape [rows, width]) is true, row by row: shape [num_kept, vocabulary]."""
        if self.projection == "mask":
            return self._forward(ids, attention, logits_to_keep=keep)
        if self.projection == "columns":
            columns = keep.any(dim=0).nonzero().squeeze(1)
            return self._forward(ids, attention, logits_to_keep=columns)[keep[:, columns]]
        return self._forward(ids, attention)[keep]


def _rows(pairs: Sequence[Pair]) -> list[_Row]:
    """Pairs that read the same tokens and start at the same place share a row."""
    rows: dict[tuple[tuple[int, ...], int], _Row] = {}
    for place, pair in enumerate(pairs):
        ids, first = pair.context + pair.continuation[:-1], len(pair.context) - 1
        row = rows.setdefault((ids, first), _Row(ids, first))
        row.targets.append(pair.continuation)
        row.places.append(place)
    return list(rows.values())


def _read_targets(rows: Sequence[_Row], logits: Any) -> list[list[list[float]]]:
    """log p of the targets' tokens from kept logits, shape [num_kept, vocabulary]."""
    import torch

    wanted: list[tuple[int, int]] = []
    offset = 0
    for row in rows:
        for target in row.targets:
            wanted += [(offset + step, token) for step, token in enumerate(target)]
        offset += row.num_kept
    places, tokens = torch.tensor(wanted, device=logits.device).unbind(1)
    chunk = max(_LOGITS_CHUNK // logits.shape[-1], 1)
    normaliser = torch.cat([torch.logsumexp(part.float(), dim=-1) for part in logits.split(chunk)])
    values = iter((logits[places, tokens].float() - normaliser[places]).tolist())
    return [[[next(values) for _ in target] for target in row.targets] for row in rows]


def text_config(model: Any) -> Any:
    """The configuration of the language model (part of a larger one in models that also see or hear)."""
    config = model.config
    return config.get_text_config() if hasattr(config, "get_text_config") else config


def context_limit(loaded: LoadedModel) -> int | None:
    """Tokens that the model can read, from its configuration, else from its tokenizer; None if neither says."""
    limit = getattr(text_config(loaded.model), "max_position_embeddings", None)
    if isinstance(limit, int) and limit > 0:
        return limit
    limit = getattr(loaded.tokenizer, "model_max_length", None)
    return limit if isinstance(limit, int) and 0 < limit < 10**9 else None


def vocabulary_size(model: Any) -> int:
    """Tokens that the model knows: rows of its input embedding."""
    return int(model.get_input_embeddings().weight.shape[0])


def forward_parameters(model: Any) -> frozenset[str]:
    """Names of the arguments of the model's forward (of the model inside, for an adapter's)."""
    inner = model.get_base_model() if hasattr(model, "get_base_model") else model
    return frozenset(inspect.signature(inner.forward).parameters)
