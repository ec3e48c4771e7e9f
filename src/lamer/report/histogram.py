"""Histogram of relative entropies as an SVG text."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import log10

EDGES_LOG10 = (-4.0, 1.25)
"""The axis runs from 1e-4 to about 18 nats; values outside are counted in the outermost bars."""
NUM_BINS = 42


@dataclass(frozen=True, slots=True)
class Bar:
    """One bar: a half-open interval of relative entropy, in nats, and how many pairs fall into it."""

    low: float
    high: float
    count: int


def bars(values: Sequence[float]) -> list[Bar]:
    """Counts of `values` (nats, >= 0) in bins of equal width on a logarithmic axis; every value is counted."""
    low, high = EDGES_LOG10
    width = (high - low) / NUM_BINS
    counts = [0] * NUM_BINS
    for value in values:
        place = int((log10(value) - low) / width) if value > 0 else 0
        counts[min(max(place, 0), NUM_BINS - 1)] += 1
    return [Bar(10 ** (low + i * width), 10 ** (low + (i + 1) * width), n) for i, n in enumerate(counts)]


def tier_edges(tau: float) -> dict[str, float]:
    """Lower edge of each tier in nats."""
    return {"easy": tau, "normal": 0.4, "hard": 0.7, "unfair": 1.0}


def svg(values: Sequence[float], tau: float = 0.1) -> str:
    """The histogram; bars are coloured by the tier of their middle, edges of the tiers are marked."""
    width, height, bottom, left = 720, 220, 34, 24
    low, high = EDGES_LOG10
    scale = (width - 2 * left) / (high - low)
    heights = bars(values)
    top = max((bar.count for bar in heights), default=0) or 1
    parts = [
        f'<svg viewBox="0 0 {width} {height + bottom}" role="img" '
        f'aria-label="Histogram of relative entropy over {len(values)} pairs" class="histogram">'
    ]
    for bar in heights:
        x, w = left + (log10(bar.low) - low) * scale, (log10(bar.high) - log10(bar.low)) * scale
        h = bar.count / top * (height - 18)
        parts.append(
            f'<rect class="{_tier((bar.low * bar.high) ** 0.5, tau)}" x="{x:.1f}" y="{height - h:.1f}" '
            f'width="{max(w - 1, 1):.1f}" height="{h:.1f}"><title>{bar.low:.2g} to {bar.high:.2g} nats: '
            f"{bar.count} pairs</title></rect>"
        )
    for name, edge in tier_edges(tau).items():
        x = left + (log10(edge) - low) * scale
        parts.append(
            f'<line x1="{x:.1f}" x2="{x:.1f}" y1="0" y2="{height}" class="edge"><title>{name}</title></line>'
        )
    for power in range(-4, 2):
        x = left + (power - low) * scale
        label = f"{10**power:g}"
        parts.append(f'<text x="{x:.1f}" y="{height + 15}" class="tick">{label}</text>')
    parts.append(f'<text x="{width - left}" y="{height + 30}" class="axis">relative entropy, nats</text></svg>')
    return "".join(parts)


def _tier(value: float, tau: float) -> str:
    return next((name for name, edge in reversed(tier_edges(tau).items()) if value >= edge), "below")
