"""What is shown while a teacher is asked: calls per second, tokens, money, rejected by reason, time left."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from types import TracebackType

from lamer.progress import ProgressBar
from lamer.teacher.requests import Reply

SHOW_EVERY_S = 0.25
"""Replies that come faster are shown together."""
MONEY_EVERY_S = 2.0
"""Money is summed up over the ledger, which takes a while when it is long."""
MAX_REASONS = 4
"""Reasons that are named; the rest is summed up."""


class CallProgress:
    """`with CallProgress("synthesize", len(requests)) as shown: teacher.ask(requests, shown.take)`.

    Args:
        title: What is being done.
        total: Requests.
        rejected: Examples rejected so far by reason; replies are read when all of a round are there.
        money: What was spent so far, to be shown as it is (`0.12 USD`); empty when it is not known.
    """

    def __init__(
        self,
        title: str,
        total: int,
        *,
        rejected: Mapping[str, int] | None = None,
        money: Callable[[], str] | None = None,
    ) -> None:
        self.tokens = 0
        """Of calls that were made now."""
        self.failed = 0
        """Requests that were given up."""
        self._bar = ProgressBar(title, total, "calls")
        self._rejected = reasons_text(rejected or {})
        self._money = money
        self._spent = ""
        self._unshown = 0
        self._shown_at = self._money_at = -float("inf")

    def take(self, reply: Reply) -> None:
        """Count a reply."""
        if reply.is_cached:
            self._bar.skip(1)
            return
        self.tokens += reply.prompt_tokens + reply.completion_tokens
        self.failed += reply.error is not None
        self._unshown += 1
        if time.monotonic() - self._shown_at >= SHOW_EVERY_S:
            self._show()

    def _show(self) -> None:
        now = time.monotonic()
        self._shown_at = now
        if self._money is not None and now - self._money_at >= MONEY_EVERY_S:
            self._money_at, self._spent = now, self._money()
        self._bar.advance(self._unshown, note=self.note)
        self._unshown = 0

    @property
    def note(self) -> str:
        """`45,120 tokens, 0.12 USD, 2 given up, rejected: duplicate 3, unparsed 1`; zeros are left out."""
        parts = [
            f"{self.tokens:,} tokens" if self.tokens else "",
            self._spent,
            f"{self.failed} given up" if self.failed else "",
            f"rejected: {self._rejected}" if self._rejected else "",
        ]
        return ", ".join(part for part in parts if part)

    def __enter__(self) -> CallProgress:
        self._bar.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if self._unshown:
                self._show()
        finally:
            self._bar.__exit__(kind, error, trace)


def reasons_text(rejected: Mapping[str, int]) -> str:
    """`duplicate 3, unparsed 1`, most frequent first; rare ones together as `others`."""
    ordered = sorted(((count, reason) for reason, count in rejected.items() if count), key=lambda x: (-x[0], x[1]))
    named = [f"{reason} {count}" for count, reason in ordered[:MAX_REASONS]]
    others = sum(count for count, _ in ordered[MAX_REASONS:])
    return ", ".join([*named, f"others {others}"] if others else named)


def money_text(costs: Mapping[str, float]) -> str:
    """`0.1234 USD`: sums of money by currency; four places below 1, two from there on."""
    return ", ".join(f"{amount:,.{2 if amount >= 1 else 4}f} {currency}" for currency, amount in costs.items())
