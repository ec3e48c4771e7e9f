"""Forward passes over pieces of token sequences, and the log-probabilities read from them.

Two ways of the same work:

    plain   every piece is a chain: right-padded rows under the model's own causal mask
    tree    pieces are parts of a prefix tree: a mask of four dimensions lets a token see its ancestors only, and
            the keys and values of what all rows share stand in front of them; padding is left out where the
            layers are computed here (see `decoder_layers`)

Only positions that predict something reach the vocabulary projection; their log-softmax is float32 whatever the
model's dtype.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from lamer.scoring.decoder_layers import DecoderLayers
from lamer.scoring.model import LoadedModel
from lamer.scoring.products import Products
from lamer.scoring.tree import Mark, Piece

Projection = Literal["mask", "columns", "all"]

_LOGITS_CHUNK = 1 << 20


@dataclass(frozen=True, slots=True)
class TreeResult:
    """What a pass over pieces of a tree gives."""

    logprobs: list[list[float]]
    """Of every mark of every piece, in nats."""
    cache: Any
    """Keys and values of the prefix and the piece, where they were wanted."""


class Forward:
    """One model, asked for log-probabilities at chosen positions."""

    def __init__(self, loaded: LoadedModel) -> None:
        self.loaded = loaded
        self._parameters = forward_parameters(loaded.model)
        self._projection: Projection | None = None
        self.products = Products(loaded.model)
        self.layers = DecoderLayers(loaded.model, self.products)

    @property
    def takes_positions(self) -> bool:
        """Whether positions can be given, which a tree needs."""
        return "position_ids" in self._parameters

    @property
    def projection(self) -> Projection:
        """How the model can be kept from projecting positions nobody needs; found out by trying.

        `mask`: `logits_to_keep` takes a mask of row and position; `columns`: positions, the same for all rows;
        `all`: the model projects everything.
        """
        if self._projection is None:
            self._projection = self._find_projection()
        return self._projection

    @property
    def packs(self) -> bool:
        """Whether a tree's rows go through the layers without their padding."""
        return self.projection == "mask" and self.layers.are_fused

    def plain(self, pieces: Sequence[Piece]) -> list[list[float]]:
        """Log-probability of every mark of every piece, in nats; pieces are whole sequences."""
        import torch

        ids, lengths = self._padded(pieces)
        attention = (torch.arange(ids.shape[1]) < lengths[:, None]).long().to(ids.device)
        positions = torch.arange(ids.shape[1], device=ids.device).expand(ids.shape[0], -1)
        logits, _ = self._kept_logits(pieces, ids, attention, positions, None)
        return read_marks(pieces, logits)

    def tree(self, pieces: Sequence[Piece], prefix: Any = None, *, keep_cache: bool = False) -> TreeResult:
        """The same for pieces of a tree, below a prefix.

        Args:
            pieces: All below the same prefix.
            prefix: Keys and values of the prefix, as an earlier call gave them for its only piece; not changed.
            keep_cache: Whether the keys and values of prefix and piece are wanted, for pieces below.
        """
        import torch

        ids, lengths = self._padded(pieces)
        rows, width = ids.shape
        positions = torch.zeros((rows, width), dtype=torch.long)
        ends = (torch.arange(width) + 1).repeat(rows, 1)  # padding sees itself: a softmax over nothing is NaN
        for row, piece in enumerate(pieces):
            positions[row, : len(piece)] = torch.tensor(piece.depths)
            ends[row, : len(piece)] = torch.tensor(piece.ends)
        positions, ends = positions.to(ids.device), ends.to(ids.device)
        mask = self._tree_mask(positions, ends, 0 if prefix is None else prefix.get_seq_length())
        past = None if prefix is None and not keep_cache else _copies(prefix, rows)
        is_token = (torch.arange(width) < lengths[:, None]).to(ids.device)
        logits, cache = self._kept_logits(pieces, ids, mask, positions, past, is_token)
        logprobs = read_marks(pieces, logits) if logits is not None else [[] for _ in pieces]
        return TreeResult(logprobs, cache if keep_cache else None)

    def probe(self, num_tokens: int) -> None:
        """A pass over that many made-up tokens, in rows of at most 128, to see what it takes."""
        row = Piece([0] * 128, list(range(128)), [128] * 128, [Mark(127, 0, 0, 0)])
        self.tree([row] * max(num_tokens // 128, 1))

    def _padded(self, pieces: Sequence[Piece]) -> tuple[Any, Any]:
        import torch

        width = max(map(len, pieces))
        ids = torch.tensor([piece.ids + [0] * (width - len(piece)) for piece in pieces])
        return ids.to(self.loaded.device), torch.tensor([len(piece) for piece in pieces])

    def _tree_mask(self, positions: Any, ends: Any, num_prefix: int) -> Any:
        """What each token may see, shape [rows, 1, width, num_prefix + width]; a mapping by kind of
        layer where these differ."""
        import torch

        rows, width = positions.shape
        index = torch.arange(width, device=positions.device)
        ancestors = (index[:, None] >= index) & (index[:, None] < ends[:, None, :])
        above = torch.ones((rows, width, num_prefix), dtype=torch.bool, device=positions.device)
        seen = torch.cat([above, ancestors], dim=2)
        kinds = layer_kinds(self.loaded.model)
        window = getattr(text_config(self.loaded.model), "sliding_window", None)
        masks = {"full_attention": seen}
        if "sliding_attention" in kinds:
            before = torch.arange(num_prefix, device=positions.device).expand(rows, -1)
            distance = positions[:, :, None] - torch.cat([before, positions], dim=1)[:, None, :]
            masks["sliding_attention"] = seen & (distance < (window or positions.max() + 1))
        masks = {kind: self._in_form(mask[:, None]) for kind, mask in masks.items()}
        return masks if len(kinds) > 1 or has_layer_types(self.loaded.model) else masks[next(iter(kinds))]

    def _in_form(self, mask: Any) -> Any:
        """Booleans, or numbers to add to the scores for the attention that wants them."""
        import torch

        if getattr(text_config(self.loaded.model), "_attn_implementation", None) != "eager":
            return mask
        dtype = next(self.loaded.model.parameters()).dtype
        added = torch.zeros(mask.shape, dtype=dtype, device=mask.device)
        return added.masked_fill(~mask, torch.finfo(dtype).min)

    def _kept_logits(
        self, pieces: Sequence[Piece], ids: Any, attention: Any, positions: Any, past: Any, is_token: Any = None
    ) -> tuple[Any, Any]:
        """Logits at the pieces' kept positions, row by row, shape [num_kept, vocabulary]; and the cache.

        None instead of logits where nothing is kept.
        """
        import torch

        keep = torch.zeros(ids.shape, dtype=torch.bool)
        for row, piece in enumerate(pieces):
            keep[row, piece.kept] = True
        if not keep.any():
            # Projections want at least one position; what it gives is not read.
            keep[0, 0] = True
            return None, self._call(ids, attention, positions, past, keep, is_token)[1]
        return self._call(ids, attention, positions, past, keep, is_token)

    def _call(
        self, ids: Any, attention: Any, positions: Any, past: Any, keep: Any, is_token: Any
    ) -> tuple[Any, Any]:
        keep = keep.to(ids.device)
        if is_token is not None and self.packs and not is_token.all():
            ids, positions, keep = (part[is_token][None] for part in (ids, positions, keep))
            return self._forward(ids, attention, positions, past, is_token, logits_to_keep=keep)
        if self.projection == "mask":
            return self._forward(ids, attention, positions, past, logits_to_keep=keep)
        if self.projection == "columns":
            columns = keep.any(dim=0).nonzero().squeeze(1)
            logits, cache = self._forward(ids, attention, positions, past, logits_to_keep=columns)
            return logits[keep[:, columns]], cache
        logits, cache = self._forward(ids, attention, positions, past)
        return logits[keep], cache

    def _forward(
        self, ids: Any, attention: Any, positions: Any, past: Any, is_token: Any = None, **options: Any
    ) -> tuple[Any, Any]:
        import torch

        if self.takes_positions:
            # Given, not left to the model: some count padding, some do not.
            options["position_ids"] = positions
        if past is not None:
            options["past_key_values"] = past
        if "use_cache" in self._parameters:
            options["use_cache"] = past is not None
        way = self.layers.active(is_token) if self.layers.are_fused else self.products.active()
        with torch.inference_mode(), way:
            output = self.loaded.model(input_ids=ids, attention_mask=attention, **options)
        return output.logits, past

    def _find_projection(self) -> Projection:
        import torch

        device = self.loaded.device
        ids = torch.zeros((2, 3), dtype=torch.long, device=device)
        positions = torch.arange(3, device=device).expand(2, -1)
        mask = torch.tensor([[False, False, True], [False, True, True]], device=device)
        columns = torch.tensor([1, 2], device=device)
        ones = torch.ones_like(ids)
        whole, _ = self._forward(ids, ones, positions, None)
        trials: list[tuple[Projection, Any, Any]] = [
            ("mask", mask, whole[mask]),
            ("columns", columns, whole[:, columns]),
        ]
        for name, keep, expected in trials:
            try:
                got, _ = self._forward(ids, ones, positions, None, logits_to_keep=keep)
            except (TypeError, IndexError, ValueError, RuntimeError):
                continue
            if got.shape == expected.shape and torch.allclose(got.float(), expected.float(), atol=1e-2, rtol=1e-2):
                return name
        return "all"


def read_marks(pieces: Sequence[Piece], logits: Any) -> list[list[float]]:
    """log p of the marks' tokens from the logits of the kept positions, shape [num_kept, vocabulary]."""
    import torch

    rows: list[int] = []
    tokens: list[int] = []
    offset = 0
    for piece in pieces:
        kept = piece.kept
        row_of = {position: offset + index for index, position in enumerate(kept)}
        rows += [row_of[mark.position] for mark in piece.marks]
        tokens += [mark.token for mark in piece.marks]
        offset += len(kept)
    chosen = torch.tensor(rows, device=logits.device)
    chunk = max(_LOGITS_CHUNK // logits.shape[-1], 1)
    normaliser = torch.cat([torch.logsumexp(part.float(), dim=-1) for part in logits.split(chunk)])
    values = logits[chosen, torch.tensor(tokens, device=logits.device)].float() - normaliser[chosen]
    found = iter(values.tolist())
    return [[next(found) for _ in piece.marks] for piece in pieces]


def _copies(prefix: Any, rows: int) -> Any:
    """The cache of a prefix for several rows, to be written to; an empty one for no prefix."""
    from transformers import DynamicCache

    cache = DynamicCache()  # without a configuration: nothing slides out of it
    for index, layer in enumerate(prefix.layers if prefix is not None else ()):
        cache.update(layer.keys.expand(rows, -1, -1, -1), layer.values.expand(rows, -1, -1, -1), index)
    return cache


def text_config(model: Any) -> Any:
    """The configuration of the language model (part of a larger one in models that also see or hear)."""
    config = model.config
    return config.get_text_config() if hasattr(config, "get_text_config") else config


def has_layer_types(model: Any) -> bool:
    """Whether the model names the kind of attention of every layer, and not all see everything."""
    return set(getattr(text_config(model), "layer_types", None) or ["full_attention"]) != {"full_attention"}


def layer_kinds(model: Any) -> set[str]:
    """Kinds of attention: `full_attention`, `sliding_attention`, or others by the model's own names."""
    config = text_config(model)
    if kinds := getattr(config, "layer_types", None):
        return set(kinds)
    return {"sliding_attention" if getattr(config, "sliding_window", None) else "full_attention"}


def forward_parameters(model: Any) -> frozenset[str]:
    """Names of the arguments of the model's forward (of the model inside, for an adapter's)."""
    inner = model.get_base_model() if hasattr(model, "get_base_model") else model
    return frozenset(inspect.signature(inner.forward).parameters)
