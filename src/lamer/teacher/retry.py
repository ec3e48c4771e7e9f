"""When to ask again, and how long to wait before (pure).

Transient: 408, 409, 429, every 5xx, a lost connection, a time-out, a reply that is no chat completion.
Fatal, for this and every other request: 401, 403, 404, and an account without money. Anything else (400, 413,
422, ...) is the fault of this one request.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Literal

Fault = Literal["transient", "fatal", "request"]

BACKOFF_S = 0.5
"""First wait without a Retry-After, doubled for each try."""
MAX_BACKOFF_S = 60.0

NO_MONEY_CODES = frozenset({"insufficient_quota", "billing_hard_limit_reached", "billing_not_active"})


def fault_of(status: int, code: str | None = None) -> Fault:
    """What an HTTP error status (and the server's error code) says about the next try."""
    if status in (401, 403, 404) or code in NO_MONEY_CODES:
        return "fatal"
    return "transient" if status in (408, 409, 429) or status >= 500 else "request"


def is_overload(status: int) -> bool:
    """Whether an HTTP error status asks for fewer requests: 429, 503, and 529, which some services use for it."""
    return status in (429, 503, 529)


def wait_asked_s(headers: Mapping[str, str], now: datetime | None = None) -> float | None:
    """Seconds that the headers of an error ask to wait; None if they say nothing.

    `retry-after-ms` goes before `retry-after`; without them, the latest `x-ratelimit-reset-*` among the limits
    that have nothing remaining.
    """
    milliseconds = retry_after_s(headers.get("retry-after-ms"))
    if milliseconds is not None:
        return milliseconds / 1000.0
    seconds = retry_after_s(headers.get("retry-after"), now)
    if seconds is not None:
        return seconds
    resets = [
        duration_s(headers.get(f"x-ratelimit-reset-{limit}", ""))
        for limit in ("requests", "tokens")
        if headers.get(f"x-ratelimit-remaining-{limit}") == "0"
    ]
    return max((reset for reset in resets if reset is not None), default=None)


_DURATION = re.compile(r"(?:(\d+)h)?(?:(\d+)m(?!s))?(?:([\d.]+)s)?(?:(\d+)ms)?")


def duration_s(text: str) -> float | None:
    """Seconds of a duration as in `6m0s`, `1.5s`, `120ms`; None for anything else."""
    match = _DURATION.fullmatch(text)
    if not text or match is None:
        return None
    try:
        parts = [float(part or 0) for part in match.groups()]
    except ValueError:
        return None
    return sum(part * unit for part, unit in zip(parts, (3600.0, 60.0, 1.0, 0.001), strict=True))


def refuses_format(message: str) -> bool:
    """Whether an error is about the JSON schema of a request. Some servers say so with status 500."""
    return re.search(r"response_format|json_schema", message) is not None


def retry_after_s(header: str | None, now: datetime | None = None) -> float | None:
    """Seconds that a `Retry-After` header asks for (a number or an HTTP date); None if it says nothing."""
    if header is None:
        return None
    try:
        seconds = float(header)
    except ValueError:
        try:
            date = parsedate_to_datetime(header)
        except ValueError:
            return None
        if date.tzinfo is None:
            date = date.replace(tzinfo=UTC)
        seconds = (date - (now or datetime.now(UTC))).total_seconds()
    if seconds != seconds:
        return None
    return max(seconds, 0.0)


def backoff_s(num_tries: int, jitter: float, base_s: float = BACKOFF_S) -> float:
    """Wait after `num_tries` failed tries: `base * 2^(num_tries - 1)`, capped, times 0.75 to 1.25.

    Args:
        num_tries: From 1.
        jitter: A random number in [0, 1).
        base_s: The first wait, in seconds.
    """
    return min(base_s * 2.0 ** min(num_tries - 1, 30), MAX_BACKOFF_S) * (0.75 + 0.5 * jitter)
