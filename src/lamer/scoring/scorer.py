"""Exact log-likelihoods of continuations under a causal language model, in batches.

    logprob(y | x) = sum_t log p(y_t | x, y_<t)        natural logarithm, nats

The requests of a call form a prefix tree (`lamer.scoring.tree`): a prefix that several of them share is computed
once. Models whose attention cannot take a tree (found out by comparing, when the first request comes) are scored
row by row, right-padded, where only requests that read the same tokens share a row.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from math import fsum
from typing import Any, Literal

from lamer.errors import ModelError
from lamer.scoring.batches import BATCH_OVERHEAD, PACKED_OVERHEAD, cut
from lamer.scoring.forward import Forward, TreeResult, forward_parameters, text_config
from lamer.scoring.memory import batch_tokens, in_halves
from lamer.scoring.model import LoadedModel
from lamer.scoring.tree import MIN_TRUNK_TOKENS, Mark, Piece, TokenSequence, Trunk, plan

__all__ = ["Pair", "Score", "Scorer", "Work", "context_limit", "forward_parameters", "vocabulary_size"]

MAX_LOGITS = 1 << 28
"""Numbers that one vocabulary projection may give (positions x vocabulary): 1 GiB in float32."""

CPU_BATCH_TOKENS = 2048
"""Tokens of a batch on a CPU at most: larger ones leave its caches and are slower (1.8 times at 16,384)."""

EXACT_NATS = 1e-4
"""Two exact ways of scoring in float32 differ by no more than this a sequence."""

LONGEST_TRIAL_WINDOW = 512
"""Sliding windows up to this size are part of the trial; a longer one would make the trial dear."""

Method = Literal["tree", "rows"]


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


@dataclass(slots=True)
class Work:
    """What a scorer has computed so far, in tokens."""

    pairs: int = 0
    read_tokens: int = 0
    """Tokens that every pair alone would have the model read."""
    tree_nodes: int = 0
    """Distinct prefixes, call by call: what any exact way has to compute."""
    computed_tokens: int = 0
    """What was computed, without padding."""
    padding_tokens: int = 0
    batches: int = 0


@dataclass(frozen=True, slots=True)
class Choice:
    """How a model is scored, and why."""

    method: Method
    reason: str
    difference_nats: float | None
    """Largest difference of a log-probability between tree and rows on the trial; None: no trial."""
    noise_nats: float | None
    """The same between rows together and each row alone."""


class Scorer:
    """Scores pairs with one model.

    Args:
        loaded: The model.
        max_batch_tokens: Tokens of a batch at most, padding included; halved for good when memory runs out. A
            longer single sequence makes a batch of its own. None: from the device's free memory, measured; on a
            CPU what fits its caches.
        method: `tree` or `rows`; None: found out by comparing.
    """

    def __init__(
        self, loaded: LoadedModel, max_batch_tokens: int | None = None, method: Method | None = None
    ) -> None:
        self.loaded = loaded
        self.max_length = context_limit(loaded)
        """Tokens that context and continuation may have together, or None where the model names no limit."""
        self.work = Work()
        self._vocabulary = vocabulary_size(loaded.model)
        self._forward = Forward(loaded)
        self._choice = Choice(method, "as asked for", None, None) if method else None
        self._pairs_per_token = attention_exchange(loaded.model)
        self.max_batch_tokens = self._batch_tokens(max_batch_tokens)

    def _batch_tokens(self, wanted: int | None) -> int:
        if getattr(self.loaded.device, "type", "") == "cpu":
            return min(wanted or CPU_BATCH_TOKENS, CPU_BATCH_TOKENS)
        return wanted or batch_tokens(self.loaded.device, self._forward.probe)

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

    @property
    def choice(self) -> Choice:
        """How this model is scored; compared on a few rows when first asked."""
        if self._choice is None:
            self._choice = self._compare()
        return self._choice

    def _score_tokens(self, pairs: Sequence[Pair]) -> list[list[float]]:
        for pair in pairs:
            self._check(pair)
        unique = {pair: place for place, pair in enumerate(dict.fromkeys(pairs))}
        found = [[0.0] * len(pair.continuation) for pair in unique]
        sequences = _sequences(list(unique))
        if not sequences:
            return []
        self.work.pairs += len(pairs)
        self.work.read_tokens += sum(len(pair) - 1 for pair in pairs)
        for mark, logprob in self._run(sequences, self.choice.method, self._pairs_per_token):
            found[mark.place][mark.step] = logprob
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

    def _run(
        self,
        sequences: Sequence[TokenSequence],
        method: Method,
        pairs_per_token: float,
        min_trunk_tokens: int = MIN_TRUNK_TOKENS,
    ) -> Iterator[tuple[Mark, float]]:
        """The log-probability of every mark; positions of the marks given back are those in their pieces."""
        found = plan(sequences, pairs_per_token, min_trunk_tokens)
        self.work.tree_nodes += found.num_nodes
        if method == "rows":
            yield from self._batches([_chain(sequence) for sequence in sequences], None)
            return
        caches: dict[int, Any] = {}
        last_use = {trunk.parent: index for index, trunk in enumerate(found.trunks)}
        for index, trunk in enumerate(found.trunks):
            prefix = None if trunk.parent is None else caches[trunk.parent]
            if len(trunk.piece):
                yield from self._trunk(caches, index, trunk, prefix)
                prefix = caches[index]
            else:
                caches[index] = prefix
            yield from self._batches(trunk.units, prefix, tree=True)
            for parent in [key for key in caches if last_use.get(key, -1) <= index]:
                del caches[parent]

    def _trunk(
        self, caches: dict[int, Any], index: int, trunk: Trunk, prefix: Any
    ) -> Iterator[tuple[Mark, float]]:
        def work(pieces: Sequence[Piece]) -> list[TreeResult]:
            return [self._forward.tree(pieces, prefix, keep_cache=True)]

        result = in_halves([trunk.piece], work, self._shrink)[0]
        caches[index] = result.cache
        self._count([trunk.piece])
        yield from zip(trunk.piece.marks, result.logprobs[0], strict=True)

    def _batches(
        self, pieces: Sequence[Piece], prefix: Any, *, tree: bool = False
    ) -> Iterator[tuple[Mark, float]]:
        pieces = sorted(pieces, key=len, reverse=True)

        def work(batch: Sequence[Piece]) -> list[list[float]]:
            found = self._forward.tree(batch, prefix).logprobs if tree else self._forward.plain(batch)
            self._count(batch)
            return found

        start = 0
        for end in cut(
            [len(piece) for piece in pieces],
            [len(piece.kept) if self._forward.projection == "mask" else len(piece) for piece in pieces],
            self.max_batch_tokens,
            MAX_LOGITS // self._vocabulary,
            PACKED_OVERHEAD if tree and self._forward.packs else BATCH_OVERHEAD,
        ):
            while start < end:
                # Smaller than planned when memory ran out meanwhile.
                size = min(end - start, max(self.max_batch_tokens // len(pieces[start]), 1))
                batch = pieces[start : start + size]
                for piece, logprobs in zip(batch, in_halves(batch, work, self._shrink), strict=True):
                    yield from zip(piece.marks, logprobs, strict=True)
                start += size

    def _count(self, batch: Sequence[Piece]) -> None:
        tokens = sum(map(len, batch))
        self.work.computed_tokens += tokens
        self.work.padding_tokens += len(batch) * max(map(len, batch)) - tokens
        self.work.batches += 1

    def _shrink(self) -> None:
        self.max_batch_tokens = max(self.max_batch_tokens // 2, 1)

    def _compare(self) -> Choice:
        """Score a few made-up sequences by tree, by rows and alone, and pick.

        The tree is taken when it differs from the rows by no more than rounding: 1e-4 nats in float32; in other
        types, on the mean, four times the difference between rows together and each row alone.
        """
        import torch

        if not self._forward.takes_positions:
            return Choice("rows", "the model takes no positions", None, None)
        window = getattr(text_config(self.loaded.model), "sliding_window", None)
        sequences = trial(self._vocabulary, self.max_length, window)
        work, self.work = self.work, Work()
        rows = self._trial_scores(sequences, "rows")
        alone = {key: value for one in sequences[:4] for key, value in self._trial_scores([one], "rows").items()}
        try:
            tree = self._trial_scores(sequences, "tree")
        except Exception as error:  # whatever a model says that was not made for a tree
            return Choice("rows", f"the model refuses a tree ({_first_line(error)})", None, None)
        finally:
            self.work = work
        noise = [abs(alone[key] - rows[key]) for key in alone]
        differences = [abs(tree[key] - rows[key]) for key in rows]
        dtype = next(self.loaded.model.parameters()).dtype
        if dtype == torch.float32:
            agrees = max(differences) <= EXACT_NATS
        else:
            mean = fsum(differences) / len(differences)
            agrees = mean <= 4 * fsum(noise) / len(noise) + torch.finfo(dtype).eps
        reason = "equal to rows up to rounding" if agrees else "the tree gives other scores than rows"
        return Choice("tree" if agrees else "rows", reason, max(differences), max(noise))

    def _trial_scores(self, sequences: Sequence[TokenSequence], method: Method) -> dict[tuple[int, int], float]:
        # Small rows and any trunk, so that both are there even where a large model would put all into one row.
        marks = self._run(sequences, method, 0.0, min_trunk_tokens=1)
        return {(mark.place, mark.step): logprob for mark, logprob in marks}

    def report(self) -> dict[str, Any]:
        """How the model is scored, for the run's manifest."""
        return asdict(self.choice) | {
            "dtype": self.dtype,
            "products": self._forward.products.library,
            "layers": "fused" if self._forward.layers.are_fused else "the model's own",
        }

    @property
    def dtype(self) -> str:
        """The model's number type, as torch calls it."""
        return str(next(self.loaded.model.parameters()).dtype).removeprefix("torch.")


def trial(vocabulary: int, max_length: int | None, window: int | None = None) -> list[TokenSequence]:
    """Made-up sequences whose tree has a trunk, rows with several branches, and branches of branches.

    They are longer than a sliding window of up to 512 tokens, where the model has one.
    """
    rng = random.Random("lamer trial")
    wanted = window + 16 if window and window <= LONGEST_TRIAL_WINDOW else 48
    length = min(max_length or wanted, wanted)

    def words(count: int) -> tuple[int, ...]:
        return tuple(rng.randrange(vocabulary) for _ in range(count))

    header = words(length // 3)
    ids: dict[tuple[int, ...], None] = {}
    for _ in range(6):
        context = header + words(length // 3)
        branch = context + words(1)
        ids.update(dict.fromkeys([context, branch + words(length // 4), branch + words(2)]))
    return [
        TokenSequence(tokens, [Mark(at, place, at, rng.randrange(vocabulary)) for at in range(0, len(tokens), 2)])
        for place, tokens in enumerate(ids)
    ]


def _sequences(pairs: Sequence[Pair]) -> list[TokenSequence]:
    """What is read for the pairs: all but the last token, which is only predicted. Equal ones are one."""
    by_ids: dict[tuple[int, ...], TokenSequence] = {}
    for place, pair in enumerate(pairs):
        ids, first = pair.context + pair.continuation[:-1], len(pair.context) - 1
        sequence = by_ids.setdefault(ids, TokenSequence(ids, []))
        sequence.marks.extend(
            Mark(first + step, place, step, token) for step, token in enumerate(pair.continuation)
        )
    return list(by_ids.values())


def _chain(sequence: TokenSequence) -> Piece:
    length = len(sequence.ids)
    return Piece(list(sequence.ids), list(range(length)), [length] * length, sequence.marks)


def attention_exchange(model: Any) -> float:
    """Query-key pairs of attention that cost as much as one token does elsewhere.

    A token costs 2 operations a parameter outside of the embedding; a pair 4 operations a layer and channel of
    the heads, counted twice, for attention under a mask runs further from the machine's peak.
    """
    config = text_config(model)
    heads = getattr(config, "num_attention_heads", None) or 1
    channels = heads * (getattr(config, "head_dim", None) or getattr(config, "hidden_size", heads) // heads)
    layers = getattr(config, "num_hidden_layers", None) or 1
    embedding = model.get_input_embeddings().weight.numel()
    parameters = max(sum(parameter.numel() for parameter in model.parameters()) - embedding, 1)
    return float(2 * parameters / (2 * 4 * layers * channels))


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


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0][:200] if lines else type(error).__name__
