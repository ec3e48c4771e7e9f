"""An estimate as lines of text."""

from __future__ import annotations

from collections.abc import Iterator

from lamer.estimate.calls import Line
from lamer.estimate.compute import Compute
from lamer.estimate.estimate import Estimate


def show(found: Estimate) -> Iterator[str]:
    """The estimate as lines of text."""
    if found.experiment is not None:
        yield f"experiment: {found.experiment}"
    state = "what is left to pay" if found.is_diagnosed else "at most, before the diagnosis"
    yield f"teacher ({state})"
    header = ("purpose", "tier", "calls", "prompt tokens", "reply tokens", "money", "at most", "in ledger")
    rows = [header, *(_cells(line, found.currency) for line in found.lines), _total(found)]
    widths = [max(len(row[i]) for row in rows) for i in range(len(header))]
    for row in rows:
        cells = [
            cell.ljust(width) if i < 2 else cell.rjust(width) for i, (cell, width) in enumerate(zip(row, widths))
        ]
        yield "  " + "  ".join(cells).rstrip()
    for model, price in found.prices.items():
        yield f"price of {model}: {price or 'not known'}"
    yield f"tokens counted by: {found.counted_by}"
    if (work := found.diagnosis) is not None:
        tokens = f"{work.tokens:,} tokens" if work.tokens is not None else "tokens not known"
        weights = f"; weights {work.weights_gib:g} GiB on disk" if work.weights_gib is not None else ""
        yield (
            f"diagnosis: {work.queries:,} queries, {work.pairs:,} pairs with placebos, {work.prompts:,} prompts, "
            f"{work.scores:,} candidate scores, {tokens}{weights} ({work.basis})"
        )
    if found.compute is not None:
        yield from _machine_lines(found.compute)
    yield from (f"basis: {text}" for text in found.basis)
    yield from (f"note: {text}" for text in found.notes)


def _machine_lines(needed: Compute) -> Iterator[str]:
    most = f", at most {needed.max_hours:,.1f}" if needed.max_hours - needed.hours >= 0.05 else ""
    money = f"; {needed.cost:,.2f} at the price given" if needed.cost is not None else "; price: --gpu-price"
    yield f"GPU ({needed.gpu}): {needed.hours:,.1f} hours{most}{money}"
    rows = [("purpose", "tokens", "PFLOP", "hours", "at most")]
    rows += [
        (item.purpose, f"{item.tokens:,}", f"{item.flops / 1e15:,.0f}", f"{item.seconds / 3600:,.2f}",
         f"{item.max_seconds / 3600:,.2f}")
        for item in needed.work
    ]  # fmt: skip
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    for name, *cells in rows:
        yield "  " + "  ".join([name.ljust(widths[0]), *(c.rjust(w) for c, w in zip(cells, widths[1:]))])
    parts = ", ".join(f"{name} {gib:,.1f}" for name, gib in needed.disk_gib.items() if gib)
    yield f"disk: {sum(needed.disk_gib.values()):,.1f} GiB ({parts})"
    yield f"GPU memory of training: {needed.memory_gib:g} GiB and the activations"
    yield from (f"basis: {text}" for text in needed.basis)


def _cells(line: Line, currency: str | None) -> tuple[str, ...]:
    return (
        line.purpose, line.tier or "", f"{line.calls:,.0f}", f"{line.prompt_tokens:,.0f}",
        f"{line.completion_tokens:,.0f}", _money(line.cost, currency), _money(line.max_cost, currency),
        f"{line.from_ledger:,}",
    )  # fmt: skip


def _total(found: Estimate) -> tuple[str, ...]:
    numbers = (f"{found.total(name) or 0:,.0f}" for name in ("calls", "prompt_tokens", "completion_tokens"))
    money = (_money(found.total(name), found.currency) for name in ("cost", "max_cost"))
    return ("total", "", *numbers, *money, f"{found.total('from_ledger') or 0:,.0f}")


def _money(amount: float | None, currency: str | None) -> str:
    return "not known" if amount is None else f"{amount:,.4f} {currency or ''}".rstrip()
