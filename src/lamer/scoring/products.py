"""The matrix products of linear layers on a CPU, in float32 by the faster of two libraries.

torch gives them to the BLAS it was built with. On processors which that BLAS was not made for, it reaches half of
what oneDNN does, which torch has on board too (measured on a Zen 5 core: 110 and 245 GFLOP/s). Both compute in
float32; they differ by rounding only. Which one is faster is measured on the model's largest layer.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Literal

Library = Literal["default", "oneDNN"]
MIN_PARAMETERS = 20_000_000
"""Smaller models spend their time elsewhere."""
MIN_GAIN = 1.15
"""Times faster that oneDNN must be to be taken: it comes by a detour that costs microseconds a call."""
MAX_PACKED_BYTES = 2 << 30
"""Weights up to this size together are also kept in oneDNN's own order, which saves ordering them at every call
(some 5 %), at the price of a second copy."""
_TOKENS = 256
_REPEATS = 3


class Products:
    """How a model's linear layers are computed; `with products.active(): ...` around its forward passes."""

    def __init__(self, model: Any) -> None:
        self.gain = gain(model)
        """Times faster that oneDNN is than torch's default; None where the two were not compared."""
        is_faster = self.gain is not None and self.gain >= MIN_GAIN
        self.library: Library = "oneDNN" if is_faster or _is_bfloat16(model) else "default"
        """In bfloat16 torch itself takes oneDNN where the processor has instructions for it."""
        self._packed: dict[int, tuple[Any, int, Any]] | None = (
            {} if _linear_bytes(model) <= MAX_PACKED_BYTES else None
        )

    def active(self) -> AbstractContextManager[Any]:
        """A context in which linear layers are computed by the library chosen; inference only.

        In bfloat16 there is nothing to change.
        """
        is_changed = self.library == "oneDNN" and self.gain is not None
        return _onednn_mode(self.ordered) if is_changed else nullcontext()

    def product(self, inputs: Any, linear: Any, added: Any = None) -> Any:
        """inputs W^T + bias + added of a linear layer, by oneDNN; shapes [rows, in] and [rows, out]."""
        return _onednn(inputs, self.ordered(linear.weight), linear.bias, added)

    def ordered(self, weight: Any) -> Any:
        """The weight in the order that oneDNN reads fastest, where there is room for a second copy."""
        return weight if self._packed is None else _pack(weight, self._packed)


def gain(model: Any) -> float | None:
    """Seconds of torch's product over seconds of oneDNN's, on the model's largest linear layer.

    None for small models, other devices and types, builds of torch without oneDNN, and where the two disagree.
    """
    import torch

    layers = [layer.weight for layer in model.modules() if isinstance(layer, torch.nn.Linear)]
    if not layers or sum(parameter.numel() for parameter in model.parameters()) < MIN_PARAMETERS:
        return None
    weight = max(layers, key=torch.Tensor.numel)
    if weight.device.type != "cpu" or weight.dtype != torch.float32 or not torch.backends.mkldnn.is_available():
        return None
    inputs = torch.randn(_TOKENS, weight.shape[1], generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        try:
            seconds, expected = _fastest(lambda: torch.nn.functional.linear(inputs, weight))
            faster, found = _fastest(lambda: _onednn(inputs, weight, None))
        except (RuntimeError, AttributeError, NotImplementedError):
            return None
        # Sums of products in float32 in another order: a difference of rounding, relative to the terms' size.
        largest = float((inputs.abs() @ weight.abs().T).max())
    agree = float((expected - found).abs().max()) <= 1e-5 * largest
    return seconds / faster if agree else None


def _is_bfloat16(model: Any) -> bool:
    """Whether the model's layers are in bfloat16 on a processor that has instructions for it."""
    import torch

    weights = [layer.weight for layer in model.modules() if isinstance(layer, torch.nn.Linear)]
    return (
        sum(parameter.numel() for parameter in model.parameters()) >= MIN_PARAMETERS
        and bool(weights)
        and all(weight.dtype == torch.bfloat16 and weight.device.type == "cpu" for weight in weights)
        and torch.backends.mkldnn.is_available()
        and bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
    )


def _linear_bytes(model: Any) -> int:
    import torch

    layers = (layer.weight for layer in model.modules() if isinstance(layer, torch.nn.Linear))
    return sum(weight.numel() * weight.element_size() for weight in layers)


def _fastest(work: Any) -> tuple[float, Any]:
    best, found = float("inf"), work()
    for _ in range(_REPEATS):
        start = time.perf_counter()
        found = work()
        best = min(best, time.perf_counter() - start)
    return best, found


def _onednn(inputs: Any, weight: Any, bias: Any, added: Any = None) -> Any:
    import torch

    if added is not None:
        return torch.ops.mkldnn._linear_pointwise.binary(inputs, added, weight, bias, "add")
    return torch.ops.mkldnn._linear_pointwise(inputs, weight, bias, "none", [], "")


def _pack(weight: Any, packed: dict[int, tuple[Any, int, Any]]) -> Any:
    """The weight in oneDNN's order, made once, and again when the weight was written to meanwhile.

    The weight is kept beside it, so that its id stays its own.
    """
    import torch

    version = 0 if weight.is_inference() else weight._version
    known = packed.get(id(weight))
    if known is None or known[1] != version:
        known = weight, version, torch.ops.mkldnn._reorder_linear_weight(weight.detach(), _TOKENS)
        packed[id(weight)] = known
    return known[2]


def _onednn_mode(ordered: Callable[[Any], Any]) -> AbstractContextManager[Any]:
    import torch
    from torch.overrides import TorchFunctionMode

    linear = torch.nn.functional.linear

    class OneDnnLinear(TorchFunctionMode):  # type: ignore[misc]
        """Gives linear layers in float32 to oneDNN, all else to torch."""

        def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            if function is linear and not kwargs and _takes(*args):
                return _onednn(args[0], ordered(args[1]), args[2] if len(args) > 2 else None)
            return function(*args, **(kwargs or {}))

    def _takes(inputs: Any, weight: Any, bias: Any = None) -> bool:
        on_cpu = inputs.device.type == weight.device.type == "cpu"
        return bool(on_cpu and inputs.dtype == weight.dtype == torch.float32 and weight.is_contiguous())

    return OneDnnLinear()
