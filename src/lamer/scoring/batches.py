"""Which rows are computed together: little padding, few forward passes. Pure."""

from __future__ import annotations

from collections.abc import Sequence

BATCH_OVERHEAD = 64
"""Tokens that cost about as much as starting one more forward pass (reading the weights once)."""
PACKED_OVERHEAD = 96
"""The same where padding reaches attention only: it costs less there, but should stay small for memory's sake."""


def cut(
    lengths: Sequence[int], kept: Sequence[int], max_tokens: int, max_kept: int, overhead: int = BATCH_OVERHEAD
) -> list[int]:
    """Ends of the batches into which rows, longest first, are cut at the least cost.

    A batch of rows j..i-1 costs (i - j) * lengths[j] + overhead, in tokens, padding included; it has at most
    `max_tokens` of them and keeps at most `max_kept` positions, unless it is a single row. Exact, by dynamic
    programming over the ends.

    Args:
        lengths: Tokens of each row, descending.
        kept: Positions of each row that reach the vocabulary projection.
        max_tokens: Of a batch, padding included.
        max_kept: Of a batch.
        overhead: Of a batch, in tokens.

    Raises:
        ValueError: If the lengths are not descending.
    """
    import numpy as np

    count = len(lengths)
    width = np.asarray(lengths, dtype=np.int64)
    if count and (np.diff(width) > 0).any():
        raise ValueError("rows must come longest first")
    total_kept = np.concatenate(([0], np.cumsum(np.asarray(kept, dtype=np.int64))))
    cost = np.zeros(count + 1, dtype=np.int64)
    start = np.zeros(count + 1, dtype=np.int64)
    for end in range(1, count + 1):
        # No row is longer than those before it, so a batch that ends here has at most this many.
        first = max(end - max(max_tokens // max(int(width[end - 1]), 1), 1), 0)
        begins = np.arange(first, end)
        tokens = (end - begins) * width[begins]
        allowed = (tokens <= max_tokens) & (total_kept[end] - total_kept[begins] <= max_kept)
        allowed[-1] = True
        totals = np.where(allowed, cost[begins] + tokens + overhead, np.iinfo(np.int64).max)
        best = int(totals.argmin())
        cost[end], start[end] = totals[best], begins[best]
    ends: list[int] = []
    end = count
    while end > 0:
        ends.append(end)
        end = int(start[end])
    return ends[::-1]
