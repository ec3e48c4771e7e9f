"""Going on after memory ran out: the same work in halves."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

from lamer.errors import ModelError

Item = TypeVar("Item")
Result = TypeVar("Result")

_SIGNS = ("out of memory", "not enough memory", "can't allocate memory", "cannot allocate memory")


def is_out_of_memory(error: BaseException) -> bool:
    """Whether a device (CUDA's error is a RuntimeError too) or the machine ran out of memory."""
    if isinstance(error, MemoryError):
        return True
    return isinstance(error, RuntimeError) and any(sign in str(error).lower() for sign in _SIGNS)


def in_halves(
    items: Sequence[Item],
    work: Callable[[Sequence[Item]], list[Result]],
    on_shortage: Callable[[], None] = lambda: None,
) -> list[Result]:
    """`work(items)`; when memory runs out, the results of both halves instead, and so on, order kept.

    Args:
        items: At least one.
        work: Gives the results of some of the items.
        on_shortage: Called whenever memory ran out.

    Raises:
        ModelError: If memory does not suffice for a single item.
    """
    try:
        return work(items)
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        reason = str(error).split("\n")[0][:200] or type(error).__name__
    # Outside of the except block: there the traceback would keep the failed batch's tensors alive.
    _free_memory()
    on_shortage()
    if len(items) == 1:
        raise ModelError(f"not enough memory for a single text ({reason}); use a smaller model or another device")
    middle = len(items) // 2
    return in_halves(items[:middle], work, on_shortage) + in_halves(items[middle:], work, on_shortage)


def _free_memory() -> None:
    import gc

    import torch

    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
