"""Decoder layers of the Llama shape in few operations, for inference on a CPU.

    h += attention(rotate(norm(h) Wq^T), rotate(norm(h) Wk^T), norm(h) Wv^T) Wo^T
    h += (act(norm(h) Wg^T) * norm(h) Wu^T) Wd^T

transformers computes the same with a pass over memory and a new tensor for each operation. Here sums are part of
oneDNN's matrix products, the rest is done in place where it can be, the mask becomes numbers once and not in every
layer, attention leaves out keys that no query sees, and tokens of rows of different lengths come without padding,
which only attention needs.

Layers of this shape (`decoder_shape`) are taken when both ways give the same on made-up input, up to rounding. All
others stay as they are.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

from lamer.scoring.decoder_shape import decoder_layers, has_shape, is_linear, made_up, own_output
from lamer.scoring.products import Products

TOLERANCE = {"torch.float32": 1e-5, "torch.bfloat16": 3e-2}
"""Largest difference between the two ways on made-up input, relative to the most that a layer adds to it: some
hundred times the rounding of float32, four times that of bfloat16."""
MAX_PARTS = 4
MIN_QUERIES = 32
"""Into how many parts attention is cut, and their least number of queries."""
MAX_FOLDED = 1 << 25
"""Numbers of a mask that is written out for each of the heads that share keys and values."""


class DecoderLayers:
    """The decoder layers of one model; `with layers.active(): ...` around its forward passes."""

    def __init__(self, model: Any, products: Products) -> None:
        self._products = products
        self._layers: list[Any] = decoder_layers(model) if products.library == "oneDNN" else []
        head = model.get_output_embeddings() if self._layers else None
        is_alike = head is not None and is_linear(head) and head.weight.dtype == _weight_of(self._layers[0]).dtype
        self._head = head if is_alike else None
        self._tokens: _Tokens | None = None
        self._masks: dict[int, tuple[Any, _Mask]] = {}
        self._rotations: dict[int, tuple[Any, Any, Any]] = {}
        self.difference: float | None = self._compare()
        """Largest relative difference to the model's own layers, on made-up input; None where they stay."""
        if self.difference is None or not self.difference <= TOLERANCE[str(_weight_of(self._layers[0]).dtype)]:
            self._layers = []  # also where the difference is NaN

    @property
    def are_fused(self) -> bool:
        """Whether the model's layers are computed here."""
        return (
            bool(self._layers)
            and self._products.library == "oneDNN"
            and all(map(has_shape, self._layers))
            and (self._head is None or is_linear(self._head))
        )

    @contextmanager
    def active(self, is_token: Any = None) -> Iterator[None]:
        """A context in which layers and vocabulary are computed here; inference only, and only where `are_fused`.

        Args:
            is_token: Shape [rows, width]: which places of the rows hold a token. The hidden states then come as
                one row of all tokens, without padding; mask and cache are those of the rows.
        """
        self._tokens = None if is_token is None else _Tokens(is_token)
        changed = []
        try:
            for layer in self._layers:
                layer.forward = partial(self._layer, layer)
                changed.append(layer)
            if self._head is not None:
                self._head.forward = partial(self._logits, self._head)
                changed.append(self._head)
            yield
        finally:
            for part in changed:
                del part.forward
            self._tokens = None
            self._masks.clear()
            self._rotations.clear()

    def _compare(self) -> float | None:
        """The largest relative difference over all layers; None where there is none of this shape."""
        import torch

        differences = []
        for layer in self._layers:
            hidden, options = made_up(layer)
            try:
                own = own_output(layer, hidden, options)
                with torch.inference_mode():
                    found = self._layer(layer, hidden, **options)
            except (RuntimeError, TypeError, ValueError, AttributeError, IndexError, KeyError):
                return None
            finally:
                self._masks.clear()
                self._rotations.clear()
            if getattr(own, "shape", None) != found.shape:
                return None
            differences.append(float((own - found).abs().max() / (own - hidden).abs().max()))
        return max(differences, default=None)

    def _layer(
        self,
        layer: Any,
        hidden_states: Any,
        attention_mask: Any = None,
        position_embeddings: Any = None,
        past_key_values: Any = None,
        **_: Any,
    ) -> Any:
        hidden = hidden_states.reshape(-1, hidden_states.shape[-1])
        attention, mlp = layer.self_attn, layer.mlp
        seen = self._attention(
            attention,
            _normed(hidden, layer.input_layernorm),
            hidden_states.shape[:2],
            self._mask(attention_mask, hidden.dtype),
            self._rotation(position_embeddings),
            past_key_values,
        )
        hidden = self._products.product(seen, attention.o_proj, added=hidden)
        normed = _normed(hidden, layer.post_attention_layernorm)
        gate = _activated(self._products.product(normed, mlp.gate_proj), mlp.act_fn)
        inner = gate.mul_(self._products.product(normed, mlp.up_proj))
        return self._products.product(inner, mlp.down_proj, added=hidden).view(hidden_states.shape)

    def _logits(self, head: Any, hidden: Any) -> Any:
        return self._products.product(hidden.reshape(-1, hidden.shape[-1]), head).view(*hidden.shape[:-1], -1)

    def _attention(
        self, attention: Any, hidden: Any, shape: Any, mask: Any, rotation: Any, past_key_values: Any
    ) -> Any:
        """What the heads see, side by side, shape [tokens, heads x channels]."""
        channels = attention.head_dim
        queries = self._products.product(hidden, attention.q_proj).view(len(hidden), -1, channels)
        keys = self._products.product(hidden, attention.k_proj).view(len(hidden), -1, channels)
        values = self._products.product(hidden, attention.v_proj).view(len(hidden), -1, channels)
        if hasattr(attention, "q_norm"):
            queries, keys = _normed(queries, attention.q_norm), _normed(keys, attention.k_norm)
        _rotate(queries, *rotation)
        _rotate(keys, *rotation)
        queries, keys, values = (self._in_rows(heads, shape) for heads in (queries, keys, values))
        keys, values = keys.transpose(1, 2), values.transpose(1, 2)
        if past_key_values is not None:
            keys, values = past_key_values.update(keys, values, attention.layer_idx)
        seen = _attended(queries, keys, values, mask, attention.scaling).flatten(0, 1).flatten(1)
        return seen if self._tokens is None else seen.index_select(0, self._tokens.places)

    def _in_rows(self, heads: Any, shape: Any) -> Any:
        """Heads of tokens, shape [tokens, heads, channels], as those of rows: [rows, width, heads, channels]."""
        if self._tokens is not None:
            heads, shape = heads.index_select(0, self._tokens.of_places), self._tokens.shape
        return heads.view(*shape, *heads.shape[1:])

    def _mask(self, mask: Any, dtype: Any) -> _Mask | None:
        """The mask as attention reads it, made once for all layers."""
        if mask is None:
            return None
        if id(mask) not in self._masks:
            self._masks[id(mask)] = mask, _Mask(mask, dtype)  # the first is kept, so that its id stays its own
        return self._masks[id(mask)][1]

    def _rotation(self, position_embeddings: Any) -> tuple[Any, Any]:
        """Cosines and sines of the angles, shape [tokens, 1, channels / 2]: both halves of a head have them."""
        cos, sin = position_embeddings
        if id(cos) not in self._rotations:
            half = cos.shape[-1] // 2
            parts = [part.reshape(-1, 1, 2 * half)[..., :half].contiguous() for part in (cos, sin)]
            self._rotations[id(cos)] = cos, parts[0], parts[1]
        return self._rotations[id(cos)][1:]


class _Mask:
    """What every token sees, as numbers to add, in parts of the queries.

    Where no token sees a later one, what comes after a part's last query need not be looked at.
    """

    def __init__(self, mask: Any, dtype: Any) -> None:
        import torch

        self._width, self._length = mask.shape[-2:]
        is_seen = mask if mask.dtype == torch.bool else mask > torch.finfo(mask.dtype).min / 2
        self.is_causal = not is_seen.triu(self._length - self._width + 1).any()
        self._numbers = mask
        if mask.dtype == torch.bool:
            self._numbers = torch.zeros(mask.shape, dtype=dtype).masked_fill_(~mask, float("-inf"))
        self._parts: dict[int, list[tuple[slice, slice, Any]]] = {}

    def folds(self, groups: int) -> bool:
        """Whether there is room for the mask of so many heads that share keys and values."""
        return groups == 1 or self._numbers.numel() * groups <= MAX_FOLDED

    def parts(self, groups: int) -> list[tuple[slice, slice, Any]]:
        """Queries, the keys that they may see, and the numbers, each query's row `groups` times."""
        if groups not in self._parts:
            step = max(-(-self._width // MAX_PARTS), MIN_QUERIES) if self.is_causal else self._width
            starts = range(0, self._width, step)
            self._parts[groups] = [self._part(start, min(start + step, self._width), groups) for start in starts]
        return self._parts[groups]

    def _part(self, start: int, end: int, groups: int) -> tuple[slice, slice, Any]:
        seen = slice(self._length - self._width + end if self.is_causal else self._length)
        numbers = self._numbers[:, :, start:end, seen]
        if groups > 1:
            numbers = numbers.repeat_interleave(groups, dim=2)
        return slice(start * groups, end * groups), seen, numbers


class _Tokens:
    """Where the tokens of rows of different lengths stand, and back."""

    def __init__(self, is_token: Any) -> None:
        self.shape = tuple(is_token.shape)
        flat = is_token.reshape(-1)
        self.places = flat.nonzero().squeeze(1)
        """Of each token, in rows one after another, shape [tokens]."""
        self.of_places = (flat.cumsum(0) - 1).clamp_(min=0)
        """The token at each place, shape [rows x width]; at padding some other token, which no token sees."""


def _attended(queries: Any, keys: Any, values: Any, mask: _Mask | None, scaling: float) -> Any:
    """Scaled dot-product attention: queries [rows, width, heads, channels], keys and values [rows, fewer heads,
    length, channels]; gives the queries' shape.

    Heads that share keys and values stand one after another as queries of one head, where the mask then fits.
    """
    import torch

    attend = partial(torch.nn.functional.scaled_dot_product_attention, scale=scaling)
    rows, width, heads, channels = queries.shape
    groups = heads // keys.shape[1]
    if mask is None or not mask.folds(groups):
        keys, values = (part.repeat_interleave(groups, dim=1) if groups > 1 else part for part in (keys, values))
        groups = 1
    queries = (
        queries.view(rows, width, -1, groups, channels).transpose(1, 2).reshape(rows, -1, width * groups, channels)
    )
    if mask is None:
        seen = attend(queries, keys, values, is_causal=width > 1)
    else:
        parts = [
            attend(queries[:, :, asked], keys[:, :, known], values[:, :, known], attn_mask=numbers)
            for asked, known, numbers in mask.parts(groups)
        ]
        seen = parts[0] if len(parts) == 1 else torch.cat(parts, dim=2)
    return seen.view(rows, -1, width, groups, channels).transpose(1, 2).reshape(rows, width, heads, channels)


def _activated(gate: Any, activation: Any) -> Any:
    import torch

    is_silu = type(activation).__name__ in ("SiLU", "SiLUActivation")
    return torch.nn.functional.silu(gate, inplace=True) if is_silu else activation(gate)


def _normed(hidden: Any, norm: Any) -> Any:
    """hidden / rms(hidden) * weight; the first in float32, as the models have it."""
    import torch

    wide = hidden.float()
    squares = torch.linalg.vector_norm(wide, dim=-1, keepdim=True).square_()
    scale = squares.div_(hidden.shape[-1]).add_(_epsilon(norm)).rsqrt_()
    normed = wide * scale if wide is hidden else wide.mul_(scale)
    if type(norm).__name__.startswith("Gemma"):  # keeps the difference to one, and multiplies in float32
        return normed.mul_(norm.weight.float() + 1.0).to(hidden.dtype)
    return normed.to(hidden.dtype).mul_(norm.weight)


def _epsilon(norm: Any) -> float:
    return float(norm.variance_epsilon if hasattr(norm, "variance_epsilon") else norm.eps)


def _rotate(heads: Any, cos: Any, sin: Any) -> None:
    """Rotate the two halves of the channels by the angle of their position, in place."""
    half = cos.shape[-1]
    first, second = heads[..., :half], heads[..., half:]
    rotated = (first * cos).addcmul_(second, sin, value=-1)
    second.mul_(cos).addcmul_(first, sin)
    first.copy_(rotated)


def _weight_of(layer: Any) -> Any:
    return layer.self_attn.q_proj.weight
